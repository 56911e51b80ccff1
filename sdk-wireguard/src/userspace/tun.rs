// SPDX-License-Identifier: Apache-2.0
//! The TUN device of a tunnel: packets of a pod, taken and given many at a time.
//!
//! **Guarantees**: no packet of the pod can end the device. It is gone when [`Gone`] says so. The open descriptor keeps
//! the pod's namespace alive, since the device is made in place (moving one there takes tens of milliseconds):
//! [`pod`](super::pod) sees when it has to be closed.
//! **On close**: the kernel needs milliseconds to remove a device; a thread of ours waits for it.
//! **Cost**: half a millisecond. Then a system call for up to 64 KiB of TCP (TSO one way, GRO the other). Buffers belong
//! to the threads of the runtime, 0.5 MiB each; a tunnel has none.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use gotatun::packet::{Ip, Packet, PacketBufPool};
use gotatun::tun::{IpRecv, IpSend, MtuWatcher};
use nix::errno::Errno;
use nsm_sdk::core::{Component, Error, Result};
use tokio::sync::{mpsc, oneshot};
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, IDEAL_BATCH_SIZE, SyncDevice, VIRTIO_NET_HDR_LEN};

use crate::link::{Netlink, Wanted, refused};
use crate::netns::Netns;
use crate::worker::{Home, Workers};

/// What one read gives at most, with the header that says how it is to be cut.
const LONGEST: usize = VIRTIO_NET_HDR_LEN + 65_535;

/// The room for one packet, where no tunnel has a larger MTU.
const ROOM: usize = 2048;

/// WireGuard pads packets to a multiple of this.
const PADDING: usize = 16;

/// How many packets wait for being written.
const MAX_WAITING: usize = 512;

/// How many of the buffers for writing keep the size to which packets of one connection were joined in them.
const MAX_JOINED: usize = 4;

/// What a thread needs to read and write.
struct Desk {
    read: Vec<u8>,
    cut: Vec<Vec<u8>>,
    sizes: Vec<usize>,
    joined: Vec<Vec<u8>>,
    table: GROTable,
}

thread_local! {
    static DESK: RefCell<Option<Desk>> = const { RefCell::new(None) };
}

/// Runs `act` with the desk of this thread.
fn at_desk<T>(act: impl FnOnce(&mut Desk) -> T) -> T {
    DESK.with_borrow_mut(|desk| {
        let new = || Desk {
            read: vec![0; LONGEST],
            cut: vec![Vec::new(); IDEAL_BATCH_SIZE],
            sizes: vec![0; IDEAL_BATCH_SIZE],
            joined: Vec::new(),
            table: GROTable::default(),
        };
        act(desk.get_or_insert_with(new))
    })
}

/// Makes a device in `netns`, where it is up at the end. Returns it and its index.
pub(super) fn create(home: &mut Home, netns: &Netns, wanted: &Wanted) -> Result<(SyncDevice, u32)> {
    let (name, netns_id) = (&wanted.name, netns.id());
    let aim = format!("make the TUN device {name} in {netns_id}");
    // From its birth on dropping the device removes it, wherever the thread is then.
    home.visit(netns, || {
        let device = build()?;
        let index = device.if_index().map_err(|error| failed(&aim, &error))?;
        let mut netlink = Netlink::open()?;
        netlink
            .settle(index, wanted)
            .map_err(|errno| refused(&aim, errno))?;
        netlink.without_link_local(index);
        netlink
            .raise(index, &wanted.alias)
            .map_err(|errno| refused(&aim, errno))?;
        Ok((device, index))
    })
}

/// Makes a device in the namespace of the calling thread, under a name that the kernel chooses.
pub(super) fn build() -> Result<SyncDevice> {
    DeviceBuilder::new()
        .offload(true)
        .enable(false)
        .build_sync()
        .map_err(|error| failed("make a TUN device", &error))
}

fn failed(aim: &str, error: &io::Error) -> Error {
    let code = tonic::Code::FailedPrecondition;
    let text = format!("cannot {aim}: {error}");
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            code,
            "no-tun",
            format!("{text}; /dev/net/tun is missing: mount it, or load the module tun"),
        ),
        io::ErrorKind::PermissionDenied => Error::new(
            code,
            "not-privileged",
            format!("{text}; CAP_NET_ADMIN and access to /dev/net/tun are needed: run privileged"),
        ),
        _ => Error::internal("wireguard", text),
    }
}

/// Says that a device is gone, by being closed.
pub(super) type Gone = oneshot::Receiver<()>;

/// A device in a pod.
pub(super) struct Tun {
    /// There until the end.
    device: Option<AsyncDevice>,
    is_dead: AtomicBool,
    closers: Workers,
    gone: Option<oneshot::Sender<()>>,
}

impl Tun {
    pub(super) fn new(device: SyncDevice, closers: &Workers) -> Result<(Self, Gone)> {
        let device = AsyncDevice::new(device).map_err(|error| failed("watch a TUN device", &error))?;
        let (gone, is_gone) = oneshot::channel();
        let tun = Self {
            device: Some(device),
            is_dead: AtomicBool::new(false),
            closers: closers.clone(),
            gone: Some(gone),
        };
        Ok((tun, is_gone))
    }

    /// Whether somebody else has removed the device, or its namespace has ended.
    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }

    fn device(&self) -> io::Result<&AsyncDevice> {
        self.device.as_ref().ok_or_else(|| Errno::EBADFD.into())
    }

    /// Whether `error` is the end of the device. Everything else concerns a packet.
    fn note(&self, error: &io::Error) -> bool {
        let errno = error.raw_os_error().map(Errno::from_raw);
        let is_end = matches!(errno, Some(Errno::EBADFD | Errno::EBADF | Errno::ENODEV));
        if is_end {
            self.is_dead.store(true, Ordering::Release);
        }
        is_end
    }

    /// Takes what the pod has sent, as packets of the size that the tunnel carries.
    fn take(&self, room: usize) -> io::Result<Vec<Packet<Ip>>> {
        let device = self.device()?;
        let mut packets = Vec::new();
        at_desk(|desk| {
            let Desk { read, cut, sizes, .. } = desk;
            for buffer in &mut *cut {
                if buffer.len() < room {
                    buffer.resize(room, 0);
                }
            }
            while packets.len() < IDEAL_BATCH_SIZE {
                match device.try_recv_multiple(read, cut, sizes, 0) {
                    Ok(count) => copy(cut.iter().zip(&*sizes).take(count), &mut packets),
                    Err(error) if self.note(&error) => return Err(error),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => tracing::trace!(%error, "a packet of a pod is lost"),
                }
            }
            Ok(())
        })?;
        Ok(packets)
    }

    /// Gives `packets` to the pod; those of one connection joined to few.
    fn give(&self, packets: &mut Vec<Packet<Ip>>) -> io::Result<()> {
        let device = self.device()?;
        at_desk(|desk| {
            let Desk { joined, table, .. } = desk;
            joined.truncate(packets.len());
            joined.resize_with(packets.len(), || Vec::with_capacity(ROOM));
            for (buffer, packet) in joined.iter_mut().zip(packets.drain(..)) {
                buffer.clear();
                buffer.resize(VIRTIO_NET_HDR_LEN, 0);
                buffer.extend_from_slice(&packet.into_bytes());
            }
            // The device's own call, which does not wait: what a full queue does not take is lost.
            let given = (**device).send_multiple(table, joined, VIRTIO_NET_HDR_LEN);
            for buffer in joined.iter_mut().skip(MAX_JOINED) {
                buffer.truncate(0);
                buffer.shrink_to(ROOM);
            }
            match given {
                Err(error) if self.note(&error) => Err(error),
                Err(error) => {
                    tracing::trace!(%error, "a packet for a pod is lost");
                    Ok(())
                }
                Ok(_) => Ok(()),
            }
        })
    }
}

/// Copies packets out of the buffers of the thread into one allocation of their size.
fn copy<'a>(cut: impl Iterator<Item = (&'a Vec<u8>, &'a usize)> + Clone, packets: &mut Vec<Packet<Ip>>) {
    let padded = |size: usize| size.next_multiple_of(PADDING);
    let total = cut.clone().map(|(_, size)| padded(*size)).sum();
    let mut rest = BytesMut::with_capacity(total);
    for (buffer, size) in cut {
        let Some(bytes) = buffer.get(..*size) else {
            continue;
        };
        rest.extend_from_slice(bytes);
        rest.resize(padded(*size), 0);
        let mut packet = rest.split();
        packet.truncate(*size);
        // What is no IP packet has nowhere to go.
        packets.extend(Packet::from_bytes(packet).try_into_ip().ok());
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        let (device, gone) = (self.device.take(), self.gone.take());
        self.closers.close(move || {
            drop(device);
            drop(gone);
        });
    }
}

/// Reads a device.
pub(super) struct Reader {
    pub(super) tun: Arc<Tun>,
    pub(super) mtu: MtuWatcher,
}

impl IpRecv for Reader {
    async fn recv<'a>(
        &'a mut self,
        _pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + Send + 'a> {
        loop {
            self.tun.device()?.readable().await?;
            let packets = self.tun.take(ROOM.max(self.mtu.get().into()))?;
            if !packets.is_empty() {
                return Ok(packets.into_iter());
            }
        }
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone()
    }
}

/// Writes to a device: what comes while the last packets are being written goes out together.
pub(super) struct Writer(mpsc::Sender<Packet<Ip>>);

impl Writer {
    /// Starts the task that writes, which ends when this is dropped.
    pub(super) fn start(component: &Component, tun: Arc<Tun>) -> Self {
        let (sender, mut receiver) = mpsc::channel(MAX_WAITING);
        component.spawn_detached("wireguard-tun", async move {
            let mut packets = Vec::new();
            while receiver.recv_many(&mut packets, IDEAL_BATCH_SIZE).await > 0 {
                if tun.give(&mut packets).is_err() {
                    return;
                }
            }
        });
        Self(sender)
    }
}

impl IpSend for Writer {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        let sent = self.0.send(packet).await;
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
