// SPDX-License-Identifier: Apache-2.0
//! Who we are: X.509-SVIDs of SPIFFE, where they come from, and the tokens that are signed with them.

mod certificate;
pub mod issuer;
pub mod jwt;
pub mod pem;
pub mod source;
#[cfg(test)]
pub(crate) mod testing;
pub mod tokens;
pub mod workload_api;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use zeroize::Zeroize;

pub use certificate::{namespace, same_namespace, trust_domain};
pub use issuer::Issuer;
pub use source::Source;
pub use tokens::Tokens;

/// An X.509-SVID (SPIFFE X509-SVID specification) with its private key.
pub struct Svid {
    /// `spiffe://trust-domain/path`.
    pub spiffe_id: String,
    /// The chain, leaf first.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The leaf's key, PKCS#8.
    pub key: PrivateKeyDer<'static>,
    /// The end of the leaf's validity.
    pub not_after: SystemTime,
}

impl Drop for Svid {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The authorities of each trust domain, by its name.
pub type Bundles = BTreeMap<String, Vec<CertificateDer<'static>>>;

/// What a source of identity tells at one time.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// Our identity.
    pub svid: Arc<Svid>,
    /// Whom we believe.
    pub bundles: Arc<Bundles>,
}

/// The identity of this program, which its source replaces while it runs.
#[derive(Clone, Debug)]
pub struct Identity(watch::Receiver<Credentials>);

impl Identity {
    /// The identity that the other end of the channel sets.
    pub fn new(source: watch::Receiver<Credentials>) -> Self {
        Self(source)
    }

    /// An identity that never changes.
    pub fn fixed(credentials: Credentials) -> Self {
        Self(watch::channel(credentials).1)
    }

    /// What it is now, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Credentials> {
        self.0.clone()
    }

    /// What it is now.
    pub fn current(&self) -> Credentials {
        self.0.borrow().clone()
    }

    /// Waits until it differs from what this handle has seen last. Never returns when the source has ended.
    pub async fn changed(&mut self) -> Credentials {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}
