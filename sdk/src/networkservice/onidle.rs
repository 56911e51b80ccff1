// SPDX-License-Identifier: Apache-2.0
//! Tells once that no connection has been there for a while, and takes none after that.
//!
//! **Guarantees**: the time runs from construction and whenever the last connection has gone. After it has run out
//! every request fails with `endpoint expired`.
//! **Placement**: in an endpoint, behind `begin`.
//! **On failure**: a connection whose first request fails does not count.
//! **On close**: the connection does not count any more once it is forgotten.
//! **Cost**: one task; a lock for a first request.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::core::{Component, Ctx, Element, Error, NetworkService, Next, Request, Result, Task};

/// See the [module](self).
pub struct OnIdle {
    state: Arc<watch::Sender<State>>,
    _clock: Option<Task>,
}

#[derive(Clone, Copy, Default)]
struct State {
    active: usize,
    expired: bool,
}

/// Counts a connection for as long as it is kept.
struct Active(Arc<watch::Sender<State>>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.active -= 1);
    }
}

impl OnIdle {
    /// Calls `idle` when there has been no connection for `timeout`; never when that is zero.
    pub fn new(component: &Component, timeout: Duration, idle: impl FnOnce() + Send + 'static) -> Self {
        let state = Arc::new(watch::Sender::new(State::default()));
        let wait = expire(Arc::clone(&state), timeout);
        let clock = async move {
            wait.await;
            idle();
        };
        let clock = (!timeout.is_zero()).then(|| component.spawn("onidle", clock));
        Self { state, _clock: clock }
    }
}

/// Waits until no connection has been there for `time`.
async fn expire(state: Arc<watch::Sender<State>>, time: Duration) {
    let mut changes = state.subscribe();
    loop {
        let idle = changes.borrow_and_update().active == 0;
        let changed = match idle {
            true => timeout(time, changes.changed()).await.is_ok(),
            false => changes.changed().await.is_ok(),
        };
        let expires = |state: &mut State| {
            state.expired = state.active == 0;
            state.expired
        };
        if !changed && state.send_if_modified(expires) {
            return;
        }
    }
}

#[async_trait]
impl Element<NetworkService> for OnIdle {
    fn name(&self) -> &'static str {
        "onidle"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if !ctx.store().has::<Active>() {
            let counted = self.state.send_if_modified(|state| {
                state.active += usize::from(!state.expired);
                !state.expired
            });
            if !counted {
                let text = "endpoint expired: no connection was there for its idle timeout; ask another one";
                return Err(Error::unavailable("endpoint-expired", text));
            }
            ctx.store().insert(Active(Arc::clone(&self.state)));
        }
        next.request(ctx, request).await
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let closed = next.close(ctx, request).await;
        ctx.store().take::<Active>();
        closed
    }
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    const SECOND: Duration = Duration::from_secs(1);

    /// The element with 2 s, and when it told.
    fn element(component: &Component) -> (OnIdle, Arc<Mutex<Option<Duration>>>) {
        let (start, told) = (Instant::now(), Arc::new(Mutex::new(None)));
        let tell = Arc::clone(&told);
        (
            OnIdle::new(component, 2 * SECOND, move || {
                *tell.lock() = Some(start.elapsed())
            }),
            told,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn passes_the_standard_cases() {
        let component = Component::new("test");
        standard_cases::<NetworkService, _>(|| element(&component).0, request()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn c104_time_runs_only_while_no_connection_is_there() {
        let component = Component::new("test");
        let (onidle, told) = element(&component);
        let chain = before(onidle, &Probe::new());
        let connection = Connection::new();
        sleep(SECOND).await;
        chain.request(&connection.first(), &mut request()).await.unwrap();
        sleep(2 * SECOND).await;
        chain.request(&connection.again(), &mut request()).await.unwrap();
        chain.close(&connection.again(), &mut request()).await.unwrap();
        sleep(10 * SECOND).await;
        assert_eq!(*told.lock(), Some(5 * SECOND));
        let error = chain
            .request(&Connection::new().first(), &mut request())
            .await
            .unwrap_err();
        assert!(error.text().contains("endpoint expired"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_first_request_does_not_count() {
        let component = Component::new("test");
        let (onidle, told) = element(&component);
        let chain = before(
            onidle,
            &Probe::answering(|_| Err(Error::unavailable("told-so", "told to fail"))),
        );
        sleep(SECOND).await;
        let connection = Connection::new();
        chain
            .request(&connection.first(), &mut request())
            .await
            .unwrap_err();
        connection.store.clear();
        sleep(10 * SECOND).await;
        assert_eq!(*told.lock(), Some(3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn zero_never_tells() {
        let component = Component::new("test");
        let chain = before(
            OnIdle::new(&component, Duration::ZERO, || panic!("it told")),
            &Probe::new(),
        );
        sleep(1000 * SECOND).await;
        chain
            .request(&Connection::new().first(), &mut request())
            .await
            .expect("it never expires");
    }
}
