// SPDX-License-Identifier: Apache-2.0
//! Whom we believe.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, RootCertStore, SignatureScheme,
};
use tracing::warn;

use crate::core::{Error, PeerIdentity, Result};
use crate::identity::{Bundles, trust_domain};

/// Believes a chain that an authority of its own trust domain has signed.
#[derive(Debug)]
pub(super) struct Verifier {
    domains: BTreeMap<String, Domain>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Domain {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    pub(super) fn new(provider: &Arc<CryptoProvider>, bundles: &Bundles) -> Self {
        let mut domains = BTreeMap::new();
        for (name, authorities) in bundles {
            let mut roots = RootCertStore::empty();
            let (_, ignored) = roots.add_parsable_certificates(authorities.iter().cloned());
            if ignored > 0 {
                warn!(trust_domain = %name, ignored, "some authorities of a bundle cannot be read; they are not believed");
            }
            let roots = Arc::new(roots);
            let clients =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider)).build();
            match clients {
                Ok(clients) => {
                    domains.insert(name.clone(), Domain { roots, clients });
                }
                Err(error) => {
                    warn!(trust_domain = %name, %error, "a bundle cannot be used; nobody of it is believed")
                }
            }
        }
        let algorithms = provider.signature_verification_algorithms;
        Self { domains, algorithms }
    }

    /// The domain that the leaf claims to be of, if we know it; `check` then proves the claim.
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        check: impl FnOnce(&Domain) -> Result<(), rustls::Error>,
    ) -> Result<(), rustls::Error> {
        let refused = |error: Error| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        };
        let id = PeerIdentity::of(leaf).map_err(refused)?.spiffe_id;
        let name = trust_domain(&id).unwrap_or_default();
        let Some(domain) = self.domains.get(name) else {
            let known: Vec<_> = self.domains.keys().map(String::as_str).collect();
            let text = format!(
                "{id} is of the trust domain {name:?}, for which there is no bundle (known: {}); federate with it",
                known.join(", ")
            );
            return Err(refused(Error::denied("unknown-trust-domain", text)));
        };
        check(domain).map_err(|error| {
            let text = format!("{id} is not proven by the bundle of its trust domain {name:?}: {error}");
            refused(Error::denied("bad-certificate", text))
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, |domain| {
            let leaf = ParsedCertificate::try_from(leaf)?;
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&leaf, &domain.roots, intermediates, now, algorithms)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// None: a client has one SVID and need not choose.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, |domain| {
            domain
                .clients
                .verify_client_cert(leaf, intermediates, now)
                .map(drop)
        })?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
