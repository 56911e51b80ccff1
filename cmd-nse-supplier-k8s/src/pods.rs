// SPDX-License-Identifier: Apache-2.0
//! Endpoints that are pods.
//!
//! Whom a pod was made for is written on it, so a supplier that comes back, or another one of the same service, finds it
//! as it is. What keeps two from making two is its name, which a template makes of the place alone.

mod pod;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::runtime::watcher::Config;
use kube::{Client, Error as Failed, ResourceExt};
use nsm_sdk::core::{Component, Error, Request, Result};
use nsm_sdk::networkservice::supply::{Place, Started, Starter};
use nsm_sdk_k8s::client::is_outage;
use nsm_sdk_k8s::mirror::{Known, Mirror};
use nsm_sdk_k8s::reach::Reach;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::template;
use pod::{MANAGED, MANAGER, Seen, hash, mark};

/// How long an answer of the API server may take.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// How long is waited for a pod of the same name to go.
const TO_GO: Duration = Duration::from_millis(100);

/// How long a pod that has ended stays, so that people see how.
const KEPT: Duration = Duration::from_secs(5);

/// How large a template may be, bytes.
const MAX_TEMPLATE: u64 = 64 * 1024;

/// See the [module](self).
pub(crate) struct Pods {
    api: Api<Pod>,
    nodes: Api<Node>,
    namespace: String,
    template: PathBuf,
    most: usize,
    /// Who makes them, as their label says.
    us: String,
    reach: Reach,
    there: Mirror<Seen>,
}

impl Pods {
    /// Makes pods of the template at `template` in `namespace`, at most `most` of them.
    pub(crate) fn new(
        component: &Component,
        client: &Client,
        namespace: &str,
        template: &Path,
        most: usize,
    ) -> Self {
        let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let reach = Reach::new(
            component,
            client,
            "no endpoint is started, and those that have ended stay",
        );
        let selects = Config::default().labels(&format!("{MANAGED}={MANAGER}"));
        let us = std::env::var("HOSTNAME").unwrap_or_else(|_| component.name().to_string());
        let pods = Self {
            there: Mirror::start(component, &reach, api.clone(), selects, |pod: &Pod, _| {
                Some(Seen::of(pod))
            }),
            api,
            nodes: Api::all(client.clone()),
            namespace: namespace.into(),
            template: template.into(),
            most,
            us,
            reach,
        };
        let (api, ended, there) = (
            pods.api.clone(),
            component.shutdown().clone(),
            pods.there.follow(),
        );
        component.spawn_detached("collect pods", async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = collect(api, there) => {}
            }
        });
        pods
    }

    /// Checks that the template makes a pod. Errors: `bad-template`.
    pub(crate) async fn check(&self, service: &str) -> Result<()> {
        let mut request = Request::default();
        request.connection.network_service = service.into();
        request.connection.labels = [("nodeName".to_string(), "node".to_string())].into();
        self.make(&Place::of(&request)?, &request).await.map(drop)
    }

    /// The pod that the template makes. Errors: `bad-template`.
    async fn make(&self, place: &Place, request: &Request) -> Result<Pod> {
        let what = self.template.display().to_string();
        let unread = |why: &dyn std::fmt::Display| {
            Error::unavailable("bad-template", format!("{what} cannot be read: {why}"))
        };
        let size = tokio::fs::metadata(&self.template)
            .await
            .map_err(|error| unread(&error))?
            .len();
        if size > MAX_TEMPLATE {
            return Err(unread(&format!("it is larger than {MAX_TEMPLATE} bytes")));
        }
        let text = tokio::fs::read_to_string(&self.template)
            .await
            .map_err(|error| unread(&error))?;
        let mut pod = template::pod(&what, &text, place, request)?;
        mark(&mut pod, &self.namespace, &self.us, place, request);
        Ok(pod)
    }

    /// The pod for the place that is there and lives. Errors: `too-many-endpoints`; `api-server-unreachable` while
    /// nothing is known yet.
    async fn find(&self, place: &Place) -> Result<Option<Seen>> {
        if timeout(TO_ANSWER, self.there.known()).await.is_err() {
            return Err(self.unreachable("look at pods", &"it has not told yet which there are"));
        }
        let (known, hash) = (self.there.now(), hash(place));
        let living = || known.objects.values().filter(|pod| pod.lives());
        if let Some(found) = living().find(|pod| pod.place == hash) {
            return Ok(Some(found.clone()));
        }
        let count = living().count();
        if count >= self.most {
            let text = format!("{count} endpoints run, and NSM_MAX_ENDPOINTS allows no more");
            return Err(Error::exhausted("too-many-endpoints", text));
        }
        Ok(None)
    }

    /// Refuses a node that is not there. Without the right to look it may be.
    async fn check_node(&self, node: &str) -> Result<()> {
        if node.is_empty() {
            return Ok(());
        }
        match timeout(TO_ANSWER, self.nodes.get_metadata_opt(node)).await {
            Ok(Ok(None)) => {
                let text =
                    format!("the cluster has no node {node:?}, which the client's label nodeName says");
                Err(Error::not_found("no-node", text))
            }
            _ => Ok(()),
        }
    }

    fn unreachable(&self, what: &str, why: &dyn std::fmt::Display) -> Error {
        self.reach.is_silent(why);
        let text = format!("cannot {what}: the API server cannot be reached ({why})");
        Error::unavailable("api-server-unreachable", text)
    }

    /// Asks the API server for something. Errors: `api-server-unreachable`, and what it refuses.
    async fn ask<T>(&self, what: &str, call: impl Future<Output = kube::Result<T>>) -> Result<Option<T>> {
        match timeout(TO_ANSWER, call).await {
            Err(_) => Err(self.unreachable(what, &"no answer in time")),
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(error)) if is_outage(&error) => Err(self.unreachable(what, &error)),
            Ok(Err(Failed::Api(status))) => match status.code {
                404 => Ok(None),
                409 => Ok(None),
                401 | 403 => {
                    let text = format!(
                        "cannot {what}: {}; give our service account the role of the manifests, and look at quotas",
                        status.message
                    );
                    Err(Error::unavailable("forbidden-by-kubernetes", text))
                }
                _ => {
                    let text = format!(
                        "cannot {what}: {}; mend {}",
                        status.message,
                        self.template.display()
                    );
                    Err(Error::unavailable("refused-by-kubernetes", text))
                }
            },
            Ok(Err(error)) => Err(Error::internal("api-server", format!("cannot {what}: {error}"))),
        }
    }

    /// What stands in the way of a new pod of this name: nothing any more, or one that lives.
    async fn make_way(&self, name: &str, place: &Place) -> Result<Option<Seen>> {
        let Some(pod) = self.ask("look at a pod", self.api.get(name)).await? else {
            return Ok(None);
        };
        let seen = Seen::of(&pod);
        if seen.place != hash(place) {
            let text = format!(
                "there is a pod {name} that is not for this service and node; {} has to make a name of both",
                self.template.display()
            );
            return Err(Error::unavailable("name-taken", text));
        }
        if seen.lives() {
            return Ok(Some(seen));
        }
        if !seen.is_going {
            self.ask("delete a pod", self.api.delete(name, &exactly(&seen)))
                .await?;
        }
        sleep(TO_GO).await;
        Ok(None)
    }

    fn started(&self, seen: Seen, is_fresh: bool) -> Box<dyn Started> {
        Box::new(Running {
            api: self.api.clone(),
            namespace: self.namespace.clone(),
            there: self.there.follow(),
            is_known: !is_fresh,
            is_gone: false,
            last: seen,
            is_fresh,
        })
    }
}

#[async_trait]
impl Starter for Pods {
    async fn start(&self, place: &Place, request: &Request) -> Result<Box<dyn Started>> {
        if let Some(found) = self.find(place).await? {
            return Ok(self.started(found, false));
        }
        self.check_node(&place.node).await?;
        let pod = self.make(place, request).await?;
        let name = pod.name_any();
        loop {
            let params = PostParams::default();
            let made = self.api.create(&params, &pod);
            if let Some(made) = self.ask(&format!("make the pod {name}"), made).await? {
                return Ok(self.started(Seen::of(&made), true));
            }
            if let Some(found) = self.make_way(&name, place).await? {
                return Ok(self.started(found, false));
            }
        }
    }

    async fn left(&self) -> Vec<Request> {
        self.there.known().await;
        let known = self.there.now();
        let living = known.objects.values().filter(|pod| pod.lives());
        living.filter_map(Seen::request).collect()
    }
}

/// A pod that was made, or found.
struct Running {
    api: Api<Pod>,
    namespace: String,
    there: watch::Receiver<Known<Seen>>,
    /// Whether the watch has told of it.
    is_known: bool,
    is_gone: bool,
    last: Seen,
    is_fresh: bool,
}

#[async_trait]
impl Started for Running {
    fn name(&self) -> String {
        format!("pod {}/{}", self.namespace, self.last.name)
    }

    fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    fn state(&self) -> String {
        self.last.state.clone()
    }

    async fn changed(&mut self) {
        loop {
            // It ends with the program.
            let _changed = self.there.changed().await;
            let key = format!("{}/{}", self.namespace, self.last.name);
            let now = self.there.borrow_and_update().objects.get(&key).cloned();
            let now = now.filter(|now| now.uid == self.last.uid);
            match now {
                Some(now) => {
                    self.is_known = true;
                    if now != self.last {
                        self.last = now;
                        return;
                    }
                }
                None if self.is_known => {
                    self.is_gone = true;
                    return;
                }
                None => {}
            }
        }
    }

    fn ended(&self) -> Option<String> {
        if self.is_gone {
            return Some(format!("it was deleted; before that it was {}", self.last.state));
        }
        (!self.last.lives()).then(|| self.last.state.clone())
    }

    async fn stop(&mut self) {
        let deleted = timeout(TO_ANSWER, self.api.delete(&self.last.name, &exactly(&self.last))).await;
        if let Ok(Err(error)) = deleted {
            warn!(pod = self.last.name, %error, "not deleted");
        }
    }
}

/// That pod and none that has its name since.
fn exactly(seen: &Seen) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid: Some(seen.uid.clone()),
            ..Preconditions::default()
        }),
        ..DeleteParams::default()
    }
}

/// Deletes pods that have ended.
async fn collect(api: Api<Pod>, mut there: watch::Receiver<Known<Seen>>) {
    let ended = |known: &Known<Seen>| -> Vec<Seen> {
        let pods = known.objects.values();
        pods.filter(|pod| !pod.lives() && !pod.is_going)
            .cloned()
            .collect()
    };
    while there.wait_for(|known| !ended(known).is_empty()).await.is_ok() {
        let pods = ended(&there.borrow());
        sleep(KEPT).await;
        for pod in pods {
            match timeout(TO_ANSWER, api.delete(&pod.name, &exactly(&pod))).await {
                Ok(Ok(_)) => info!(pod = pod.name, state = pod.state, "removed"),
                Ok(Err(Failed::Api(status))) if matches!(status.code, 404 | 409) => {}
                Ok(Err(error)) => warn!(pod = pod.name, %error, "not removed yet"),
                Err(_) => warn!(pod = pod.name, "not removed yet: no answer in time"),
            }
        }
    }
}
