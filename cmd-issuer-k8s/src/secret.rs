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
                Ok(Some(kept)) => return Ok(kept),
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
    async fn try_once(&self, api: &Api<Secret>, ours: &Kept) -> Result<Option<Kept>, Failed> {
        if let Some(secret) = api.get_opt(&self.name).await? {
            return Ok(read(&secret));
        }
        match api.create(&PostParams::default(), &self.secret(ours)).await {
            Ok(_) => {
                info!(namespace = self.namespace, secret = self.name, "a new authority");
                Ok(Some(ours.clone()))
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
}

fn read(secret: &Secret) -> Option<Kept> {
    let text = |key: &str| String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok();
    Some(Kept {
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let kept = Kept {
            certificate: "certificate".into(),
            key: "key".to_string().into(),
        };
        let secret = Secrets::new("nsm-system", "nsm-issuer").secret(&kept);
        assert_eq!(read(&secret), Some(kept));
        assert_eq!(read(&Secret::default()), None);
    }
}
