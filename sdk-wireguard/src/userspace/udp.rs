// SPDX-License-Identifier: Apache-2.0
//! The UDP socket of a tunnel: many packets in one system call, both ways, without buffers of its own.
//!
//! **Guarantees**: a socket is bound once and outlives changes of the tunnel, so its port is never lost in between;
//! what it receives is never larger than what arrived. Nothing that arrives can end it.
//! **Cost**: a batch of packets of equal length to one peer is one `sendmsg` with `UDP_SEGMENT` (Linux 4.18); a train
//! of packets from one peer is one `recvmsg` with `UDP_GRO` (Linux 5.0). One buffer of 64 KiB for each thread of the
//! runtime, none for a tunnel.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use gotatun::packet::{Packet, PacketBufPool};
use gotatun::udp::{UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams};
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt as options};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, futures::Notified};
use tokio::time::sleep;

/// The longest UDP datagram, and so the longest train of packets.
const LONGEST: usize = 65_535;

/// What `UDP_SEGMENT` takes at most: the kernel's `UDP_MAX_SEGMENTS`, and what fits into one IPv6 datagram.
const MAX_SEGMENTS: usize = 64;
const MAX_TRAIN: usize = 65_000;

/// How many packets go to the socket together.
const MAX_SENT: usize = 128;

/// How many packets are taken from the socket before they are worked on.
const MAX_RECEIVED: usize = 256;

/// The room for what has arrived and is not worked on yet, bytes; the kernel's memory, not ours.
const RECEIVE_BUFFER: usize = 1 << 20;

/// How long a socket rests that the kernel has no memory for.
const REST: Duration = Duration::from_millis(50);

thread_local! {
    /// Where a datagram lands before it is copied to a place of its own size.
    static LANDING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Opens the socket of a tunnel on `port`, for both families where the node has both. Blocking is off.
pub(super) fn open(port: u16) -> io::Result<std::net::UdpSocket> {
    let socket = match open_dual(port) {
        Err(rustix::io::Errno::AFNOSUPPORT | rustix::io::Errno::ADDRNOTAVAIL) => {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            socket
        }
        opened => opened?,
    };
    // Without it packets come one by one.
    let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
    if options::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_err() {
        let _ = options::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
    }
    Ok(socket)
}

fn open_dual(port: u16) -> rustix::io::Result<std::net::UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
    options::set_ipv6_v6only(&socket, false)?;
    rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    Ok(socket.into())
}

/// A tunnel's socket. Clones are one socket.
#[derive(Clone)]
pub(super) struct Socket(Arc<Inner>);

struct Inner {
    io: UdpSocket,
    port: u16,
    is_ipv6: bool,
    /// Whether the way out takes trains of packets.
    takes_trains: AtomicBool,
    /// Told of all that is sent.
    sends: Notify,
}

impl Socket {
    /// Takes over what [`open`] opened.
    pub(super) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self(Arc::new(Inner {
            io: UdpSocket::from_std(socket)?,
            port: address.port(),
            is_ipv6: address.is_ipv6(),
            takes_trains: AtomicBool::new(true),
            sends: Notify::new(),
        })))
    }

    pub(super) fn port(&self) -> u16 {
        self.0.port
    }

    /// Who sent the first of what has arrived and was not taken yet.
    pub(super) fn first_sender(&self) -> Option<SocketAddr> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let (.., sender) = rustix::net::recvfrom(&self.0.io, &mut [0; 1], flags).ok()?;
        let sender = SocketAddr::try_from(sender?).ok()?;
        Some(SocketAddr::new(sender.ip().to_canonical(), sender.port()))
    }

    /// Waits for the next that is sent from now on.
    pub(super) fn sends(&self) -> Notified<'_> {
        self.0.sends.notified()
    }

    /// An address as the socket's family has it.
    fn reachable(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.0.is_ipv6 => (ip.to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }

    /// Sends packets to one address; all are as long as the first, but for the last, which may be shorter.
    async fn send(&self, packets: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let Some((first, address)) = packets.first() else {
            return Ok(());
        };
        let to = SockaddrStorage::from(self.reachable(*address));
        let segment = u16::try_from(first.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let train = [ControlMessage::UdpGsoSegments(&segment)];
        let control = if packets.len() > 1 { &train[..] } else { &[] };
        let send = || {
            let slices: Vec<_> = packets.iter().map(|(packet, _)| IoSlice::new(packet)).collect();
            let fd = self.0.io.as_raw_fd();
            sendmsg(fd, &slices, control, MsgFlags::MSG_DONTWAIT, Some(&to)).map_err(io::Error::from)
        };
        let sent = self.0.io.async_io(Interest::WRITABLE, send).await.map(drop);
        self.0.sends.notify_waiters();
        sent
    }

    /// Sends a train, or its packets one by one where trains are not taken.
    async fn send_train(&self, train: &[(Packet, SocketAddr)]) {
        if train.len() > 1 && self.0.takes_trains.load(Ordering::Relaxed) {
            match self.send(train).await {
                Ok(()) => return,
                // The device below cannot compute checksums, or the kernel is from before trains.
                Err(error) if is_trainless(&error) => {
                    tracing::debug!(%error, port = self.0.port, "packets are sent one by one");
                    self.0.takes_trains.store(false, Ordering::Relaxed);
                }
                // The packets may be too long for the way, each for itself.
                Err(error) => tracing::trace!(%error, "a train of packets is sent one by one"),
            }
        }
        for packet in train.chunks(1) {
            if let Err(error) = self.send(packet).await {
                tracing::trace!(%error, "a packet is lost");
            }
        }
    }

    /// Takes what has arrived, up to [`MAX_RECEIVED`] packets.
    fn take(&self, packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        LANDING.with_borrow_mut(|landing| {
            landing.resize(LONGEST, 0);
            loop {
                match receive(&self.0.io, landing, packets) {
                    Ok(()) if packets.len() < MAX_RECEIVED => {}
                    Err(Errno::EINTR) => {}
                    Err(errno) if packets.is_empty() => return Err(errno.into()),
                    _ => return Ok(()),
                }
            }
        })
    }
}

fn is_trainless(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT))
}

/// Takes one datagram, which may be a train of packets.
fn receive(io: &UdpSocket, landing: &mut [u8], packets: &mut Vec<(Packet, SocketAddr)>) -> Result<(), Errno> {
    let mut control = nix::cmsg_space!(i32);
    let mut slices = [IoSliceMut::new(landing)];
    let message = recvmsg::<SockaddrStorage>(
        io.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let segment = message.cmsgs().ok().and_then(|mut controls| {
        controls.find_map(|control| match control {
            ControlMessageOwned::UdpGroSegments(segment) => usize::try_from(segment).ok(),
            _ => None,
        })
    });
    let (length, from) = (message.bytes, message.address.as_ref().and_then(sender));
    let (Some(from), Some(arrived)) = (from, landing.get(..length)) else {
        return Ok(());
    };
    let segment = segment.filter(|segment| *segment > 0).unwrap_or(length);
    let mut rest = BytesMut::from(arrived);
    while !rest.is_empty() {
        let packet = rest.split_to(segment.min(rest.len()));
        packets.push((Packet::from_bytes(packet), from));
    }
    Ok(())
}

/// Who sent it; IPv4 addresses as such.
fn sender(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(SocketAddr::from(*address));
    }
    let address = SocketAddrV6::from(*address.as_sockaddr_in6()?);
    Some(match address.ip().to_ipv4_mapped() {
        Some(ip) => (ip, address.port()).into(),
        None => address.into(),
    })
}

impl UdpTransportFactory for Socket {
    type Send = Self;
    type Recv = Self;

    /// Hands out the socket that is bound already.
    async fn bind(&mut self, _params: &UdpTransportFactoryParams) -> io::Result<(Self, Self)> {
        Ok((self.clone(), self.clone()))
    }
}

impl UdpSend for Socket {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, destination: SocketAddr) -> io::Result<()> {
        self.send(&[(packet, destination)]).await
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        MAX_SENT
    }

    async fn send_many_to(&self, _: &mut (), packets: &mut Vec<(Packet, SocketAddr)>) -> io::Result<()> {
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            let (train, others) = rest.split_at(train_of(rest));
            self.send_train(train).await;
            rest = others;
        }
        packets.clear();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.0.io.local_addr().map(Some)
    }
}

/// How many of the first `packets` can go in one train: one destination, one length, only the last one shorter.
fn train_of(packets: &[(Packet, SocketAddr)]) -> usize {
    let Some((first, to)) = packets.first() else {
        return 0;
    };
    let (segment, mut total) = (first.len(), 0);
    for (count, (packet, destination)) in packets.iter().enumerate() {
        total += packet.len();
        if destination != to || packet.len() > segment || total > MAX_TRAIN || count == MAX_SEGMENTS {
            return count.max(1);
        }
        if packet.len() < segment {
            return count + 1;
        }
    }
    packets.len()
}

impl UdpRecv for Socket {
    type RecvManyBuf = ();

    async fn recv_from(&mut self, _pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        let mut buffer = BytesMut::zeroed(LONGEST);
        let (length, from) = self.0.io.recv_from(&mut buffer).await?;
        buffer.truncate(length);
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        Ok((Packet::from_bytes(buffer), from))
    }

    async fn recv_many_from(
        &mut self,
        _: &mut (),
        _pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        loop {
            match self
                .0
                .io
                .async_io(Interest::READABLE, || self.take(packets))
                .await
            {
                Ok(()) => return Ok(()),
                // An error here would end the tunnel for good.
                Err(error) => {
                    tracing::debug!(%error, port = self.0.port, "nothing can be received for a moment");
                    sleep(REST).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(lengths: &[(usize, u16)]) -> Vec<(Packet, SocketAddr)> {
        let packet = |(length, port): &(usize, u16)| {
            let to = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
            (Packet::from_bytes(BytesMut::zeroed(*length)), to)
        };
        lengths.iter().map(packet).collect()
    }

    #[test]
    fn a_train_has_one_destination_and_one_length_but_for_its_end() {
        for (lengths, expected) in [
            (&[][..], 0),
            (&[(100, 1)], 1),
            (&[(100, 1), (100, 1), (60, 1), (60, 1)], 3),
            (&[(100, 1), (100, 2)], 1),
            (&[(60, 1), (100, 1)], 1),
            (&[(65_500, 1), (100, 1)], 1),
        ] {
            assert_eq!(train_of(&packets(lengths)), expected, "{lengths:?}");
        }
    }

    #[test]
    fn a_train_is_no_longer_than_the_kernel_takes() {
        assert_eq!(train_of(&packets(&[(100, 1); 200])), MAX_SEGMENTS);
        assert_eq!(train_of(&packets(&[(1400, 1); 64])), MAX_TRAIN / 1400);
    }

    #[tokio::test]
    async fn a_train_arrives_as_the_packets_that_it_was_made_of() {
        let [one, other] = [0, 0].map(|port| Socket::new(open(port).expect("opens")).expect("watched"));
        for ip in ["127.0.0.1", "::1"] {
            let to = SocketAddr::new(ip.parse().expect("an address"), other.port());
            let mut sent: Vec<_> = (0..100_u8)
                .map(|number| (Packet::copy_from(&[number; 1300][..]), to))
                .collect();
            one.send_many_to(&mut (), &mut sent).await.expect("sent");
            let (mut receiver, mut received) = (other.clone(), Vec::new());
            while received.len() < 100 {
                let mut pool = PacketBufPool::new(0);
                let mut some = Vec::new();
                let more = receiver.recv_many_from(&mut (), &mut pool, &mut some).await;
                more.expect("received");
                received.append(&mut some);
            }
            for ((packet, from), number) in received.iter().zip(0..) {
                assert_eq!(packet[..], [number; 1300]);
                assert_eq!(*from, SocketAddr::new(to.ip(), one.port()));
            }
        }
    }
}
