// SPDX-License-Identifier: Apache-2.0
//! A certificate authority for development and tests: no SPIRE.
//!
//! **Guarantees**: the authority's key exists in this process only, so a restart begins a new trust domain of the
//! same name, unless it was [kept](Issuer::keep). Identities that [`Issuer::follow`] and [`Issuer::serve`] give are
//! renewed at half of their life.

mod agent;
mod certified;
mod kept;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;
use tracing::{error, info};

use super::certificate::bad;
use super::{Bundles, Credentials, Identity, Svid, trust_domain};
use crate::core::{Component, Error, Result};
pub use agent::{Agent, Attest};
pub use certified::Certified;
pub use kept::Kept;

/// How long an SVID lives unless told otherwise.
const LIFETIME: Duration = Duration::from_secs(3600);

/// How long the authority lives.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far in the past a certificate's life begins, for clocks that differ.
const SKEW: Duration = Duration::from_secs(60);

/// The least time between two issues of the same identity.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);

/// An authority. Cheap to clone; clones are the same authority.
#[derive(Clone)]
pub struct Issuer(Arc<Inner>);

struct Inner {
    component: Component,
    trust_domain: String,
    lifetime: Duration,
    authority: rcgen::Issuer<'static, KeyPair>,
    bundles: Arc<Bundles>,
}

impl Issuer {
    /// A new authority for `trust_domain`, on the clock of `component`, whose SVIDs live one hour.
    ///
    /// Errors: `bad-trust-domain`, `issue`.
    pub fn new(component: &Component, trust_domain: &str) -> Result<Self> {
        Self::with_lifetime(component, trust_domain, LIFETIME)
    }

    /// As [`Issuer::new`], with SVIDs that live as long as told.
    pub fn with_lifetime(component: &Component, domain: &str, lifetime: Duration) -> Result<Self> {
        let id = format!("spiffe://{domain}");
        if trust_domain(&id) != Some(domain) {
            let text = format!(
                "{domain:?} is no trust domain: lower case letters, digits, dots and dashes make one"
            );
            return Err(Error::invalid("bad-trust-domain", text));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = params(component, &id, "NSM development", AUTHORITY_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        let authority = rcgen::Issuer::new(params, key);
        Ok(Self::of(
            component,
            domain,
            lifetime,
            authority,
            certificate.der().clone(),
        ))
    }

    fn of(
        component: &Component,
        domain: &str,
        lifetime: Duration,
        authority: rcgen::Issuer<'static, KeyPair>,
        certificate: CertificateDer<'static>,
    ) -> Self {
        Self(Arc::new(Inner {
            component: component.clone(),
            trust_domain: domain.to_string(),
            lifetime,
            authority,
            bundles: Arc::new(Bundles::from([(domain.to_string(), vec![certificate])])),
        }))
    }

    /// The certificate of the authority.
    pub fn bundles(&self) -> Arc<Bundles> {
        Arc::clone(&self.0.bundles)
    }

    /// Issues the identity `spiffe://<trust domain><path>` once; `path` begins with a slash.
    ///
    /// Errors: `bad-svid` when that is no SPIFFE id, `issue`.
    pub fn issue(&self, path: &str) -> Result<Credentials> {
        let params = self.leaf(path, self.0.lifetime)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let certificate = params.signed_by(&key, &self.0.authority).map_err(failed)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Credentials {
            svid: Arc::new(Svid::new(vec![CertificateDer::from(certificate)], key)?),
            bundles: self.bundles(),
        })
    }

    /// What the certificate of the identity `spiffe://<trust domain><path>` says, for a life that ends in `lifetime`.
    fn leaf(&self, path: &str, lifetime: Duration) -> Result<CertificateParams> {
        let id = format!("spiffe://{}{path}", self.0.trust_domain);
        if trust_domain(&id) != Some(self.0.trust_domain.as_str()) {
            return Err(bad(format!(
                "{id:?} is no SPIFFE id of the trust domain {}",
                self.0.trust_domain
            )));
        }
        let mut params = params(&self.0.component, &id, "NSM", lifetime)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(params)
    }

    /// An identity that is renewed until the component ends.
    pub fn follow(&self, path: &str) -> Result<Identity> {
        let (sender, receiver) = watch::channel(self.issue(path)?);
        let (issuer, path) = (self.clone(), path.to_string());
        self.0.component.spawn_detached("issuer", async move {
            let component = &issuer.0.component;
            loop {
                let left = component.until(sender.borrow().svid.not_after);
                tokio::select! {
                    biased;
                    () = component.shutdown().cancelled() => break,
                    () = sender.closed() => break,
                    () = tokio::time::sleep((left / 2).max(LEAST_INTERVAL)) => {}
                }
                match issuer.issue(&path) {
                    Ok(credentials) => {
                        info!(spiffe_id = credentials.svid.spiffe_id, "identity renewed");
                        sender.send_replace(credentials);
                    }
                    Err(error) => error!(path, %error, "renewing an identity"),
                }
            }
        });
        Ok(Identity::new(receiver))
    }

    /// Serves the identity over the SPIFFE Workload API at the unix socket `socket`, to whoever may open that file:
    /// its mode is `mode`. The socket is removed when the returned value is dropped or the component ends.
    ///
    /// Errors: as [`Issuer::issue`], and `bind`.
    pub fn serve(&self, socket: &Path, mode: u32, path: &str) -> Result<Agent> {
        let identity = self.follow(path)?;
        Agent::start(
            &self.0.component,
            socket,
            mode,
            Arc::new(move |_| Ok(identity.clone())),
        )
    }

    /// Serves everybody's own identity over the SPIFFE Workload API at the unix socket `socket`: `attest` tells the
    /// path of the identity that the process behind a call has. All else is as for [`Issuer::serve`].
    ///
    /// Errors: `bind`. A caller whom `attest` does not know is answered PERMISSION_DENIED.
    pub fn serve_each(&self, socket: &Path, mode: u32, attest: Arc<Attest>) -> Result<Agent> {
        let issuer = self.clone();
        let identify = move |caller: Option<i32>| {
            let caller = caller.ok_or_else(|| {
                Error::denied("unknown-caller", "the kernel does not tell which process calls")
            })?;
            issuer.follow(&attest(caller)?)
        };
        Agent::start(&self.0.component, socket, mode, Arc::new(identify))
    }
}

fn params(component: &Component, id: &str, name: &str, lifetime: Duration) -> Result<CertificateParams> {
    let now = component.now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = vec![SanType::URI(id.try_into().map_err(failed)?)];
    params.not_before = now.checked_sub(SKEW).unwrap_or(now).into();
    params.not_after = (now + lifetime).into();
    Ok(params)
}

fn failed(error: rcgen::Error) -> Error {
    Error::internal("issue", format!("cannot issue a certificate: {error}"))
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("trust_domain", &self.0.trust_domain)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
