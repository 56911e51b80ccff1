// SPDX-License-Identifier: Apache-2.0
//! One connection, as an application keeps it.

use std::time::Duration;

use futures::StreamExt;
use nsm_api::connection::{Connection, MonitorScopeSelector, PathSegment};
use nsm_api::service_url::ServiceUrl;
use nsm_sdk::chains::client;
use nsm_sdk::core::{Chain, Component, Ctx, NetworkService, Request};
use nsm_sdk::sandbox::{Program, SERVICE};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::invariants;
use crate::world::World;

/// What a request or a close may overrun its deadline by: until `begin` cuts it, and for undoing it then.
const OVERRUN: Duration = Duration::from_secs(4);

/// How soon nothing of a closed connection is left (I2).
const GONE: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(crate) struct Wire {
    pub(crate) client: usize,
    pub(crate) id: String,
    interface: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many calls have begun.
    calls: u64,
    /// The last answer, and how many had died when it came.
    answer: Option<(Request, u64)>,
    /// What the client has of it, which mends it by itself: the connection, and how many had died then.
    current: Option<(Connection, u64)>,
}

/// What an application asks for when it asks again.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Nothing,
    /// Another color; a client that is connected ignores that.
    Color(&'static str),
    /// Another endpoint.
    Endpoint(usize),
    /// All over again, as one who has forgotten everything.
    Fresh,
}

/// How an application calls.
#[derive(Clone, Debug)]
pub(crate) struct How {
    pub(crate) change: Change,
    /// The deadline.
    pub(crate) within: Duration,
    /// After what time the application drops the call.
    pub(crate) patience: Option<Duration>,
}

impl Default for How {
    fn default() -> Self {
        Self {
            change: Change::Nothing,
            within: Duration::from_secs(15),
            patience: None,
        }
    }
}

impl Wire {
    pub(crate) fn new(client: usize, number: usize) -> Self {
        Self {
            client,
            id: format!("{}-{number}", Program::Client(client).name()),
            interface: format!("nsm-{number}"),
            state: Mutex::default(),
        }
    }

    /// What the application was told last, if it is told to be connected.
    pub(crate) fn answer(&self) -> Option<Request> {
        self.state
            .lock()
            .answer
            .as_ref()
            .map(|(answer, _)| answer.clone())
    }

    /// What the client has, as it was told or as it has mended it.
    pub(crate) fn current(&self) -> Option<Connection> {
        self.state
            .lock()
            .current
            .as_ref()
            .map(|(current, _)| current.clone())
    }

    /// The client has a connection now, or has none.
    pub(crate) fn becomes(&self, current: Option<(Connection, u64)>) {
        self.state.lock().current = current;
    }

    /// Whether the endpoint still knows what it has told the client.
    pub(crate) fn is_known(&self, world: &World) -> bool {
        let state = self.state.lock();
        let known = state
            .current
            .as_ref()
            .map(|(current, deaths)| world.last_death(&current.network_service_endpoint_name) <= *deaths);
        known == Some(true)
    }

    fn begin(&self) -> u64 {
        let mut state = self.state.lock();
        state.calls += 1;
        state.calls
    }

    fn is_last(&self, call: u64) -> bool {
        self.state.lock().calls == call
    }

    /// The application's process has died: it knows nothing any more.
    pub(crate) fn forget(&self) {
        let mut state = self.state.lock();
        state.calls += 1;
        state.answer = None;
        state.current = None;
    }

    /// Asks for the wire, or again for what is there; answers whether it is there.
    pub(crate) async fn ask(&self, world: &World, how: How) -> bool {
        let Some((component, chain)) = world.node().client(self.client) else {
            return false;
        };
        let mut request = self.request(world, &component, &chain, &how.change).await;
        let call = self.begin();
        let ctx = Ctx::own(&component, how.within);
        world.note(format!("{} asks {call} {how:?}", self.id));
        let began = Instant::now();
        let done = match how.patience {
            None => chain
                .request(&ctx, &mut request)
                .await
                .map_err(|error| error.reason().to_string()),
            Some(patience) => match timeout(patience, chain.request(&ctx, &mut request)).await {
                Ok(done) => done.map_err(|error| error.reason().to_string()),
                Err(_) => Err("dropped".into()),
            },
        };
        self.ended(world, "request", call, began, how.within);
        world.note(format!("{} is answered {call} {done:?}", self.id));
        if component.shutdown().is_cancelled() || done.is_err() {
            return false;
        }
        if let Err(wrong) = invariants::answer(&request, &self.id, world.node().now()) {
            world.fail(format!("I6: {} was answered wrongly: {wrong}", self.id));
        }
        if self.is_last(call) {
            self.state.lock().answer = Some((request, world.deaths()));
        }
        true
    }

    /// Closes the wire; answers whether that succeeded.
    pub(crate) async fn close(&self, world: &World, within: Duration) -> bool {
        let Some((component, chain)) = world.node().client(self.client) else {
            return false;
        };
        let call = self.begin();
        let known = self.state.lock().answer.take();
        let since = known.as_ref().map(|(_, deaths)| *deaths);
        let mut request = match known {
            Some((answer, _)) => answer,
            None => self.first(&component, &Change::Nothing),
        };
        let ctx = Ctx::own(&component, within);
        world.note(format!("{} closes {call}", self.id));
        let began = Instant::now();
        let done = chain
            .close(&ctx, &mut request)
            .await
            .map_err(|error| error.reason().to_string());
        self.ended(world, "close", call, began, within);
        world.note(format!("{} is closed {call} {done:?}", self.id));
        let lived = since == Some(world.deaths());
        if done.is_ok() && lived {
            sleep(GONE).await;
            if self.is_last(call) && since == Some(world.deaths()) && world.has_objects(&self.id) {
                world.fail(format!(
                    "I2: something of {} is left {GONE:?} after its close",
                    self.id
                ));
            }
        }
        done.is_ok()
    }

    /// I7: a call ends by its deadline.
    fn ended(&self, world: &World, what: &str, call: u64, began: Instant, within: Duration) {
        let took = began.elapsed();
        if took > within + OVERRUN + Duration::from_millis(10) {
            world.fail(format!(
                "I7: {what} {call} of {} took {took:?} instead of {within:?}",
                self.id
            ));
        }
    }

    async fn request(
        &self,
        world: &World,
        component: &Component,
        chain: &Chain<NetworkService>,
        change: &Change,
    ) -> Request {
        let known = self.answer();
        let mut request = match (known, change) {
            (Some(answer), Change::Nothing | Change::Color(_) | Change::Endpoint(_)) => answer,
            (None, Change::Nothing) => {
                let mut request = self.first(component, change);
                if let Some(connection) = self.earlier(component, chain).await {
                    world.note(format!("{} takes over an earlier connection", self.id));
                    request.connection = connection;
                }
                request
            }
            _ => self.first(component, change),
        };
        match change {
            Change::Color(color) => {
                request.connection.labels.insert("color".into(), (*color).into());
            }
            Change::Endpoint(number) => {
                request.connection.network_service_endpoint_name = Program::Endpoint(*number).name();
            }
            Change::Nothing | Change::Fresh => {}
        }
        request
    }

    fn first(&self, component: &Component, change: &Change) -> Request {
        let mut url = format!("kernel://{SERVICE}/{}", self.interface);
        if let Change::Color(color) = change {
            url += &format!("?color={color}");
        }
        let url: ServiceUrl = url.parse().expect("a service URL");
        client::request(component, &self.id, &url)
    }

    /// What an earlier life of the application has left, as the manager knows it.
    async fn earlier(&self, component: &Component, chain: &Chain<NetworkService>) -> Option<Connection> {
        let segment = PathSegment {
            id: self.id.clone(),
            ..Default::default()
        };
        let selector = MonitorScopeSelector {
            path_segments: vec![segment],
            ..Default::default()
        };
        let ctx = Ctx::own(component, Duration::from_secs(1));
        let first = async {
            let mut events = chain.find(&ctx, selector).await?;
            Ok(events.next().await)
        };
        let event = ctx
            .bounded("learn of earlier connections", first)
            .await
            .ok()??
            .ok()?;
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
        if !is_ours || connection.mechanism.is_none() {
            return None;
        }
        path.index = 0;
        connection.id.clone_from(&self.id);
        Some(connection)
    }
}
