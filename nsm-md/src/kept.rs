// SPDX-License-Identifier: Apache-2.0
//! How far an earlier run came: what `--keep` writes and `--resume` reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The file with what is known of all documents.
const INDEX: &str = "documents.json";

/// A folder with how far each document came.
#[derive(Debug)]
pub(crate) struct Kept {
    folder: PathBuf,
    documents: BTreeMap<String, Progress>,
}

/// How far a document came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    /// How many of its blocks for here had succeeded.
    pub(crate) blocks: usize,
    /// The file in the folder with the state of its shell.
    shell: String,
}

impl Kept {
    /// Nothing yet.
    pub(crate) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_path_buf(),
            documents: BTreeMap::new(),
        }
    }

    /// What an earlier run has left.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(INDEX);
        let text = std::fs::read(&file).with_context(|| {
            format!(
                "there is nothing to resume in {}: run with --keep first",
                folder.display()
            )
        })?;
        Ok(Self {
            folder: folder.to_path_buf(),
            documents: serde_json::from_slice(&text)
                .with_context(|| format!("{} is broken", file.display()))?,
        })
    }

    /// How far a document came, and the state of its shell.
    pub(crate) fn of(&self, name: &str) -> Option<(usize, PathBuf)> {
        let progress = self.documents.get(name)?;
        Some((progress.blocks, self.folder.join(&progress.shell)))
    }

    /// Notes that a document came this far.
    pub(crate) fn note(&mut self, name: &str, blocks: usize, state: &Path) -> Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let number = self.documents.len();
        let progress = self
            .documents
            .entry(name.to_string())
            .or_insert_with(|| Progress {
                blocks: 0,
                shell: format!("{number}.sh"),
            });
        progress.blocks = blocks;
        let shell = self.folder.join(&progress.shell);
        // A shell in which no block has succeeded has no state.
        if state.exists() {
            std::fs::copy(state, shell)?;
        }
        let text = serde_json::to_vec_pretty(&self.documents)?;
        std::fs::write(self.folder.join(INDEX), text)
            .with_context(|| format!("cannot write into {}", self.folder.display()))
    }

    /// Forgets everything, when all is cleaned up.
    pub(crate) fn forget(self) -> Result<()> {
        let shells = self.documents.values().map(|progress| progress.shell.as_str());
        for file in shells.chain([INDEX]) {
            let path = self.folder.join(file);
            if path.exists() {
                std::fs::remove_file(path)?;
            }
        }
        // It stays when there is something else in it.
        let _it_may_not_be_empty = std::fs::remove_dir(&self.folder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_again_and_forgotten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (state, kept) = (folder.path().join("state"), folder.path().join("kept"));
        std::fs::write(&state, "A=1").expect("a file");
        let mut first = Kept::new(&kept);
        first.note("a", 1, &state).expect("it is noted");
        first.note("a", 2, &state).expect("it is noted");
        let second = Kept::read(&kept).expect("it is there");
        let (blocks, shell) = second.of("a").expect("it was noted");
        assert_eq!(blocks, 2);
        assert_eq!(std::fs::read_to_string(shell).expect("it is there"), "A=1");
        second.forget().expect("it goes");
        assert!(!kept.exists());
    }

    #[test]
    fn without_an_earlier_run_the_remedy_is_told() {
        let error = Kept::read(Path::new("/nonexistent")).expect_err("there is none");
        assert!(format!("{error:#}").contains("run with --keep first"));
    }
}
