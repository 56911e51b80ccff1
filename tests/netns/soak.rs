// SPDX-License-Identifier: Apache-2.0
//! Nothing yet.

use libtest_mimic::Trial;

use crate::Bench;

pub fn tests(_bench: &Bench) -> Vec<Trial> {
    vec![]
}
