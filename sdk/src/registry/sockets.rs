// SPDX-License-Identifier: Apache-2.0
//! Sockets that endpoints listen on, as `sendfd` and `recvfd` pass them from process to process.
//!
//! In a process an endpoint's socket is `unix:///path`, on the wire `inode://<dev>/<ino>` with a descriptor of the
//! socket's inode passed beside the message. Whoever has such a descriptor can connect to the socket, whatever its
//! own file system looks like, also after the path is gone.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{FileType, Mode, OFlags, fstat};

use crate::core::{Error, Inode, Result};

/// The path of a `unix://` URL.
pub(super) fn path(url: &str) -> Option<&Path> {
    let path = url.strip_prefix("unix://")?;
    path.starts_with('/').then(|| Path::new(path))
}

/// Opens the socket at `path` such that it can be passed.
///
/// Errors: `file-gone`, `not-a-socket`.
pub(super) fn open(path: &Path) -> Result<(OwnedFd, Inode)> {
    let gone = |error: std::io::Error| {
        let path = path.display();
        let text = format!("failed to send a file {path} (the file probably doesn't exist): {error}");
        Error::not_found("file-gone", text)
    };
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let file = file.map_err(|error| gone(error.into()))?;
    let inode = Inode::of(&file).map_err(gone)?;
    check(&file, path.display())?;
    Ok((file, inode))
}

/// Refuses everything but sockets: what is passed on is for connecting, not for reading.
fn check(file: impl AsFd, name: impl std::fmt::Display) -> Result<()> {
    let stat =
        fstat(file).map_err(|error| Error::internal("kernel", format!("cannot stat {name}: {error}")))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
        return Ok(());
    }
    let text = format!("{name} is not a socket, so no endpoint listens there");
    Err(Error::invalid("not-a-socket", text))
}

/// A socket that a peer has passed; closed when nobody holds it any more.
#[derive(Debug)]
pub(super) struct Socket {
    inode: Inode,
    file: OwnedFd,
}

impl Socket {
    /// Errors: `not-a-socket`.
    pub(super) fn new(inode: Inode, file: OwnedFd) -> Result<Self> {
        check(&file, inode)?;
        Ok(Self { inode, file })
    }

    pub(super) fn inode(&self) -> Inode {
        self.inode
    }

    /// How this process reaches it.
    pub(super) fn url(&self) -> String {
        format!("{}{}", own(), self.file.as_raw_fd())
    }
}

fn own() -> String {
    format!("unix:///proc/{}/fd/", std::process::id())
}

/// The sockets that are held somewhere in this process, so that each is open once and has one URL.
#[derive(Clone, Debug, Default)]
pub(super) struct Sockets(Arc<Mutex<Vec<Weak<Socket>>>>);

impl Sockets {
    pub(super) fn get(&self, inode: Inode) -> Option<Arc<Socket>> {
        self.find(|socket| socket.inode == inode)
    }

    /// What a URL of this process stands for; nothing when it stands for no socket of ours, or a closed one.
    pub(super) fn at(&self, url: &str) -> Option<Arc<Socket>> {
        let number: RawFd = url.strip_prefix(&own())?.parse().ok()?;
        self.find(|socket| socket.file.as_raw_fd() == number)
    }

    /// Whether only this table can know what a URL stands for.
    pub(super) fn is_own(url: &str) -> bool {
        url.starts_with(&own())
    }

    /// Adds a socket, or drops it for the same one that is there already.
    pub(super) fn add(&self, socket: Socket) -> Arc<Socket> {
        let mut sockets = self.0.lock();
        sockets.retain(|socket| socket.strong_count() > 0);
        let same = |there: &Arc<Socket>| there.inode == socket.inode;
        if let Some(there) = sockets.iter().filter_map(Weak::upgrade).find(same) {
            return there;
        }
        let socket = Arc::new(socket);
        sockets.push(Arc::downgrade(&socket));
        socket
    }

    fn find(&self, is: impl Fn(&Socket) -> bool) -> Option<Arc<Socket>> {
        let sockets = self.0.lock();
        sockets.iter().filter_map(Weak::upgrade).find(|socket| is(socket))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::io;
    use std::os::unix::net::UnixListener;

    use async_trait::async_trait;
    use nsm_api::registry::NetworkServiceEndpoint;
    use tokio::sync::watch;
    use tokio::time::{Instant, timeout_at};

    use super::*;
    use crate::core::{Api, Ctx, FilePassing, Found, NseRegistry, Peer, Registration, Remote, Way};

    /// One transport connection that passes what is sent into it at once.
    pub(crate) struct Pipe(watch::Sender<Vec<(Inode, OwnedFd)>>);

    impl Pipe {
        pub(crate) fn new() -> Arc<Self> {
            Arc::new(Self(watch::Sender::new(Vec::new())))
        }

        /// The peer at the other end.
        pub(crate) fn peer(self: &Arc<Self>) -> Peer {
            Peer {
                files: Some(Arc::clone(self) as _),
                ..Peer::default()
            }
        }

        /// The way to that peer.
        pub(crate) fn way(self: &Arc<Self>) -> Way<NseRegistry> {
            Way(Arc::new(Silent(self.peer())))
        }

        pub(crate) fn sent(&self) -> Vec<Inode> {
            self.0.borrow().iter().map(|(inode, _)| *inode).collect()
        }

        /// Closes what was sent and not received.
        pub(crate) fn clear(&self) {
            self.0.send_modify(Vec::clear);
        }
    }

    #[async_trait]
    impl FilePassing for Pipe {
        fn send(&self, file: OwnedFd) -> io::Result<Inode> {
            let inode = Inode::of(&file)?;
            self.0.send_modify(|sent| sent.push((inode, file)));
            Ok(inode)
        }

        async fn receive(&self, inode: Inode, deadline: Instant) -> Result<OwnedFd> {
            let mut sent = self.0.subscribe();
            let there = sent.wait_for(|sent| sent.iter().any(|(there, _)| *there == inode));
            let late = |_| Error::new(tonic::Code::DeadlineExceeded, "fd-timeout", "it did not arrive");
            let there = timeout_at(deadline, there).await.map_err(late)?.expect("open");
            let (_, file) = there
                .iter()
                .find(|(there, _)| *there == inode)
                .expect("waited for");
            Ok(file.try_clone().expect("duplicates"))
        }
    }

    /// A way that no calls take.
    struct Silent(Peer);

    #[async_trait]
    impl Remote<NseRegistry> for Silent {
        fn peer(&self) -> &Peer {
            &self.0
        }
        async fn request(
            &self,
            _: &Ctx,
            message: &Registration<NetworkServiceEndpoint>,
        ) -> Result<Registration<NetworkServiceEndpoint>> {
            Ok(message.clone())
        }
        async fn close(&self, _: &Ctx, _: &Registration<NetworkServiceEndpoint>) -> Result<()> {
            Ok(())
        }
        async fn find(&self, _: &Ctx, _: <NseRegistry as Api>::Query) -> Result<Found<NseRegistry>> {
            Ok(Box::pin(futures::stream::empty()))
        }
    }

    /// A socket that somebody listens on, and its directory.
    pub(crate) struct Listening {
        pub(crate) url: String,
        pub(crate) inode: Inode,
        listener: UnixListener,
        _directory: tempfile::TempDir,
    }

    pub(crate) fn listen() -> Listening {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).expect("listens");
        let (_, inode) = open(&path).expect("opens");
        Listening {
            url: format!("unix://{}", path.display()),
            inode,
            listener,
            _directory: directory,
        }
    }

    impl Listening {
        /// Whether this URL leads here.
        pub(crate) fn is_reached_by(&self, url: &str) -> bool {
            let path = path(url).expect("a unix url");
            self.listener.set_nonblocking(true).expect("non-blocking");
            std::os::unix::net::UnixStream::connect(path).is_ok() && self.listener.accept().is_ok()
        }
    }

    /// How many descriptors of this socket the process has open.
    pub(crate) fn open_files(socket: &Listening) -> usize {
        let files = std::fs::read_dir("/proc/self/fd").expect("lists");
        let inode = |file: std::fs::DirEntry| {
            let stat = rustix::fs::stat(file.path()).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let inodes = files.filter_map(|file| inode(file.expect("an entry")));
        inodes
            .filter(|inode| *inode == (socket.inode.dev, socket.inode.ino))
            .count()
    }
}
