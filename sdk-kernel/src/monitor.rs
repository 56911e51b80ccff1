// SPDX-License-Identifier: Apache-2.0
//! Hears from the kernel what others do to our interfaces, in every namespace at once.
//!
//! **Guarantees**: whatever was done before [`Monitor::hear`] is called is noted when it returns: an interface of
//! ours that was removed, renamed or taken down, or lost an address, makes its wire broken. What cannot be told
//! (the kernel dropped reports) makes all wires broken, which costs a look at each, and nothing else.
//! **Cost**: 0.3 µs when nothing happened; one map look-up for every event of the node.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

use crate::answer::{Message, Messages};
use crate::netlink::{Netlink, Request};
use crate::netns::{Netns, NetnsId};
use crate::report::{self, RTM_DELADDR, RTM_DELLINK, RTM_DELNSID, RTM_NEWLINK};
use crate::shared::Shared;
use crate::state::State;

/// The groups of `linux/rtnetlink.h` that tell of links, addresses and namespaces.
pub(crate) const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_NSID: u32 = 28;

const NETNSA_NSID: u16 = 1;

/// The room for reports between two times that we listen: about two thousand.
const BUFFER: usize = 4 << 20;

/// The room for one report.
pub(crate) const DATAGRAM: usize = 32 << 10;

/// See the [module](self).
pub(crate) struct Monitor {
    /// Reports on links and addresses, from every namespace.
    socket: Arc<Socket>,
    /// Reports on namespaces, from our own only: the numbers that it gives them are valid nowhere else.
    spaces: Arc<Socket>,
    heard: Mutex<Heard>,
}

struct Heard {
    buffer: Vec<u8>,
    /// The namespaces that the kernel reports from, by the numbers that it gave them for us.
    spaces: HashMap<i32, NetnsId>,
    /// The same namespaces.
    watched: HashSet<NetnsId>,
}

impl Monitor {
    /// Opens the sockets, in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let everywhere = subscribe(true, &[RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR])?;
        let heard = Heard {
            buffer: Vec::with_capacity(DATAGRAM),
            spaces: HashMap::new(),
            watched: HashSet::new(),
        };
        Ok(Self {
            socket: Arc::new(everywhere),
            spaces: Arc::new(subscribe(false, &[RTNLGRP_NSID])?),
            heard: Mutex::new(heard),
        })
    }

    /// Has the kernel report from `netns`. `node` is a socket in our own namespace. False: it will not.
    pub(crate) fn watch(&self, node: &mut Netlink, netns: &Netns) -> bool {
        if self.heard.lock().watched.contains(&netns.id()) {
            return true;
        }
        match number(node, netns) {
            Ok(Some(number)) => {
                let mut heard = self.heard.lock();
                heard.spaces.insert(number, netns.id());
                heard.watched.insert(netns.id());
                true
            }
            refusal => {
                tracing::warn!(?refusal, netns = %netns.id(), "no reports from this namespace: refreshes will look");
                false
            }
        }
    }

    /// Takes note of all reports until now.
    pub(crate) fn hear(&self, state: &mut State, lost: &broadcast::Sender<String>) {
        let mut heard = self.heard.lock();
        let Heard {
            buffer,
            spaces,
            watched,
        } = &mut *heard;
        for socket in [&self.socket, &self.spaces] {
            let whole = read(socket, buffer, |message| match message.kind {
                RTM_NEWLINK | RTM_DELLINK => report::link(message, state, lost),
                RTM_DELADDR => report::address(message.body, state),
                RTM_DELNSID => {
                    if let Some(netns) = nsid(message.body).and_then(|number| spaces.remove(&number)) {
                        watched.remove(&netns);
                        report::end(netns, state, lost);
                    }
                }
                _ => {}
            });
            if let Err(error) = whole {
                tracing::warn!(%error, "the kernel's reports are incomplete; every wire will be looked at");
                state.all().for_each(|record| record.broken = true);
            }
        }
    }
}

pub(crate) fn subscribe(everywhere: bool, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    if everywhere {
        socket.set_listen_all_namespaces(true)?;
    }
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_non_blocking(true)?;
    // More than the system's limit only where we may; the default is enough for a while.
    let _ = set_socket_recv_buffer_size_force(&socket, BUFFER);
    Ok(socket)
}

/// Reads all that is there. An error: something was lost.
pub(crate) fn read(
    socket: &Socket,
    buffer: &mut Vec<u8>,
    mut take: impl FnMut(&Message<'_>),
) -> io::Result<()> {
    let mut whole = Ok(());
    loop {
        buffer.clear();
        match socket.recv(buffer, 0) {
            Ok(_) => Messages(buffer).for_each(|message| take(&message)),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::AGAIN) => return whole,
                Some(Errno::INTR) => {}
                // The buffer ran over; what it held before is still there.
                Some(Errno::NOBUFS) => whole = Err(error),
                _ => return Err(error),
            },
        }
    }
}

/// Listens until the task is dropped.
pub(crate) async fn listen(shared: Arc<Shared>) {
    let Some(monitor) = shared.monitor() else { return };
    let (links, spaces) = match (readiness(&monitor.socket), readiness(&monitor.spaces)) {
        (Ok(links), Ok(spaces)) => (links, spaces),
        (links, spaces) => {
            let error = links.err().or(spaces.err());
            return tracing::error!(
                ?error,
                "the kernel's reports are heard only when a wire is asked for"
            );
        }
    };
    loop {
        let ready = tokio::select! {
            ready = links.readable() => ready,
            ready = spaces.readable() => ready,
        };
        let Ok(mut ready) = ready else { return };
        // Cleared first: what arrives while we read makes it ready again.
        ready.clear_ready();
        shared.hear();
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types that close or change their descriptor, which this one does not"
)]
pub(crate) fn readiness(socket: &Arc<Socket>) -> io::Result<AsyncFd<Descriptor>> {
    AsyncFd::with_interest(Descriptor(socket.clone()), Interest::READABLE)
}

pub(crate) struct Descriptor(Arc<Socket>);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// The kernel's number for `netns`, seen from the socket's namespace; given to it now if it has none.
fn number(node: &mut Netlink, netns: &Netns) -> io::Result<Option<i32>> {
    let descriptor = NsidAttribute::Fd(netns.as_fd().as_raw_fd().unsigned_abs());
    let mut give = NsidMessage::default();
    give.attributes = vec![descriptor.clone(), NsidAttribute::Id(-1)];
    let mut ask = NsidMessage::default();
    ask.attributes = vec![descriptor];
    let requests = vec![
        // Fails when there is a number already.
        Request::plain(RouteNetlinkMessage::NewNsId(give)),
        Request::plain(RouteNetlinkMessage::GetNsId(ask)),
    ];
    let mut answers = node.batch(requests)?;
    let body = answers.pop().and_then(Result::ok).flatten();
    Ok(body.and_then(|body| nsid(&body)).filter(|number| *number >= 0))
}

/// Reads the number out of the body of a message about a namespace.
fn nsid(body: &[u8]) -> Option<i32> {
    let mut attributes = NlasIterator::new(body.get(4..)?).flatten();
    let number = attributes.find(|attribute| attribute.kind() == NETNSA_NSID)?;
    number.value().try_into().ok().map(i32::from_ne_bytes)
}
