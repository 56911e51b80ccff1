// SPDX-License-Identifier: Apache-2.0
//! Where a call is in a trace, and the spans of a program, for whoever exports them.
//!
//! **Guarantees**: nothing is noted, and nothing costs more than a look, until somebody switches it on; the context of a
//! caller is passed on also then, so that a program that notes nothing does not tear a trace. What nobody has taken
//! waits in one queue of [`MAX_WAITING`] spans; beyond, spans are dropped and counted. No call ever waits for it.
//! **Cost**: one look a call; where spans are noted, two readings of the clock, one short lock, and some 300 bytes until
//! the span was taken.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::Notify;

use super::meters::{Family, Kind};
use super::{Component, Error, Result};

/// How many spans wait for whoever takes them.
pub const MAX_WAITING: usize = 2048;

/// How many wait until that one is told.
const MANY: usize = MAX_WAITING / 4;

/// The longest text of an error that a span has, bytes.
const MAX_TEXT: usize = 512;

/// Spans that were dropped.
pub static DROPPED: Family = Family {
    name: "nsm_spans_dropped_total",
    help: "Spans that no collector has got: the queue was full, it was away for too long, or it refused them.",
    kind: Kind::Counter,
    labels: &["cause"],
};

/// Where a call is in a trace (W3C Trace Context, version 00).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub trace: [u8; 16],
    /// The span that the call is in.
    pub span: [u8; 8],
    /// Whether somebody notes it, and what else the caller has to say of it.
    pub flags: u8,
}

/// The flag that says that the trace is noted.
pub const SAMPLED: u8 = 1;

impl Trace {
    /// Reads the header `traceparent`; nothing when it is none, or has no ids.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let [version] = bytes(version)?;
        // A later version may say more behind what this one says.
        if version == 0xff || version == 0 && parts.next().is_some() {
            return None;
        }
        let (trace, span, [flags]) = (bytes(trace)?, bytes(span)?, bytes(flags)?);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

/// So many bytes in lower-case hexadecimal.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    let digit = |at: usize| match digits.get(at) {
        Some(digit @ b'0'..=b'9') => Some(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = digit(at * 2)? << 4 | digit(at * 2 + 1)?;
    }
    (digits.len() == N * 2).then_some(bytes)
}

/// Which side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who is called.
    Server,
    /// Who calls.
    Client,
}

/// One side of a call that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace, and the span's own id.
    pub own: Trace,
    /// The span that it is part of; nothing when it is the first.
    pub parent: Option<[u8; 8]>,
    /// Which side it is.
    pub side: Side,
    /// The call as gRPC names it: `package.Service/Method`.
    pub name: &'static str,
    /// The id of what was requested or closed; empty where there is none.
    pub id: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Ok,
    /// With an error.
    Error {
        /// Its gRPC code.
        code: tonic::Code,
        /// Its reason.
        reason: String,
        /// Its text, not all of a long one.
        text: String,
    },
    /// Nobody waited for its end.
    Left,
}

/// The spans of a program. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub struct Spans(Arc<Inner>);

#[derive(Default)]
struct Inner {
    is_on: AtomicBool,
    waiting: Mutex<VecDeque<Span>>,
    many: Notify,
}

/// A span of a call that is under way; it ends when this is dropped, if not before.
#[derive(Debug)]
#[must_use = "a span ends when it is dropped"]
pub struct Underway {
    component: Component,
    span: Option<Span>,
}

impl Spans {
    /// Notes spans from now on.
    pub fn switch_on(&self) {
        self.0.is_on.store(true, Ordering::Relaxed);
    }

    /// Whether spans are noted.
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    /// Takes at most so many of those that have waited longest.
    pub fn take(&self, at_most: usize) -> Vec<Span> {
        let mut waiting = self.0.waiting.lock();
        let count = waiting.len().min(at_most);
        waiting.drain(..count).collect()
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.0.waiting.lock().len()
    }

    /// Waits until many have come since they were last taken.
    pub async fn many(&self) {
        self.0.many.notified().await;
    }

    /// Whether it was kept.
    fn keep(&self, span: Span) -> bool {
        let mut waiting = self.0.waiting.lock();
        if waiting.len() >= MAX_WAITING {
            return false;
        }
        waiting.push_back(span);
        if waiting.len() == MANY {
            self.0.many.notify_one();
        }
        true
    }
}

impl Underway {
    /// Begins one, in the trace of `parent` or in a new one; nothing when nothing is noted.
    pub(super) fn begin(
        component: &Component,
        parent: Option<Trace>,
        side: Side,
        name: &'static str,
    ) -> Option<Self> {
        if !component.spans().is_on() {
            return None;
        }
        let (trace, span) = component.random(|random| {
            let trace = parent.map_or_else(|| random.random(), |parent| parent.trace);
            (trace, random.random())
        });
        let now = component.now();
        let span = Span {
            own: Trace {
                trace,
                span,
                flags: SAMPLED,
            },
            parent: parent.map(|parent| parent.span),
            side,
            name,
            id: String::new(),
            began: now,
            ended: now,
            outcome: Outcome::Left,
        };
        Some(Self {
            component: component.clone(),
            span: Some(span),
        })
    }

    /// Where what it is about is in the trace.
    pub(super) fn trace(&self) -> Option<Trace> {
        self.span.as_ref().map(|span| span.own)
    }

    /// It has ended so, and was about what has this id.
    pub fn end<T>(mut self, id: &str, done: &Result<T>) {
        if let Some(span) = &mut self.span {
            span.id = id.to_string();
            span.outcome = match done {
                Ok(_) => Outcome::Ok,
                Err(error) => Outcome::of(error),
            };
        }
    }
}

impl Outcome {
    fn of(error: &Error) -> Self {
        let mut text = error.to_string();
        let end = (0..=MAX_TEXT.min(text.len())).rfind(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        Self::Error {
            code: error.code(),
            reason: error.reason().to_string(),
            text,
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let Some(mut span) = self.span.take() else {
            return;
        };
        span.ended = self.component.now();
        if !self.component.spans().keep(span) {
            self.component.meters().add(&DROPPED, &["queue-full"], 1);
        }
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans")
            .field("is_on", &self.is_on())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_header_is_read_and_written_as_the_standard_says() {
        let trace = Trace::parse(HEADER).expect("it is one");
        assert_eq!((trace.trace[0], trace.span[7], trace.flags), (0x0a, 0x31, 1));
        assert_eq!(trace.to_string(), HEADER);
        let later = HEADER.replacen("00", "cc", 1) + "-more";
        assert_eq!(Trace::parse(&later).map(|trace| trace.span), Some(trace.span));
    }

    #[test]
    fn what_is_no_header_is_none() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c0-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad}");
        }
    }

    fn noted(component: &Component, parent: Option<Trace>) -> Option<Underway> {
        Underway::begin(component, parent, Side::Server, "a.B/C")
    }

    #[test]
    fn nothing_is_noted_until_somebody_wants_it() {
        let component = Component::new("test");
        assert!(noted(&component, None).is_none());
        assert!(component.spans().take(9).is_empty());
    }

    #[test]
    fn a_span_is_part_of_what_its_caller_is_in() {
        let component = Component::new("test");
        component.spans().switch_on();
        let parent = Trace::parse(HEADER);
        noted(&component, parent)
            .expect("it is noted")
            .end("id-1", &Ok(()));
        let error = Error::invalid("bad-thing", "ü".repeat(MAX_TEXT));
        noted(&component, None)
            .expect("it is noted")
            .end("", &Err::<(), _>(error));
        drop(noted(&component, None));
        let spans = component.spans().take(9);
        assert_eq!(spans[0].own.trace, parent.expect("it is one").trace);
        assert_eq!(spans[0].parent, parent.map(|parent| parent.span));
        assert_eq!((spans[0].id.as_str(), &spans[0].outcome), ("id-1", &Outcome::Ok));
        assert!(spans[1].parent.is_none() && spans[1].own.trace != spans[0].own.trace);
        let Outcome::Error { reason, text, .. } = &spans[1].outcome else {
            panic!("{:?}", spans[1]);
        };
        assert!(reason == "bad-thing" && text.len() <= MAX_TEXT, "{text}");
        assert_eq!(spans[2].outcome, Outcome::Left);
    }

    #[tokio::test]
    async fn what_nobody_takes_is_dropped_and_counted() {
        let component = Component::new("test");
        component.spans().switch_on();
        component.meters().switch_on();
        for _ in 0..MAX_WAITING + 3 {
            drop(noted(&component, None));
        }
        component.spans().many().await;
        assert!(
            component
                .meters()
                .text()
                .contains("nsm_spans_dropped_total{cause=\"queue-full\"} 3\n")
        );
        assert_eq!(component.spans().take(usize::MAX).len(), MAX_WAITING);
        drop(noted(&component, None));
        assert_eq!(component.spans().take(9).len(), 1, "there is room again");
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read_without_harm(header in "\\PC{0,80}|[0-9a-f-]{40,70}") {
            if let Some(trace) = Trace::parse(&header) {
                proptest::prop_assert!(header.starts_with("00") && trace.to_string() == header || !header.starts_with("00"));
            }
        }
    }
}
