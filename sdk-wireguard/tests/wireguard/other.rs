// SPDX-License-Identifier: Apache-2.0
//! The same protocol as another program speaks it: `wireguard-go`.

use std::net::SocketAddr;
use std::process::{Child, Stdio};

use nsm_sdk_wireguard::{Kind, Peer};

use crate::world::{Place, World, tunnel};

crate::tests![
    wireguard_go_is_reached_over_ipv4,
    wireguard_go_is_reached_over_ipv6,
    wireguard_go_begins_and_moves_to_another_port,
    wireguard_go_has_begun_before_it_is_a_peer,
];

/// The bytes of a message that begins a handshake; an answer has 92, and a keepalive 32.
const INITIATION: u64 = 148;

/// A `wireguard-go` whose device is in a node's own namespace.
struct Go {
    child: Child,
    name: String,
    public_key: String,
}

impl Go {
    fn new(world: &World) -> Self {
        // Its control socket has the name of the device, in a folder of the whole machine.
        let name = format!("wg{}", world.other.place.id());
        let child = (world.other.place.command("wireguard-go"))
            .args(["-f", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wireguard-go is installed");
        let place = &world.other.place;
        world.until("wireguard-go is ready", || {
            place.try_run(&format!("wg show {name}")).0
        });
        place.run(&format!("ip addr add 10.1.0.2/24 dev {name}"));
        place.run(&format!("ip addr add fd00::2/64 dev {name} nodad"));
        place.run(&format!("ip link set {name} up mtu 1420"));
        let script =
            format!("umask 077; k=/tmp/{name}.key; wg genkey > $k; wg set {name} private-key $k; rm $k");
        let set = place
            .command("sh")
            .args(["-c", &script])
            .status()
            .expect("a shell");
        assert!(set.success());
        let public_key = place.run(&format!("wg show {name} public-key")).trim().to_owned();
        Self {
            child,
            name,
            public_key,
        }
    }

    fn set(&self, place: &Place, line: &str) {
        place.run(&format!("wg set {} {line}", self.name));
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name));
    }
}

fn wireguard_go_is_reached_over_ipv4(one: Kind, other: Kind) {
    reach(one, other, 0);
}

fn wireguard_go_is_reached_over_ipv6(one: Kind, other: Kind) {
    reach(one, other, 1);
}

fn reach(one: Kind, other: Kind, family: usize) {
    let world = World::new(one, other);
    let (go, pod) = (Go::new(&world), Place::new());
    let mut tunnel = tunnel("client-1", &pod);
    let there = SocketAddr::new(world.other.addresses[family], 51_820);
    tunnel.peers = vec![Peer::only(go.public_key.parse().expect("a key"), there)];
    let key = tunnel.private_key.public();
    let set = format!("listen-port 51820 peer {key} allowed-ips 0.0.0.0/0,::/0");
    go.set(&world.other.place, &set);
    world.make(&world.one, &tunnel);
    world.established(&world.one, "client-1");
    pod.run("ip addr add 10.1.0.1/24 dev nsm");
    pod.run("ip addr add fd00::1/64 dev nsm nodad");
    for ip in ["10.1.0.2", "fd00::2"] {
        assert!(pod.reaches(ip.parse().expect("an address")), "{ip}");
    }
    pod.run("ping -n -q -c 20 -i 0.01 -s 1372 -M do 10.1.0.2");
}

fn wireguard_go_begins_and_moves_to_another_port(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let (go, pod) = (Go::new(&world), Place::new());
    let mut tunnel = tunnel("server-1", &pod);
    // Where it is told that the other one is, nobody is.
    let nowhere = SocketAddr::new(world.other.addresses[0], 9);
    let mut peer = Peer::only(go.public_key.parse().expect("a key"), nowhere);
    peer.keepalive = None;
    tunnel.peers = vec![peer];
    tunnel.listen_port = world.make(&world.one, &tunnel).listen_port;
    pod.run("ip addr add 10.1.0.1/24 dev nsm");
    let (key, ip, port) = (
        tunnel.private_key.public(),
        world.one.addresses[0],
        tunnel.listen_port,
    );
    let set = format!("listen-port 51820 peer {key} allowed-ips 0.0.0.0/0,::/0 endpoint {ip}:{port}");
    go.set(&world.other.place, &set);
    let pod_ip = "10.1.0.1".parse().expect("an address");
    assert!(world.other.place.reaches(pod_ip));
    go.set(&world.other.place, "listen-port 51821");
    assert!(world.other.place.reaches(pod_ip));
    // A refresh does not send packets back to where nobody is.
    world.make(&world.one, &tunnel);
    assert!(pod.reaches("10.1.0.2".parse().expect("an address")));
}

fn wireguard_go_has_begun_before_it_is_a_peer(one: Kind, other: Kind) {
    let world = World::new(one, other);
    let (go, pod) = (Go::new(&world), Place::new());
    let mut tunnel = tunnel("client-1", &pod);
    let port = world.make(&world.one, &tunnel).listen_port;
    pod.run("ip addr add 10.1.0.1/24 dev nsm");
    let (key, ip) = (tunnel.private_key.public(), world.one.addresses[0]);
    let set = format!(
        "listen-port 51820 peer {key} allowed-ips 0.0.0.0/0 endpoint {ip}:{port} persistent-keepalive 10"
    );
    go.set(&world.other.place, &set);
    // The kernel's engine answers nobody whom it does not know.
    if one == Kind::Userspace {
        world.until("its handshake waits", || world.one.place.has_heard(port));
    }
    let there = SocketAddr::new(world.other.addresses[0], 51_820);
    tunnel.peers = vec![Peer::only(go.public_key.parse().expect("a key"), there)];
    world.make(&world.one, &tunnel);
    world.established(&world.one, "client-1");
    if one == Kind::Userspace {
        let sent = world.statistics(&world.one, "client-1").tx_bytes;
        assert!(sent < INITIATION, "{sent} bytes are more than an answer");
    }
    assert!(pod.reaches("10.1.0.2".parse().expect("an address")));
}
