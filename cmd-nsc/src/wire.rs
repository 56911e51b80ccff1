// SPDX-License-Identifier: Apache-2.0
//! One service that we asked for.

use std::time::Duration;

use futures::StreamExt;
use nsm_api::connection::{Connection, ConnectionEventType, MonitorScopeSelector, PathSegment, State};
use nsm_api::service_url::ServiceUrl;
use nsm_sdk::chains::client;
use nsm_sdk::core::{Chain, Component, Ctx, Message, NetworkService, Request, Result, Retry};
use nsm_sdk::networkservice::heal::{Check, Pulse};
use rand::Rng;
use tokio::time::Instant;
use tracing::{error, info, warn};

/// The first and the longest pause between attempts; half of a pause is drawn by chance.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pause after an answer that no waiting mends, short of somebody changing the service or the policies.
const LONG_PAUSE: Duration = Duration::from_secs(30);

/// A wire that is asked for until it is there, and kept by the chain from then on.
pub(crate) struct Wire<'a> {
    component: &'a Component,
    chain: &'a Chain<NetworkService>,
    id: String,
    service: ServiceUrl,
    timeout: Duration,
    check: Option<Check>,
    attached: Option<Request>,
}

impl<'a> Wire<'a> {
    /// The connection `id` to `service`; one attempt takes at most `timeout`.
    pub(crate) fn new(
        component: &'a Component,
        chain: &'a Chain<NetworkService>,
        id: String,
        service: ServiceUrl,
        timeout: Duration,
    ) -> Self {
        Self {
            component,
            chain,
            id,
            service,
            timeout,
            check: None,
            attached: None,
        }
    }

    /// The same, taken over from an earlier life only as far as it lives by this check.
    pub(crate) fn looked_at(self, check: Option<Check>) -> Self {
        Self { check, ..self }
    }

    /// The id of its connection.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What is asked for.
    pub(crate) fn network_service(&self) -> &str {
        &self.service.network_service
    }

    /// Asks until the wire is there; answers whether it is, or whether we were told to end before.
    pub(crate) async fn attach(&mut self) -> bool {
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            let asked = tokio::select! {
                asked = self.ask() => asked,
                () = self.component.stop().cancelled() => return false,
            };
            let pause_now = match asked {
                Ok(request) => {
                    self.tell(&request.connection, began.elapsed());
                    self.attached = Some(request);
                    return true;
                }
                Err(error) if error.retry() == Retry::Never => {
                    error!(id = self.id, service = %self.service, reason = error.reason(), %error, "refused");
                    LONG_PAUSE
                }
                Err(error) => {
                    warn!(id = self.id, service = %self.service, reason = error.reason(), %error, "not attached yet");
                    pause
                }
            };
            pause = (pause * 2).min(PAUSE.1);
            let jitter = self.component.random(|random| random.random_range(0.5..=1.0));
            tokio::select! {
                () = tokio::time::sleep(pause_now.mul_f64(jitter)) => {}
                () = self.component.stop().cancelled() => return false,
            }
        }
    }

    /// Closes the wire, if it is there.
    pub(crate) async fn close(&mut self) {
        let Some(mut request) = self.attached.take() else {
            return;
        };
        let ctx = Ctx::own(self.component, self.timeout);
        match self.chain.close(&ctx, &mut request).await {
            Ok(()) => info!(id = self.id, "closed"),
            Err(error) => warn!(id = self.id, %error, "not closed; it goes when its tokens expire"),
        }
    }

    async fn ask(&self) -> Result<Request> {
        let ctx = Ctx::own(self.component, self.timeout);
        let mut request = client::request(self.component, &self.id, &self.service);
        if let Some(connection) = self.earlier(&ctx).await {
            info!(
                id = self.id,
                endpoint = connection.network_service_endpoint_name,
                "taking over an earlier connection"
            );
            request.connection = connection;
            if request.connection.state() == State::Down && !self.lives(&request.connection).await {
                info!(id = self.id, "it does not live, so everything is chosen anew");
                request.reselect();
            }
        }
        self.chain.request(&ctx, &mut request).await?;
        Ok(request)
    }

    /// Whether pings say that the wire lives.
    async fn lives(&self, connection: &Connection) -> bool {
        let Some(check) = &self.check else {
            return false;
        };
        check.liveness.pulse(connection, check.timeout).await == Pulse::Alive
    }

    /// The connection of the same id and mechanism that an earlier life of this client left, as we know it.
    pub(crate) async fn earlier(&self, ctx: &Ctx) -> Option<Connection> {
        let segment = PathSegment {
            id: self.id.clone(),
            ..Default::default()
        };
        let selector = MonitorScopeSelector {
            path_segments: vec![segment],
            ..Default::default()
        };
        let mut events = self.chain.find(ctx, selector).await.ok()?;
        let event = ctx.bounded("learn of earlier connections", async { Ok(events.next().await) });
        let event = event.await.ok()??.ok()?;
        if event.r#type() != ConnectionEventType::InitialStateTransfer {
            return None;
        }
        event
            .connections
            .into_values()
            .find_map(|connection| self.adopt(connection))
    }

    fn adopt(&self, mut connection: Connection) -> Option<Connection> {
        let path = connection.path.as_mut()?;
        let is_ours = path.index == 1
            && path
                .path_segments
                .first()
                .is_some_and(|segment| segment.id == self.id);
        let mechanism = connection.mechanism.as_ref()?;
        if !is_ours
            || mechanism.r#type != self.service.mechanism.r#type
            || connection.network_service != self.service.network_service
        {
            return None;
        }
        path.index = 0;
        connection.id.clone_from(&self.id);
        Some(connection)
    }

    fn tell(&self, connection: &Connection, took: Duration) {
        let ip = connection
            .context
            .as_ref()
            .and_then(|context| context.ip_context.as_ref());
        let addresses = ip.map(|ip| ip.src_ip_addrs.join(" ")).unwrap_or_default();
        let interface = connection
            .mechanism
            .as_ref()
            .map_or("", |mechanism| mechanism.parameter("name"));
        info!(
            id = self.id,
            service = %self.service,
            endpoint = connection.network_service_endpoint_name,
            interface,
            addresses,
            attached_ms = took.as_secs_f64() * 1e3,
            "attached"
        );
    }
}
