// SPDX-License-Identifier: Apache-2.0
//! Tokens that many messages share, kept once.
//!
//! A hop signs one token for a peer and puts it into each connection of that peer, so a thousand connections have a
//! handful of tokens.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

static TOKENS: LazyLock<Mutex<HashSet<Arc<str>>>> = LazyLock::new(Mutex::default);

/// A token of this process; it is forgotten with the last handle.
pub(crate) struct Token(Option<Arc<str>>);

impl Token {
    /// The handle of this text.
    pub(crate) fn of(text: &str) -> Self {
        let mut tokens = TOKENS.lock();
        if let Some(known) = tokens.get(text) {
            return Self(Some(Arc::clone(known)));
        }
        let new: Arc<str> = text.into();
        tokens.insert(Arc::clone(&new));
        Self(Some(new))
    }

    pub(crate) fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // The count changes under the lock only, so the last but one does not miss that it is.
        let mut tokens = TOKENS.lock();
        if let Some(ours) = self.0.take()
            && Arc::strong_count(&ours) == 2
        {
            tokens.remove(&ours);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_once_and_forgotten_with_its_last_handle() {
        let text = "a token of this test alone";
        let (one, other) = (Token::of(text), Token::of(text));
        assert_eq!(one.as_str(), text);
        assert!(std::ptr::eq(one.as_str(), other.as_str()));
        drop(one);
        assert_eq!(other.as_str(), text);
        assert!(TOKENS.lock().contains(text));
        drop(other);
        assert!(!TOKENS.lock().contains(text));
    }
}
