// SPDX-License-Identifier: Apache-2.0
//! Mutual TLS between SVIDs (SPIFFE specification "X509-SVID").
//!
//! **Guarantees**: TLS 1.2 or later, ALPN `h2`, both sides present a certificate. A chain must lead to an authority of
//! the trust domain that its own SPIFFE id names, so one domain cannot speak for another; any id of a known domain is
//! accepted, for who may do what is decided in chains. Host names say nothing and are not checked.
//! **Limits**: sessions are not resumed: connections are kept, and each proves its certificate anew.
//! **Cost**: a handshake takes about 1 ms of both sides together.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tracing::warn;

use super::stream::Stream;
use crate::core::{Error, FilePassing, Peer, PeerIdentity, Result};
use crate::identity::{Bundles, Credentials, Svid, trust_domain};

const ALPN: &[u8] = b"h2";

/// Takes the server's part of handshakes with one SVID.
#[derive(Clone)]
pub(crate) struct Acceptor {
    tls: TlsAcceptor,
    /// What it presents.
    pub(crate) svid: Arc<Svid>,
}

/// Takes the client's part of handshakes with one SVID.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: TlsConnector,
    /// What it presents.
    pub(crate) svid: Arc<Svid>,
}

impl Acceptor {
    /// Errors: `bad-svid`.
    pub(crate) fn new(credentials: &Credentials) -> Result<Self> {
        let (provider, svid) = (provider(), &credentials.svid);
        let verifier = Arc::new(Verifier::new(&provider, &credentials.bundles));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(svid, &error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(svid.certificates.clone(), svid.key.clone_key())
            .map_err(|error| unusable(svid, &error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            tls: Arc::new(config).into(),
            svid: Arc::clone(svid),
        })
    }

    /// Shakes hands; the caller bounds the time.
    pub(crate) async fn accept(&self, stream: Stream) -> io::Result<(server::TlsStream<Stream>, Peer)> {
        let files = stream.files();
        let stream = self.tls.accept(stream).await?;
        let peer = peer(stream.get_ref().1.peer_certificates(), &self.svid, files)?;
        Ok((stream, peer))
    }
}

impl Connector {
    /// Errors: `bad-svid`.
    pub(crate) fn new(credentials: &Credentials) -> Result<Self> {
        let (provider, svid) = (provider(), &credentials.svid);
        let verifier = Arc::new(Verifier::new(&provider, &credentials.bundles));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(svid, &error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(svid.certificates.clone(), svid.key.clone_key())
            .map_err(|error| unusable(svid, &error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(Self {
            tls: Arc::new(config).into(),
            svid: Arc::clone(svid),
        })
    }

    /// Shakes hands; the caller bounds the time. With TLS 1.3 a server that refuses us says so only afterwards.
    pub(crate) async fn connect(&self, stream: Stream) -> io::Result<(client::TlsStream<Stream>, Peer)> {
        let (files, name) = (
            stream.files(),
            ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into()),
        );
        let stream = self.tls.connect(name, stream).await?;
        let peer = peer(stream.get_ref().1.peer_certificates(), &self.svid, files)?;
        Ok((stream, peer))
    }
}

/// Why a TLS connection failed, for people: who refused whom, and what to look at.
pub(crate) fn describe(error: &io::Error, ours: &Svid) -> String {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the peer closed the connection".into(),
            _ => error.to_string(),
        };
    };
    match cause {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why))) => {
            format!("we refuse the peer: {why}")
        }
        rustls::Error::InvalidMessage(_) => "the peer does not speak TLS (plain text?)".into(),
        rustls::Error::NoCertificatesPresented => "the peer presents no certificate: it needs an SVID".into(),
        rustls::Error::AlertReceived(alert) if is_refusal(*alert) => format!(
            "the peer refuses the certificate of {} (TLS alert {alert:?}): does it have the bundle of our trust domain?",
            ours.spiffe_id
        ),
        other => format!("TLS: {other}"),
    }
}

fn is_refusal(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::UnsupportedCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRequired
            | Alert::AccessDenied
            | Alert::HandshakeFailure
    )
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn unusable(svid: &Svid, error: &rustls::Error) -> Error {
    let text = format!("the SVID of {} cannot be used for TLS: {error}", svid.spiffe_id);
    Error::invalid("bad-svid", text)
}

fn peer(
    certificates: Option<&[CertificateDer<'_>]>,
    local: &Arc<Svid>,
    files: Option<Arc<super::files::Files>>,
) -> io::Result<Peer> {
    let leaf = certificates
        .and_then(<[_]>::first)
        .ok_or_else(|| io::Error::other("the peer has no certificate"))?;
    let identity = PeerIdentity::of(leaf).map_err(io::Error::other)?;
    Ok(Peer {
        identity: Some(Arc::new(identity)),
        token: None,
        local: Some(Arc::clone(local)),
        files: files.map(|files| files as Arc<dyn FilePassing>),
    })
}

/// Believes a chain that an authority of its own trust domain has signed.
#[derive(Debug)]
struct Verifier {
    domains: BTreeMap<String, Domain>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Domain {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    fn new(provider: &Arc<CryptoProvider>, bundles: &Bundles) -> Self {
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

#[cfg(test)]
mod tests;
