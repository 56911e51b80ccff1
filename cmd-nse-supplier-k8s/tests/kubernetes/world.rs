// SPDX-License-Identifier: Apache-2.0
//! An API server with the rights of the manifest in it, a registry, and suppliers. Nobody runs pods here: tests say what
//! becomes of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use nsm::mesh::{Program, Start};
use nsm_api::registry::{
    Destination, Match, NetworkService as Service, NetworkServiceEndpoint, NetworkServiceLabels,
};
use nsm_sdk::chains::client;
use nsm_sdk::core::{Component, Ctx, Dialer, Error, NetworkService, NsRegistry, NseRegistry, Registration};
use nsm_sdk::identity::issuer::Agent;
use nsm_sdk::identity::{Issuer, Tokens};
use nsm_sdk::transport::Pool;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::control::{Control, TO_START};

/// The user that suppliers are.
const USER: &str = "registry";

/// Where pods are made.
pub(crate) const HOME: &str = "zero";

/// The rights.
const RBAC: &str = include_str!("../../../deployments/apps/nse-supplier-k8s/rbac.yaml");

/// The template of the example.
pub(crate) const TEMPLATE: &str =
    include_str!("../../../deployments/examples/scale-from-zero/pod-template.yaml");

pub(crate) struct World {
    pub(crate) control: Control,
    folder: TempDir,
    component: Component,
    issuer: Issuer,
    registry: Program,
    _agents: Vec<Agent>,
    started: usize,
}

/// A running supplier of a service.
pub(crate) struct Supplier {
    pub(crate) program: Program,
    url: String,
    _agent: Agent,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("supplier-k8s-").tempdir()?;
        let component = Component::new("tests");
        let issuer = Issuer::new(&component, "test")?;
        let agent = issuer.serve(
            &folder.path().join("registry-id"),
            0o600,
            "/ns/nsm-system/pod/registry",
        )?;
        let what = Start {
            name: "registry",
            file: &program("registry-memory"),
            pod: None,
            folder: folder.path(),
        };
        let socket = folder.path().join("registry");
        let set = [
            (
                "SPIFFE_ENDPOINT_SOCKET",
                format!("unix://{}-id", socket.display()),
            ),
            ("NSM_LISTEN_ON", format!("unix://{}", socket.display())),
            ("NSM_LOG_LEVEL", "DEBUG".to_string()),
        ];
        let registry = Program::start(what, &[], &set)?;
        let world = Self {
            control: Control::start(folder.path()).await?,
            component,
            issuer,
            registry,
            _agents: vec![agent],
            folder,
            started: 0,
        };
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": HOME } });
        world.applies("", namespace).await?;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" },
                              "automountServiceAccountToken": false });
        world.applies(HOME, account).await?;
        for text in RBAC.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(text)?;
            if let Some(subjects) = object.get_mut("subjects") {
                *subjects =
                    json!([{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }]);
            }
            world.applies(HOME, object).await?;
        }
        for node in ["n1", "n2"] {
            let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
            world.applies("", node).await?;
        }
        Ok(world)
    }

    /// A file of this world that says this.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts a supplier of `service`, by the template in `file`.
    pub(crate) fn launches(&mut self, service: &str, file: &Path, more: &[(&str, &str)]) -> Result<Supplier> {
        self.started += 1;
        let name = format!("supplier-{}", self.started);
        let beside = |suffix: &str| self.folder.path().join(format!("{name}.{suffix}"));
        let identity = beside("id");
        let agent = self
            .issuer
            .serve(&identity, 0o600, &format!("/ns/{HOME}/pod/{name}"))?;
        // Who finds it shall not wait for a socket that a registry without managers does not pass.
        let url = format!("tcp://127.0.0.1:{}", free_port()?);
        let mut set = vec![
            ("KUBECONFIG", self.control.kubeconfig(USER).display().to_string()),
            ("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display())),
            ("HOSTNAME", name.clone()),
            ("NSM_NAME", name.clone()),
            ("NSM_CONNECT_TO", self.registry_url()),
            ("NSM_LISTEN_ON", url.clone()),
            ("NSM_SERVICE_NAME", service.to_string()),
            ("NSM_LABELS", "app:icmp-responder-supplier".to_string()),
            ("NSM_NAMESPACE", HOME.to_string()),
            ("NSM_POD_DESCRIPTION_FILE", file.display().to_string()),
            ("NSM_LOG_LEVEL", "DEBUG".to_string()),
        ];
        set.extend(more.iter().map(|(name, value)| (*name, value.to_string())));
        let what = Start {
            name: &name,
            file: &program("nse-supplier-k8s"),
            pod: None,
            folder: self.folder.path(),
        };
        let program = Program::start(what, &[], &set)?;
        Ok(Supplier {
            program,
            url,
            _agent: agent,
        })
    }

    /// The same, and waits until it is registered. The service is there.
    pub(crate) async fn supplies(&mut self, service: &str, template: &str) -> Result<Supplier> {
        self.serves(service).await?;
        let file = self.file(&format!("{service}.yaml"), template)?;
        let mut supplier = self.launches(service, &file, &[])?;
        let is_ready = async |program: &Program| program.printed().contains("INFO ready").then_some(());
        supplier
            .program
            .wait_for("it was ready", Instant::now() + TO_START, is_ready)
            .await?;
        Ok(supplier)
    }

    fn registry_url(&self) -> String {
        format!("unix://{}", self.folder.path().join("registry").display())
    }

    /// Registers a service whose endpoints are those of the client's node, and suppliers otherwise.
    async fn serves(&self, service: &str) -> Result<()> {
        let to = |selector: &[(&str, &str)]| Destination {
            destination_selector: owned(selector),
            ..Default::default()
        };
        let workers = Match {
            fallthrough: true,
            routes: vec![to(&[
                ("app", "nse-icmp-responder"),
                ("nodeName", "{{.nodeName}}"),
            ])],
            ..Default::default()
        };
        let supplier = Match {
            routes: vec![to(&[("app", "icmp-responder-supplier")])],
            ..Default::default()
        };
        let entry = Service {
            name: service.into(),
            payload: "ETHERNET".into(),
            matches: vec![workers, supplier],
            ..Default::default()
        };
        eventually("the registry serves", async || {
            let pool = self.pool("people").ok()?;
            let ctx = Ctx::own(&self.component, TO_START);
            let url = self.registry_url();
            let way = Dialer::<NsRegistry>::dial(&pool, &url, ctx.deadline());
            let message = Registration {
                entry: entry.clone(),
                ..Default::default()
            };
            way.await.ok()?.request(&ctx, &message).await.ok().map(drop)
        })
        .await
    }

    /// Registers the endpoint of a node, as its pod does.
    pub(crate) async fn registers(&self, service: &str, node: &str) -> Result<()> {
        let name = format!("{service}-worker-{node}");
        let labels = NetworkServiceLabels {
            labels: owned(&[("app", "nse-icmp-responder"), ("nodeName", node)]),
        };
        let entry = NetworkServiceEndpoint {
            name: name.clone(),
            url: "tcp://127.0.0.1:1".into(),
            network_service_names: vec![service.into()],
            network_service_labels: [(service.to_string(), labels)].into(),
            ..Default::default()
        };
        let (pool, ctx) = (self.pool(&name)?, Ctx::own(&self.component, TO_START));
        let way = Dialer::<NseRegistry>::dial(&pool, &self.registry_url(), ctx.deadline()).await?;
        let message = Registration {
            entry,
            ..Default::default()
        };
        way.request(&ctx, &message).await?;
        Ok(())
    }

    fn pool(&self, name: &str) -> Result<Pool> {
        let identity = self.issuer.follow(&format!("/ns/{HOME}/pod/{name}"))?;
        let component = Component::new(name);
        Ok(Pool::new(
            &component,
            identity,
            Tokens::new(Duration::from_secs(600)),
        ))
    }

    /// What a client on this node is told that asks a supplier, within this time.
    pub(crate) async fn asks(
        &self,
        supplier: &Supplier,
        service: &str,
        node: &str,
        within: Duration,
    ) -> Result<Error> {
        let pool = self.pool("client")?;
        let component = Component::new("client");
        let id = component.uuid();
        let url = format!("kernel://{service}/nsm-1?nodeName={node}");
        let request = client::request(&component, &id, &url.parse()?);
        let ctx = Ctx::own(&component, within);
        let way = Dialer::<NetworkService>::dial(&pool, &supplier.url, ctx.deadline()).await?;
        let answered = way.request(&ctx, &request).await;
        answered.err().context("a supplier serves nobody")
    }

    /// The pods of a service, but those that were told to end: here no node lets them.
    pub(crate) async fn pods(&self, service: &str) -> Result<Vec<Pod>> {
        let all = self.api().list(&ListParams::default()).await?;
        let is_of = |pod: &Pod| {
            let mut annotations = pod.metadata.annotations.iter().flatten();
            pod.metadata.deletion_timestamp.is_none()
                && annotations.any(|(key, value)| key == "networkservicemesh.io/service" && value == service)
        };
        Ok(all.items.into_iter().filter(is_of).collect())
    }

    /// Waits until there are so many pods of a service.
    pub(crate) async fn has(&self, service: &str, count: usize) -> Result<Vec<Pod>> {
        eventually(&format!("there are {count} pods of {service}"), async || {
            let pods = self.pods(service).await.ok()?;
            (pods.len() == count).then_some(pods)
        })
        .await
    }

    /// Says what has become of a pod, as its node does.
    pub(crate) async fn becomes(&self, pod: &Pod, status: Value) -> Result<()> {
        let name = pod.metadata.name.as_deref().context("has a name")?;
        let change = Patch::Merge(json!({ "status": status }));
        self.api()
            .patch_status(name, &PatchParams::default(), &change)
            .await?;
        Ok(())
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.control.client.clone(), HOME)
    }

    /// Makes or changes an object.
    async fn applies(&self, namespace: &str, object: Value) -> Result<()> {
        let text = |key: &str| object[key].as_str().with_context(|| format!("has {key}"));
        let (version, kind) = (text("apiVersion")?, text("kind")?);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let client = self.control.client.clone();
        let api: Api<DynamicObject> = match namespace.is_empty() || kind.starts_with("Cluster") {
            true => Api::all_with(client, &resource),
            false => Api::namespaced_with(client, namespace, &resource),
        };
        let name = object["metadata"]["name"].as_str().context("has a name")?;
        let params = PatchParams::apply("people").force();
        api.patch(name, &params, &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Says where the logs are, and leaves them there.
    pub(crate) fn keep(mut self) -> String {
        self.folder.disable_cleanup(true);
        let registry = self.registry.name();
        format!(
            "logs are in {} ({registry}.log, ...)",
            self.folder.path().display()
        )
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.component.stop().cancel();
        self.component.shutdown().cancel();
    }
}

fn free_port() -> Result<u16> {
    let socket = std::net::TcpListener::bind("127.0.0.1:0")?;
    Ok(socket.local_addr()?.port())
}

fn owned(labels: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    labels.iter().map(owned).collect()
}

/// A program beside the one under test, or in the folder that `NSM_PROGRAMS` names.
fn program(name: &str) -> PathBuf {
    match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => Path::new(&folder).join(name),
        None => Path::new(env!("CARGO_BIN_EXE_nse-supplier-k8s")).with_file_name(name),
    }
}

/// Waits until `look` answers something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let until = Instant::now() + TO_START;
    loop {
        if let Some(answer) = look().await {
            return Ok(answer);
        }
        ensure!(Instant::now() < until, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
