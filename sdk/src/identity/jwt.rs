// SPDX-License-Identifier: Apache-2.0
//! JSON Web Tokens (RFC 7519) as hops exchange them: what they claim, and whether a certificate's key has signed them.
//!
//! Only ES256 is known. Reading a token's claims proves nothing; [`Verifier`] does, against one certificate.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::core::{Error, Result};

/// How long a token may be, bytes. One that names two SPIFFE ids of the greatest allowed length fits.
pub const MAX_TOKEN: usize = 8 * 1024;

/// How many verified signatures a [`Verifier`] remembers at least.
const REMEMBERED: usize = 1024;

/// Base64url as tokens use it. Bits behind the last byte are ignored, as the reference does.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

/// What a token claims, unproven.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Claims {
    /// The SPIFFE id of the issuer; empty when absent.
    #[serde(default)]
    pub sub: String,
    /// For whom it was issued. A token whose `aud` is not an array is for nobody: current peers send arrays.
    #[serde(default, deserialize_with = "array")]
    pub aud: Vec<String>,
    /// The end of its life, seconds since 1970.
    #[serde(default)]
    exp: Option<f64>,
}

#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    alg: String,
}

impl Claims {
    /// Reads a token without verifying its signature.
    ///
    /// Errors: `bad-token`.
    pub fn of(token: &str) -> Result<Self> {
        let bad = |what: &str| Error::invalid("bad-token", format!("not a token: {what}"));
        let (header, claims, signature) =
            split(token).ok_or_else(|| bad("it is not three parts of base64url"))?;
        is_object(header).ok_or_else(|| bad("its header is no JSON object"))?;
        BASE64
            .decode(signature)
            .map_err(|_| bad("its signature is not base64url"))?;
        decode(claims).ok_or_else(|| bad("its claims are no JSON object of the expected types"))
    }

    /// The end of its life; none when it claims none that a clock can show.
    pub fn expires(&self) -> Option<SystemTime> {
        let since = Duration::try_from_secs_f64(self.exp?).ok()?;
        UNIX_EPOCH.checked_add(since)
    }
}

/// Whether the key of the certificate `leaf` (DER) has signed `token` by ES256.
///
/// Costs about 55 µs; a [`Verifier`] remembers.
pub fn verify_es256(token: &str, leaf: &[u8]) -> bool {
    let Some((header, _, signature)) = split(token) else {
        return false;
    };
    if decode::<Header>(header).is_none_or(|header| header.alg != "ES256") {
        return false;
    }
    let (Some((signed, _)), Ok(signature)) = (token.rsplit_once('.'), BASE64.decode(signature)) else {
        return false;
    };
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(leaf) else {
        return false;
    };
    let key = &certificate.public_key().subject_public_key.data;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key)
        .verify(signed.as_bytes(), &signature)
        .is_ok()
}

/// Remembers which tokens which certificates have signed: the same ones come again with every refresh.
#[derive(Default)]
pub struct Verifier(Mutex<Generations>);

#[derive(Default)]
struct Generations {
    young: HashSet<[u8; 32]>,
    old: HashSet<[u8; 32]>,
}

impl Verifier {
    /// As [`verify_es256`]. Says yes only where that has said yes before or says so now.
    pub fn verify_es256(&self, token: &str, leaf: &[u8]) -> bool {
        if token.len() > MAX_TOKEN {
            return false;
        }
        let Some(key) = fingerprint(token, leaf) else {
            return verify_es256(token, leaf);
        };
        if self.0.lock().knows(key) {
            return true;
        }
        let verified = verify_es256(token, leaf);
        if verified {
            self.0.lock().remember(key);
        }
        verified
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Generations {
    fn knows(&mut self, key: [u8; 32]) -> bool {
        if self.young.contains(&key) {
            return true;
        }
        let known = self.old.contains(&key);
        if known {
            self.remember(key);
        }
        known
    }

    fn remember(&mut self, key: [u8; 32]) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

fn fingerprint(token: &str, leaf: &[u8]) -> Option<[u8; 32]> {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&token.len().to_be_bytes());
    context.update(token.as_bytes());
    context.update(leaf);
    context.finish().as_ref().try_into().ok()
}

fn split(token: &str) -> Option<(&str, &str, &str)> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let mut parts = token.split('.');
    let three = (parts.next()?, parts.next()?, parts.next()?);
    parts.next().is_none().then_some(three)
}

/// A JSON object. (To serde an array of the fields in order would do as well.)
fn decode<T: for<'a> Deserialize<'a>>(part: &str) -> Option<T> {
    let object: serde_json::Map<_, _> = serde_json::from_slice(&BASE64.decode(part).ok()?).ok()?;
    serde_json::from_value(object.into()).ok()
}

fn is_object(part: &str) -> Option<()> {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(&BASE64.decode(part).ok()?)
        .ok()
        .map(drop)
}

/// An array of strings; whatever else stands there reads as empty.
fn array<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str, claims: &str) -> String {
        format!(
            "{}.{}.{}",
            BASE64.encode(header),
            BASE64.encode(claims),
            BASE64.encode([0; 64])
        )
    }

    const HEADER: &str = r#"{"alg":"ES256","typ":"JWT"}"#;

    #[test]
    fn claims_are_read_leniently_but_never_invented() {
        let read = |claims: &str| Claims::of(&token(HEADER, claims));
        let all = read(r#"{"sub":"s","aud":["a","b"],"exp":1.5,"iss":7}"#).unwrap();
        assert_eq!(
            (all.sub.as_str(), all.aud),
            ("s", vec!["a".to_string(), "b".to_string()])
        );
        let none = read("{}").unwrap();
        assert_eq!((none.sub.as_str(), none.aud.len(), none.expires()), ("", 0, None));
        assert!(
            read(r#"{"aud":"a"}"#).unwrap().aud.is_empty(),
            "a string is no array"
        );
        for absurd in ["-1", "1e300", "null"] {
            assert_eq!(read(&format!(r#"{{"exp":{absurd}}}"#)).unwrap().expires(), None);
        }
        for bad in ["[]", "7", "{", r#"{"sub":7}"#, r#"{"exp":"9"}"#] {
            assert_eq!(read(bad).unwrap_err().reason(), "bad-token", "{bad}");
        }
    }

    #[test]
    fn what_is_no_token_is_refused_whatever_its_size() {
        let long = token(HEADER, &format!(r#"{{"sub":"{}"}}"#, "s".repeat(MAX_TOKEN)));
        for bad in [
            "",
            ".",
            "a.b",
            "a.b.c",
            "a.b.c.d",
            &long,
            &token("[]", "{}"),
            "e30=.e30.AA",
        ] {
            assert_eq!(Claims::of(bad).unwrap_err().reason(), "bad-token");
            assert!(!verify_es256(bad, b"no certificate"));
        }
    }

    #[test]
    fn a_verifier_remembers_a_bounded_number() {
        let mut seen = Generations::default();
        let key = |n: usize| fingerprint(&n.to_string(), b"").unwrap();
        for n in 0..5 * REMEMBERED {
            seen.remember(key(n));
            assert!(seen.young.len() + seen.old.len() <= 2 * REMEMBERED);
        }
        assert!(seen.knows(key(5 * REMEMBERED - 1)));
        assert!(!seen.knows(key(0)));
        assert_ne!(fingerprint("ab", b"c"), fingerprint("a", b"bc"));
    }
}
