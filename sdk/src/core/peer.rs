// SPDX-License-Identifier: Apache-2.0
//! Who is at the other end of a call, and what can be passed to them beside the message.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Error, Result};
use crate::identity::Svid;

/// The other end of a transport connection, as TLS has proven it.
///
/// A server sees its caller here; a client sees the server that it called.
#[derive(Clone, Default)]
pub struct Peer {
    /// The identity of the peer's certificate; absent only where no transport is involved.
    pub identity: Option<Arc<PeerIdentity>>,
    /// What the caller sent as `nsm-client-token` and `nsm-client-token-expires`, each exactly once.
    pub token: Option<CallToken>,
    /// Who we are on this transport connection: what we tell this peer is signed with this identity's key
    /// (spec: tokens must be verifiable by the certificate that the connection presented).
    pub local: Option<Arc<Svid>>,
    /// Passes file descriptors to and from this peer; absent on anything but a unix socket.
    pub files: Option<Arc<dyn FilePassing>>,
    /// The transport connection.
    pub link: LinkId,
}

/// Tells the transport connections of this process apart. The default is none of them: no transport is involved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(u64);

impl LinkId {
    /// One that no other connection has or had.
    pub fn new_one() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Self(LAST.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What a peer's leaf certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// `spiffe://trust-domain/path`.
    pub spiffe_id: String,
    /// The leaf certificate, DER.
    pub certificate: Vec<u8>,
    /// The end of the leaf's validity.
    pub not_after: SystemTime,
}

/// A token and the expiry that was told with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallToken {
    /// A JWT.
    pub token: String,
    /// When the issuer's promise ends; may be earlier than the JWT's own `exp`.
    pub expires: SystemTime,
}

/// A file known by the device and inode that every process on the machine agrees on.
///
/// On the wire: `inode://<dev>/<ino>`, decimal (spec/request.md 9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Inode {
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
}

/// Passes descriptors over the transport connection of a call, beside its messages.
#[async_trait]
pub trait FilePassing: Send + Sync + 'static {
    /// Queues `file`: it leaves no later than the next message. Errors when the peer is gone or the queue is full.
    fn send(&self, file: OwnedFd) -> io::Result<Inode>;

    /// The file that the peer has sent or will send under this number, as a descriptor of its own.
    ///
    /// Errors: `fd-timeout` at `deadline`, `fd-lost` when the connection ends first or the kernel dropped it.
    async fn receive(&self, inode: Inode, deadline: Instant) -> Result<OwnedFd>;
}

impl Inode {
    /// The inode of an open file.
    pub fn of(file: impl std::os::fd::AsFd) -> io::Result<Self> {
        Ok(rustix::fs::fstat(file)?.into())
    }

    /// The inode of what is at `path`.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(rustix::fs::stat(path.as_ref())?.into())
    }
}

impl From<rustix::fs::Stat> for Inode {
    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
        }
    }
}

impl fmt::Display for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode://{}/{}", self.dev, self.ino)
    }
}

impl FromStr for Inode {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self> {
        let parts = url.strip_prefix("inode://").and_then(|rest| rest.split_once('/'));
        let parsed = parts.and_then(|(dev, ino)| {
            Some(Self {
                dev: dev.parse().ok()?,
                ino: ino.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| Error::invalid("bad-inode-url", format!("{url:?} is not inode://<dev>/<ino>")))
    }
}

impl Peer {
    /// The SPIFFE ID of the peer, if it has proven one.
    pub fn spiffe_id(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| identity.spiffe_id.as_str())
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("spiffe_id", &self.spiffe_id())
            .field("files", &self.files.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_urls_round_trip() {
        let inode = Inode {
            dev: 4,
            ino: 4_026_532_345,
        };
        assert_eq!(inode.to_string().parse::<Inode>().ok(), Some(inode));
        for bad in [
            "",
            "inode://",
            "inode://4",
            "inode://4/x",
            "file:///proc/1/fd/3",
            "inode://-1/2",
        ] {
            assert_eq!(
                bad.parse::<Inode>().map_err(|error| error.reason().to_string()),
                Err("bad-inode-url".into())
            );
        }
    }
}
