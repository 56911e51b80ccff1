// SPDX-License-Identifier: Apache-2.0
//! Requests to the kernel over netlink: several in one `send`, each answered, errors in words.
//!
//! **Guarantees**: every request of a batch is executed, in order, and has an answer of its own: one that fails does
//! not stop those behind it. Answers carry the kernel's own explanation (`NETLINK_EXT_ACK`) where it gives one.
//! **Placement**: only on threads of our own, since the kernel executes a request inside `send` and may sleep there.
//! **Cost**: opening a socket 10 µs, then two system calls for up to [`MAX_BATCH`] requests. A socket keeps the
//! namespace alive in which it was opened: close it when the work is done.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

/// How many requests go out in one `send`: their answers must fit the socket's receive buffer.
pub(crate) const MAX_BATCH: usize = 64;

/// How often a dump is taken again that the kernel says was changed meanwhile.
const MAX_DUMPS: usize = 4;

/// How long an answer may take that should be there when `send` returns.
const PATIENCE: Duration = Duration::from_secs(5);

/// The room for one datagram of the kernel's; dumps come in datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// How many requests this process has sent to the kernel.
static SENT: AtomicU64 = AtomicU64::new(0);

/// How many requests this process has sent to the kernel since it started.
pub(crate) fn sent() -> u64 {
    SENT.load(Ordering::Relaxed)
}

/// One request and how it is meant.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Request {
    /// Makes something that must not be there yet.
    pub(crate) fn create(message: RouteNetlinkMessage) -> Self {
        Self::with(message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes something, or makes what is there so.
    pub(crate) fn replace(message: RouteNetlinkMessage) -> Self {
        Self::with(message, NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Changes or removes something, or asks for one thing.
    pub(crate) fn plain(message: RouteNetlinkMessage) -> Self {
        Self::with(message, 0)
    }

    fn with(message: RouteNetlinkMessage, flags: u16) -> Self {
        Self { message, flags }
    }
}

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

/// What one request came to: the message that answers it, if it asked for one.
pub(crate) type Answer = Result<Option<Vec<u8>>, Refusal>;

/// A netlink socket in the namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        // Lets the kernel filter dumps; before 4.20 it does not know this, and we filter again anyway.
        let _ = socket.set_netlink_get_strict_chk(true);
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
            outgoing: Vec::new(),
            incoming: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Has all `requests` executed in order. The answers are in the same order and as many.
    pub(crate) fn batch(&mut self, requests: Vec<Request>) -> io::Result<Vec<Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        let mut rest = requests.into_iter().peekable();
        while rest.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            let count = self.write(rest.by_ref().take(MAX_BATCH), NLM_F_ACK);
            self.send()?;
            self.collect(first, count, &mut answers)?;
        }
        Ok(answers)
    }

    /// Has one request executed.
    pub(crate) fn execute(&mut self, request: Request) -> io::Result<Answer> {
        let mut answers = self.batch(vec![request])?;
        answers
            .pop()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Everything of one kind: hands each message's type and body to `take`.
    pub(crate) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Result<(), Refusal>> {
        let mut found = Vec::new();
        for _ in 0..MAX_DUMPS {
            found.clear();
            let request = Request::with(message.clone(), NLM_F_DUMP);
            self.write(std::iter::once(request), 0);
            self.send()?;
            match self.collect_dump(&mut found)? {
                Ok(false) => break,
                Ok(true) => {}
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        for body in &found {
            take(body);
        }
        Ok(Ok(()))
    }

    /// Puts `requests` into the outgoing buffer, and returns how many they were.
    fn write(&mut self, requests: impl Iterator<Item = Request>, flags: u16) -> usize {
        self.outgoing.clear();
        let mut count = 0;
        for request in requests {
            let mut message = NetlinkMessage::from(request.message);
            self.sequence = self.sequence.wrapping_add(1);
            message.header.sequence_number = self.sequence;
            message.header.flags = NLM_F_REQUEST | flags | request.flags;
            message.finalize();
            let start = self.outgoing.len();
            let length = message.buffer_len();
            self.outgoing.resize((start + length).next_multiple_of(4), 0);
            message.serialize(&mut self.outgoing[start..start + length]);
            count += 1;
        }
        SENT.fetch_add(count as u64, Ordering::Relaxed);
        count
    }

    fn send(&mut self) -> io::Result<()> {
        loop {
            match self.socket.send(&self.outgoing, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.incoming.clear();
            match self.socket.recv(&mut self.incoming, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Reads until each of the `count` requests from number `first` on is acknowledged.
    fn collect(&mut self, first: u32, count: usize, answers: &mut Vec<Answer>) -> io::Result<()> {
        let start = answers.len();
        answers.resize(start + count, Ok(None));
        let mut missing = count;
        while missing > 0 {
            self.receive()?;
            for message in Messages(&self.incoming) {
                let index = message.sequence.wrapping_sub(first) as usize;
                let Some(answer) = answers
                    .get_mut(start..)
                    .and_then(|answers| answers.get_mut(index))
                else {
                    continue;
                };
                if message.kind == NLMSG_ERROR {
                    missing -= 1;
                    if let Err(refusal) = message.acknowledgement() {
                        *answer = Err(refusal);
                    }
                } else {
                    *answer = Ok(Some(message.body.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Reads to the end of a dump. True: it was changed meanwhile and is to be taken again.
    fn collect_dump(&mut self, found: &mut Vec<Vec<u8>>) -> io::Result<Result<bool, Refusal>> {
        let mut interrupted = false;
        loop {
            self.receive()?;
            for message in Messages(&self.incoming) {
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_ERROR => return Ok(message.acknowledgement().map(|()| interrupted)),
                    NLMSG_DONE => return Ok(message.acknowledgement().map(|()| interrupted)),
                    _ => found.push(message.body.to_vec()),
                }
            }
        }
    }
}

/// One message of the kernel's.
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    flags: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// What an acknowledgement, or the end of a dump, says.
    fn acknowledgement(&self) -> Result<(), Refusal> {
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
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use super::*;

    fn named(name: &str) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        message
    }

    #[test]
    fn each_request_of_a_batch_has_its_own_answer() {
        let mut netlink = Netlink::open().expect("opens");
        let requests = ["lo", "no-such-link", "lo"]
            .map(|name| Request::plain(RouteNetlinkMessage::GetLink(named(name))));
        let answers = netlink.batch(requests.into()).expect("answered");
        assert!(matches!(answers[0], Ok(Some(_))));
        assert_eq!(answers[1].as_ref().expect_err("none").errno, Errno::NODEV);
        assert!(matches!(answers[2], Ok(Some(_))));
    }

    #[test]
    fn more_requests_than_fit_one_datagram_are_all_answered() {
        let mut netlink = Netlink::open().expect("opens");
        let requests = vec![Request::plain(RouteNetlinkMessage::GetLink(named("lo"))); 3 * MAX_BATCH + 1];
        let answers = netlink.batch(requests).expect("answered");
        assert_eq!(answers.len(), 3 * MAX_BATCH + 1);
        assert!(answers.iter().all(Result::is_ok));
    }

    #[test]
    fn a_dump_is_whole() {
        let mut netlink = Netlink::open().expect("opens");
        let mut links = 0;
        netlink
            .dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), |_| {
                links += 1
            })
            .expect("answered")
            .expect("allowed");
        assert!(links >= 1);
    }

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
