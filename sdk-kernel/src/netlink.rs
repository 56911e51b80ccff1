// SPDX-License-Identifier: Apache-2.0
//! Requests to the kernel over netlink: several in one `send`, each answered, errors in words.
//!
//! **Guarantees**: every request of a batch is executed, in order, and has an answer of its own: one that fails does
//! not stop those behind it. Answers carry the kernel's own explanation (`NETLINK_EXT_ACK`) where it gives one.
//! **Placement**: only on threads of our own, since the kernel executes a request inside `send` and may sleep there.
//! **Cost**: opening a socket 10 µs, then two system calls for up to [`MAX_BATCH`] requests. A socket keeps the
//! namespace alive in which it was opened: close it when the work is done.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::answer::{Messages, NLMSG_DONE, NLMSG_ERROR, Refusal};

/// How many requests go out in one `send`: their answers must fit the socket's receive buffer.
pub(crate) const MAX_BATCH: usize = 64;

/// How often a dump is taken again that the kernel says was changed meanwhile.
const MAX_DUMPS: usize = 4;

/// How long an answer may take that should be there when `send` returns.
const PATIENCE: Duration = Duration::from_secs(5);

/// The room for one datagram of the kernel's; dumps come in datagrams of at most 32 KiB.
const DATAGRAM: usize = 64 * 1024;

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

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    use rustix::io::Errno;

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
}
