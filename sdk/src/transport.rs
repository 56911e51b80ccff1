// SPDX-License-Identifier: Apache-2.0
//! Listening, dialling, TLS and file descriptors: the wire below the chains.
