// SPDX-License-Identifier: Apache-2.0
//! Network namespaces: opening those of pods, making one of our own, and acting inside them.
//!
//! **Guarantees**: what is opened is a namespace and nothing else; a file of another kind is never opened for reading,
//! so a pipe or a device cannot stop us.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use nsm_sdk::core::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, fstatfs, openat, readlinkat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tonic::Code;

/// The file system of namespaces, from `linux/magic.h`.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// The namespace of the calling thread.
pub(crate) const HERE: &str = "/proc/thread-self/ns/net";

/// What a namespace is called while it is open: the device and the inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// What the namespace is called whose file has this `stat`.
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        }
    }

    /// What no namespace is called.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        Self { device: 0, inode: 0 }
    }
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
}

impl Netns {
    /// Opens what `path` leads to: a file of `/proc/PID/ns`, a bind mount of one, or a name in `/proc/self/fd`.
    ///
    /// Errors: `netns-gone`, `not-a-netns`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (handle, id) = handle(path)?;
        let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let fd = openat(CWD, through, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| gone(path, errno))?;
        Ok(Self { fd, id })
    }

    /// Makes a namespace that lives as long as what is returned. Call it on a thread that ends afterwards.
    pub(crate) fn new_on_this_thread() -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
            Error::new(
                Code::FailedPrecondition,
                "not-privileged",
                format!("cannot make a network namespace: {errno}; CAP_SYS_ADMIN is missing: run privileged"),
            )
        })?;
        Self::open(Path::new(HERE))
    }

    /// What the namespace is called.
    pub(crate) fn id(&self) -> NetnsId {
        self.id
    }

    /// Says that `path` leads here now, and not to `id` as it did.
    pub(crate) fn is_not(&self, path: &Path, id: NetnsId) -> Error {
        let (path, now) = (path.display(), self.id);
        Error::not_found(
            "netns-gone",
            format!("{path} is {now} now, and {id}, as it was, has ended"),
        )
    }

    /// Brings the calling thread into the namespace.
    pub(crate) fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|errno| {
            let text = format!("cannot enter the namespace {}: {errno}", self.id);
            match errno {
                Errno::INVAL => Error::invalid("not-a-netns", text),
                Errno::PERM => Error::new(
                    Code::FailedPrecondition,
                    "not-privileged",
                    format!("{text}; CAP_SYS_ADMIN is missing: run privileged"),
                ),
                _ => Error::internal("wireguard", text),
            }
        })
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
    handle(path).map(|(_, id)| id)
}

/// A name for the file behind `path` that cannot be read from, proven to be of a namespace.
fn handle(path: &Path) -> Result<(OwnedFd, NetnsId)> {
    let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| gone(path, errno))?;
    let through = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let target = readlinkat(CWD, through, Vec::new()).map_err(|errno| gone(path, errno))?;
    // The name that nsfs makes up; a file's own begins with a slash. Of a bind mount only entering tells the kind.
    let is_named = target.as_bytes().starts_with(b"net:[");
    let is_mounted = target.as_bytes().starts_with(b"/")
        && fstatfs(&handle).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(NSFS_MAGIC));
    if !is_named && !is_mounted {
        let (path, what) = (path.display(), target.to_string_lossy());
        return Err(Error::invalid(
            "not-a-netns",
            format!("{path} is {what}, not a network namespace; pass a file like /proc/PID/ns/net"),
        ));
    }
    let stat = fstat(&handle).map_err(|errno| gone(path, errno))?;
    Ok((handle, NetnsId::of(&stat)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_known_by_its_inode_through_any_path() {
        let direct = Netns::open(Path::new("/proc/self/ns/net")).expect("we are in a namespace");
        let through = format!("/proc/self/fd/{}", direct.as_fd().as_raw_fd());
        assert_eq!(identify(Path::new(&through)).expect("an open one"), direct.id());
    }

    #[test]
    fn what_is_not_a_namespace_is_refused_by_name() {
        let (reader, _writer) = std::io::pipe().expect("a pipe");
        let pipe = format!("/proc/self/fd/{}", reader.as_raw_fd());
        for path in [
            "/proc/self/ns/mnt",
            "/etc/passwd",
            "/dev/null",
            "/",
            pipe.as_str(),
        ] {
            let error = Netns::open(Path::new(path)).expect_err("not a network namespace");
            assert_eq!(error.reason(), "not-a-netns", "{path}");
            assert!(error.text().contains(path), "{error}");
        }
    }

    #[test]
    fn a_namespace_that_is_gone_says_so() {
        let error = identify(Path::new("/proc/self/fd/1000000")).expect_err("no such descriptor");
        assert_eq!(error.reason(), "netns-gone");
    }
}
