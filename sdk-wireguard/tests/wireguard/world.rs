// SPDX-License-Identifier: Apache-2.0
//! Two nodes with an underlay between them, pods, and other programs' view of them.

use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nsm_sdk::core::Component;
use nsm_sdk_wireguard::{Config, Engine, Kind, Made, Peer, PrivateKey, Statistics, Tunnel};
use nsm_sdk_wireguard::{kernel, userspace};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// A process in a network namespace of its own, which ends with this: a node, or a pod.
pub(crate) struct Place(Child);

impl Place {
    pub(crate) fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "ip link set lo up; echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "no namespace");
        Self(child)
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Gives the namespace a name, by which it outlives this. Returns the name.
    pub(crate) fn name(&self) -> String {
        let (name, id) = (format!("nsm-{}", self.id()), self.id().to_string());
        let attached = Command::new("ip").args(["netns", "attach", &name, &id]).status();
        assert!(attached.expect("ip starts").success());
        name
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-n", program]);
        command
    }

    /// What a command in this place prints.
    pub(crate) fn run(&self, line: &str) -> String {
        let (success, output) = self.try_run(line);
        assert!(success, "{line}: {output}");
        output
    }

    pub(crate) fn try_run(&self, line: &str) -> (bool, String) {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let output = self
            .command(program)
            .args(words)
            .output()
            .expect("nsenter starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// Runs `act` inside, on a thread that ends with it. Sockets stay where they were opened.
    pub(crate) fn inside<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let netns = std::fs::File::open(self.path()).expect("a namespace");
        let enter = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(netns.as_fd(), kind).expect("entered");
            act()
        };
        std::thread::spawn(enter).join().expect("no panic")
    }

    /// The link of this name, as `ip` shows it.
    pub(crate) fn link(&self, name: &str) -> Option<Value> {
        let (success, text) = self.try_run(&format!("ip -j -d link show dev {name}"));
        success.then(|| serde_json::from_str::<Value>(&text).expect("JSON")[0].clone())
    }

    /// How many links there are beside the loopback.
    pub(crate) fn links(&self) -> usize {
        let text = self.run("ip -j link");
        let links: Value = serde_json::from_str(&text).expect("JSON");
        links.as_array().map_or(0, |links| links.len() - 1)
    }

    /// Whether a UDP socket listens on `port`.
    pub(crate) fn listens(&self, port: u16) -> bool {
        !self.sockets(port).is_empty()
    }

    /// Whether something has arrived on `port` that nobody has taken.
    pub(crate) fn has_heard(&self, port: u16) -> bool {
        let is_waiting = |socket: &String| {
            let queues = socket.split_whitespace().nth(4).expect("its queues");
            !queues.ends_with(":00000000")
        };
        self.sockets(port).iter().any(is_waiting)
    }

    /// What the kernel says of the UDP sockets on `port`.
    fn sockets(&self, port: u16) -> Vec<String> {
        let end = format!(":{port:04X} ");
        let tables = ["udp", "udp6"].map(|table| format!("/proc/{}/net/{table}", self.0.id()));
        let tables = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
        let sockets = tables.iter().flat_map(|table| table.lines());
        sockets
            .filter(|line| line.contains(&end))
            .map(str::to_owned)
            .collect()
    }

    /// Whether packets, sent now, are answered within a time that a handshake fits in.
    pub(crate) fn reaches(&self, to: IpAddr) -> bool {
        self.try_run(&format!("ping -n -q -c 1 -w 10 {to}")).0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Its standard input is at its end: it goes by itself.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A node with an engine.
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) engine: Option<Arc<dyn Engine>>,
    /// Its address of each family in the underlay.
    pub(crate) addresses: [IpAddr; 2],
}

impl Node {
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        self.engine.as_ref().expect("not dropped")
    }
}

/// Two nodes.
pub(crate) struct World {
    pub(crate) one: Node,
    pub(crate) other: Node,
    pub(crate) component: Component,
    pub(crate) runtime: Runtime,
}

impl World {
    pub(crate) fn new(one: Kind, other: Kind) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let component = Component::new("forwarder");
        let places = [Place::new(), Place::new()];
        places[0].run(&format!(
            "ip link add underlay type veth peer name underlay netns {}",
            places[1].id()
        ));
        for (place, host) in places.iter().zip(1..) {
            place.run(&format!("ip addr add 192.0.2.{host}/24 dev underlay"));
            place.run(&format!("ip addr add 2001:db8::{host}/64 dev underlay nodad"));
            place.run("ip link set underlay up");
        }
        let mut host = 0;
        let [one, other] = [(one, 1), (other, 2)].map(|(kind, number)| (kind, number));
        let mut nodes = places
            .into_iter()
            .zip([one, other])
            .map(|(place, (kind, number))| {
                host = number;
                let config = Config {
                    node: place.path(),
                    ..Config::default()
                };
                let engine = runtime.block_on(start(&component, kind, &config));
                let address = |text: String| text.parse().expect("an address");
                Node {
                    place,
                    engine: Some(engine.expect("an engine")),
                    addresses: [
                        address(format!("192.0.2.{host}")),
                        address(format!("2001:db8::{host}")),
                    ],
                }
            });
        let (one, other) = (nodes.next().expect("two"), nodes.next().expect("two"));
        drop(nodes);
        Self {
            one,
            other,
            component,
            runtime,
        }
    }

    /// The first node has another engine from now on, which chooses from these ports.
    pub(crate) fn choose_ports(&mut self, kind: Kind, ports: &str) {
        let config = Config {
            node: self.one.place.path(),
            ports: ports.parse().expect("ports"),
            ..Config::default()
        };
        let engine = self.runtime.block_on(start(&self.component, kind, &config));
        self.one.engine = Some(engine.expect("an engine"));
    }

    pub(crate) fn make(&self, node: &Node, tunnel: &Tunnel) -> Made {
        self.try_make(node, tunnel).expect("a tunnel")
    }

    pub(crate) fn try_make(&self, node: &Node, tunnel: &Tunnel) -> nsm_sdk::core::Result<Made> {
        let (engine, tunnel) = (node.engine().clone(), tunnel.clone());
        // On a thread of the runtime, as in a forwarder.
        let made = self
            .runtime
            .spawn(async move { engine.make(&tunnel, soon()).await });
        self.runtime.block_on(made).expect("no panic")
    }

    pub(crate) fn remove(&self, node: &Node, id: &str) {
        let removed = self
            .runtime
            .block_on(async { node.engine().remove(id, soon()).await });
        removed.expect("removed");
    }

    pub(crate) fn established(&self, node: &Node, id: &str) {
        let established = self
            .runtime
            .block_on(async { node.engine().established(id, soon()).await });
        established.expect("a handshake");
    }

    pub(crate) fn statistics(&self, node: &Node, id: &str) -> Statistics {
        let statistics = self.runtime.block_on(node.engine().statistics(id));
        *statistics.expect("statistics").first().expect("a peer")
    }

    /// Waits until `is_so`, which it must be soon.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let end = self.runtime.block_on(async { soon() });
        while !is_so() {
            assert!(Instant::now() < end, "never: {what}");
            self.runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        }
    }
}

async fn start(component: &Component, kind: Kind, config: &Config) -> nsm_sdk::core::Result<Arc<dyn Engine>> {
    match kind {
        Kind::Kernel => kernel::start(component, config).await,
        Kind::Userspace => userspace::start(component, config).await,
    }
}

/// A tunnel without peers.
pub(crate) fn tunnel(id: &str, pod: &Place) -> Tunnel {
    Tunnel {
        id: id.into(),
        netns: pod.path(),
        name: "nsm".into(),
        mtu: 1420,
        private_key: PrivateKey::random().expect("randomness"),
        listen_port: 0,
        peers: Vec::new(),
    }
}

/// Two pods, one on each node, with a tunnel between them.
pub(crate) struct Pair {
    pub(crate) pods: [Place; 2],
    pub(crate) tunnels: [Tunnel; 2],
}

impl Pair {
    /// Makes the tunnel over the underlay's `family`: 0 is IPv4, 1 is IPv6.
    pub(crate) fn new(world: &World, family: usize) -> Self {
        let pods = [Place::new(), Place::new()];
        let mut tunnels = [tunnel("client-1", &pods[0]), tunnel("server-1", &pods[1])];
        let nodes = [&world.one, &world.other];
        // As connections do it: a port and a key are known before the other end is.
        for (node, tunnel) in nodes.iter().zip(&mut tunnels) {
            tunnel.listen_port = world.make(node, tunnel).listen_port;
        }
        join(&mut tunnels, nodes.map(|node| node.addresses[family]));
        for (node, tunnel) in nodes.iter().zip(&tunnels) {
            world.make(node, tunnel);
        }
        for (pod, host) in pods.iter().zip(1..) {
            pod.run(&format!("ip addr add 10.1.0.{host}/24 dev nsm"));
            pod.run(&format!("ip addr add fd00::{host}/64 dev nsm nodad"));
        }
        Self { pods, tunnels }
    }

    /// Whether the first pod reaches the second, by both families.
    pub(crate) fn is_joined(&self) -> bool {
        let to = ["10.1.0.2", "fd00::2"].map(|ip| ip.parse().expect("an address"));
        to.into_iter().all(|ip| self.pods[0].reaches(ip))
    }
}

/// Makes each the only peer of the other.
pub(crate) fn join(tunnels: &mut [Tunnel; 2], addresses: [IpAddr; 2]) {
    let [one, other] = tunnels;
    let at = |tunnel: &Tunnel, ip: IpAddr| {
        Peer::only(
            tunnel.private_key.public(),
            SocketAddr::new(ip, tunnel.listen_port),
        )
    };
    let (of_one, of_other) = (at(other, addresses[1]), at(one, addresses[0]));
    one.peers = vec![of_one];
    other.peers = vec![of_other];
}

/// How many files this process has open.
pub(crate) fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("a folder").count()
}
