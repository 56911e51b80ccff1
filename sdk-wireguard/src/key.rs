// SPDX-License-Identifier: Apache-2.0
//! Keys of Curve25519: the private ones, which leave memory with their last owner and are never shown, and the public
//! ones, which travel in mechanisms.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use gotatun::x25519;
use nsm_sdk::core::{Error, Result};
use rand::TryRngCore;
use rand::rngs::OsRng;
use zeroize::Zeroizing;

/// The bytes of a key.
pub const LENGTH: usize = 32;

/// A private key. Its bytes are in one place, whoever clones it, and are overwritten when the last clone goes.
#[derive(Clone)]
pub struct PrivateKey {
    secret: Arc<Zeroizing<[u8; LENGTH]>>,
    public: PublicKey,
}

impl PrivateKey {
    /// A new key, from the operating system's randomness. Every connection has one of its own.
    ///
    /// Errors: `no-randomness`.
    pub fn random() -> Result<Self> {
        let mut secret = Zeroizing::new([0; LENGTH]);
        OsRng.try_fill_bytes(&mut *secret).map_err(|error| {
            Error::internal(
                "no-randomness",
                format!("the system gives no randomness for a key: {error}"),
            )
        })?;
        Ok(Self::from_bytes(&secret))
    }

    /// The key with these bytes, clamped as RFC 7748 section 5 asks.
    pub fn from_bytes(bytes: &[u8; LENGTH]) -> Self {
        let mut secret = Zeroizing::new(*bytes);
        secret[0] &= 248;
        secret[LENGTH - 1] = secret[LENGTH - 1] & 127 | 64;
        let public = x25519::PublicKey::from(&x25519::StaticSecret::from(*secret));
        Self {
            secret: Arc::new(secret),
            public: PublicKey(public.to_bytes()),
        }
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// The bytes, for the engine that needs them.
    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.secret
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(hidden, of {})", self.public)
    }
}

/// Keys are equal when their public keys are: nothing is learned from how long it takes.
impl PartialEq for PrivateKey {
    fn eq(&self, other: &Self) -> bool {
        self.public == other.public
    }
}

impl Eq for PrivateKey {}

/// A public key. In text it is standard base64, 44 characters, as mechanisms carry it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub(crate) [u8; LENGTH]);

impl PublicKey {
    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }
}

impl From<[u8; LENGTH]> for PublicKey {
    fn from(bytes: [u8; LENGTH]) -> Self {
        Self(bytes)
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    /// Errors: `bad-key`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            // What is not a public key may be a private one: the text is not repeated.
            Error::invalid(
                "bad-key",
                format!("a public key {why}; it is base64 of 32 bytes, 44 characters"),
            )
        };
        if text.len() != 44 {
            return Err(bad(&format!("of {} characters", text.len())));
        }
        let bytes = STANDARD.decode(text).map_err(|_| bad("is not base64"))?;
        let bytes = bytes.try_into().map_err(|_| bad("is not of 32 bytes"))?;
        if bytes == [0; LENGTH] {
            return Err(bad("is all zero, which no private key gives"));
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

#[cfg(test)]
mod tests {
    use zeroize::ZeroizeOnDrop;

    use super::*;

    #[test]
    fn a_private_key_is_never_shown() {
        let key = PrivateKey::random().expect("randomness");
        let shown = format!("{key:?} {key:#?}");
        let secret = STANDARD.encode(key.bytes());
        assert!(
            !shown.contains(&secret) && !shown.contains(&secret[..8]),
            "{shown}"
        );
        assert!(!shown.contains(&format!("{:?}", key.bytes())));
    }

    #[test]
    fn a_private_key_is_in_one_place_that_is_overwritten_at_the_end() {
        fn is_overwritten<T: ZeroizeOnDrop>(_: &T) {}
        let key = PrivateKey::random().expect("randomness");
        is_overwritten(&*key.secret);
        let clone = key.clone();
        assert!(std::ptr::eq(key.bytes(), clone.bytes()));
        let place = Arc::downgrade(&key.secret);
        drop((key, clone));
        assert!(place.upgrade().is_none());
    }

    #[test]
    fn no_two_connections_have_one_key() {
        let [one, other] = [PrivateKey::random(), PrivateKey::random()].map(|key| key.expect("randomness"));
        assert_ne!(one, other);
    }

    /// A pair that `wg genkey` and `wg pubkey` made.
    #[test]
    fn a_public_key_is_computed_as_others_do() {
        let secret = STANDARD
            .decode("YDUTmr0YYBtw/PnaSd+0sIIVkMVCZQ5BJKi16tKrYV0=")
            .expect("base64");
        let key = PrivateKey::from_bytes(&secret.try_into().expect("32 bytes"));
        assert_eq!(
            key.public().to_string(),
            "aUYb8f4xRLWth5vDhPG2UtKd4rXgHqn/N6k25yFl0yQ="
        );
    }

    #[test]
    fn a_public_key_survives_its_text() {
        let key = PrivateKey::random().expect("randomness").public();
        assert_eq!(key.to_string().parse::<PublicKey>().expect("parses"), key);
        assert_eq!(key.to_string().len(), 44);
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let zero = STANDARD.encode([0; LENGTH]);
        let short = STANDARD.encode([1; 31]);
        for text in ["", "x", &short, &zero, &"!".repeat(44), &"A".repeat(1000)] {
            let error = text.parse::<PublicKey>().expect_err("no key");
            assert_eq!(error.reason(), "bad-key");
            assert!(text.len() < 10 || !error.text().contains(text), "{error}");
        }
    }
}
