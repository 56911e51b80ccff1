// SPDX-License-Identifier: Apache-2.0
//! What a node needs, and what of it is not there.

use std::path::PathBuf;

use serde::Serialize;

mod cluster;
mod node;

pub(crate) use cluster::AGENT;
pub use cluster::cluster;
pub use node::node;

/// Whether something that is needed is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there.
    Good,
    /// What needs it will not work well, or only some of it will.
    Poor,
    /// What needs it does not work.
    Missing,
    /// It cannot be told from here.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its name, which stays as it is.
    pub name: String,
    /// Whether it is there.
    pub state: State,
    /// What was found.
    pub found: String,
    /// Who needs it.
    pub needed_by: &'static str,
    /// What to do; empty when it is there.
    pub remedy: String,
}

/// The files of a node, as seen from a root of theirs.
#[derive(Clone, Debug)]
pub struct Files(PathBuf);

impl Files {
    /// Those of this machine.
    pub fn own() -> Self {
        Self(PathBuf::from("/"))
    }

    /// Those below another root.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.path(path)).ok()
    }

    fn is_there(&self, path: &str) -> bool {
        self.path(path).exists()
    }
}

impl Finding {
    fn new(
        name: impl Into<String>,
        needed_by: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            state,
            found: found.into(),
            needed_by,
            remedy: match state {
                State::Good => String::new(),
                _ => remedy.into(),
            },
        }
    }
}

#[cfg(test)]
mod tests;
