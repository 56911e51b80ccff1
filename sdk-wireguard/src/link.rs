// SPDX-License-Identifier: Apache-2.0
//! Links by rtnetlink: making a WireGuard device in place, naming a TUN device, looking, removing.
//!
//! **Guarantees**: a request is answered when a function returns; an error names what was tried and says why not.
//! **Placement**: on threads of [`worker`](crate::worker) only; the kernel executes a request inside `send`.
//! **Cost**: two system calls a request. A socket keeps its namespace alive: drop it soon.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nsm_sdk::core::{Error, Result};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use tonic::Code;

use crate::netns::Netns;

/// How long an answer may take that should be there when `send` returns.
const PATIENCE: Duration = Duration::from_secs(5);

/// The room for the kernel's longest answer: one link with all its attributes.
const DATAGRAM: usize = 32 * 1024;

/// What the kernel says of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) is_wireguard: bool,
    pub(crate) is_up: bool,
    pub(crate) group: u32,
    pub(crate) alias: String,
    pub(crate) mtu: u32,
}

/// How a link of ours is to be.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) alias: String,
    pub(crate) group: u32,
    pub(crate) mtu: u32,
}

/// A netlink socket in the namespace in which it was opened.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
            Ok(socket)
        };
        let socket = open().map_err(|error: io::Error| {
            Error::internal("wireguard", format!("cannot open a netlink socket: {error}"))
        })?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a WireGuard device in `netns`, down. Its UDP socket will be in the namespace of this socket: the kernel
    /// remembers where the request for the device came from.
    pub(crate) fn create_wireguard(&mut self, wanted: &Wanted, netns: &Netns) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(wanted.name.clone()),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::Group(wanted.group),
            LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
        ];
        let request = RouteNetlinkMessage::NewLink(message);
        self.execute(request, NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Gives the link `index`, which is down, its name and whatever else it is to have.
    pub(crate) fn settle(&mut self, index: u32, wanted: &Wanted) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![
            LinkAttribute::IfName(wanted.name.clone()),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::Group(wanted.group),
            LinkAttribute::IfAlias(wanted.alias.clone()),
        ];
        self.execute(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Gives the link its alias, and raises it.
    pub(crate) fn raise(&mut self, index: u32, alias: &str) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        message.attributes.push(LinkAttribute::IfAlias(alias.into()));
        self.execute(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Has the link take no IPv6 address by itself, as WireGuard devices do not. A kernel without IPv6 needs no telling.
    pub(crate) fn without_link_local(&mut self, index: u32) {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let spec = AfSpecUnspec::Inet6(vec![none]);
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![spec]));
        if let Err(errno) = self.execute(RouteNetlinkMessage::SetLink(message), 0) {
            tracing::debug!(index, %errno, "the link may take an IPv6 address by itself");
        }
    }

    /// Sets the link's MTU.
    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.execute(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Removes the link, which may be gone already.
    pub(crate) fn remove(&mut self, index: u32) -> Result<(), Errno> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.execute(RouteNetlinkMessage::DelLink(message), 0) {
            Ok(_) | Err(Errno::NODEV) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// The link of this name.
    pub(crate) fn find(&mut self, name: &str) -> Result<Option<Link>, Errno> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.into()));
        match self.execute(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(found) => Ok(found.map(|message| link(&message))),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Has one request executed. What it asked for is returned.
    fn execute(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<Option<LinkMessage>, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.sequence_number = self.sequence;
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        let errno = |error: &io::Error| Errno::from_io_error(error).unwrap_or(Errno::IO);
        self.socket.send(&bytes, 0).map_err(|error| errno(&error))?;
        let mut found = None;
        let mut buffer = Vec::with_capacity(DATAGRAM);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(errno(&error)),
                Ok(_) => {}
            }
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(&buffer).map_err(|_| Errno::BADMSG)?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => found = Some(link),
                NetlinkPayload::Error(error) => {
                    return match error.code {
                        None => Ok(found),
                        Some(code) => Err(Errno::from_raw_os_error(code.get().saturating_neg())),
                    };
                }
                _ => {}
            }
        }
    }
}

/// What of the kernel's answer matters here.
fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        is_wireguard: false,
        is_up: message.header.flags.contains(LinkFlags::Up),
        group: 0,
        alias: String::new(),
        mtu: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Group(group) => link.group = *group,
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_wireguard = infos.contains(&LinkInfo::Kind(InfoKind::Wireguard));
            }
            _ => {}
        }
    }
    link
}

/// The kernel's no to `aim`, in the words and with the reasons of this crate.
pub(crate) fn refused(aim: &str, errno: Errno) -> Error {
    let text = format!("cannot {aim}: {errno}");
    match errno {
        Errno::PERM | Errno::ACCESS => Error::new(
            Code::FailedPrecondition,
            "not-privileged",
            format!("{text}; CAP_NET_ADMIN is missing: run privileged"),
        ),
        Errno::EXIST => Error::new(
            Code::AlreadyExists,
            "interface-taken",
            format!("{text}; remove or rename that interface, or ask for another name in the service URL"),
        ),
        Errno::ADDRINUSE => port_taken(&text),
        Errno::NODEV => Error::not_found("interface-gone", text),
        Errno::OPNOTSUPP => Error::new(
            Code::FailedPrecondition,
            "no-wireguard",
            format!("{text}; the kernel has no WireGuard: load its module, or choose the userspace engine"),
        ),
        _ => Error::internal("wireguard", text),
    }
}

/// Somebody else has the UDP port.
pub(crate) fn port_taken(text: &str) -> Error {
    Error::new(
        Code::AlreadyExists,
        "port-taken",
        format!("{text}; leave the port to the engine (0), or free it on this node"),
    )
}
