// SPDX-License-Identifier: Apache-2.0
//! Threads that may enter namespaces and sleep in the kernel, so that the runtime's do neither.
//!
//! **Guarantees**: a thread that cannot come home from a visit is never used again; the queue is bounded.
//! **On close**: threads end when the last [`Workers`] is gone and the queue is empty.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::link::Netlink;
use crate::netns::{HERE, Netns};

/// How many jobs wait for a thread.
const MAX_WAITING: usize = 4096;

/// The namespace that a thread belongs in, and the only way to leave it for a while.
pub(crate) struct Home {
    node: Arc<Netns>,
    is_lost: bool,
    /// A home is of one thread.
    thread: PhantomData<*const ()>,
}

impl Home {
    /// Brings the calling thread into `node` for good.
    fn at(node: Arc<Netns>) -> Result<Self> {
        node.enter()?;
        Ok(Self {
            node,
            is_lost: false,
            thread: PhantomData,
        })
    }

    /// A socket in the namespace of the node.
    pub(crate) fn netlink(&self) -> Result<Netlink> {
        Netlink::open()
    }

    /// Runs `act` inside of `netns`.
    pub(crate) fn visit<T>(&mut self, netns: &Netns, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_lost {
            return Err(Error::internal(
                "wireguard",
                "this thread cannot leave a foreign namespace",
            ));
        }
        netns.enter()?;
        // A panic in `act` ends the thread, which is as good as coming back.
        let done = act();
        if let Err(error) = self.node.enter() {
            self.is_lost = true;
            tracing::error!(%error, netns = %netns.id(), "a thread cannot leave a namespace; it is given up");
        }
        done
    }
}

type Job = Box<dyn FnOnce(&mut Home) + Send>;
type Queue = Arc<Mutex<mpsc::Receiver<Job>>>;

/// Threads that do jobs in the order in which they came.
#[derive(Clone)]
pub(crate) struct Workers(mpsc::Sender<Job>);

impl Workers {
    /// Starts `count` threads that belong in `node`.
    pub(crate) fn start(node: &Arc<Netns>, count: usize) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let queue = Arc::new(Mutex::new(receiver));
        for _ in 0..count {
            spawn(node.clone(), queue.clone())?;
        }
        Ok(Self(sender))
    }

    /// Has `job` done. It is done to its end, whether or not anybody waits.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Home) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |home| drop(reply.send(job(home))));
        self.0.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    /// Hands over what takes the kernel long to close. If there is nobody to hand it to, it is closed here.
    pub(crate) fn close(&self, closing: impl FnOnce() + Send + 'static) {
        let job: Job = Box::new(move |_| closing());
        if let Err(mpsc::error::TrySendError::Full(job) | mpsc::error::TrySendError::Closed(job)) =
            self.0.try_send(job)
        {
            drop(thread(move || {
                if let Ok(mut home) = Netns::open(Path::new(HERE)).and_then(|here| Home::at(here.into())) {
                    job(&mut home);
                }
            }));
        }
    }
}

fn ended() -> Error {
    Error::unavailable("wireguard", "the WireGuard engine has ended")
}

fn spawn(node: Arc<Netns>, queue: Queue) -> Result<()> {
    thread(move || {
        let mut home = match Home::at(node.clone()) {
            Ok(home) => home,
            Err(error) => return tracing::error!(%error, "a WireGuard thread cannot start"),
        };
        while !home.is_lost {
            // Holding the lock while waiting is the point: it makes the threads take turns.
            let Some(job) = queue.lock().blocking_recv() else {
                return;
            };
            job(&mut home);
        }
        if let Err(error) = spawn(node, queue) {
            tracing::error!(%error, "a WireGuard thread cannot be replaced");
        }
    })
}

/// Starts a thread that may sleep in the kernel.
pub(crate) fn thread(work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name("nsm-wireguard".into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Error::internal("wireguard", format!("cannot start a thread: {error}")))
}

/// A namespace of our own, in which devices are born and tried out: what is left in it goes with it.
pub(crate) async fn nursery() -> Result<Arc<Netns>> {
    let (reply, answer) = oneshot::channel();
    thread(move || drop(reply.send(Netns::new_on_this_thread())))?;
    Ok(Arc::new(answer.await.map_err(|_| ended())??))
}
