// SPDX-License-Identifier: Apache-2.0
//! Refreshes a connection when a hop behind asks for it.
//!
//! **Guarantees**: after [`State::RefreshRequested`] has been told for the connection it is requested again, until that
//! succeeds, also when that was told while a request was under way; with local notifications every other connection of
//! this program is, too.
//! **Placement**: in a client chain, behind `dial` and before `connect`.
//! **Reads / writes**: the [`Way`](crate::core::Way) in [`Ctx::store`]; one task there.
//! **On failure**: of a refresh, the next hop is listened to as before. One that cannot be listened to does not fail
//! the request: the connection is as good, only not refreshed on demand.
//! **On close**: ends the task first.
//! **Cost**: one task a connection; one stream, shared with `heal`, kept over refreshes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch::{Receiver, Sender};
use tokio::time::sleep;
use tracing::{debug, info};

use super::monitor::upstream::{Heard, hear, hold};
use crate::core::{
    Backoff, Component, Ctx, Element, Event, Events, Later, Message, NetworkService, Next, Request, Result,
};

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct UpstreamRefresh {
    local: Option<Arc<Sender<u64>>>,
}

/// The task that listens for a connection.
struct Listening {
    _task: Later,
}

/// What one connection listens to.
struct Listener {
    component: Component,
    id: String,
    heard: Heard,
    /// The other connections of this program: how often one of them was asked to refresh.
    local: Option<(Arc<Sender<u64>>, Receiver<u64>)>,
}

impl UpstreamRefresh {
    /// Each connection listens for itself.
    pub fn new() -> Self {
        Self::default()
    }

    /// A connection that is asked to refresh makes all others that pass this element refresh.
    pub fn with_local_notifications() -> Self {
        Self {
            local: Some(Arc::new(Sender::new(0))),
        }
    }
}

#[async_trait]
impl Element<NetworkService> for UpstreamRefresh {
    fn name(&self) -> &'static str {
        "upstreamrefresh"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let local = self
            .local
            .as_ref()
            .map(|local| (Arc::clone(local), local.subscribe()));
        // What is asked for meanwhile may have overtaken the answer.
        let _held = hold(ctx);
        next.request(ctx, message).await?;
        drop(ctx.store().take::<Listening>());
        if let Some(heard) = hear(ctx, &message.connection) {
            let listener = Listener {
                component: ctx.component().clone(),
                id: message.id().to_string(),
                heard,
                local,
            };
            let task = ctx.later("upstreamrefresh", |events| listener.run(events))?;
            ctx.store().insert(Listening { _task: task });
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Listening>());
        next.close(ctx, message).await
    }
}

impl Listener {
    /// Ends with a refresh, which begins anew.
    async fn run(mut self, events: Events) {
        let id = &self.id;
        let (sender, receiver) = self.local.take().unzip();
        tokio::select! {
            biased;
            () = asks(self.heard) => {
                info!(id, "the hop behind asks for a refresh");
                if let Some(sender) = sender {
                    sender.send_modify(|count| *count = count.wrapping_add(1));
                }
            }
            () = others(receiver) => debug!(id, "another connection was asked to refresh"),
        }
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
        while let Err(error) = events.run(Event::Refresh).await {
            debug!(id, %error, "refreshing on demand");
            sleep(backoff.next(&self.component)).await;
        }
    }
}

/// Waits until the next hop asks once more; for ever, once it cannot be heard.
async fn asks(Heard { mut news, refreshes }: Heard) {
    if news.wait_for(|news| news.refreshes != refreshes).await.is_err() {
        std::future::pending().await
    }
}

/// Waits until another connection of this program is asked.
async fn others(receiver: Option<Receiver<u64>>) {
    if let Some(mut receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::State;

    use super::*;
    use crate::core::testing::{Probe, end_at, end_of_links, request, standard_cases};
    use crate::core::{Chain, Error, Way};
    use crate::elements::begin::Begin;
    use crate::elements::connect::Connect;
    use crate::elements::null::Null;
    use crate::elements::updatepath::UpdatePath;
    use crate::networkservice::monitor::{Announcer, Monitor};

    const TIME: Duration = Duration::from_secs(10);

    /// Until the endpoint is listened to, and has been heard.
    const TO_HEAR: Duration = Duration::from_millis(100);

    /// An endpoint that can ask for refreshes, and its clients.
    struct Mesh {
        component: Component,
        chain: Chain<NetworkService>,
        probe: Arc<Probe<NetworkService>>,
        announcers: Arc<Announcers>,
    }

    /// The announcers of all connections of the endpoint, the newest last.
    #[derive(Default)]
    struct Announcers(parking_lot::Mutex<Vec<Announcer>>);

    #[async_trait]
    impl Element<NetworkService> for Arc<Announcers> {
        fn name(&self) -> &'static str {
            "announcers"
        }
        async fn request(
            &self,
            ctx: &Ctx,
            message: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            self.0.lock().extend(ctx.store().get::<Announcer>());
            next.request(ctx, message).await
        }
    }

    /// Leaves the way to the endpoint.
    struct To(Way<NetworkService>);

    #[async_trait]
    impl Element<NetworkService> for To {
        fn name(&self) -> &'static str {
            "to"
        }
        async fn request(
            &self,
            ctx: &Ctx,
            message: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            ctx.store().insert(self.0.clone());
            next.request(ctx, message).await
        }
    }

    fn mesh(element: UpstreamRefresh) -> Mesh {
        mesh_with(element, end_at, |_| Null)
    }

    /// The same, with this way to the endpoint, and another element before `connect`.
    fn mesh_with<E: Element<NetworkService>>(
        element: UpstreamRefresh,
        way: impl FnOnce(&Component, Chain<NetworkService>) -> Way<NetworkService>,
        last: impl FnOnce(&Arc<Announcers>) -> E,
    ) -> Mesh {
        let (endpoint, probe, announcers) =
            (Component::new("nse"), Probe::new(), Arc::<Announcers>::default());
        let there = crate::chain![
            UpdatePath,
            Begin::server(&endpoint),
            Monitor::new(&endpoint),
            Arc::clone(&announcers),
            Arc::clone(&probe)
        ];
        let component = Component::new("nsc");
        let chain = crate::chain![
            UpdatePath,
            Begin::client(&component),
            To(way(&endpoint, there)),
            element,
            last(&announcers),
            Connect
        ];
        Mesh {
            component,
            chain,
            probe,
            announcers,
        }
    }

    impl Mesh {
        async fn ask(&self, id: &str) -> Request {
            let mut message = request();
            message.connection.id = id.into();
            message.path_mut().path_segments[0].id = id.into();
            let ctx = Ctx::own(&self.component, TIME);
            self.chain.request(&ctx, &mut message).await.expect("established");
            message
        }

        /// The endpoint asks for a refresh of the connection that was requested last.
        fn announce(&self) {
            let announcer = self.announcers.0.lock().last().cloned().expect("requested");
            assert!(announcer.announce(State::RefreshRequested));
        }
    }

    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(UpstreamRefresh::new, request()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_refreshed_when_the_next_hop_asks_each_time() {
        let mesh = mesh(UpstreamRefresh::new());
        mesh.ask("nsc-0").await;
        for count in 2..5 {
            settle().await;
            mesh.announce();
            mesh.probe.arrived(count).await;
        }
        settle().await;
        assert_eq!(mesh.probe.requests().len(), 4);
    }

    /// Lets the endpoint ask for a refresh when it has answered the second request, and the client hear of that before
    /// it has the answer.
    struct Overtakes(Arc<Announcers>);

    #[async_trait]
    impl Element<NetworkService> for Overtakes {
        fn name(&self) -> &'static str {
            "overtakes"
        }
        async fn request(
            &self,
            ctx: &Ctx,
            message: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            next.request(ctx, message).await?;
            let announcers = self.0.0.lock().clone();
            if let [_, refreshed] = &announcers[..] {
                assert!(refreshed.announce(State::RefreshRequested));
                sleep(TO_HEAR).await;
            }
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_while_a_request_is_under_way_is_not_lost() {
        let ways = [end_at, end_of_links];
        for (way, is_asked_for) in ways.iter().flat_map(|way| [(way, false), (way, true)]) {
            let overtakes = |announcers: &Arc<_>| Overtakes(Arc::clone(announcers));
            let mesh = mesh_with(UpstreamRefresh::new(), way, overtakes);
            mesh.ask("nsc-0").await;
            sleep(TO_HEAR).await;
            match is_asked_for {
                true => mesh.announce(),
                false => drop(mesh.ask("nsc-0").await),
            }
            sleep(Duration::from_secs(600)).await;
            assert_eq!(mesh.probe.requests().len(), 3);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_that_fails_is_repeated() {
        let mesh = mesh(UpstreamRefresh::new());
        mesh.ask("nsc-0").await;
        settle().await;
        mesh.probe
            .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
        mesh.announce();
        mesh.probe.arrived(4).await;
        mesh.probe.answer(|_| Ok(()));
        mesh.probe.arrived(5).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(mesh.probe.requests().len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_heard_after_a_close() {
        let mesh = mesh(UpstreamRefresh::new());
        let mut message = mesh.ask("nsc-0").await;
        let ctx = Ctx::own(&mesh.component, TIME);
        mesh.chain.close(&ctx, &mut message).await.expect("closed");
        settle().await;
        assert_eq!(mesh.component.tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_local_notifications_refresh_the_other_connections_too() {
        for (element, expected) in [
            (UpstreamRefresh::new(), ["nsc-0", "nsc-1", "nsc-1"].as_slice()),
            (
                UpstreamRefresh::with_local_notifications(),
                &["nsc-0", "nsc-1", "nsc-1", "nsc-0"],
            ),
        ] {
            let mesh = mesh(element);
            mesh.ask("nsc-0").await;
            mesh.ask("nsc-1").await;
            settle().await;
            mesh.announce();
            tokio::time::sleep(Duration::from_secs(60)).await;
            let requests = mesh.probe.requests();
            let first = |request: &Request| request.path().path_segments[0].id.clone();
            let mut ids: Vec<_> = requests.iter().map(first).collect();
            let mut expected = expected.to_vec();
            ids.sort();
            expected.sort_unstable();
            assert_eq!(ids, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_next_hop_that_cannot_be_heard_fails_nothing() {
        let (component, probe) = (Component::new("nsc"), Probe::new());
        let chain: Chain<NetworkService> = crate::chain![
            Begin::client(&component),
            To(end_at(&component, crate::chain![Arc::clone(&probe)])),
            UpstreamRefresh::new(),
            Connect
        ];
        let ctx = Ctx::own(&component, TIME);
        chain.request(&ctx, &mut request()).await.expect("established");
        settle().await;
        assert_eq!(probe.requests().len(), 1);
    }
}
