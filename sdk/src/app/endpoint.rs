// SPDX-License-Identifier: Apache-2.0
//! A whole endpoint around the elements that its author writes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use nsm_api::registry::{
    NetworkService as Service, NetworkServiceEndpoint, NetworkServiceLabels, NetworkServiceQuery,
};
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    AFTER_HELP, Duration, Failure, InfoSettings, LogSettings, ObservabilitySettings, Settings, Start, labels,
};
use crate::chains::endpoint::endpoint;
use crate::chains::registry_client;
use crate::core::{Api, Chain, Component, Ctx, NetworkService, NsRegistry, Registration, Retry};
use crate::policy;
use crate::transport::{Pool, Server};

/// The name under which `grpc.health.v1` of endpoints and forwarders says SERVING once they are registered: whoever asks
/// for them by a manager is led to them from then on, and not to a former life of theirs.
pub const REGISTERED: &str = "registered";

/// What can be set about every endpoint.
#[derive(Clone, Debug, clap::Args)]
pub struct EndpointSettings {
    /// Our name; must be ours alone in the registry
    #[arg(long, env = "NSM_NAME", default_value = "nse")]
    pub name: String,
    /// The manager of our node
    #[arg(
        long,
        env = "NSM_CONNECT_TO",
        default_value = "unix:///var/lib/networkservicemesh/nsm.io.sock"
    )]
    pub connect_to: String,
    /// Where we listen; a socket in a fresh directory by default
    #[arg(long, env = "NSM_LISTEN_ON")]
    pub listen_on: Option<String>,
    /// How long a token is valid that we sign
    #[arg(long, env = "NSM_MAX_TOKEN_LIFETIME", default_value = "10m")]
    pub max_token_lifetime: Duration,
    /// How long dialling may take
    #[arg(long, env = "NSM_DIAL_TIMEOUT", default_value = "5s")]
    pub dial_timeout: Duration,
    /// Policies for the answers of registries that we call
    #[arg(long, env = "NSM_REGISTRY_CLIENT_POLICIES", default_value = policy::REGISTRY_CLIENT, value_delimiter = ',')]
    pub registry_client_policies: Vec<String>,
    /// The services that we offer
    #[arg(
        long,
        env = "NSM_SERVICE_NAMES",
        default_value = "icmp-responder",
        value_delimiter = ','
    )]
    pub service_names: Vec<String>,
    /// What the wires carry: ETHERNET or IP
    #[arg(long, env = "NSM_PAYLOAD", default_value = "ETHERNET")]
    pub payload: String,
    /// Our labels, key:value, for each service
    #[arg(long, env = "NSM_LABELS", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// Whether we register the services as well
    #[arg(long, env = "NSM_REGISTER_SERVICE", default_value = "true", action = clap::ArgAction::Set)]
    pub register_service: bool,
    /// Whether we take ourselves out of the registry when we end
    #[arg(long, env = "NSM_UNREGISTER_ITSELF", default_value = "true", action = clap::ArgAction::Set)]
    pub unregister_itself: bool,
    /// Where we run
    #[command(flatten)]
    pub info: InfoSettings,
}

/// The settings of a program that is an endpoint and has none of its own.
#[derive(Clone, Debug, clap::Parser)]
#[command(version, after_help = AFTER_HELP)]
pub struct EndpointProgram {
    /// What can be set about every endpoint.
    #[command(flatten)]
    pub endpoint: EndpointSettings,
    /// How it logs.
    #[command(flatten)]
    pub log: LogSettings,
    /// Whether and where it tells what it counts.
    #[command(flatten)]
    pub observability: ObservabilitySettings,
}

impl Settings for EndpointProgram {
    fn observability(&self) -> Option<&ObservabilitySettings> {
        Some(&self.observability)
    }

    fn name(&self) -> &str {
        &self.endpoint.name
    }

    fn log(&self) -> &LogSettings {
        &self.log
    }
}

/// Runs an endpoint until it is told to end: identifies it, serves `additional` behind the elements that every
/// endpoint has, registers it, and takes it out of the registry again.
///
/// Errors: settings that can never work, no identity, an address that cannot be listened on, a registry that
/// refuses the endpoint for good. A manager that is not there yet is waited for.
pub async fn serve(
    component: &Component,
    settings: &EndpointSettings,
    additional: Chain<NetworkService>,
) -> Result<(), Failure> {
    serve_calling(component, settings, |_| additional).await
}

/// The same for an endpoint that calls others: `additional` makes its elements of the ways that the endpoint has to them.
///
/// Errors: those of [`serve`].
pub async fn serve_calling(
    component: &Component,
    settings: &EndpointSettings,
    additional: impl FnOnce(&Arc<Pool>) -> Chain<NetworkService>,
) -> Result<(), Failure> {
    let start = Start::new(component, settings.max_token_lifetime);
    let entry = entry(settings)?;
    let identity = start.identity().await?;
    let pool = start.pool(&identity, settings.dial_timeout);
    let gate = start.gate(&identity, &[policy::SERVER.to_string()])?;
    let (listen_on, _socket) = listen_on(component, settings)?;
    let is_registered = watch::Sender::new(false);
    let urls = Server::new(component, identity.clone())
        .network_service(endpoint(component, &gate, &additional(&pool)))
        .health(REGISTERED, is_registered.subscribe())
        .listen(&[listen_on])
        .await?;
    let registry = registry_client::Settings {
        connect_to: settings.connect_to.clone(),
        policies: start.policies(&settings.registry_client_policies)?,
    };
    let registry = registry_client::client(component, &registry, &pool);
    if settings.register_service {
        for name in &settings.service_names {
            let service = Service {
                name: name.clone(),
                payload: settings.payload.clone(),
                ..Default::default()
            };
            register_service(component, &registry.ns, service).await?;
        }
    }
    let entry = NetworkServiceEndpoint {
        url: urls.first().cloned().unwrap_or_default(),
        ..entry
    };
    let registered = register(component, &registry.nse, entry).await?;
    is_registered.send_replace(registered.is_some());
    start.ready(&urls).await;
    if let Some(registered) = registered.filter(|_| settings.unregister_itself) {
        unregister(component, &registry.nse, registered).await;
    }
    Ok(())
}

fn entry(settings: &EndpointSettings) -> Result<NetworkServiceEndpoint, Failure> {
    if !["ETHERNET", "IP"].contains(&settings.payload.as_str()) {
        let text = format!("NSM_PAYLOAD is {:?}: use ETHERNET or IP", settings.payload);
        return Err(Failure::Settings(text));
    }
    let labels = NetworkServiceLabels {
        labels: settings.info.add_to(labels(&settings.labels)?),
    };
    let of_each = |name: &String| (name.clone(), labels.clone());
    Ok(NetworkServiceEndpoint {
        name: settings.name.clone(),
        network_service_names: settings.service_names.clone(),
        network_service_labels: settings
            .service_names
            .iter()
            .map(of_each)
            .collect::<BTreeMap<_, _>>(),
        ..Default::default()
    })
}

/// Where to listen, and what removes the fresh directory that may have been made for it.
fn listen_on(
    component: &Component,
    settings: &EndpointSettings,
) -> Result<(String, Option<Folder>), Failure> {
    if let Some(url) = &settings.listen_on {
        return Ok((url.clone(), None));
    }
    let folder = std::env::temp_dir().join(format!("nse-{}", component.uuid()));
    std::fs::create_dir(&folder)
        .map_err(|error| Failure::Settings(format!("cannot make {}: {error}", folder.display())))?;
    Ok((
        format!("unix://{}/listen.on", folder.display()),
        Some(Folder(folder)),
    ))
}

/// A directory that goes with this value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _somebody_may_have_removed_it = std::fs::remove_dir_all(&self.0);
    }
}

/// Registers `entry` and keeps it registered. Waits for a manager or registry that is not there yet; answers
/// nothing when the component is told to end meanwhile.
///
/// Errors: what no waiting can mend.
pub async fn register<A, T>(
    component: &Component,
    registry: &Chain<A>,
    entry: T,
) -> Result<Option<Registration<T>>, Failure>
where
    A: Api<Message = Registration<T>>,
    T: crate::core::Entry,
{
    let name = entry.name().to_string();
    loop {
        let mut registration = Registration {
            entry: entry.clone(),
            ..Default::default()
        };
        let ctx = Ctx::own(component, crate::core::DEFAULT_BUDGET);
        let done = tokio::select! {
            done = registry.request(&ctx, &mut registration) => done,
            () = component.stop().cancelled() => return Ok(None),
        };
        match done {
            Ok(()) => {
                info!(name, registry = A::NAME, "registered");
                return Ok(Some(registration));
            }
            Err(error) if error.retry() == Retry::Never => return Err(error.into()),
            Err(error) => warn!(name, registry = A::NAME, %error, "not registered yet"),
        }
    }
}

/// Registers a service, or leaves it as somebody else has registered it: the endpoints of a service may have identities
/// of their own, and then it belongs to the first of them.
///
/// Errors: those of [`register`], when the service is not there.
async fn register_service(
    component: &Component,
    registry: &Chain<NsRegistry>,
    service: Service,
) -> Result<(), Failure> {
    let name = service.name.clone();
    let Err(refused) = register(component, registry, service).await else {
        return Ok(());
    };
    if !is_there(component, registry, &name).await {
        return Err(refused);
    }
    info!(name, %refused, "the service is somebody else's and stays as it is");
    Ok(())
}

async fn is_there(component: &Component, registry: &Chain<NsRegistry>, name: &str) -> bool {
    let query = NetworkServiceQuery {
        network_service: Some(Service {
            name: name.to_string(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let ctx = Ctx::own(component, crate::core::DEFAULT_BUDGET);
    let Ok(mut found) = registry.find(&ctx, query).await else {
        return false;
    };
    while let Some(Ok(answer)) = found.next().await {
        if answer.network_service.is_some_and(|service| service.name == name) {
            return true;
        }
    }
    false
}

/// Takes an entry out of the registry; an error is told to the log, since the entry expires by itself.
pub async fn unregister<A: Api>(component: &Component, registry: &Chain<A>, mut registered: A::Message) {
    let ctx = Ctx::own(component, std::time::Duration::from_secs(5));
    if let Err(error) = registry.close(&ctx, &mut registered).await {
        warn!(%error, "not unregistered; the registry forgets us when our registration expires");
    }
}
