// SPDX-License-Identifier: Apache-2.0
//! What a kubelet asks for a pod, and what it is answered (`certificates.k8s.io/v1`, PodCertificateRequest).

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use kube::core::{ApiResource, GroupVersionKind, Object};
use nsm_sdk::core::Error;
use nsm_sdk::identity::Issuer;
use nsm_sdk::identity::issuer::Certified;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The least life of a certificate that the API server takes.
const LEAST: Duration = Duration::from_secs(3600);

/// A request, as far as it matters here.
pub(crate) type Request = Object<Spec, Status>;

/// What is asked. The API server has checked that the kubelet of the pod's own node asks, and that it has the key.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spec {
    /// Whom it asks.
    pub(crate) signer_name: String,
    /// The pod, of the request's namespace.
    pub(crate) pod_name: String,
    /// How long the certificate may live at most, seconds.
    #[serde(default)]
    pub(crate) max_expiration_seconds: u64,
    /// The public key, in an empty request of PKCS#10.
    #[serde(default, rename = "stubPKCS10Request")]
    pub(crate) request: ByteString,
    /// What the pod's author wants to tell us: nothing that we know.
    #[serde(default)]
    pub(crate) unverified_user_annotations: BTreeMap<String, String>,
}

/// What is answered so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// There is none until somebody answers.
    #[serde(default)]
    pub(crate) conditions: Vec<Value>,
}

/// Where the API server has these requests.
pub(crate) fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk("certificates.k8s.io", "v1", "PodCertificateRequest");
    ApiResource::from_gvk_with_plural(&kind, "podcertificaterequests")
}

/// Whether somebody waits for an answer of `signer`.
pub(crate) fn is_open(request: &Request, signer: &str) -> bool {
    let answered = request
        .status
        .as_ref()
        .is_some_and(|status| !status.conditions.is_empty());
    request.spec.signer_name == signer && !answered
}

/// The status by which a request is answered at `now`: a certificate that lives for `lifetime`, or why there is none.
pub(crate) fn answer(issuer: &Issuer, lifetime: Duration, now: SystemTime, request: &Request) -> Value {
    let unknown: Vec<_> = request.spec.unverified_user_annotations.keys().collect();
    if !unknown.is_empty() {
        let text = format!("this signer knows no annotations, and {unknown:?} is given; leave it out");
        return refusal("Denied", "InvalidUnverifiedUserAnnotations", &text, now);
    }
    let pod = (
        request.metadata.namespace.as_deref().unwrap_or_default(),
        request.spec.pod_name.as_str(),
    );
    let span = lifetime
        .min(Duration::from_secs(request.spec.max_expiration_seconds))
        .max(LEAST);
    match issuer.certify(
        &format!("/ns/{}/pod/{}", pod.0, pod.1),
        &request.spec.request.0,
        span,
    ) {
        Ok(certified) => granted(&certified, now),
        Err(error) => refused(&error, now),
    }
}

fn granted(certified: &Certified, now: SystemTime) -> Value {
    let life = certified
        .not_after
        .duration_since(certified.not_before)
        .unwrap_or_default();
    json!({
        "conditions": [condition("Issued", "Issued", "", now)],
        "certificateChain": certified.chain,
        "notBefore": time(certified.not_before),
        "beginRefreshAt": time(certified.not_before + life / 2),
        "notAfter": time(certified.not_after),
    })
}

fn refused(error: &Error, now: SystemTime) -> Value {
    match error.reason() {
        "key-type" => refusal("Denied", "UnsupportedKeyType", "ask for keyType: ECDSAP256", now),
        "issue" => refusal("Failed", "CannotSign", error.text(), now),
        _ => refusal("Denied", "BadRequest", error.text(), now),
    }
}

fn refusal(kind: &str, reason: &str, text: &str, now: SystemTime) -> Value {
    json!({ "conditions": [condition(kind, reason, text, now)] })
}

fn condition(kind: &str, reason: &str, text: &str, now: SystemTime) -> Value {
    json!({
        "type": kind, "status": "True", "reason": reason, "message": text, "lastTransitionTime": time(now),
    })
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use nsm_sdk::core::Component;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};

    use super::*;

    const SIGNER: &str = "networkservicemesh.io/spiffe";
    const DAY: Duration = Duration::from_secs(86_400);

    fn request(key: &KeyPair, spec: Value) -> Request {
        let asked = CertificateParams::default()
            .serialize_request(key)
            .expect("a request");
        let mut all = json!({
            "metadata": { "name": "req-1", "namespace": "shop" },
            "spec": {
                "signerName": SIGNER, "podName": "till-0", "podUID": "x", "maxExpirationSeconds": 86_400,
                "stubPKCS10Request": ByteString(asked.der().to_vec()),
            },
            "status": {},
        });
        if let Some(more) = spec.as_object() {
            for (name, value) in more {
                all["spec"][name] = value.clone();
            }
        }
        serde_json::from_value(all).expect("a request")
    }

    fn answered(request: &Request, lifetime: Duration) -> Value {
        let component = Component::new("signer");
        let issuer = Issuer::new(&component, "k8s.nsm").expect("an authority");
        answer(&issuer, lifetime, component.now(), request)
    }

    fn seconds(status: &Value, from: &str, to: &str) -> u64 {
        let at = |name: &str| {
            let text = status[name].as_str().expect("a time");
            humantime::parse_rfc3339(text).expect("a time")
        };
        at(to).duration_since(at(from)).expect("later").as_secs()
    }

    #[test]
    fn a_pod_gets_a_certificate_that_is_renewed_at_half_of_its_life() {
        let key = KeyPair::generate().expect("a key");
        let status = answered(&request(&key, json!({})), DAY / 4);
        assert_eq!(status["conditions"][0]["type"], "Issued");
        assert_eq!(seconds(&status, "notBefore", "notAfter"), 21_600);
        assert_eq!(seconds(&status, "notBefore", "beginRefreshAt"), 10_800);
        let chain = status["certificateChain"].as_str().expect("a chain");
        let der = pem::parse(chain).expect("PEM").into_contents();
        let peer = nsm_sdk::core::PeerIdentity::of(&der).expect("an SVID");
        assert_eq!(peer.spiffe_id, "spiffe://k8s.nsm/ns/shop/pod/till-0");
    }

    #[test]
    fn no_certificate_lives_longer_than_the_pod_asks_for_or_shorter_than_the_api_takes() {
        let key = KeyPair::generate().expect("a key");
        let short = request(&key, json!({ "maxExpirationSeconds": 3600 }));
        assert_eq!(seconds(&answered(&short, DAY), "notBefore", "notAfter"), 3600);
        let long = request(&key, json!({}));
        let status = answered(&long, Duration::from_secs(60));
        assert_eq!(seconds(&status, "notBefore", "notAfter"), 3600);
    }

    #[test]
    fn what_cannot_be_signed_is_denied_with_its_remedy() {
        let (key, other) = (
            KeyPair::generate().expect("a key"),
            KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).expect("a key"),
        );
        for (request, reason) in [
            (request(&other, json!({})), "UnsupportedKeyType"),
            (
                request(&key, json!({ "unverifiedUserAnnotations": { "a.b/c": "d" } })),
                "InvalidUnverifiedUserAnnotations",
            ),
            (
                request(&key, json!({ "stubPKCS10Request": "AAAA" })),
                "BadRequest",
            ),
        ] {
            let status = answered(&request, DAY);
            assert_eq!(status["conditions"][0]["type"], "Denied");
            assert_eq!(status["conditions"][0]["reason"], reason);
            assert!(status.get("certificateChain").is_none());
        }
    }

    #[test]
    fn only_open_requests_for_us_are_answered() {
        let key = KeyPair::generate().expect("a key");
        let mut one = request(&key, json!({}));
        assert!(is_open(&one, SIGNER));
        assert!(!is_open(&one, "other.io/signer"));
        one.status = Some(Status {
            conditions: vec![json!({})],
        });
        assert!(!is_open(&one, SIGNER));
    }
}
