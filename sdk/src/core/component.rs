// SPDX-License-Identifier: Apache-2.0
//! What one running program gives its elements: its name, time, randomness and tasks.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use uuid::Uuid;

use super::meters::Meters;
use super::traces::Spans;

/// One running program: nsmgr, a forwarder, a registry, an endpoint or a client.
///
/// Many can live in one process, each with its own seed, on virtual time: that is how whole meshes are tested.
#[derive(Clone)]
pub struct Component(Arc<Inner>);

struct Inner {
    name: String,
    clock: Clock,
    random: Mutex<StdRng>,
    /// What the ids of its connections at the next hop are made of.
    origin: Uuid,
    stop: CancellationToken,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    meters: Meters,
    spans: Spans,
}

/// Where wall-clock time comes from.
#[derive(Clone, Copy, Debug)]
pub enum Clock {
    /// The machine's clock, which may be set while we run.
    System,
    /// A fixed start plus the runtime's time, which tests may pause and advance.
    Virtual {
        /// The wall-clock time at `at`.
        start: SystemTime,
        /// The runtime's time at `start`.
        at: Instant,
    },
}

impl Clock {
    /// A virtual clock that reads `start` now.
    pub fn starting_at(start: SystemTime) -> Self {
        Self::Virtual {
            start,
            at: Instant::now(),
        }
    }

    /// The wall-clock time.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one place where wall-clock time enters"
    )]
    pub fn now(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Virtual { start, at } => *start + at.elapsed(),
        }
    }
}

impl Component {
    /// A component of this process, on the machine's clock and randomness.
    pub fn new(name: impl Into<String>) -> Self {
        Self::with(name, Clock::System, StdRng::from_os_rng())
    }

    /// The same, as one of the lives of whoever has this name in `place`: each of them gives its connections the same
    /// ids at the next hop ([`Component::next_id`]). Nobody else may have that name there at the same time.
    pub fn placed(name: impl Into<String>, place: &str) -> Self {
        let (name, clock, random) = (name.into(), Clock::System, StdRng::from_os_rng());
        let home = Uuid::new_v5(&Uuid::NAMESPACE_OID, place.as_bytes());
        let origin = Uuid::new_v5(&home, name.as_bytes());
        Self::of(name, clock, random, origin)
    }

    /// A component whose time and randomness the caller decides.
    pub fn with(name: impl Into<String>, clock: Clock, mut random: StdRng) -> Self {
        let origin = uuid::Builder::from_random_bytes(random.random()).into_uuid();
        Self::of(name.into(), clock, random, origin)
    }

    fn of(name: String, clock: Clock, random: StdRng, origin: Uuid) -> Self {
        Self(Arc::new(Inner {
            name,
            clock,
            random: Mutex::new(random),
            origin,
            stop: CancellationToken::new(),
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
            meters: Meters::default(),
            spans: Spans::default(),
        }))
    }

    /// The name that this component writes into paths.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The wall-clock time.
    pub fn now(&self) -> SystemTime {
        self.0.clock.now()
    }

    /// The clock itself.
    pub fn clock(&self) -> Clock {
        self.0.clock
    }

    /// How long it is until `at`; zero when it has passed.
    pub fn until(&self, at: SystemTime) -> Duration {
        at.duration_since(self.now()).unwrap_or_default()
    }

    /// A fresh version 4 UUID, as text.
    pub fn uuid(&self) -> String {
        uuid::Builder::from_random_bytes(self.random(|random| random.random()))
            .into_uuid()
            .to_string()
    }

    /// The id that the connection `id` of this component has at the next hop, as text: always the same, so that a
    /// request which is repeated finds what it has left there; for an id that is no UUID, the same in this life of the
    /// component, or in all of them ([`Component::placed`]), since others may have that id too.
    ///
    /// It is no secret: who is first to use it keeps it.
    pub fn next_id(&self, id: &str) -> String {
        let next = match Uuid::try_parse(id) {
            Ok(id) => Uuid::new_v5(&id, b"next"),
            Err(_) => Uuid::new_v5(&self.0.origin, id.as_bytes()),
        };
        next.to_string()
    }

    /// Draws from the component's randomness.
    pub fn random<R>(&self, draw: impl FnOnce(&mut StdRng) -> R) -> R {
        draw(&mut self.0.random.lock())
    }

    /// Fires when the program is told to end. Everything still works: it is time to give back what is held of others,
    /// to close connections and to unregister.
    pub fn stop(&self) -> &CancellationToken {
        &self.0.stop
    }

    /// Fires when the component's tasks are to end, after [`Component::stop`].
    pub fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// Runs `future` until it ends or the returned task is dropped.
    #[must_use = "a task ends when it is dropped"]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        Task(self.spawn_tracked(name, future).abort_handle())
    }

    /// Runs `future` to its end, which must come by itself soon after [`Component::shutdown`] fires.
    pub fn spawn_detached(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.spawn_tracked(name, future));
    }

    fn spawn_tracked<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0
            .tasks
            .spawn(future.instrument(tracing::debug_span!("task", name, component = self.name())))
    }

    /// What it counts of itself.
    pub fn meters(&self) -> &Meters {
        &self.0.meters
    }

    /// The spans of its calls.
    pub fn spans(&self) -> &Spans {
        &self.0.spans
    }

    /// How many tasks of this component run.
    pub fn tasks(&self) -> usize {
        self.0.tasks.len()
    }

    /// Ends the component: fires [`Component::stop`] and [`Component::shutdown`] and waits until every task is gone.
    pub async fn end(&self) {
        self.0.stop.cancel();
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl std::fmt::Debug for Component {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Component").field(&self.0.name).finish()
    }
}

/// A running task, ended when this is dropped.
#[derive(Debug)]
pub struct Task(AbortHandle);

impl Task {
    /// Whether it has ended by itself.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn virtual_time_is_the_runtimes_time() {
        let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(clock.now(), SystemTime::UNIX_EPOCH + Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_dropped_task_ends() {
        let component = Component::new("test");
        let task = component.spawn("forever", std::future::pending());
        assert_eq!(component.tasks(), 1);
        drop(task);
        component.end().await;
        assert_eq!(component.tasks(), 0);
    }

    #[test]
    fn the_next_hops_id_is_known_from_ours_but_not_from_one_that_others_may_have() {
        let (one, two) = (Component::new("nsmgr"), Component::new("nsmgr"));
        let id = one.uuid();
        assert_eq!(one.next_id(&id), two.next_id(&id));
        assert_ne!(one.next_id(&id), one.next_id(&one.next_id(&id)));
        assert_eq!(one.next_id("nsc-0"), one.next_id("nsc-0"));
        assert_ne!(one.next_id("nsc-0"), two.next_id("nsc-0"));
    }

    #[test]
    fn every_life_in_a_place_has_the_same_next_ids_and_nobody_else_has() {
        let next = |name, place, id| Component::placed(name, place).next_id(id);
        assert_eq!(next("nsc", "node-1", "nsc-0"), next("nsc", "node-1", "nsc-0"));
        for (name, place, id) in [
            ("nsc", "node-2", "nsc-0"),
            ("nsc-2", "node-1", "nsc-0"),
            ("nsc", "node-1", "nsc-1"),
        ] {
            assert_ne!(next("nsc", "node-1", "nsc-0"), next(name, place, id));
        }
        assert_ne!(
            Component::placed("nsc", "node-1").uuid(),
            Component::placed("nsc", "node-1").uuid()
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let one = Component::with("a", Clock::System, StdRng::seed_from_u64(7));
        let two = Component::with("b", Clock::System, StdRng::seed_from_u64(7));
        assert_eq!(one.uuid(), two.uuid());
    }
}
