// SPDX-License-Identifier: Apache-2.0
//! Hands notices over to another program of the pod, by datagrams of JSON over a unix socket.
//!
//! Whoever tells never waits: what the listener has no room for, or nobody listens to, is lost. So the listener may come,
//! go and be restarted at any time. The folder of the socket says who may tell and who hears.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram as Socket;
use std::path::{Path, PathBuf};

use tokio::net::UnixDatagram;
use tracing::debug;

use crate::networkservice::report::{Listener, Notice};

/// How long a notice may be, bytes: its text is bounded, and so are the names in it.
const MAX_NOTICE: usize = 16 * 1024;

/// Tells whoever listens at a path.
#[derive(Debug)]
pub struct ToSocket {
    socket: Socket,
    path: PathBuf,
}

impl ToSocket {
    /// Tells at `path`, where there may be somebody or not.
    pub fn new(path: &Path) -> io::Result<Self> {
        let socket = Socket::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            path: path.to_path_buf(),
        })
    }
}

impl Listener for ToSocket {
    fn tell(&self, notice: &Notice) -> bool {
        let told = serde_json::to_vec(notice)
            .map_err(io::Error::other)
            .and_then(|text| self.socket.send_to(&text, &self.path));
        match told {
            Ok(_) => true,
            Err(error) => {
                debug!(path = %self.path.display(), %error, "a notice is lost");
                false
            }
        }
    }
}

/// Hears what is told at a path; the socket goes when this is dropped.
#[derive(Debug)]
pub struct Notices {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Notices {
    /// Listens at `path`, in the place of an earlier listener.
    pub fn listen(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        // Who tells may be another user: whoever may not is kept out of the folder.
        std::fs::set_permissions(path, Permissions::from_mode(0o666))?;
        Ok(Self {
            socket,
            path: path.to_path_buf(),
        })
    }

    /// The next one. What is no notice is left out.
    pub async fn next(&self) -> io::Result<Notice> {
        let mut text = vec![0; MAX_NOTICE];
        loop {
            let length = self.socket.recv(&mut text).await?;
            let told = text.get(..length).unwrap_or_default();
            match serde_json::from_slice(told) {
                Ok(notice) => return Ok(notice),
                Err(error) => debug!(%error, "that is no notice"),
            }
        }
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        // A successor may have taken it away already.
        drop(std::fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networkservice::report::Became;

    fn notice(id: &str) -> Notice {
        Notice {
            client: "spiffe://mesh/ns/default/pod/nsc-1".into(),
            id: id.into(),
            network_service: "vpn".into(),
            endpoint: String::new(),
            became: Became::Refused,
            reason: "no-endpoint".into(),
            text: "nobody fits".into(),
        }
    }

    #[tokio::test]
    async fn what_is_told_is_heard_and_what_is_no_notice_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notices.sock");
        let teller = ToSocket::new(&path).expect("a socket");
        assert!(!teller.tell(&notice("nobody hears")));
        let notices = Notices::listen(&path).expect("it is ours");
        let stranger = Socket::unbound().expect("a socket");
        stranger.send_to(b"{}", &path).expect("there is room");
        assert!(teller.tell(&notice("first")));
        assert_eq!(notices.next().await.expect("it was told"), notice("first"));
        // A listener that comes after a crash takes the place of the one before.
        std::mem::forget(notices);
        let notices = Notices::listen(&path).expect("it is ours");
        assert!(teller.tell(&notice("second")));
        assert_eq!(notices.next().await.expect("it was told"), notice("second"));
        drop(notices);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_teller_never_waits_for_a_listener_that_is_slow() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notices.sock");
        let _slow = Notices::listen(&path).expect("it is ours");
        let teller = ToSocket::new(&path).expect("a socket");
        let lost = (0..100_000).any(|number| !teller.tell(&notice(&number.to_string())));
        assert!(lost, "a queue of the kernel has an end");
    }
}
