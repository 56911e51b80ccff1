// SPDX-License-Identifier: Apache-2.0
//! What each program of a node is: the chains that its `main` would build, and its registration.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nsm_api::matching::Labels;
use nsm_api::registry::{
    Destination, Match, NetworkService as Service, NetworkServiceEndpoint, NetworkServiceLabels,
};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use super::network::Host;
use super::node::{Birth, Node, Program};
use super::ping::Ping;
use super::plane::Plane;
use crate::chain;
use crate::chains::{client, endpoint, forwarder, nsmgr, nsmgr_registry, registry_client, registry_memory};
use crate::core::{
    Api, Backoff, Chain, Component, Ctx, DEFAULT_BUDGET, Entry, Error, NetworkService, NseRegistry,
    Registration, Result,
};
use crate::ipam::{Point2Point, Strict};
use crate::networkservice::discoverforwarder::FORWARDER_SERVICE;
use crate::networkservice::excludedprefixes::AwarenessGroups;
use crate::networkservice::heal::{Check, Heal};
use crate::networkservice::kernel::Kernel;
use crate::networkservice::mechanisms::Mechanisms;
use crate::networkservice::sendfd::SendFd;
use crate::networkservice::xconnect::Planes;
use crate::policy::{self, Policies};

/// The service that every endpoint offers.
pub const SERVICE: &str = "wires";

const REGISTRY_URL: &str = "tcp://registry:5002";
const MANAGER_URL: &str = "tcp://nsmgr:5001";

/// The pauses between the tries of a registration.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a program keeps while it runs.
#[derive(Default)]
pub(super) struct Running {
    pub(super) client: Option<Chain<NetworkService>>,
    /// Whether it wants to be in the registry.
    pub(super) wanted: Option<watch::Sender<bool>>,
    _socket: Option<UnixListener>,
}

pub(super) fn start(node: &Node, program: Program, birth: &Birth) -> Result<Running> {
    match program {
        Program::Registry => registry(node, birth),
        Program::Manager => manager(node, birth),
        Program::Forwarder => forward(node, birth),
        Program::Endpoint(number) => serve(node, birth, number),
        Program::Client(_) => ask(node, program, birth),
    }
}

fn registry(node: &Node, birth: &Birth) -> Result<Running> {
    let settings = registry_memory::Settings {
        gate: birth.gate(policy::REGISTRY_SERVER)?,
        expiration: crate::registry::expire::DEFAULT_EXPIRATION,
    };
    let host = Host {
        nse_registry: Some(registry_memory::nse(&birth.component, &settings)),
        ns_registry: Some(registry_memory::ns(&birth.component, &settings)),
        ..birth.host()
    };
    node.network().listen(REGISTRY_URL, host);
    Ok(Running::default())
}

fn manager(node: &Node, birth: &Birth) -> Result<Running> {
    let registry = nsmgr_registry::Settings {
        gate: birth.gate(policy::REGISTRY_SERVER)?,
        client_policies: Policies::choose(policy::REGISTRY_CLIENT)?,
        registry_url: Some(REGISTRY_URL.into()),
        url: MANAGER_URL.into(),
        info: Labels::new(),
    };
    let registries = nsmgr_registry::nsmgr_registry(&birth.component, &registry, &birth.way);
    let settings = nsmgr::Settings {
        gate: birth.gate(policy::SERVER)?,
        url: MANAGER_URL.into(),
        forwarder_service: FORWARDER_SERVICE.into(),
        info: Labels::new(),
        excluded_prefixes: node.netns(Program::Manager).with_extension("yaml"),
        counters: Default::default(),
        listener: None,
    };
    let manager = nsmgr::nsmgr(&birth.component, &settings, &registries.lookup, birth.way.clone());
    let host = Host {
        network_service: Some(manager),
        nse_registry: Some(registries.nse),
        ns_registry: Some(registries.ns),
        ..birth.host()
    };
    node.network().listen(MANAGER_URL, host.clone());
    node.network().listen(&manager_socket(node), host);
    Ok(Running::default())
}

fn forward(node: &Node, birth: &Birth) -> Result<Running> {
    let registry = registry_settings(node)?;
    let registries = registry_client::lookup(&registry, &birth.way);
    let plane = Plane::start(&birth.component, node.kernel(), &birth.power);
    let settings = forwarder::Settings {
        gate: birth.gate(policy::SERVER)?,
        mechanism_priority: Vec::new(),
        planes: Planes::new(plane),
        tunnels: None,
    };
    let chain = forwarder::forwarder(&birth.component, &settings, &registries, birth.way.clone());
    let labels = [("p2p".to_string(), "true".to_string())].into();
    let entry = entry(Program::Forwarder, FORWARDER_SERVICE, labels);
    offer(node, birth, chain, entry, None)
}

fn serve(node: &Node, birth: &Birth, number: usize) -> Result<Running> {
    let program = Program::Endpoint(number);
    let prefix = format!("10.{number}.0.0/24").parse::<IpNet>();
    let prefix = prefix.map_err(|error| Error::invalid("bad-prefix", error.to_string()))?;
    let additional = node.probe().then(&chain![
        Strict::new(&[prefix])?,
        Point2Point::new(&[prefix])?,
        Mechanisms::server([(
            nsm_api::mechanism::KERNEL,
            chain![Kernel::server(&netns(node, program))]
        )]),
        SendFd::server(),
    ]);
    let chain = endpoint::endpoint(&birth.component, &birth.gate(policy::SERVER)?, &additional);
    let color = if number.is_multiple_of(2) { "red" } else { "blue" };
    let entry = entry(
        program,
        SERVICE,
        [("color".to_string(), color.to_string())].into(),
    );
    // A service belongs to who registers it first.
    offer(node, birth, chain, entry, (number == 0).then(service))
}

/// Clients with a color get an endpoint of that color, if there is one.
fn service() -> Service {
    let color = |value: &str| -> Labels { [("color".to_string(), value.to_string())].into() };
    let same = Match {
        source_selector: Labels::new(),
        routes: vec![Destination {
            destination_selector: color("{{.color}}"),
            ..Default::default()
        }],
        fallthrough: true,
        ..Default::default()
    };
    let any = Match {
        routes: vec![Destination::default()],
        ..Default::default()
    };
    Service {
        name: SERVICE.into(),
        payload: "IP".into(),
        matches: vec![same, any],
        ..Default::default()
    }
}

fn ask(node: &Node, program: Program, birth: &Birth) -> Result<Running> {
    let settings = client::Settings {
        awareness_groups: AwarenessGroups::default(),
        connect_to: manager_socket(node),
        netns: netns(node, program),
        info: Labels::new(),
        policies: Policies::choose(policy::CLIENT)?,
        heal: chain![Heal::new(Some(pings(node, program)))].then(node.client_probe()),
        dns: chain![],
    };
    let client = client::client(&birth.component, &settings, birth.way.clone());
    Ok(Running {
        client: Some(client),
        ..Running::default()
    })
}

/// How a client looks at its wires: less often than the real one, since virtual time passes quickly.
fn pings(node: &Node, program: Program) -> Check {
    Check {
        liveness: Arc::new(Ping::new(node.kernel(), node.netns(program))),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(1),
    }
}

fn manager_socket(node: &Node) -> String {
    format!("unix://{}", node.socket(Program::Manager).display())
}

fn netns(node: &Node, program: Program) -> String {
    format!("file://{}", node.netns(program).display())
}

fn registry_settings(node: &Node) -> Result<registry_client::Settings> {
    Ok(registry_client::Settings {
        connect_to: manager_socket(node),
        policies: Policies::choose(policy::REGISTRY_CLIENT)?,
    })
}

fn entry(program: Program, service: &str, labels: Labels) -> (Program, NetworkServiceEndpoint) {
    let entry = NetworkServiceEndpoint {
        name: program.name(),
        network_service_names: vec![service.into()],
        network_service_labels: [(service.to_string(), NetworkServiceLabels { labels })].into(),
        ..Default::default()
    };
    (program, entry)
}

/// Listens on a socket of its own, and has it registered for as long as that is wanted.
fn offer(
    node: &Node,
    birth: &Birth,
    chain: Chain<NetworkService>,
    (program, mut entry): (Program, NetworkServiceEndpoint),
    service: Option<Service>,
) -> Result<Running> {
    let path = node.socket(program);
    let _an_earlier_life_may_have_left_it = std::fs::remove_file(&path);
    let socket = UnixListener::bind(&path).map_err(|error| Error::unavailable("bind", error.to_string()))?;
    entry.url = format!("unix://{}", path.display());
    let host = Host {
        network_service: Some(chain),
        ..birth.host()
    };
    node.network().listen(&entry.url, host);
    let registry = registry_client::client(&birth.component, &registry_settings(node)?, &birth.way);
    let (wanted, wants) = watch::channel(true);
    let component = birth.component.clone();
    birth.component.spawn_detached("register", async move {
        let shutdown = component.shutdown().clone();
        let keep = async {
            if let Some(service) = service {
                register(&component, &registry.ns, service).await;
            }
            keep(&component, &registry.nse, entry, wants).await;
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = keep => {}
        }
    });
    Ok(Running {
        wanted: Some(wanted),
        _socket: Some(socket),
        ..Running::default()
    })
}

/// Registers and unregisters an endpoint as it is wanted.
async fn keep(
    component: &Component,
    registry: &Chain<NseRegistry>,
    entry: NetworkServiceEndpoint,
    mut wants: watch::Receiver<bool>,
) {
    loop {
        if wants.wait_for(|wanted| *wanted).await.is_err() {
            return;
        }
        let mut registered = register(component, registry, entry.clone()).await;
        if wants.wait_for(|wanted| !*wanted).await.is_err() {
            return;
        }
        let ctx = Ctx::own(component, DEFAULT_BUDGET);
        let _it_expires_by_itself = registry.close(&ctx, &mut registered).await;
    }
}

/// Registers an entry, as often as it takes.
async fn register<A, T>(component: &Component, registry: &Chain<A>, entry: T) -> Registration<T>
where
    A: Api<Message = Registration<T>>,
    T: Entry,
{
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let mut registration = Registration {
            entry: entry.clone(),
            ..Default::default()
        };
        let ctx = Ctx::own(component, DEFAULT_BUDGET);
        match registry.request(&ctx, &mut registration).await {
            Ok(()) => return registration,
            Err(error) => warn!(%error, name = entry.name(), "not registered yet"),
        }
        sleep(backoff.next(component)).await;
    }
}
