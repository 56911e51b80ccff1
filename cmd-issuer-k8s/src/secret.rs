// SPDX-License-Identifier: Apache-2.0
//! The secret by which the issuers of all nodes are one authority.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error as Failed};
use nsm_sdk::core::{Error, Result};
use nsm_sdk::identity::issuer::Kept;
use tracing::{info, warn};

/// The keys of secrets of the type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// How long to wait before asking an API server again that did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is asked: for five minutes. The kubelet starts us again then.
const TRIES: u32 = 300;

/// Where the authority is kept.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    namespace: String,
    name: String,
}

impl Secrets {
    /// The secret of this name.
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The authority that is kept, or `ours`, which is kept from now on. Whoever is first decides for all.
    ///
    /// Errors: `api-server` when it refuses or is silent for long, `bad-secret`.
    pub(crate) async fn share(&self, client: &Client, ours: &Kept) -> Result<Kept> {
        let api: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        for _ in 0..TRIES {
            match self.try_once(&api, ours).await {
                Ok(Some(secret)) => return self.read(&secret),
                Ok(None) => {}
                Err(Failed::Api(status)) if !matches!(status.code, 429 | 500..) => {
                    let text = format!(
                        "the API server refuses the secret {}/{}: {status}",
                        self.namespace, self.name
                    );
                    return Err(Error::denied("api-server", text));
                }
                Err(error) => {
                    warn!(%error, "the API server does not answer");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        Err(Error::unavailable("api-server", "the API server does not answer"))
    }

    /// Reads the secret, or makes it. None when another one made it in between.
    async fn try_once(&self, api: &Api<Secret>, ours: &Kept) -> Result<Option<Secret>, Failed> {
        if let Some(secret) = api.get_opt(&self.name).await? {
            return Ok(Some(secret));
        }
        match api.create(&PostParams::default(), &self.secret(ours)).await {
            Ok(made) => {
                info!(namespace = self.namespace, secret = self.name, "a new authority");
                Ok(Some(made))
            }
            Err(Failed::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn secret(&self, kept: &Kept) -> Secret {
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        Secret {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".into()),
            data: Some(BTreeMap::from([
                (CERTIFICATE.into(), text(&kept.certificate)),
                (KEY.into(), text(&kept.key)),
            ])),
            ..Secret::default()
        }
    }

    /// The authority in a secret of ours.
    fn read(&self, secret: &Secret) -> Result<Kept> {
        let text = |key: &str| {
            let value = secret.data.as_ref().and_then(|data| data.get(key));
            let text = value.and_then(|value| String::from_utf8(value.0.clone()).ok());
            text.filter(|text| !text.is_empty()).ok_or_else(|| {
                let text = format!(
                    "the secret {}/{} has no authority: its key {key} is missing or no text; delete the secret, and a \
                     new authority is made",
                    self.namespace, self.name
                );
                Error::invalid("bad-secret", text)
            })
        };
        Ok(Kept {
            certificate: text(CERTIFICATE)?,
            key: text(KEY)?.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;

    fn secrets() -> Secrets {
        Secrets::new("nsm-system", "nsm-issuer")
    }

    fn kept() -> Kept {
        Kept {
            certificate: "certificate".into(),
            key: "key".to_string().into(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let secret = secrets().secret(&kept());
        assert_eq!(secrets().read(&secret).expect("an authority"), kept());
    }

    #[tokio::test]
    async fn a_secret_without_an_authority_is_named_at_once() {
        for key in [CERTIFICATE, KEY] {
            let mut secret = secrets().secret(&kept());
            secret.data.as_mut().expect("set").remove(key);
            let asked = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&asked);
            let api = tower::service_fn(move |_: Request<Body>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let body = serde_json::to_vec(&secret).expect("a secret");
                async move { Ok::<_, Infallible>(Response::new(Body::from(body))) }
            });
            let client = Client::new(api, "nsm-system");
            let error = secrets().share(&client, &kept()).await.expect_err("no authority");
            assert_eq!(error.reason(), "bad-secret");
            for named in ["nsm-system/nsm-issuer", key, "delete the secret"] {
                assert!(error.text().contains(named), "{named}: {}", error.text());
            }
            assert_eq!(asked.load(Ordering::Relaxed), 1);
        }
    }
}
