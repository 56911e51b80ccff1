// SPDX-License-Identifier: Apache-2.0
//! A network namespace with a name, as a pod has one.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use serde_json::Value;

use super::sandbox::{output, tool};

/// A network namespace that goes with this value.
#[derive(Debug)]
pub struct Pod {
    name: String,
    path: PathBuf,
}

impl Pod {
    /// Makes the namespace, with its loopback up.
    pub fn new(name: &str) -> Result<Self> {
        tool("ip", &["netns", "add", name])?;
        let pod = Self {
            name: name.to_string(),
            path: Path::new("/run/netns").join(name),
        };
        tool("ip", &["-netns", name, "link", "set", "lo", "up"])?;
        Ok(pod)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file from which it can be opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let mut net = std::ffi::OsString::from("--net=");
        net.push(&self.path);
        command.arg(net).arg("--").arg(program);
        command
    }

    /// What `ip -json` shows of it: `link`, `addr`, `route`, `rule` or `neigh`.
    pub fn ip(&self, what: &[&str]) -> Result<Value> {
        let mut arguments = vec!["-json", "-netns", self.name()];
        arguments.extend(what);
        let printed = output("ip", &arguments)?;
        Ok(if printed.iter().all(u8::is_ascii_whitespace) {
            Value::Array(Vec::new())
        } else {
            serde_json::from_slice(&printed)?
        })
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Err(error) = tool("ip", &["netns", "del", &self.name]) {
            eprintln!("{error:#}");
        }
    }
}
