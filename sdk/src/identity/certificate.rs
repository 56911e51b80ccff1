// SPDX-License-Identifier: Apache-2.0
//! What X.509-SVIDs say (SPIFFE specifications "SPIFFE-ID" and "X509-SVID").

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::{Svid, tokens};
use crate::core::{Error, PeerIdentity, Result};

/// The greatest length of a SPIFFE id, bytes.
const MAX_ID: usize = 2048;

/// The most certificates in a chain or bundle that are read.
const MAX_CERTIFICATES: usize = 256;

impl Svid {
    /// The SVID of these certificates, leaf first, and the leaf's key.
    ///
    /// Errors: `bad-svid` when the leaf is no X.509-SVID or the key is not its own.
    pub fn new(certificates: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self> {
        let leaf = certificates
            .first()
            .ok_or_else(|| bad("there is no certificate"))?;
        let parsed = parse(leaf)?;
        if let Some(pair) = tokens::parse(&key)
            && pair.public_key().as_ref() != &*parsed.public_key().subject_public_key.data
        {
            return Err(bad("the private key does not belong to the certificate"));
        }
        Ok(Self {
            spiffe_id: spiffe_id(&parsed)?,
            not_after: not_after(&parsed)?,
            certificates,
            key,
        })
    }
}

impl PeerIdentity {
    /// What the leaf certificate (DER) says of the one who has proven to hold its key.
    ///
    /// Errors: `bad-svid`.
    pub fn of(leaf: &[u8]) -> Result<Self> {
        let parsed = parse(leaf)?;
        Ok(Self {
            spiffe_id: spiffe_id(&parsed)?,
            certificate: leaf.to_vec(),
            not_after: not_after(&parsed)?,
        })
    }
}

/// The trust domain in a SPIFFE id; none when it is not a valid one.
pub fn trust_domain(id: &str) -> Option<&str> {
    let rest = id.strip_prefix("spiffe://").filter(|_| id.len() <= MAX_ID)?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let in_domain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c);
    let in_path = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
    let segment = |s: &str| !matches!(s, "" | "." | "..") && s.bytes().all(in_path);
    let valid = (1..=255).contains(&domain.len())
        && domain.bytes().all(in_domain)
        && path
            .strip_prefix('/')
            .is_none_or(|path| path.split('/').all(segment));
    valid.then_some(domain)
}

/// The trust domain and the namespace in a SPIFFE id of the form `spiffe://domain/ns/namespace/…`.
pub fn namespace(id: &str) -> Option<(&str, &str)> {
    let domain = trust_domain(id)?;
    let path = id.strip_prefix("spiffe://")?.strip_prefix(domain)?;
    let (namespace, _) = path.strip_prefix("/ns/")?.split_once('/')?;
    Some((domain, namespace))
}

/// Whether two SPIFFE ids are of one namespace.
pub fn same_namespace(one: &str, other: &str) -> bool {
    namespace(one).is_some_and(|one| namespace(other) == Some(one))
}

/// The certificates in a run of DER without separators.
///
/// Errors: `bad-svid`.
pub(super) fn split_der(mut der: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let mut certificates = Vec::new();
    while !der.is_empty() {
        let (rest, _) = x509_parser::parse_x509_certificate(der).map_err(bad)?;
        if certificates.len() >= MAX_CERTIFICATES {
            return Err(bad(format!(
                "there are more than {MAX_CERTIFICATES} certificates"
            )));
        }
        certificates.push(CertificateDer::from(der[..der.len() - rest.len()].to_vec()));
        der = rest;
    }
    Ok(certificates)
}

fn parse(leaf: &[u8]) -> Result<X509Certificate<'_>> {
    let (rest, certificate) = x509_parser::parse_x509_certificate(leaf).map_err(bad)?;
    if !rest.is_empty() {
        return Err(bad("bytes follow the certificate"));
    }
    Ok(certificate)
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<String> {
    if certificate.is_ca() {
        return Err(bad("the leaf is an authority's certificate"));
    }
    named(certificate)
}

/// The SPIFFE id of an authority that signs with the key whose public half is `public`, and the end of its validity.
///
/// Errors: `bad-svid` when the certificate is no authority's, or not that of this key.
pub(super) fn authority(certificate: &[u8], public: &[u8]) -> Result<(String, SystemTime)> {
    let parsed = parse(certificate)?;
    if !parsed.is_ca() {
        return Err(bad("the certificate is no authority's"));
    }
    if *public != *parsed.public_key().subject_public_key.data {
        return Err(bad(
            "the authority's private key does not belong to its certificate",
        ));
    }
    Ok((named(&parsed)?, not_after(&parsed)?))
}

fn named(certificate: &X509Certificate<'_>) -> Result<String> {
    let names = certificate.subject_alternative_name().map_err(bad)?;
    let names = names
        .map(|names| names.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let id = match (uris.next(), uris.next()) {
        (Some(id), None) => id,
        (None, _) => {
            return Err(bad(
                "the certificate names no SPIFFE id (a URI among its alternative names)",
            ));
        }
        (Some(_), Some(_)) => return Err(bad("the certificate names more than one URI")),
    };
    if trust_domain(id).is_none() {
        return Err(bad(format!("{id:?} is no SPIFFE id")));
    }
    Ok(id.to_string())
}

fn not_after(certificate: &X509Certificate<'_>) -> Result<SystemTime> {
    u64::try_from(certificate.validity().not_after.timestamp())
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| bad("the certificate ended before 1970"))
}

pub(super) fn bad(why: impl std::fmt::Display) -> Error {
    Error::invalid("bad-svid", format!("not an X.509-SVID: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_checked() {
        for (id, domain) in [
            ("spiffe://k8s.nsm/ns/default/pod/nsc-1", Some("k8s.nsm")),
            ("spiffe://k8s.nsm", Some("k8s.nsm")),
            ("spiffe://k8s.nsm/", None),
            ("spiffe://K8S/a", None),
            ("spiffe:///a", None),
            ("spiffe://a/../b", None),
            ("spiffe://a/b?c", None),
            ("https://a/b", None),
        ] {
            assert_eq!(trust_domain(id), domain, "{id}");
        }
        assert_eq!(trust_domain(&format!("spiffe://a/{}", "b".repeat(MAX_ID))), None);
    }

    #[test]
    fn namespaces_are_those_of_one_trust_domain() {
        let id = "spiffe://k8s.nsm/ns/nsm-system/pod/nsmgr-1";
        assert_eq!(namespace(id), Some(("k8s.nsm", "nsm-system")));
        assert!(same_namespace(id, "spiffe://k8s.nsm/ns/nsm-system/sa/nsmgr"));
        for other in [
            "spiffe://other/ns/nsm-system/pod/nsmgr-1",
            "spiffe://k8s.nsm/ns/a/pod/b",
            "spiffe://k8s.nsm/ns/nsm-system",
        ] {
            assert!(!same_namespace(id, other), "{other}");
        }
        assert!(
            !same_namespace("spiffe://k8s.nsm/a", "spiffe://k8s.nsm/a"),
            "neither has one"
        );
    }

    #[test]
    fn garbage_is_no_certificate() {
        for garbage in [&b""[..], b"x", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]] {
            assert_eq!(
                PeerIdentity::of(garbage)
                    .map_err(|e| e.reason().to_string())
                    .err()
                    .as_deref(),
                Some("bad-svid")
            );
        }
        assert!(split_der(b"\x30\x03abc").is_err());
    }
}
