// SPDX-License-Identifier: Apache-2.0
//! Pairs of virtual Ethernet interfaces: made in place, each end in its namespace, by one message.
//!
//! **Guarantees**: an interface is never made in one namespace and moved to another, which would take 40 times as
//! long. Both ends have indexes that we choose, so what follows needs no look-up.
//! **Cost**: making a pair takes the kernel 0.3–0.6 ms; configuring an end 0.1 ms; moving one 16 ms.

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage};
use nsm_sdk::core::{Error, Result};
use rustix::io::Errno;
use tokio::time::Instant;
use tonic::Code;

use crate::answer::Refusal;
use crate::asked::Device;
use crate::end::End;
use crate::netlink::{Answer, Netlink, Request};
use crate::netns::Netns;
use crate::observe::{self, Seen, Which};
use crate::plan::{Change, plan};
use crate::station::Station;
use crate::sysctl;

/// How long the first packets of a new wire are worth waiting for.
const MAX_SETTLING: Duration = Duration::from_millis(50);

/// How often we look meanwhile.
const SETTLING: Duration = Duration::from_micros(100);

/// One end that is to be made.
pub(crate) struct Half<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) index: u32,
    pub(crate) end: &'a End,
}

impl Half<'_> {
    /// The interface in its namespace, of no kind yet.
    pub(crate) fn message(&self, group: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = self.index;
        message.attributes = vec![
            LinkAttribute::IfName(self.end.link.name.clone()),
            LinkAttribute::NetNsFd(self.netns.as_fd().as_raw_fd()),
            LinkAttribute::Mtu(self.end.link.mtu),
            LinkAttribute::Address(self.end.link.mac.into()),
            LinkAttribute::Group(group),
        ];
        message
    }
}

/// The request for a pair. Both ends are down: what is set before they are raised costs less.
pub(crate) fn pair(first: &Half<'_>, second: &Half<'_>, group: u32) -> Request {
    let mut message = first.message(group);
    let peer = InfoVeth::Peer(second.message(group));
    let info = vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(peer)),
    ];
    message.attributes.push(LinkAttribute::LinkInfo(info));
    Request::create(RouteNetlinkMessage::NewLink(message))
}

/// The request that only a program with all it takes gets as far as the driver with, which then refuses it: a pair
/// with a MAC address that no interface can have.
pub(crate) fn probe() -> Request {
    let mut message = LinkMessage::default();
    let multicast = vec![1, 0, 0, 0, 0, 0];
    message.attributes = vec![
        LinkAttribute::Address(multicast),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
    ];
    Request::create(RouteNetlinkMessage::NewLink(message))
}

/// The request that moves interface `index` of the socket's namespace, which loses its addresses and routes.
pub(crate) fn transfer(index: u32, to: &Netns, name: &str, new_index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![
        LinkAttribute::NetNsFd(to.as_fd().as_raw_fd()),
        LinkAttribute::IfName(name.into()),
        LinkAttribute::NewIfIndex(i32::try_from(new_index).unwrap_or(i32::MAX)),
    ];
    Request::plain(RouteNetlinkMessage::NewLink(message))
}

/// The request that removes interface `index`, and with it the other end.
pub(crate) fn remove(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Request::plain(RouteNetlinkMessage::DelLink(message))
}

/// The request that gives interface `index` another name.
pub(crate) fn rename(index: u32, name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    Request::plain(RouteNetlinkMessage::SetLink(message))
}

/// The request that puts interface `index` into a group.
pub(crate) fn regroup(index: u32, group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Group(group)];
    Request::plain(RouteNetlinkMessage::SetLink(message))
}

/// The request that removes every interface of a group.
pub(crate) fn remove_group(group: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::Group(group)];
    Request::plain(RouteNetlinkMessage::DelLink(message))
}

/// Makes the interface of `half` from `now` into what it is to be. `is_first` is true the first time that anything is
/// done in its namespace. Where it is raised and `waits`, it has its addresses and routes only when the rest is
/// [finished](Settling::finish). Returns what is left to be done.
pub(crate) fn configure(
    station: &mut Station,
    half: &Half<'_>,
    now: &End,
    is_first: bool,
    waits: bool,
) -> Result<Option<Settling>> {
    let mut changes = plan(now, half.end);
    let is_localnet_new = now.link.route_localnet != half.end.link.route_localnet;
    if changes.is_empty() && !is_localnet_new {
        return Ok(None);
    }
    let link = &half.end.link;
    let (mut socket, ()) = station.enter(half.netns, || {
        if half.end.uses_v6() {
            sysctl::allow_v6(&link.name, true)?;
        } else if half.end.is_v4_only() && !now.link.up {
            // For a link-local address that nobody uses, the kernel would look through all IPv6 routes.
            if let Err(error) = sysctl::allow_v6(&link.name, false) {
                tracing::debug!(%error, "it has IPv6 though nobody uses it");
            }
        }
        if is_localnet_new {
            sysctl::route_localnet(&link.name, link.route_localnet)?;
        }
        if is_first && !link.passes && let Err(error) = sysctl::allow_ping() {
            tracing::warn!(%error, netns = %half.netns.id(), "liveness checks will need privilege there");
        }
        if changes.iter().any(|change| matches!(change, Change::AddRule(_))) && sysctl::is_strict() {
            let netns = half.netns.id();
            tracing::warn!(%netns, link.name, "net.ipv4.conf.all.rp_filter is 1: policy routes may lose packets");
        }
        Ok(())
    })?;
    let new = changes.iter().filter_map(|change| match change {
        Change::AddAddress(IpNet::V6(net)) => Some(net.addr()),
        _ => None,
    });
    let addresses: Vec<Ipv6Addr> = new.collect();
    let raise = changes.iter().position(|change| *change == Change::Raise);
    // Only a pair has a carrier to wait for.
    let raise = raise.filter(|_| link.device == Device::Veth);
    let later = match raise.filter(|_| waits) {
        Some(raise) => changes.split_off(raise + 1),
        None => Vec::new(),
    };
    apply(&mut socket, half, &changes)?;
    let must_settle = raise.is_some() || !addresses.is_empty();
    Ok(must_settle.then_some(Settling {
        socket,
        index: half.index,
        is_raised: raise.is_some(),
        later,
        addresses,
    }))
}

/// An interface that the kernel has not put to work to the end.
///
/// When the carrier comes, the kernel says so at once but lets traffic through only a little later, on a thread of
/// its own; from 6.9 on at the latest when it is asked. The same goes for packets to a new IPv6 address, even without
/// duplicate address detection.
pub(crate) struct Settling {
    socket: Netlink,
    index: u32,
    pub(crate) is_raised: bool,
    /// What waits for the carrier. Whoever has a route sends, and when the answer of the other end to the question for
    /// its MAC address is lost, the kernel does not ask again for a second (RFC 1122, 2.3.2.1).
    later: Vec<Change>,
    addresses: Vec<Ipv6Addr>,
}

impl Settling {
    /// An interface that may get its carrier from its other end.
    pub(crate) fn new(socket: Netlink, index: u32) -> Self {
        Self {
            socket,
            index,
            is_raised: false,
            later: Vec::new(),
            addresses: Vec::new(),
        }
    }

    /// Waits until the interface sends what it is given.
    pub(crate) fn wait(&mut self) {
        let link = vec![Which::Index(self.index).request()];
        self.until(&link, |body| {
            let seen = body.and_then(Seen::parse);
            seen.is_none_or(|seen| seen.operational)
        });
    }

    /// Does what has waited, and then waits until the interface receives what it is sent.
    pub(crate) fn finish(mut self, half: &Half<'_>) -> Result<()> {
        if !self.later.is_empty() {
            apply(&mut self.socket, half, &self.later)?;
        }
        let ways: Vec<Request> = self.addresses.iter().map(observe::way).collect();
        if !ways.is_empty() {
            self.until(&ways, |body| body.is_some_and(observe::is_local));
        }
        Ok(())
    }

    /// Asks until every answer is as it is to be.
    fn until(&mut self, questions: &[Request], is_so: impl Fn(Option<&[u8]>) -> bool) {
        let deadline = Instant::now() + MAX_SETTLING;
        while Instant::now() < deadline {
            // Whoever took the interface away meanwhile has settled it too.
            let Ok(answers) = self.socket.batch(questions.to_vec()) else {
                return;
            };
            let mut answers = answers.into_iter().map(|answer| answer.ok().flatten());
            if answers.all(|body| is_so(body.as_deref())) {
                return;
            }
            std::thread::park_timeout(SETTLING);
        }
        tracing::debug!(self.index, "an interface may lose its first packets");
    }
}

fn apply(socket: &mut Netlink, half: &Half<'_>, changes: &[Change]) -> Result<()> {
    let requests = changes.iter().map(|change| change.request(half.index)).collect();
    let place = Named(half);
    let answers = socket.batch(requests).map_err(|error| broken(&place, &error))?;
    for (change, answer) in changes.iter().zip(answers) {
        match answer {
            Err(refusal) if !change.is_done(refusal.errno) => {
                return Err(refused(&format!("{change} on {place}"), &refusal));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Has one request executed in our own namespace.
pub(crate) fn execute(station: &mut Station, request: Request) -> Result<Answer> {
    station
        .node
        .execute(request)
        .map_err(|error| broken(&"our own namespace", &error))
}

/// The connection to the kernel failed.
pub(crate) fn broken(place: &impl fmt::Display, error: &io::Error) -> Error {
    Error::internal("kernel", format!("netlink in {place}: {error}"))
}

/// The kernel said no.
pub(crate) fn refused(what: &str, refusal: &Refusal) -> Error {
    let (code, hint) = match refusal.errno {
        Errno::PERM | Errno::ACCESS => (
            Code::FailedPrecondition,
            "; is CAP_NET_ADMIN missing, or IPv6 disabled in the pod?",
        ),
        Errno::OPNOTSUPP => (Code::FailedPrecondition, "; the kernel lacks a module"),
        Errno::ADDRINUSE => (
            Code::AlreadyExists,
            "; another program of this node, or VXLAN devices that work in another way, have the UDP port of the \
             tunnel: set another port",
        ),
        Errno::INVAL | Errno::ADDRNOTAVAIL | Errno::RANGE => (Code::InvalidArgument, ""),
        _ => (Code::Internal, ""),
    };
    let reason = match refusal.errno {
        Errno::ADDRINUSE => "port-taken",
        _ => "kernel",
    };
    Error::new(code, reason, format!("cannot {what}: {refusal}{hint}"))
}

/// An interface and where it is, for people.
struct Named<'a>(&'a Half<'a>);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.0.end.link.name, self.0.netns.id())
    }
}
