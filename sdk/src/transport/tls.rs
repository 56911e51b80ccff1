// SPDX-License-Identifier: Apache-2.0
//! Mutual TLS between SVIDs (SPIFFE specification "X509-SVID").
//!
//! **Guarantees**: TLS 1.3, which Go speaks since its release 1.13, ALPN `h2`, both sides present a certificate. A
//! chain must lead to an authority of the trust domain that its own SPIFFE id names, so one domain cannot speak for
//! another; any id of a known domain is accepted, for who may do what is decided in chains. Host names say nothing and
//! are not checked.
//! **Limits**: sessions are not resumed: connections are kept, and each proves its certificate anew.
//! **Cost**: a handshake takes about 1 ms of both sides together.

mod verifier;

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, OtherError, ServerConfig, SupportedProtocolVersion,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::files::Files;
use super::stream::Stream;
use crate::core::{Error, FilePassing, LinkId, Peer, PeerIdentity, Result};
use crate::identity::{Credentials, Svid};
use verifier::Verifier;

const ALPN: &[u8] = b"h2";

const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

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
            .with_protocol_versions(VERSIONS)
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
            .with_protocol_versions(VERSIONS)
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
    files: Option<Arc<Files>>,
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
        link: LinkId::new_one(),
    })
}

#[cfg(test)]
mod tests;
