// SPDX-License-Identifier: Apache-2.0
//! TLS of somebody who has the identities of both who talk, and believes everybody: whether they believe each other
//! is theirs to find out by the tokens that they exchange.

use std::sync::Arc;

use anyhow::{Context, Result};
use nsm_sdk::identity::Svid;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};

/// What gRPC wants to be agreed on.
const PROTOCOL: &[u8] = b"h2";

/// To the caller, in the place of the one with this identity.
pub(super) fn server(svid: &Svid) -> Result<Arc<ServerConfig>> {
    let believer = Arc::new(Believer::new());
    let mut config = ServerConfig::builder_with_provider(Arc::clone(&believer.0))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(believer)
        .with_single_cert(svid.certificates.clone(), svid.key.clone_key())?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// To the one who is called, in the place of the one with this identity.
pub(super) fn client(svid: &Svid) -> Result<Arc<ClientConfig>> {
    let believer = Arc::new(Believer::new());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&believer.0))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(believer)
        .with_client_auth_cert(svid.certificates.clone(), svid.key.clone_key())?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}

/// The name of the one whose certificate that is: the last word of its SPIFFE id.
pub(super) fn name(certificates: Option<&[CertificateDer<'_>]>) -> Result<String> {
    let leaf = certificates.and_then(|chain| chain.first());
    let leaf = leaf.context("the caller has shown no certificate")?;
    let identity = nsm_sdk::core::PeerIdentity::of(leaf)?;
    let name = identity.spiffe_id.rsplit('/').next().unwrap_or_default();
    Ok(name.to_string())
}

/// Believes every certificate whose key its owner has.
#[derive(Debug)]
struct Believer(Arc<CryptoProvider>);

impl Believer {
    fn new() -> Self {
        Self(Arc::new(aws_lc_rs::default_provider()))
    }

    fn signed13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn signed12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Believer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
