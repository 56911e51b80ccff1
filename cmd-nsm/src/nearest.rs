// SPDX-License-Identifier: Apache-2.0
//! The names that somebody may have meant who wrote another.

use std::collections::BTreeSet;

/// How many are told.
const MAX_TOLD: usize = 3;

/// The longest names that are compared, characters: what is longer is no slip of the fingers.
const MAX_LENGTH: usize = 256;

/// The `names` that are most like `name`, the most alike first: those that contain it, or that differ in few characters.
pub fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let wanted: Vec<char> = name.to_lowercase().chars().take(MAX_LENGTH).collect();
    let near = names.into_iter().collect::<BTreeSet<_>>().into_iter();
    let mut near: Vec<_> = near
        .filter_map(|other| Some((distance_to(&wanted, other)?, other)))
        .collect();
    near.sort_unstable();
    near.into_iter().take(MAX_TOLD).map(|(_, other)| other).collect()
}

/// How far it is to a name that may have been meant.
fn distance_to(wanted: &[char], other: &str) -> Option<usize> {
    let lower: Vec<char> = other.to_lowercase().chars().take(MAX_LENGTH).collect();
    let distance = distance(wanted, &lower);
    let allowed = (wanted.len().max(lower.len()) / 3).max(1);
    let contains = |long: &[char], short: &[char]| {
        short.len() > 2 && long.windows(short.len()).any(|window| window == short)
    };
    let is_near = distance <= allowed || contains(&lower, wanted) || contains(wanted, &lower);
    is_near.then_some(distance)
}

/// How many characters must be put in, left out, replaced or swapped with their neighbour to make one of the other.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (at, from) in one.iter().enumerate() {
        let mut row = Vec::with_capacity(last.len());
        row.push(at + 1);
        for (column, to) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(from != to);
            let mut least = replaced.min(last[column + 1] + 1).min(row[column] + 1);
            let swaps =
                at > 0 && column > 0 && one[at - 1] == *to && other[column - 1] == *from && from != to;
            if swaps {
                let swapped: &Vec<usize> = &before;
                least = least.min(swapped[column - 1] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_fingers_are_found() {
        let names = ["icmp-responder", "vpn", "firewall", "icmp-responder-v6"];
        assert_eq!(
            nearest("icpm-responder", names),
            ["icmp-responder", "icmp-responder-v6"]
        );
        assert_eq!(nearest("Firewal", names), ["firewall"]);
        assert_eq!(nearest("responder", names)[0], "icmp-responder");
        assert_eq!(nearest("database", names), [""; 0]);
    }

    #[test]
    fn each_name_is_told_once_and_few_are() {
        let names = ["a1", "a2", "a3", "a4", "a1"];
        assert_eq!(nearest("a0", names), ["a1", "a2", "a3"]);
    }

    #[test]
    fn distances_count_slips() {
        let of = |one: &str, other: &str| {
            let letters = |text: &str| text.chars().collect::<Vec<_>>();
            distance(&letters(one), &letters(other))
        };
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("abc", "acb"), 1);
        assert_eq!(of("kitten", "sitting"), 3);
        assert_eq!(of("same", "same"), 0);
    }
}
