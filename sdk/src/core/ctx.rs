// SPDX-License-Identifier: Apache-2.0
//! What travels beside a message from element to element.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::traces::{Side, Trace, Underway};
use super::{Component, Error, Events, Later, Peer, Result, Store};

/// How long a call may take whose caller set no deadline, or which we make for ourselves.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(15);

/// The least time that a call gets which we make for ourselves, to undo or to repeat what a hasty caller has asked.
const LEAST_BUDGET: Duration = Duration::from_secs(1);

/// The circumstances of one call: whose it is, until when it may take, and what its elements share.
///
/// Cheap to clone. Two stores travel in it: [`Ctx::store`] lives as long as the connection (or registration),
/// [`Ctx::call`] as long as the call.
#[derive(Clone, Debug)]
pub struct Ctx {
    component: Component,
    peer: Arc<Peer>,
    deadline: Instant,
    budget: Duration,
    cancel: CancellationToken,
    store: Store,
    call: Store,
    events: Option<Events>,
    established: bool,
    is_event: bool,
    trace: Option<Trace>,
}

impl Ctx {
    /// A call that just arrived from `peer`, to be answered by `deadline`, or within [`DEFAULT_BUDGET`].
    pub fn new(component: &Component, peer: Peer, deadline: Option<Instant>) -> Self {
        let now = Instant::now();
        Self {
            component: component.clone(),
            peer: Arc::new(peer),
            deadline: deadline.unwrap_or(now + DEFAULT_BUDGET),
            budget: deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now)),
            cancel: CancellationToken::new(),
            store: Store::default(),
            call: Store::default(),
            events: None,
            established: false,
            is_event: false,
            trace: None,
        }
    }

    /// A call that the component makes for itself.
    pub fn own(component: &Component, budget: Duration) -> Self {
        Self::new(component, Peer::default(), Some(Instant::now() + budget))
    }

    /// A call that the component makes for itself while it serves this one, whose elements tell those of this one
    /// nothing.
    pub(crate) fn aside(&self) -> Self {
        Self::own(&self.component, self.remaining()).traced(self.trace)
    }

    /// The component that runs the chain.
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// The caller, as the transport has proven it.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether the connection makes the call for itself, and not its caller.
    pub(crate) fn is_event(&self) -> bool {
        self.is_event
    }

    /// When the call must have ended.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The time that was left when the call arrived; zero when its caller set no deadline.
    pub fn budget(&self) -> Duration {
        self.budget
    }

    /// The time that is left.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Fires when the caller does not wait for the answer any more.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// What the elements keep for this connection.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the elements tell each other during this call.
    pub fn call(&self) -> &Store {
        &self.call
    }

    /// Requests and closes this connection again later, through `begin`; absent before `begin`.
    pub fn events(&self) -> Option<&Events> {
        self.events.as_ref()
    }

    /// The same for elements that cannot do without. Errors: `no-begin`, a fault of the chain's author.
    pub fn begun(&self) -> Result<&Events> {
        let missing = || {
            Error::internal(
                "no-begin",
                "an element that acts later needs begin before it in its chain",
            )
        };
        self.events.as_ref().ok_or_else(missing)
    }

    /// Starts a task of this connection, which keeps what is returned in [`Ctx::store`]: what `act` does with the
    /// events of the connection ends there. Errors: as [`Ctx::begun`].
    pub fn later<F>(&self, name: &'static str, act: impl FnOnce(Events) -> F) -> Result<Later>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (events, withdraw) = self.begun()?.withdrawable();
        Ok(Later::new(withdraw, self.component.spawn(name, act(events))))
    }

    /// Whether an earlier request of this connection has succeeded and was not closed since.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Where the call is in a trace, if it is in one.
    pub fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// The same circumstances at this place in a trace.
    pub(crate) fn traced(self, trace: Option<Trace>) -> Self {
        Self { trace, ..self }
    }

    /// Begins a span for one side of the call `name`, and answers the circumstances of what belongs to it. No span, and
    /// nothing new, when no spans are noted.
    pub(crate) fn spanned(&self, side: Side, name: &'static str) -> (Cow<'_, Self>, Option<Underway>) {
        match Underway::begin(&self.component, self.trace, side, name) {
            Some(span) => (Cow::Owned(self.clone().traced(span.trace())), Some(span)),
            None => (Cow::Borrowed(self), None),
        }
    }

    /// Runs `wait` until the deadline or until the caller is gone. `what` completes "… within the deadline".
    pub async fn bounded<T>(&self, what: &str, wait: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = wait => done,
            () = self.cancel.cancelled() => Err(Error::new(
                tonic::Code::Cancelled, "cancelled", format!("the caller gave up before we could {what}"))),
            () = tokio::time::sleep_until(self.deadline) => Err(Error::deadline(format!(
                "could not {what} within the deadline of {:?}", self.budget.max(Duration::from_millis(1))))),
        }
    }

    /// The same circumstances for undoing what this call did: neither its end nor its caller's stops them.
    #[must_use]
    pub fn postponed(&self) -> Self {
        let budget = self.budget.clamp(LEAST_BUDGET, DEFAULT_BUDGET);
        Self {
            deadline: Instant::now() + budget,
            cancel: CancellationToken::new(),
            ..self.clone()
        }
    }

    /// The same circumstances with a per-call store of their own, for an attempt among several.
    #[must_use]
    pub fn attempt(&self) -> Self {
        Self {
            call: Store::default(),
            ..self.clone()
        }
    }

    /// The same circumstances with an earlier deadline.
    #[must_use]
    pub fn within(&self, at_most: Duration) -> Self {
        Self {
            deadline: Instant::now()
                .checked_add(at_most)
                .map_or(self.deadline, |soon| self.deadline.min(soon)),
            ..self.clone()
        }
    }

    /// A later call of the same connection that it makes for itself, with the time that its first request had, but at
    /// least [`LEAST_BUDGET`].
    pub(crate) fn event(&self, budget: Duration) -> Self {
        let time = if budget.is_zero() {
            DEFAULT_BUDGET
        } else {
            budget.max(LEAST_BUDGET)
        };
        let cancel = CancellationToken::new();
        Self {
            deadline: Instant::now() + time,
            budget,
            cancel,
            call: Store::default(),
            is_event: true,
            // What the first request was part of has ended long ago.
            trace: None,
            ..self.clone()
        }
    }

    /// The same call, which its caller cannot stop any more.
    pub(crate) fn uncancelled(&self) -> Self {
        Self {
            cancel: CancellationToken::new(),
            ..self.clone()
        }
    }

    /// What `begin` hands on: the connection's store, its events, and whether it is established.
    pub(crate) fn of_connection(self, store: &Store, events: &Events, established: bool) -> Self {
        Self {
            store: store.clone(),
            events: Some(events.clone()),
            established,
            ..self
        }
    }
}
