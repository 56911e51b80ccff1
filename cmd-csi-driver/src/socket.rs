// SPDX-License-Identifier: Apache-2.0
//! The file of a socket.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Only the kubelet is to call, and it is root.
const MODE: u32 = 0o600;

/// A socket in the file system, removed with this.
#[derive(Debug)]
pub(crate) struct Socket {
    path: PathBuf,
}

impl Socket {
    /// Listens at `folder/name`. The kubelet overlooks names with a dot in front: so the socket appears ready, and in
    /// place of what an earlier life has left.
    pub(crate) fn bind(folder: &Path, name: &str) -> io::Result<(UnixListener, Self)> {
        let (hidden, path) = (folder.join(format!(".{name}")), folder.join(name));
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&hidden)?;
        fs::set_permissions(&hidden, fs::Permissions::from_mode(MODE))?;
        fs::rename(&hidden, &path)?;
        Ok((listener, Self { path }))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _it_may_be_gone_already = fs::remove_file(&self.path);
    }
}
