// SPDX-License-Identifier: Apache-2.0
//! Mixed meshes whose programs die and come back, and whose identities are renewed.

use libtest_mimic::Trial;

use crate::Bench;

pub(crate) fn tests(_bench: &Bench) -> Vec<Trial> {
    Vec::new()
}
