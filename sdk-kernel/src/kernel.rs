// SPDX-License-Identifier: Apache-2.0
//! The data plane of the kernel: wires are veth pairs between the namespaces of two pods.
//!
//! **Guarantees**: a call with nothing to change asks the kernel nothing. A call that was given up, or failed, leaves
//! nothing new behind. Interfaces that are not ours are never changed. What an earlier life of the program made is
//! adopted when it is asked for, with the traffic in it, and removed when it is not.
//! **On close**: [`Kernel::end`] waits until what was to be removed is gone, and keeps everything else.
//! **Cost**: a new wire about 0.5 ms; a refresh 10 µs; six threads.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use nsm_sdk::core::{Component, Error, Result, Task};
use nsm_sdk::dataplane::{Counters, DataPlane, Interface, Wire};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::check::{bad_name, check};
use crate::doomed;
use crate::journal::Journal;
use crate::make::Attempt;
use crate::monitor::{self, Monitor};
use crate::netns::{Netns, glance, identify};
use crate::observe::{self, Which};
use crate::outcome::Outcome;
use crate::recover::{self, Left};
use crate::shared::{Claim, Shared};
use crate::station::{Pool, Station, ended, thread};
use crate::{leave, netlink, veth};

/// How the mark on our interfaces reads by default: `NSM`.
pub const GROUP: u32 = 0x004e_534d;

/// How long what an earlier life made is kept for whoever asks for it again: the reference's longest token lifetime
/// (`NSM_MAX_TOKEN_LIFETIME`, 10 min) and one minute more.
pub const GRACE: Duration = Duration::from_secs(11 * 60);

/// How long what looks half made is left to whoever may be at work on it.
const HALF: Duration = Duration::from_secs(1);

/// How often what is in the way of a wire is removed before we give up.
const MAX_ATTEMPTS: usize = 5;

/// How long removing something may take that nobody waits for.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a data plane of the kernel is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file in which it keeps what its next life needs to know. Without one it finds its interfaces by looking
    /// into every namespace of the node, but not rules whose interface is gone.
    pub journal: Option<PathBuf>,
    /// How long what an earlier life made is kept for whoever asks for it again.
    pub grace: Duration,
    /// The link group that marks its interfaces. Each forwarder of a node needs one of its own.
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
    shared: Arc<Shared>,
    pool: Pool,
    /// Ends when the last thread does.
    alive: mpsc::Receiver<()>,
    tasks: [Task; 3],
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
        let listening = component.spawn("kernel-monitor", listening.map(|_| ()));
        let waiting = component.spawn("kernel-grace", waiting.map(|_| ()));
        let finishing = component.spawn("kernel-halves", finishing.map(|_| ()));
        Ok(Self {
            shared,
            pool,
            alive: ends,
            tasks: [listening, waiting, finishing],
            _closing: closing,
        })
    }

    /// The ids of connections whose wire somebody else has just removed, as they become known: once for each end.
    pub fn lost(&self) -> broadcast::Receiver<String> {
        self.shared.lost.subscribe()
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

    async fn attempt(
        &self,
        wire: &Wire,
        is_refresh: bool,
        deadline: Instant,
        claim: &Arc<Claim>,
    ) -> Result<Outcome> {
        let (shared, wire, claim) = (self.shared.clone(), wire.clone(), claim.clone());
        let what = format!("make the wire of connection {}", wire.connection);
        ask(&self.pool, deadline, &what, move |station| {
            let attempt = Attempt {
                station,
                shared: &shared,
                claim: &claim,
                wire: &wire,
                is_refresh,
                deadline,
                is_watched: false,
            };
            attempt.run()
        })
        .await
    }

    /// Makes the wire, after whatever is in its way.
    async fn make(&self, wire: &Wire, is_refresh: bool, deadline: Instant, claim: &Arc<Claim>) -> Result<()> {
        let mut vanished = None;
        for _ in 0..MAX_ATTEMPTS {
            self.vacant(wire, deadline).await?;
            match self.attempt(wire, is_refresh, deadline, claim).await? {
                Outcome::Kept => return Ok(()),
                Outcome::Made(undo) => {
                    undo.keep();
                    return Ok(());
                }
                Outcome::Undone(error) => {
                    // The caller may look at once; when time is short it goes on without us.
                    let _ = self.vacant(wire, deadline).await;
                    return Err(error);
                }
                Outcome::Again => {}
                Outcome::Vanished(error) if vanished.is_none() => vanished = Some(error),
                Outcome::Vanished(error) => {
                    let _ = self.vacant(wire, deadline).await;
                    return Err(vanishing(wire, &error));
                }
            }
        }
        let text = format!(
            "what is in the way of connection {} comes back each time",
            wire.connection
        );
        Err(Error::unavailable("kernel", text))
    }

    /// Waits until nothing of the names of `wire` is being removed.
    async fn vacant(&self, wire: &Wire, deadline: Instant) -> Result<()> {
        let names = [&wire.client, &wire.endpoint]
            .map(|interface| Ok((identify(&interface.netns)?, interface.name.clone())))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let what = format!("the interface {} was still being removed", wire.client.name);
        let is_vacant = |state: &mut crate::state::State| !names.iter().any(|name| state.is_doomed(name));
        self.shared.until(&what, deadline, is_vacant).await
    }
}

/// An interface of `wire` was taken away from us twice.
fn vanishing(wire: &Wire, error: &Error) -> Error {
    let Wire { client, endpoint, .. } = wire;
    let text = format!(
        "{}: the interface {} in {} or {} in {} is removed by somebody else as soon as it is there; find out which \
         program does that in the pod",
        error.text(),
        client.name,
        client.netns.display(),
        endpoint.name,
        endpoint.netns.display()
    );
    Error::unavailable("interface-gone", text)
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
    strays
        .into_iter()
        .for_each(|stray| shared.doom_remains(vec![stray]));
    shared.doom_orphans().await;
}

#[async_trait]
impl DataPlane for Kernel {
    async fn connect(&self, wire: &Wire, before: Option<&Wire>, deadline: Instant) -> Result<()> {
        check(wire)?;
        let glanced = (glance(&wire.client.netns), glance(&wire.endpoint.netns));
        if let (Some(client), Some(endpoint)) = glanced
            && self.shared.is_made(wire, client, endpoint)
        {
            return Ok(());
        }
        let claim = self.shared.claim(&wire.connection, deadline).await?;
        let (client, endpoint) = (identify(&wire.client.netns)?, identify(&wire.endpoint.netns)?);
        if client == endpoint && wire.client.name == wire.endpoint.name {
            return Err(bad_name(&wire.client.name, "names both ends in one namespace"));
        }
        // Whoever had the turn before may have made it.
        if self.shared.is_made(wire, client, endpoint) {
            return Ok(());
        }
        if let Some(before) = before {
            leave::former(&self.shared, wire, before)?;
        }
        self.make(wire, before.is_some(), deadline, &claim).await
    }

    async fn disconnect(&self, wire: &Wire) -> Result<()> {
        let claim = self
            .shared
            .claim(&wire.connection, Instant::now() + PATIENCE)
            .await?;
        if let Some(serial) = leave::recorded(&self.shared, wire) {
            self.shared.doom(serial);
            return Ok(());
        }
        let (shared, wire) = (self.shared.clone(), wire.clone());
        let what = format!("look for the wire of connection {}", wire.connection);
        let job = move |station: &mut Station| {
            // Nobody makes a wire of the connection while we look, whether or not our caller still waits.
            let _claim = claim;
            leave::unrecorded(station, &shared, &wire)
        };
        ask(&self.pool, Instant::now() + PATIENCE, &what, job).await
    }

    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)> {
        let wire = wire.clone();
        let what = format!("count what went through connection {}", wire.connection);
        ask(&self.pool, Instant::now() + PATIENCE, &what, move |station| {
            let mut count = |interface: &Interface| {
                let netns = station.open(&interface.netns)?;
                let mut socket = station.socket(&netns)?;
                let seen = observe::link(&mut socket, &Which::Name(&interface.name))
                    .map_err(|error| veth::broken(&netns.id(), &error))?;
                let gone = || format!("there is no interface {} in {}", interface.name, netns.id());
                seen.map(|seen| seen.counters)
                    .ok_or_else(|| Error::not_found("interface-gone", gone()))
            };
            Ok((count(&wire.client)?, count(&wire.endpoint)?))
        })
        .await
    }
}
