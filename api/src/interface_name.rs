// SPDX-License-Identifier: Apache-2.0
//! Names of network interfaces: what Linux takes, and names made up from a service's.

use thiserror::Error;

use crate::text::{excerpt, head};

/// The longest name of an interface, bytes: the kernel's `IFNAMSIZ` without the closing zero.
pub const MAX_LEN: usize = 15;

/// How much of a service's name a generated name keeps, bytes.
const SERVICE_LEN: usize = 10;

/// What the random part of a generated name is made of.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a name cannot be an interface's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InterfaceNameError {
    /// No name at all.
    #[error("interface name is empty, give it 1 to {MAX_LEN} bytes")]
    Empty,
    /// More than [`MAX_LEN`] bytes. Names are never cut silently: two cut names may be equal.
    #[error("interface name {name:?} has {len} bytes, shorten it to at most {MAX_LEN}")]
    Long {
        /// The start of the name.
        name: String,
        /// Its length, bytes.
        len: usize,
    },
    /// A name that means something else to the kernel or to its sysctl tree.
    #[error("interface name {0:?} is reserved, choose one that is not \".\", \"..\", \"all\" or \"default\"")]
    Reserved(String),
    /// A character that the kernel refuses or replaces.
    #[error("interface name {name:?} holds {character:?}, use letters, digits, '-', '_' and '.'")]
    Character {
        /// The name.
        name: String,
        /// The first character that cannot stand in it.
        character: char,
    },
}

/// Whether Linux takes `name` for an interface, as it is.
///
/// The kernel refuses `.`, `..`, `/`, `:`, white space and more than 15 bytes (`dev_valid_name`), reads `%`
/// as a place for a number (`__dev_alloc_name`), and has `all` and `default` beside the interfaces in
/// `net.ipv4.conf`.
///
/// ```
/// use nsm_api::interface_name::check;
/// assert!(check("nsm-1").is_ok());
/// assert!(check("a-name-too-long-for-linux").is_err());
/// ```
pub fn check(name: &str) -> Result<(), InterfaceNameError> {
    if name.is_empty() {
        return Err(InterfaceNameError::Empty);
    }
    if name.len() > MAX_LEN {
        return Err(InterfaceNameError::Long {
            name: excerpt(name),
            len: name.len(),
        });
    }
    if matches!(name, "." | ".." | "all" | "default") {
        return Err(InterfaceNameError::Reserved(name.into()));
    }
    if let Some(character) = name.chars().find(|&character| is_refused(character)) {
        return Err(InterfaceNameError::Character {
            name: name.into(),
            character,
        });
    }
    Ok(())
}

/// Makes up a name for an interface to `service`: at most 10 bytes of the service's name, a dash, and random
/// letters and digits up to exactly 15 bytes. Characters that no interface can have become dashes.
///
/// `random` answers a number below the one it is given, evenly distributed.
///
/// ```
/// let name = nsm_api::interface_name::generate("icmp-responder", |_| 0);
/// assert_eq!(name, "icmp-respo-0000");
/// ```
pub fn generate(service: &str, mut random: impl FnMut(usize) -> usize) -> String {
    let mut name = head(service, SERVICE_LEN).replace(is_refused, "-");
    name.push('-');
    while name.len() < MAX_LEN {
        let letter = ALPHABET[random(ALPHABET.len()) % ALPHABET.len()];
        name.push(letter.into());
    }
    name
}

/// The kernel looks at bytes, in Latin-1: 0xA0 in the encoding of another character is white space to it.
fn is_refused(character: char) -> bool {
    let bytes = character
        .encode_utf8(&mut [0; 4])
        .bytes()
        .any(|byte| byte == 0xA0);
    bytes || character.is_whitespace() || character.is_control() || matches!(character, '/' | ':' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fifteen_bytes_fit_and_sixteen_do_not() {
        assert_eq!(check(&"x".repeat(15)), Ok(()));
        assert!(matches!(
            check(&"x".repeat(16)),
            Err(InterfaceNameError::Long { len: 16, .. })
        ));
        assert!(
            matches!(check("ääääääää"), Err(InterfaceNameError::Long { len: 16, .. })),
            "bytes count, not characters"
        );
    }

    #[test]
    fn names_that_linux_cannot_have_are_refused() {
        assert_eq!(check(""), Err(InterfaceNameError::Empty));
        for name in [".", "..", "all", "default"] {
            assert_eq!(check(name), Err(InterfaceNameError::Reserved(name.into())));
        }
        for name in [
            "a/b", "a b", "a\tb", "a\n", "eth0:1", "nsm%d", "a\0", "a\u{a0}", "à",
        ] {
            assert!(
                matches!(check(name), Err(InterfaceNameError::Character { .. })),
                "{name:?}"
            );
        }
        for name in ["nsm-1", "eth0.100", "_", "grün", "svc@domain", "..."] {
            assert_eq!(check(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn an_error_names_input_and_remedy() {
        let error = check("a-name-too-long-for-linux").expect_err("25 bytes");
        assert_eq!(
            error.to_string(),
            "interface name \"a-name-too-long-for-linux\" has 25 bytes, shorten it to at most 15"
        );
    }

    /// Conformance case C93.
    #[test]
    fn a_generated_name_has_exactly_15_bytes_and_is_valid() {
        let long_of_two_bytes = "ä".repeat(6);
        let services = [
            "",
            "s",
            "icmp-responder",
            "exactly-10",
            "svc@my.cluster2",
            "a/b c:d",
            "\u{a0}à",
            "grün und gelb",
            &long_of_two_bytes,
        ];
        for service in services {
            let mut count = 0;
            let name = generate(service, |below| {
                count += 1;
                count % below
            });
            assert_eq!(name.len(), MAX_LEN, "{service:?}: {name:?}");
            assert_eq!(check(&name), Ok(()), "{service:?}");
            assert!(count >= 4, "at least four random characters");
        }
        assert_eq!(generate("icmp-responder", |below| below - 1), "icmp-respo-zzzz");
        assert_eq!(generate("vpn", |_| 10), "vpn-AAAAAAAAAAA");
    }

    #[test]
    fn a_closure_that_breaks_its_word_does_no_harm() {
        assert_eq!(generate("vpn", |_| usize::MAX).len(), MAX_LEN);
    }
}
