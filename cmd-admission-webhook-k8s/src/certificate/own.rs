// SPDX-License-Identifier: Apache-2.0
//! A certificate of our own, by an authority that all replicas share in a secret.
//!
//! **Guarantees**: whoever comes first makes the authority, and the others take it. The API server is told of an
//! authority before anybody presents a certificate of it. What somebody else changes in the configuration is mended
//! within [`LOOK`]. Without the API server certificates are renewed all the same.
//! **Cost**: two requests to the API server every [`LOOK`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error as Failed};
use nsm_sdk::core::{Component, Error, Result};
use rand::Rng;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::authority::Authority;
use super::{Presented, present};
use crate::registration::Registration;

/// The keys of secrets of the type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// How often secret and configuration are looked at.
const LOOK: Duration = Duration::from_secs(60);

/// How long to wait after a failure.
const PAUSE: Duration = Duration::from_secs(2);

/// How long until every API server believes in an authority that it has been told of.
const TO_SETTLE: Duration = Duration::from_secs(10);

/// How long an answer may take.
const TO_ANSWER: Duration = Duration::from_secs(5);

/// How often a secret is written that others write at the same time.
const TRIES: u32 = 8;

/// The secret that all replicas share.
#[derive(Clone)]
pub(crate) struct Secrets {
    client: Client,
    namespace: String,
    name: String,
}

/// What keeps our certificate.
pub(crate) struct Keeper {
    pub(crate) component: Component,
    pub(crate) secrets: Secrets,
    pub(crate) registration: Registration,
    /// The names of our service.
    pub(crate) names: Vec<String>,
}

/// What we present, and by whom.
struct Current {
    authority: Authority,
    renew_at: SystemTime,
    config: Arc<ServerConfig>,
}

impl Keeper {
    /// Waits until we have a certificate that the API server believes, and keeps it until the component ends.
    ///
    /// Errors: `shutdown`, and what says that our rights do not suffice.
    pub(crate) async fn start(self) -> Result<Presented> {
        let stop = self.component.stop().clone();
        let first = tokio::select! {
            first = self.first() => first?,
            () = stop.cancelled() => {
                let text = "told to end before the API server was told of our certificate";
                return Err(Error::unavailable("shutdown", text));
            }
        };
        let (sender, receiver) = watch::channel(Arc::clone(&first.config));
        let shutdown = self.component.shutdown().clone();
        self.component.clone().spawn_detached("certificate", async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = self.keep(first, &sender) => {}
            }
        });
        Ok(receiver)
    }

    async fn first(&self) -> Result<Current> {
        loop {
            let made = async {
                let authority = self.secrets.share(&self.component, None).await?;
                self.register(&authority).await?;
                self.issue(authority)
            };
            match made.await {
                Ok(current) => return Ok(current),
                Err(error) if error.reason() == "api-server" => {
                    warn!(%error, "not registered yet");
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn keep(&self, mut current: Current, sender: &watch::Sender<Arc<ServerConfig>>) {
        loop {
            let pause = LOOK.mul_f64(self.component.random(|random| random.random_range(0.8..=1.2)));
            sleep(pause).await;
            match self.look(&current).await {
                Ok(None) => {}
                Ok(Some(next)) => {
                    info!("a new certificate is presented");
                    sender.send_replace(Arc::clone(&next.config));
                    current = next;
                }
                Err(error) => warn!(%error, "the old certificate is presented"),
            }
        }
    }

    /// What is to be presented instead of `current`, if anything is.
    async fn look(&self, current: &Current) -> Result<Option<Current>> {
        let is_due = self.component.now() >= current.renew_at;
        let shared = async {
            let authority = self
                .secrets
                .share(&self.component, Some(&current.authority))
                .await?;
            self.register(&authority).await.map(|()| authority)
        };
        let authority = match shared.await {
            Ok(authority) => authority,
            Err(error) if is_due => {
                warn!(%error, "the certificate is renewed all the same");
                current.authority.clone()
            }
            Err(error) => return Err(error),
        };
        let is_new = authority != current.authority;
        if is_new {
            sleep(TO_SETTLE).await;
        }
        if is_new || is_due {
            return self.issue(authority).map(Some);
        }
        Ok(None)
    }

    async fn register(&self, authority: &Authority) -> Result<()> {
        self.registration
            .write(Some(authority.certificates.as_bytes()))
            .await
    }

    fn issue(&self, authority: Authority) -> Result<Current> {
        let leaf = authority.issue(&self.component, &self.names)?;
        Ok(Current {
            authority,
            renew_at: leaf.renew_at,
            config: present(leaf.chain, leaf.key)?,
        })
    }
}

impl Secrets {
    /// The secret `name` of `namespace`.
    pub(crate) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The authority of all replicas, which is made, or followed by a new one, when it is time. `ours` is the one that
    /// we know, which goes on when we may not read secrets.
    ///
    /// Errors: `api-server`, `authority`.
    async fn share(&self, component: &Component, ours: Option<&Authority>) -> Result<Authority> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        for _ in 0..TRIES {
            let shared = timeout(TO_ANSWER, self.try_once(component, &api)).await;
            match shared.map_err(|_| silent(&"no answer in time"))?? {
                Ok(Some(authority)) => return Ok(authority),
                Ok(None) => {}
                Err(Failed::Api(status)) if status.code == 403 => {
                    return self.alone(component, ours, &status.message);
                }
                Err(error) => return Err(silent(&error)),
            }
        }
        Err(silent(&"others write the secret all the time"))
    }

    /// Reads the secret, or writes it. None when somebody else has written it in between.
    async fn try_once(
        &self,
        component: &Component,
        api: &Api<Secret>,
    ) -> Result<std::result::Result<Option<Authority>, Failed>> {
        let stored = match api.get_opt(&self.name).await {
            Ok(stored) => stored,
            Err(error) => return Ok(Err(error)),
        };
        let before = stored.as_ref().and_then(read);
        if let Some(authority) = &before {
            match authority.is_old(component) {
                Ok(false) => return Ok(Ok(before)),
                Ok(true) => info!("a new authority follows"),
                Err(error) => {
                    warn!(%error, secret = self.name, "a new authority replaces what is in the secret")
                }
            }
        }
        let usable = before.filter(|before| before.is_old(component).is_ok());
        let authority = Authority::new(component, usable.as_ref())?;
        let written = match stored {
            Some(stored) => {
                let secret = fill(stored, &authority);
                api.replace(&self.name, &PostParams::default(), &secret).await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                let secret = fill(
                    Secret {
                        metadata,
                        ..Secret::default()
                    },
                    &authority,
                );
                api.create(&PostParams::default(), &secret).await
            }
        };
        Ok(match written {
            Ok(_) => Ok(Some(authority)),
            Err(Failed::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// An authority that only we know.
    fn alone(&self, component: &Component, ours: Option<&Authority>, why: &str) -> Result<Authority> {
        match ours {
            Some(ours) if !ours.is_old(component)? => Ok(ours.clone()),
            _ => {
                let secret = &self.name;
                warn!(
                    secret,
                    why, "the authority is in our memory, and there can be only one of us"
                );
                Authority::new(component, ours)
            }
        }
    }
}

fn read(secret: &Secret) -> Option<Authority> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(Authority {
        certificates: text(CERTIFICATE)?,
        key: text(KEY)?.into(),
    })
}

/// `secret` with the authority in it, of the version that it was read in.
fn fill(secret: Secret, authority: &Authority) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = BTreeMap::from([
        (CERTIFICATE.to_string(), bytes(&authority.certificates)),
        (KEY.to_string(), bytes(&authority.key)),
    ]);
    Secret {
        data: Some(data),
        ..secret
    }
}

fn silent(error: &dyn std::fmt::Display) -> Error {
    let text = format!("the API server does not share the webhook's secret: {error}");
    Error::unavailable("api-server", text)
}

#[cfg(test)]
mod tests;
