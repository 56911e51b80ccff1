// SPDX-License-Identifier: Apache-2.0
//! What one tunnel carries between two pods, with each engine that is here and with `wireguard-go`: TCP by `iperf3`, all
//! ends on this machine. Ratios of one run mean something, figures alone do not.
//!
//! ```sh
//! cargo build --release -p nsm-sdk-wireguard --example throughput
//! unshare -nm target/release/examples/throughput [userspace|kernel|wireguard-go ...]
//! ```
#![forbid(unsafe_code)]

#[path = "common/place.rs"]
mod place;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nsm_sdk::core::Component;
use nsm_sdk_wireguard::{Config, Engine, Peer, PrivateKey, Tunnel, kernel, userspace};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use place::{Done, Place};

/// How long each measurement takes, seconds.
const TIME: u32 = 4;

/// Two nodes with a link between them, and a pod on each.
struct World {
    nodes: [Place; 2],
    pods: [Place; 2],
}

impl World {
    fn new() -> Done<Self> {
        let nodes = [Place::new()?, Place::new()?];
        let other = nodes[1].0.id();
        nodes[0].run(&format!("ip link add u type veth peer name u netns {other}"))?;
        for (node, host) in nodes.iter().zip(1..) {
            node.run(&format!("ip addr add 192.0.2.{host}/24 dev u; ip link set u up"))?;
        }
        let pods = [Place::new()?, Place::new()?];
        Ok(Self { nodes, pods })
    }

    /// Gives both ends their addresses and measures, one stream and four backwards.
    async fn measure(&self, what: &str) -> Done<()> {
        for (pod, host) in self.pods.iter().zip(1..) {
            pod.run(&format!(
                "ip addr add 10.1.0.{host}/24 dev nsm; ip link set nsm up mtu 1420"
            ))?;
        }
        self.pods[0].run("ping -q -c 1 -w 10 10.1.0.2")?;
        let ping = self.pods[0].run("ping -q -c 200 -i 0.002 10.1.0.2 | awk -F/ '/rtt/{print $5}'")?;
        let mut rates = Vec::new();
        for way in ["", "-R -P 4"] {
            let mut server = self.pods[1]
                .shell("exec iperf3 -s -1")
                .stdout(Stdio::null())
                .spawn()?;
            let end = Instant::now() + Duration::from_secs(10);
            while !self.pods[1].run("ss -Htln sport = 5201")?.contains("5201") && Instant::now() < end {
                sleep(Duration::from_millis(20)).await;
            }
            let line = format!("iperf3 -c 10.1.0.2 -t {TIME} {way} -f m | grep -E 'receiver' | tail -1");
            let pods = &self.pods;
            let rate = tokio::task::block_in_place(|| pods[0].run(&line))?;
            server.wait()?;
            let mut words = rate
                .split_whitespace()
                .rev()
                .skip_while(|word| *word != "Mbits/sec");
            rates.push(words.nth(1).unwrap_or("?").to_owned());
        }
        println!(
            "{what:<14} {:>6} Mbit/s, 4 streams back {:>6} Mbit/s, ping {} ms",
            rates[0],
            rates[1],
            ping.trim()
        );
        Ok(())
    }
}

/// An engine with one tunnel on a thread of its own, as a forwarder is a process of one thread.
struct Forwarder {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Forwarder {
    async fn new(kind: &'static str, node: String, tunnel: Tunnel) -> Done<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                let made = make(kind, node, &tunnel).await;
                let (engine, made) = made.map_or_else(|error| (None, Err(error)), |it| (Some(it), Ok(())));
                let _ = ready.send(made);
                let _ = stopped.await;
                drop(engine);
            });
        });
        is_ready.await??;
        Ok(Self { stop, thread })
    }

    fn end(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}

async fn make(kind: &str, node: String, tunnel: &Tunnel) -> nsm_sdk::core::Result<Arc<dyn Engine>> {
    let component = Component::new("forwarder");
    let config = Config {
        node: node.into(),
        ..Config::default()
    };
    let engine = match kind {
        "kernel" => kernel::start(&component, &config).await?,
        _ => userspace::start(&component, &config).await?,
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    engine.make(tunnel, deadline).await?;
    Ok(engine)
}

async fn engine(kind: &'static str) -> Done<()> {
    let world = World::new()?;
    let keys = [PrivateKey::random()?, PrivateKey::random()?];
    let mut forwarders = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let there: SocketAddr = format!("192.0.2.{}:51900", 2 - at).parse()?;
        let tunnel = Tunnel {
            id: "c".into(),
            netns: world.pods[at].netns().into(),
            name: "nsm".into(),
            mtu: 1420,
            private_key: key.clone(),
            listen_port: 51_900,
            peers: vec![Peer::only(keys[1 - at].public(), there)],
        };
        forwarders.push(Forwarder::new(kind, world.nodes[at].netns(), tunnel).await?);
    }
    let measured = world.measure(kind).await;
    forwarders.into_iter().for_each(Forwarder::end);
    measured
}

/// `wireguard-go` at both ends, its devices moved to the pods.
async fn go() -> Done<()> {
    let world = World::new()?;
    let names = [0, 1].map(|at| format!("wg{}", world.nodes[at].0.id()));
    let mut daemons = Vec::new();
    let mut keys = Vec::new();
    for (node, name) in world.nodes.iter().zip(&names) {
        let quiet = format!("exec wireguard-go -f {name} >/dev/null 2>&1");
        daemons.push(node.shell(&quiet).spawn()?);
        let line = format!(
            "for i in $(seq 100); do wg show {name} >/dev/null 2>&1 && break; sleep 0.1; done; umask 077; \
             wg genkey > /tmp/{name}; wg set {name} private-key /tmp/{name} listen-port 51900; rm /tmp/{name}; \
             wg show {name} public-key"
        );
        keys.push(node.run(&line)?.trim().to_owned());
    }
    for (at, (node, name)) in world.nodes.iter().zip(&names).enumerate() {
        let (key, host, pod) = (&keys[1 - at], 2 - at, world.pods[at].0.id());
        node.run(&format!(
            "wg set {name} peer {key} allowed-ips 0.0.0.0/0 endpoint 192.0.2.{host}:51900"
        ))?;
        node.run(&format!("ip link set {name} netns {pod} name nsm"))?;
    }
    let measured = world.measure("wireguard-go").await;
    for mut daemon in daemons {
        daemon.kill()?;
        daemon.wait()?;
    }
    for name in names {
        let _ = std::fs::remove_file(format!("/var/run/wireguard/{name}.sock"));
    }
    measured
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Done<()> {
    let every = ["kernel", "userspace", "wireguard-go", "userspace", "wireguard-go"].map(String::from);
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let asked = if asked.is_empty() { &every[..] } else { &asked[..] };
    for what in asked {
        let measured = match what.as_str() {
            "wireguard-go" => go().await,
            "kernel" => engine("kernel").await,
            _ => engine("userspace").await,
        };
        if let Err(error) = measured {
            println!("{what:<14} {error}");
        }
    }
    Ok(())
}
