// SPDX-License-Identifier: Apache-2.0
//! One block: tried until it succeeds or its time is over.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::attributes::{Attributes, Exit, Retry};
use crate::document::Block;
use crate::report::{Outcome, Section, Tried};
use crate::shell::{Background, Shell};
use crate::stop::Stop;

/// The first pause between two tries, and the longest one.
const PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// What may end a block before it is done.
pub(crate) struct Limits<'a> {
    /// How long it may take, if it does not say that itself.
    pub(crate) timeout: Duration,
    /// The signals.
    pub(crate) stop: &'a mut Stop,
    /// How many of them end this block.
    pub(crate) signals: u32,
}

/// Runs a block until it succeeds, at most as long as it may.
pub(crate) async fn run(
    shell: &mut Shell,
    block: &Block,
    section: Section,
    limits: Limits<'_>,
) -> Result<Tried> {
    let (began, timeout) = (Instant::now(), block.attributes.timeout.unwrap_or(limits.timeout));
    let (until, mut pause) = (began + timeout, PAUSES[0]);
    let mut tried = Tried::begun(section, block.line);
    loop {
        tried.tries += 1;
        let code = tokio::select! {
            code = shell.run(&block.code) => Some(code?),
            () = tokio::time::sleep_until(until) => None,
            () = limits.stop.reached(limits.signals) => {
                tried.outcome = Outcome::Interrupted;
                None
            }
        };
        tried.output = shell.printed();
        tried.exit = code;
        let Some(code) = code else {
            shell.kill();
            if tried.outcome != Outcome::Interrupted {
                tried.fail(format!("it hung, and was killed when its {timeout:?} were over"));
            }
            break;
        };
        match refusal(&block.attributes, code, &tried.output) {
            None => {
                tried.outcome = Outcome::Passed;
                shell.save().await?;
                break;
            }
            Some(why) => tried.fail(why),
        }
        pause = match block.attributes.retry {
            Retry::No => break,
            Retry::After(pause) => pause,
            Retry::Growing => pause,
        };
        if Instant::now() + pause >= until {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = limits.stop.reached(limits.signals) => {
                tried.outcome = Outcome::Interrupted;
                break;
            }
        }
        pause = (pause * 2).min(PAUSES[1]);
    }
    tried.took = began.elapsed();
    Ok(tried)
}

/// Ends a block in the background, and looks at what it has done.
pub(crate) async fn end(shell: &mut Shell, block: &Block, background: Background) -> Result<Tried> {
    let began = Instant::now();
    let mut tried = Tried::begun(Section::Run, block.line);
    tried.tries = 1;
    (tried.exit, tried.output) = shell.end(background).await?;
    let code = match (block.attributes.exit, tried.exit) {
        (Exit::Unsaid, _) => 0,
        (_, code) => code.unwrap_or(137),
    };
    match refusal(&block.attributes, code, &tried.output) {
        None => tried.outcome = Outcome::Passed,
        Some(why) => tried.fail(why),
    }
    tried.took = began.elapsed();
    Ok(tried)
}

/// Why a try is no success.
fn refusal(attributes: &Attributes, code: i32, output: &str) -> Option<String> {
    let is_good = match attributes.exit {
        Exit::Unsaid => code == 0,
        Exit::Code(wanted) => code == wanted,
        Exit::NonZero => code != 0,
    };
    let wanted = match attributes.exit {
        Exit::Unsaid => "0".to_string(),
        Exit::Code(wanted) => wanted.to_string(),
        Exit::NonZero => "another than 0".to_string(),
    };
    if !is_good {
        return Some(format!("its exit code was {code}, not {wanted}"));
    }
    let expect = attributes.expect.as_ref()?;
    let text = format!("it did not print {:?}", expect.as_str());
    (!expect.is_match(output)).then_some(text)
}
