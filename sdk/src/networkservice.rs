// SPDX-License-Identifier: Apache-2.0
//! Elements of connections only.

mod files;
pub mod recvfd;
pub mod sendfd;
