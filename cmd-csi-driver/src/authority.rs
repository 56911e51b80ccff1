// SPDX-License-Identifier: Apache-2.0
//! Connections of kubelets, whose requests name an authority that is none.
//!
//! A gRPC client in Go that dials a socket by its path alone sends that path as `:authority`, escaped by percent signs, and
//! a server in Rust refuses the request as malformed (RFC 3986, 3.2.2 gives it the right to). Nobody asks for the
//! authority here, so it is replaced on the way in.
//!
//! **Guarantees**: only the value of that field in a HEADERS frame changes (RFC 9113, 6.2). The new value is shorter, so that
//! the table of fields on our side holds all that the peer may refer to (RFC 7541, 4.1). What is not understood passes as
//! it is.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// What the authority becomes, with its length in front.
const LOCALHOST: &[u8] = b"\x09localhost";

/// How long a value is at least that is certainly longer than that: no letter takes more than 30 bits (RFC 7541, B).
const LONG: usize = 34;

/// What a client says first (RFC 9113, 3.4).
const PREFACE: usize = 24;

/// The length of a frame's head, and the largest frame that a server takes that has not asked for more.
const HEAD: usize = 9;
const LARGEST: usize = 16_384;

const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// How much is read at once.
const CHUNK: usize = 4096;

/// A connection with a kubelet.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: S,
    frames: Frames,
    /// What is to be read, and how much of it has been.
    ready: Vec<u8>,
    taken: usize,
}

impl<S> Connection<S> {
    /// The one on this stream.
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::default(),
            ready: Vec::new(),
            taken: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let us = self.get_mut();
        while us.taken == us.ready.len() {
            let mut chunk = [0; CHUNK];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut us.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            us.ready.clear();
            us.taken = 0;
            us.frames.pass(read.filled(), &mut us.ready);
        }
        let rest = us.ready.get(us.taken..).unwrap_or_default();
        let some = rest.get(..rest.len().min(buffer.remaining())).unwrap_or_default();
        buffer.put_slice(some);
        us.taken += some.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for Connection<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

/// What a client sends, cut into frames.
#[derive(Debug)]
struct Frames {
    /// How much passes as it is before the next frame.
    passing: usize,
    /// A frame that is not complete yet.
    frame: Vec<u8>,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            passing: PREFACE,
            frame: Vec::new(),
        }
    }
}

impl Frames {
    /// Takes what has come, and adds to `out` what is complete.
    fn pass(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let wanted = match self.passing {
                0 => self.wanted(),
                passing => passing,
            };
            let (now, later) = bytes.split_at(wanted.min(bytes.len()));
            bytes = later;
            if self.passing > 0 {
                self.passing -= now.len();
                out.extend_from_slice(now);
                continue;
            }
            self.frame.extend_from_slice(now);
            if now.len() == wanted {
                self.complete(out);
            }
        }
    }

    /// How many bytes are missing of the head, or of the frame.
    fn wanted(&self) -> usize {
        match payload(&self.frame) {
            Some(length) => HEAD + length - self.frame.len(),
            None => HEAD - self.frame.len(),
        }
    }

    /// Passes on what is complete: the head of a frame that does not matter, or all of one that does.
    fn complete(&mut self, out: &mut Vec<u8>) {
        let length = payload(&self.frame).unwrap_or_default();
        let matters = self.frame.get(3) == Some(&HEADERS) && length <= LARGEST;
        if matters && self.frame.len() < HEAD + length {
            return;
        }
        if matters {
            replace(&mut self.frame);
        } else {
            self.passing = length;
        }
        out.append(&mut self.frame);
    }
}

/// The length that the head of a frame tells, if it is complete.
fn payload(frame: &[u8]) -> Option<usize> {
    match frame {
        [a, b, c, ..] if frame.len() >= HEAD => {
            Some(usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c))
        }
        _ => None,
    }
}

/// Replaces the authority in a HEADERS frame, if there is one that is long.
fn replace(frame: &mut Vec<u8>) {
    let Some(value) = fields(frame).and_then(|fields| authority(frame, fields)) else {
        return;
    };
    frame.splice(value, LOCALHOST.iter().copied());
    let length = frame.len() - HEAD;
    for (byte, shift) in frame.iter_mut().zip([16, 8, 0]) {
        *byte = (length >> shift) as u8;
    }
}

/// Where the fields are in a HEADERS frame, between what its flags say is there besides.
fn fields(frame: &[u8]) -> Option<Range<usize>> {
    let flags = *frame.get(4)?;
    let (mut start, mut end) = (HEAD, frame.len());
    if flags & PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & PRIORITY != 0 {
        start += 5;
    }
    (start <= end).then_some(start..end)
}

/// Where the value of the authority is, with its length, if it is told as a literal (RFC 7541, 6) and is long.
fn authority(frame: &[u8], fields: Range<usize>) -> Option<Range<usize>> {
    let mut reader = Reader {
        bytes: frame.get(..fields.end)?,
        at: fields.start,
    };
    while reader.at < fields.end {
        let first = *reader.bytes.get(reader.at)?;
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = reader.number(prefix)?;
        if matches!(first, 0x80.. | 0x20..=0x3f) {
            continue;
        }
        if index == 0 {
            reader.text()?;
        }
        let (start, length) = (reader.at, reader.text()?);
        // The first name of the table that every connection has (RFC 7541, A).
        if index == 1 {
            return (length >= LONG).then_some(start..reader.at);
        }
    }
    None
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// A number that begins in the last `prefix` bits of the next byte (RFC 7541, 5.1).
    fn number(&mut self, prefix: u8) -> Option<usize> {
        let most = (1 << prefix) - 1;
        let mut number = usize::from(self.byte()?) & most;
        if number < most {
            return Some(number);
        }
        for shift in [0, 7, 14] {
            let byte = usize::from(self.byte()?);
            number += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// Passes a text. Returns how many bytes it takes.
    fn text(&mut self) -> Option<usize> {
        let length = self.number(7)?;
        self.at += length;
        (self.at <= self.bytes.len()).then_some(length)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &[u8] = b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn text(value: &[u8]) -> Vec<u8> {
        [&[u8::try_from(value.len()).expect("short")], value].concat()
    }

    /// Fields as a client in Go sends them: method, scheme, path, authority, and one with a name of its own.
    fn fields(authority: &[u8]) -> Vec<u8> {
        let (path, own) = (
            text(b"/csi.v1.Identity/Probe"),
            [text(b"te"), text(b"trailers")].concat(),
        );
        [&b"\x83\x86\x44"[..], &path, b"\x41", authority, b"\x40", &own].concat()
    }

    fn pass(bytes: &[u8], at_once: usize) -> Vec<u8> {
        let (mut frames, mut out) = (Frames::default(), Vec::new());
        for chunk in bytes.chunks(at_once) {
            frames.pass(chunk, &mut out);
        }
        out
    }

    #[test]
    fn a_path_in_place_of_the_authority_is_replaced_and_nothing_else_changes() {
        let (preface, settings, data) = ([7; PREFACE], frame(4, 0, &[1; 12]), frame(0, 1, b"\x41%2F"));
        let told = |fields: &[u8]| {
            let headers = frame(HEADERS, 4, fields);
            [&preface[..], &settings, &headers, &data, &headers].concat()
        };
        let (given, expected) = (told(&fields(&text(PATH))), told(&fields(LOCALHOST)));
        for at_once in [1, 10, given.len()] {
            assert_eq!(pass(&given, at_once), expected);
        }
        let short = told(&fields(&text(b"localhost")));
        assert_eq!(pass(&short, 3), short);
    }

    #[test]
    fn padding_and_priority_are_left_where_they_are() {
        let padded = |fields: &[u8]| {
            let payload = [&[3, 0, 0, 0, 0, 16], fields, &[0; 3]].concat();
            [
                &[7; PREFACE][..],
                &frame(HEADERS, 4 | PADDED | PRIORITY, &payload),
            ]
            .concat()
        };
        let (given, expected) = (padded(&fields(&text(PATH))), padded(&fields(LOCALHOST)));
        assert_eq!(pass(&given, given.len()), expected);
    }

    #[test]
    fn what_is_not_understood_passes_as_it_is() {
        for payload in [
            &b""[..],
            b"\x41",
            b"\x41\x7f",
            b"\x41\x7f\xff\xff\xff\xff\xff",
            b"\x40\x7f\x01",
            b"\xff\xff\xff\xff\xff\xff",
        ] {
            for flags in [0, PADDED, PRIORITY] {
                let given = [&[7; PREFACE][..], &frame(HEADERS, flags, payload)].concat();
                assert_eq!(pass(&given, 5), given);
            }
        }
        let too_large = [&[7; PREFACE][..], &frame(HEADERS, 4, &[0x41; LARGEST + 1])].concat();
        assert_eq!(pass(&too_large, 1000), too_large);
    }
}
