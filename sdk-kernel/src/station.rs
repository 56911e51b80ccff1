// SPDX-License-Identifier: Apache-2.0
//! Threads for talking to the kernel, and what each of them has.
//!
//! **Guarantees**: the kernel sleeps on these threads and never on the runtime's; what a thread began it finishes,
//! whether or not anybody waits; a thread that got stuck in a foreign namespace is replaced. The queue is bounded.
//! **On close**: threads end when the queue is closed and empty.

use std::path::Path;
use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::netlink::Netlink;
use crate::netns::{Home, Netns};

/// How many jobs wait for a thread.
const MAX_WAITING: usize = 4096;

/// How many threads make wires. The kernel has one lock for most of it: more than two gain nothing.
const THREADS: usize = 2;

/// What a thread has to work with.
pub(crate) struct Station {
    home: Home,
    /// A socket in our own namespace.
    pub(crate) node: Netlink,
}

impl Station {
    /// Brings the calling thread into `home` for good.
    pub(crate) fn new(home: Arc<Netns>) -> Result<Self> {
        let home = Home::at(home)?;
        let node = Netlink::open().map_err(|error| no_socket("our own namespace", &error))?;
        Ok(Self { home, node })
    }

    /// Our own namespace.
    pub(crate) fn home(&self) -> &Arc<Netns> {
        self.home.netns()
    }

    /// Opens the namespace behind `path`.
    pub(crate) fn open(&mut self, path: &Path) -> Result<Netns> {
        let netns = Netns::open(path)?;
        if netns.is_certain() {
            return Ok(netns);
        }
        self.home
            .visit(&netns, || ())
            .map_err(|error| error.context(path.display()))?;
        Ok(netns)
    }

    /// Opens a socket in `netns`, and runs `act` there. The socket keeps `netns` alive: drop it soon.
    pub(crate) fn enter<T>(
        &mut self,
        netns: &Netns,
        act: impl FnOnce() -> Result<T>,
    ) -> Result<(Netlink, T)> {
        self.home.visit(netns, || {
            let socket = Netlink::open().map_err(|error| no_socket(&netns.id().to_string(), &error))?;
            Ok((socket, act()?))
        })?
    }

    /// Opens a socket in `netns`.
    pub(crate) fn socket(&mut self, netns: &Netns) -> Result<Netlink> {
        Ok(self.enter(netns, || Ok(()))?.0)
    }

    /// Whether the thread must not be used any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.home.is_lost()
    }
}

fn no_socket(place: &str, error: &std::io::Error) -> Error {
    Error::internal(
        "kernel",
        format!("cannot open a netlink socket in {place}: {error}"),
    )
}

/// A piece of work for a thread.
pub(crate) type Job = Box<dyn FnOnce(&mut Station) + Send>;

/// Threads that do jobs in the order in which they came.
#[derive(Clone)]
pub(crate) struct Pool(mpsc::Sender<Job>);

type Queue = Arc<Mutex<mpsc::Receiver<Job>>>;

impl Pool {
    /// Starts the threads, which belong in `home`. Each holds a clone of `alive` until it ends.
    pub(crate) fn start<A: Clone + Send + 'static>(home: &Arc<Netns>, alive: &A) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let queue = Arc::new(Mutex::new(receiver));
        for _ in 0..THREADS {
            spawn(home.clone(), queue.clone(), alive.clone())?;
        }
        Ok(Self(sender))
    }

    /// Hands `job` to a thread by `deadline`.
    pub(crate) async fn run(&self, job: Job, deadline: Instant) -> Result<()> {
        match tokio::time::timeout_at(deadline, self.0.send(job)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(ended()),
            Err(_) => Err(Error::deadline(format!(
                "{MAX_WAITING} operations wait for the kernel already"
            ))),
        }
    }
}

/// What a caller is told who comes after the end.
pub(crate) fn ended() -> Error {
    Error::unavailable("kernel", "the kernel data plane has ended")
}

#[allow(
    clippy::only_used_in_recursion,
    reason = "that the thread holds it tells that the thread lives"
)]
fn spawn<A: Clone + Send + 'static>(home: Arc<Netns>, queue: Queue, alive: A) -> Result<()> {
    thread(move || {
        let mut station = match Station::new(home) {
            Ok(station) => station,
            Err(error) => return tracing::error!(%error, "a kernel thread cannot start"),
        };
        while !station.is_lost() {
            // Holding the lock while waiting is the point: it makes the threads take turns.
            let Some(job) = queue.lock().blocking_recv() else {
                return;
            };
            job(&mut station);
        }
        if let Err(error) = spawn(station.home().clone(), queue, alive) {
            tracing::error!(%error, "a kernel thread cannot be replaced");
        }
    })
}

/// Starts a thread that may sleep in the kernel.
pub(crate) fn thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name("nsm-kernel".into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::internal("kernel", format!("cannot start a thread: {error}")))
}
