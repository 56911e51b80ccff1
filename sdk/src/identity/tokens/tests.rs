// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};

use super::*;
use crate::core::Component;
use crate::identity::jwt::{Claims, Verifier, verify_es256};
use crate::identity::{Credentials, Issuer};

const MINUTE: Duration = Duration::from_secs(60);

fn issue(lifetime: Duration, path: &str) -> Credentials {
    let issuer = Issuer::with_lifetime(&Component::new("ca"), "k8s.nsm", lifetime).unwrap();
    issuer.issue(path).unwrap()
}

fn peer(lifetime: Duration) -> PeerIdentity {
    PeerIdentity::of(&issue(lifetime, "/nsmgr").svid.certificates[0]).unwrap()
}

fn now() -> SystemTime {
    Component::new("test").now()
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn part(token: &str, n: usize) -> Value {
    let part = token.split('.').nth(n).unwrap();
    serde_json::from_slice(&BASE64.decode(part).unwrap()).unwrap()
}

#[test]
fn c15_c70_a_token_has_exactly_the_agreed_shape_and_verifies_by_the_leaf() {
    let svid = issue(60 * MINUTE, "/nsc").svid;
    let now = now();
    let issued = Tokens::new(10 * MINUTE)
        .issue(&svid, Some(&peer(60 * MINUTE)), now)
        .unwrap();
    let header = issued.token.split('.').next().unwrap();
    assert_eq!(BASE64.decode(header).unwrap(), br#"{"alg":"ES256","typ":"JWT"}"#);
    let expected = json!({
        "sub": "spiffe://k8s.nsm/nsc",
        "aud": ["spiffe://k8s.nsm/nsmgr"],
        "exp": seconds(now + 10 * MINUTE),
    });
    assert_eq!(part(&issued.token, 1), expected);
    assert!(verify_es256(&issued.token, &svid.certificates[0]));
    assert!(!verify_es256(&issued.token, &peer(MINUTE).certificate));
    let without = Tokens::new(MINUTE).issue(&svid, None, now).unwrap();
    assert_eq!(part(&without.token, 1).get("aud"), None);
}

#[test]
fn c16_a_token_ends_with_our_certificate_and_its_told_expiry_with_the_peers() {
    let svid = issue(5 * MINUTE, "/nsc").svid;
    let tokens = Tokens::new(10 * MINUTE);
    let issued = tokens.issue(&svid, Some(&peer(60 * MINUTE)), now()).unwrap();
    assert_eq!(issued.expires, svid.not_after);
    assert_eq!(part(&issued.token, 1)["exp"], seconds(svid.not_after));

    let peer = peer(3 * MINUTE);
    let issued = tokens.issue(&svid, Some(&peer), now()).unwrap();
    assert_eq!(issued.expires, peer.not_after);
    assert_eq!(part(&issued.token, 1)["exp"], seconds(svid.not_after));
}

#[test]
fn c71_a_key_that_es256_cannot_use_is_a_clear_error() {
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let good = issue(60 * MINUTE, "/nsc").svid;
    let svid = Svid {
        spiffe_id: good.spiffe_id.clone(),
        certificates: good.certificates.clone(),
        key: PrivateKeyDer::Pkcs8(p384.serialize_der().into()),
        not_after: good.not_after,
    };
    let tokens = Tokens::new(MINUTE);
    let error = tokens.issue(&svid, None, now()).unwrap_err();
    assert_eq!(error.reason(), "svid-key");
    assert!(
        error.text().contains("spiffe://k8s.nsm/nsc") && error.text().contains("P-256"),
        "{error}"
    );
    assert!(tokens.issue(&good, None, now()).is_ok());
}

#[test]
fn a_token_is_handed_out_again_while_young() {
    let svid = issue(60 * MINUTE, "/nsc").svid;
    let (tokens, peer, start) = (Tokens::new(10 * MINUTE), peer(60 * MINUTE), now());
    let at = |now| tokens.issue(&svid, Some(&peer), now).unwrap();
    let first = at(start);
    assert_eq!(at(start + MINUTE - Duration::from_nanos(1)), first);
    assert_ne!(at(start + MINUTE).token, first.token);
    assert_ne!(
        at(start - MINUTE).token,
        first.token,
        "a clock set back never lengthens a life"
    );
}

#[test]
fn every_svid_signs_for_itself_and_few_are_remembered() {
    let tokens = Tokens::new(MINUTE);
    let peer = peer(60 * MINUTE);
    for _ in 0..3 * MAX_SIGNERS {
        let svid = issue(60 * MINUTE, "/nsc").svid;
        let issued = tokens.issue(&svid, Some(&peer), now()).unwrap();
        assert!(
            verify_es256(&issued.token, &svid.certificates[0]),
            "rotation changes the signing key at once"
        );
    }
    assert_eq!(tokens.0.signers.lock().len(), MAX_SIGNERS);
}

#[test]
fn the_tokens_kept_for_an_svid_are_bounded() {
    let svid = issue(60 * MINUTE, "/nsc").svid;
    let (tokens, now) = (Tokens::new(10 * MINUTE), now());
    for n in 0..MAX_CACHED + 10 {
        let peer = PeerIdentity {
            spiffe_id: format!("spiffe://k8s.nsm/{n}"),
            ..peer_of(&svid)
        };
        tokens.issue(&svid, Some(&peer), now).unwrap();
    }
    let signer = tokens.signer(&svid).unwrap();
    assert_eq!(signer.issued.lock().len(), MAX_CACHED);
    tokens.issue(&svid, None, now + MINUTE).unwrap();
    assert_eq!(
        signer.issued.lock().len(),
        1,
        "those no longer handed out make room"
    );
}

fn peer_of(svid: &Svid) -> PeerIdentity {
    PeerIdentity::of(&svid.certificates[0]).unwrap()
}

#[test]
fn an_expired_svid_signs_nothing() {
    let svid = issue(MINUTE, "/nsc").svid;
    let error = Tokens::new(MINUTE)
        .issue(&svid, None, svid.not_after)
        .unwrap_err();
    assert_eq!(error.reason(), "svid-expired");
}

#[test]
fn a_verifier_answers_as_the_signature_does() {
    let svid = issue(60 * MINUTE, "/nsc").svid;
    let token = Tokens::new(MINUTE).issue(&svid, None, now()).unwrap().token;
    let (leaf, other) = (
        &svid.certificates[0],
        &issue(MINUTE, "/nsc").svid.certificates[0].clone(),
    );
    let verifier = Verifier::default();
    for _ in 0..2 {
        assert!(verifier.verify_es256(&token, leaf));
        assert!(!verifier.verify_es256(&token, other));
        assert!(!verifier.verify_es256(&format!("{token}x"), leaf));
    }
    assert_eq!(Claims::of(&token).unwrap().sub, svid.spiffe_id);
}
