// SPDX-License-Identifier: Apache-2.0
//! Where the programs of either side are, and which of them a mesh has.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nsm::mesh::Programs;

use super::mesh::Kind;

/// Where programs are found.
pub(super) struct Files {
    ours: Programs,
    peer: PathBuf,
}

impl Files {
    /// Ours in this folder, or beside this program; theirs is this one, or `interop/nsm-peer` among ours.
    pub(super) fn find(programs: Option<&Path>, peer: Option<&Path>) -> Result<Self> {
        let ours = match programs {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        let peer = match peer {
            Some(file) => std::path::absolute(file)?,
            None => std::path::absolute(ours.folder().join("interop/nsm-peer"))?,
        };
        anyhow::ensure!(
            peer.is_file(),
            "{} is not built: `cargo xtask bench go` builds it, --peer names another",
            peer.display()
        );
        let ours = Programs::in_folder(std::path::absolute(ours.folder()).context("no folder of programs")?);
        Ok(Self { ours, peer })
    }

    /// A new folder with the programs of a mesh under the names by which nodes start them.
    pub(super) fn of(&self, kind: Kind, folder: &Path) -> Result<Programs> {
        std::fs::create_dir(folder)?;
        let ours =
            |program: &str| Ok::<_, anyhow::Error>(symlink(self.ours.file(program)?, folder.join(program))?);
        ours("nsm")?;
        for program in ["registry-memory", "nsmgr", "forwarder", "nse-icmp"] {
            let file = folder.join(program);
            match (kind, program) {
                (Kind::Go | Kind::GoOpen, "forwarder") => self.role("forwarder-bare", &file)?,
                (Kind::GoOpen, "registry-memory") => self.role("registry-open", &file)?,
                (Kind::Go | Kind::GoOpen, _) => symlink(&self.peer, file)?,
                (Kind::Bare, "forwarder") => symlink(self.ours.file("forwarder-bare")?, file)?,
                (Kind::Bare | Kind::Links, _) => ours(program)?,
            }
        }
        Ok(Programs::in_folder(folder))
    }

    /// A file that starts theirs in a role that it is not named after.
    fn role(&self, role: &str, file: &Path) -> Result<()> {
        std::fs::write(
            file,
            format!("#!/bin/sh\nexec '{}' {role}\n", self.peer.display()),
        )?;
        Ok(std::fs::set_permissions(file, Permissions::from_mode(0o755))?)
    }
}
