// SPDX-License-Identifier: Apache-2.0
//! The data plane of the kernel: wires are veth pairs between the namespaces of two pods, or devices of tunnels.
//!
//! **Guarantees**: a call with nothing to change asks the kernel nothing. A call that was given up, or failed, leaves
//! nothing new behind. Interfaces that are not ours are never changed. What an earlier life of the program made is
//! adopted when it is asked for, with the traffic in it, and removed when it is not.
//! **On close**: [`Kernel::end`] waits until what was to be removed is gone, and keeps everything else.
//! **Cost**: a new wire about 0.5 ms; a refresh 10 µs; six threads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use nsm_sdk::core::{Component, Error, Result, Task};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::doomed;
use crate::journal::Journal;
use crate::leftover::{self, Leftover};
use crate::monitor::{self, Monitor};
use crate::netlink;
use crate::netns::Netns;
use crate::recover::{self, Left};
use crate::shared::Shared;
use crate::station::{Pool, Station, ended, thread};
use crate::{observe, underlay, veth};

/// How the mark on our interfaces reads by default: `NSM`.
pub const GROUP: u32 = 0x004e_534d;

/// How long what an earlier life made is kept for whoever asks for it again: the reference's longest token lifetime
/// (`NSM_MAX_TOKEN_LIFETIME`, 10 min) and one minute more.
pub const GRACE: Duration = Duration::from_secs(11 * 60);

/// How long what looks half made is left to whoever may be at work on it.
const HALF: Duration = Duration::from_secs(1);

/// How long removing something may take that nobody waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How a data plane of the kernel is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file in which it keeps what its next life needs to know. Without one it finds its interfaces by looking
    /// into every namespace of the node, but not rules whose interface is gone.
    pub journal: Option<PathBuf>,
    /// How long what an earlier life made is kept for whoever asks for it again.
    pub grace: Duration,
    /// The link group that marks its interfaces, 1 to 2³¹ − 1. Each forwarder of a node needs one of its own: what has
    /// its mark and is in no wire of its own it takes for what an earlier life has left.
    pub group: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            journal: None,
            grace: GRACE,
            group: GROUP,
        }
    }
}

/// See the [module](self).
pub struct Kernel {
    pub(crate) shared: Arc<Shared>,
    pool: Pool,
    /// Ends when the last thread does.
    alive: mpsc::Receiver<()>,
    tasks: Vec<Task>,
    _closing: Closing,
}

/// Lets the threads that remove end when nothing is left to remove.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.reaper.close();
    }
}

impl Kernel {
    /// Starts a data plane in the network namespace of the calling thread, and takes over what an earlier life left.
    ///
    /// Errors: `not-privileged`, `no-veth`, `journal`, `kernel`.
    pub async fn start(component: &Component, config: Config) -> Result<Self> {
        let home = Arc::new(Netns::current()?);
        check_privilege(&home).await?;
        let monitor = Monitor::open()
            .inspect_err(
                |error| tracing::warn!(%error, "no reports from the kernel: every refresh will look"),
            )
            .ok();
        let journal = config.journal.as_deref().map(Journal::open).transpose()?;
        leftover::begin(component.meters());
        let shared = Arc::new(Shared::new(component, config.group, journal, monitor));
        let (alive, ends) = mpsc::channel(1);
        let pool = Pool::start(&home, &alive)?;
        let taken = ask(&pool, Instant::now() + PATIENCE * 6, "take over", {
            let shared = shared.clone();
            move |station| Ok(recover::recover(station, &shared))
        });
        let halves = taken.await?;
        let closing = Closing(shared.clone());
        doomed::start(&shared, &home, &alive)?;
        let end = component.shutdown();
        let listening = monitor::listen(shared.clone());
        let listening = end.clone().run_until_cancelled_owned(listening);
        let waiting = expire(shared.clone(), config.grace);
        let waiting = end.clone().run_until_cancelled_owned(waiting);
        let finishing = finish(pool.clone(), shared.clone(), halves);
        let finishing = end.clone().run_until_cancelled_owned(finishing);
        let mut tasks = vec![
            component.spawn("kernel-monitor", listening.map(|_| ())),
            component.spawn("kernel-grace", waiting.map(|_| ())),
            component.spawn("kernel-halves", finishing.map(|_| ())),
        ];
        match underlay::reports() {
            Ok(reports) => {
                let listening = underlay::listen(shared.clone(), reports);
                let listening = end.clone().run_until_cancelled_owned(listening);
                tasks.push(component.spawn("kernel-underlay", listening.map(|_| ())));
            }
            Err(error) => {
                tracing::warn!(%error, "MTUs follow the underlay only when a wire is asked for");
            }
        }
        Ok(Self {
            shared,
            pool,
            alive: ends,
            tasks,
            _closing: closing,
        })
    }

    /// The ids of connections whose wire somebody else has just removed, as they become known: once for each end.
    pub fn lost(&self) -> broadcast::Receiver<String> {
        self.shared.lost.subscribe()
    }

    /// The port and the number of every VXLAN device in our own namespace that is not ours: the kernel has each pair once
    /// for all namespaces. Ours are there between two tunnels, and keep their numbers over a restart.
    ///
    /// Errors: `kernel`.
    pub async fn numbers(&self) -> Result<Vec<(u16, u32)>> {
        let deadline = Instant::now() + PATIENCE;
        let ours = [self.shared.group(), self.shared.doomed_group()];
        ask(&self.pool, deadline, "list VXLAN devices", move |station| {
            let links = observe::links(&mut station.node);
            let links = links.map_err(|error| veth::broken(&"our own namespace", &error))?;
            let others = links.into_iter().filter(|link| !ours.contains(&link.group));
            Ok(others.filter_map(|link| link.number).collect())
        })
        .await
    }

    /// The threads that talk to the kernel.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How many requests this process has sent to the kernel.
    pub fn requests(&self) -> u64 {
        netlink::sent()
    }

    /// Waits until what is to be removed is gone, and ends the threads. Wires stay.
    pub async fn end(self) {
        let Self {
            pool,
            mut alive,
            tasks,
            _closing: closing,
            ..
        } = self;
        drop((tasks, pool, closing));
        while alive.recv().await.is_some() {}
    }
}

/// Tries what the threads will do, so that what is missing is said once and at the start.
async fn check_privilege(home: &Arc<Netns>) -> Result<()> {
    let (reply, answer) = oneshot::channel();
    let home = home.clone();
    thread(move || drop(reply.send(recover::check(home))))?;
    answer.await.map_err(|_| ended())?
}

/// Has `job` done on a thread of ours, by `deadline`.
pub(crate) async fn ask<T: Send + 'static>(
    pool: &Pool,
    deadline: Instant,
    what: &str,
    job: impl FnOnce(&mut Station) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (reply, answer) = oneshot::channel();
    let job = move |station: &mut Station| {
        // Nobody waits any more: what has not begun need not.
        if !reply.is_closed() {
            let _ = reply.send(job(station));
        }
    };
    pool.run(Box::new(job), deadline).await?;
    match tokio::time::timeout_at(deadline, answer).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(ended()),
        Err(_) => Err(Error::deadline(format!("could not {what} in time"))),
    }
}

/// Removes what an earlier life has half made.
async fn finish(pool: Pool, shared: Arc<Shared>, halves: Vec<Left>) {
    if halves.is_empty() {
        return;
    }
    tokio::time::sleep(HALF).await;
    let done = ask(&pool, Instant::now() + PATIENCE * 6, "finish", move |station| {
        recover::finish(station, &shared, halves);
        Ok(())
    });
    if let Err(error) = done.await {
        tracing::warn!(%error, "what an earlier life has half made may stay behind");
    }
}

/// Removes what an earlier life made and nobody has asked for within `grace`.
async fn expire(shared: Arc<Shared>, grace: Duration) {
    tokio::time::sleep(grace).await;
    let strays = shared.state().strays();
    tracing::info!("removing what an earlier life left and nobody wants");
    for stray in strays {
        shared.collected(Leftover::Unwanted);
        shared.doom_remains(vec![stray]);
    }
    shared.doom_orphans().await;
}
