// SPDX-License-Identifier: Apache-2.0
//! Programs of tests, by their names.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Builds tests, each of a package (or, without one, of whichever has it). Returns their files, in this order.
pub(crate) fn tests<const N: usize>(wanted: [(&str, &str); N]) -> Result<Vec<PathBuf>> {
    let mut list = Command::new("cargo");
    list.args([
        "test",
        "--workspace",
        "--no-run",
        "--quiet",
        "--message-format=json",
    ])
    .args(wanted.map(|(_, name)| format!("--test={name}")))
    .current_dir(crate::root())
    .stderr(Stdio::inherit());
    let listed = list.output().context("could not start cargo")?;
    ensure!(listed.status.success(), "{list:?} ended with {}", listed.status);
    let listed = String::from_utf8(listed.stdout).context("cargo printed no text")?;
    let file = |(package, name)| {
        built(&listed, package, name).with_context(|| format!("cargo did not build the test {name}"))
    };
    wanted.into_iter().map(file).collect()
}

/// The file of a test in cargo's messages.
fn built(messages: &str, package: &str, name: &str) -> Option<PathBuf> {
    let manifest = format!("{package}/Cargo.toml");
    let is_wanted = |message: &Value| {
        message["target"]["kind"][0] == "test"
            && message["target"]["name"] == name
            && (package.is_empty()
                || message["manifest_path"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(&manifest)))
    };
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(is_wanted)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_found_by_its_name_and_package() {
        let messages = r#"
            {"reason":"compiler-artifact","target":{"kind":["lib"],"name":"netns"},"executable":null}
            {"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","target":{"kind":["test"],"name":"kernel"},"executable":"/k"}
            {"reason":"compiler-artifact","manifest_path":"/a/Cargo.toml","target":{"kind":["test"],"name":"netns"},"executable":"/n"}
            {"reason":"compiler-artifact","manifest_path":"/b/Cargo.toml","target":{"kind":["test"],"name":"netns"},"executable":"/m"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(built(messages, "", "netns"), Some(PathBuf::from("/n")));
        assert_eq!(built(messages, "b", "netns"), Some(PathBuf::from("/m")));
        assert_eq!(built(messages, "b", "kernel"), None);
    }
}
