// SPDX-License-Identifier: Apache-2.0
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use rand::SeedableRng;

use super::*;
use crate::core::Clock;

fn issuer(component: &Component) -> Issuer {
    Issuer::new(component, "k8s.nsm").unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_identity_is_renewed_at_half_of_its_life() {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let random = rand::rngs::StdRng::seed_from_u64(1);
    let component = Component::with("ca", Clock::starting_at(start), random);
    let mut identity = issuer(&component).follow("/nsc").unwrap();
    assert_eq!(identity.current().svid.not_after, start + LIFETIME);
    identity.changed().await;
    let renewed = component.now().duration_since(start).unwrap();
    assert_eq!(renewed.as_secs(), LIFETIME.as_secs() / 2);
    assert_eq!(
        identity.current().svid.not_after,
        start + Duration::from_secs(renewed.as_secs()) + LIFETIME
    );
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn renewing_ends_with_the_last_user_of_the_identity() {
    let component = Component::new("ca");
    let identity = issuer(&component).follow("/nsc").unwrap();
    assert_eq!(component.tasks(), 1);
    drop(identity);
    while component.tasks() > 0 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn issued_certificates_verify_by_the_bundle_and_no_other() {
    let component = Component::new("ca");
    let (ours, theirs) = (issuer(&component), issuer(&component));
    let credentials = ours.issue("/ns/default/pod/nsc").unwrap();
    assert_eq!(credentials.svid.spiffe_id, "spiffe://k8s.nsm/ns/default/pod/nsc");
    let verifies = |bundles: &Bundles| {
        let (_, leaf) = x509_parser::parse_x509_certificate(&credentials.svid.certificates[0]).unwrap();
        let (_, authority) = x509_parser::parse_x509_certificate(&bundles["k8s.nsm"][0]).unwrap();
        let key = &authority.public_key().subject_public_key.data;
        let signed = leaf.tbs_certificate.as_ref();
        let algorithm = &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1;
        aws_lc_rs::signature::UnparsedPublicKey::new(algorithm, key)
            .verify(signed, &leaf.signature_value.data)
            .is_ok()
    };
    assert!(verifies(&ours.bundles()));
    assert!(!verifies(&theirs.bundles()));
}

#[test]
fn names_that_are_no_spiffe_ids_are_refused() {
    let component = Component::new("ca");
    assert_eq!(
        Issuer::new(&component, "K8S/x").unwrap_err().reason(),
        "bad-trust-domain"
    );
    for path in ["nsc", "/", "/a//b", "/a b"] {
        assert_eq!(
            issuer(&component).issue(path).unwrap_err().reason(),
            "bad-svid",
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_socket_has_its_mode_from_the_first_moment_and_replaces_a_stale_one() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let component = Component::new("ca");
    let agent = issuer(&component).serve(&socket, 0o600, "/nsc").unwrap();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing else is left beside it"
    );
    drop(agent);
    component.end().await;
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_authority_that_was_kept_is_the_same_one() {
    let component = Component::new("ca");
    let before = issuer(&component);
    let again = |kept: &Kept, domain: &str| Issuer::again(&component, domain, LIFETIME, kept);
    let after = again(&before.keep(), "k8s.nsm").unwrap();
    assert_eq!(before.bundles(), after.bundles());
    assert_eq!(before.keep(), after.keep());
    assert_eq!(again(&before.keep(), "other").unwrap_err().reason(), "bad-svid");
    let foreign = Kept {
        key: issuer(&component).keep().key,
        ..before.keep()
    };
    assert_eq!(again(&foreign, "k8s.nsm").unwrap_err().reason(), "bad-svid");
    assert!(!format!("{:?}", before.keep()).contains("PRIVATE"));
}

#[tokio::test]
async fn each_caller_gets_the_identity_of_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let (component, agents) = (Component::new("test"), Component::new("ca"));
    let us = i32::try_from(std::process::id()).unwrap();
    let attest = move |caller| {
        assert_eq!(caller, us);
        Ok("/ns/default/pod/us".to_string())
    };
    let issuer = issuer(&agents);
    let _agent = issuer
        .serve_each(&socket, 0o666, std::sync::Arc::new(attest))
        .unwrap();
    let soon = tokio::time::Instant::now() + Duration::from_secs(10);
    let source = crate::identity::Source::WorkloadApi(socket);
    let identity = source.follow(&component, soon).await.unwrap();
    assert_eq!(
        identity.current().svid.spiffe_id,
        "spiffe://k8s.nsm/ns/default/pod/us"
    );
    assert_eq!(identity.current().bundles, issuer.bundles());
    component.end().await;
    agents.end().await;
}

#[tokio::test]
async fn who_is_not_known_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let (component, agents) = (Component::new("test"), Component::new("ca"));
    let attest = |_| Err(Error::denied("unknown-caller", "nobody knows you"));
    let _agent = issuer(&agents)
        .serve_each(&socket, 0o666, std::sync::Arc::new(attest))
        .unwrap();
    let soon = tokio::time::Instant::now() + Duration::from_millis(500);
    let source = crate::identity::Source::WorkloadApi(socket);
    let error = source.follow(&component, soon).await.unwrap_err();
    assert!(error.text().contains("nobody knows you"), "{error}");
    component.end().await;
    agents.end().await;
}
