// SPDX-License-Identifier: Apache-2.0
//! What fits through the network between nodes, as the routes and devices of our own namespace say.
//!
//! **Guarantees**: what the kernel would do with a packet right now: a route's own MTU counts before its device's, and
//! a path MTU that the kernel has learnt before both (rtnetlink(7), `RTA_METRICS`).
//! What changes is told at most every [`PAUSE`].
//! **Cost**: two requests to the kernel, about 20 µs, on a thread of the data plane.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use netlink_packet_core::Parseable;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use nsm_sdk::core::{Error, Result};
use nsm_sdk::dataplane::underlay::Underlay;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::dumps::dump;
use crate::kernel::{Kernel, ask};
use crate::monitor::{DATAGRAM, RTNLGRP_LINK, read, readiness, subscribe};
use crate::netlink::{Netlink, Request};
use crate::observe::{self, Which};
use crate::shared::Shared;

/// How long changes are collected: a link that goes takes its routes along, each with a report.
const PAUSE: Duration = Duration::from_millis(100);

/// The groups of `linux/rtnetlink.h` that tell of routes.
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;

/// How long the kernel may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way that a packet takes.
struct Way {
    device: u32,
    mtu: Option<u32>,
}

#[async_trait]
impl Underlay for Kernel {
    async fn mtu(&self, local: IpAddr, remote: Option<IpAddr>) -> Result<u32> {
        let what = "find the way to the other node";
        ask(self.pool(), Instant::now() + PATIENCE, what, move |station| {
            let netlink = &mut station.node;
            let way = match remote {
                Some(remote) => route(netlink, local, remote)?,
                None => holder(netlink, local)?,
            };
            match way.mtu {
                Some(mtu) => Ok(mtu),
                None => device_mtu(netlink, way.device),
            }
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.shared.underlay.subscribe()
    }
}

/// Listens for changes of devices and routes of our own namespace until the task is dropped.
pub(crate) async fn listen(shared: Arc<Shared>, socket: Arc<Socket>) {
    let reports = match readiness(&socket) {
        Ok(reports) => reports,
        Err(error) => {
            return tracing::error!(%error, "MTUs follow the underlay only when a wire is asked for");
        }
    };
    let mut buffer = Vec::with_capacity(DATAGRAM);
    while let Ok(mut ready) = reports.readable().await {
        ready.clear_ready();
        sleep(PAUSE).await;
        // What was lost was a change, too.
        if let Err(error) = read(&socket, &mut buffer, |_| ()) {
            tracing::debug!(%error, "some changes of the underlay were not reported");
        }
        shared.underlay.send_replace(());
    }
}

/// The socket on which the kernel reports them.
pub(crate) fn reports() -> std::io::Result<Arc<Socket>> {
    let groups = [RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE];
    subscribe(false, &groups).map(Arc::new)
}

fn no_underlay(text: String) -> Error {
    Error::unavailable("no-underlay", text)
}

fn failed(what: &str, error: &std::io::Error) -> Error {
    Error::internal("kernel", format!("netlink: {what}: {error}"))
}

/// The route that the kernel would choose.
fn route(netlink: &mut Netlink, local: IpAddr, remote: IpAddr) -> Result<Way> {
    let (family, bits) = match remote {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = bits;
    message.header.source_prefix_length = bits;
    message.attributes = vec![
        RouteAttribute::Destination(address(remote)),
        RouteAttribute::Source(address(local)),
    ];
    let request = Request::plain(RouteNetlinkMessage::GetRoute(message));
    let answer = netlink
        .execute(request)
        .map_err(|error| failed("asking for a route", &error))?;
    let none = |why: &str| {
        no_underlay(format!(
            "this node has no route from {local} to {remote} ({why}): check that {local} is an address of this node \
             (NSM_TUNNEL_IP) and that the network between the nodes is up"
        ))
    };
    let body = answer
        .map_err(|refusal| none(&refusal.to_string()))?
        .ok_or_else(|| none("the kernel said nothing"))?;
    let route = RouteMessage::parse(&body).map_err(|error| none(&error.to_string()))?;
    let mut way = Way { device: 0, mtu: None };
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => way.device = index,
            RouteAttribute::Metrics(metrics) => {
                way.mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Ok(way)
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    }
}

/// The device that has an address.
fn holder(netlink: &mut Netlink, local: IpAddr) -> Result<Way> {
    let mut message = AddressMessage::default();
    message.header.family = match local {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let mut device = None;
    dump(netlink, &RouteNetlinkMessage::GetAddress(message), |body| {
        let Ok(message) = AddressMessage::parse(body) else {
            return;
        };
        let has_it = message.attributes.iter().any(|attribute| {
            matches!(attribute, AddressAttribute::Local(ip) | AddressAttribute::Address(ip) if *ip == local)
        });
        if has_it {
            device = Some(message.header.index);
        }
    })
    .map_err(|error| failed("listing addresses", &error))?;
    let device = device.ok_or_else(|| {
        no_underlay(format!(
            "{local} is no address of this node: set NSM_TUNNEL_IP to one that other nodes can reach"
        ))
    })?;
    Ok(Way { device, mtu: None })
}

fn device_mtu(netlink: &mut Netlink, device: u32) -> Result<u32> {
    let seen = observe::link(netlink, &Which::Index(device))
        .map_err(|error| failed("asking for a device", &error))?;
    let gone = || no_underlay("the device towards the other node has just gone; try again".to_string());
    Ok(seen.ok_or_else(gone)?.mtu)
}
