// SPDX-License-Identifier: Apache-2.0
//! The other name of every program: `grpc-health-probe` asks a program whether it is ready.
//!
//! Published manifests start a program of this name in the container, since the kubelet's own probe speaks no TLS. An
//! image needs no second program for it, only a second name of its own one.

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::core::{Component, Error, Result};
use crate::identity::Source;
use crate::transport::health;

/// The name.
const NAME: &str = "grpc-health-probe";

/// How long connecting and asking may take each, unless told otherwise.
const USUAL: Duration = Duration::from_secs(1);

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    url: String,
    service: String,
    within: Duration,
}

/// Whether a program that was started as `program` is to be the probe.
pub(super) fn is_meant(program: Option<&OsStr>) -> bool {
    program
        .and_then(|program| Path::new(program).file_name())
        .is_some_and(|name| name == NAME)
}

/// Asks, by the flags of the probe. Exit codes are those of the probe that everybody knows: 0 ready, 1 wrong flags, 2
/// not reached, 3 no answer, 4 not ready.
pub(super) fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let question = match Question::parse(arguments) {
        Ok(question) => question,
        Err(wrong) => {
            eprintln!("{NAME}: {wrong}");
            return ExitCode::from(1);
        }
    };
    let asked = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = asked
        .map_err(|error| Error::internal("runtime", error.to_string()))
        .and_then(|runtime| runtime.block_on(question.ask()));
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &Error) -> u8 {
    match error.reason() {
        "not-serving" => 4,
        "peer-unreachable" | "no-identity" | "no-identity-source" | "bad-url" => 2,
        _ if error.code() == Code::DeadlineExceeded => 2,
        _ => 3,
    }
}

impl Question {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut address, mut service) = (None, String::new());
        let (mut connect, mut answer) = (USUAL, USUAL);
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            let flag = argument.trim_start_matches('-');
            let (flag, value) = flag
                .split_once('=')
                .map_or((flag, None), |(flag, value)| (flag, Some(value)));
            if matches!(flag, "spiffe" | "v" | "gzip") {
                continue;
            }
            let value = value.map(String::from).or_else(|| arguments.next());
            let value = value.ok_or_else(|| format!("-{flag} needs a value"))?;
            match flag {
                "addr" => address = Some(value),
                "service" => service = value,
                "connect-timeout" => connect = duration(&value)?,
                "rpc-timeout" => answer = duration(&value)?,
                "user-agent" => {}
                _ => {
                    return Err(format!(
                        "-{flag} is not known: use -addr, -service, -connect-timeout, -rpc-timeout"
                    ));
                }
            }
        }
        Ok(Self {
            url: url(&address.ok_or("-addr is missing: unix:///path or host:port")?),
            service,
            within: connect + answer,
        })
    }

    async fn ask(&self) -> Result<()> {
        let component = Component::new(NAME);
        let until = Instant::now() + self.within;
        let source = Source::choose(|name| std::env::var(name).ok())?;
        let identity = source.follow(&component, until).await?;
        health::check(&component, &identity, &self.url, &self.service, until).await
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<super::Duration, _> = text.parse();
    parsed
        .map(Duration::from)
        .map_err(|error| format!("{text:?}: {error}"))
}

/// The URL of an address as gRPC writes it: `unix:///path`, `unix:path`, `host:port` or `:port`.
fn url(address: &str) -> String {
    if let Some(path) = address.strip_prefix("unix:") {
        return format!("unix://{}", path.strip_prefix("//").unwrap_or(path));
    }
    let host = if address.starts_with(':') { "localhost" } else { "" };
    format!("tcp://{host}{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Question, String> {
        Question::parse(line.split_whitespace().map(String::from))
    }

    #[test]
    fn takes_the_flags_of_published_manifests() {
        let question = |url: &str, within: u64| Question {
            url: url.into(),
            service: String::new(),
            within: Duration::from_millis(within),
        };
        assert_eq!(
            parse("-spiffe -addr=unix:///listen.on.sock"),
            Ok(question("unix:///listen.on.sock", 2000))
        );
        assert_eq!(
            parse("--addr :5001 -connect-timeout=100ms -rpc-timeout 350ms"),
            Ok(question("tcp://localhost:5001", 450))
        );
        assert_eq!(
            parse("-addr registry:5002 -v").map(|question| question.url),
            Ok("tcp://registry:5002".into())
        );
        assert_eq!(
            parse("-addr=unix:/a").map(|question| question.url),
            Ok("unix:///a".into())
        );
    }

    #[test]
    fn wrong_flags_are_named() {
        for (line, named) in [
            ("-spiffe", "-addr is missing"),
            ("-addr", "needs a value"),
            ("-tls-ca=x", "-tls-ca"),
        ] {
            let wrong = parse(line).unwrap_err();
            assert!(wrong.contains(named), "{wrong}");
        }
        assert!(parse("-addr=:1 -rpc-timeout=soon").is_err());
    }

    #[test]
    fn only_its_own_name_makes_it_the_probe() {
        assert!(is_meant(Some(OsStr::new("/bin/grpc-health-probe"))));
        assert!(!is_meant(Some(OsStr::new("/bin/nsmgr"))));
        assert!(!is_meant(None));
    }

    #[test]
    fn exit_codes_tell_what_was_wrong() {
        assert_eq!(exit_code(&Error::unavailable("not-serving", "")), 4);
        assert_eq!(exit_code(&Error::unavailable("peer-unreachable", "")), 2);
        assert_eq!(exit_code(&Error::denied("refused", "")), 3);
    }
}
