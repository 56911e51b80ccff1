// SPDX-License-Identifier: Apache-2.0
//! What other nodes say of tunnels, and what becomes of it.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Pod, ping};
use nsm_api::connection::Mechanism;
use nsm_api::mechanism::{KERNEL, LOCAL, REMOTE, VXLAN, WIREGUARD};
use nsm_sdk::core::{Ctx, Request};

use crate::Bench;
use crate::remote::Apart;
use crate::world::{Caller, PATIENCE, links, prints, refused, same, stops};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.apart(
            "d51_two_peers_that_choose_the_same_vni_both_have_a_wire",
            "ETHERNET",
            same_vni,
        ),
        bench.apart(
            "d52_a_vni_that_a_stranger_has_is_answered_by_another",
            "ETHERNET",
            foreign_vni,
        ),
        bench.apart(
            "parameters_of_vxlan_that_cannot_be_are_refused_by_their_text",
            "ETHERNET",
            bad_vxlan,
        ),
        bench.apart(
            "parameters_of_wireguard_that_cannot_be_are_refused_by_their_text",
            "IP",
            bad_wireguard,
        ),
        bench.apart(
            "a_tunnel_that_cannot_go_on_is_refused_and_the_next_preference_is_tried",
            "IP",
            next_preference,
        ),
    ]
}

const VNI: &str = "77";

/// Somebody who says to the manager of the second node what the forwarder of another one would.
struct Peer {
    caller: Caller,
    url: String,
}

impl Peer {
    async fn new(apart: &Apart) -> Result<Self> {
        let caller = Caller::new(
            "nsc",
            apart.first.identity().clone(),
            std::time::Duration::from_secs(600),
        );
        Ok(Self {
            caller,
            url: apart.second.manager_url(),
        })
    }

    /// A first request of a peer at `ip` with a tunnel of this kind.
    fn offer(&self, id: &str, ip: &str, kind: &str) -> Result<Request> {
        let mut request = self.caller.ask(id, "kernel://icmp-responder")?;
        let mut offered = Mechanism::new(REMOTE, kind);
        for (key, value) in [("src_ip", ip), ("src_port", "4789"), ("MTU", "1400")] {
            offered.set_parameter(key, value);
        }
        match kind {
            VXLAN => offered.set_parameter("vni", VNI),
            _ => offered.set_parameter("src_public_key", "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk="),
        }
        request.mechanism_preferences = vec![offered];
        Ok(request)
    }

    async fn ask(&self, request: Request) -> Result<Request> {
        self.caller.request(&self.url, request).await
    }

    async fn close(&self, request: Request) -> Result<()> {
        self.caller.close(&self.url, request).await
    }
}

fn vni(request: &Request) -> Result<String> {
    let mechanism = request.connection.mechanism.as_ref().context("no mechanism")?;
    same("the mechanism", mechanism.r#type.as_str(), VXLAN)?;
    Ok(mechanism.parameter("vni").to_string())
}

async fn same_vni(apart: &mut Apart) -> Result<()> {
    let peer = Peer::new(apart).await?;
    let third = apart.underlay.host(3)?;
    let hosts = [apart.hosts[0].pod(), third.pod()];
    let mut answers = Vec::new();
    for (number, ip) in [(0, "10.77.0.1"), (1, "10.77.0.3")] {
        answers.push(
            peer.ask(peer.offer(&format!("same-{number}"), ip, VXLAN)?)
                .await?,
        );
    }
    let [first, second] = [vni(&answers[0])?, vni(&answers[1])?];
    same("the first VNI", first.as_str(), VNI)?;
    ensure!(second != first, "both have the VNI {first}");
    for (host, answer) in hosts.iter().zip(&answers) {
        let mechanism = answer.connection.mechanism.as_ref().context("no mechanism")?;
        let at = |key| mechanism.parameter(key).to_string();
        let (id, local, remote, port) = (at("vni"), at("src_ip"), at("dst_ip"), at("dst_port"));
        let line = ["id", &id, "local", &local, "remote", &remote, "dstport", &port];
        let add = ["link", "add", "peer", "type", "vxlan"];
        prints(host, "ip", &[&add[..], &line].concat())?;
        let ip = answer.connection.ip_context().context("no addresses")?;
        let (ours, theirs) = (ip.src_nets(), ip.dst_nets());
        let ours = ours.first().context("no address")?.to_string();
        let theirs = theirs.first().context("no address")?.addr();
        prints(host, "ip", &["addr", "add", &ours, "dev", "peer"])?;
        prints(host, "ip", &["link", "set", "peer", "mtu", "1400", "up"])?;
        prints(host, "ip", &["route", "add", &theirs.to_string(), "dev", "peer"])?;
        let pings = ping(host, theirs, 5)?;
        ensure!(pings.loss == 0.0, "{pings:?}");
        prints(host, "ip", &["link", "del", "peer"])?;
    }
    for answer in answers {
        peer.close(answer).await?;
    }
    peer.caller.component.end().await;
    Ok(())
}

async fn foreign_vni(apart: &mut Apart) -> Result<()> {
    let (peer, host) = (Peer::new(apart).await?, apart.hosts[1].pod());
    let stranger = [
        "link", "add", "stranger", "type", "vxlan", "id", VNI, "dstport", "4789",
    ];
    let to = ["local", "10.77.0.2", "remote", "10.77.0.9"];
    prints(host, "ip", &[&stranger[..], &to].concat())?;
    let answer = peer.ask(peer.offer("foreign-0", "10.77.0.1", VXLAN)?).await?;
    ensure!(vni(&answer)? != VNI, "the stranger's VNI was answered");
    peer.close(answer).await?;
    prints(host, "ip", &["link", "del", "stranger"])?;
    peer.caller.component.end().await;
    Ok(())
}

/// Each of these in place of what a peer should say is refused with this reason, by its own text.
async fn all_refused(apart: &Apart, kind: &str, bad: &[(&str, &str, &str)]) -> Result<()> {
    let peer = Peer::new(apart).await?;
    for (number, (key, value, reason)) in bad.iter().enumerate() {
        let mut request = peer.offer(&format!("bad-{number}"), "10.77.0.1", kind)?;
        for mechanism in &mut request.mechanism_preferences {
            mechanism.set_parameter(key, *value);
        }
        let done = peer.ask(request).await;
        refused(done, reason, &[value]).with_context(|| format!("{key}={value}"))?;
    }
    same("wires of the endpoint", links(&apart.far)?.len(), 0)?;
    peer.caller.component.end().await;
    Ok(())
}

async fn bad_vxlan(apart: &mut Apart) -> Result<()> {
    let bad = [
        ("src_port", "0", "bad-port"),
        ("src_port", "70000", "bad-port"),
        ("src_port", "http", "bad-port"),
        ("vni", "16777216", "bad-vni"),
        ("vni", "-1", "bad-vni"),
        ("src_ip", "fd77::1", "bad-tunnel-ip"),
        ("src_ip", "10.77.0.2", "bad-tunnel-ip"),
        ("src_ip", "224.0.0.1", "bad-tunnel-ip"),
        ("src_ip", "nowhere", "bad-tunnel-ip"),
    ];
    all_refused(apart, VXLAN, &bad).await
}

async fn bad_wireguard(apart: &mut Apart) -> Result<()> {
    let bad = [
        ("src_port", "0", "bad-port"),
        ("src_port", "70000", "bad-port"),
        ("src_ip", "fd77::1", "bad-tunnel-ip"),
        ("src_ip", "10.77.0.2", "bad-tunnel-ip"),
        ("src_public_key", "CQkJ", "bad-key"),
        ("src_public_key", "no key", "bad-key"),
    ];
    all_refused(apart, WIREGUARD, &bad).await
}

/// No forwarder passes a tunnel on to another node; what the caller offers besides is tried next.
/// A tunnel for frames does not go on as one for packets of IP.
async fn next_preference(apart: &mut Apart) -> Result<()> {
    let (peer, pod) = (Peer::new(apart).await?, Pod::new("here")?);
    let program = apart.join(&apart.first, "nse-2", &pod).await?;
    let mut request = peer.offer("next-0", "10.77.0.3", VXLAN)?;
    request.connection.network_service_endpoint_name = "nse-2".into();
    let done = peer.ask(request.clone()).await;
    refused(done, "unsupported-mechanism", &["VXLAN to WIREGUARD"])?;
    same("wires of the endpoint", links(&pod)?.len(), 0)?;
    let mut local = Mechanism::new(LOCAL, KERNEL);
    local.set_parameter("name", "nsm-1");
    request.mechanism_preferences.push(local);
    let netns = apart.far.path();
    let (remote, request) = peer.caller.with_netns(&peer.url, request, netns).await?;
    let ctx = Ctx::own(&peer.caller.component, PATIENCE);
    let answer = remote.request(&ctx, &request).await?;
    let mechanism = answer.connection.mechanism.as_ref().context("no mechanism")?;
    same("the mechanism", mechanism.r#type.as_str(), KERNEL)?;
    same("wires of the endpoint", links(&pod)?.len(), 1)?;
    remote.close(&ctx, &answer).await?;
    drop(remote);
    peer.caller.component.end().await;
    stops(program).await?;
    drop(pod);
    Ok(())
}
