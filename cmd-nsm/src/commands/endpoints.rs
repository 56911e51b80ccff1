// SPDX-License-Identifier: Apache-2.0
//! `nsm endpoints`: who is registered.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::time::SystemTime;

use crate::ask::AskSettings;
use anyhow::Result;
use clap::Args;
use nsm_api::matching::Labels;
use nsm_api::registry::NetworkServiceEndpoint;
use serde::Serialize;

use super::output;

/// Show who is registered: services, labels, URL, expiry and node of each endpoint and forwarder
#[derive(Args)]
pub(crate) struct Endpoints {
    /// Only those that offer this network service
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ask: AskSettings,
}

#[derive(Serialize)]
pub(crate) struct Registered {
    name: String,
    network_service_names: Vec<String>,
    labels: BTreeMap<String, Labels>,
    url: String,
    node: Option<String>,
    expires: Option<String>,
    expires_in_s: Option<i64>,
    owner: Option<String>,
}

#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Table(Vec<Registered>);

impl Table {
    /// By their names.
    pub(crate) fn sorted(mut registered: Vec<Registered>) -> Self {
        registered.sort_by(|one, other| one.name.cmp(&other.name));
        Self(registered)
    }
}

impl Registered {
    /// The endpoint as people read it, at the time `now`.
    pub(crate) fn of(endpoint: NetworkServiceEndpoint, now: SystemTime) -> Self {
        let labels = endpoint.network_service_labels.into_iter();
        let labels: BTreeMap<_, _> = labels
            .map(|(service, offered)| (service, offered.labels))
            .collect();
        let expires = endpoint
            .expiration_time
            .and_then(|at| SystemTime::try_from(at).ok());
        let left = expires.map(|at| match at.duration_since(now) {
            Ok(left) => i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            Err(past) => -i64::try_from(past.duration().as_secs()).unwrap_or(i64::MAX),
        });
        Self {
            node: labels.values().find_map(|labels| labels.get("nodeName").cloned()),
            name: endpoint.name,
            network_service_names: endpoint.network_service_names,
            labels,
            url: endpoint.url,
            expires: expires.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            expires_in_s: left,
            owner: endpoint.path_ids.into_iter().next(),
        }
    }

    fn row(&self) -> Vec<String> {
        let label = |(name, value): (&String, &String)| format!("{name}={value}");
        let labels: std::collections::BTreeSet<_> = self.labels.values().flatten().map(label).collect();
        vec![
            self.name.clone(),
            self.network_service_names.join(","),
            labels.into_iter().collect::<Vec<_>>().join(","),
            self.url.clone(),
            self.node.clone().unwrap_or_default(),
            self.expires_in_s
                .map_or(String::new(), |seconds| format!("{seconds} s")),
        ]
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["NAME", "SERVICES", "LABELS", "URL", "NODE", "EXPIRES"].map(str::to_string);
        let rows: Vec<_> = [heads.to_vec()]
            .into_iter()
            .chain(self.0.iter().map(Registered::row))
            .collect();
        f.write_str(&output::columns(&rows))
    }
}

impl Endpoints {
    /// Shows.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let example = NetworkServiceEndpoint {
            network_service_names: self.service,
            ..Default::default()
        };
        let registered: Vec<_> = output::block_on(async {
            let asking = self.ask.start().await?;
            let now = asking.component().now();
            let endpoints = asking.endpoints(example).await?;
            Ok(endpoints
                .into_iter()
                .map(|endpoint| Registered::of(endpoint, now))
                .collect())
        })?;
        output::print(self.json, &Table::sorted(registered))?;
        Ok(ExitCode::SUCCESS)
    }
}
