// SPDX-License-Identifier: Apache-2.0
//! What stands behind `bash` in the first line of a fence.

use std::time::Duration;

use regex::Regex;

use crate::problem::nearest;

/// What can stand there.
const KNOWN: [&str; 6] = ["expect", "expect-exit", "timeout", "retry", "background", "only"];

/// How a block is run, and what makes it a success.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attributes {
    /// What its output must contain.
    pub(crate) expect: Option<Regex>,
    /// How it must end, if not by 0.
    pub(crate) exit: Exit,
    /// How long it may take with all its tries, if not as long as all others.
    pub(crate) timeout: Option<Duration>,
    /// When it is tried again.
    pub(crate) retry: Retry,
    /// Whether the next block begins at once, and this one is ended when the section is over.
    pub(crate) is_background: bool,
    /// Where it runs: on one of these; everywhere without any.
    pub(crate) only: Vec<String>,
}

/// Which exit codes are a success.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0; of a block in the background any.
    #[default]
    Unsaid,
    /// This one.
    Code(i32),
    /// All but 0.
    NonZero,
}

/// Whether a failed try is followed by another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Retry {
    /// After pauses that grow.
    #[default]
    Growing,
    /// After pauses of this length.
    After(Duration),
    /// Never.
    No,
}

impl Attributes {
    /// Reads what follows the language; `Err` has what is wrong and the remedy.
    pub(crate) fn parse(text: &str) -> Result<Self, (String, String)> {
        let mut attributes = Self::default();
        for (key, value) in pairs(text)? {
            attributes.set(&key, value.as_deref())?;
        }
        Ok(attributes)
    }

    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), (String, String)> {
        if !KNOWN.contains(&key) {
            let meant = nearest(key, &KNOWN).map_or(String::new(), |near| format!("; {near} perhaps?"));
            let remedy = format!("use {}{meant}", KNOWN.join(", "));
            return Err((format!("there is no attribute {key:?}"), remedy));
        }
        if key == "background" {
            self.is_background = true;
            return match value {
                None => Ok(()),
                Some(_) => Err((
                    "background takes no value".into(),
                    "write background alone".into(),
                )),
            };
        }
        let Some(value) = value else {
            return Err((format!("{key} has no value"), format!("write {key}=VALUE")));
        };
        match key {
            "expect" => self.expect = Some(expression(value)?),
            "expect-exit" => self.exit = exit(value)?,
            "timeout" => self.timeout = Some(duration(key, value)?),
            "retry" if value == "no" => self.retry = Retry::No,
            "retry" => self.retry = Retry::After(duration(key, value)?),
            _ => self.only = value.split(',').map(|word| word.trim().to_string()).collect(),
        }
        Ok(())
    }
}

fn expression(value: &str) -> Result<Regex, (String, String)> {
    let remedy = "write it in the syntax of the Rust crate regex, and \\ before what is meant literally";
    Regex::new(value).map_err(|error| {
        (
            format!("{value:?} is no regular expression: {error}"),
            remedy.into(),
        )
    })
}

fn exit(value: &str) -> Result<Exit, (String, String)> {
    match value.parse() {
        Ok(code @ 0..=255) => Ok(Exit::Code(code)),
        _ if value == "nonzero" => Ok(Exit::NonZero),
        _ => Err((
            format!("{value:?} is no exit code"),
            "write a number from 0 to 255, or nonzero".into(),
        )),
    }
}

fn duration(key: &str, value: &str) -> Result<Duration, (String, String)> {
    humantime::parse_duration(value).map_err(|_| {
        let also = if key == "retry" { ", or retry=no" } else { "" };
        (
            format!("{key}={value} is no duration"),
            format!("write one with its unit: {key}=500ms or {key}=2m{also}"),
        )
    })
}

/// A key, with its value where it has one.
type Pair = (String, Option<String>);

/// `key`, `key=value` and `key="a value"`, apart by blanks.
fn pairs(text: &str) -> Result<Vec<Pair>, (String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|char: char| char == '=' || char.is_whitespace());
        let (key, after) = rest.split_at(end.unwrap_or(rest.len()));
        let Some(value) = after.strip_prefix('=') else {
            pairs.push((key.to_string(), None));
            rest = after.trim_start();
            continue;
        };
        let quote = value.chars().next().filter(|char| matches!(char, '"' | '\''));
        let (value, after) = match quote {
            Some(quote) => value[1..].split_once(quote).ok_or_else(|| {
                let what = format!("the value of {key} begins with {quote} and does not end");
                (what, format!("add {quote} in the same line"))
            })?,
            None => value.split_at(value.find(char::is_whitespace).unwrap_or(value.len())),
        };
        pairs.push((key.to_string(), Some(value.to_string())));
        rest = after.trim_start();
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_known_is_read() {
        let text = r#"expect="0% packet\.loss" expect-exit=3 timeout=2m retry=50ms background only=a,b"#;
        let read = Attributes::parse(text).expect("it is fine");
        assert!(read.expect.expect("it is there").is_match("10% packet.loss"));
        assert_eq!(read.exit, Exit::Code(3));
        assert_eq!(read.timeout, Some(Duration::from_secs(120)));
        assert_eq!(read.retry, Retry::After(Duration::from_millis(50)));
        assert!(read.is_background);
        assert_eq!(read.only, ["a", "b"]);
    }

    #[test]
    fn nothing_is_said_by_nothing() {
        let read = Attributes::parse("").expect("it is fine");
        assert!(read.expect.is_none() && read.timeout.is_none() && !read.is_background);
        assert_eq!((read.exit, read.retry), (Exit::Unsaid, Retry::Growing));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_remedy() {
        for (text, what, remedy) in [
            ("timout=1s", "\"timout\"", "timeout perhaps?"),
            ("timeout=1", "timeout=1 is no duration", "timeout=500ms"),
            ("timeout", "has no value", "timeout=VALUE"),
            ("expect='a", "does not end", "add '"),
            ("expect=(", "no regular expression", "regex"),
            ("expect-exit=256", "no exit code", "nonzero"),
            ("background=yes", "takes no value", "background alone"),
        ] {
            let (said, helps) = Attributes::parse(text).expect_err(text);
            assert!(
                said.contains(what) && helps.contains(remedy),
                "{text}: {said}; {helps}"
            );
        }
    }
}
