// SPDX-License-Identifier: Apache-2.0
//! Identity from PEM files in a directory: `tls.crt` (the chain, leaf first), `tls.key` and `ca.crt`, as a kubelet
//! writes pod certificates, and as secrets of certificates have them.
//!
//! **Guarantees**: follows changes, also those by a swap of a symbolic link, as mounted volumes do. Files that do
//! not fit together (we may see a change half done) are logged and change nothing.
//! **Cost**: a file system watch, and a look every [`LOOK`] for file systems that do not tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::Watcher;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer};
use tokio::io::AsyncReadExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::certificate::bad;
use super::{Bundles, Credentials, Identity, Svid, trust_domain};
use crate::core::{Component, Error, Result};

/// The longest time between two looks at the files.
pub const LOOK: Duration = Duration::from_secs(30);

/// How large a file may be, bytes.
const MAX_FILE: u64 = 1 << 20;

/// Follows the files in `directory` until `component` ends. Waits for the first identity until `deadline`.
///
/// Errors: `no-identity`, with what was wrong at last.
pub async fn follow(component: &Component, directory: PathBuf, deadline: Instant) -> Result<Identity> {
    let mut files = Files::new(directory);
    let Ok(first) = timeout_at(deadline, files.next()).await else {
        let (at, trouble) = (files.directory.display(), files.trouble);
        let text = format!("no identity in {at}: {trouble}; it must hold tls.crt, tls.key and ca.crt");
        return Err(Error::unavailable("no-identity", text));
    };
    info!(spiffe_id = first.svid.spiffe_id, "identity read");
    let (sender, receiver) = watch::channel(first);
    let shutdown = component.shutdown().clone();
    component.spawn_detached("identity", async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sender.closed() => break,
                credentials = files.next() => {
                    info!(spiffe_id = credentials.svid.spiffe_id, "identity renewed");
                    sender.send_replace(credentials);
                }
            }
        }
    });
    Ok(Identity::new(receiver))
}

struct Files {
    directory: PathBuf,
    /// Tells that something has changed in the directory.
    changes: mpsc::Receiver<()>,
    watcher: Option<notify::RecommendedWatcher>,
    changed: mpsc::Sender<()>,
    /// What the files held when we looked last.
    seen: Option<Read>,
    /// What was wrong at last.
    trouble: String,
}

#[derive(PartialEq)]
struct Read {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    authorities: Vec<u8>,
}

impl Files {
    fn new(directory: PathBuf) -> Self {
        let (changed, changes) = mpsc::channel(1);
        Self {
            directory,
            changes,
            watcher: None,
            changed,
            seen: None,
            trouble: String::new(),
        }
    }

    /// The next identity that the files tell.
    async fn next(&mut self) -> Credentials {
        loop {
            self.watch();
            match Read::from(&self.directory).await {
                Ok(read) if self.seen.as_ref() == Some(&read) => {}
                Ok(read) => {
                    let credentials = read.credentials();
                    self.seen = Some(read);
                    match credentials {
                        Ok(credentials) => return credentials,
                        Err(error) => self.complain(error.to_string()),
                    }
                }
                Err(error) => self.complain(error),
            }
            let _it_is_time_to_look = timeout(LOOK, self.changes.recv()).await;
        }
    }

    /// Begins to watch, once the directory is there.
    fn watch(&mut self) {
        if self.watcher.is_some() {
            return;
        }
        let changed = self.changed.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_our_look = event.is_ok_and(|event| event.kind.is_access());
            if !is_our_look {
                let _a_look_is_due_already = changed.try_send(());
            }
        });
        self.watcher = watcher
            .and_then(|mut watcher| {
                watcher.watch(&self.directory, notify::RecursiveMode::NonRecursive)?;
                Ok(watcher)
            })
            .ok();
    }

    fn complain(&mut self, trouble: String) {
        if trouble != self.trouble {
            warn!(directory = %self.directory.display(), trouble, "the identity files cannot be used");
            self.trouble = trouble;
        }
    }
}

impl Read {
    async fn from(directory: &Path) -> Result<Self, String> {
        Ok(Self {
            chain: read(directory, "tls.crt").await?,
            key: Zeroizing::new(read(directory, "tls.key").await?),
            authorities: read(directory, "ca.crt").await?,
        })
    }

    fn credentials(&self) -> Result<Credentials> {
        let svid = Svid::new(certificates(&self.chain, "tls.crt")?, key(&self.key)?)?;
        let domain = trust_domain(&svid.spiffe_id).unwrap_or_default().to_string();
        let authorities = certificates(&self.authorities, "ca.crt")?;
        Ok(Credentials {
            svid: Arc::new(svid),
            bundles: Arc::new(Bundles::from([(domain, authorities)])),
        })
    }
}

async fn read(directory: &Path, name: &str) -> Result<Vec<u8>, String> {
    let at = |error: std::io::Error| format!("{name}: {error}");
    let file = tokio::fs::File::open(directory.join(name)).await.map_err(at)?;
    let mut content = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .await
        .map_err(at)?;
    if content.len() as u64 > MAX_FILE {
        return Err(format!("{name}: it is larger than {MAX_FILE} bytes"));
    }
    Ok(content)
}

fn certificates(content: &[u8], name: &str) -> Result<Vec<CertificateDer<'static>>> {
    let blocks = pem::parse_many(content).map_err(|error| bad(format!("{name}: {error}")))?;
    let certificates: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    if certificates.is_empty() {
        return Err(bad(format!("{name}: it holds no certificate")));
    }
    Ok(certificates)
}

fn key(content: &[u8]) -> Result<PrivateKeyDer<'static>> {
    let blocks = pem::parse_many(content).map_err(|error| bad(format!("tls.key: {error}")))?;
    let mut keys = blocks.into_iter().filter_map(|block| match block.tag() {
        "PRIVATE KEY" => Some(PrivatePkcs8KeyDer::from(block.into_contents()).into()),
        "EC PRIVATE KEY" => Some(PrivateSec1KeyDer::from(block.into_contents()).into()),
        _ => None,
    });
    keys.next()
        .ok_or_else(|| bad("tls.key: it holds no private key in PKCS#8 or SEC 1"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Issuer;

    fn write(directory: &Path, credentials: &Credentials) {
        let block = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der));
        let chain: String = credentials
            .svid
            .certificates
            .iter()
            .map(|c| block("CERTIFICATE", c))
            .collect();
        let authorities: String = credentials
            .bundles
            .values()
            .flatten()
            .map(|c| block("CERTIFICATE", c))
            .collect();
        std::fs::write(directory.join("tls.crt"), chain).unwrap();
        std::fs::write(
            directory.join("tls.key"),
            block("PRIVATE KEY", credentials.svid.key.secret_der()),
        )
        .unwrap();
        std::fs::write(directory.join("ca.crt"), authorities).unwrap();
    }

    /// A volume as the kubelet writes it: the files are links through `..data`, which is swapped.
    fn swap(volume: &Path, name: &str, credentials: &Credentials) {
        std::fs::create_dir(volume.join(name)).unwrap();
        write(&volume.join(name), credentials);
        std::os::unix::fs::symlink(name, volume.join("..next")).unwrap();
        std::fs::rename(volume.join("..next"), volume.join("..data")).unwrap();
        for file in ["tls.crt", "tls.key", "ca.crt"] {
            let _it_may_be_there = std::os::unix::fs::symlink(format!("..data/{file}"), volume.join(file));
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn follows_a_volume_through_the_swap_of_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let component = Component::new("test");
        let issuer = Issuer::new(&component, "k8s.nsm").unwrap();
        swap(dir.path(), "..1", &issuer.issue("/ns/a/pod/b").unwrap());
        let mut identity = follow(&component, dir.path().to_path_buf(), soon())
            .await
            .unwrap();
        assert_eq!(identity.current().svid.spiffe_id, "spiffe://k8s.nsm/ns/a/pod/b");
        assert_eq!(identity.current().bundles, issuer.bundles());

        let second = issuer.issue("/ns/a/pod/b").unwrap();
        swap(dir.path(), "..2", &second);
        assert_eq!(
            identity.changed().await.svid.certificates,
            second.svid.certificates
        );
        component.end().await;
    }

    #[tokio::test]
    async fn a_change_seen_half_done_keeps_the_old_identity() {
        let dir = tempfile::tempdir().unwrap();
        let component = Component::new("test");
        let issuer = Issuer::new(&component, "k8s.nsm").unwrap();
        let (first, second) = (issuer.issue("/first").unwrap(), issuer.issue("/second").unwrap());
        write(dir.path(), &first);
        let mut files = Files::new(dir.path().to_path_buf());
        assert_eq!(files.next().await.svid.spiffe_id, "spiffe://k8s.nsm/first");

        let chain = pem::encode(&pem::Pem::new(
            "CERTIFICATE",
            second.svid.certificates[0].to_vec(),
        ));
        std::fs::write(dir.path().join("tls.crt"), chain).unwrap();
        let half = Read::from(dir.path()).await.unwrap();
        assert!(half.credentials().unwrap_err().text().contains("does not belong"));
        write(dir.path(), &second);
        assert_eq!(files.next().await.svid.spiffe_id, "spiffe://k8s.nsm/second");
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_never_come_are_named_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let component = Component::new("test");
        let error = follow(&component, dir.path().to_path_buf(), soon())
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "no-identity");
        assert!(error.text().contains("tls.crt"), "{error}");
    }

    #[test]
    fn files_without_a_key_or_certificate_are_refused() {
        for content in ["", "garbage", "-----BEGIN CERTIFICATE-----\nAA\n"] {
            assert_eq!(key(content.as_bytes()).unwrap_err().reason(), "bad-svid");
            assert_eq!(
                certificates(content.as_bytes(), "ca.crt").unwrap_err().reason(),
                "bad-svid"
            );
        }
    }
}
