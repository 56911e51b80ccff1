// SPDX-License-Identifier: Apache-2.0
//! An API server with the manifests of the webhook in it, and the webhook.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client};
use nsm::mesh::{Program, Start};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::control::{Control, TO_START};

/// The annotation.
pub(crate) const KEY: &str = "networkservicemesh.io";

/// Where the webhook is.
const HOME: &str = "nsm-system";

/// The name of everything that is its own.
const NAME: &str = "admission-webhook-k8s";

/// The user that the webhook is.
const USER: &str = "registry";

/// What the manifests consist of, but for the workload, which is the program itself, and the service.
const MANIFESTS: [&str; 3] = [
    include_str!("../../../deployments/admission-webhook-k8s/admission-webhook-rbac.yaml"),
    include_str!("../../../deployments/admission-webhook-k8s/admission-webhook-secret.yaml"),
    include_str!("../../../deployments/admission-webhook-k8s/mutating-webhook-config.yaml"),
];

pub(crate) struct World {
    control: Control,
    folder: TempDir,
    /// Where the webhook listens: an address of this process alone.
    address: String,
    webhook: Option<Program>,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("webhook-k8s-").tempdir()?;
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let mut world = Self {
            control: Control::start(folder.path()).await?,
            address: format!("127.77.{high}.{low}"),
            folder,
            webhook: None,
        };
        world.namespace(HOME, &json!({}), &json!({})).await?;
        for text in MANIFESTS {
            for text in text.split("\n---\n") {
                let object: Value = serde_saphyr::from_str(text)?;
                world.applies(HOME, &bound(object)).await?;
            }
        }
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": "admission-webhook-svc" },
            "spec": { "type": "ExternalName", "externalName": world.address },
        });
        world.applies(HOME, &service).await?;
        world.restart().await?;
        Ok(world)
    }

    /// Starts the webhook and waits until it is ready.
    pub(crate) async fn restart(&mut self) -> Result<()> {
        let kubeconfig = self.control.kubeconfig(USER).display().to_string();
        let images = |name: &str| format!("localhost/nsm/{name}:dev");
        let set = [
            ("KUBECONFIG", kubeconfig),
            ("NSM_NAME", NAME.to_string()),
            ("NSM_NAMESPACE", HOME.to_string()),
            ("NSM_SERVICE_NAME", "admission-webhook-svc".to_string()),
            ("NSM_WEBHOOK_MODE", "selfregister".to_string()),
            ("NSM_LISTEN_ON", format!("tcp://{}:443", self.address)),
            ("NSM_CONTAINER_IMAGES", images("cmd-nsc")),
            ("NSM_INIT_CONTAINER_IMAGES", images("cmd-nsc-init")),
            ("NSM_LABELS", "spiffe.io/spiffe-id:true".to_string()),
            ("NSM_LOG_LEVEL", "DEBUG".to_string()),
        ];
        let file = program();
        let what = Start {
            name: "webhook",
            file: &file,
            pod: None,
            folder: self.folder.path(),
        };
        let mut program = Program::start(what, &[], &set)?;
        let is_ready = async |program: &Program| program.printed().contains("ready").then_some(());
        program
            .wait_for("it was ready", Instant::now() + TO_START, is_ready)
            .await?;
        self.webhook = Some(program);
        self.is_asked().await
    }

    /// Waits until the API server asks the webhook.
    async fn is_asked(&self) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": "probe", "annotations": { KEY: "tap://refused" } },
        });
        let until = Instant::now() + TO_START;
        loop {
            let made = self.dry(&object).await;
            let text = made.err().map(|error| format!("{error:#}")).unwrap_or_default();
            if text.contains("use kernel, memif, vfio or noop") {
                return Ok(());
            }
            ensure!(Instant::now() < until, "the webhook is not asked: {text:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Kills the webhook.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.webhook.take().context("it does not run")?.kill()
    }

    /// Makes a namespace in which pods can be made.
    pub(crate) async fn namespace(&self, name: &str, annotations: &Value, labels: &Value) -> Result<()> {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "annotations": annotations, "labels": labels },
        });
        self.applies("", &object).await?;
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" },
                              "automountServiceAccountToken": false });
        self.applies(name, &account).await?;
        Ok(())
    }

    /// Makes an object; answers what is stored.
    pub(crate) async fn makes(&self, namespace: &str, object: &Value) -> Result<Value> {
        let api = api(&self.control.client, namespace, object)?;
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let stored = api.create(&PostParams::default(), &object).await?;
        Ok(serde_json::to_value(stored)?)
    }

    /// Makes an object as a trial.
    async fn dry(&self, object: &Value) -> Result<()> {
        let api = api(&self.control.client, "", object)?;
        let object: DynamicObject = serde_json::from_value(object.clone())?;
        let params = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        api.create(&params, &object).await?;
        Ok(())
    }

    /// Makes or changes an object; answers what is stored.
    pub(crate) async fn applies(&self, namespace: &str, object: &Value) -> Result<Value> {
        let api = api(&self.control.client, namespace, object)?;
        let name = object["metadata"]["name"].as_str().context("has a name")?;
        let params = PatchParams::apply("people").force();
        let stored = api.patch(name, &params, &Patch::Apply(object)).await?;
        Ok(serde_json::to_value(stored)?)
    }

    /// The authority's secret.
    pub(crate) async fn secret(&self) -> Result<Value> {
        self.reads(json!({ "apiVersion": "v1", "kind": "Secret" })).await
    }

    /// The configuration.
    pub(crate) async fn configuration(&self) -> Result<Value> {
        let kind = "MutatingWebhookConfiguration";
        self.reads(json!({ "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind }))
            .await
    }

    async fn reads(&self, kind: Value) -> Result<Value> {
        let found = api(&self.control.client, HOME, &kind)?.get(NAME).await?;
        Ok(serde_json::to_value(found)?)
    }

    /// Says where the logs are, and leaves them there.
    pub(crate) fn keep(mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("logs are in {}", self.folder.path().display())
    }
}

/// The program under test, or the one in the folder that `NSM_PROGRAMS` names.
fn program() -> PathBuf {
    match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => Path::new(&folder).join("admission-webhook-k8s"),
        None => env!("CARGO_BIN_EXE_admission-webhook-k8s").into(),
    }
}

/// A manifest, whose rights are those of the user that the webhook is here.
fn bound(mut object: Value) -> Value {
    if let Some(subjects) = object.get_mut("subjects") {
        *subjects = json!([{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }]);
    }
    object
}

/// Objects of the kind of this one.
fn api(client: &Client, namespace: &str, object: &Value) -> Result<Api<DynamicObject>> {
    let text = |key: &str| object[key].as_str().with_context(|| format!("has {key}"));
    let (version, kind) = (text("apiVersion")?, text("kind")?);
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let is_everywhere =
        kind.starts_with("Cluster") || matches!(kind, "Namespace" | "MutatingWebhookConfiguration");
    Ok(match is_everywhere {
        true => Api::all_with(client.clone(), &resource),
        false => Api::namespaced_with(client.clone(), namespace, &resource),
    })
}
