// SPDX-License-Identifier: Apache-2.0
//! Elements of registries only.

pub mod authorize;
pub mod checks;
pub mod expire;
pub mod heal;
pub mod localbypass;
pub mod memory;
pub mod queries;
pub mod querycache;
pub mod recvfd;
pub mod refresh;
pub mod sendfd;
pub mod setpayload;
pub mod setregistrationtime;
pub(crate) mod sockets;
#[cfg(test)]
pub(crate) mod testing;
pub mod updatepath;
