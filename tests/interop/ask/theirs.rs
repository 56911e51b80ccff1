// SPDX-License-Identifier: Apache-2.0
//! The process that answers as the Go SDK does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::peer;

/// What the SDK says to a question; a subject uses some of it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    pub(super) yes: bool,
    #[serde(deserialize_with = "absent_or")]
    pub(super) names: Vec<String>,
    pub(super) error: String,
    /// Why it would have ended its process; empty when it lives.
    pub(super) crashed: String,
    #[serde(deserialize_with = "message")]
    pub(super) passed_on: Vec<u8>,
    #[serde(deserialize_with = "message")]
    pub(super) returned: Vec<u8>,
}

fn absent_or<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn message<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    let bytes = BASE64_STANDARD.decode(text.unwrap_or_default());
    bytes.map_err(serde::de::Error::custom)
}

/// A message as a question carries it.
pub(super) fn bytes(message: &impl prost::Message) -> String {
    BASE64_STANDARD.encode(message.encode_to_vec())
}

/// See the [module](self).
pub(super) struct Theirs {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Theirs {
    pub(super) fn start() -> Result<Self> {
        let mut process = Command::new(peer::file()?)
            .arg("answer")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the program on the Go SDK")?;
        let questions = process.stdin.take().context("it has no input")?;
        let answers = process.stdout.take().context("it has no output")?;
        Ok(Self {
            process,
            questions,
            answers: BufReader::new(answers),
        })
    }

    pub(super) fn ask(&mut self, question: &Value) -> Result<Answer> {
        writeln!(self.questions, "{question}").context("it takes no more questions")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("{line:?} is no answer to {question}"))
    }

    /// Asks no more.
    pub(super) fn end(self) -> Result<()> {
        let Self {
            mut process,
            questions,
            answers,
        } = self;
        drop((questions, answers));
        let status = process.wait()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }
}
