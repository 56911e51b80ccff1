// SPDX-License-Identifier: Apache-2.0
//! An authority for one name: that of our service.
//!
//! **Guarantees**: a new one comes long before the old one ends, and the old one is believed until then, so that
//! replicas which know one of them only are believed as well.

use std::time::{Duration, SystemTime};

use nsm_sdk::core::{Component, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

/// How long an authority lives. A new one comes when half of it has passed.
pub(crate) const AUTHORITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a leaf lives. A new one comes when half of it has passed.
pub(crate) const LEAF: Duration = Duration::from_secs(7 * 24 * 3600);

/// How far in the past a life begins, for clocks that differ.
const SKEW: Duration = Duration::from_secs(300);

/// An authority, as all replicas share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authority {
    /// Certificates in PEM: the one that signs, and the one before it.
    pub(crate) certificates: String,
    /// The key of the first, in PEM.
    pub(crate) key: Zeroizing<String>,
}

/// A certificate with its key, and when it is time for another one.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    pub(crate) renew_at: SystemTime,
}

impl Authority {
    /// A new one, which follows `before` if there was one. Errors: `authority`.
    pub(crate) fn new(component: &Component, before: Option<&Self>) -> Result<Self> {
        let key = generate()?;
        let mut params = params(component, "NSM admission webhook", AUTHORITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let mut certificates = params.self_signed(&key).map_err(failed)?.pem();
        if let Some(before) = before
            && let Some(last) = blocks(&before.certificates)?.first()
        {
            certificates.push_str(&pem::encode(last));
        }
        Ok(Self {
            certificates,
            key: key.serialize_pem().into(),
        })
    }

    /// Whether it is time for a new one. Errors: `authority`, when it cannot be read.
    pub(crate) fn is_old(&self, component: &Component) -> Result<bool> {
        let first = blocks(&self.certificates)?.into_iter().next();
        let first = first.ok_or_else(|| broken("it has no certificate"))?;
        let (_, certificate) =
            X509Certificate::from_der(first.contents()).map_err(|error| broken(&error.to_string()))?;
        let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end);
        Ok(component.until(end) < AUTHORITY / 2)
    }

    /// A certificate for these names of DNS. Errors: `authority`.
    pub(crate) fn issue(&self, component: &Component, names: &[String]) -> Result<Leaf> {
        let signing = KeyPair::from_pem(&self.key).map_err(failed)?;
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.certificates, signing).map_err(failed)?;
        let (key, name) = (generate()?, names.first().map_or("webhook", String::as_str));
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        let lives = self::params(component, name, LEAF);
        (params.not_before, params.not_after) = (lives.not_before, lives.not_after);
        params.distinguished_name = lives.distinguished_name;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Ok(Leaf {
            chain: vec![CertificateDer::from(certificate)],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            renew_at: component.now() + LEAF / 2,
        })
    }
}

fn params(component: &Component, name: &str, lifetime: Duration) -> CertificateParams {
    let now = component.now();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now.checked_sub(SKEW).unwrap_or(now).into();
    params.not_after = (now + lifetime).into();
    params
}

fn generate() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)
}

fn blocks(certificates: &str) -> Result<Vec<pem::Pem>> {
    pem::parse_many(certificates).map_err(|error| broken(&error.to_string()))
}

fn broken(why: &str) -> Error {
    Error::invalid(
        "authority",
        format!("the webhook's authority cannot be read: {why}"),
    )
}

fn failed(error: rcgen::Error) -> Error {
    Error::internal(
        "authority",
        format!("the webhook's authority cannot work: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use nsm_sdk::core::Clock;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn component() -> Component {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Component::with("webhook", Clock::starting_at(start), StdRng::seed_from_u64(1))
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_authority_comes_in_time_and_the_old_one_is_still_believed() {
        let component = component();
        let first = Authority::new(&component, None).expect("made");
        assert!(!first.is_old(&component).expect("readable"));
        tokio::time::advance(AUTHORITY / 2 + SKEW).await;
        assert!(first.is_old(&component).expect("readable"));

        let second = Authority::new(&component, Some(&first)).expect("made");
        assert!(!second.is_old(&component).expect("readable"));
        let third = Authority::new(&component, Some(&second)).expect("made");
        for (authority, count) in [(&first, 1), (&second, 2), (&third, 2)] {
            assert_eq!(blocks(&authority.certificates).expect("readable").len(), count);
        }
        let (old, new) = (
            blocks(&first.certificates).expect("readable"),
            blocks(&second.certificates).expect("readable"),
        );
        assert_eq!(old[0], new[1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_leaf_is_for_the_names_of_the_service() {
        let component = component();
        let authority = Authority::new(&component, None).expect("made");
        let names = ["svc.ns.svc".to_string(), "svc.ns.svc.cluster.local".to_string()];
        let leaf = authority.issue(&component, &names).expect("issued");
        let (_, certificate) = X509Certificate::from_der(&leaf.chain[0]).expect("a certificate");
        let told = format!("{:?}", certificate.subject_alternative_name());
        assert!(names.iter().all(|name| told.contains(name)), "{told}");
        let ours = blocks(&authority.certificates).expect("readable");
        let (_, issuer) = X509Certificate::from_der(ours[0].contents()).expect("a certificate");
        assert_eq!(certificate.issuer(), issuer.subject());
        assert_eq!(leaf.renew_at, component.now() + LEAF / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_authority_is_told() {
        let component = component();
        for certificates in [
            "",
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n",
        ] {
            let broken = Authority {
                certificates: certificates.into(),
                key: String::new().into(),
            };
            let error = broken.is_old(&component).expect_err("broken");
            assert_eq!(error.reason(), "authority");
            broken.issue(&component, &["a".into()]).expect_err("broken");
        }
    }
}
