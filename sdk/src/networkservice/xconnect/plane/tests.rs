// SPDX-License-Identifier: Apache-2.0

use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;
use crate::dataplane::model::Model;
use crate::dataplane::tunnel::{NODE, Vxlan};
use crate::dataplane::wireguard::TunnelId;
use crate::dataplane::{Interface, Payload};

/// Notes what it is asked for, and fails what it is told to.
#[derive(Default)]
struct Noted {
    calls: Mutex<Vec<String>>,
    fails: Mutex<Option<&'static str>>,
}

impl Noted {
    fn note(&self, call: &str, wire: &RemoteWire) -> Result<()> {
        let Tunnel::Vxlan(vxlan) = &wire.tunnel else {
            panic!("another tunnel: {wire:?}");
        };
        let call = format!("{call} {}", vxlan.vni);
        let fails = self.fails.lock().is_some_and(|fails| fails == call);
        self.calls.lock().push(call);
        match fails {
            true => Err(Error::unavailable("told-so", "told to fail")),
            false => Ok(()),
        }
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock())
    }
}

#[async_trait]
impl Tunnels for Noted {
    async fn connect(&self, wire: &RemoteWire, before: Option<&RemoteWire>, _: Instant) -> Result<()> {
        let call = if before.is_some() { "change" } else { "make" };
        self.note(call, wire)
    }

    async fn join(&self, transit: &Transit, _: Instant) -> Result<()> {
        self.note("join", &transit.endpoint)
    }

    async fn disconnect(&self, wire: &RemoteWire) -> Result<()> {
        self.note("remove", wire)
    }

    async fn counters(&self, wire: &RemoteWire) -> Result<Counters> {
        let came = match wire.id.towards {
            Towards::Client => 1,
            Towards::Endpoint => 2,
        };
        Ok(Counters {
            rx_packets: came,
            tx_packets: 10 * came,
            ..Counters::default()
        })
    }
}

/// A tunnel with this number.
fn half(towards: Towards, vni: u32, netns: &str) -> RemoteWire {
    RemoteWire {
        id: TunnelId {
            connection: "c-0".into(),
            towards,
        },
        payload: Payload::Ethernet,
        mtu: 1400,
        interface: Interface {
            netns: netns.into(),
            name: format!("tunnel-{vni}"),
            ..Interface::default()
        },
        tunnel: Tunnel::Vxlan(Vxlan {
            local: [10, 77, 0, 2].into(),
            remote: [10, 77, 0, 3].into(),
            port: 4789,
            vni,
        }),
    }
}

fn transit(endpoint: u32) -> Part {
    Part::Transit(Box::new(Transit {
        client: half(Towards::Client, 1, NODE),
        endpoint: half(Towards::Endpoint, endpoint, NODE),
    }))
}

fn planes() -> (Planes, Arc<Noted>) {
    let noted = Arc::new(Noted::default());
    let planes = Planes::new(Arc::new(Model::new())).with_tunnels(Arc::clone(&noted) as _);
    (planes, noted)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[tokio::test]
async fn a_wire_that_passes_through_is_two_tunnels_joined() {
    let (planes, noted) = planes();
    let wire = transit(2);
    planes.connect(&wire, None, soon()).await.expect("made");
    assert_eq!(noted.calls(), ["make 1", "make 2", "join 2"]);
    planes
        .connect(&wire, Some(&wire), soon())
        .await
        .expect("refreshed");
    assert_eq!(noted.calls(), ["change 1", "change 2", "join 2"]);
    let (client, endpoint) = planes.counters(&wire).await.expect("counted");
    assert_eq!(
        (client.tx_packets, client.rx_packets),
        (1, 10),
        "as its pod counts"
    );
    assert_eq!((endpoint.tx_packets, endpoint.rx_packets), (2, 20));
    planes.disconnect(&wire).await.expect("removed");
    assert_eq!(noted.calls(), ["remove 1", "remove 2"]);
}

#[tokio::test]
async fn a_wire_that_cannot_pass_through_leaves_neither_tunnel() {
    for fails in ["make 1", "make 2", "join 2"] {
        let (planes, noted) = planes();
        *noted.fails.lock() = Some(fails);
        planes
            .connect(&transit(2), None, soon())
            .await
            .expect_err("told to fail");
        let calls = noted.calls();
        assert_eq!(calls[calls.len() - 2..], ["remove 1", "remove 2"], "{fails}");
    }
}

#[tokio::test]
async fn a_failed_refresh_leaves_what_passes_through() {
    let (planes, noted) = planes();
    let wire = transit(2);
    planes.connect(&wire, None, soon()).await.expect("made");
    noted.calls();
    *noted.fails.lock() = Some("change 2");
    let done = planes.connect(&wire, Some(&wire), soon()).await;
    done.expect_err("told to fail");
    assert_eq!(noted.calls(), ["change 1", "change 2"]);
}

#[tokio::test]
async fn what_passes_through_goes_before_another_way_has_its_numbers() {
    let (planes, noted) = planes();
    let ends_here = Part::Half(half(Towards::Client, 1, "/ns/endpoint"));
    let ways = [
        (
            transit(2),
            transit(3),
            &["remove 1", "remove 2", "make 1", "make 3", "join 3"][..],
        ),
        (transit(2), ends_here.clone(), &["remove 1", "remove 2", "make 1"]),
        (ends_here, transit(2), &["remove 1", "make 1", "make 2", "join 2"]),
    ];
    for (before, now, calls) in ways {
        planes.connect(&now, Some(&before), soon()).await.expect("made");
        assert_eq!(noted.calls(), calls);
    }
}
