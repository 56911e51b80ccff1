// SPDX-License-Identifier: Apache-2.0
//! What is in the kernel and in the file system, to compare before and after.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::sandbox::output;

/// Everything that a mesh could leave behind, each as a line of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// What is there now: links, addresses, routes, rules and neighbours of this network namespace and of those with a
    /// name, the names themselves, and the sockets in `folder`.
    pub fn take(folder: Option<&Path>) -> Result<Self> {
        let mut lines = BTreeSet::new();
        kernel(&mut lines, "node", &[])?;
        if let Ok(names) = std::fs::read_dir("/run/netns") {
            for name in names {
                let name = name?.file_name().to_string_lossy().into_owned();
                lines.insert(format!("namespace {name}"));
                kernel(&mut lines, &name, &["-netns", &name])?;
            }
        }
        if let Some(folder) = folder {
            files(&mut lines, folder)?;
        }
        Ok(Self(lines))
    }

    /// What is here and was not there.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

fn kernel(lines: &mut BTreeSet<String>, place: &str, netns: &[&str]) -> Result<()> {
    let looks: [(&str, &[&str]); 7] = [
        ("link", &["link", "show"]),
        ("address", &["addr", "show"]),
        ("route", &["route", "show", "table", "all"]),
        ("route6", &["-6", "route", "show", "table", "all"]),
        ("rule", &["rule", "show"]),
        ("rule6", &["-6", "rule", "show"]),
        ("neighbour", &["neigh", "show"]),
    ];
    for (kind, arguments) in looks {
        let mut all = vec!["-json"];
        all.extend(netns);
        all.extend(arguments);
        let printed = output("ip", &all)?;
        let Ok(Value::Array(items)) = serde_json::from_slice(&printed) else {
            continue;
        };
        for item in items {
            lines.extend(describe(kind, place, &item));
        }
    }
    Ok(())
}

/// One line for each thing in an item of `ip`'s answer; nothing about what changes by itself.
fn describe(kind: &str, place: &str, item: &Value) -> Vec<String> {
    let text = |key: &str| item[key].as_str().unwrap_or_default().to_string();
    match kind {
        "link" => vec![format!("link {} in {place}", text("ifname"))],
        "address" => item["addr_info"]
            .as_array()
            .map(|addresses| {
                addresses
                    .iter()
                    .map(|address| {
                        format!(
                            "address {}/{} on {} in {place}",
                            address["local"].as_str().unwrap_or_default(),
                            address["prefixlen"],
                            text("ifname")
                        )
                    })
                    .collect()
            })
            .unwrap_or_default(),
        "rule" | "rule6" => vec![format!(
            "{kind} {} {} {} in {place}",
            item["priority"],
            text("src"),
            text("table")
        )],
        "neighbour" => vec![format!("neighbour {} on {} in {place}", text("dst"), text("dev"))],
        _ => vec![format!(
            "{kind} {} on {} table {} in {place}",
            text("dst"),
            text("dev"),
            text("table")
        )],
    }
}

fn files(lines: &mut BTreeSet<String>, folder: &Path) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files(lines, &entry.path())?;
        } else if std::os::unix::fs::FileTypeExt::is_socket(&kind) {
            lines.insert(format!("socket {}", entry.path().display()));
        }
    }
    Ok(())
}
