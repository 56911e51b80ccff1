// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};
use crate::dataplane::tunnel::Vxlan as Vxlan7348;

const NEAR: &str = "10.0.0.1";
const FAR: &str = "10.0.0.2";

/// Links of so many bytes everywhere.
struct Links(u32);

#[async_trait]
impl Underlay for Links {
    async fn mtu(&self, _: IpAddr, _: Option<IpAddr>) -> Result<u32> {
        Ok(self.0)
    }
}

/// The identifier that was left of every tunnel on this side, on the port of VXLAN.
struct Leaves(Option<(Towards, u32)>);

impl Former for Leaves {
    fn vxlan(&self, id: &TunnelId) -> Option<Vxlan7348> {
        let (_, vni) = self.0.filter(|(towards, _)| *towards == id.towards)?;
        let [local, remote] = [NEAR, FAR].map(|ip| ip.parse().expect("an address"));
        Some(Vxlan7348 {
            local,
            remote,
            port: PORT,
            vni,
        })
    }
}

fn ours(ip: &str) -> Ours {
    Ours {
        former: Arc::new(Leaves(None)),
        ip: ip.parse().expect("an address"),
        port: PORT,
        vnis: Vnis::default(),
        underlay: Arc::new(Links(1500)),
    }
}

fn ethernet() -> Request {
    let mut request = request();
    request.connection.payload = payload::ETHERNET.into();
    request
}

/// A request as it comes to the server half, with what a client half has offered.
fn offered(src_ip: &str, vni: u32) -> Request {
    let mut request = ethernet();
    let mut mechanism = Mechanism::new(REMOTE, VXLAN);
    if let Some(mut vxlan) = View::of(&mut mechanism) {
        vxlan.set_src_ip(src_ip.parse().expect("an address"));
        vxlan.set_src_port(4790);
        vxlan.set_mtu(1446);
        if vni != 0 {
            vxlan.set_vni(vni);
        }
    }
    request.connection.mechanism = Some(mechanism);
    request
}

fn vxlan(request: &Request) -> View<&Mechanism> {
    let mechanism = request.connection.mechanism.as_ref();
    mechanism.and_then(View::of).expect("a VXLAN mechanism")
}

/// A peer that answers the offer as the reference does: with its own address, and the proposed identifier or `vni`.
fn peer(vni: u32) -> Arc<Probe<NetworkService>> {
    Probe::answering(move |request: &mut Request| {
        let mut mechanism = request.mechanism_preferences.first().cloned().expect("an offer");
        let mut vxlan = View::of(&mut mechanism).expect("of VXLAN");
        vxlan.set_dst_ip(FAR.parse().expect("an address"));
        vxlan.set_dst_port(vxlan.src_port());
        if vni != 0 {
            vxlan.set_vni(vni);
        }
        request.connection.mechanism = Some(mechanism);
        Ok(())
    })
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| Vxlan::client(ours(NEAR)), request()).await;
    standard_cases::<NetworkService, _>(|| Vxlan::server(ours(FAR)), offered(NEAR, 0)).await;
}

#[tokio::test]
async fn a_tunnel_is_offered_for_ethernet_only() {
    let probe = Probe::new();
    let chain = before(Vxlan::client(ours(NEAR)), &probe);
    for (carried, offers) in [(payload::ETHERNET, 1), (payload::IP, 0)] {
        let mut request = request();
        request.connection.payload = carried.into();
        chain
            .request(&Connection::new().first(), &mut request)
            .await
            .expect("passes");
        let seen = probe.requests().pop().expect("passed");
        assert_eq!(seen.mechanism_preferences.len(), offers);
        assert!(
            request.mechanism_preferences.is_empty(),
            "the offer is ours alone"
        );
    }
    let seen = &probe.requests()[0].mechanism_preferences[0];
    let offer = View::of(seen).expect("of VXLAN");
    assert_eq!(
        (offer.src_ip(), offer.src_port(), offer.mtu()),
        (NEAR.parse().ok(), PORT, 1446)
    );
    assert_ne!(offer.vni(), 0);
    assert_eq!(seen.cls, REMOTE);
}

#[tokio::test]
async fn an_identifier_stays_with_the_connection_and_is_free_after_the_close() {
    let ours = ours(NEAR);
    let (probe, connection) = (peer(0), Connection::new());
    let chain = before(Vxlan::client(ours.clone()), &probe);
    let mut request = ethernet();
    chain
        .request(&connection.first(), &mut request)
        .await
        .expect("answered");
    let vni = vxlan(&request).vni();
    chain
        .request(&connection.again(), &mut request)
        .await
        .expect("answered again");
    assert_eq!((vxlan(&request).vni(), ours.vnis.len()), (vni, 1));
    chain
        .close(&connection.again(), &mut request)
        .await
        .expect("closed");
    assert!(ours.vnis.is_empty());
}

#[tokio::test]
async fn an_answered_identifier_that_is_in_use_here_is_refused_and_another_proposed() {
    let ours = ours(NEAR);
    ours.vnis.avoid(PORT, 77);
    let probe = peer(77);
    let chain = before(Vxlan::client(ours.clone()), &probe);
    let error = chain
        .request(&Connection::new().first(), &mut ethernet())
        .await
        .expect_err("taken");
    assert_eq!((error.reason(), ours.vnis.len()), ("vni-taken", 1));
    assert_eq!(probe.closes().len(), 1, "what the peer made is closed");
}

#[tokio::test]
async fn the_server_takes_a_free_proposal_and_answers_its_own_side() {
    let probe = Probe::new();
    let mut request = offered(NEAR, 99);
    let chain = before(Vxlan::server(ours(FAR)), &probe);
    chain
        .request(&Connection::new().first(), &mut request)
        .await
        .expect("answered");
    let answer = vxlan(&request);
    assert_eq!(
        (answer.dst_ip(), answer.dst_port(), answer.vni()),
        (FAR.parse().ok(), 4790, 99)
    );
    assert_eq!(answer.mtu(), 1446);
    assert_eq!(request.connection.context.expect("a context").mtu, 1446);
}

#[tokio::test]
async fn a_client_half_that_was_replaced_gets_the_identifier_that_the_wire_has() {
    let (ours, connection) = (ours(FAR), Connection::new());
    let chain = before(Vxlan::server(ours.clone()), &Probe::new());
    chain
        .request(&connection.first(), &mut offered(NEAR, 99))
        .await
        .expect("answered");
    let mut request = offered(NEAR, 77);
    chain
        .request(&connection.again(), &mut request)
        .await
        .expect("answered again");
    assert_eq!((vxlan(&request).vni(), ours.vnis.len()), (99, 1));
}

#[tokio::test]
async fn c94_two_nodes_draw_identifiers_of_different_parity_and_keep_them() {
    for (src, dst, odd) in [(NEAR, FAR, 0), (FAR, NEAR, 1)] {
        let (ours, connection) = (ours(dst), Connection::new());
        let chain = before(Vxlan::server(ours.clone()), &Probe::new());
        let mut request = offered(src, 0);
        chain
            .request(&connection.first(), &mut request)
            .await
            .expect("answered");
        let vni = vxlan(&request).vni();
        assert!(vni != 0 && vni % 2 == odd, "{vni}");
        chain
            .request(&connection.again(), &mut request)
            .await
            .expect("answered again");
        assert_eq!(vxlan(&request).vni(), vni);
        chain
            .close(&connection.again(), &mut request)
            .await
            .expect("closed");
        assert!(ours.vnis.is_empty());
    }
}

#[tokio::test]
async fn d52_an_identifier_of_a_foreign_device_is_never_used_again() {
    let ours = ours(FAR);
    let refused = Arc::new(AtomicU32::new(0));
    let probe = Probe::answering({
        let refused = Arc::clone(&refused);
        move |request: &mut Request| match vxlan(request).vni() {
            99 => {
                refused.fetch_add(1, Ordering::Relaxed);
                Err(Error::unavailable("vni-taken", "a foreign device has it"))
            }
            _ => Ok(()),
        }
    });
    let chain = before(Vxlan::server(ours.clone()), &probe);
    for _ in 0..2 {
        let mut request = offered(NEAR, 99);
        chain
            .request(&Connection::new().first(), &mut request)
            .await
            .expect("another one");
        assert_ne!(vxlan(&request).vni(), 99);
    }
    assert_eq!(refused.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn garbage_of_a_peer_is_refused_by_name() {
    let probe = Probe::new();
    let chain = before(Vxlan::server(ours(FAR)), &probe);
    for (key, value, reason) in [
        (key::SRC_PORT, "0", "bad-port"),
        (key::SRC_PORT, "70000", "bad-port"),
        (key::SRC_IP, "2001:db8::1", "bad-tunnel-ip"),
        (key::SRC_IP, "", "bad-tunnel-ip"),
        (key::VNI, "16777216", "bad-vni"),
    ] {
        let mut request = offered(NEAR, 0);
        let mechanism = request.connection.mechanism.as_mut().expect("a mechanism");
        mechanism.set_parameter(key, value);
        let error = chain
            .request(&Connection::new().first(), &mut request)
            .await
            .expect_err("garbage");
        assert_eq!(error.reason(), reason);
    }
    assert!(probe.requests().is_empty());
}

#[tokio::test]
async fn what_an_earlier_life_left_is_proposed_and_kept() {
    let former = |towards| Arc::new(Leaves(Some((towards, 77))));
    let proposed = peer(0);
    let client = Vxlan::client(Ours {
        former: former(Towards::Endpoint),
        ..ours(NEAR)
    });
    let mut request = ethernet();
    let asked = before(client, &proposed);
    let answered = asked.request(&Connection::new().first(), &mut request).await;
    answered.expect("answered");
    assert_eq!(vxlan(&request).vni(), 77);

    for (towards, port, kept) in [
        (Towards::Client, PORT, true),
        (Towards::Client, 4790, false),
        (Towards::Endpoint, PORT, false),
    ] {
        let server = Vxlan::server(Ours {
            former: former(towards),
            ..ours(FAR)
        });
        let mut request = offered(NEAR, 5);
        let mechanism = request.connection.mechanism.as_mut();
        mechanism.and_then(View::of).expect("of VXLAN").set_src_port(port);
        let chain = before(server, &Probe::new());
        let answered = chain.request(&Connection::new().first(), &mut request).await;
        answered.expect("answered");
        assert_eq!(vxlan(&request).vni(), if kept { 77 } else { 5 });
    }
}
