// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm doctor`: what the cluster lacks.

use std::process::ExitCode;

use anyhow::Result;

use super::cluster::Cluster;
use crate::commands::doctor::Findings;
use crate::commands::output;
use crate::doctor::cluster as look;

/// Looks.
pub(super) fn run(cluster: &Cluster, json: bool) -> Result<ExitCode> {
    let (program, flags) = cluster.program();
    let findings = Findings(look(program, flags));
    output::print(json, &findings)?;
    Ok(findings.code())
}
