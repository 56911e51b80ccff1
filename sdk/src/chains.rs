// SPDX-License-Identifier: Apache-2.0
//! The chains of every component: lists to take in at a glance.
