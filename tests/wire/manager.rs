// SPDX-License-Identifier: Apache-2.0
//! Our manager in the place of theirs, with our registry behind it, and a forwarder that says what theirs said.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use nsm_api::connection::Connection;
use nsm_api::matching::Labels;
use nsm_sdk::chains::nsmgr::{self, nsmgr};
use nsm_sdk::chains::nsmgr_registry::{self, nsmgr_registry};
use nsm_sdk::chains::registry_memory;
use nsm_sdk::core::{Chain, Ctx, Element, Error, NetworkService, Next, Request};
use nsm_sdk::networkservice::discoverforwarder::FORWARDER_SERVICE;
use nsm_sdk::policy::{self, Policies};
use nsm_sdk::sandbox::{Host, Network};
use nsm_tests::recording::{Call, Recording};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::place::{self, Place};
use crate::registry;
use crate::replay::Served;

const NAME: &str = "nsmgr";
const REGISTRY_URL: &str = "tcp://registry:5002";
const MANAGER_URL: &str = "tcp://nsmgr:5001";

/// Answers with what their forwarder has answered.
#[derive(Clone)]
struct Forwarder {
    answer: Connection,
    /// What it passes in the place of namespaces.
    file: PathBuf,
    closed: Arc<Mutex<Vec<String>>>,
}

/// Passes a file to the caller; answers with the name that it has.
fn passes(ctx: &Ctx, file: &Path) -> nsm_sdk::core::Result<String> {
    let failed = |error: io::Error| Error::internal("file", error.to_string());
    let files = ctx
        .peer()
        .files
        .as_ref()
        .ok_or_else(|| Error::internal("file", "no files pass here"))?;
    let opened = place::open(file).map_err(failed)?;
    Ok(files.send(opened).map_err(failed)?.to_string())
}

#[async_trait]
impl Element<NetworkService> for Forwarder {
    fn name(&self) -> &'static str {
        "forwarder"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Request,
        _: Next<'_, NetworkService>,
    ) -> nsm_sdk::core::Result<()> {
        let asked = message.connection.path.take().unwrap_or_default();
        let (id, mut answer) = (message.connection.id.clone(), self.answer.clone());
        let path = answer.path.get_or_insert_default();
        let ours = asked.path_segments.len().min(path.path_segments.len());
        path.index = asked.index;
        path.path_segments.splice(..ours, asked.path_segments);
        let parameters = answer
            .mechanism
            .iter_mut()
            .flat_map(|mechanism| mechanism.parameters.values_mut());
        for named in parameters.filter(|value| value.starts_with("inode://")) {
            *named = passes(ctx, &self.file)?;
        }
        message.connection = Connection { id, ..answer };
        Ok(())
    }

    async fn close(
        &self,
        _: &Ctx,
        message: &mut Request,
        _: Next<'_, NetworkService>,
    ) -> nsm_sdk::core::Result<()> {
        self.closed.lock().push(message.connection.id.clone());
        Ok(())
    }
}

/// What their manager and others asked, but for what our manager asks by itself.
fn is_asked(call: &Call) -> bool {
    call.to == NAME || (call.to == registry::NAME && call.from != NAME)
}

#[tokio::test(start_paused = true)]
async fn our_manager_answers_their_calls_as_theirs_did() -> Result<()> {
    let (recording, network) = (crate::recording(), Network::default());
    let folder = tempfile::tempdir()?;
    let registry = Place::new(&recording, registry::NAME)?;
    let behind = serve_registry(&registry, &network)?;
    let manager = Place::new(&recording, NAME)?;
    let power = CancellationToken::new();
    let served = serve_manager(&manager, &network, folder.path(), &power)?;
    let forwarder = Place::new(&recording, "forwarder")?;
    let closed = serve_forwarder(&recording, &forwarder, &network, folder.path())?;
    let mut answered = 0;
    for call in recording.calls.iter().filter(|call| is_asked(call)) {
        let (place, serves) = match call.to.as_str() {
            NAME => (&manager, &served),
            _ => (&registry, &behind),
        };
        let passed = folder.path().join(&call.from);
        if !passed.exists() {
            UnixListener::bind(&passed)?;
        }
        let ctx = place.arrives(&recording, call, Some(passed))?;
        let done = serves.answers(&ctx, call).await;
        done.with_context(|| format!("{} asks {} for {}", call.from, call.to, call.method))?;
        answered += 1;
    }
    assert!(answered > 10, "{answered} calls were answered");
    assert!(!closed.lock().is_empty(), "the forwarder was told of the close");
    power.cancel();
    drop((served, behind, network));
    for place in [manager, forwarder, registry] {
        place.component.end().await;
    }
    Ok(())
}

fn serve_registry(place: &Place, network: &Network) -> Result<Served> {
    let settings = registry::settings(place)?;
    let endpoints = registry_memory::nse(&place.component, &settings);
    let services = registry_memory::ns(&place.component, &settings);
    let host = Host {
        nse_registry: Some(endpoints.clone()),
        ns_registry: Some(services.clone()),
        ..place.host()
    };
    network.listen(REGISTRY_URL, host);
    Ok(Served {
        endpoints: Some(endpoints),
        services: Some(services),
        ..Served::default()
    })
}

/// A manager that calls others while it has power.
fn serve_manager(
    place: &Place,
    network: &Network,
    folder: &Path,
    power: &CancellationToken,
) -> Result<Served> {
    let way = network.dialer(&place.component, &place.identity(), &place.tokens, power);
    let settings = nsmgr_registry::Settings {
        gate: place.gate(policy::REGISTRY_SERVER)?,
        client_policies: Policies::choose(policy::REGISTRY_CLIENT)?,
        registry_url: Some(REGISTRY_URL.into()),
        url: MANAGER_URL.into(),
        info: Labels::new(),
    };
    let registries = nsmgr_registry(&place.component, &settings, &way);
    let settings = nsmgr::Settings {
        gate: place.gate(policy::SERVER)?,
        url: MANAGER_URL.into(),
        forwarder_service: FORWARDER_SERVICE.into(),
        info: Labels::new(),
        excluded_prefixes: folder.join("prefixes.yaml"),
        counters: Default::default(),
        listener: None,
    };
    Ok(Served {
        connections: Some(nsmgr(&place.component, &settings, &registries.lookup, way)),
        endpoints: Some(registries.nse),
        services: Some(registries.ns),
    })
}

/// A forwarder that is reached by the file that it passes when it registers; answers which connections it is told to
/// close.
fn serve_forwarder(
    recording: &Recording,
    place: &Place,
    network: &Network,
    folder: &Path,
) -> Result<Arc<Mutex<Vec<String>>>> {
    let is_theirs = |call: &&Call| call.to == "forwarder" && call.method.ends_with("/Request");
    let theirs = recording.calls.iter().find(is_theirs);
    let answer = theirs.context("the forwarder was asked")?.answers()?.pop();
    let (file, closed) = (folder.join("forwarder"), Arc::default());
    UnixListener::bind(&file)?;
    let url = format!("unix://{}", file.display());
    let forwarder = Forwarder {
        answer: answer.context("the forwarder has answered")?,
        file,
        closed: Arc::clone(&closed),
    };
    let host = Host {
        network_service: Some(Chain::new(vec![Arc::new(forwarder)])),
        ..place.host()
    };
    network.listen(&url, host);
    Ok(closed)
}
