// SPDX-License-Identifier: Apache-2.0
//! Closes every connection before the program ends.
//!
//! **Guarantees**: after [`Cleanup::close_all`] has begun no connection is established any more, and every one that
//! was is closed, with the hops behind or without them as the [`Scope`] says.
//! **Placement**: in a client chain, behind `begin` and before `dial`.
//! **Reads / writes**: a guard in [`Ctx::store`]; [`LocalOnly`] in [`Ctx::call`] of a close.
//! **Cost**: one entry in a table a connection.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use crate::core::{
    Backoff, Component, Ctx, Element, Error, Event, Events, NetworkService, Next, Request, Result,
};
use crate::elements::connect::LocalOnly;

/// How many connections are closed at once.
const AT_ONCE: usize = 64;

/// Who is told that a connection is closed because the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The hops behind release what they hold, too.
    Everybody,
    /// Only what this program holds is released.
    Local,
}

/// See the [module](self). Cheap to clone: one clone is in the chain, another with whoever ends the program.
#[derive(Clone)]
pub struct Cleanup {
    scope: Scope,
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    open: BTreeMap<u64, Events>,
    last: u64,
    is_closing: bool,
}

/// The connection's place in the table, which it leaves when this is dropped.
struct Counted {
    number: u64,
    table: Arc<Mutex<Table>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.number);
    }
}

impl Cleanup {
    /// Nothing is closed until [`Cleanup::close_all`].
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            table: Arc::default(),
        }
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.table.lock().open.len()
    }

    /// Closes every connection, again where that fails, until `deadline`. Returns how many are left then.
    pub async fn close_all(&self, component: &Component, deadline: Instant) -> usize {
        self.table.lock().is_closing = true;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let closing = async {
            loop {
                let open: Vec<_> = self.table.lock().open.values().cloned().collect();
                if open.is_empty() {
                    return;
                }
                let close = |events: Events| async move {
                    if let Err(error) = events.run(Event::Close).await {
                        debug!(%error, "closing a connection before the program ends");
                    }
                };
                futures::stream::iter(open)
                    .for_each_concurrent(AT_ONCE, close)
                    .await;
                if self.connections() > 0 {
                    sleep(backoff.next(component)).await;
                }
            }
        };
        let _rest_is_counted = timeout_at(deadline, closing).await;
        self.connections()
    }

    /// Enters the connection into the table, unless that is being emptied.
    fn count(&self, ctx: &Ctx) -> Result<()> {
        let events = ctx.begun()?.clone();
        let mut table = self.table.lock();
        if table.is_closing {
            return Err(ending());
        }
        if ctx.store().has::<Counted>() {
            return Ok(());
        }
        table.last += 1;
        let number = table.last;
        table.open.insert(number, events);
        ctx.store().insert(Counted {
            number,
            table: Arc::clone(&self.table),
        });
        Ok(())
    }
}

fn ending() -> Error {
    Error::unavailable("shutdown", "the program is shutting down")
}

#[async_trait]
impl Element<NetworkService> for Cleanup {
    fn name(&self) -> &'static str {
        "cleanup"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if self.table.lock().is_closing {
            return Err(ending());
        }
        next.request(ctx, message).await?;
        self.count(ctx)
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if self.scope == Scope::Local && self.table.lock().is_closing {
            ctx.call().insert(LocalOnly);
        }
        next.close(ctx, message).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Chain;
    use crate::core::testing::{Probe, Wire, request, standard_cases};
    use crate::elements::begin::Begin;
    use crate::elements::clienturl::ClientUrl;
    use crate::elements::connect::Connect;
    use crate::elements::dial::Dial;

    const TIME: Duration = Duration::from_secs(10);
    const URL: &str = "unix:///nse";

    /// A forwarder's client side and the endpoint behind it.
    struct Client {
        component: Component,
        cleanup: Cleanup,
        chain: Chain<NetworkService>,
        local: Arc<Probe<NetworkService>>,
        peer: Arc<Probe<NetworkService>>,
    }

    /// Counts what passes it.
    struct Passes(Arc<Probe<NetworkService>>);

    #[async_trait]
    impl Element<NetworkService> for Passes {
        fn name(&self) -> &'static str {
            "passes"
        }
        async fn close(
            &self,
            ctx: &Ctx,
            message: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            crate::chain![Arc::clone(&self.0)].close(ctx, message).await?;
            next.close(ctx, message).await
        }
    }

    fn client(scope: Scope) -> Client {
        let (component, cleanup) = (Component::new("forwarder"), Cleanup::new(scope));
        let (local, peer) = (Probe::new(), Probe::new());
        let wire = Wire::new([(URL, crate::chain![Arc::clone(&peer)])]);
        let chain = crate::chain![
            Begin::server(&component),
            ClientUrl::new(URL),
            cleanup.clone(),
            Dial::new(wire as _, Duration::ZERO),
            Passes(Arc::clone(&local)),
            Connect
        ];
        Client {
            component,
            cleanup,
            chain,
            local,
            peer,
        }
    }

    impl Client {
        async fn ask(&self, id: &str) -> Result<()> {
            let mut message = request();
            message.connection.id = id.into();
            let ctx = Ctx::own(&self.component, TIME);
            self.chain.request(&ctx, &mut message).await
        }

        async fn close_all(&self) -> usize {
            self.cleanup
                .close_all(&self.component, Instant::now() + TIME)
                .await
        }
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| Cleanup::new(Scope::Everybody), request()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_connection_is_closed_with_the_hops_behind() {
        let client = client(Scope::Everybody);
        for id in ["a", "b", "c"] {
            client.ask(id).await.expect("established");
            client.ask(id).await.expect("refreshed");
        }
        assert_eq!(client.cleanup.connections(), 3);
        assert_eq!(client.close_all().await, 0);
        assert_eq!((client.peer.closes().len(), client.component.tasks()), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn c107_a_local_cleanup_releases_everything_here_and_sends_nothing() {
        let client = client(Scope::Local);
        client.ask("a").await.expect("established");
        assert_eq!(client.close_all().await, 0);
        assert_eq!((client.local.closes().len(), client.component.tasks()), (1, 0));
        assert!(client.peer.closes().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_established_any_more() {
        let client = client(Scope::Everybody);
        let hold = client.peer.hold();
        let late = async {
            let late = client.ask("late").await;
            assert_eq!(late.expect_err("refused").reason(), "shutdown");
        };
        let end = async {
            client.peer.arrived(1).await;
            assert_eq!(client.close_all().await, 0);
            hold.cancel();
        };
        tokio::join!(late, end);
        assert_eq!(client.peer.closes().len(), 1);
        client.ask("later").await.expect_err("refused");
        assert_eq!(client.peer.requests().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_closed_before_is_not_closed_again() {
        let client = client(Scope::Everybody);
        client.ask("nsc-0").await.expect("established");
        let ctx = Ctx::own(&client.component, TIME);
        client.chain.close(&ctx, &mut request()).await.expect("closed");
        assert_eq!((client.cleanup.connections(), client.close_all().await), (0, 0));
        assert_eq!(client.peer.closes().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_closed_in_time_is_told() {
        let client = client(Scope::Everybody);
        client.ask("a").await.expect("established");
        let hold = client.peer.hold();
        let (asked, left) = tokio::join!(client.ask("a"), async {
            client.peer.arrived(2).await;
            let soon = Instant::now() + Duration::from_secs(1);
            let left = client.cleanup.close_all(&client.component, soon).await;
            hold.cancel();
            left
        });
        asked.expect_err("refused after the end has begun");
        assert_eq!(left, 1);
    }
}
