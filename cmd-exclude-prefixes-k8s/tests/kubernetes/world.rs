// SPDX-License-Identifier: Apache-2.0
//! An API server with the rights of the manifest in it, and the program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use nsm::mesh::{Program, Start};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::control::{Control, TO_START};

/// The user that the program is.
const USER: &str = "registry";

/// The network of services of the API server that tests start.
pub(crate) const SERVICES: &str = "10.0.0.0/24";

/// The rights.
const RBAC: &str = include_str!("../../../deployments/apps/exclude-prefixes-k8s/rbac.yaml");

pub(crate) struct World {
    pub(crate) control: Control,
    folder: TempDir,
    started: usize,
}

/// A running program.
pub(crate) struct Running {
    pub(crate) program: Program,
    pub(crate) file: PathBuf,
}

impl World {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("exclude-k8s-").tempdir()?;
        let world = Self {
            control: Control::start(folder.path()).await?,
            folder,
            started: 0,
        };
        for text in RBAC.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(text)?;
            world.applies("", bound(object)).await?;
        }
        Ok(world)
    }

    /// A path of this world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the program, which writes into a file of its own.
    pub(crate) fn runs(&mut self, variables: &[(&str, String)]) -> Result<Running> {
        self.started += 1;
        let file = self.path(&format!("{}.yaml", self.started));
        self.runs_on(file, variables)
    }

    /// Starts the program, which writes into this file.
    pub(crate) fn runs_on(&mut self, file: PathBuf, variables: &[(&str, String)]) -> Result<Running> {
        self.started += 1;
        let mut set = vec![
            ("KUBECONFIG", self.control.kubeconfig(USER).display().to_string()),
            ("NSM_OUTPUT_FILE_PATH", file.display().to_string()),
            ("NSM_LOG_LEVEL", "DEBUG".to_string()),
        ];
        set.extend(variables.iter().cloned());
        let what = Start {
            name: &format!("exclude-{}", self.started),
            file: &program(),
            pod: None,
            folder: self.folder.path(),
        };
        let program = Program::start(what, &[], &set)?;
        Ok(Running { program, file })
    }

    /// Makes or changes an object.
    pub(crate) async fn applies(&self, namespace: &str, object: Value) -> Result<()> {
        let api = self.api(namespace, &object)?;
        let name = object["metadata"]["name"].as_str().context("has a name")?;
        let params = PatchParams::apply("people").force();
        api.patch(name, &params, &Patch::Apply(&object)).await?;
        Ok(())
    }

    /// Deletes an object.
    pub(crate) async fn deletes(&self, namespace: &str, object: Value) -> Result<()> {
        let name = object["metadata"]["name"].as_str().context("has a name")?;
        self.api(namespace, &object)?
            .delete(name, &DeleteParams::default())
            .await?;
        Ok(())
    }

    /// What a ConfigMap says.
    pub(crate) async fn says(&self, namespace: &str, name: &str) -> Result<Value> {
        let api = self.api(namespace, &map(name, &[]))?;
        Ok(serde_json::to_value(api.get(name).await?)?["data"].clone())
    }

    /// Objects of the kind of this one.
    fn api(&self, namespace: &str, object: &Value) -> Result<Api<DynamicObject>> {
        let text = |key: &str| object[key].as_str().with_context(|| format!("has {key}"));
        let (version, kind) = (text("apiVersion")?, text("kind")?);
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let client = self.control.client.clone();
        Ok(match namespace {
            "" => Api::all_with(client, &resource),
            namespace => Api::namespaced_with(client, namespace, &resource),
        })
    }

    /// Says where the logs are, and leaves them there.
    pub(crate) fn keep(mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("logs are in {}", self.folder.path().display())
    }
}

impl Running {
    /// The prefixes in the file; nothing while there is none.
    pub(crate) fn said(&self) -> Option<Vec<String>> {
        prefixes(&std::fs::read_to_string(&self.file).ok()?)
    }

    /// Waits until the file says this.
    pub(crate) async fn says(&self, expected: &[&str]) -> Result<()> {
        let is_said = async || self.said().filter(|said| said == expected);
        let said = eventually(&format!("{expected:?} is written"), is_said).await;
        said.map(drop)
            .with_context(|| format!("{:?}; {}", self.said(), self.program.printed()))
    }

    /// Waits until it has printed this.
    pub(crate) async fn prints(&self, text: &str) -> Result<()> {
        let is_printed = async || self.program.printed().contains(text).then_some(());
        eventually(&format!("{text:?} is printed"), is_printed)
            .await
            .with_context(|| self.program.printed())
    }

    /// Which file it is: another one after every write.
    pub(crate) fn inode(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        Ok(std::fs::metadata(&self.file)?.ino())
    }
}

/// The prefixes of a list as managers read it.
pub(crate) fn prefixes(yaml: &str) -> Option<Vec<String>> {
    let content: Value = serde_saphyr::from_str(yaml).ok()?;
    let list = content["Prefixes"].as_array()?;
    Some(
        list.iter()
            .filter_map(|one| Some(one.as_str()?.to_string()))
            .collect(),
    )
}

/// A ConfigMap.
pub(crate) fn map(name: &str, data: &[(&str, &str)]) -> Value {
    let data: std::collections::BTreeMap<_, _> = data.iter().copied().collect();
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data })
}

/// A node.
pub(crate) fn node(name: &str, cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "spec": { "podCIDR": cidrs.first(), "podCIDRs": cidrs },
    })
}

/// A manifest, whose rights are those of the user that the program is here.
pub(crate) fn bound(mut object: Value) -> Value {
    if let Some(subjects) = object.get_mut("subjects") {
        *subjects = json!([{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }]);
    }
    object
}

/// The program under test, or the one in the folder that `NSM_PROGRAMS` names.
pub(crate) fn program() -> PathBuf {
    match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => Path::new(&folder).join("exclude-prefixes-k8s"),
        None => env!("CARGO_BIN_EXE_exclude-prefixes-k8s").into(),
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
