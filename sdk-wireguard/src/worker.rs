// SPDX-License-Identifier: Apache-2.0
//! Threads that may enter namespaces and sleep in the kernel, so that the runtime's do neither.
//!
//! **Guarantees**: a thread that cannot come home from a visit is never used again; the queue is bounded.
//! **Cost**: a thread is there from the first job on that finds all others at work.
//! **On close**: threads end when the last [`Workers`] is gone and the queue is empty.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nsm_sdk::core::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::link::Netlink;
use crate::netns::Netns;

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

/// Threads that do jobs in the order in which they came.
#[derive(Clone)]
pub(crate) struct Workers {
    jobs: mpsc::Sender<Job>,
    crew: Arc<Crew>,
}

/// What the threads share.
struct Crew {
    node: Arc<Netns>,
    queue: Mutex<mpsc::Receiver<Job>>,
    /// Jobs that are not done yet.
    jobs: AtomicUsize,
    threads: AtomicUsize,
    most: usize,
}

impl Workers {
    /// Threads that belong in `node`, at most `most` at a time.
    pub(crate) fn new(node: &Arc<Netns>, most: usize) -> Self {
        let (jobs, queue) = mpsc::channel(MAX_WAITING);
        let crew = Crew {
            node: node.clone(),
            queue: Mutex::new(queue),
            jobs: AtomicUsize::new(0),
            threads: AtomicUsize::new(0),
            most,
        };
        let crew = Arc::new(crew);
        Self { jobs, crew }
    }

    /// Has `job` done. It is done to its end, whether or not anybody waits.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Home) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |home| drop(reply.send(job(home))));
        let place = self.jobs.reserve().await.map_err(|_| ended())?;
        self.crew.hire()?;
        place.send(job);
        answer.await.map_err(|_| ended())?
    }

    /// Hands over what takes the kernel long to close. If there is nobody to hand it to, it is closed here.
    pub(crate) fn close(&self, closing: impl FnOnce() + Send + 'static) {
        match self.jobs.try_reserve() {
            Ok(place) if self.crew.hire().is_ok() => place.send(Box::new(move |_| closing())),
            _ => drop(thread(closing)),
        }
    }
}

impl Crew {
    /// Counts a job that comes, and starts a thread for it if all are at work.
    fn hire(self: &Arc<Self>) -> Result<()> {
        let jobs = self.jobs.fetch_add(1, Ordering::AcqRel) + 1;
        let another = |threads| (threads < jobs.min(self.most)).then_some(threads + 1);
        let hired = (self.threads).fetch_update(Ordering::AcqRel, Ordering::Acquire, another);
        if hired.is_err() {
            return Ok(());
        }
        self.clone().start().inspect_err(|_| {
            self.jobs.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// Starts a thread that is counted already.
    fn start(self: Arc<Self>) -> Result<()> {
        let crew = self.clone();
        let started = thread(move || match Home::at(crew.node.clone()) {
            Ok(home) => crew.work(home),
            Err(error) => {
                tracing::error!(%error, "a WireGuard thread cannot start");
                crew.threads.fetch_sub(1, Ordering::AcqRel);
                // Whoever waits for it is told by this.
                drop(crew.next());
                crew.jobs.fetch_sub(1, Ordering::AcqRel);
            }
        });
        started.inspect_err(|_| {
            self.threads.fetch_sub(1, Ordering::AcqRel);
        })
    }

    /// Does jobs until there are none to come, or the thread is lost and replaced.
    fn work(self: Arc<Self>, mut home: Home) {
        while !home.is_lost {
            let Some(job) = self.next() else { return };
            job(&mut home);
            self.jobs.fetch_sub(1, Ordering::AcqRel);
        }
        if let Err(error) = self.start() {
            tracing::error!(%error, "a WireGuard thread cannot be replaced");
        }
    }

    /// The next job; nothing when there are none to come.
    fn next(&self) -> Option<Job> {
        // Holding the lock while waiting is the point: it makes the threads take turns.
        self.queue.lock().blocking_recv()
    }
}

fn ended() -> Error {
    let text = "the WireGuard engine has ended, or can start no thread; then its log says why";
    Error::unavailable("wireguard", text)
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::mpsc;

    use super::*;
    use crate::netns::HERE;

    fn here() -> Arc<Netns> {
        Arc::new(Netns::open(Path::new(HERE)).expect("we are in a namespace"))
    }

    #[tokio::test]
    async fn threads_come_with_jobs_that_find_all_others_at_work() {
        let workers = Workers::new(&here(), 2);
        let threads = || workers.crew.threads.load(Ordering::Acquire);
        assert_eq!(threads(), 0);
        for _ in 0..3 {
            workers.run(|_| Ok(())).await.expect("done");
            // It has answered before it counts.
            while workers.crew.jobs.load(Ordering::Acquire) > 0 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(threads(), 1);
        let (go, gone): (Vec<_>, Vec<_>) = [(); 3].map(|()| mpsc::channel::<()>()).into_iter().unzip();
        let jobs = gone.into_iter().map(|gone| {
            workers.run(move |_| {
                let _ = gone.recv();
                Ok(())
            })
        });
        let (all, ()) = tokio::join!(futures::future::join_all(jobs), async {
            while workers.crew.jobs.load(Ordering::Acquire) < 3 {
                tokio::task::yield_now().await;
            }
            assert_eq!(threads(), 2);
            drop(go);
        });
        assert!(all.iter().all(Result::is_ok));
    }
}
