// SPDX-License-Identifier: Apache-2.0
//! Listens to what the hop behind tells of a connection: for `monitor`, `upstreamrefresh` and `heal`.
//!
//! **Guarantees**: one stream serves a connection for as long as it goes on to the same hop by the same connection and
//! stands there: a refresh does not open another. What is told while a request is under way is held back until its
//! answer is known, so that what both tell is told on once.
//! The stream is opened [`AFTER`] the first answer: whoever waits for the connection has it by then, and what opening
//! costs, which is as much as a request, does not delay that. A connection that is closed before costs none. A next hop
//! that serves monitors of the link ([`Ear`]) has one stream for all of them.
//! **Cost**: one task; one stream where the next hop does not share it.

use std::sync::Arc;
use std::time::Duration;

use nsm_api::connection::{Connection, ConnectionEventType as Kind, State};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch as values};
use tokio::time::sleep;
use tracing::debug;

use super::fingerprint::Fingerprint;
use super::link::Ear;
use super::watch::{self, Change, Selected, Watch, is_refusal};
use crate::core::{Component, Ctx, Found, NetworkService, Packed, Result, Task, Way};

/// How long after its first answer a connection begins to be listened to.
pub(super) const AFTER: Duration = Duration::from_millis(20);

/// Somebody who listens to the next hop.
pub(crate) struct Upstream {
    way: Way<NetworkService>,
    next: String,
    course: Arc<Course>,
    task: Task,
}

/// What the next hop tells.
pub(crate) enum Told {
    /// The connection has changed.
    Change(Change),
    /// It tells no more; the connection is the one that was known last.
    End(Box<Connection>),
}

/// What requests and the one who listens tell each other.
struct Course {
    state: Mutex<Progress>,
    goes_on: Notify,
}

struct Progress {
    is_held: bool,
    /// What was answered since the one who listens looked, and since when that holds.
    answer: Option<Answer>,
    /// Whether it was not heard that something is broken.
    stands: bool,
    /// What the one who listens knows; absent when that is what was heard.
    known: Option<(u64, Fingerprint)>,
}

/// What was answered to a request, and the epoch that it has begun.
type Answer = (u64, Arc<Packed<Connection>>);

/// A connection as it was answered to a request.
pub(super) struct Answered<'c> {
    /// Since when it is like this.
    pub(super) epoch: u64,
    pub(super) print: Fingerprint,
    pub(super) connection: &'c Connection,
    /// The same as somebody keeps it.
    pub(super) kept: Option<Arc<Packed<Connection>>>,
}

impl Answered<'_> {
    /// What is kept of it.
    fn keep(&self) -> Answer {
        let kept = self.kept.clone();
        let kept = kept.unwrap_or_else(|| Arc::new(Packed::new(self.connection)));
        (self.epoch, kept)
    }
}

impl Upstream {
    /// Listens to the hop at the end of the connection's way, if it has one. What was answered is told with everything
    /// that is heard until there is another answer.
    pub(super) fn listen(
        ctx: &Ctx,
        answered: &Answered<'_>,
        tell: impl Fn(u64, Told) + Send + Sync + 'static,
    ) -> Option<Self> {
        let way: Way<NetworkService> = ctx.store().get()?;
        let course = Arc::new(Course {
            state: Mutex::new(Progress {
                is_held: false,
                answer: None,
                stands: true,
                known: Some((answered.epoch, answered.print)),
            }),
            goes_on: Notify::new(),
        });
        let listening = listen(
            Ear::of(ctx.component(), &way, &answered.connection.id),
            (ctx.component().clone(), way.clone()),
            Arc::clone(&course),
            answered.keep(),
            tell,
        );
        Some(Self {
            next: next_id(answered.connection).to_string(),
            task: ctx.component().spawn("upstream", listening),
            way,
            course,
        })
    }

    /// Holds back what is told until what is returned is dropped.
    pub(super) fn hold(&self) -> Held {
        self.course.state.lock().is_held = true;
        Held(Arc::clone(&self.course))
    }

    /// Goes on with the answer of another request; false when the connection does not go to where this listens any
    /// more, or when something is wrong there.
    pub(super) fn go_on(&self, ctx: &Ctx, answered: &Answered<'_>) -> bool {
        let is_same = |way: &Way<NetworkService>| Arc::ptr_eq(&way.0, &self.way.0);
        let leads_here =
            ctx.store().with(is_same).unwrap_or(false) && next_id(answered.connection) == self.next;
        let mut state = self.course.state.lock();
        if !leads_here || !state.stands || self.task.is_finished() {
            return false;
        }
        let known = Some((answered.epoch, answered.print));
        if state.known != known {
            state.known = known;
            state.answer = Some(answered.keep());
        }
        true
    }
}

impl Course {
    /// Notes that something was heard, and whether the connection stands by that.
    fn heard(&self, stands: bool) {
        let mut state = self.state.lock();
        state.stands = stands;
        state.known = None;
    }

    /// Waits while things are held back; the answer that has come meanwhile, if any.
    async fn answer(&self) -> Option<Answer> {
        loop {
            let goes_on = self.goes_on.notified();
            {
                let mut state = self.state.lock();
                if !state.is_held {
                    return state.answer.take();
                }
            }
            goes_on.await;
        }
    }
}

/// The id of the connection at the next hop; empty when it goes no further.
fn next_id(connection: &Connection) -> &str {
    let next = connection.path.as_ref().and_then(|path| {
        let next = usize::try_from(path.index).ok()?.checked_add(1)?;
        path.path_segments.get(next)
    });
    next.map_or("", |segment| &segment.id)
}

async fn listen(
    ear: Option<Ear>,
    next_hop: (Component, Way<NetworkService>),
    course: Arc<Course>,
    (mut epoch, known): Answer,
    tell: impl Fn(u64, Told) + Send + Sync,
) {
    let ended = |epoch, known| {
        course.state.lock().stands = false;
        tell(epoch, Told::End(Box::new(known)));
    };
    let events = match ear {
        Some(ear) => Ok(ear.hear()),
        None => Box::pin(open(next_hop, &known)).await,
    };
    let mut watch = match events {
        Ok(events) => Watch::of(known, events),
        Err(error) if is_refusal(&error) => {
            return debug!(%error, "the next hop cannot be listened to");
        }
        Err(_) => {
            let (epoch, known) = course.answer().await.unwrap_or((epoch, known));
            return ended(epoch, known.open());
        }
    };
    loop {
        let event = watch.event().await;
        if let Some((since, answer)) = course.answer().await {
            epoch = since;
            watch.know(answer);
        }
        match event {
            Some(Ok(event)) => {
                if let Some(change) = watch.apply(event) {
                    course.heard(change.connection.state() != State::Down);
                    tell(epoch, Told::Change(change));
                }
            }
            Some(Err(error)) if is_refusal(&error) => {
                return debug!(%error, "the next hop tells no more");
            }
            Some(Err(_)) | None => return ended(epoch, watch.known()),
        }
    }
}

/// Opens a stream for this connection alone; what that takes is gone when it is open.
async fn open(
    (component, way): (Component, Way<NetworkService>),
    known: &Packed<Connection>,
) -> Result<Found<NetworkService>> {
    sleep(AFTER).await;
    let selected = Selected::only(&known.open());
    watch::open(&component, &way, selected).await
}

/// How a client's connection stands, by what the next hop tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct News {
    /// How often the next hop has asked to refresh it.
    pub(crate) refreshes: u64,
    /// What is wrong with it, if anything.
    pub(crate) broken: Option<Broken>,
}

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Broken {
    /// The next hop is gone, or cannot be heard.
    Hop,
    /// The next hop tells that a hop behind it is.
    Behind,
    /// The next hop has closed the connection.
    Closed,
}

/// The one who listens for all elements of a client.
struct Shared {
    upstream: Upstream,
    news: values::Sender<News>,
}

/// What is heard of a client's connection.
pub(crate) struct Heard {
    pub(crate) news: values::Receiver<News>,
    /// How often the next hop had asked to refresh it when the answer was not known yet.
    pub(crate) refreshes: u64,
}

/// What is heard of a client's connection after an answer; nothing where it has no way.
pub(crate) fn hear(ctx: &Ctx, connection: &Connection) -> Option<Heard> {
    let answered = Answered {
        epoch: 0,
        print: Fingerprint::of(connection),
        connection,
        kept: None,
    };
    let shared = ctx.store().take::<Shared>();
    let known = shared.filter(|shared| shared.upstream.go_on(ctx, &answered));
    // Whoever begins to listen now has heard nothing.
    let refreshes = known.as_ref().map_or(0, |shared| shared.news.borrow().refreshes);
    let shared = known.or_else(|| {
        let news = values::Sender::new(News::default());
        let sender = news.clone();
        let tell = move |_, told| sender.send_modify(|news| news.hear(told));
        let upstream = Upstream::listen(ctx, &answered, tell)?;
        Some(Shared { upstream, news })
    })?;
    let news = shared.news.subscribe();
    ctx.store().insert(shared);
    Some(Heard { news, refreshes })
}

/// Holds back what is told of a client's connection until what is returned is dropped.
pub(crate) fn hold(ctx: &Ctx) -> Option<Held> {
    ctx.store().with(|shared: &Shared| shared.upstream.hold())
}

/// Whoever listens is held back.
pub(crate) struct Held(Arc<Course>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.state.lock().is_held = false;
        self.0.goes_on.notify_one();
    }
}

impl News {
    fn hear(&mut self, told: Told) {
        match told {
            Told::End(_) => self.broken = Some(Broken::Hop),
            Told::Change(change) if change.kind == Kind::Delete => self.broken = Some(Broken::Closed),
            Told::Change(change) => match change.connection.state() {
                State::Down => self.broken = Some(Broken::Behind),
                State::RefreshRequested => self.refreshes += 1,
                _ => self.broken = None,
            },
        }
    }
}
