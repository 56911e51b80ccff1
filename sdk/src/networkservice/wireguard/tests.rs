// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::*;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};

const NEAR: &str = "10.0.0.1";
const FAR: &str = "10.0.0.2";

/// Ends with a number each, and where devices were made ahead.
#[derive(Default)]
struct Numbered(Mutex<(u8, BTreeMap<TunnelId, u8>)>, Mutex<Vec<Site>>);

#[async_trait]
impl Ends for Numbered {
    async fn end(&self, tunnel: &TunnelId) -> Result<End> {
        let (count, ends) = &mut *self.0.lock();
        let number = *ends.entry(tunnel.clone()).or_insert_with(|| {
            *count += 1;
            *count
        });
        Ok(End {
            public_key: [number; 32],
            port: 51840 + u16::from(number),
        })
    }

    async fn prepare(&self, tunnel: &TunnelId, site: Site, _: Instant) {
        assert!(self.0.lock().1.contains_key(tunnel), "its end is known");
        self.1.lock().push(site);
    }

    fn release(&self, tunnel: &TunnelId) {
        self.0.lock().1.remove(tunnel);
    }
}

/// Links of 1500 bytes everywhere.
struct Links;

#[async_trait]
impl Underlay for Links {
    async fn mtu(&self, _: IpAddr, _: Option<IpAddr>) -> Result<u32> {
        Ok(1500)
    }
}

fn ours(ip: &str) -> (Ours, Arc<Numbered>) {
    let ends = Arc::<Numbered>::default();
    let ours = Ours {
        ip: ip.parse().expect("an address"),
        ends: Arc::clone(&ends) as _,
        underlay: Arc::new(Links),
    };
    (ours, ends)
}

fn ip() -> Request {
    let mut request = request();
    request.connection.payload = payload::IP.into();
    request
}

/// A request as it comes to the server half, with what a client half has offered.
fn offered() -> Request {
    let mut request = ip();
    let mut mechanism = Mechanism::new(REMOTE, WIREGUARD);
    if let Some(mut wireguard) = View::of(&mut mechanism) {
        wireguard.set_src_ip(NEAR.parse().expect("an address"));
        wireguard.set_src_port(51820);
        wireguard.set_src_public_key(STANDARD.encode([9; 32]));
        wireguard.set_mtu(1400);
    }
    request.connection.mechanism = Some(mechanism);
    request
}

fn wireguard(request: &Request) -> View<&Mechanism> {
    let mechanism = request.connection.mechanism.as_ref();
    mechanism.and_then(View::of).expect("a WireGuard mechanism")
}

/// A peer that answers the offer with `key` as its public key.
fn peer(key: &'static [u8]) -> Arc<Probe<NetworkService>> {
    Probe::answering(move |request: &mut Request| {
        let offer = request.mechanism_preferences.first().cloned();
        let mut mechanism = offer.or(request.connection.mechanism.clone()).expect("an offer");
        let mut wireguard = View::of(&mut mechanism).expect("of WireGuard");
        wireguard.set_dst_ip(FAR.parse().expect("an address"));
        wireguard.set_dst_port(51820);
        wireguard.set_dst_public_key(STANDARD.encode(key));
        request.connection.mechanism = Some(mechanism);
        Ok(())
    })
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| Wireguard::client(ours(NEAR).0), request()).await;
    standard_cases::<NetworkService, _>(|| Wireguard::server(ours(FAR).0), offered()).await;
}

#[tokio::test]
async fn a_tunnel_is_offered_for_ip_only_with_our_key_and_port() {
    let (probe, (ours, _)) = (Probe::new(), ours(NEAR));
    let chain = before(Wireguard::client(ours), &probe);
    for (carried, offers) in [(payload::IP, 1), (payload::ETHERNET, 0)] {
        let mut request = request();
        request.connection.payload = carried.into();
        let passed = chain.request(&Connection::new().first(), &mut request).await;
        passed.expect("passes");
        let seen = probe.requests().pop().expect("passed");
        assert_eq!(seen.mechanism_preferences.len(), offers);
    }
    let seen = &probe.requests()[0].mechanism_preferences[0];
    let offer = View::of(seen).expect("of WireGuard");
    assert_eq!(
        (offer.src_ip(), offer.src_port(), offer.mtu()),
        (NEAR.parse().ok(), 51841, 1440)
    );
    assert_eq!(offer.src_public_key(), STANDARD.encode([1; 32]));
}

#[tokio::test]
async fn d59_a_refresh_changes_no_key_and_a_close_forgets_it() {
    let (ours, ends) = ours(NEAR);
    let (probe, connection) = (peer(&[7; 32]), Connection::new());
    let chain = before(Wireguard::client(ours), &probe);
    let mut request = ip();
    chain
        .request(&connection.first(), &mut request)
        .await
        .expect("answered");
    let before = request.clone();
    chain
        .request(&connection.again(), &mut request)
        .await
        .expect("answered again");
    assert_eq!(wireguard(&request), wireguard(&before));
    assert_eq!(ends.0.lock().1.len(), 1);
    chain
        .close(&connection.again(), &mut request)
        .await
        .expect("closed");
    assert!(ends.0.lock().1.is_empty());
}

#[tokio::test]
async fn the_near_device_of_a_new_connection_is_made_while_the_other_node_is_asked() {
    let (ours, ends) = ours(NEAR);
    let (probe, connection) = (peer(&[7; 32]), Connection::new());
    let chain = before(Wireguard::client(ours), &probe);
    let near = || Near {
        netns: "/ns/client".into(),
        name: "nsm-1".into(),
    };
    let _passed = chain.request(&Connection::new().first(), &mut ip()).await;
    assert!(ends.1.lock().is_empty(), "nobody knows where it will be");
    let mut request = ip();
    for ctx in [connection.first(), connection.again()] {
        ctx.call().insert(near());
        chain.request(&ctx, &mut request).await.expect("answered");
    }
    let site = Site {
        netns: "/ns/client".into(),
        name: "nsm-1".into(),
        mtu: 1440,
    };
    assert_eq!(*ends.1.lock(), [site], "once");
}

#[tokio::test]
async fn the_server_answers_its_own_side_and_lowers_the_mtu() {
    let (ours, ends) = ours(FAR);
    let (probe, connection) = (Probe::new(), Connection::new());
    let chain = before(Wireguard::server(ours), &probe);
    let mut request = offered();
    chain
        .request(&connection.first(), &mut request)
        .await
        .expect("answered");
    let answer = wireguard(&request);
    assert_eq!(
        (answer.dst_ip(), answer.dst_port(), answer.mtu()),
        (FAR.parse().ok(), 51841, 1400)
    );
    assert_eq!(answer.dst_public_key(), STANDARD.encode([1; 32]));
    assert_eq!(request.connection.context.as_ref().expect("a context").mtu, 1400);
    chain
        .close(&connection.again(), &mut request)
        .await
        .expect("closed");
    assert!(ends.0.lock().1.is_empty());
}

#[tokio::test]
async fn garbage_of_a_peer_is_refused_by_name_and_nothing_is_kept() {
    let (ours_, ends) = ours(FAR);
    let chain = before(Wireguard::server(ours_), &Probe::new());
    for (key, value, reason) in [
        (key::SRC_PORT, "0", "bad-port"),
        (key::SRC_IP, "fe80::1", "bad-tunnel-ip"),
        (key::SRC_PUBLIC_KEY, "", "bad-key"),
        (key::SRC_PUBLIC_KEY, "AAAA", "bad-key"),
        (key::SRC_PUBLIC_KEY, "!", "bad-key"),
    ] {
        let mut request = offered();
        let mechanism = request.connection.mechanism.as_mut().expect("a mechanism");
        mechanism.set_parameter(key, value);
        let error = chain.request(&Connection::new().first(), &mut request).await;
        assert_eq!(error.expect_err("garbage").reason(), reason);
    }
    assert!(ends.0.lock().1.is_empty());
    let (ours_, ends) = ours(NEAR);
    let chain = before(Wireguard::client(ours_), &peer(&[7; 31]));
    let connection = Connection::new();
    let error = chain
        .request(&connection.first(), &mut ip())
        .await
        .expect_err("garbage");
    assert_eq!(error.reason(), "bad-key");
    connection.store.clear();
    assert!(ends.0.lock().1.is_empty());
}
