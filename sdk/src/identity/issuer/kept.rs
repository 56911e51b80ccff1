// SPDX-License-Identifier: Apache-2.0
//! An authority that outlives its process.

use std::fmt;
use std::time::Duration;

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::super::certificate::{authority, bad};
use super::super::trust_domain;
use super::{Issuer, failed};
use crate::core::{Component, Result};

/// An authority as text, for whoever keeps secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its private key, PKCS#8 in PEM.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// The authority, so that another process can be the same one by [`Issuer::again`].
    pub fn keep(&self) -> Kept {
        let certificate = self.0.bundles.values().flatten();
        let block = |der: &CertificateDer<'_>| pem::encode(&pem::Pem::new("CERTIFICATE", der.to_vec()));
        Kept {
            certificate: certificate.map(block).collect(),
            key: Zeroizing::new(self.0.authority.key().serialize_pem()),
        }
    }

    /// The authority for `domain` that was kept. Its SVIDs live for `lifetime`.
    ///
    /// Errors: `bad-svid` when it is none, not that of this domain, or has expired; `issue`.
    pub fn again(component: &Component, domain: &str, lifetime: Duration, kept: &Kept) -> Result<Self> {
        let block = pem::parse(&kept.certificate).map_err(|error| bad(format!("the authority: {error}")))?;
        let certificate = CertificateDer::from(block.into_contents());
        let key = KeyPair::from_pem(&kept.key).map_err(failed)?;
        let (id, not_after) = authority(&certificate, key.public_key_raw())?;
        if trust_domain(&id) != Some(domain) {
            return Err(bad(format!("the authority is that of {id}, not of {domain}")));
        }
        if component.until(not_after).is_zero() {
            return Err(bad(format!("the authority of {domain} has expired")));
        }
        let authority = rcgen::Issuer::from_ca_cert_der(&certificate, key).map_err(failed)?;
        Ok(Self::of(component, domain, lifetime, authority, certificate))
    }
}
