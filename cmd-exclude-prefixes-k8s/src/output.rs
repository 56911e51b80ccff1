// SPDX-License-Identifier: Apache-2.0
//! Where prefixes go.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::watcher::Config;
use kube::{Client, Error as Failed};
use nsm_sdk::core::{Component, Error, Result};
use nsm_sdk_k8s::client::is_outage;
use nsm_sdk_k8s::mirror::Mirror;
use nsm_sdk_k8s::reach::Reach;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::prefixes::{parse, print, read};
use crate::settings::{OutputType, Settings};

/// How long the API server may take to write and to tell.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// Whoever may read the file: it is no secret, and managers run as somebody else.
const MODE: u32 = 0o644;

/// How large a file may be that is read, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where prefixes go. What is there already is not written again.
pub(crate) enum Output {
    File(File),
    Object(Box<Object>),
}

/// A file, which is replaced as a whole.
pub(crate) struct File {
    path: PathBuf,
    /// What it says.
    said: Option<String>,
}

/// A ConfigMap, in which changes of others are undone.
pub(crate) struct Object {
    api: Api<ConfigMap>,
    name: String,
    key: String,
    reach: Reach,
    there: Mirror<String>,
}

impl Output {
    /// What the settings say.
    pub(crate) async fn open(
        component: &Component,
        client: &Client,
        reach: &Reach,
        settings: &Settings,
    ) -> Self {
        match settings.prefixes_output_type {
            OutputType::File => Self::File(File::open(&settings.output_file_path).await),
            OutputType::ConfigMap => {
                let (name, key) = (
                    &settings.output_config_map_name,
                    settings.output_config_map_key.clone(),
                );
                Self::Object(Box::new(Object::follow(component, client, reach, name, key)))
            }
        }
    }

    /// The prefixes that are there.
    pub(crate) async fn there(&self) -> Vec<IpNet> {
        let said = match self {
            Self::File(file) => file.said.clone(),
            Self::Object(object) => {
                object.there.known().await;
                object.said()
            }
        };
        let texts = said.and_then(|said| parse(&said).ok()).unwrap_or_default();
        read("what was written before", texts.iter().map(String::as_str))
    }

    /// Writes these prefixes if others are there. Errors: `not-written`, and those of [`Reach`].
    pub(crate) async fn write(&mut self, prefixes: &[IpNet]) -> Result<()> {
        let text = print(prefixes);
        let is_new = match self {
            Self::File(file) => file.write(text).await?,
            Self::Object(object) => object.write(text).await?,
        };
        if is_new {
            info!(prefixes = prefixes.len(), "written");
        }
        Ok(())
    }

    /// Waits until somebody else may have changed it.
    pub(crate) async fn changed(&self) {
        match self {
            Self::File(_) => std::future::pending().await,
            Self::Object(object) => object.differs().await,
        }
    }
}

impl File {
    async fn open(path: &Path) -> Self {
        let size = tokio::fs::metadata(path).await.map(|metadata| metadata.len());
        let said = match size {
            Ok(size) if size <= MAX_FILE => tokio::fs::read_to_string(path).await.ok(),
            _ => None,
        };
        Self {
            path: path.into(),
            said,
        }
    }

    async fn write(&mut self, text: String) -> Result<bool> {
        if self.said.as_ref() == Some(&text) {
            return Ok(false);
        }
        let failed = |error| {
            let text = format!("cannot write {}: {error}", self.path.display());
            Error::unavailable("not-written", text)
        };
        self.replace(&text).await.map_err(failed)?;
        self.said = Some(text);
        Ok(true)
    }

    /// Who reads it sees the old one or the new one.
    async fn replace(&self, text: &str) -> std::io::Result<()> {
        let mut fresh = self.path.clone().into_os_string();
        fresh.push(".new");
        if let Some(folder) = self.path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        tokio::fs::write(&fresh, text).await?;
        tokio::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(MODE)).await?;
        tokio::fs::rename(&fresh, &self.path).await
    }
}

impl Object {
    fn follow(component: &Component, client: &Client, reach: &Reach, name: &str, key: String) -> Self {
        let api: Api<ConfigMap> = Api::default_namespaced(client.clone());
        let selects = Config::default().fields(&format!("metadata.name={name}"));
        let of_key = key.clone();
        let read = move |map: &ConfigMap, _| map.data.as_ref()?.get(&of_key).cloned();
        Self {
            there: Mirror::start(component, reach, api.clone(), selects, read),
            api,
            name: name.into(),
            key,
            reach: reach.clone(),
        }
    }

    fn said(&self) -> Option<String> {
        self.there.now().objects.values().next().cloned()
    }

    async fn write(&self, text: String) -> Result<bool> {
        self.there.known().await;
        if self.said().as_ref() == Some(&text) {
            return Ok(false);
        }
        let failed = |why: &dyn std::fmt::Display| {
            let text = format!("cannot write the ConfigMap {}: {why}", self.name);
            Error::unavailable("not-written", text)
        };
        match timeout(TO_ANSWER, self.put(&text)).await {
            Ok(Ok(())) => self.reach.answers(),
            Ok(Err(error)) => {
                if is_outage(&error) {
                    self.reach.is_silent(&error);
                }
                return Err(failed(&error));
            }
            Err(_) => {
                self.reach.is_silent(&"no answer in time");
                return Err(failed(&"no answer in time"));
            }
        }
        let mut there = self.there.follow();
        let is_told = there.wait_for(|known| known.objects.values().any(|said| *said == text));
        if timeout(TO_ANSWER, is_told).await.is_err() {
            warn!(
                map = self.name,
                "written, and not seen there: somebody else writes it, too"
            );
        }
        Ok(true)
    }

    async fn put(&self, text: &str) -> std::result::Result<(), Failed> {
        let data = std::collections::BTreeMap::from([(self.key.clone(), text.to_string())]);
        let change = ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        };
        let params = PatchParams::default();
        match self.api.patch(&self.name, &params, &Patch::Merge(&change)).await {
            Err(Failed::Api(status)) if status.code == 404 => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let made = ConfigMap { metadata, ..change };
                self.api.create(&PostParams::default(), &made).await.map(drop)
            }
            done => done.map(drop),
        }
    }

    /// Waits until it says something else than now.
    async fn differs(&self) {
        let said = self.said();
        let mut there = self.there.follow();
        let differs = there.wait_for(|known| known.objects.values().next() != said.as_ref());
        if differs.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    #[tokio::test]
    async fn a_file_is_replaced_when_it_says_something_else_and_only_then() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("config").join("excluded_prefixes.yaml");
        let mut output = Output::File(File::open(&path).await);
        assert_eq!(output.there().await, nets(&[]));
        let said = nets(&["10.0.0.0/8", "fd00::/8"]);
        output.write(&said).await.expect("written");
        let inode = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            let metadata = std::fs::metadata(path).expect("it is there");
            (metadata.ino(), metadata.mode() & 0o777)
        };
        let first = inode(&path);
        assert_eq!(first.1, MODE);
        let mut again = Output::File(File::open(&path).await);
        assert_eq!(again.there().await, said);
        again.write(&said).await.expect("nothing to do");
        assert_eq!(inode(&path), first, "it was not written again");
        again.write(&nets(&[])).await.expect("written");
        assert_eq!(
            std::fs::read_to_string(&path).expect("it is there"),
            "Prefixes: []\n"
        );
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_written_is_an_error_with_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let taken = folder.path().join("taken");
        std::fs::write(&taken, "").expect("it is ours");
        let mut output = Output::File(File::open(&taken.join("file")).await);
        let error = output.write(&nets(&[])).await.expect_err("no folder");
        assert!(error.text().contains("taken/file"), "{error}");
    }
}
