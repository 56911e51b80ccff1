// SPDX-License-Identifier: Apache-2.0
//! Lists of elements, one function a program.

pub mod registry_k8s;
