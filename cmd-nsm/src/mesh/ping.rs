// SPDX-License-Identifier: Apache-2.0
//! Pings: by the system's `ping` to show people, and by a socket of our own to know the very moment.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
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

/// Sends single pings inside one namespace.
#[derive(Debug)]
pub struct Pinger(OwnedFd);

impl Pinger {
    /// A raw ICMP socket in the namespace that `netns` opens.
    pub fn new(netns: &Path) -> Result<Self> {
        let file = std::fs::File::open(netns)?;
        let socket = std::thread::spawn(move || -> Result<OwnedFd> {
            let kind = rustix::thread::LinkNameSpaceType::Network;
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), Some(kind))?;
            let icmp = Some(rustix::net::ipproto::ICMP);
            Ok(rustix::net::socket(AddressFamily::INET, SocketType::RAW, icmp)?)
        });
        match socket.join() {
            Ok(socket) => Ok(Self(socket?)),
            Err(_) => bail!("the thread that opens the socket panicked"),
        }
    }

    /// Sends one ping to `to` and waits for its answer, at most until `until`; answers how long it took.
    ///
    /// Blocks the thread: that is what a measurement wants.
    pub fn once(&self, to: Ipv4Addr, number: u16, until: Instant) -> Result<Duration> {
        let echo = echo(number);
        let mut buffer = [0_u8; 256];
        // What others in the namespace were answered meanwhile fills the socket's queue.
        while rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
        let began = Instant::now();
        rustix::net::sendto(&self.0, &echo, SendFlags::empty(), &SocketAddrV4::new(to, 0))?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no answer from {to}");
            }
            let mut poll = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
            let wait = rustix::event::Timespec::try_from(left)?;
            rustix::event::poll(&mut poll, Some(&wait))?;
            let Ok((length, _)) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) else {
                continue;
            };
            if is_reply(&buffer[..length], to, number) {
                return Ok(began.elapsed());
            }
        }
    }
}

/// An ICMP echo request (RFC 792) with this sequence number.
fn echo(number: u16) -> [u8; 16] {
    let mut packet = [0_u8; 16];
    packet[0] = 8;
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    let sum = packet
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    packet[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}

/// Whether an IPv4 packet is `from`'s answer to the echo with this number.
fn is_reply(packet: &[u8], from: Ipv4Addr, number: u16) -> bool {
    let Some(header) = packet.first().map(|first| usize::from(first & 15) * 4) else {
        return false;
    };
    let (Some(source), Some(icmp)) = (packet.get(12..16), packet.get(header..header + 8)) else {
        return false;
    };
    source == from.octets() && icmp[0] == 0 && icmp[6..8] == number.to_be_bytes()
}
