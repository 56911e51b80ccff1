// SPDX-License-Identifier: Apache-2.0
//! Finds a namespace whose path does not lead to it any more: the process by which it was named has ended, and it lives
//! on by a name or by another process.
//!
//! **Cost**: a few microseconds a process and a named namespace of the node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::netns::{Netns, NetnsId, identify};

/// How many processes, and how many names, are looked at.
const MOST: usize = 1 << 17;

/// Opens the namespace that `path` led to when it was called `id`, by that path or by any other.
///
/// Errors: `netns-gone`, `not-a-netns`.
pub(crate) fn open(path: &Path, id: NetnsId) -> nsm_sdk::core::Result<Netns> {
    let opened = Netns::open(path);
    if let Ok(netns) = &opened
        && netns.id() == id
    {
        return opened;
    }
    match find(id) {
        Some(netns) => Ok(netns),
        None => opened.and_then(|now| Err(now.is_not(path, id))),
    }
}

/// Opens the namespace by any process that is in it, or by a name that it has.
fn find(id: NetnsId) -> Option<Netns> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let mut paths = processes().chain(named(&mounts).take(MOST));
    paths.find_map(|path| {
        identify(&path).ok().filter(|there| *there == id)?;
        Netns::open(&path).ok().filter(|netns| netns.id() == id)
    })
}

/// The namespace of every process of the node.
fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |entry: &fs::DirEntry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
    };
    let processes = entries.filter(is_process).take(MOST);
    processes.map(|entry| entry.path().join("ns/net"))
}

/// The names that `ip netns` and container runtimes give to namespaces, of what `/proc/PID/mountinfo` has (proc(5)).
fn named(mounts: &str) -> impl Iterator<Item = PathBuf> + '_ {
    mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, name) = (fields.next()?, fields.next()?);
        // A name with a space in it is written in another way; nobody gives one.
        (root.starts_with("net:[") && !name.contains('\\')).then(|| name.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_whatever_has_become_of_its_path() {
        let ours = identify(Path::new("/proc/self/ns/net")).expect("we are in one");
        for lost in ["/proc/0/ns/net", "/proc/self/ns/mnt"] {
            let found = open(Path::new(lost), ours).expect("we are in it");
            assert_eq!(found.id(), ours);
        }
    }

    #[test]
    fn one_that_nobody_is_in_is_gone() {
        let nowhere = NetnsId::nowhere();
        for path in ["/proc/0/ns/net", "/proc/self/ns/net"] {
            let error = open(Path::new(path), nowhere).expect_err("nobody is in it");
            assert_eq!(error.reason(), "netns-gone");
            assert!(error.text().contains(path), "{error}");
        }
    }

    #[test]
    fn names_are_those_of_the_mounts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/root rw\n\
                      40 22 0:4 net:[4026532281] /run/netns/a rw shared:5 - nsfs nsfs rw\n\
                      41 22 0:4 mnt:[4026532282] /run/b rw - nsfs nsfs rw\n\
                      42 22 0:4 net:[4026532283] /run/netns/c\\040d rw - nsfs nsfs rw\nnonsense\n";
        assert_eq!(named(mounts).collect::<Vec<_>>(), [PathBuf::from("/run/netns/a")]);
    }
}
