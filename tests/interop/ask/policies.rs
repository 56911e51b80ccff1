// SPDX-License-Identifier: Apache-2.0
//! What the built-in policies let pass: paths of good, forged, expired, reordered and broken tokens.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use nsm_sdk::core::Component;
use nsm_sdk::identity::jwt::Verifier;
use nsm_sdk::policy::{Input, Policy};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use serde_json::{Value, json};

use super::draw::Draw;
use super::theirs::Answer;
use super::{Case, same};

/// Somebody who signs tokens.
struct Party {
    id: String,
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

static PARTIES: LazyLock<[Party; 5]> =
    LazyLock::new(|| ["nsc", "nsmgr", "forwarder", "nse", "stranger"].map(Party::new));

impl Party {
    fn new(name: &str) -> Self {
        let id = format!("spiffe://k8s.nsm/{name}");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key of a known kind");
        let mut params = CertificateParams::default();
        let uri = id.as_str().try_into().expect("a name without other letters");
        params.subject_alt_names = vec![SanType::URI(uri)];
        let certificate = params.self_signed(&key).expect("a certificate of ours");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der());
        Self {
            id,
            key: key.expect("the key is of that kind"),
            certificate: certificate.der().to_vec(),
        }
    }
}

/// A path of tokens, as a policy is asked about it.
struct Asked {
    tokens: Vec<String>,
    index: usize,
    certificate: &'static [u8],
    /// A token is of a kind that nobody issues: a claim has another type, it is for two, or the header names another
    /// signature.
    is_odd: bool,
}

impl Asked {
    fn draw(draw: &mut Draw) -> Self {
        // No path is empty where policies are asked: a hop has entered itself before.
        let length = 1 + draw.below(4);
        let mut is_odd = false;
        let tokens: Vec<_> = (0..length).map(|at| token(draw, at, &mut is_odd)).collect();
        let index = draw.below(length + 2);
        let by = match draw.chance(70) {
            true => index.saturating_sub(1) + 2 * usize::from(draw.chance(40)),
            false => draw.below(PARTIES.len()),
        };
        Self {
            tokens,
            index,
            certificate: &PARTIES[by.min(PARTIES.len() - 1)].certificate,
            is_odd,
        }
    }

    fn case(self, policy: Policy) -> Case {
        let question = json!({
            "ask": "policy", "policy": policy.file(), "tokens": self.tokens, "index": self.index,
            "certificate": BASE64_STANDARD.encode(self.certificate),
        });
        let now = Component::new("asker").now();
        let tokens = self.tokens.iter().map(String::as_str);
        let input = Input::of(tokens, self.index, self.certificate, now);
        let ours = policy.allows(&input, &Verifier::default());
        let is_odd = self.is_odd;
        let compare = move |theirs: &Answer| {
            // Such a token proves nothing to us: line G-39 of docs/differences.md.
            if is_odd && !ours {
                return Ok(());
            }
            same(&ours, &theirs.yes)
        };
        Case {
            question,
            compare: Box::new(compare),
        }
    }
}

/// The token of the segment at this place, which is good more often than not.
fn token(draw: &mut Draw, at: usize, is_odd: &mut bool) -> String {
    let party = |at: usize| &PARTIES[at % PARTIES.len()];
    let stranger = &PARTIES[4];
    let mut claims = json!({"sub": party(at).id, "aud": [party(at + 1).id], "exp": 4_000_000_000_u64});
    let replace = |draw: &mut Draw, claims: &mut Value, name: &str, values: &[Value]| {
        if draw.chance(8) {
            claims[name] = values[draw.below(values.len())].clone();
        }
    };
    let (next, other) = (&party(at + 1).id, &stranger.id);
    let audiences = [
        json!([other]),
        json!([next, other]),
        json!([next, next]),
        json!(next),
        json!([]),
        json!(7),
    ];
    replace(draw, &mut claims, "aud", &audiences);
    let ends = [
        json!(1_700_000_000),
        json!(1.7e9),
        json!(null),
        json!(4e9),
        json!("4000000000"),
        json!([1]),
    ];
    replace(draw, &mut claims, "exp", &ends);
    replace(
        draw,
        &mut claims,
        "sub",
        &[json!(other), json!(""), json!(null), json!(7)],
    );
    *is_odd |= !(claims["sub"].is_string()) || !claims["exp"].is_number();
    // Of two audiences theirs lets some pairs pass and calls others an error.
    *is_odd |= claims["aud"] == json!([next, other]);
    let is_ours = !draw.chance(6);
    *is_odd |= !is_ours;
    let header = match is_ours {
        false => draw.pick(&[
            r#"{"alg":"none"}"#,
            r#"{"alg":"HS256"}"#,
            "{}",
            "[]",
            r#"{"alg":7}"#,
        ]),
        true => r#"{"alg":"ES256","typ":"JWT"}"#,
    };
    let signer = if draw.chance(8) { stranger } else { party(at) };
    let token = signed(header, &claims, signer);
    if draw.chance(8) {
        let broken = broken(draw, token);
        // Theirs reads a part with padding, which RFC 7515 forbids.
        *is_odd |= broken.contains("=.");
        broken
    } else {
        token
    }
}

fn signed(header: &str, claims: &Value, signer: &Party) -> String {
    let [header, claims] =
        [header.to_string(), claims.to_string()].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let text = format!("{header}.{claims}");
    let signature = signer.key.sign(&SystemRandom::new(), text.as_bytes());
    let signature = BASE64_URL_SAFE_NO_PAD.encode(signature.expect("the key signs"));
    format!("{text}.{signature}")
}

/// The token after something has happened to it on its way.
fn broken(draw: &mut Draw, mut token: String) -> String {
    let at = draw.below(token.len());
    match draw.below(8) {
        0 => String::new(),
        1 => draw.text(&["garbage", "a.b.c", "..", "e30.e30.", "e30.e30.AA"]),
        2 => token.split_off(at),
        3 => {
            token.truncate(at);
            token
        }
        4 => {
            token.insert_str(at, draw.pick(&["=", "A", ".", " ", "\n", "+"]));
            token
        }
        5 => format!("{token}="),
        6 => format!("{token}.e30"),
        _ => {
            token.remove(at);
            token
        }
    }
}

pub(super) fn valid_or_expired(draw: &mut Draw) -> Case {
    let policy = *draw.pick(&[&Policy::TokensValid, &Policy::TokensExpired]);
    Asked::draw(draw).case(policy)
}

pub(super) fn chained(draw: &mut Draw) -> Case {
    Asked::draw(draw).case(Policy::TokensChained)
}

pub(super) fn signed_by_neighbours(draw: &mut Draw) -> Case {
    let policy = *draw.pick(&[&Policy::PrevTokenSigned, &Policy::NextTokenSigned]);
    Asked::draw(draw).case(policy)
}

pub(super) fn owner(draw: &mut Draw) -> Case {
    let ids = ["spiffe://k8s.nsm/nse", "spiffe://k8s.nsm/nsc", ""];
    let (name, origin) = (draw.text(&["nse", "other"]), draw.text(&ids));
    let owner = draw.chance(70).then(|| draw.text(&ids));
    let mut owners = serde_json::Map::new();
    if let Some(owner) = &owner {
        owners.insert("nse".to_string(), json!([owner]));
    }
    let question = json!({
        "ask": "policy", "policy": Policy::ClientAllowed.file(), "name": name, "origin": origin, "owners": owners,
    });
    let mut input = Input::of([], 0, &[], Component::new("asker").now());
    input.origin = &origin;
    input.owner = owner.as_deref().filter(|_| name == "nse");
    of(
        question,
        Policy::ClientAllowed.allows(&input, &Verifier::default()),
    )
}

pub(super) fn monitor(draw: &mut Draw) -> Case {
    let id = |draw: &mut Draw| draw.text(&["c0", "c1", "c2", ""]);
    let (selected, own, others) = (draw.several(2, id), draw.several(2, id), draw.several(2, id));
    let question = json!({
        "ask": "policy", "policy": Policy::ServiceConnection.file(), "selected": selected,
        "origin": "spiffe://k8s.nsm/nsc",
        "owners": {"spiffe://k8s.nsm/nsc": own, "spiffe://k8s.nsm/nse": others},
    });
    let mut input = Input::of([], 0, &[], Component::new("asker").now());
    let selected: Vec<_> = selected.iter().map(String::as_str).collect();
    input.selected = &selected;
    input.connections = own.into_iter().collect();
    of(
        question,
        Policy::ServiceConnection.allows(&input, &Verifier::default()),
    )
}

fn of(question: Value, ours: bool) -> Case {
    Case {
        question,
        compare: Box::new(move |theirs: &Answer| same(&ours, &theirs.yes)),
    }
}
