// SPDX-License-Identifier: Apache-2.0
//! `nsm explain`: why a client gets the endpoint that it gets, or none.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::ask::{AskSettings, Asking};
use crate::explain::{Asked, Explanation, explain};
use crate::offline::Known;
use crate::reasons;
use anyhow::{Context, Result};
use clap::Args;
use nsm_api::connection::Connection;
use nsm_api::matching::Labels;
use nsm_api::service_url::ServiceUrl;
use nsm_sdk::core::Component;

use super::output;

/// Tell why a client gets the endpoint that it gets, or none: which match applies, and why each endpoint is taken or
/// refused
///
/// WHAT is one of
///   a network service as a client asks for it, labels included: kernel://vpn/nsm-1?app=client
///   the id of a connection that the manager has: it is explained with the labels that it has there
///   a reason code of an error, such as no-endpoint: what it means and what to do
///
/// The exit code is 0 when the client is served, 1 when not. With --file nothing is asked: the services and endpoints
/// are those of the files.
#[derive(Args)]
pub(crate) struct Explain {
    /// A network service URL, the id of a connection, or a reason code
    what: String,
    /// Read services and endpoints from this file instead (YAML or JSON, as kubectl prints or takes them); may be
    /// repeated
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// A label of the client besides those of the URL; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The service that forwarders offer
    #[arg(long, env = "NSM_FORWARDER_NETWORK_SERVICE_NAME", default_value = "forwarder")]
    forwarder_service: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    ask: AskSettings,
}

pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, value) = pair.ok_or("write name=value")?;
    Ok((name.trim().to_string(), value.trim().to_string()))
}

/// What a client would ask for by this text.
pub(crate) fn url(what: &str) -> Result<ServiceUrl> {
    what.parse()
        .with_context(|| format!("{what:?} is no network service URL, and no reason code"))
}

impl Explain {
    /// Explains.
    pub(crate) fn run(self) -> Result<ExitCode> {
        if let Some(entry) = reasons::entry(&self.what) {
            output::print(self.json, &entry)?;
            return Ok(ExitCode::SUCCESS);
        }
        let explanation = match self.file.is_empty() {
            true => output::block_on(self.ask_and_explain())?,
            false => {
                let (known, url) = (Known::read(&self.file)?, url(&self.what)?);
                self.explain(&known, &url.network_service, url.labels, false)
            }
        };
        output::print(self.json, &explanation)?;
        Ok(match explanation.verdict.is_served {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    async fn ask_and_explain(&self) -> Result<Explanation> {
        let asking = self.ask.start().await?;
        let services = asking.services().await?;
        let names_service = |name: &str| services.iter().any(|service| service.name == name);
        let is_url =
            self.what.contains("://") || url(&self.what).is_ok_and(|url| names_service(&url.network_service));
        let connection = match is_url {
            true => None,
            false => find(&asking, &self.what).await,
        };
        let (service, labels, is_at) = match connection {
            Some(connection) => (
                connection.network_service,
                connection.labels,
                Some(connection.network_service_endpoint_name),
            ),
            None => {
                let url = url(&self.what)?;
                (url.network_service, url.labels, None)
            }
        };
        let known = asking.known_of(services, &service, &self.forwarder_service);
        let explanation = self.explain(&known.await?, &service, labels, true);
        Ok(Explanation { is_at, ..explanation })
    }

    fn explain(&self, known: &Known, service: &str, mut labels: Labels, is_whole: bool) -> Explanation {
        labels.extend(self.label.iter().cloned());
        let asked = Asked {
            network_service: service,
            labels: &labels,
            forwarder_service: &self.forwarder_service,
            is_whole,
            now: Component::new("nsm").now(),
        };
        explain(known, &asked)
    }
}

/// The connection that a hop of its path knows by this id. Registries know of none.
async fn find(asking: &Asking, id: &str) -> Option<Connection> {
    let all = asking.connections(super::selecting(id)).await;
    all.ok()?.into_iter().next()
}
