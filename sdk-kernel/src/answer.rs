// SPDX-License-Identifier: Apache-2.0
//! What the kernel sends over netlink: messages, and its explanation when it refuses something.
//!
//! **Guarantees**: bytes that lie about their length end the reading, they do not stop the program.

use std::fmt;

use netlink_packet_core::NlasIterator;
use rustix::io::Errno;

/// The kinds of messages that acknowledge a request and end a dump, from `linux/netlink.h`.
pub(crate) const NLMSG_ERROR: u16 = 2;
pub(crate) const NLMSG_DONE: u16 = 3;

const HEADER: usize = 16;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The kernel's no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Why, as a number.
    pub(crate) errno: Errno,
    /// Why, in the kernel's words.
    pub(crate) text: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{} ({text})", self.errno),
            None => write!(f, "{}", self.errno),
        }
    }
}

/// One message of the kernel's.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// What an acknowledgement, or the end of a dump, says.
    pub(crate) fn acknowledgement(&self) -> Result<(), Refusal> {
        let number = self
            .body
            .first_chunk()
            .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        // An error is a negative number; the end of a dump may carry a positive one.
        if number >= 0 {
            return Ok(());
        }
        Err(Refusal {
            errno: Errno::from_raw_os_error(number.wrapping_neg()),
            text: self.explanation(),
        })
    }

    fn explanation(&self) -> Option<String> {
        if self.flags & NLM_F_ACK_TLVS == 0 {
            return None;
        }
        let after_errno = self.body.get(4..)?;
        let attributes = if self.kind == NLMSG_DONE {
            after_errno
        } else {
            // The request's header follows, and all of the request unless the kernel says that it cut it.
            let length = u32::from_ne_bytes(*after_errno.first_chunk()?) as usize;
            let echoed = if self.flags & NLM_F_CAPPED != 0 {
                HEADER
            } else {
                length
            };
            after_errno.get(echoed.next_multiple_of(4)..)?
        };
        NlasIterator::new(attributes)
            .flatten()
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
            .map(|attribute| {
                let text = String::from_utf8_lossy(attribute.value());
                text.trim_end_matches(['\0', '.']).to_string()
            })
    }
}

/// The messages of one datagram. Ends at the first that is not whole.
pub(crate) struct Messages<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let header: &[u8; HEADER] = self.0.first_chunk()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lying_lengths_end_a_datagram() {
        for length in [0_u32, 15, 17, u32::MAX] {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.resize(16, 0);
            assert_eq!(Messages(&bytes).count(), 0, "length {length}");
        }
        assert_eq!(Messages(&[1, 2, 3]).count(), 0);
    }

    #[test]
    fn a_cut_acknowledgement_is_no_panic() {
        for flags in [0, NLM_F_ACK_TLVS, NLM_F_ACK_TLVS | NLM_F_CAPPED] {
            for length in 0..40 {
                let body = vec![0xff; length];
                let message = Message {
                    kind: NLMSG_ERROR,
                    flags,
                    sequence: 0,
                    body: &body,
                };
                let _ = message.acknowledgement();
            }
        }
    }
}
