// SPDX-License-Identifier: Apache-2.0
//! Issues the tokens by which a hop proves to the next one who it is.
//!
//! **Guarantees**: a token is a JWT with the header `{"alg":"ES256","typ":"JWT"}` and the claims `sub` (our SPIFFE
//! id), `aud` (an array of the peer's, absent when the peer is unknown) and `exp` (whole seconds), and nothing else.
//! It lives for the configured time, and never longer than the certificate whose key signs it. It is signed with
//! exactly the SVID that the caller names, so that the peer can verify it by the certificate of the connection.
//! **Cost**: 16 µs to sign. A token for the same audience is handed out again while more than nine tenths of its
//! life remain; at most [`MAX_CACHED`] are kept for each of the last [`MAX_SIGNERS`] SVIDs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;

use super::Svid;
use super::jwt::BASE64;
use crate::core::{CallToken, Error, PeerIdentity, Result};

/// How many tokens are kept for each SVID.
pub const MAX_CACHED: usize = 256;

/// For how many SVIDs tokens are kept: the current one, and those of connections made before it came.
pub const MAX_SIGNERS: usize = 4;

/// The fraction of its life, one over this, in which a token is handed out again.
const REUSE: u32 = 10;

/// Issues tokens. Cheap to clone; clones share what they keep.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    max_lifetime: Duration,
    signers: Mutex<Vec<Arc<Signer>>>,
}

/// One SVID's key and the tokens that it has signed.
struct Signer {
    leaf: CertificateDer<'static>,
    key: EcdsaKeyPair,
    issued: Mutex<HashMap<String, Issued>>,
}

#[derive(Clone)]
struct Issued {
    token: String,
    from: SystemTime,
    reuse_until: SystemTime,
    expires: SystemTime,
}

#[derive(Serialize)]
struct Payload<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<[&'a str; 1]>,
    exp: u64,
}

impl Tokens {
    /// Issues tokens that live `max_lifetime` at most.
    pub fn new(max_lifetime: Duration) -> Self {
        Self(Arc::new(Inner {
            max_lifetime,
            signers: Mutex::default(),
        }))
    }

    /// A token by which `audience` can tell that `svid` calls it, or answers it.
    ///
    /// The expiry that is told with it is not later than that of the audience's certificate, though the token's own
    /// may be.
    ///
    /// Errors: `svid-key` when the SVID's key is not an ECDSA key on P-256, which ES256 demands; `svid-expired`.
    pub fn issue(&self, svid: &Svid, audience: Option<&PeerIdentity>, now: SystemTime) -> Result<CallToken> {
        let signer = self.signer(svid)?;
        let to = audience.map_or("", |peer| peer.spiffe_id.as_str());
        let known = signer
            .issued
            .lock()
            .get(to)
            .filter(|issued| issued.is_fresh(now))
            .cloned();
        let issued = match known {
            Some(issued) => issued,
            None => {
                let issued = self.sign(&signer.key, svid, audience, now)?;
                signer.keep(to, &issued, now);
                issued
            }
        };
        let expires = audience.map_or(issued.expires, |peer| issued.expires.min(peer.not_after));
        Ok(CallToken {
            token: issued.token,
            expires,
        })
    }

    fn sign(
        &self,
        key: &EcdsaKeyPair,
        svid: &Svid,
        audience: Option<&PeerIdentity>,
        now: SystemTime,
    ) -> Result<Issued> {
        let expires = now
            .checked_add(self.0.max_lifetime)
            .map_or(svid.not_after, |expires| expires.min(svid.not_after));
        let life = expires.duration_since(now).unwrap_or_default();
        if life.is_zero() {
            let text = format!(
                "the certificate of {} has expired; its source has not renewed it",
                svid.spiffe_id
            );
            return Err(Error::unavailable("svid-expired", text));
        }
        let payload = Payload {
            sub: &svid.spiffe_id,
            aud: audience.map(|peer| [peer.spiffe_id.as_str()]),
            exp: expires.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        };
        Ok(Issued {
            token: encode(key, &payload).ok_or_else(|| Error::internal("token", "signing a token failed"))?,
            from: now,
            reuse_until: now + life / REUSE,
            expires,
        })
    }

    fn signer(&self, svid: &Svid) -> Result<Arc<Signer>> {
        let unfit = |what: &str| {
            let text = format!(
                "the SVID of {} {what}; tokens need a key on the curve P-256, set that key type where it is issued",
                svid.spiffe_id
            );
            Error::invalid("svid-key", text)
        };
        let leaf = svid
            .certificates
            .first()
            .ok_or_else(|| unfit("has no certificate"))?;
        let mut signers = self.0.signers.lock();
        if let Some(signer) = signers.iter().find(|signer| signer.leaf == *leaf) {
            return Ok(Arc::clone(signer));
        }
        let signer = Arc::new(Signer {
            leaf: leaf.clone(),
            key: parse(&svid.key).ok_or_else(|| unfit("has a key of another kind"))?,
            issued: Mutex::default(),
        });
        if signers.len() >= MAX_SIGNERS {
            signers.remove(0);
        }
        signers.push(Arc::clone(&signer));
        Ok(signer)
    }
}

impl Issued {
    fn is_fresh(&self, now: SystemTime) -> bool {
        self.from <= now && now < self.reuse_until
    }
}

impl Signer {
    fn keep(&self, audience: &str, issued: &Issued, now: SystemTime) {
        let mut cache = self.issued.lock();
        if cache.len() >= MAX_CACHED {
            cache.retain(|_, issued| issued.is_fresh(now));
        }
        if cache.len() < MAX_CACHED {
            cache.insert(audience.to_string(), issued.clone());
        }
    }
}

/// The key, if it is one that ES256 can use.
pub(super) fn parse(key: &PrivateKeyDer<'_>) -> Option<EcdsaKeyPair> {
    match key {
        PrivateKeyDer::Pkcs8(key) => {
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der()).ok()
        }
        PrivateKeyDer::Sec1(key) => {
            EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_sec1_der()).ok()
        }
        _ => None,
    }
}

fn encode(key: &EcdsaKeyPair, payload: &Payload<'_>) -> Option<String> {
    let mut token = BASE64.encode(br#"{"alg":"ES256","typ":"JWT"}"#);
    token.push('.');
    BASE64.encode_string(serde_json::to_vec(payload).ok()?, &mut token);
    let signature = key.sign(&SystemRandom::new(), token.as_bytes()).ok()?;
    token.push('.');
    BASE64.encode_string(signature, &mut token);
    Some(token)
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens")
            .field("max_lifetime", &self.0.max_lifetime)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
