// SPDX-License-Identifier: Apache-2.0
//! The three APIs that one core serves: what their calls carry.

use std::collections::BTreeMap;
use std::fmt::Debug;

use nsm_api::connection::{Connection, ConnectionEvent, Mechanism, MonitorScopeSelector, Path, State};
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceEndpointQuery,
    NetworkServiceEndpointResponse, NetworkServiceQuery, NetworkServiceResponse,
};
use prost::DecodeError;

use super::packed::{append, take};
use super::{Pack, Peer};
use crate::identity::same_namespace;

/// An API that chains can serve and call: `request` and `close` of one thing by id, and `find` that streams.
///
/// Elements that work on any API (`begin`, `updatepath`, `authorize`, `connect` …) are written once against this.
pub trait Api: Send + Sync + Debug + 'static {
    /// What `request` and `close` carry, and what `request` answers.
    type Message: Message;
    /// What `find` is asked.
    type Query: Clone + Send + Sync + Debug + 'static;
    /// One item of the stream that `find` answers.
    type Found: Clone + Send + Sync + Debug + 'static;
    /// The name of the API in errors and logs.
    const NAME: &'static str;
    /// What gRPC calls `request`, `close` and `find`.
    const CALLS: [&'static str; 3];
    /// Whether `close` of an id that nobody requested here still concerns the elements behind `begin`.
    const CLOSE_UNKNOWN: bool;

    /// Whether `caller` may request or close what `owner` has requested under the same id, at `index` of its path.
    /// Unless an API says otherwise everybody may.
    fn admits(_owner: &Peer, _index: u32, _caller: &Peer) -> bool {
        true
    }
}

/// A call's payload: something with an id and a path.
pub trait Message: Pack + Clone + Default + Send + Sync + Debug + 'static {
    /// The id by which this hop knows it; empty when the caller left it to us.
    fn id(&self) -> &str;
    /// Sets the id.
    fn set_id(&mut self, id: String);
    /// The hops that the call has passed; absent reads as empty.
    fn path(&self) -> &Path;
    /// The path, made when absent.
    fn path_mut(&mut self) -> &mut Path;
    /// Whether the caller wants what is there to be closed before this is requested.
    fn wants_reselect(&self) -> bool {
        false
    }
    /// Turns a stored message into one that chooses its way anew.
    fn reselect(&mut self) {}
    /// Marks an answer as established.
    fn establish(&mut self) {}
    /// Strips from an answer what must not be sent again when it is repeated.
    fn remember(&mut self) {}
    /// What to close when the caller closes by `self` what `stored` established.
    fn closing(self, stored: Self) -> Self;
    /// What an application that repeats `self` means, when `current` is what has become of the message since, and `told`
    /// what it was told last, if that is something else.
    fn merge(self, _told: Option<Self>, _current: Self) -> Self {
        self
    }
}

/// Connections: the NetworkService and MonitorConnection services. `find` is a monitor.
#[derive(Clone, Copy, Debug)]
pub struct NetworkService;

impl Api for NetworkService {
    type Message = Request;
    type Query = MonitorScopeSelector;
    type Found = ConnectionEvent;
    const NAME: &'static str = "networkservice";
    const CALLS: [&'static str; 3] = [
        "networkservice.NetworkService/Request",
        "networkservice.NetworkService/Close",
        "connection.MonitorConnection/MonitorConnections",
    ];
    const CLOSE_UNKNOWN: bool = false;

    /// The one who made the connection may. A hop in the middle of the path may also be replaced by one of its own
    /// namespace, as a new pod of the same kind is; the first hop, the workload itself, may not.
    fn admits(owner: &Peer, index: u32, caller: &Peer) -> bool {
        let (Some(owner), Some(caller)) = (owner.spiffe_id(), caller.spiffe_id()) else {
            return true;
        };
        owner == caller || (index > 1 && same_namespace(owner, caller))
    }
}

/// Endpoints: the NetworkServiceEndpointRegistry service.
#[derive(Clone, Copy, Debug)]
pub struct NseRegistry;

impl Api for NseRegistry {
    type Message = Registration<NetworkServiceEndpoint>;
    type Query = NetworkServiceEndpointQuery;
    type Found = NetworkServiceEndpointResponse;
    const NAME: &'static str = "nse-registry";
    const CALLS: [&'static str; 3] = [
        "registry.NetworkServiceEndpointRegistry/Register",
        "registry.NetworkServiceEndpointRegistry/Unregister",
        "registry.NetworkServiceEndpointRegistry/Find",
    ];
    const CLOSE_UNKNOWN: bool = true;
}

/// Network services: the NetworkServiceRegistry service.
#[derive(Clone, Copy, Debug)]
pub struct NsRegistry;

impl Api for NsRegistry {
    type Message = Registration<Service>;
    type Query = NetworkServiceQuery;
    type Found = NetworkServiceResponse;
    const NAME: &'static str = "ns-registry";
    const CALLS: [&'static str; 3] = [
        "registry.NetworkServiceRegistry/Register",
        "registry.NetworkServiceRegistry/Unregister",
        "registry.NetworkServiceRegistry/Find",
    ];
    const CLOSE_UNKNOWN: bool = true;
}

/// A connection, asked for or closed. A close carries no preferences.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The connection as the caller knows it.
    pub connection: Connection,
    /// The mechanisms that the caller offers, best first.
    pub mechanism_preferences: Vec<Mechanism>,
}

impl Pack for Request {
    fn pack(&self, into: &mut Vec<u8>) {
        append(&self.connection, into);
        for mechanism in &self.mechanism_preferences {
            append(mechanism, into);
        }
    }

    fn unpack(from: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut request = Self {
            connection: take(from)?,
            mechanism_preferences: Vec::new(),
        };
        while !from.is_empty() {
            request.mechanism_preferences.push(take(from)?);
        }
        Ok(request)
    }

    fn hops(&self) -> Option<&Path> {
        self.connection.path.as_ref()
    }
}

static NO_PATH: Path = Path {
    index: 0,
    path_segments: Vec::new(),
};

impl Message for Request {
    fn id(&self) -> &str {
        &self.connection.id
    }

    fn set_id(&mut self, id: String) {
        self.connection.id = id;
    }

    fn path(&self) -> &Path {
        self.connection.path.as_ref().unwrap_or(&NO_PATH)
    }

    fn path_mut(&mut self) -> &mut Path {
        self.connection.path.get_or_insert_default()
    }

    fn wants_reselect(&self) -> bool {
        self.connection.state() == State::ReselectRequested
    }

    fn reselect(&mut self) {
        self.connection.mechanism = None;
        self.connection.network_service_endpoint_name.clear();
        self.connection.set_state(State::ReselectRequested);
    }

    fn establish(&mut self) {
        self.connection.set_state(State::Up);
    }

    fn closing(self, stored: Self) -> Self {
        stored
    }

    /// The application decides the endpoint's name and the context where it changed them, and offers new
    /// preferences; the rest of the connection is as it has become.
    fn merge(self, told: Option<Self>, current: Self) -> Self {
        let (asked, mut connection) = (self.connection, current.connection);
        let told = told.as_ref().map_or(&connection, |told| &told.connection);
        let is_moved = asked.network_service_endpoint_name != told.network_service_endpoint_name;
        if asked.context != told.context {
            let extra = told.context.as_ref().map(|context| context.extra_context.clone());
            connection.context = match connection.context.take() {
                None => asked.context,
                Some(current) => {
                    let mut context = asked.context.unwrap_or_default();
                    context.extra_context =
                        merge_extra(extra.as_ref(), &context.extra_context, current.extra_context);
                    Some(context)
                }
            };
        } else if connection.context.is_none() {
            connection.context = asked.context;
        }
        if is_moved {
            connection.network_service_endpoint_name = asked.network_service_endpoint_name;
        }
        Self {
            connection,
            mechanism_preferences: self.mechanism_preferences,
        }
    }
}

/// `current` with the keys that were told removed or changed as they are in `asked`; keys that are new there are
/// ignored.
fn merge_extra(
    told: Option<&BTreeMap<String, String>>,
    asked: &BTreeMap<String, String>,
    mut current: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    for (key, value) in told.into_iter().flatten() {
        match asked.get(key) {
            Some(new) if new != value => drop(current.insert(key.clone(), new.clone())),
            Some(_) => {}
            None => drop(current.remove(key)),
        }
    }
    current
}

/// An entry of a registry and the path of the call, which travels beside it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registration<T> {
    /// The endpoint or the service.
    pub entry: T,
    /// The hops that the call has passed.
    pub path: Path,
}

/// What a registry keeps under a name.
pub trait Entry: prost::Message + Clone + Default + Send + Sync + Debug + PartialEq + 'static {
    /// The name.
    fn name(&self) -> &str;
    /// Sets the name.
    fn set_name(&mut self, name: String);
    /// The ids of the path that registered it.
    fn path_ids_mut(&mut self) -> &mut Vec<String>;
    /// The ids of the path that registered it.
    fn path_ids(&self) -> &[String];
    /// Removes the promise of a registry about how long it keeps it.
    fn forget_expiration(&mut self) {}
}

impl Entry for NetworkServiceEndpoint {
    fn name(&self) -> &str {
        &self.name
    }

    fn set_name(&mut self, name: String) {
        self.name = name;
    }

    fn path_ids_mut(&mut self) -> &mut Vec<String> {
        &mut self.path_ids
    }

    fn path_ids(&self) -> &[String] {
        &self.path_ids
    }

    fn forget_expiration(&mut self) {
        self.expiration_time = None;
    }
}

impl Entry for Service {
    fn name(&self) -> &str {
        &self.name
    }

    fn set_name(&mut self, name: String) {
        self.name = name;
    }

    fn path_ids_mut(&mut self) -> &mut Vec<String> {
        &mut self.path_ids
    }

    fn path_ids(&self) -> &[String] {
        &self.path_ids
    }
}

impl<T: Entry> Pack for Registration<T> {
    fn pack(&self, into: &mut Vec<u8>) {
        append(&self.entry, into);
        append(&self.path, into);
    }

    fn unpack(from: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self {
            entry: take(from)?,
            path: take(from)?,
        })
    }

    fn hops(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

impl<T: Entry> Message for Registration<T> {
    fn id(&self) -> &str {
        self.entry.name()
    }

    fn set_id(&mut self, id: String) {
        self.entry.set_name(id);
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn path_mut(&mut self) -> &mut Path {
        &mut self.path
    }

    fn remember(&mut self) {
        self.entry.forget_expiration();
    }

    fn closing(self, stored: Self) -> Self {
        Self {
            entry: stored.entry,
            path: self.path,
        }
    }
}
