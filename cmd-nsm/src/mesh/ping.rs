// SPDX-License-Identifier: Apache-2.0
//! Pings: by the system's `ping` to show people, and by a socket of our own to know the very moment.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use tokio::time::Instant;

use super::Pod;
use super::sandbox::output;

/// What `ping` found out.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Pings {
    /// The pod that pinged.
    pub from: String,
    /// The address that it pinged.
    pub to: IpAddr,
    /// The share of pings without an answer, 0 to 1.
    pub loss: f64,
    /// The mean round trip, milliseconds.
    pub round_trip_ms: f64,
}

/// The pause between two pings.
const PAUSE: Duration = Duration::from_millis(10);

/// Pings `to` from `pod`, `count` times, with the system's `ping`, one every 10 ms.
pub fn ping(pod: &Pod, to: IpAddr, count: u32) -> Result<Pings> {
    ping_every(PAUSE, pod, to, count)
}

/// The same with another pause between two pings. For the last answer `ping` waits as long as that, or twice as long
/// as an answer has taken, so that on a busy machine a short pause makes a loss of what comes late.
pub fn ping_every(pause: Duration, pod: &Pod, to: IpAddr, count: u32) -> Result<Pings> {
    let (count_text, to_text) = (count.to_string(), to.to_string());
    let pause = pause.as_secs_f64().to_string();
    let net = format!("--net={}", pod.path().display());
    let arguments = [
        net.as_str(),
        "--",
        "ping",
        "-n",
        "-q",
        "-i",
        &pause,
        "-W",
        "1",
        "-c",
        &count_text,
        &to_text,
    ];
    let printed = match output("nsenter", &arguments) {
        Ok(printed) => String::from_utf8_lossy(&printed).into_owned(),
        Err(error) if format!("{error:#}").contains("failed: ") => {
            return Ok(Pings {
                from: pod.name().to_string(),
                to,
                loss: 1.0,
                round_trip_ms: f64::NAN,
            });
        }
        Err(error) => return Err(error),
    };
    let loss = printed
        .split(", ")
        .find_map(|part| part.split_once("% packet loss"))
        .and_then(|(percent, _)| percent.trim().parse::<f64>().ok())
        .with_context(|| format!("ping printed no loss: {printed}"))?;
    let mean = printed
        .rsplit_once(" = ")
        .and_then(|(_, figures)| figures.split('/').nth(1)?.parse().ok());
    Ok(Pings {
        from: pod.name().to_string(),
        to,
        loss: loss / 100.0,
        round_trip_ms: mean.unwrap_or(f64::NAN),
    })
}

/// Sends single pings of one family inside one namespace.
#[derive(Debug)]
pub struct Pinger {
    socket: OwnedFd,
    family: AddressFamily,
}

impl Pinger {
    /// A raw ICMP socket in the namespace that `netns` opens, for addresses of IPv4.
    pub fn new(netns: &Path) -> Result<Self> {
        Self::open(netns, AddressFamily::INET, rustix::net::ipproto::ICMP)
    }

    /// The same for addresses of IPv6.
    pub fn v6(netns: &Path) -> Result<Self> {
        Self::open(netns, AddressFamily::INET6, rustix::net::ipproto::ICMPV6)
    }

    fn open(netns: &Path, family: AddressFamily, protocol: rustix::net::Protocol) -> Result<Self> {
        let file = std::fs::File::open(netns)?;
        let socket = std::thread::spawn(move || -> Result<OwnedFd> {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))?;
            Ok(rustix::net::socket(family, SocketType::RAW, Some(protocol))?)
        });
        match socket.join() {
            Ok(socket) => Ok(Self {
                socket: socket?,
                family,
            }),
            Err(_) => bail!("the thread that opens the socket panicked"),
        }
    }

    /// Sends one ping to `to` and waits for its answer, at most until `until`; answers how long it took.
    ///
    /// Blocks the thread: that is what a measurement wants.
    ///
    /// Errors: no answer, what the kernel says, or an address of the other family.
    pub fn once(&self, to: impl Into<IpAddr>, number: u16, until: Instant) -> Result<Duration> {
        let (to, echo) = (to.into(), echo(self.family, number));
        let mut buffer = [0_u8; 256];
        // What others in the namespace were answered meanwhile fills the socket's queue.
        while rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
        let began = Instant::now();
        rustix::net::sendto(&self.socket, &echo, SendFlags::empty(), &SocketAddr::new(to, 0))?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer from {to}");
            }
            let mut poll = [rustix::event::PollFd::new(
                &self.socket,
                rustix::event::PollFlags::IN,
            )];
            let wait = rustix::event::Timespec::try_from(left)?;
            rustix::event::poll(&mut poll, Some(&wait))?;
            let received = rustix::net::recvfrom(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT);
            let Ok((_, length, Some(from))) = received else {
                continue;
            };
            let is_from = SocketAddr::try_from(from).is_ok_and(|from| from.ip() == to);
            if is_from && is_reply(self.family, &buffer[..length], number) {
                return Ok(began.elapsed());
            }
        }
    }
}

/// What asks for an echo and what is one, by family (RFC 792, RFC 4443 section 4).
fn types(family: AddressFamily) -> (u8, u8) {
    match family {
        AddressFamily::INET6 => (128, 129),
        _ => (8, 0),
    }
}

/// An echo request with this sequence number. For IPv6 the kernel sums it up, with the addresses.
fn echo(family: AddressFamily, number: u16) -> [u8; 16] {
    let mut packet = [0_u8; 16];
    packet[0] = types(family).0;
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    let sum = packet
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}

/// Whether what came is the answer to the echo with this number: of IPv4 the header of the packet comes first.
fn is_reply(family: AddressFamily, packet: &[u8], number: u16) -> bool {
    let header = match family {
        AddressFamily::INET6 => 0,
        _ => packet.first().map_or(0, |first| usize::from(first & 15) * 4),
    };
    let Some(icmp) = packet.get(header..header + 8) else {
        return false;
    };
    icmp[0] == types(family).1 && icmp[6..8] == number.to_be_bytes()
}
