// SPDX-License-Identifier: Apache-2.0
//! Nodes and pods of the examples.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

pub(crate) type Done<T> = Result<T, Box<dyn Error>>;

/// A process in a network namespace of its own, which ends with this.
pub(crate) struct Place(pub(crate) Child);

impl Place {
    pub(crate) fn new() -> Done<Self> {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up; echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut String::new())?;
        Ok(Self(child))
    }

    /// A file from which the namespace can be opened.
    pub(crate) fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// A shell command in this place.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-n", "sh", "-c", line]);
        command
    }

    /// What a shell command in this place prints.
    pub(crate) fn run(&self, line: &str) -> Done<String> {
        let output = self.shell(line).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{line}: {text}{}", String::from_utf8_lossy(&output.stderr)).into())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
