// SPDX-License-Identifier: Apache-2.0
//! Pods whose start is measured: by the clock of the kernel, from the command that makes them until their container runs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nsm_tests::kubectl::{Cluster, peer};
use serde_json::{Value, json};

use super::HOME;

/// What a pod has besides its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Nothing.
    Plain,
    /// A native sidecar that does nothing.
    Sidecar,
    /// An init container and a native sidecar that do nothing.
    Idle,
    /// A wire.
    Annotated,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Plain, Self::Sidecar, Self::Idle, Self::Annotated];

    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sidecar => "sidecar",
            Self::Idle => "idle",
            Self::Annotated => "annotated",
        }
    }
}

/// So many pods of a kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pods {
    pub(super) kind: Kind,
    pub(super) count: usize,
}

impl Pods {
    /// Starts them, and deletes them when all run, and all that have a wire have pinged the other end of it.
    ///
    /// Returns how long it took until the last one did.
    pub(super) fn start(self, cluster: &Cluster) -> Result<Duration> {
        let name = self.kind.name();
        let began = uptime(&std::fs::read_to_string("/proc/uptime")?)?;
        cluster.apply_object(&self.manifest())?;
        cluster.rolled_out(HOME, &format!("deployment/{name}"))?;
        let selector = format!("measured={name}");
        let logs = [
            "logs",
            "--namespace",
            HOME,
            "--selector",
            &selector,
            "--container",
            "app",
            "--tail=1",
        ];
        let most = format!("--max-log-requests={}", self.count);
        let told = cluster.kubectl(&[&logs[..], &[&most]].concat())?;
        let times = told.lines().map(uptime).collect::<Result<Vec<_>>>()?;
        ensure!(
            times.len() == self.count,
            "{} of {} have told: {told}",
            times.len(),
            self.count
        );
        let last = times.into_iter().max().context("there is one")?;
        cluster.kubectl(&["delete", "deployment", name, "--namespace", HOME, "--wait"])?;
        cluster.until("the pods are gone", || {
            let get = [
                "get",
                "pods",
                "--namespace",
                HOME,
                "--selector",
                &selector,
                "--output",
                "name",
            ];
            Ok(cluster.kubectl(&get)?.is_empty())
        })?;
        Ok(last.saturating_sub(began))
    }

    fn manifest(self) -> Value {
        let name = self.kind.name();
        let labels = json!({ "measured": name });
        let ping = match self.kind {
            Kind::Annotated => format!("until ping -c1 -W1 $({}) >/dev/null; do :; done;", peer("nsm-1")),
            Kind::Plain | Kind::Sidecar | Kind::Idle => String::new(),
        };
        let line =
            format!("{ping} read up idle </proc/uptime; echo $up; trap exit TERM; sleep 1000000 & wait");
        let mut pod = json!({ "containers": [container("app", &line)] });
        let mut sidecar = container("sidecar", "trap exit TERM; sleep 1000000 & wait");
        sidecar["restartPolicy"] = json!("Always");
        match self.kind {
            Kind::Sidecar => pod["initContainers"] = json!([sidecar]),
            Kind::Idle => pod["initContainers"] = json!([container("init", "exit 0"), sidecar]),
            Kind::Plain | Kind::Annotated => {}
        }
        let annotations = match self.kind {
            Kind::Annotated => json!({ "networkservicemesh.io": "kernel://annotation/nsm-1" }),
            Kind::Plain | Kind::Sidecar | Kind::Idle => json!({}),
        };
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": name, "namespace": HOME },
            "spec": {
                "replicas": self.count,
                "selector": { "matchLabels": labels },
                "template": { "metadata": { "labels": labels, "annotations": annotations }, "spec": pod },
            },
        })
    }
}

fn container(name: &str, line: &str) -> Value {
    json!({
        "name": name, "image": "busybox:1.37", "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/sh", "-c", line],
    })
}

/// How long the kernel runs, as it says itself, which all pods and we read alike.
fn uptime(text: &str) -> Result<Duration> {
    let seconds = text
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok());
    let seconds = seconds.with_context(|| format!("{text:?} does not begin with seconds"))?;
    Ok(Duration::from_secs_f64(seconds))
}
