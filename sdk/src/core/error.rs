// SPDX-License-Identifier: Apache-2.0
//! What went wrong, where on the path, and whether trying again can help.

use std::borrow::Cow;
use std::fmt;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// Trailing metadata that carries [`Error::reason`] between hops.
const REASON_KEY: &str = "nsm-reason";

/// The result of everything that an element does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call: a gRPC code, a stable reason, a text for people and the elements and hops it passed.
///
/// The reason is a kebab-case word (`no-endpoint`, `netns-gone`) that tests, metrics and callers may rely
/// on; the text may change. Displays as `hop/element: text`.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    code: Code,
    reason: Cow<'static, str>,
    text: String,
    trail: Option<Cow<'static, str>>,
}

/// Whether the same call may succeed when it is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The state that it met has passed; try at once.
    Now,
    /// Something is missing that may come; back off.
    Later,
    /// The caller must change the call first.
    Never,
}

impl Error {
    /// An error of its own: `reason` is a stable kebab-case word, `text` says what was tried, with its
    /// identifiers, in lower case and without a full stop.
    pub fn new(code: Code, reason: &'static str, text: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            reason: Cow::Borrowed(reason),
            text: text.into(),
            trail: None,
        }))
    }

    /// The caller sent something that can never work.
    pub fn invalid(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, reason, text)
    }

    /// What the call needs is not there now.
    pub fn unavailable(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, reason, text)
    }

    /// The object that the call names does not exist.
    pub fn not_found(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(Code::NotFound, reason, text)
    }

    /// The caller may not do this.
    pub fn denied(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(Code::PermissionDenied, reason, text)
    }

    /// A limit of this process or of its configuration is reached.
    pub fn exhausted(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(Code::ResourceExhausted, reason, text)
    }

    /// The time that the caller gave has passed.
    pub fn deadline(text: impl Into<String>) -> Self {
        Self::new(Code::DeadlineExceeded, "deadline", text)
    }

    /// A fault on our side of the contract.
    pub fn internal(reason: &'static str, text: impl Into<String>) -> Self {
        Self::new(Code::Internal, reason, text)
    }

    /// The gRPC code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable word for what happened.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// The text without the places it passed.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Where it first happened, if it has passed an element yet.
    pub fn place(&self) -> Option<&str> {
        self.0.trail.as_deref()
    }

    /// Names the place, unless an inner place is named already: the innermost one is where to look.
    #[must_use]
    pub fn at(mut self, place: &'static str) -> Self {
        self.0.trail.get_or_insert(Cow::Borrowed(place));
        self
    }

    /// The same error with `context` before its text; code and reason stay.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.text = format!("{context}: {}", self.0.text);
        self
    }

    /// The same error for another reason; code, text and place stay.
    #[must_use]
    pub(crate) fn because(mut self, reason: &'static str) -> Self {
        self.0.reason = Cow::Borrowed(reason);
        self
    }

    /// The same error with another text; code, reason and place stay.
    #[must_use]
    pub(crate) fn with_text(mut self, text: String) -> Self {
        self.0.text = text;
        self
    }

    /// Whether making the call again can help.
    pub fn retry(&self) -> Retry {
        match self.code() {
            Code::Aborted => Retry::Now,
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::OutOfRange
            | Code::AlreadyExists => Retry::Never,
            _ => Retry::Later,
        }
    }

    /// What the caller of the hop `hop` is told.
    pub fn to_status(&self, hop: &str) -> Status {
        let text = match self.place() {
            Some(place) => format!("{hop}/{place}: {}", self.text()),
            None => format!("{hop}: {}", self.text()),
        };
        let mut metadata = MetadataMap::new();
        if let Ok(reason) = self.reason().parse() {
            metadata.insert(REASON_KEY, reason);
        }
        Status::with_metadata(self.code(), text, metadata)
    }
}

impl From<Status> for Error {
    /// The peer's answer keeps its code, its text (which names the peer) and, from peers of ours, its reason.
    fn from(status: Status) -> Self {
        let reason = status
            .metadata()
            .get(REASON_KEY)
            .and_then(|value| value.to_str().ok());
        let reason = reason.map_or(Cow::Borrowed("peer"), |reason| Cow::Owned(reason.to_string()));
        Self(Box::new(Inner {
            code: status.code(),
            reason,
            text: status.message().to_string(),
            trail: Some(Cow::Borrowed("connect")),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place() {
            Some(place) => write!(f, "{place}: {}", self.text()),
            None => f.write_str(self.text()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} [{}] {self}", self.code(), self.reason())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_reason_survive_a_hop() {
        let error = Error::exhausted("pool-empty", "no address left in 10.0.0.0/30").at("point2point");
        let status = error.to_status("nse-1");
        assert_eq!(
            status.message(),
            "nse-1/point2point: no address left in 10.0.0.0/30"
        );
        let received = Error::from(status);
        assert_eq!(
            (received.code(), received.reason()),
            (Code::ResourceExhausted, "pool-empty")
        );
    }

    #[test]
    fn the_innermost_place_is_kept() {
        let error = Error::internal("boom", "it broke").at("inner").at("outer");
        assert_eq!(error.to_string(), "inner: it broke");
    }
}
