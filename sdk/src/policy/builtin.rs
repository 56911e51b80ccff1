// SPDX-License-Identifier: Apache-2.0
//! The built-in policies.
//!
//! Where the Rego original ends in an evaluation error (several audiences of which only some match) or compares
//! values of different types (an `exp` that is a string), these deny.

use std::collections::HashSet;
use std::time::SystemTime;

use crate::identity::jwt::{Claims, Verifier};

/// A policy of the reference, by the name of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Every segment's token can be read.
    TokensValid,
    /// No segment's token has expired.
    TokensExpired,
    /// Each token was issued for the one who issued the next.
    TokensChained,
    /// The caller's certificate has signed the token before ours.
    PrevTokenSigned,
    /// The server's certificate has signed the token after ours.
    NextTokenSigned,
    /// The name is free, or belongs to the one who registers it.
    ClientAllowed,
    /// A monitor asks for a connection of the one who asks.
    ServiceConnection,
}

/// What policies are asked about. What a policy does not look at may stay empty.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    tokens: Vec<(&'a str, Option<Claims>)>,
    /// The index of our segment among the tokens.
    pub index: usize,
    /// The peer's leaf certificate, DER; empty when there is none.
    pub certificate: &'a [u8],
    /// The time.
    pub now: SystemTime,
    /// Who registers: the issuer of the path's first token.
    pub origin: &'a str,
    /// Who owns the name; none while it is free.
    pub owner: Option<&'a str>,
    /// The ids that a monitor asks for.
    pub selected: &'a [&'a str],
    /// The ids of the connections that the one who monitors has requested.
    pub connections: HashSet<String>,
}

impl<'a> Input<'a> {
    /// About a path with these tokens.
    pub fn of(
        tokens: impl IntoIterator<Item = &'a str>,
        index: usize,
        certificate: &'a [u8],
        now: SystemTime,
    ) -> Self {
        Self {
            tokens: tokens
                .into_iter()
                .map(|token| (token, Claims::of(token).ok()))
                .collect(),
            index,
            certificate,
            now,
            origin: "",
            owner: None,
            selected: &[],
            connections: HashSet::new(),
        }
    }

    /// What the token of a segment claims; none when it is not there or cannot be read.
    pub fn claims(&self, segment: usize) -> Option<&Claims> {
        self.tokens.get(segment)?.1.as_ref()
    }

    /// When the first of the tokens expires; none when one of them does not say.
    pub fn expires(&self) -> Option<SystemTime> {
        let ends = self.tokens.iter().map(|(_, claims)| claims.as_ref()?.expires());
        ends.collect::<Option<Vec<_>>>()?.into_iter().min()
    }

    fn signed(&self, segment: Option<usize>, verifier: &Verifier) -> bool {
        let token = segment.and_then(|segment| self.tokens.get(segment));
        token.is_some_and(|(token, _)| verifier.verify_es256(token, self.certificate))
    }
}

impl Policy {
    /// All of them, in the order of their files.
    pub const ALL: [Self; 7] = [
        Self::NextTokenSigned,
        Self::TokensChained,
        Self::TokensExpired,
        Self::TokensValid,
        Self::ServiceConnection,
        Self::ClientAllowed,
        Self::PrevTokenSigned,
    ];

    /// Its file, below `etc/nsm/opa/`.
    pub const fn file(self) -> &'static str {
        match self {
            Self::TokensValid => "common/tokens_valid.rego",
            Self::TokensExpired => "common/tokens_expired.rego",
            Self::TokensChained => "common/tokens_chained.rego",
            Self::PrevTokenSigned => "server/prev_token_signed.rego",
            Self::NextTokenSigned => "client/next_token_signed.rego",
            Self::ClientAllowed => "registry/client_allowed.rego",
            Self::ServiceConnection => "monitor/service_connection.rego",
        }
    }

    /// Whether it allows `input`.
    pub fn allows(self, input: &Input<'_>, verifier: &Verifier) -> bool {
        match self {
            Self::TokensValid => input.tokens.iter().all(|(_, claims)| claims.is_some()),
            Self::TokensExpired => {
                let alive = |claims: &Claims| claims.expires().is_some_and(|expires| input.now < expires);
                input
                    .tokens
                    .iter()
                    .all(|(_, claims)| claims.as_ref().is_some_and(alive))
            }
            Self::TokensChained => input.tokens.windows(2).all(chained),
            Self::PrevTokenSigned => input.signed(input.index.checked_sub(1), verifier),
            Self::NextTokenSigned => input.signed(input.index.checked_add(1), verifier),
            Self::ClientAllowed => input.owner.is_none_or(|owner| owner == input.origin),
            Self::ServiceConnection => input.selected.iter().any(|id| input.connections.contains(*id)),
        }
    }
}

fn chained(pair: &[(&str, Option<Claims>)]) -> bool {
    match pair {
        [(_, Some(Claims { aud, .. })), (_, Some(Claims { sub, .. }))] => {
            !aud.is_empty() && !sub.is_empty() && aud.iter().all(|aud| aud == sub)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn allows(policy: Policy, change: impl FnOnce(&mut Input<'_>)) -> bool {
        let mut input = Input::of([], 0, &[], SystemTime::UNIX_EPOCH);
        change(&mut input);
        policy.allows(&input, &Verifier::default())
    }

    #[test]
    fn a_name_is_for_its_owner() {
        assert!(allows(Policy::ClientAllowed, |input| input.origin = "a"));
        assert!(allows(Policy::ClientAllowed, |input| (
            input.origin,
            input.owner
        ) = ("a", Some("a"))));
        assert!(!allows(Policy::ClientAllowed, |input| (
            input.origin,
            input.owner
        ) = ("b", Some("a"))));
    }

    #[test]
    fn a_monitor_is_for_ones_own_connections() {
        let policy = Policy::ServiceConnection;
        assert!(!allows(policy, |_| ()));
        assert!(!allows(policy, |input| input.selected = &["c1"]));
        assert!(!allows(policy, |input| input.connections = ["c1".to_string()].into()));
        assert!(allows(policy, |input| {
            (input.selected, input.connections) = (&["c0", "c1"], ["c1".to_string()].into());
        }));
    }

    #[test]
    fn an_empty_path_is_valid_but_signed_by_nobody() {
        for policy in [Policy::TokensValid, Policy::TokensExpired, Policy::TokensChained] {
            assert!(allows(policy, |_| ()));
        }
        assert!(!allows(Policy::PrevTokenSigned, |_| ()));
        assert!(!allows(Policy::NextTokenSigned, |input| input.index = usize::MAX));
    }

    #[test]
    fn a_token_for_several_audiences_is_for_none_unless_all_are_the_next() {
        let token = |claims: &str| {
            let [header, claims] = [r#"{"alg":"ES256"}"#, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
            format!("{header}.{claims}.c2ln")
        };
        let next = token(r#"{"sub":"b"}"#);
        let chained = |aud: &str| {
            let first = token(&format!(r#"{{"sub":"a","aud":{aud}}}"#));
            let tokens = [first.as_str(), next.as_str()];
            let input = Input::of(tokens, 1, &[], SystemTime::UNIX_EPOCH);
            Policy::TokensChained.allows(&input, &Verifier::default())
        };
        assert!(chained(r#"["b"]"#) && chained(r#"["b","b"]"#));
        assert!(!chained(r#"["b","c"]"#) && !chained(r#"["c","b"]"#) && !chained("[]"));
    }

    #[test]
    fn the_files_are_in_order() {
        assert!(Policy::ALL.is_sorted_by_key(|policy| policy.file()));
    }
}
