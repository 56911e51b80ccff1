// SPDX-License-Identifier: Apache-2.0
//! The end of a pod, seen by its processes: the open device of a tunnel keeps the pod's namespace alive, so that the kernel
//! cannot tell.
//!
//! **Guarantees**: a pod has ended when a process was seen in its namespace and none is any more, and no mount keeps the
//! namespace that we or the first process of the node can see. Where no process can be seen (they are in a PID namespace
//! that is not ours) nothing is taken for an end.
//! **Cost**: a descriptor a tunnel. Looking takes a system call for every process of the node, on a thread of its own
//! that leaves the processors to all others; while it looks others ask, and are answered by the next look together.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;

use nsm_sdk::core::Result;
use rustix::fs::stat;
use rustix::process::{Pid, PidfdFlags, pidfd_open, setpriority_process};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::netns::NetnsId;
use crate::worker::thread;

/// The lowest priority.
const LAST: i32 = 19;

/// How many ask before others wait.
const MAX_ASKING: usize = 1024;

/// What there is of a pod.
pub(super) enum Pod {
    /// A process in its namespace. The descriptor can be read from when the process has ended.
    Process(OwnedFd),
    /// Only a mount.
    Mount,
    /// Nothing that can be seen.
    Nothing,
}

struct Ask {
    netns: NetnsId,
    reply: oneshot::Sender<Pod>,
}

/// Looks for the pods of all tunnels of an engine.
#[derive(Clone)]
pub(super) struct Pods(mpsc::Sender<Ask>);

impl Pods {
    /// Starts the thread, which ends when all that is returned is gone.
    pub(super) fn start() -> Result<Self> {
        let (asks, mut asking) = mpsc::channel::<Ask>(MAX_ASKING);
        thread(move || {
            // Of this thread alone. With its old priority it looks as well, at the cost of whoever makes a tunnel.
            let _ = setpriority_process(None, LAST);
            while let Some(first) = asking.blocking_recv() {
                let mut asks = vec![first];
                while let Ok(ask) = asking.try_recv() {
                    asks.push(ask);
                }
                asks.retain(|ask| !ask.reply.is_closed());
                if !asks.is_empty() {
                    answer(asks);
                }
            }
        })?;
        Ok(Self(asks))
    }

    /// What is in the namespace `netns`; nothing is told when the thread is gone.
    pub(super) async fn look(&self, netns: NetnsId) -> Option<Pod> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Ask { netns, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// Answers all with one look at the processes of the node.
fn answer(asks: Vec<Ask>) {
    let processes = processes(asks.iter().map(|ask| ask.netns).collect());
    let mut mounts = None;
    for Ask { netns, reply } in asks {
        let process = processes.get(&netns).and_then(|process| process.try_clone().ok());
        let pod = match process {
            Some(process) => Pod::Process(process),
            None if is_mounted(netns, mounts.get_or_insert_with(read_mounts)) => Pod::Mount,
            None => Pod::Nothing,
        };
        // Who has gone meanwhile needs no answer.
        let _ = reply.send(pod);
    }
}

/// A process in each of these namespaces that has one.
fn processes(mut wanted: HashSet<NetnsId>) -> HashMap<NetnsId, OwnedFd> {
    let mut found = HashMap::new();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if wanted.is_empty() {
            break;
        }
        let Some(netns) = netns_of(process).filter(|netns| wanted.contains(netns)) else {
            continue;
        };
        if let Some(process) = open(process, netns) {
            wanted.remove(&netns);
            found.insert(netns, process);
        }
    }
    found
}

fn netns_of(process: i32) -> Option<NetnsId> {
    let stat = stat(format!("/proc/{process}/ns/net")).ok()?;
    Some(NetnsId::of(&stat))
}

/// Opens `process`, which was in `netns`.
fn open(process: i32, netns: NetnsId) -> Option<OwnedFd> {
    let opened = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok();
    // What was opened may be another process under the same number: then the first has ended.
    opened.filter(|_| netns_of(process) == Some(netns))
}

/// What is mounted where we are, and where the first process of the node is.
fn read_mounts() -> String {
    let of = |process| std::fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    ["self", "1"].map(of).concat()
}

/// Whether a file of a name keeps the namespace, as `ip netns` and container runtimes make them.
fn is_mounted(netns: NetnsId, mounts: &str) -> bool {
    mounts.contains(&format!(" {netns} "))
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

    #[tokio::test]
    async fn a_namespace_with_a_process_in_it_has_one_whoever_asks_beside() {
        let here = identify(Path::new(HERE)).expect("we are in a namespace");
        let pods = Pods::start().expect("a thread");
        let looks = [here, NetnsId::nowhere(), here].map(|netns| pods.look(netns));
        let [one, nothing, other] = futures::future::join_all(looks)
            .await
            .try_into()
            .unwrap_or_else(|_| panic!("three answers"));
        assert!(matches!(one, Some(Pod::Process(_))));
        assert!(matches!(nothing, Some(Pod::Nothing)));
        assert!(matches!(other, Some(Pod::Process(_))));
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
