// SPDX-License-Identifier: Apache-2.0
//! The certificate by which the API server knows us: where it comes from, and what follows when it changes.

mod authority;
mod files;
mod own;

use std::sync::Arc;

use nsm_sdk::core::{Component, Error, Result};
use nsm_sdk::identity::{Identity, Svid};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use tracing::{error, info};

pub(crate) use files::follow as follow_files;
pub(crate) use own::{Keeper, Secrets};

/// What is presented from the next connection on.
pub(crate) type Presented = watch::Receiver<Arc<ServerConfig>>;

/// The only protocol that the API server speaks to webhooks.
const ALPN: &[u8] = b"http/1.1";

/// Presents a chain, leaf first, of which `key` is the leaf's. Errors: `bad-certificate`.
fn present(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>> {
    let bad = |error: rustls::Error| {
        let text = format!("the certificate cannot be used: {error}");
        Error::invalid("bad-certificate", text)
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(bad)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Presents our SVID, whose DNS name SPIRE has to know. Errors: `bad-certificate`.
pub(crate) fn follow_identity(component: &Component, mut identity: Identity) -> Result<Presented> {
    let of = |svid: &Svid| present(svid.certificates.clone(), svid.key.clone_key());
    let (sender, receiver) = watch::channel(of(&identity.current().svid)?);
    let shutdown = component.shutdown().clone();
    component.spawn_detached("certificate", async move {
        loop {
            let credentials = tokio::select! {
                () = shutdown.cancelled() => return,
                () = sender.closed() => return,
                credentials = identity.changed() => credentials,
            };
            match of(&credentials.svid) {
                Ok(config) => {
                    info!("a new certificate is presented");
                    sender.send_replace(config);
                }
                Err(error) => error!(%error, "the old one is presented"),
            }
        }
    });
    Ok(receiver)
}

/// For tests: a certificate for the name `webhook`, and who has signed it.
#[cfg(test)]
pub(crate) fn presented(component: &Component) -> (Presented, CertificateDer<'static>) {
    let authority = authority::Authority::new(component, None).expect("an authority");
    let leaf = authority
        .issue(component, &["webhook".into()])
        .expect("a certificate");
    let config = present(leaf.chain, leaf.key).expect("it can be presented");
    let signer = pem::parse(&authority.certificates).expect("PEM").into_contents();
    (watch::channel(config).1, signer.into())
}
