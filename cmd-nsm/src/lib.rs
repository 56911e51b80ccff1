// SPDX-License-Identifier: Apache-2.0
//! A whole mesh on one machine, of the real programs, in namespaces of its own: what `nsm demo` shows, what the
//! system tests run on and what the benchmarks measure.
#![forbid(unsafe_code)]

pub mod mesh;
