// SPDX-License-Identifier: Apache-2.0
//! Tells by pings whether the wires of this network namespace live.
//!
//! Each look opens a datagram socket of ICMP (Linux: `ping_group_range` in ip-sysctl) for each pair of addresses of
//! one family, bound to ours, to the wire's interface if the mechanism names it, and connected to the other end's; and
//! sends echo requests until one is answered. One answer proves the wire, whichever pair it is of. Bound to the
//! interface, no other way counts: neither a default route nor a second wire to the same address. It needs no privilege: who makes a wire lets every group of its
//! namespaces ping.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nsm_api::connection::Connection;
use nsm_api::mechanism::{KERNEL, key};
use nsm_sdk::networkservice::heal::{Liveness, Pulse};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

/// How many echo requests one look sends, evenly over its time.
const ECHOES: u32 = 4;

/// How many pairs of addresses one look asks.
const MAX_PAIRS: usize = 16;

/// How much else may be heard between two echo requests.
const MAX_HEARD: usize = 64;

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct Ping;

#[async_trait]
impl Liveness for Ping {
    async fn pulse(&self, connection: &Connection, within: Duration) -> Pulse {
        let mechanism = connection.mechanism.as_ref();
        let Some(mechanism) = mechanism.filter(|mechanism| mechanism.r#type == KERNEL) else {
            return Pulse::Unknown;
        };
        let interface = Some(mechanism.parameter(key::INTERFACE_NAME)).filter(|name| !name.is_empty());
        let asked = pairs(connection).into_iter().take(MAX_PAIRS);
        let mut answers: FuturesUnordered<_> =
            asked.map(|(from, to)| ask(interface, from, to, within)).collect();
        let mut pulse = None;
        while let Some(answer) = answers.next().await {
            pulse = match (answer, pulse) {
                (Pulse::Alive, _) => return Pulse::Alive,
                (Pulse::Silent, _) | (_, Some(Pulse::Silent)) => Some(Pulse::Silent),
                (Pulse::Unknown, _) | (_, Some(Pulse::Unknown)) => Some(Pulse::Unknown),
                (Pulse::Gone, _) => Some(Pulse::Gone),
            };
        }
        pulse.unwrap_or(Pulse::Unknown)
    }
}

/// The addresses of both ends, each of ours with each of theirs of its family.
fn pairs(connection: &Connection) -> Vec<(IpAddr, IpAddr)> {
    let Some(ip) = connection.ip_context() else {
        return Vec::new();
    };
    let theirs = ip.dst_nets();
    let ours = ip.src_nets().into_iter().map(|net| net.addr());
    let with_theirs = |ours: IpAddr| {
        let same = theirs.iter().map(|net| net.addr());
        let same = same.filter(move |theirs| theirs.is_ipv4() == ours.is_ipv4());
        same.map(move |theirs| (ours, theirs)).collect::<Vec<_>>()
    };
    ours.flat_map(with_theirs).collect()
}

/// Asks the other end of one pair.
async fn ask(interface: Option<&str>, from: IpAddr, to: IpAddr, within: Duration) -> Pulse {
    let socket = match open(interface, from, to) {
        Ok(socket) => socket,
        Err(error) if is_gone(&error) => return Pulse::Gone,
        Err(error) => {
            debug!(%from, %to, %error, "cannot ping");
            return Pulse::Unknown;
        }
    };
    let began = Instant::now();
    for number in 0..ECHOES {
        match socket.send(&echo(to, number)).await {
            Err(error) if is_gone(&error) => return Pulse::Gone,
            // What is refused for the moment is as good as lost.
            Ok(_) | Err(_) => {}
        }
        let next = began + within * (number + 1) / ECHOES;
        if timeout_at(next, answered(&socket, to)).await.is_ok() {
            return Pulse::Alive;
        }
    }
    Pulse::Silent
}

/// A socket that only hears answers to its own echo requests. It is one for datagrams, as those of UDP are.
fn open(interface: Option<&str>, from: IpAddr, to: IpAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6),
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(protocol))?;
    let socket = UdpSocket::from_std(socket.into())?;
    match interface.map(|name| socket.bind_device(Some(name.as_bytes()))) {
        // Before Linux 5.7 it takes a privilege; then every way to the other end counts.
        Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddr::new(from, 0))?;
    rustix::net::connect(&socket, &SocketAddr::new(to, 0))?;
    Ok(socket)
}

/// Whether an error says that our end of the wire is not there, or is down: its interface, its address or its route is
/// missing.
fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(Errno::ADDRNOTAVAIL | Errno::NETUNREACH | Errno::NETDOWN | Errno::NODEV | Errno::NXIO)
    )
}

/// An echo request (RFC 792, RFC 4443); the kernel fills in checksum and identifier.
fn echo(to: IpAddr, number: u32) -> [u8; 16] {
    let mut packet = [0; 16];
    packet[0] = if to.is_ipv4() { 8 } else { 128 };
    packet[7] = number.to_be_bytes()[3];
    packet
}

/// Waits for an echo reply.
async fn answered(socket: &UdpSocket, to: IpAddr) {
    let reply = if to.is_ipv4() { 0 } else { 129 };
    let mut packet = [0_u8; 64];
    for _ in 0..MAX_HEARD {
        // An error, such as that a neighbour was not found, is no answer.
        if let Ok(length) = socket.recv(&mut packet).await
            && length >= 8
            && packet[0] == reply
        {
            return;
        }
    }
    std::future::pending().await
}
