// SPDX-License-Identifier: Apache-2.0
//! Certificates for keys that others have, and that never come here.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateSigningRequestParams, PKCS_ECDSA_P256_SHA256, PublicKeyData};

use super::{Issuer, SKEW, failed};
use crate::core::{Error, Result};

/// How long a public key of P-256 is, bytes: a point that is not compressed (SEC 1, 2.3.3).
const POINT: usize = 65;

/// A certificate for somebody's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// The certificate, PEM.
    pub chain: String,
    /// Its first second.
    pub not_before: SystemTime,
    /// Its last.
    pub not_after: SystemTime,
}

impl Issuer {
    /// Certifies that whoever has the key of `request` (PKCS#10, DER; signed by that key, which is checked) is
    /// `spiffe://<trust domain><path>`, for `span` from its first second to its last. Nothing else that the request may
    /// say has an effect.
    ///
    /// Errors: `bad-svid` when that is no SPIFFE id, `bad-request` when that is no such request, `key-type` when its key is
    /// not of P-256, with which our tokens are signed, `issue`.
    pub fn certify(&self, path: &str, request: &[u8], span: Duration) -> Result<Certified> {
        let asked = CertificateSigningRequestParams::from_der(&request.into());
        let key = asked
            .map_err(|error| Error::invalid("bad-request", format!("the request cannot be used: {error}")))?
            .public_key;
        if *key.algorithm() != PKCS_ECDSA_P256_SHA256 || key.der_bytes().len() != POINT {
            return Err(Error::invalid(
                "key-type",
                "the key must be one of ECDSA with P-256",
            ));
        }
        let params = self.leaf(path, span.saturating_sub(SKEW))?;
        let certificate = params.signed_by(&key, &self.0.authority).map_err(failed)?;
        Ok(Certified {
            chain: certificate.pem(),
            not_before: params.not_before.into(),
            not_after: params.not_after.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;
    use crate::core::{Component, PeerIdentity};

    const HOUR: Duration = Duration::from_secs(3600);

    fn issuer() -> Issuer {
        Issuer::new(&Component::new("ca"), "k8s.nsm").unwrap()
    }

    fn request(key: &KeyPair) -> Vec<u8> {
        let params = CertificateParams::new(["evil.example".to_string()]).unwrap();
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn a_key_that_stays_where_it_is_gets_a_certificate_of_the_asked_span() {
        let key = KeyPair::generate().unwrap();
        let certified = issuer().certify("/ns/a/pod/b", &request(&key), HOUR).unwrap();
        let der = pem::parse(&certified.chain).unwrap().into_contents();
        let peer = PeerIdentity::of(&der).unwrap();
        assert_eq!(peer.spiffe_id, "spiffe://k8s.nsm/ns/a/pod/b");
        assert_eq!(
            certified.not_after.duration_since(certified.not_before).unwrap(),
            HOUR
        );
        let (_, leaf) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert_eq!(&*leaf.public_key().subject_public_key.data, key.public_key_raw());
        let names = leaf.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            names.value.general_names.len(),
            1,
            "the names of the request are not taken over"
        );
    }

    #[test]
    fn other_keys_and_broken_requests_are_refused() {
        let reason = |path: &str, request: &[u8]| {
            let refused = issuer().certify(path, request, HOUR);
            refused.expect_err("refused").reason().to_string()
        };
        let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        assert_eq!(reason("/a", &request(&other)), "key-type");
        let mut forged = request(&KeyPair::generate().unwrap());
        *forged.last_mut().unwrap() ^= 1;
        assert_eq!(reason("/a", &forged), "bad-request");
        assert_eq!(reason("/a", b""), "bad-request");
        assert_eq!(
            reason("/../a", &request(&KeyPair::generate().unwrap())),
            "bad-svid"
        );
    }
}
