// SPDX-License-Identifier: Apache-2.0
//! Elements of connections only.

pub mod hoptime;
