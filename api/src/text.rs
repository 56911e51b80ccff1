// SPDX-License-Identifier: Apache-2.0
//! How this crate reads numbers and quotes what it could not read.

/// How much of a text that a peer sent an error repeats, bytes.
const EXCERPT: usize = 64;

/// Reads `text` if it is made of decimal digits and nothing else, no sign and no blanks, and fits `T`.
/// Leading zeros are read.
pub(crate) fn decimal<T: TryFrom<u64>>(text: &str) -> Option<T> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = text.parse().ok().filter(|_| digits_only)?;
    T::try_from(number).ok()
}

/// The longest start of `text` that has at most `bytes` bytes and ends between two characters.
pub(crate) fn head(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

/// `text` as an error repeats it: its start, if it is long.
pub(crate) fn excerpt(text: &str) -> String {
    let start = head(text, EXCERPT);
    if start.len() == text.len() {
        return text.into();
    }
    format!("{start}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digits_that_fit_are_numbers() {
        assert_eq!(decimal::<u8>("255"), Some(255));
        assert_eq!(decimal::<u8>("007"), Some(7));
        for text in [
            "",
            "256",
            "+1",
            "-1",
            " 1",
            "1 ",
            "0x1",
            "1_0",
            "٣",
            "99999999999999999999",
        ] {
            assert_eq!(decimal::<u8>(text), None, "{text}");
        }
    }

    #[test]
    fn a_head_never_splits_a_character() {
        assert_eq!(head("grün", 3), "gr");
        assert_eq!(head("grün", 4), "grü");
        assert_eq!(head("grün", 99), "grün");
    }

    #[test]
    fn a_long_text_is_repeated_in_part() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"x".repeat(1000)).chars().count(), EXCERPT + 1);
    }
}
