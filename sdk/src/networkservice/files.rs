// SPDX-License-Identifier: Apache-2.0
//! The parameter by which a mechanism names a file, and the files that a connection holds for it.
//!
//! In this process it is `file:///path`, on the wire `inode://<dev>/<ino>` with the file passed beside the message.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nsm_api::mechanism::key::INODE_URL;
use rustix::fs::{Mode, OFlags};
use url::Url;

use crate::core::{Ctx, Error, FilePassing, Inode, Request, Result};

/// Which share of a call's time a file may take to arrive. Peers send it with the call that names it.
const PATIENCE: f64 = 0.9;

/// How many files one connection may hold at once on one side.
pub(super) const MAX_FILES: usize = 16;

/// Files that arrived for a connection. The descriptors close with it.
#[derive(Default)]
pub(super) struct Files(BTreeMap<Inode, OwnedFd>);

impl Files {
    /// How this process names the file, if it is here.
    pub(super) fn url(&self, inode: Inode) -> Option<String> {
        let file = self.0.get(&inode)?;
        Some(format!(
            "file:///proc/{}/fd/{}",
            std::process::id(),
            file.as_raw_fd()
        ))
    }

    /// The file that this process names so.
    pub(super) fn inode(&self, url: &str) -> Option<Inode> {
        self.0
            .keys()
            .copied()
            .find(|inode| self.url(*inode).as_deref() == Some(url))
    }

    /// Errors: `too-many-files`.
    pub(super) fn add(&mut self, inode: Inode, file: OwnedFd) -> Result<()> {
        if self.0.len() >= MAX_FILES {
            let text = format!("the mechanisms of one connection name more than {MAX_FILES} files");
            return Err(Error::exhausted("too-many-files", text));
        }
        self.0.insert(inode, file);
        Ok(())
    }

    /// Closes the others.
    pub(super) fn retain(&mut self, keep: impl Fn(Inode) -> bool) {
        self.0.retain(|inode, _| keep(*inode));
    }
}

/// What names a file in the connection's mechanism and in the preferences.
pub(super) fn urls(request: &mut Request) -> impl Iterator<Item = &mut String> {
    let mechanisms = request
        .connection
        .mechanism
        .iter_mut()
        .chain(&mut request.mechanism_preferences);
    mechanisms.filter_map(|mechanism| mechanism.parameters.get_mut(INODE_URL))
}

/// What names a file in the connection's mechanism.
pub(super) fn url(request: &mut Request) -> Option<&mut String> {
    request
        .connection
        .mechanism
        .as_mut()?
        .parameters
        .get_mut(INODE_URL)
}

/// The path of a `file://` URL.
pub(super) fn path(url: &str) -> Option<PathBuf> {
    plain(url).or_else(|| parsed(url))
}

/// The same where nothing has to be decoded: most URLs, and a thirtieth of a refresh to parse.
fn plain(url: &str) -> Option<PathBuf> {
    let path = url.strip_prefix("file://").filter(|path| path.starts_with('/'))?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte);
    let is_path = path.bytes().all(is_plain) && !path.contains("/.");
    is_path.then(|| path.into())
}

fn parsed(url: &str) -> Option<PathBuf> {
    Url::parse(url)
        .ok()
        .filter(|url| url.scheme() == "file")?
        .to_file_path()
        .ok()
}

/// Opens a file such that it can be passed and reopened, without opening what it stands for.
///
/// Errors: `file-gone`.
pub(super) fn open(path: &Path) -> Result<(OwnedFd, Inode)> {
    let gone = |error: std::io::Error| {
        let path = path.display();
        let text = format!(
            "failed to convert a filename {path} to URL: failed to send a file {path} (the file probably doesn't \
             exist): {error}"
        );
        Error::not_found("file-gone", text)
    };
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let file = file.map_err(|error| gone(error.into()))?;
    let inode = Inode::of(&file).map_err(gone)?;
    Ok((file, inode))
}

/// Waits for a file that the peer passes.
///
/// Errors: `fd-timeout` shortly before the deadline, so that whoever waits for the answer hears why; `fd-lost`,
/// `cancelled`.
pub(super) async fn receive(ctx: &Ctx, files: &dyn FilePassing, inode: Inode) -> Result<OwnedFd> {
    let ctx = ctx.within(ctx.remaining().mul_f64(PATIENCE));
    let received = ctx
        .bounded("receive a file", files.receive(inode, ctx.deadline()))
        .await;
    received.map_err(|error| match error.reason() {
        "deadline" | "fd-timeout" => {
            let text = format!("timeout in recvfd waiting for {inode}: context deadline exceeded");
            Error::new(tonic::Code::DeadlineExceeded, "fd-timeout", text)
        }
        _ => error.context(format!("recvfd waiting for {inode}")),
    })
}

/// Refuses what a peer names by a path: a path means our files, which no peer may choose.
///
/// Errors: `foreign-path`.
pub(super) fn refuse_paths<'a>(urls: impl Iterator<Item = &'a mut String>) -> Result<()> {
    for url in urls {
        if url.starts_with("file:") {
            let text = format!(
                "the peer names the file {url:?} by a path of ours; it must pass the file and name it inode://<dev>/<ino>"
            );
            return Err(Error::denied("foreign-path", text));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod testing {
    use std::io;
    use std::sync::Arc;

    use async_trait::async_trait;
    use parking_lot::Mutex;
    use tokio::sync::watch;
    use tokio::time::{Instant, timeout_at};

    use super::*;
    use crate::core::{Api, Found, NetworkService, Peer, PeerIdentity, Remote};

    /// One transport connection: what is sent into it arrives at once.
    pub(crate) struct Pipe {
        held: Mutex<Vec<(Inode, OwnedFd)>>,
        sent: watch::Sender<usize>,
    }

    impl Pipe {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self {
                held: Mutex::default(),
                sent: watch::Sender::new(0),
            })
        }

        /// How many files were sent.
        pub(crate) fn sent(&self) -> usize {
            *self.sent.borrow()
        }

        fn held(&self, inode: Inode) -> Option<OwnedFd> {
            let held = self.held.lock();
            let file = held.iter().find(|(held, _)| *held == inode)?;
            file.1.try_clone().ok()
        }

        /// The peer at the other end of it.
        pub(crate) fn peer(self: &Arc<Self>) -> Peer {
            Peer {
                files: Some(Arc::clone(self) as _),
                ..transport_peer()
            }
        }
    }

    /// A peer of a transport that passes no files.
    pub(crate) fn transport_peer() -> Peer {
        let identity = PeerIdentity {
            spiffe_id: "spiffe://test/peer".into(),
            certificate: Vec::new(),
            not_after: std::time::SystemTime::UNIX_EPOCH,
        };
        Peer {
            identity: Some(Arc::new(identity)),
            ..Peer::default()
        }
    }

    #[async_trait]
    impl FilePassing for Pipe {
        fn send(&self, file: OwnedFd) -> io::Result<Inode> {
            let inode = Inode::of(&file)?;
            if self.held(inode).is_none() {
                self.held.lock().push((inode, file));
            }
            self.sent.send_modify(|sent| *sent += 1);
            Ok(inode)
        }

        async fn receive(&self, inode: Inode, deadline: Instant) -> Result<OwnedFd> {
            let mut sent = self.sent.subscribe();
            loop {
                if let Some(file) = self.held(inode) {
                    return Ok(file);
                }
                let late = |_| Error::new(tonic::Code::DeadlineExceeded, "fd-timeout", "it did not arrive");
                let _sent = timeout_at(deadline, sent.changed()).await.map_err(late)?;
            }
        }
    }

    /// A way whose peer is `0`; no calls take it.
    pub(crate) struct Silent(pub(crate) Peer);

    #[async_trait]
    impl Remote<NetworkService> for Silent {
        fn peer(&self) -> &Peer {
            &self.0
        }

        async fn request(&self, _: &Ctx, request: &Request) -> Result<Request> {
            Ok(request.clone())
        }

        async fn close(&self, _: &Ctx, _: &Request) -> Result<()> {
            Ok(())
        }

        async fn find(&self, _: &Ctx, _: <NetworkService as Api>::Query) -> Result<Found<NetworkService>> {
            Ok(Box::pin(futures::stream::empty()))
        }
    }

    /// A request whose selected mechanism names this file.
    pub(crate) fn naming(url: &str) -> Request {
        let mut request = crate::core::testing::request();
        request.connection.mechanism = Some(kernel(url));
        request
    }

    pub(crate) fn kernel(url: &str) -> nsm_api::connection::Mechanism {
        nsm_api::connection::Mechanism {
            cls: "LOCAL".into(),
            r#type: "KERNEL".into(),
            parameters: [(INODE_URL.to_string(), url.to_string())].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_needs_no_parsing_names_what_it_does_when_it_is_parsed() {
        for url in [
            "file:///proc/7/ns/net",
            "file:///run/netns/a-b_c.d",
            "file:///",
            "file:///a//b",
        ] {
            assert_eq!(plain(url), parsed(url), "{url}");
            assert!(plain(url).is_some(), "{url}");
        }
        for url in [
            "file:///a/../b",
            "file:///./a",
            "file:///a%20b",
            "file:///a?b",
            "file:///a#b",
            "file:///a\\b",
            "file:///\u{e4}",
            "file://host/a",
            "inode://4/5",
            "/a",
            "",
        ] {
            assert_eq!(plain(url), None, "{url}");
        }
        assert_eq!(path("file:///a%20b"), Some("/a b".into()));
    }
}
