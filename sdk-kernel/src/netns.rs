// SPDX-License-Identifier: Apache-2.0
//! Network namespaces: opening them from a path that a stranger gave, and acting inside them.
//!
//! **Guarantees**: what is opened is a namespace and nothing else; no file of another kind is ever opened for
//! reading, so a pipe or a device cannot stop us. A namespace is entered on a thread of our own, and a thread that
//! cannot leave it again is never used for anything else.
//! **Cost**: opening three system calls; a visit two.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat, readlinkat, stat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use tonic::Code;

/// The file system of namespaces, from `linux/magic.h`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// What a namespace is called: the device and the inode of its file. The kernel uses inode numbers again after a
/// namespace is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct NetnsId {
    /// The device number of the nsfs file system.
    pub(crate) device: u64,
    /// The inode number in it.
    pub(crate) inode: u64,
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// An open namespace: it lives at least as long as this.
#[derive(Debug)]
pub(crate) struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    is_certain: bool,
}

impl Netns {
    /// Opens what `path` leads to: a file of `/proc/PID/ns`, a bind mount of one, or the `/proc/self/fd` name of a
    /// descriptor, even of one that was opened with `O_PATH`.
    ///
    /// Errors: `netns-gone`, `not-a-netns`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (handle, id, is_certain) = handle(path)?;
        let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let fd = openat(CWD, through, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| gone(path, errno))?;
        Ok(Self { fd, id, is_certain })
    }

    /// The namespace that the calling thread is in.
    pub(crate) fn current() -> Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// What the namespace is called.
    pub(crate) fn id(&self) -> NetnsId {
        self.id
    }

    /// Whether it is known to be a network namespace. If not, entering it tells.
    pub(crate) fn is_certain(&self) -> bool {
        self.is_certain
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What the namespace behind `path` is called, without opening it for use.
///
/// Errors: `netns-gone`, `not-a-netns`.
pub(crate) fn identify(path: &Path) -> Result<NetnsId> {
    handle(path).map(|(_, id, _)| id)
}

/// The device and inode of the file behind `path`, whatever it is: a name to compare with those of namespaces that are
/// known. No other file can have the name of one that is alive.
pub(crate) fn glance(path: &Path) -> Option<NetnsId> {
    let stat = stat(path).ok()?;
    Some(NetnsId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

/// A name for the file behind `path` that cannot be read from, proven to be a namespace.
fn handle(path: &Path) -> Result<(OwnedFd, NetnsId, bool)> {
    let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| gone(path, errno))?;
    let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let target = readlinkat(CWD, through, Vec::new()).map_err(|errno| gone(path, errno))?;
    // The name that nsfs makes up. A file's own name starts with a slash, so no other file can look like this.
    let is_named = target.as_bytes().starts_with(b"net:[");
    // A bind mount has its own name instead; which kind of namespace it is shows when it is entered.
    let is_mounted = target.as_bytes().starts_with(b"/")
        && fstatfs(&handle).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(NSFS_MAGIC));
    if !is_named && !is_mounted {
        return Err(not_a_netns(path, &target.to_string_lossy()));
    }
    let stat = fstat(&handle).map_err(|errno| gone(path, errno))?;
    let id = NetnsId {
        device: stat.st_dev,
        inode: stat.st_ino,
    };
    Ok((handle, id, is_named))
}

fn not_a_netns(path: &Path, what: &str) -> Error {
    let path = path.display();
    Error::invalid(
        "not-a-netns",
        format!("{path} is {what}, not a network namespace; pass a file like /proc/PID/ns/net"),
    )
}

fn gone(path: &Path, errno: Errno) -> Error {
    Error::not_found(
        "netns-gone",
        format!(
            "cannot open the network namespace {}: {errno}; its pod has ended, or the path is not visible here",
            path.display()
        ),
    )
}

/// The namespace that a thread belongs in, and the only way to leave it for a while.
#[derive(Debug)]
pub(crate) struct Home {
    netns: Arc<Netns>,
    lost: bool,
    /// A home is of one thread.
    thread: PhantomData<*const ()>,
}

impl Home {
    /// The calling thread belongs in `netns`, and is there after this.
    pub(crate) fn at(netns: Arc<Netns>) -> Result<Self> {
        enter(&netns)?;
        Ok(Self {
            netns,
            lost: false,
            thread: PhantomData,
        })
    }

    /// Where the thread belongs.
    pub(crate) fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// Whether the thread could not come back from a visit. It must end.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Runs `act` inside `netns`.
    pub(crate) fn visit<T>(&mut self, netns: &Netns, act: impl FnOnce() -> T) -> Result<T> {
        if self.lost {
            return Err(Error::internal(
                "kernel",
                "this thread is in a foreign namespace for good",
            ));
        }
        enter(netns)?;
        // From here to the end of `act` a panic ends the thread, which is as good as coming back.
        let done = act();
        if let Err(error) = enter(&self.netns) {
            self.lost = true;
            tracing::error!(%error, netns = %netns.id, "a thread cannot leave a namespace; it is given up");
        }
        Ok(done)
    }
}

fn enter(netns: &Netns) -> Result<()> {
    move_into_link_name_space(netns.fd.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
        if errno == Errno::INVAL {
            return not_a_netns(Path::new(&netns.id.to_string()), "a namespace of another kind");
        }
        let (code, hint) = match errno {
            Errno::PERM => (
                Code::FailedPrecondition,
                "; CAP_SYS_ADMIN is missing: run privileged",
            ),
            _ => (Code::Internal, ""),
        };
        Error::new(
            code,
            "kernel",
            format!("cannot enter the namespace {}: {errno}{hint}", netns.id),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_inode_through_any_path() {
        let direct = Netns::open(Path::new("/proc/self/ns/net")).expect("we are in a namespace");
        let through = format!("/proc/self/fd/{}", direct.as_fd().as_raw_fd());
        assert_eq!(identify(Path::new(&through)).expect("an open one"), direct.id());
        let handle = openat(CWD, "/proc/self/ns/net", OFlags::PATH, Mode::empty()).expect("a handle");
        let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
        assert_eq!(
            Netns::open(Path::new(&through)).expect("reopened").id(),
            direct.id()
        );
        assert_eq!(glance(Path::new(&through)), Some(direct.id()));
    }

    #[test]
    fn what_is_not_a_namespace_is_refused_by_name() {
        for path in [
            "/proc/self/ns/mnt",
            "/etc/passwd",
            "/dev/null",
            "/proc/self/ns",
            "/",
        ] {
            let error = Netns::open(Path::new(path)).expect_err("not a network namespace");
            assert_eq!(error.reason(), "not-a-netns", "{path}");
            assert!(error.text().contains(path), "{error}");
        }
    }

    #[test]
    fn a_pipe_does_not_stop_us() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let error = Netns::open(Path::new(&path)).expect_err("a pipe");
        assert_eq!(error.reason(), "not-a-netns");
    }

    #[test]
    fn a_namespace_that_is_gone_says_so() {
        let error = identify(Path::new("/proc/self/fd/1000000")).expect_err("no such descriptor");
        assert_eq!(error.reason(), "netns-gone");
    }
}
