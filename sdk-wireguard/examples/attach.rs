// SPDX-License-Identifier: Apache-2.0
//! How long it takes to make the device of a tunnel, to make the same again, to let it go and to see it gone, with each
//! engine that is here. The first of each is shown apart: a node makes it once.
//!
//! ```sh
//! cargo build --release -p nsm-sdk-wireguard --example attach
//! unshare -nm target/release/examples/attach
//! ```
#![forbid(unsafe_code)]

#[path = "common/place.rs"]
mod place;

use std::time::Duration;

use nsm_sdk::core::Component;
use nsm_sdk_wireguard::{Config, Peer, PrivateKey, Tunnel, kernel, userspace};
use tokio::time::Instant;

use place::{Done, Place};

/// How often.
const ROUNDS: usize = 100;

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn since(&mut self, began: Instant) {
        self.0.push(began.elapsed());
    }

    fn show(mut self, what: &str) {
        let first = self.0.first().copied().unwrap_or_default();
        self.0.sort_unstable();
        let at = |share: usize| {
            self.0
                .get(self.0.len() * share / 100)
                .copied()
                .unwrap_or_default()
        };
        println!(
            "  {what:<12} first {first:>9.2?}, p50 {:>9.2?}, p99 {:>9.2?}",
            at(50),
            at(99)
        );
    }
}

async fn measure(component: &Component, kind: &str) -> Done<()> {
    let (node, pod) = (Place::new()?, Place::new()?);
    let config = Config {
        node: node.netns().into(),
        ..Config::default()
    };
    let began = Instant::now();
    let engine = match kind {
        "kernel" => kernel::start(component, &config).await?,
        _ => userspace::start(component, &config).await?,
    };
    println!("{kind}: started in {:.2?}", began.elapsed());
    let peer = PrivateKey::random()?.public();
    let [mut made, mut same, mut removed] = [const { Times(Vec::new()) }; 3];
    for round in 0..ROUNDS {
        let tunnel = Tunnel {
            id: format!("client-{round}"),
            netns: pod.netns().into(),
            name: "nsm".into(),
            mtu: 1420,
            private_key: PrivateKey::random()?,
            listen_port: 0,
            peers: vec![Peer::only(peer, "192.0.2.2:51900".parse()?)],
        };
        let began = Instant::now();
        engine.make(&tunnel, began + PATIENCE).await?;
        made.since(began);
        pod.run("ip link show dev nsm up | grep -q nsm")?;
        let began = Instant::now();
        engine.make(&tunnel, began + PATIENCE).await?;
        same.since(began);
        let began = Instant::now();
        engine.remove(&tunnel.id, began + PATIENCE).await?;
        removed.since(began);
    }
    made.show("made");
    same.show("made again");
    removed.show("removed");
    Ok(())
}

/// One thread, as the forwarder has.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Done<()> {
    let component = Component::new("forwarder");
    for kind in ["userspace", "kernel"] {
        if let Err(error) = measure(&component, kind).await {
            println!("{kind}: {error}");
        }
    }
    Ok(())
}
