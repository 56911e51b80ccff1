// SPDX-License-Identifier: Apache-2.0
//! What the kernel itself needs for a wire, and what [`Kernel`] makes of it, measured in one run.
//!
//! The floor: one message for the pair, then one batch for each end with link, address, route and neighbour, on
//! sockets that are open already; no checks, no books, no second thread. Needs root; makes its own namespaces.
//!
//! ```text
//! cargo run --release -p nsm-benches --bin veth-floor [ROUNDS]
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nsm_sdk::core::Component;
use nsm_sdk::dataplane::{DataPlane, Interface, Payload, Route, Wire};
use nsm_sdk_kernel::{Config, Kernel};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

type Done<T = ()> = Result<T, Box<dyn Error>>;

const CLIENT: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 101);
const ENDPOINT: Ipv4Addr = Ipv4Addr::new(172, 16, 1, 100);
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

fn main() -> Done {
    let rounds = std::env::args().nth(1).map_or(Ok(300), |text| text.parse())?;
    let pods = [Pod::new()?, Pod::new()?];
    let mut floor = floor(&pods, rounds)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let [mut connect, mut refresh, mut disconnect] = runtime.block_on(kernel(&pods, rounds))?;
    for (what, times) in [
        ("floor: bare messages", &mut floor),
        ("Kernel: connect", &mut connect),
        ("Kernel: refresh without change", &mut refresh),
        ("Kernel: disconnect, to its return", &mut disconnect),
    ] {
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_micros();
        println!(
            "{what:36} p50 {:>5} µs   p90 {:>5} µs   p99 {:>5} µs",
            at(50),
            at(90),
            at(99)
        );
    }
    Ok(())
}

/// A process in a network namespace of its own.
struct Pod(Child);

impl Pod {
    fn new() -> Done<Self> {
        let mut command = Command::new("unshare");
        command.args(["-n", "sh", "-c", "echo ready; exec cat"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut String::new())?;
        Ok(Self(child))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn open() -> Done<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends all requests at once and reads their acknowledgements.
fn send(socket: &Socket, requests: Vec<RouteNetlinkMessage>) -> Done {
    let mut bytes = Vec::new();
    let mut missing = requests.len();
    for request in requests {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }
    socket.send(&bytes, 0)?;
    while missing > 0 {
        let (answer, _) = socket.recv_from_full()?;
        let errno = answer
            .get(16..20)
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, i32::from_ne_bytes);
        if errno != 0 {
            return Err(std::io::Error::from_raw_os_error(-errno).into());
        }
        missing -= 1;
    }
    Ok(())
}

fn floor(pods: &[Pod; 2], rounds: u32) -> Done<Vec<Duration>> {
    let spaces = [File::open(pods[0].path())?, File::open(pods[1].path())?];
    let home = File::open("/proc/thread-self/ns/net")?;
    let node = open()?;
    let mut sockets = Vec::new();
    for space in &spaces {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
        sockets.push(open()?);
    }
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut times = Vec::new();
    for round in 0..rounds {
        let indexes = [1_000_000 + 2 * round, 1_000_001 + 2 * round];
        let started = Instant::now();
        let mut pair = half("floor", indexes[0], &spaces[0], MACS[0]);
        let peer = InfoVeth::Peer(half("floor", indexes[1], &spaces[1], MACS[1]));
        let info = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(peer)),
        ];
        pair.attributes.push(LinkAttribute::LinkInfo(info));
        pair.header.flags = LinkFlags::Up;
        pair.header.change_mask = LinkFlags::Up;
        send(&node, vec![RouteNetlinkMessage::NewLink(pair)])?;
        send(&sockets[1], end(indexes[1], ENDPOINT, CLIENT, MACS[0]))?;
        send(&sockets[0], end(indexes[0], CLIENT, ENDPOINT, MACS[1]))?;
        times.push(started.elapsed());
        let mut link = LinkMessage::default();
        link.header.index = indexes[0];
        send(&sockets[0], vec![RouteNetlinkMessage::DelLink(link)])?;
    }
    Ok(times)
}

fn half(name: &str, index: u32, space: &File, mac: [u8; 6]) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![
        LinkAttribute::IfName(name.into()),
        LinkAttribute::NetNsFd(space.as_raw_fd()),
        LinkAttribute::Mtu(9000),
        LinkAttribute::Address(mac.into()),
    ];
    message
}

fn end(index: u32, own: Ipv4Addr, other: Ipv4Addr, mac: [u8; 6]) -> Vec<RouteNetlinkMessage> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![LinkAttribute::IfAlias("floor".into())];
    let mut address = AddressMessage::default();
    address.header.family = AddressFamily::Inet;
    address.header.prefix_len = 32;
    address.header.index = index;
    address.attributes = vec![
        AddressAttribute::Local(own.into()),
        AddressAttribute::Address(own.into()),
    ];
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = 32;
    route.header.table = 254;
    route.header.protocol = RouteProtocol::Boot;
    route.header.kind = RouteType::Unicast;
    route.attributes = vec![
        RouteAttribute::Destination(IpAddr::from(other).into()),
        RouteAttribute::Oif(index),
    ];
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = AddressFamily::Inet;
    neighbour.header.ifindex = index;
    neighbour.header.state = NeighbourState::Permanent;
    neighbour.attributes = vec![
        NeighbourAttribute::Destination(IpAddr::from(other).into()),
        NeighbourAttribute::LinkLayerAddress(mac.into()),
    ];
    vec![
        RouteNetlinkMessage::SetLink(link),
        RouteNetlinkMessage::NewAddress(address),
        RouteNetlinkMessage::NewRoute(route),
        RouteNetlinkMessage::NewNeighbour(neighbour),
    ]
}

fn interface(pod: &Pod, own: Ipv4Addr, other: Ipv4Addr) -> Done<Interface> {
    let prefix = IpNet::new(other.into(), 32)?;
    Ok(Interface {
        netns: pod.path(),
        name: "nsm-1".into(),
        addresses: vec![IpNet::new(own.into(), 32)?],
        routes: vec![Route {
            prefix,
            via: None,
            link: false,
        }],
        peers: vec![other.into()],
        ..Interface::default()
    })
}

/// The times of connect, refresh and disconnect.
async fn kernel(pods: &[Pod; 2], rounds: u32) -> Done<[Vec<Duration>; 3]> {
    let journal = std::env::temp_dir().join(format!("nsm-floor-{}", std::process::id()));
    let config = Config {
        journal: Some(journal.clone()),
        group: std::process::id(),
        ..Config::default()
    };
    let kernel = Kernel::start(&Component::new("floor"), config).await?;
    let mut wire = Wire {
        connection: String::new(),
        payload: Payload::Ip,
        mtu: 9000,
        client: interface(&pods[0], CLIENT, ENDPOINT)?,
        endpoint: interface(&pods[1], ENDPOINT, CLIENT)?,
    };
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut wires = Vec::new();
    for round in 0..rounds {
        wire.connection = format!("connection-{round}");
        wire.client.name = format!("nsm-{round}");
        wire.endpoint.name = format!("nsm-{round}");
        let started = Instant::now();
        kernel.connect(&wire, None, deadline).await?;
        times[0].push(started.elapsed());
        let started = Instant::now();
        kernel.connect(&wire, Some(&wire), deadline).await?;
        times[1].push(started.elapsed());
        wires.push(wire.clone());
    }
    for wire in &wires {
        let started = Instant::now();
        kernel.disconnect(wire).await?;
        times[2].push(started.elapsed());
    }
    let started = Instant::now();
    kernel.end().await;
    println!(
        "{rounds} wires are gone {:?} after the last disconnect",
        started.elapsed()
    );
    std::fs::remove_file(journal)?;
    Ok(times)
}
