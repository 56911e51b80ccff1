// SPDX-License-Identifier: Apache-2.0
//! Tells what a program is made of, as a CycloneDX 1.6 document.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The crates that the package `name` is built of, by the answer of `cargo metadata` for the target of images.
///
/// Features are those of the whole workspace: a crate may be listed of which this program has less, none is missing.
pub(crate) fn sbom(metadata: &Value, name: &str, created: &str) -> Result<Value> {
    let packages = by_id(&metadata["packages"]);
    let nodes = by_id(&metadata["resolve"]["nodes"]);
    let ours = packages
        .iter()
        .find(|(_, package)| package["name"] == name && package["source"].is_null())
        .map(|(id, _)| *id)
        .with_context(|| format!("the workspace has no package {name}"))?;
    let (mut found, mut open) = (BTreeSet::from([ours]), vec![ours]);
    while let Some(id) = open.pop() {
        let node = nodes
            .get(id)
            .with_context(|| format!("cargo metadata does not resolve {id}"))?;
        open.extend(linked(node).filter(|dependency| found.insert(*dependency)));
    }
    found.remove(ours);
    let component = |id: &str| packages.get(id).map(|package| component(package, "library"));
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": created, "component": component_of(&packages, ours)},
        "components": found.into_iter().filter_map(component).collect::<Vec<_>>(),
    }))
}

fn component_of(packages: &BTreeMap<&str, &Value>, id: &str) -> Option<Value> {
    packages.get(id).map(|package| component(package, "application"))
}

fn component(package: &Value, kind: &str) -> Value {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let purl = format!("pkg:cargo/{}@{}", text("name"), text("version"));
    json!({
        "type": kind,
        "bom-ref": purl,
        "name": text("name"),
        "version": text("version"),
        "description": text("description").trim(),
        "licenses": [{"expression": text("license").replace('/', " OR ")}],
        "purl": purl,
    })
}

/// What a package links: its dependencies but for those that only its build script or its tests use.
fn linked(node: &Value) -> impl Iterator<Item = &str> {
    let dependencies = node["deps"].as_array().into_iter().flatten();
    let is_linked = |dependency: &&Value| {
        let kinds = dependency["dep_kinds"].as_array();
        kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"].is_null()))
    };
    dependencies
        .filter(is_linked)
        .filter_map(|dependency| dependency["pkg"].as_str())
}

fn by_id(list: &Value) -> BTreeMap<&str, &Value> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|item| Some((item["id"].as_str()?, item)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_linked_and_nothing_else() {
        let package = |id: &str, source: Value| json!({"id": id, "name": id, "version": "1.0.0", "license": "MIT/Apache-2.0", "source": source});
        let needs = |id: &str, kind: Value| json!({"pkg": id, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [package("ours", Value::Null), package("a", json!("r")), package("b", json!("r")),
                         package("builds", json!("r"))],
            "resolve": {"nodes": [
                {"id": "ours", "deps": [needs("a", Value::Null), needs("builds", json!("build"))]},
                {"id": "a", "deps": [needs("b", Value::Null)]},
                {"id": "b", "deps": []},
                {"id": "builds", "deps": []},
            ]},
        });
        let told = sbom(&metadata, "ours", "2026-01-01T00:00:00Z").expect("it is there");
        let names: Vec<_> = told["components"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["name"])
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(
            told["components"][0]["licenses"][0]["expression"],
            "MIT OR Apache-2.0"
        );
        assert_eq!(told["metadata"]["component"]["purl"], "pkg:cargo/ours@1.0.0");
        assert!(sbom(&metadata, "theirs", "").is_err());
    }
}
