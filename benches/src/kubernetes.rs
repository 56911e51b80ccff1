// SPDX-License-Identifier: Apache-2.0
//! What a mesh costs in a real Kubernetes: the time that pods wait for their wires, beside the same pods without one; its
//! memory; its requests to the API server; and packets that are lost while it is updated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use nsm_tests::kubectl::pings::Pings;
use nsm_tests::kubectl::{Cluster, NODES, now};

use crate::figure::{Figure, Times, table};

mod endpoints;
mod from_zero;
mod pods;

use pods::{Kind, Pods};

/// The namespace of the mesh.
const MESH: &str = "nsm-system";

/// That of the pods that are measured, which is the example `annotation`'s.
const HOME: &str = "ns-annotation";

/// On the cluster that the environment names; `cargo xtask bench kubernetes` starts one
#[derive(Args, Clone, Debug)]
pub(crate) struct Kubernetes {
    /// How many pods of each kind are started, one after the other
    #[arg(long, default_value_t = 20)]
    runs: usize,
    /// How many pods of each kind are started at once
    #[arg(long, default_value_t = 100)]
    many: usize,
    /// Measure these alone; everything by default
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',')]
    only: Vec<Part>,
    /// How many endpoints a registry has to find, keep and know at its start
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,
    /// The program of the registry's tests, which measures that
    #[arg(long, env = "NSM_REGISTRY_TEST")]
    registry_test: Option<PathBuf>,
}

/// What can be measured alone, in a mesh that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A registry with many endpoints
    Registry,
    /// Pods that start one after the other
    Pods,
    /// Many pods that start at once
    Many,
    /// The memory of a node's programs
    Memory,
    /// Endpoints that nobody has started
    FromZero,
    /// Packets that are lost while programs are replaced
    Updates,
}

impl Kubernetes {
    /// Measures everything that is wanted.
    pub(crate) fn run(self) -> Result<Vec<Figure>> {
        ensure!(self.runs > 0, "--runs must be at least 1");
        let cluster = Cluster::of_environment();
        let cluster = cluster.context("no cluster to measure: run `cargo xtask bench kubernetes`")?;
        let mut figures = Vec::new();
        let measured = self.measure(&cluster, &mut figures);
        // What took half an hour is not lost by what fails in the end.
        measured.map_err(|error| error.context(cluster.tell()).context(table(&figures)))?;
        Ok(figures)
    }

    fn measure(&self, cluster: &Cluster, figures: &mut Vec<Figure>) -> Result<()> {
        let wants = |part| self.only.is_empty() || self.only.contains(&part);
        if let Some(test) = self.registry_test.as_ref().filter(|_| wants(Part::Registry)) {
            figures.extend(endpoints::many(test, self.endpoints)?);
        }
        figures.push(first_ping(cluster)?);
        if wants(Part::Pods) {
            figures.extend(self.one_by_one(cluster)?);
        }
        if wants(Part::Many) && self.many > 0 {
            figures.extend(self.at_once(cluster)?);
        }
        if wants(Part::Memory) {
            figures.push(memory(cluster)?);
        }
        if wants(Part::FromZero) {
            figures.extend(from_zero::figures(cluster, self.runs, self.many)?);
        }
        if wants(Part::Updates) {
            figures.extend(updates(cluster)?);
        }
        Ok(())
    }

    /// Pods of each kind by turns, and what the mesh asks the API server meanwhile.
    fn one_by_one(&self, cluster: &Cluster) -> Result<Vec<Figure>> {
        let mut times: BTreeMap<Kind, Vec<Duration>> = BTreeMap::new();
        // To look at objects is a request as well, so that is done before and after those that count.
        let (renewed, requested) = (generations(cluster)?, requests(cluster)?);
        for _ in 0..self.runs {
            for kind in Kind::ALL {
                times
                    .entry(kind)
                    .or_default()
                    .push(Pods { kind, count: 1 }.start(cluster)?);
            }
        }
        let (requested, renewed) = (requests(cluster)? - requested, generations(cluster)? - renewed);
        let of = |kind| Times::new(times.get(&kind).cloned().unwrap_or_default());
        let (plain, idle, annotated) = (of(Kind::Plain), of(Kind::Idle), of(Kind::Annotated));
        let runs = annotated.runs();
        let added = |share| annotated.quantile_ms(share) - idle.quantile_ms(share);
        Ok(vec![
            Figure::new("k8s.pod_start_plain_p50_ms", plain.p50_ms(), "ms", runs),
            Figure::new(
                "k8s.pod_start_one_idle_container_p50_ms",
                of(Kind::Sidecar).p50_ms(),
                "ms",
                runs,
            ),
            Figure::new(
                "k8s.pod_start_two_idle_containers_p50_ms",
                idle.p50_ms(),
                "ms",
                runs,
            ),
            Figure::new("k8s.pod_start_annotated_p50_ms", annotated.p50_ms(), "ms", runs),
            Figure::new("k8s.pod_start_added_p50_ms", added(0.5), "ms", runs).at_most(150.0),
            Figure::new("k8s.pod_start_added_p99_ms", added(0.99), "ms", runs).at_most(500.0),
            Figure::new(
                "k8s.pod_start_added_over_plain_p50_ms",
                annotated.p50_ms() - plain.p50_ms(),
                "ms",
                runs,
            ),
            Figure::new("k8s.api_renewals", renewed as f64, "requests", 1),
            Figure::new(
                "k8s.api_requests_per_attach",
                requested.saturating_sub(renewed) as f64 / runs as f64,
                "requests",
                runs,
            )
            .at_most(0.0),
        ])
    }

    /// Many pods of a kind at once, beside as many without anything, and as many with two containers that do nothing.
    fn at_once(&self, cluster: &Cluster) -> Result<Vec<Figure>> {
        let took = |kind| {
            let pods = Pods {
                kind,
                count: self.many,
            };
            pods.start(cluster).map(|took| took.as_secs_f64())
        };
        let (plain, idle, annotated) = (took(Kind::Plain)?, took(Kind::Idle)?, took(Kind::Annotated)?);
        let name = |what: &str| format!("k8s.{}_pods{what}", self.many);
        Ok(vec![
            Figure::new(name("_plain_s"), plain, "s", 1),
            Figure::new(name("_over_plain"), annotated / plain, "ratio", 1).at_most(1.2),
            Figure::new(name("_over_two_idle_containers"), annotated / idle, "ratio", 1),
        ])
    }
}

/// From nothing to the first ping of an annotated workload.
fn first_ping(cluster: &Cluster) -> Result<Figure> {
    let began = now();
    cluster.apply("overlays/dev")?;
    cluster.rolled_out(MESH, "deployment/admission-webhook-k8s")?;
    cluster.apply("examples/annotation")?;
    cluster.rolled_out(HOME, "deployment/app")?;
    cluster.await_peer(HOME, "deployment/app", "nsm-1")?;
    let took = began.elapsed().as_secs_f64();
    Ok(Figure::new("k8s.apply_to_first_ping_s", took, "s", 1).at_most(15.0))
}

/// How many requests about objects of ours the API server has got, but for watches that go on.
fn requests(cluster: &Cluster) -> Result<u64> {
    let metrics = cluster.kubectl(&["get", "--raw", "/metrics"])?;
    Ok(metrics.lines().filter_map(asked).sum())
}

/// How often the specifications of our objects were written: registrations are renewed so, whoever attaches.
fn generations(cluster: &Cluster) -> Result<u64> {
    let what = r#"jsonpath={range .items[*]}{.metadata.generation}{"\n"}{end}"#;
    let told = cluster.kubectl(&["get", "netsvc,nse", "--all-namespaces", "--output", what])?;
    let generations = told.lines().map(|line| Ok(line.parse::<u64>()?));
    generations.sum()
}

/// The count of a line of metrics that is about objects of ours.
fn asked(line: &str) -> Option<u64> {
    let labels = line.strip_prefix("apiserver_request_total{")?;
    let (labels, count) = labels.rsplit_once("} ")?;
    let is_ours = labels.contains(r#"group="networkservicemesh.io""#) && !labels.contains(r#"verb="WATCH""#);
    is_ours.then(|| count.parse::<f64>().ok().map(|count| count as u64))?
}

/// What the programs of a node have in memory, on the node where it is most. The kernel cuts their names after 15 bytes.
fn memory(cluster: &Cluster) -> Result<Figure> {
    let line = r#"sum=0
        for process in /proc/[0-9]*; do
          read name <$process/comm 2>/dev/null || continue
          case $name in nsmgr|forwarder|exclude-prefixe) ;; *) continue ;; esac
          while read key value unit; do
            if [ "$key" = VmRSS: ]; then sum=$((sum + value)); fi
          done <$process/status
        done
        echo $sum"#;
    let mut most = 0.0_f64;
    for node in NODES {
        let kib = cluster.on(node, &["sh", "-c", line])?;
        let kib: f64 = kib
            .trim()
            .parse()
            .with_context(|| format!("{kib:?} is no number"))?;
        ensure!(kib > 0.0, "{node} has no program of the mesh");
        most = most.max(kib / 1024.0);
    }
    Ok(Figure::new("k8s.node_rss_mib", most, "MiB", NODES.len()).at_most(40.0))
}

/// Packets that are lost on a wire on one node and on one between nodes, while each program is replaced everywhere.
fn updates(cluster: &Cluster) -> Result<Vec<Figure>> {
    let far = "ns-kernel2ethernet2kernel";
    cluster.apply("examples/kernel2ethernet2kernel")?;
    cluster.await_peer(far, "deployment/nsc-kernel", "nsm-1")?;
    let mut figures = Vec::new();
    for (program, workload) in [
        ("nsmgr", "daemonset/nsmgr"),
        ("forwarder", "daemonset/forwarder"),
        ("registry", "deployment/registry-k8s"),
    ] {
        let streams = [
            Pings::start(cluster, HOME, "deployment/app")?,
            Pings::start(cluster, far, "deployment/nsc-kernel")?,
        ];
        cluster.kubectl(&["rollout", "restart", "--namespace", MESH, workload])?;
        cluster.rolled_out(MESH, workload)?;
        let mut lost = 0;
        for stream in streams {
            lost += stream.stop()?.lost;
        }
        let name = format!("k8s.rolling_update_lost_packets.{program}");
        figures.push(Figure::new(name, lost as f64, "packets", 1).at_most(0.0));
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_about_our_objects_are_counted_and_watches_are_not() {
        let line = |group: &str, verb: &str| {
            format!(r#"apiserver_request_total{{code="200",group="{group}",resource="a",verb="{verb}"}} 12"#)
        };
        assert_eq!(asked(&line("networkservicemesh.io", "GET")), Some(12));
        assert_eq!(asked(&line("networkservicemesh.io", "WATCH")), None);
        assert_eq!(asked(&line("apps", "GET")), None);
        assert_eq!(asked("# HELP apiserver_request_total"), None);
    }
}
