// SPDX-License-Identifier: Apache-2.0
//! What is there after a document that was not there before it, by a command that lists everything.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use crate::shell::{Shell, Variable};

/// How long the last things may take to go.
const TO_GO: Duration = Duration::from_secs(10);

/// How long the command may take.
const TO_LOOK: Duration = Duration::from_secs(60);

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks by a command before and after.
pub(crate) struct Look<'a> {
    command: &'a str,
    shell: Shell,
    before: BTreeSet<String>,
}

impl<'a> Look<'a> {
    /// What is there now, by `command` in `folder`.
    pub(crate) async fn before(command: &'a str, folder: &Path, environment: Vec<Variable>) -> Result<Self> {
        let mut look = Self {
            command,
            shell: Shell::new(folder, environment)?,
            before: BTreeSet::new(),
        };
        look.before = look.now().await?;
        Ok(look)
    }

    /// What is there now and was not before, when that has had time to go.
    pub(crate) async fn after(mut self) -> Result<Vec<String>> {
        let until = Instant::now() + TO_GO;
        loop {
            let left: Vec<_> = self.now().await?.difference(&self.before).cloned().collect();
            if left.is_empty() || Instant::now() >= until {
                return Ok(left);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn now(&mut self) -> Result<BTreeSet<String>> {
        let code = tokio::time::timeout(TO_LOOK, self.shell.run(self.command)).await;
        let printed = self.shell.printed();
        let code = code.map_err(|_| {
            anyhow::anyhow!("the leak check {:?} took longer than {TO_LOOK:?}", self.command)
        })??;
        ensure!(
            code == 0,
            "the leak check {:?} ended with {code}: {printed}",
            self.command
        );
        Ok(printed.lines().map(String::from).collect())
    }
}
