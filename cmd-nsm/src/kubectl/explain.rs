// SPDX-License-Identifier: Apache-2.0
//! `kubectl nsm explain`: why a pod, or whoever asks for a service, is served or refused.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use nsm_api::matching::Labels;
use nsm_sdk::core::Component;
use serde::Serialize;

use super::cluster::Cluster;
use super::events::{self, Told};
use super::pod::Pod;
use crate::commands::explain::{pair, url};
use crate::commands::output;
use crate::explain::{Asked, Explanation, Verdict, explain};
use crate::offline::Known;
use crate::reasons;

/// Tell why a pod gets the wires that it gets, or none; or what becomes of whoever asks for a service
///
/// WHAT is one of
///   a pod: what it asks for, whether that is served, and what the mesh has told of it
///   a network service as a client asks for it, labels included: kernel://vpn/nsm-1?nodeName=node1
///   a reason code of an error or an Event, such as no-endpoint: what it means and what to do
///
/// The exit code is 0 when all is served, 1 when not. With --file nobody is asked.
#[derive(Args)]
pub(crate) struct Explain {
    /// A pod, a network service URL, or a reason code
    what: String,
    /// Read services and endpoints from this file instead (YAML or JSON, as kubectl prints or takes them); may be
    /// repeated
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// A label of the client besides those of the URL; may be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,
    /// The service that forwarders offer
    #[arg(long, default_value = "forwarder")]
    forwarder_service: String,
}

/// What is said of a pod.
#[derive(Serialize)]
struct OfPod {
    pod: String,
    node: String,
    /// What is wrong with the pod itself, whatever it asks for.
    obstacle: Option<Verdict>,
    services: Vec<Explanation>,
    told: Vec<Told>,
}

impl Explain {
    /// Explains.
    pub(crate) fn run(self, cluster: &Cluster, json: bool) -> Result<ExitCode> {
        if let Some(entry) = reasons::entry(&self.what) {
            output::print(json, &entry)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !self.file.is_empty() {
            let known = Known::read(&self.file)?;
            let url = url(&self.what)?;
            return self.service(&known, &url.network_service, url.labels, json);
        }
        let mut known = Known::default();
        known.add(&cluster.registered()?)?;
        let names_service = |name: &str| known.services.iter().any(|service| service.name == name);
        let may_be_pod = !self.what.contains("://") && !self.what.contains('?') && !names_service(&self.what);
        let pod = match may_be_pod {
            true => Pod::find(cluster, &self.what)?,
            false => None,
        };
        match pod {
            Some(pod) => self.pod(cluster, &known, &pod, json),
            None => {
                let url = url(&self.what)?;
                self.service(&known, &url.network_service, url.labels, json)
            }
        }
    }

    fn service(&self, known: &Known, service: &str, labels: Labels, json: bool) -> Result<ExitCode> {
        let explanation = self.explain(known, service, labels);
        output::print(json, &explanation)?;
        Ok(code(explanation.verdict.is_served))
    }

    fn pod(&self, cluster: &Cluster, known: &Known, pod: &Pod, json: bool) -> Result<ExitCode> {
        let mut services = Vec::new();
        for url in &pod.asks {
            let (service, labels) = pod.request(url)?;
            services.push(self.explain(known, &service, labels));
        }
        let agents = cluster.agents(Some(&pod.node));
        let connections = agents
            .as_ref()
            .ok()
            .and_then(|agents| cluster.connections(agents).ok());
        for (_, seen) in connections.iter().flatten().filter(|(_, seen)| pod.owns(seen)) {
            let mut of_service = services.iter_mut();
            if let Some(service) = of_service.find(|one| one.network_service == seen.network_service) {
                service.is_at = Some(seen.endpoint.clone());
            }
        }
        let explained = OfPod {
            pod: format!("{}/{}", pod.namespace, pod.name),
            node: pod.node.clone(),
            obstacle: obstacle(cluster, pod)?,
            services,
            told: events::of(cluster, pod)?,
        };
        output::print(json, &explained)?;
        Ok(code(explained.is_served()))
    }

    fn explain(&self, known: &Known, service: &str, mut labels: Labels) -> Explanation {
        labels.extend(self.label.iter().cloned());
        let asked = Asked {
            network_service: service,
            labels: &labels,
            forwarder_service: &self.forwarder_service,
            is_whole: self.file.is_empty(),
            now: Component::new("nsm").now(),
        };
        explain(known, &asked)
    }
}

fn code(is_served: bool) -> ExitCode {
    match is_served {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What keeps a pod from asking at all.
fn obstacle(cluster: &Cluster, pod: &Pod) -> Result<Option<Verdict>> {
    let refused = |reason, cause: String, remedy: String| {
        let is_served = false;
        Ok(Some(Verdict {
            is_served,
            reason,
            cause,
            remedy,
        }))
    };
    if pod.asks.is_empty() {
        let cause = "the pod asks for no network service".to_string();
        let remedy = "annotate its workload with networkservicemesh.io: kernel://SERVICE/nsm-1".to_string();
        return refused("no-request", cause, remedy);
    }
    if pod.client.is_none() {
        let cause =
            "the pod has the annotation and no client: it was made while no webhook was there to add one";
        let remedy = "see that admission-webhook-k8s runs (kubectl nsm doctor), and make the pod anew";
        return refused("no-client", cause.into(), remedy.into());
    }
    if pod.node.is_empty() {
        let cause = "the pod runs on no node yet".to_string();
        let remedy = "kubectl describe pod tells what it waits for".to_string();
        return refused("not-scheduled", cause, remedy);
    }
    let space = format!("--namespace={}", cluster.mesh());
    let on_node = format!("--field-selector=spec.nodeName={}", pod.node);
    for (label, what) in [("app=nsmgr", "manager"), ("app=forwarder", "forwarder")] {
        let running = cluster.get(&["pods", &space, "--selector", label, &on_node])?;
        let is_there = running["items"]
            .as_array()
            .is_some_and(|pods| pods.iter().any(is_ready));
        if !is_there {
            let cause = format!(
                "no {what} is ready on node {}, in the namespace {}",
                pod.node,
                cluster.mesh()
            );
            let remedy = format!(
                "kubectl -n {} get pods -l {label} -o wide, and kubectl logs of it",
                cluster.mesh()
            );
            let reason = if what == "manager" {
                "peer-unreachable"
            } else {
                "no-forwarder"
            };
            return refused(reason, cause, remedy);
        }
    }
    Ok(None)
}

fn is_ready(pod: &serde_json::Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

impl OfPod {
    fn is_served(&self) -> bool {
        let last = self.told.last();
        let is_refused = last.is_some_and(|told| told.r#type == "Warning");
        let has_all = self.services.iter().all(|service| service.is_at.is_some());
        let would = self.services.iter().all(|service| service.verdict.is_served);
        self.obstacle.is_none() && would && (has_all || !is_refused)
    }
}

impl fmt::Display for OfPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "pod {} on node {}", self.pod, self.node)?;
        if let Some(obstacle) = &self.obstacle {
            writeln!(
                f,
                "\nrefused ({}): {}\nremedy: {}",
                obstacle.reason, obstacle.cause, obstacle.remedy
            )?;
        }
        for service in &self.services {
            write!(f, "\n{service}")?;
        }
        if !self.told.is_empty() {
            writeln!(
                f,
                "\nwhat the mesh has told of it (kubectl describe pod), the last one last"
            )?;
        }
        for told in &self.told {
            let Told {
                at,
                r#type,
                reason,
                count,
                message,
                ..
            } = told;
            writeln!(f, "  {at}  {}  {reason}  {message}", r#type.to_lowercase())?;
            if *count > 1 {
                writeln!(f, "    {count} times")?;
            }
            if let Some(remedy) = told.remedy.filter(|remedy| !message.contains(*remedy)) {
                writeln!(f, "    remedy: {remedy}")?;
            }
        }
        Ok(())
    }
}
