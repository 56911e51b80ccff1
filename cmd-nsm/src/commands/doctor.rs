// SPDX-License-Identifier: Apache-2.0
//! `nsm doctor`: what this node or cluster lacks.

use std::fmt;
use std::process::ExitCode;

use crate::doctor::{Files, Finding, State, cluster, node};
use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::output;

/// Tell what this node lacks for the mesh, by name and with a remedy; with KUBECONFIG, what the cluster lacks as well
///
/// The exit code is 1 when something is missing.
#[derive(Args)]
pub(crate) struct Doctor {
    /// The manager of this node
    #[arg(
        long,
        env = "NSM_CONNECT_TO",
        default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock"
    )]
    connect_to: String,
    /// The SPIFFE Workload API of this node
    #[arg(
        long,
        env = "SPIFFE_ENDPOINT_SOCKET",
        default_value = "unix:///run/spire/sockets/agent.sock"
    )]
    workload_api: String,
    /// The program that asks the cluster
    #[arg(long, default_value = "kubectl")]
    kubectl: String,
    /// Ask the cluster also without KUBECONFIG
    #[arg(long)]
    cluster: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

impl Findings {
    /// 1 when something is missing.
    pub(crate) fn code(&self) -> ExitCode {
        match self.0.iter().all(|finding| finding.state != State::Missing) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding {
            name,
            state,
            found,
            needed_by,
            remedy,
        } in &self.0
        {
            let sign = match state {
                State::Good => "+",
                State::Poor => "!",
                State::Missing => "-",
                State::Unknown => "?",
            };
            writeln!(f, "{sign} {name}: {found}")?;
            if *state != State::Good {
                writeln!(f, "    needed by: {needed_by}\n    remedy:    {remedy}")?;
            }
        }
        Ok(())
    }
}

impl Doctor {
    /// Looks.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let sockets = [
            ("manager's socket", &self.connect_to),
            ("Workload API", &self.workload_api),
        ];
        let sockets = sockets.into_iter().filter_map(|(name, url)| {
            let path = url.strip_prefix("unix:")?;
            Some((name, path.strip_prefix("//").unwrap_or(path).to_string()))
        });
        let sockets: Vec<_> = sockets.collect();
        let mut findings = node(&Files::own(), &sockets);
        if self.cluster || std::env::var_os("KUBECONFIG").is_some() {
            findings.extend(cluster(&self.kubectl, &[]));
        }
        let findings = Findings(findings);
        output::print(self.json, &findings)?;
        Ok(findings.code())
    }
}
