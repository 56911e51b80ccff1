// SPDX-License-Identifier: Apache-2.0
//! The built-in policies answer as the reference's Rego files do, on recorded paths with good, forged, expired,
//! reordered and garbage tokens.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use nsm_sdk::identity::jwt::Verifier;
use nsm_sdk::policy::{Input, Policy};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    path: Path,
    peer_certificate: String,
    allowed: BTreeMap<String, bool>,
}

#[derive(Deserialize)]
struct Path {
    #[serde(default)]
    index: usize,
    #[serde(default)]
    path_segments: Vec<Segment>,
}

#[derive(Deserialize)]
struct Segment {
    #[serde(default)]
    token: String,
}

/// When the answers were recorded; the tokens of the recording end years before or after it.
const RECORDED: Duration = Duration::from_secs(1_790_000_000);

#[test]
fn built_in_policies_answer_as_the_reference_on_every_line() {
    let vectors = include_str!("../../tests/vectors/policies.json");
    let lines: Vec<Line> = serde_json::from_str(vectors).expect("the vectors are JSON");
    assert!(lines.len() >= 200);
    let verifier = Verifier::default();
    let mut answers = BTreeMap::<_, usize>::new();
    for (number, line) in lines.iter().enumerate() {
        let certificate = pem::parse(&line.peer_certificate).expect("the certificate is PEM");
        let tokens = line
            .path
            .path_segments
            .iter()
            .map(|segment| segment.token.as_str());
        let input = Input::of(
            tokens,
            line.path.index,
            certificate.contents(),
            UNIX_EPOCH + RECORDED,
        );
        for (file, allowed) in &line.allowed {
            let policy = Policy::ALL
                .into_iter()
                .find(|policy| file.ends_with(policy.file()))
                .expect("the file is a built-in policy");
            assert_eq!(
                policy.allows(&input, &verifier),
                *allowed,
                "line {number}, {file}"
            );
            *answers.entry((policy.file(), *allowed)).or_default() += 1;
        }
    }
    assert_eq!(
        answers.len(),
        10,
        "each of the five policies allows some lines and denies others: {answers:?}"
    );
}
