// SPDX-License-Identifier: Apache-2.0
//! Which policies a configuration means by its masks.

use std::iter::once;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::Policy;
use crate::core::{Error, Result};

/// Where masks look for policies, and where these are said to lie on disk.
const ROOT: (&str, &str) = ("etc/nsm/opa", "policies");

/// How deep below a mask's directory files are looked for, and how many.
const MAX_DEPTH: usize = 8;
const MAX_FILES: usize = 4096;

pub(super) fn resolve(masks: &str) -> Result<Vec<Policy>> {
    let mut chosen = Vec::new();
    for mask in masks.split(',').map(str::trim).filter(|mask| !mask.is_empty()) {
        let pattern = Pattern::of(&mask.replace(ROOT.0, ROOT.1), mask)?;
        if let Some(file) = pattern.on_disk() {
            let text = format!(
                "custom Rego files are not supported yet: {} is what the mask {mask:?} means; use built-in policies",
                file.display()
            );
            return Err(Error::new(tonic::Code::Unimplemented, "custom-policy", text));
        }
        let is_meant = |policy: &Policy| pattern.matches(&format!("{}/{}", ROOT.1, policy.file()));
        let meant: Vec<_> = Policy::ALL.into_iter().filter(is_meant).collect();
        if meant.is_empty() {
            let text = format!(
                "no policy is meant by the mask {mask:?}; built-in ones lie under {}/, without a slash before it",
                ROOT.0
            );
            return Err(Error::invalid("no-policy", text));
        }
        for policy in meant {
            if !chosen.contains(&policy) {
                chosen.push(policy);
            }
        }
    }
    if chosen.is_empty() {
        warn!("no policies are configured: every caller with an identity may do everything");
    }
    Ok(chosen)
}

/// An anchored regular expression of literals, `.`, `.*` and escapes.
struct Pattern {
    literal: PathBuf,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    Is(char),
    Any,
    Anything,
}

impl Pattern {
    fn of(text: &str, mask: &str) -> Result<Self> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '.' if chars.next_if_eq(&'*').is_some() => Part::Anything,
                '.' => Part::Any,
                '\\' => Part::Is(chars.next().unwrap_or('\\')),
                '*' | '+' | '?' | '[' | ']' | '(' | ')' | '{' | '}' | '|' | '^' | '$' => {
                    let text = format!("{c:?} in the mask {mask:?} is not understood: only . and .* are");
                    return Err(Error::invalid("bad-mask", text));
                }
                c => Part::Is(c),
            });
        }
        Ok(Self {
            literal: text.into(),
            parts,
        })
    }

    fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        // Where in the text the parts so far may end: before its first character, behind it, and so on.
        let mut ends: Vec<bool> = once(true).chain(text.iter().map(|_| false)).collect();
        for part in &self.parts {
            let behind = ends.iter().zip(&text);
            ends = match part {
                Part::Anything => ends
                    .iter()
                    .scan(false, |any, end| {
                        *any |= end;
                        Some(*any)
                    })
                    .collect(),
                Part::Any => once(false).chain(behind.map(|(end, _)| *end)).collect(),
                Part::Is(c) => once(false)
                    .chain(behind.map(|(end, next)| *end && next == c))
                    .collect(),
            };
        }
        ends.last() == Some(&true)
    }

    /// A file on disk that the pattern means.
    fn on_disk(&self) -> Option<PathBuf> {
        if self.literal.is_file() {
            return Some(self.literal.clone());
        }
        let mut files = Vec::new();
        walk(self.literal.parent()?, MAX_DEPTH, &mut files);
        files
            .into_iter()
            .find(|file| file.to_str().is_some_and(|file| self.matches(file)))
    }
}

fn walk(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if files.len() >= MAX_FILES {
            return;
        }
        if path.is_file() {
            files.push(path);
        } else if depth > 0 && path.is_dir() {
            walk(&path, depth - 1, files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(masks: &str) -> String {
        resolve(masks).expect_err("is refused").reason().to_string()
    }

    #[test]
    fn the_default_masks_mean_built_in_policies_in_order() {
        let common = [Policy::TokensChained, Policy::TokensExpired, Policy::TokensValid];
        let with = |last: &[Policy]| [&common, last].concat();
        assert_eq!(
            resolve(crate::policy::SERVER).ok(),
            Some(with(&[Policy::PrevTokenSigned]))
        );
        assert_eq!(
            resolve(crate::policy::CLIENT).ok(),
            Some(with(&[Policy::NextTokenSigned]))
        );
        let registry = [Policy::ClientAllowed, Policy::PrevTokenSigned];
        assert_eq!(
            resolve(crate::policy::REGISTRY_SERVER).ok(),
            Some(with(&registry))
        );
        assert_eq!(
            resolve(crate::policy::MONITOR).ok(),
            Some(vec![Policy::ServiceConnection])
        );
        let one = "etc/nsm/opa/common/tokens_valid.rego, etc/nsm/opa/common/.*.rego,";
        assert_eq!(
            resolve(one).ok(),
            Some(vec![
                Policy::TokensValid,
                Policy::TokensChained,
                Policy::TokensExpired
            ])
        );
        assert_eq!(resolve("").ok(), Some(vec![]));
    }

    #[test]
    fn c85_a_mask_that_means_nothing_is_refused() {
        assert_eq!(reason("/etc/nsm/opa/common/.*.rego"), "no-policy");
        assert_eq!(
            reason("etc/nsm/opa/common/.*.rego,etc/nsm/opa/commom/.*.rego"),
            "no-policy"
        );
        assert_eq!(reason("etc/nsm/opa/(common|server)/.*"), "bad-mask");
    }

    #[test]
    fn c85_a_file_on_disk_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("deep");
        std::fs::create_dir(&deep).unwrap();
        std::fs::write(deep.join("mine.rego"), "package x\nvalid = false").unwrap();
        let dir = dir.path().display();
        for mask in [
            format!("{dir}/deep/mine.rego"),
            format!("{dir}/.*.rego"),
            format!("{dir}/deep/mi.e.rego"),
        ] {
            let error = resolve(&mask).expect_err("is refused");
            assert_eq!(error.reason(), "custom-policy");
            assert!(error.text().contains("deep/mine.rego"), "{error}");
        }
        assert_eq!(reason(&format!("{dir}/other/.*.rego")), "no-policy");
    }

    #[test]
    fn patterns_are_anchored() {
        let matches = |pattern: &str, text: &str| Pattern::of(pattern, pattern).unwrap().matches(text);
        assert!(matches("a/.*.rego", "a/b/c.rego"));
        assert!(matches(".*a.*", "a"));
        assert!(!matches("a/.*.rego", "xa/b.rego"));
        assert!(!matches("a/.*.rego", "a/b.regox"));
        assert!(!matches("a\\.b", "acb"));
        assert!(matches("", ""));
    }
}
