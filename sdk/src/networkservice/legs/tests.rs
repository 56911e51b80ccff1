// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use super::*;
use crate::core::Error;
use crate::core::testing::{Connection, Probe, before, request, standard_cases};

fn route(prefix: &str, next_hop: &str) -> Route {
    Route {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
    }
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// A context between these two addresses, as the usual address management makes it.
fn context(src: &str, dst: &str) -> ConnectionContext {
    let ip = IpContext {
        src_ip_addrs: texts(&[src]),
        dst_ip_addrs: texts(&[dst]),
        src_routes: vec![route(dst, "")],
        dst_routes: vec![route(src, "")],
        ..Default::default()
    };
    ConnectionContext {
        ip_context: Some(ip),
        ..Default::default()
    }
}

/// A request of a client that has 10.1.0.1, to us who have 10.1.0.0.
fn asked() -> Request {
    let mut request = request();
    request.connection.context = Some(context("10.1.0.1/32", "10.1.0.0/32"));
    request
}

/// An endpoint behind that answers with `context`, and keeps the routes that it was asked for.
fn behind(context: ConnectionContext) -> Arc<Probe<NetworkService>> {
    Probe::answering(answering(context))
}

fn answering(context: ConnectionContext) -> impl Fn(&mut Request) -> Result<()> {
    move |request| {
        let mut answer = context.clone();
        let asked = request.connection.ip_context_mut().dst_routes.clone();
        answer.ip_context_mut().dst_routes.extend(asked);
        request.connection.context = Some(answer);
        Ok(())
    }
}

fn ip(request: &Request) -> &IpContext {
    request.connection.ip_context().expect("it has one")
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| Legs, request()).await;
}

#[tokio::test]
async fn each_leg_has_its_addresses_and_a_route_to_the_other() {
    let probe = behind(context("10.2.0.1/32", "10.2.0.0/32"));
    let mut request = asked();
    request.connection.ip_context_mut().excluded_prefixes = texts(&["10.9.0.0/16"]);
    before(Legs, &probe)
        .request(&Connection::new().first(), &mut request)
        .await
        .unwrap();
    let far = probe.requests().remove(0);
    assert!(ip(&far).src_ip_addrs.is_empty() && ip(&far).dst_ip_addrs.is_empty());
    assert_eq!(ip(&far).dst_routes, [route("10.1.0.1/32", "")]);
    assert_eq!(
        ip(&far).excluded_prefixes,
        ["10.9.0.0/16", "10.1.0.1/32", "10.1.0.0/32"]
    );
    let near = ip(&request);
    assert_eq!(near.src_ip_addrs, ["10.1.0.1/32"]);
    assert_eq!(near.dst_ip_addrs, ["10.1.0.0/32"]);
    assert_eq!(
        near.src_routes,
        [route("10.1.0.0/32", ""), route("10.2.0.0/32", "")]
    );
    assert_eq!(near.dst_routes, [route("10.1.0.1/32", "")]);
    assert_eq!(near.excluded_prefixes, ["10.9.0.0/16"]);
}

#[tokio::test]
async fn what_is_behind_either_end_is_reached_through_us() {
    let mut answer = context("10.2.0.1/32", "10.2.0.0/32");
    let routes = &mut answer.ip_context_mut().src_routes;
    routes.extend([
        route("0.0.0.0/0", ""),
        route("10.3.0.0/16", "10.2.0.0"),
        route("here", ""),
    ]);
    let probe = behind(answer);
    let mut request = asked();
    let routes = &mut request.connection.ip_context_mut().dst_routes;
    routes.push(route("192.168.7.1/24", "10.1.0.1"));
    before(Legs, &probe)
        .request(&Connection::new().first(), &mut request)
        .await
        .unwrap();
    let far = probe.requests().remove(0);
    assert_eq!(
        ip(&far).dst_routes,
        [route("10.1.0.1/32", ""), route("192.168.7.0/24", "")]
    );
    let told = [
        route("10.1.0.0/32", ""),
        route("10.2.0.0/32", ""),
        route("0.0.0.0/0", ""),
        route("10.3.0.0/16", ""),
    ];
    assert_eq!(ip(&request).src_routes, told);
}

#[tokio::test]
async fn a_refresh_keeps_the_far_leg_and_takes_back_what_holds_no_more() {
    let mut first = context("10.2.0.1/32", "10.2.0.0/32");
    let dns = |server: &str| DnsConfig {
        dns_server_ips: texts(&[server]),
        ..Default::default()
    };
    first.dns_context_mut().add(&dns("10.2.0.53"));
    let probe = behind(first);
    let (chain, connection) = (before(Legs, &probe), Connection::new());
    let mut request = asked();
    chain.request(&connection.first(), &mut request).await.unwrap();
    let once = request.clone();
    chain.request(&connection.again(), &mut request).await.unwrap();
    assert_eq!(request, once);
    let far = probe.requests().remove(1);
    assert_eq!(ip(&far).src_ip_addrs, ["10.2.0.1/32"]);
    assert_eq!(ip(&far).src_routes, [route("10.2.0.0/32", "")]);

    let mut second = context("10.5.0.1/32", "10.5.0.0/32");
    second.dns_context_mut().add(&dns("10.5.0.53"));
    probe.answer(answering(second));
    request.connection.ip_context_mut().src_ip_addrs = texts(&["10.1.0.3/32"]);
    request.connection.ip_context_mut().dst_routes = vec![route("10.1.0.3/32", "")];
    chain.request(&connection.again(), &mut request).await.unwrap();
    let far = probe.requests().remove(2);
    assert!(!ip(&far).dst_routes.contains(&route("10.1.0.1/32", "")));
    assert!(ip(&far).dst_routes.contains(&route("10.1.0.3/32", "")));
    assert_eq!(
        ip(&request).src_routes,
        [route("10.1.0.0/32", ""), route("10.5.0.0/32", "")]
    );
    let configs = request.connection.context.unwrap().dns_context.unwrap().configs;
    assert_eq!(configs, [dns("10.5.0.53")]);
}

#[tokio::test]
async fn the_smaller_mtu_is_that_of_both_legs() {
    for (asked_for, answered, told) in [
        (0, 1446, 1446),
        (1400, 1446, 1400),
        (9000, 1446, 1446),
        (9000, 0, 9000),
    ] {
        let mut answer = context("10.2.0.1/32", "10.2.0.0/32");
        answer.mtu = answered;
        let probe = behind(answer);
        let mut request = asked();
        request.connection.context.get_or_insert_default().mtu = asked_for;
        let chain = before(Legs, &probe);
        chain
            .request(&Connection::new().first(), &mut request)
            .await
            .unwrap();
        assert_eq!(
            probe.requests()[0].connection.context.as_ref().unwrap().mtu,
            asked_for
        );
        assert_eq!(request.connection.context.unwrap().mtu, told);
    }
}

#[tokio::test]
async fn a_failure_and_a_close_leave_the_near_leg_as_it_is() {
    let probe = behind(context("10.2.0.1/32", "10.2.0.0/32"));
    let (chain, connection) = (before(Legs, &probe), Connection::new());
    let mut request = asked();
    chain.request(&connection.first(), &mut request).await.unwrap();
    let near = request.clone();
    probe.answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    chain
        .request(&connection.again(), &mut request)
        .await
        .unwrap_err();
    assert_eq!(request, near);
    chain.close(&connection.again(), &mut request).await.unwrap();
    assert_eq!(request, near);
    assert_eq!(ip(&probe.closes()[0]).src_ip_addrs, ["10.2.0.1/32"]);
}
