// SPDX-License-Identifier: Apache-2.0
//! Names of things in other clusters: `target@domain`.
//!
//! The first `@` separates; what follows it is the domain, even if it holds more of them.

/// Separates target and domain.
pub const SEPARATOR: char = '@';

/// Whether `name` names something in a domain: whether it holds an `@`.
///
/// ```
/// assert!(nsm_api::interdomain::is_interdomain("vpn@my.cluster2"));
/// assert!(!nsm_api::interdomain::is_interdomain("vpn"));
/// ```
pub fn is_interdomain(name: &str) -> bool {
    name.contains(SEPARATOR)
}

/// What `name` is called in its own domain: the part before the first `@`, or all of it.
pub fn target(name: &str) -> &str {
    name.split_once(SEPARATOR).map_or(name, |(target, _)| target)
}

/// The domain of `name`: the part after the first `@`, empty if there is none.
pub fn domain(name: &str) -> &str {
    name.split_once(SEPARATOR).map_or("", |(_, domain)| domain)
}

/// The name by which other domains know `target` of `domain`.
pub fn join(target: &str, domain: &str) -> String {
    format!("{target}{SEPARATOR}{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_separates() {
        assert_eq!((target("a@b@c"), domain("a@b@c")), ("a", "b@c"));
        assert_eq!((target("a"), domain("a")), ("a", ""));
        assert_eq!((target("@"), domain("@")), ("", ""));
    }

    #[test]
    fn join_is_undone_by_target_and_domain() {
        let name = join("vpn", "my.cluster2");
        assert_eq!((target(&name), domain(&name)), ("vpn", "my.cluster2"));
    }
}
