// SPDX-License-Identifier: Apache-2.0
//! From `exec` until the health check answers, and the memory of programs that do nothing.

use std::collections::BTreeMap;

use anyhow::Result;
use nsm::mesh::{Node, Pod, Programs, Settings};

use crate::figure::{Figure, median};

const RUNS: usize = 7;

pub(crate) async fn all(programs: &Programs) -> Result<Vec<Figure>> {
    let mut ready: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut memory: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..RUNS {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let settings = Settings {
            programs: programs.clone(),
            folder: folder.path().to_path_buf(),
            log_level: "WARN".to_string(),
            identities: vec!["nse".to_string(), "nsc".to_string()],
            svid_lifetime: None,
            variables: Vec::new(),
            host: None,
        };
        let (near, far) = (Pod::new("client")?, Pod::new("endpoint")?);
        let mut took = Vec::new();
        let node = Node::start(settings, |name, time| took.push((name.to_string(), time))).await?;
        let (endpoint, time) = node.start_endpoint("nse", &far, &[]).await?;
        took.push(("nse".to_string(), time));
        let mut client = node.start_client("nsc", &near, "kernel://icmp-responder/nsm-1")?;
        let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        let has_wire = async |_: &nsm::mesh::Program| near.ip(&["link", "show", "nsm-1"]).ok().map(drop);
        client.wait_for("it had its wire", until, has_wire).await?;
        for name in ["nsmgr", "forwarder", "registry", "nse"] {
            let time = took
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, time)| time.as_secs_f64() * 1e3);
            ready.entry(name).or_default().extend(time);
        }
        for program in node.programs().chain([&endpoint, &client]) {
            if let Some(name) = ["nsmgr", "forwarder", "registry", "nsc", "nse"]
                .into_iter()
                .find(|name| *name == program.name())
            {
                memory
                    .entry(name)
                    .or_default()
                    .push(program.memory_kib()?.resident as f64 / 1024.0);
            }
        }
        client.stop().await?;
        endpoint.stop().await?;
        node.end().await?;
    }
    let start = ready.into_iter().map(|(name, times)| {
        Figure::new(format!("start.ready_ms.{name}"), median(times), "ms", RUNS).at_most(100.0)
    });
    let idle = memory.into_iter().map(|(name, sizes)| {
        Figure::new(format!("rss.idle_mib.{name}"), median(sizes), "MiB", RUNS).at_most(10.0)
    });
    Ok(idle.chain(start).collect())
}
