// SPDX-License-Identifier: Apache-2.0
//! The end of a pod, seen by its processes: the open device of a tunnel keeps the pod's namespace alive, so that the kernel
//! cannot tell.
//!
//! **Guarantees**: a pod has ended when a process was seen in its namespace and none is any more, and no mount keeps the
//! namespace that we or the first process of the node can see. Where no process can be seen (they are in a PID namespace
//! that is not ours) nothing is taken for an end.
//! **Cost**: a descriptor a tunnel. Looking takes a system call for every process of the node, on a thread of
//! [`worker`](crate::worker), after a tunnel was made and when the process that was seen has ended.

use std::os::fd::OwnedFd;

use rustix::fs::stat;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netns::NetnsId;

/// What there is of a pod.
pub(super) enum Pod {
    /// A process in its namespace. The descriptor can be read from when the process has ended.
    Process(OwnedFd),
    /// Only a mount.
    Mount,
    /// Nothing that can be seen.
    Nothing,
}

/// Looks for what is in the namespace `netns`.
pub(super) fn look(netns: NetnsId) -> Pod {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    match processes.find_map(|process| open(process, netns)) {
        Some(process) => Pod::Process(process),
        None if is_mounted(netns) => Pod::Mount,
        None => Pod::Nothing,
    }
}

/// Opens `process` if it is in `netns`.
fn open(process: i32, netns: NetnsId) -> Option<OwnedFd> {
    let path = format!("/proc/{process}/ns/net");
    let is_in = || stat(path.as_str()).is_ok_and(|stat| netns.is(&stat));
    if !is_in() {
        return None;
    }
    let opened = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok();
    // What was opened may be another process under the same number: then the first has ended.
    opened.filter(|_| is_in())
}

/// Whether a file of a name keeps the namespace, as `ip netns` and container runtimes make them.
fn is_mounted(netns: NetnsId) -> bool {
    let name = format!(" {netns} ");
    ["self", "1"].iter().any(|process| {
        let mounts = std::fs::read_to_string(format!("/proc/{process}/mountinfo"));
        mounts.is_ok_and(|mounts| mounts.contains(&name))
    })
}

/// Waits until `process` has ended.
pub(super) async fn ended(process: OwnedFd) -> std::io::Result<()> {
    watched(process)?.readable().await.map(drop)
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that close or change their descriptor, which this one does not"
)]
fn watched(process: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(process, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::netns::{HERE, identify};

    #[test]
    fn a_namespace_with_a_process_in_it_has_one() {
        let here = identify(Path::new(HERE)).expect("we are in a namespace");
        assert!(matches!(look(here), Pod::Process(_)));
        let nowhere = NetnsId::nowhere();
        assert!(matches!(look(nowhere), Pod::Nothing));
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().expect("cat");
        let here = identify(Path::new(HERE)).expect("we are in a namespace");
        let number = i32::try_from(child.id()).expect("a number");
        let process = open(number, here).expect("it is here");
        drop(child.stdin.take());
        ended(process).await.expect("seen");
        child.wait().expect("ended");
        assert!(open(number, here).is_none());
    }
}
