// SPDX-License-Identifier: Apache-2.0
//! What there is in a mesh.

use std::fmt::Write;

use crate::mesh::{Node, Program, Snapshot};
use anyhow::{Context, Result};

use super::super::ask::Place;
use super::{Pods, Served};

impl Pods {
    /// Where a pod or a node is.
    pub(super) fn place(&self, name: &str) -> Result<Place> {
        let pods = self.pods.iter().map(|served| &served.pod);
        let hosts = self.nodes.iter().filter_map(Node::host).map(|host| host.pod());
        let all: Vec<_> = pods.chain(hosts).collect();
        let found = all.iter().find(|pod| pod.name() == name).with_context(|| {
            let names: Vec<_> = all.iter().map(|pod| pod.name()).collect();
            format!("there is no pod {name:?}; there are: {}", names.join(", "))
        })?;
        Ok(Place {
            keeper: std::process::id(),
            netns: found.path().to_path_buf(),
        })
    }

    /// What runs where.
    pub(super) fn list(&self, is_json: bool) -> Result<String> {
        let mut rows = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            rows.extend(node.programs().map(|program| {
                (
                    program.name().to_string(),
                    format!("node-{}", index + 1),
                    "-".to_string(),
                    Some(program.pid()),
                )
            }));
        }
        for Served { what, program, .. } in &self.pods {
            let node = format!("node-{}", what.node);
            rows.push((
                what.name.clone(),
                node,
                what.program.clone(),
                program.as_ref().map(Program::pid),
            ));
        }
        if is_json {
            let rows: Vec<_> = rows
                .into_iter()
                .map(|(name, node, program, pid)| {
                    serde_json::json!({"name": name, "node": node, "program": program, "pid": pid})
                })
                .collect();
            return Ok(serde_json::to_string(&rows)? + "\n");
        }
        let mut text = format!("{:<20} {:<8} {:<16} {}\n", "NAME", "NODE", "PROGRAM", "PROCESS");
        for (name, node, program, pid) in rows {
            let pid = pid.map_or("killed".to_string(), |pid| pid.to_string());
            let _infallible = writeln!(text, "{name:<20} {node:<8} {program:<16} {pid}");
        }
        Ok(text)
    }

    /// Everything but what nodes learn of each other.
    pub(super) fn snapshot(&self) -> Result<String> {
        let objects = Snapshot::take(Some(&self.folder))?.since(&Snapshot::default());
        let theirs =
            |object: &&String| !object.starts_with("neighbour") || !object.contains(" on underlay in node-");
        let programs = self
            .pods
            .iter()
            .map(|served| format!("program {}", served.what.name));
        let nodes = self.nodes.iter().flat_map(Node::programs);
        let nodes = nodes.map(|program| format!("program {}", program.name()));
        let mut text = String::new();
        for line in objects
            .iter()
            .filter(theirs)
            .cloned()
            .chain(programs)
            .chain(nodes)
        {
            let _infallible = writeln!(text, "{line}");
        }
        Ok(text)
    }
}
