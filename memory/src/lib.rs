// SPDX-License-Identifier: Apache-2.0
//! How a program gets memory, copies and compares it.
//!
//! A program that names this crate allocates by `mimalloc`: that of glibc takes an eighth of the CPU time of a request
//! more, and that of musl many times as much. A static program (musl, x86-64) also copies and compares by what is here,
//! in the place of the C library's, which take a fifth of the CPU time of a request.
//!
//! ```
//! use nsm_memory as _;
//! ```
#![no_builtins]

#[cfg(target_arch = "x86_64")]
#[cfg_attr(not(target_env = "musl"), cfg(test))]
mod x86_64;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
