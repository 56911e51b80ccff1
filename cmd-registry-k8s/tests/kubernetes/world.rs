// SPDX-License-Identifier: Apache-2.0
//! An API server with our resources in it, and registries on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use nsm::mesh::{Program, Start};
use nsm_sdk::core::Component;
use nsm_sdk::identity::Issuer;
use nsm_sdk::identity::issuer::Agent;
use nsm_sdk_k8s::resources::definitions;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::caller::Caller;
use crate::control::{Control, TO_START};

/// How long something may take that happens by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The namespace in which registries write.
pub(crate) const HOME: &str = "nsm-system";

/// The rights.
const RBAC: &str = include_str!("../../../deployments/apps/registry-k8s/rbac.yaml");

pub(crate) const NSE: &str = "networkserviceendpoints";
pub(crate) const NS: &str = "networkservices";

pub(crate) struct World {
    pub(crate) control: Control,
    pub(crate) issuer: Issuer,
    component: Component,
    folder: TempDir,
    registries: usize,
}

/// A running registry.
pub(crate) struct Registry {
    pub(crate) program: Program,
    pub(crate) url: String,
    /// How long it took until it was ready.
    pub(crate) ready: Duration,
    _agent: Agent,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("registry-k8s-").tempdir()?;
        let component = Component::new("tests");
        let world = Self {
            control: Control::start(folder.path()).await?,
            issuer: Issuer::new(&component, "test")?,
            component,
            folder,
            registries: 0,
        };
        world.define(&definitions()?.map(|(_, text)| text)).await?;
        for namespace in [HOME, "elsewhere"] {
            world.make_namespace(namespace).await?;
        }
        world.allow().await?;
        Ok(world)
    }

    /// Defines resources, and waits until they are served.
    pub(crate) async fn define(&self, texts: &[String]) -> Result<()> {
        let api: Api<CustomResourceDefinition> = Api::all(self.control.client.clone());
        let params = PatchParams::apply("tests").force();
        for text in texts {
            let definition: CustomResourceDefinition = serde_saphyr::from_str(text)?;
            let name = definition.metadata.name.clone().context("has a name")?;
            api.patch(&name, &params, &Patch::Apply(&definition)).await?;
            eventually(&format!("{name} is established"), async || {
                let status = api.get(&name).await.ok()?.status?;
                let conditions = status.conditions.unwrap_or_default();
                let is = |kind: &str| {
                    conditions
                        .iter()
                        .any(|one| one.type_ == kind && one.status == "True")
                };
                (is("Established") && !is("NonStructuralSchema")).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    async fn make_namespace(&self, name: &str) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.control.client.clone());
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        api.patch(name, &PatchParams::apply("tests"), &Patch::Apply(namespace))
            .await?;
        Ok(())
    }

    /// Lets the user `registry` do what the manifests let a registry do, and nothing more.
    async fn allow(&self) -> Result<()> {
        let group = "rbac.authorization.k8s.io";
        for text in RBAC.split("\n---\n") {
            let mut object: Value = serde_saphyr::from_str(text)?;
            if object["kind"] == "ServiceAccount" {
                continue;
            }
            if let Some(subjects) = object.get_mut("subjects") {
                *subjects = json!([{ "apiGroup": group, "kind": "User", "name": "registry" }]);
            }
            let of = |key: &str| object[key].as_str().with_context(|| format!("has {key}"));
            ensure!(
                of("apiVersion")? == format!("{group}/v1"),
                "it is no right: {object}"
            );
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", of("kind")?));
            let api: Api<DynamicObject> = Api::all_with(self.control.client.clone(), &resource);
            let name = object["metadata"]["name"].as_str().context("has a name")?;
            api.patch(name, &PatchParams::apply("tests"), &Patch::Apply(&object))
                .await?;
        }
        Ok(())
    }

    /// Starts a registry and waits until it serves.
    pub(crate) async fn registry(&mut self, variables: &[(&str, &str)]) -> Result<Registry> {
        self.registries += 1;
        let name = format!("registry-{}", self.registries);
        let beside = |suffix: &str| self.folder.path().join(format!("{name}.{suffix}"));
        let (file, identity, socket) = (program(), beside("identity"), beside("sock"));
        let agent = self
            .issuer
            .serve(&identity, 0o600, &format!("/ns/{HOME}/pod/{name}"))?;
        let url = format!("unix://{}", socket.display());
        let mut set = vec![
            (
                "KUBECONFIG",
                self.control.kubeconfig("registry").display().to_string(),
            ),
            ("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display())),
            ("NSM_NAME", name.clone()),
            ("NSM_NAMESPACE", HOME.to_string()),
            ("NSM_LISTEN_ON", url.clone()),
            ("NSM_LOG_LEVEL", "DEBUG".to_string()),
        ];
        set.extend(variables.iter().map(|(name, value)| (*name, value.to_string())));
        let what = Start {
            name: &name,
            file: &file,
            pod: None,
            folder: self.folder.path(),
        };
        let began = Instant::now();
        let mut program = Program::start(what, &[], &set)?;
        program
            .wait_for("it listened", began + TO_START, async |_| {
                tokio::net::UnixStream::connect(&socket).await.ok().map(drop)
            })
            .await?;
        Ok(Registry {
            program,
            url,
            ready: began.elapsed(),
            _agent: agent,
        })
    }

    /// Somebody of this name who calls a registry.
    pub(crate) fn caller(&self, registry: &Registry, name: &str) -> Result<Caller> {
        Caller::new(&self.issuer, &registry.url, name)
    }

    /// The objects of a kind in a namespace, as the administrator sees them.
    pub(crate) fn objects(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        self.objects_by(&self.control.client, kind, namespace)
    }

    /// The same by another way.
    pub(crate) fn objects_by(&self, client: &Client, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let single = if kind == NS {
            "NetworkService"
        } else {
            "NetworkServiceEndpoint"
        };
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("networkservicemesh.io", "v1", single));
        Api::namespaced_with(client.clone(), namespace, &resource)
    }

    /// Writes an object as people do.
    pub(crate) async fn writes(&self, kind: &str, namespace: &str, name: &str, spec: Value) -> Result<()> {
        let api = self.objects(kind, namespace);
        let single = if kind == NS {
            "NetworkService"
        } else {
            "NetworkServiceEndpoint"
        };
        let object = json!({
            "apiVersion": "networkservicemesh.io/v1", "kind": single, "metadata": { "name": name }, "spec": spec,
        });
        api.patch(name, &PatchParams::apply("people").force(), &Patch::Apply(object))
            .await?;
        Ok(())
    }

    /// What is stored of an object, or nothing.
    pub(crate) async fn stored(&self, kind: &str, name: &str) -> Result<Option<Value>> {
        let found = self.objects(kind, HOME).get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Says where the logs are, and leaves them there.
    pub(crate) fn keep(mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("logs are in {}", self.folder.path().display())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.component.stop().cancel();
        self.component.shutdown().cancel();
    }
}

/// The program under test, or the one in the folder that `NSM_PROGRAMS` names.
fn program() -> PathBuf {
    match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => Path::new(&folder).join("registry-k8s"),
        None => env!("CARGO_BIN_EXE_registry-k8s").into(),
    }
}

/// Waits until `look` answers something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = look().await {
            return Ok(answer);
        }
        ensure!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
