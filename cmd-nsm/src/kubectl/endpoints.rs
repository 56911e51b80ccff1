// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm endpoints`: who is registered in the cluster.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use nsm_sdk::core::Component;

use super::cluster::Cluster;
use crate::commands::endpoints::{Registered, Table};
use crate::commands::output;
use crate::offline::Known;

/// Show who is registered: services, labels, URL, expiry and node of each endpoint and forwarder
#[derive(Args)]
pub(crate) struct Endpoints {
    /// Only those that offer this network service; may be repeated
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
}

impl Endpoints {
    /// Shows.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        let mut known = Known::default();
        known.add(&cluster.registered()?)?;
        let now = Component::new("nsm").now();
        let offers = |name: &String| self.service.contains(name);
        let wanted = known
            .endpoints
            .into_iter()
            .filter(|endpoint| self.service.is_empty() || endpoint.network_service_names.iter().any(offers));
        let registered = wanted.map(|endpoint| Registered::of(endpoint, now));
        output::print(json, &Table::sorted(registered.collect()))?;
        Ok(ExitCode::SUCCESS)
    }
}
