// SPDX-License-Identifier: Apache-2.0
//! Recorded calls, made once more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use nsm_api::connection::{Connection, ConnectionEvent};
use nsm_api::connectioncontext::ConnectionContext;
use nsm_api::networkservice::NetworkServiceRequest;
use nsm_sdk::core::{Chain, Ctx, Entry, NetworkService, NsRegistry, NseRegistry, Registration, Request};
use nsm_sdk::registry::queries::Registry;
use nsm_sdk::transport::grpcmetadata;
use nsm_tests::recording::Call;
use prost::Message;
use tokio::time::timeout;
use tonic::metadata::{MetadataKey, MetadataMap};

/// How long a stream is listened to, in virtual time.
const LISTEN: Duration = Duration::from_secs(1);

/// The services of the wire.
const NETWORK_SERVICE: &str = "/networkservice.NetworkService/";
const MONITOR: &str = "/connection.MonitorConnection/MonitorConnections";
const NSE_REGISTRY: &str = "/registry.NetworkServiceEndpointRegistry/";
const NS_REGISTRY: &str = "/registry.NetworkServiceRegistry/";

/// What is compared of a connection.
#[derive(Debug, PartialEq)]
struct Told {
    /// The index and the names of the hops.
    path: (u32, Vec<String>),
    endpoint: String,
    payload: String,
    /// Class and type.
    mechanism: (String, String),
    context: Option<ConnectionContext>,
}

/// What a program of ours serves.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) connections: Option<Chain<NetworkService>>,
    pub(crate) endpoints: Option<Chain<NseRegistry>>,
    pub(crate) services: Option<Chain<NsRegistry>>,
}

/// The headers of a call as the transport gives them.
pub(crate) fn metadata(headers: &BTreeMap<String, String>) -> Result<MetadataMap> {
    let mut metadata = MetadataMap::new();
    for (name, value) in headers {
        metadata.insert(MetadataKey::from_bytes(name.as_bytes())?, value.parse()?);
    }
    Ok(metadata)
}

impl Served {
    /// Makes a call once more, and compares the answer with the recorded one.
    pub(crate) async fn answers(&self, ctx: &Ctx, call: &Call) -> Result<()> {
        ensure!(call.status.unwrap_or_default() == 0, "it was refused then");
        let unserved = "nothing serves that";
        if call.method == MONITOR {
            return monitored(self.connections.as_ref().context(unserved)?, ctx, call).await;
        }
        if let Some(method) = call.method.strip_prefix(NETWORK_SERVICE) {
            return requested(self.connections.as_ref().context(unserved)?, ctx, call, method).await;
        }
        if let Some(method) = call.method.strip_prefix(NSE_REGISTRY) {
            let endpoints = self.endpoints.as_ref().context(unserved)?;
            return registered(endpoints, ctx, call, method).await;
        }
        let method = call.method.strip_prefix(NS_REGISTRY).context(unserved)?;
        registered(self.services.as_ref().context(unserved)?, ctx, call, method).await
    }
}

async fn requested(chain: &Chain<NetworkService>, ctx: &Ctx, call: &Call, method: &str) -> Result<()> {
    if method == "Close" {
        let mut closing = Request {
            connection: call.question()?,
            ..Default::default()
        };
        return Ok(chain.close(ctx, &mut closing).await?);
    }
    let asked: NetworkServiceRequest = call.question()?;
    let mut request = Request {
        connection: asked.connection.unwrap_or_default(),
        mechanism_preferences: asked.mechanism_preferences,
    };
    chain.request(ctx, &mut request).await?;
    let theirs: Connection = call.answers()?.pop().context("it was not answered then")?;
    let told = |connection: &Connection| (connection.id.clone(), told(connection));
    let (ours, theirs) = (told(&request.connection), told(&theirs));
    ensure!(ours == theirs, "we answer {ours:?}, and they {theirs:?}");
    Ok(())
}

/// What is told first has the connections that were told then.
async fn monitored(chain: &Chain<NetworkService>, ctx: &Ctx, call: &Call) -> Result<()> {
    let mut events = chain.find(ctx, call.question()?).await?;
    let ours = timeout(LISTEN, events.next())
        .await?
        .context("nothing is told")??;
    let theirs: Vec<ConnectionEvent> = call.answers()?;
    let theirs = theirs.into_iter().next().context("nothing was told then")?;
    // The ids are each program's own.
    let told = |event: &ConnectionEvent| {
        let connections: Vec<_> = event.connections.values().map(told).collect();
        (event.r#type(), connections)
    };
    let (ours, theirs) = (told(&ours), told(&theirs));
    ensure!(ours.1.len() <= 1, "their order is not known: {ours:?}");
    ensure!(ours == theirs, "we tell {ours:?}, and they {theirs:?}");
    Ok(())
}

/// What a program says of a connection, but for its id.
fn told(connection: &Connection) -> Told {
    let path = connection.path.clone().unwrap_or_default();
    let names = path.path_segments.into_iter().map(|segment| segment.name);
    let mechanism = connection.mechanism.clone().unwrap_or_default();
    Told {
        path: (path.index, names.collect()),
        endpoint: connection.network_service_endpoint_name.clone(),
        payload: connection.payload.clone(),
        mechanism: (mechanism.cls, mechanism.r#type),
        context: connection.context.clone(),
    }
}

async fn registered<A: Registry>(chain: &Chain<A>, ctx: &Ctx, call: &Call, method: &str) -> Result<()>
where
    A::Entry: Message,
    A::Query: Message + Default,
    A::Found: Message + Default,
{
    if method == "Find" {
        return found(chain, ctx, call).await;
    }
    let mut message = Registration {
        entry: call.question()?,
        path: grpcmetadata::read(&metadata(&call.headers)?)?,
    };
    match method {
        "Register" => chain.request(ctx, &mut message).await?,
        "Unregister" => return Ok(chain.close(ctx, &mut message).await?),
        _ => bail!("{method} is no method of a registry"),
    }
    let theirs: A::Entry = call.answers()?.pop().context("it was not answered then")?;
    let told = |entry: &A::Entry| {
        let services = A::services(entry).to_vec();
        (entry.name().to_string(), entry.path_ids().to_vec(), services)
    };
    let (ours, theirs) = (told(&message.entry), told(&theirs));
    ensure!(ours == theirs, "we answer {ours:?}, and they {theirs:?}");
    let path = grpcmetadata::read(&metadata(&call.answer_headers)?)?;
    let [ours, theirs] = [&message.path, &path].map(|path| (path.index, path.path_segments.len()));
    ensure!(ours == theirs, "our path has {ours:?}, and theirs {theirs:?}");
    Ok(())
}

/// Whoever was found then is found.
async fn found<A: Registry>(chain: &Chain<A>, ctx: &Ctx, call: &Call) -> Result<()>
where
    A::Query: Message + Default,
    A::Found: Message + Default,
{
    let mut answers = chain.find(ctx, call.question()?).await?;
    let mut ours = BTreeSet::new();
    while let Ok(Some(answer)) = timeout(LISTEN, answers.next()).await {
        ours.extend(A::told(&answer?).map(|(entry, _)| entry.name().to_string()));
    }
    for theirs in call.answers::<A::Found>()? {
        let (theirs, _) = A::told(&theirs).context("an answer without an entry")?;
        ensure!(
            ours.contains(theirs.name()),
            "we find {ours:?} and not {}",
            theirs.name()
        );
    }
    Ok(())
}
