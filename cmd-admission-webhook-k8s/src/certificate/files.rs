// SPDX-License-Identifier: Apache-2.0
//! A certificate from files, as cert-manager writes them into a volume.
//!
//! **Guarantees**: a change is seen within [`LOOK`]. Files that do not fit together, as in the middle of a change, are
//! told about and change nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsm_sdk::core::{Component, Error, Result};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::sync::watch;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{Presented, present};
use crate::registration::Registration;
use crate::settings::Files;

/// How often the files are looked at, and the configuration is written again.
const LOOK: Duration = Duration::from_secs(30);

/// What the files hold.
#[derive(PartialEq)]
struct Content {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    authorities: Option<Vec<u8>>,
}

/// Follows the files until `component` ends, and writes their authorities, and everything else, into the configuration.
///
/// Errors: `bad-certificate`, when they cannot be used now.
pub(crate) async fn follow(
    component: &Component,
    files: Files,
    registration: Registration,
) -> Result<Presented> {
    let mut seen = Content::read(&files).await?;
    let (sender, receiver) = watch::channel(seen.present()?);
    let shutdown = component.shutdown().clone();
    let following = async move {
        loop {
            if let Err(error) = registration.write(seen.authorities.as_deref()).await {
                warn!(%error, "the webhook is not registered");
            }
            tokio::time::sleep(LOOK).await;
            match next(&files, &seen).await {
                Ok(Some((content, config))) => {
                    info!("a new certificate is presented");
                    sender.send_replace(config);
                    seen = content;
                }
                Ok(None) => {}
                Err(error) => warn!(%error, "the old certificate is presented"),
            }
        }
    };
    component.spawn_detached("certificate", async move {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = following => {}
        }
    });
    Ok(receiver)
}

async fn next(files: &Files, seen: &Content) -> Result<Option<(Content, Arc<ServerConfig>)>> {
    let content = Content::read(files).await?;
    if content == *seen {
        return Ok(None);
    }
    let config = content.present()?;
    Ok(Some((content, config)))
}

impl Content {
    async fn read(files: &Files) -> Result<Self> {
        let authorities = match &files.authorities {
            Some(path) => Some(read(path).await?),
            None => None,
        };
        Ok(Self {
            certificate: read(&files.certificate).await?,
            key: read(&files.key).await?.into(),
            authorities,
        })
    }

    fn present(&self) -> Result<Arc<ServerConfig>> {
        let bad = |what: &str, error: &dyn std::fmt::Display| {
            let text = format!("the file of the {what} cannot be read: {error}");
            Error::invalid("bad-certificate", text)
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| bad("certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| bad("key", &error))?;
        present(chain, key)
    }
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|error| {
        let text = format!("{} cannot be read: {error}", path.display());
        Error::invalid("bad-certificate", text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::authority::Authority;

    async fn write(files: &Files, component: &Component) -> Vec<u8> {
        let leaf = Authority::new(component, None)
            .and_then(|authority| authority.issue(component, &["svc".into()]))
            .expect("issued");
        let block = |tag: &str, content: &[u8]| pem::encode(&pem::Pem::new(tag, content));
        let chain = block("CERTIFICATE", &leaf.chain[0]);
        std::fs::write(&files.certificate, &chain).expect("written");
        std::fs::write(&files.key, block("PRIVATE KEY", leaf.key.secret_der())).expect("written");
        chain.into_bytes()
    }

    #[tokio::test]
    async fn a_change_is_presented_and_half_a_change_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let component = Component::new("webhook");
        let files = Files {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            authorities: None,
        };
        let missing = Content::read(&files).await.err().expect("missing");
        assert!(missing.text().contains("tls.crt"), "{missing}");

        let first = write(&files, &component).await;
        let seen = Content::read(&files).await.expect("read");
        assert!(seen.present().is_ok());
        assert!(next(&files, &seen).await.expect("read").is_none());

        let second = write(&files, &component).await;
        let (content, _) = next(&files, &seen).await.expect("read").expect("changed");
        assert!(content.certificate == second);

        std::fs::write(&files.certificate, first).expect("written");
        let half = next(&files, &content).await.err().expect("half");
        assert_eq!(half.reason(), "bad-certificate");
    }
}
