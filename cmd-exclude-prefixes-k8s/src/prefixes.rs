// SPDX-License-Identifier: Apache-2.0
//! Reads, merges and writes prefixes.

use ipnet::IpNet;
use nsm_sdk::yaml;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// How many prefixes are written: each request of each client carries them all.
pub(crate) const MAX_PREFIXES: usize = 1024;

/// How many of one list are read.
const MAX_READ: usize = 65_536;

/// The prefixes among `texts`. What is none is told, with `place` as where it was found, and the rest counts.
pub(crate) fn read<'a>(place: &str, texts: impl IntoIterator<Item = &'a str>) -> Vec<IpNet> {
    let mut prefixes = Vec::new();
    for text in texts.into_iter().map(str::trim).filter(|text| !text.is_empty()) {
        if prefixes.len() >= MAX_READ {
            warn!(place, "only the first {MAX_READ} prefixes are read");
            break;
        }
        match prefix(text) {
            Ok(prefix) => prefixes.push(prefix),
            Err(why) => warn!(place, prefix = shortened(text), why, "ignored; all others count"),
        }
    }
    prefixes
}

fn prefix(text: &str) -> Result<IpNet, &'static str> {
    let prefix: IpNet = text
        .parse()
        .map_err(|_| "it is no prefix: write ADDRESS/LENGTH, as 10.0.0.0/8")?;
    match prefix.prefix_len() {
        0 => Err("it would leave no address to give out"),
        _ => Ok(prefix.trunc()),
    }
}

/// What a person wrote, as far as it fits into a line.
fn shortened(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Without those that others contain, adjacent ones as one, sorted; at most [`MAX_PREFIXES`].
pub(crate) fn merge(prefixes: &[IpNet]) -> Vec<IpNet> {
    let mut merged = IpNet::aggregate(&prefixes.to_vec());
    merged.sort();
    if merged.len() > MAX_PREFIXES {
        let left_out = merged.len() - MAX_PREFIXES;
        // The wide ones matter most.
        merged.sort_by_key(IpNet::prefix_len);
        merged.truncate(MAX_PREFIXES);
        merged.sort();
        warn!(
            left_out,
            "more than {MAX_PREFIXES} prefixes are used; the narrowest are left out: exclude a wider one that contains them"
        );
    }
    merged
}

/// YAML with a list of prefixes.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    #[serde(default, rename = "Prefixes", alias = "prefixes", alias = "PREFIXES")]
    prefixes: Option<Vec<String>>,
}

/// The texts of a list as managers and users write it: YAML with the key `prefixes`. Errors: why it is none.
pub(crate) fn parse(text: &str) -> Result<Vec<String>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let content: Option<Content> = yaml::read(text)?;
    Ok(content.unwrap_or_default().prefixes.unwrap_or_default())
}

/// The list as managers read it.
pub(crate) fn print(prefixes: &[IpNet]) -> String {
    let mut text = "Prefixes:".to_string();
    if prefixes.is_empty() {
        text.push_str(" []");
    }
    for prefix in prefixes {
        text.push_str(&format!("\n- {prefix}"));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix")).collect()
    }

    #[test]
    fn what_is_no_prefix_is_left_out_and_the_rest_is_kept() {
        let read = read(
            "a test",
            [
                " 10.1.2.3/16 ",
                "10.0.0.0/33",
                "10.0.0.1",
                "",
                "none",
                "fd00::/64",
                "0.0.0.0/0",
                "::/0",
            ],
        );
        assert_eq!(read, nets(&["10.1.0.0/16", "fd00::/64"]));
    }

    #[test]
    fn c136_prefixes_are_merged_and_sorted_families_apart() {
        let merged = merge(&nets(&[
            "10.1.0.0/16",
            "fd00:1::/64",
            "10.0.0.0/16",
            "10.0.7.0/24",
            "10.0.0.0/16",
            "fd00::/64",
        ]));
        assert_eq!(merged, nets(&["10.0.0.0/15", "fd00::/64", "fd00:1::/64"]));
    }

    #[test]
    fn of_too_many_the_widest_stay() {
        let narrow = (0..MAX_PREFIXES as u32).map(|i| format!("10.{}.{}.1/32", i / 256, i % 256));
        let mut many: Vec<IpNet> = narrow.map(|text| text.parse().expect("a prefix")).collect();
        many.extend(nets(&["192.168.0.0/16"]));
        let merged = merge(&many);
        assert_eq!(merged.len(), MAX_PREFIXES);
        assert_eq!(merged.last(), nets(&["192.168.0.0/16"]).first());
    }

    #[test]
    fn what_is_written_is_read_again() {
        for prefixes in [nets(&[]), nets(&["10.0.0.0/8", "fd00::/8"])] {
            let texts = parse(&print(&prefixes)).expect("it is ours");
            assert_eq!(read("a test", texts.iter().map(String::as_str)), prefixes);
        }
    }

    #[test]
    fn lists_of_people_are_read_in_either_case_and_may_be_empty() {
        for (yaml, expected) in [
            ("prefixes: [10.0.0.0/8]", 1),
            ("Prefixes:\n- 10.0.0.0/8\n- 10.0.0.0/9", 2),
            ("prefixes:", 0),
            ("", 0),
            ("# nothing", 0),
        ] {
            assert_eq!(parse(yaml).map(|list| list.len()), Ok(expected), "{yaml}");
        }
        assert!(parse("prefixes: {").is_err());
        assert!(parse("- 10.0.0.0/8").is_err());
    }
}
