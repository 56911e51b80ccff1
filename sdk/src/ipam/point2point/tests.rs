// SPDX-License-Identifier: Apache-2.0

use std::sync::Arc;

use nsm_api::connectioncontext::Route;

use super::*;
use crate::core::Chain;
use crate::core::testing::{Connection, Probe, request, standard_cases};
use crate::ipam::strict::Strict;

type Elements = Vec<Arc<dyn Element<NetworkService>>>;

fn element(prefix: &str) -> Point2Point {
    Point2Point::new(&[prefix.parse().unwrap()]).unwrap()
}

fn chain(prefix: &str) -> Chain<NetworkService> {
    Chain::new(vec![Arc::new(element(prefix))])
}

/// The context that a first request with this context is answered with.
async fn ask(
    chain: &Chain<NetworkService>,
    connection: &Connection,
    context: IpContext,
) -> Result<IpContext> {
    let mut request = request();
    *request.connection.ip_context_mut() = context;
    chain.request(&connection.first(), &mut request).await?;
    Ok(request.connection.ip_context_mut().clone())
}

async fn pair(
    chain: &Chain<NetworkService>,
    connection: &Connection,
    excluded: &[&str],
) -> Result<[String; 2]> {
    let excluded_prefixes = excluded.iter().map(ToString::to_string).collect();
    let context = ask(
        chain,
        connection,
        IpContext {
            excluded_prefixes,
            ..Default::default()
        },
    )
    .await?;
    let [dst, src] = [&context.dst_ip_addrs[..], &context.src_ip_addrs[..]];
    let ([dst], [src]) = (dst, src) else {
        panic!("one address a side: {context:?}")
    };
    assert_eq!(
        context.src_routes,
        [Route {
            prefix: dst.clone(),
            ..Default::default()
        }]
    );
    assert_eq!(
        context.dst_routes,
        [Route {
            prefix: src.clone(),
            ..Default::default()
        }]
    );
    Ok([dst, src].map(|address| address.trim_end_matches("/32").to_string()))
}

#[tokio::test]
async fn passes_the_standard_cases() {
    standard_cases::<NetworkService, _>(|| element("10.0.0.0/24"), request()).await;
}

#[tokio::test]
async fn c85_pairs_are_the_lowest_free_and_a_closed_one_comes_again() {
    let chain = chain("192.168.3.4/16");
    let (one, two, three) = (Connection::new(), Connection::new(), Connection::new());
    assert_eq!(
        pair(&chain, &one, &[]).await.unwrap(),
        ["192.168.0.0", "192.168.0.1"]
    );
    assert_eq!(
        pair(&chain, &two, &[]).await.unwrap(),
        ["192.168.0.2", "192.168.0.3"]
    );
    chain.close(&one.again(), &mut request()).await.unwrap();
    assert_eq!(
        pair(&chain, &three, &[]).await.unwrap(),
        ["192.168.0.0", "192.168.0.1"]
    );
}

#[tokio::test]
async fn c86_a_prefix_of_two_addresses_serves_one_client() {
    let chain = chain("192.168.7.4/31");
    let connection = Connection::new();
    assert_eq!(
        pair(&chain, &connection, &[]).await.unwrap(),
        ["192.168.7.4", "192.168.7.5"]
    );
    let error = pair(&chain, &Connection::new(), &[]).await.unwrap_err();
    assert!(error.text().contains("IPPool is empty"), "{error}");
    assert_eq!(
        (error.code(), error.reason()),
        (tonic::Code::ResourceExhausted, "pool-empty")
    );
}

#[tokio::test]
async fn c87_excluded_addresses_are_skipped() {
    let chain = chain("192.168.3.4/16");
    let excluded = ["192.168.0.1/32", "192.168.0.3/32", "192.168.0.6/32"];
    let connections = [Connection::new(), Connection::new(), Connection::new()];
    for (connection, expected) in connections.iter().zip([["0", "2"], ["4", "5"], ["7", "8"]]) {
        let expected = expected.map(|last| format!("192.168.0.{last}"));
        assert_eq!(pair(&chain, connection, &excluded).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn c88_a_pair_that_becomes_excluded_is_replaced_and_its_routes_go() {
    let chain = chain("10.0.0.0/24");
    let connection = Connection::new();
    let mut context = ask(&chain, &connection, IpContext::default()).await.unwrap();
    context.excluded_prefixes = vec!["10.0.0.1/32".into()];
    context.src_ip_addrs.push("9.9.9.9/32".into());
    let context = ask(&chain, &connection, context).await.unwrap();
    assert_eq!(context.dst_ip_addrs, ["10.0.0.0/32"]);
    assert_eq!(context.src_ip_addrs, ["9.9.9.9/32", "10.0.0.2/32"]);
    assert_eq!(context.dst_routes.len(), 1);
    assert_eq!(context.dst_routes[0].prefix, "10.0.0.2/32");
    assert_eq!(
        pair(&chain, &Connection::new(), &[]).await.unwrap(),
        ["10.0.0.1", "10.0.0.3"]
    );
}

#[tokio::test]
async fn a_failed_refresh_keeps_the_pair() {
    let probe = Probe::new();
    let chain = Chain::new(vec![
        Arc::new(element("10.0.0.0/24")),
        Arc::new(Arc::clone(&probe)),
    ]);
    let connection = Connection::new();
    let context = ask(&chain, &connection, IpContext::default()).await.unwrap();
    probe.answer(|_| Err(Error::internal("told-so", "the probe was told to fail")));
    let mut excluding = context.clone();
    excluding.excluded_prefixes = vec!["10.0.0.0/31".into()];
    ask(&chain, &connection, excluding)
        .await
        .expect_err("the refresh fails");
    probe.answer(|_| Ok(()));
    assert_eq!(
        pair(&chain, &Connection::new(), &[]).await.unwrap(),
        ["10.0.0.2", "10.0.0.3"]
    );
    assert_eq!(ask(&chain, &connection, context.clone()).await.unwrap(), context);
}

#[tokio::test]
async fn c89_a_free_pair_that_the_client_brings_is_kept() {
    let chain = chain("10.0.0.0/24");
    let brought = |src: &str, dst: &str| IpContext {
        src_ip_addrs: vec!["fd00::1/128".into(), src.into()],
        dst_ip_addrs: vec![dst.into()],
        ..Default::default()
    };
    let (one, two) = (Connection::new(), Connection::new());
    let context = ask(&chain, &one, brought("10.0.0.9/32", "10.0.0.8/32"))
        .await
        .unwrap();
    assert_eq!(context.src_ip_addrs, ["fd00::1/128", "10.0.0.9/32"]);
    assert_eq!(context.dst_ip_addrs, ["10.0.0.8/32"]);
    let context = ask(&chain, &two, brought("10.0.0.9/32", "10.0.0.7/32"))
        .await
        .unwrap();
    assert_eq!(
        context.dst_ip_addrs,
        ["10.0.0.0/32"],
        "half a pair is not kept, nor leaked"
    );
    assert_eq!(
        pair(&chain, &Connection::new(), &[]).await.unwrap(),
        ["10.0.0.2", "10.0.0.3"]
    );
}

#[tokio::test]
async fn c90_strict_removes_foreign_addresses_and_their_routes_and_polite_keeps_them() {
    let prefixes: Vec<IpNet> = vec!["10.0.0.0/24".parse().unwrap()];
    let route = |prefix: &str| Route {
        prefix: prefix.into(),
        ..Default::default()
    };
    let foreign = || IpContext {
        src_ip_addrs: vec!["9.9.9.9/32".into(), "nonsense".into()],
        dst_ip_addrs: vec!["9.9.9.8/32".into()],
        src_routes: vec![route("9.9.9.8/32"), route("0.0.0.0/0")],
        dst_routes: vec![route("9.9.9.9/32")],
        excluded_prefixes: vec!["10.1.0.0/30".into()],
        ..Default::default()
    };
    let mut polite: Elements = vec![Arc::new(Point2Point::new(&prefixes).unwrap())];
    let answer = ask(&Chain::new(polite.clone()), &Connection::new(), foreign())
        .await
        .unwrap();
    assert_eq!(answer.src_ip_addrs, ["9.9.9.9/32", "nonsense", "10.0.0.1/32"]);
    assert_eq!(answer.src_routes.len(), 3);

    polite[0] = Arc::new(Point2Point::new(&prefixes).unwrap());
    polite.insert(0, Arc::new(Strict::new(&prefixes).unwrap()));
    let strict = Chain::new(polite);
    let connection = Connection::new();
    let answer = ask(&strict, &connection, foreign()).await.unwrap();
    assert_eq!(answer.src_ip_addrs, ["10.0.0.1/32"]);
    assert_eq!(answer.dst_ip_addrs, ["10.0.0.0/32"]);
    assert_eq!(answer.src_routes, [route("0.0.0.0/0"), route("10.0.0.0/32")]);
    assert_eq!(answer.dst_routes, [route("10.0.0.1/32")]);
    assert_eq!(answer.excluded_prefixes, ["10.1.0.0/30"]);
    assert_eq!(
        ask(&strict, &connection, answer.clone()).await.unwrap(),
        answer,
        "a refresh keeps its own"
    );
    let taken = ask(&strict, &Connection::new(), answer.clone()).await.unwrap();
    assert_eq!(
        taken.src_ip_addrs,
        ["10.0.0.3/32"],
        "what another connection has is foreign"
    );
}

#[tokio::test]
async fn c91_a_pair_of_a_failed_first_request_belongs_to_whoever_comes_next() {
    let probe = Probe::answering(|_| Err(Error::internal("told-so", "the probe was told to fail")));
    let chain = Chain::new(vec![
        Arc::new(element("10.0.0.0/30")),
        Arc::new(Arc::clone(&probe)),
    ]);
    let one = Connection::new();
    pair(&chain, &one, &[]).await.expect_err("the probe fails it");
    one.store.clear();
    probe.answer(|_| Ok(()));
    let two = Connection::new();
    assert_eq!(pair(&chain, &two, &[]).await.unwrap(), ["10.0.0.0", "10.0.0.1"]);
    assert_eq!(pair(&chain, &one, &[]).await.unwrap(), ["10.0.0.2", "10.0.0.3"]);
}

#[tokio::test]
async fn an_address_that_another_connection_has_or_may_get_is_taken_from_who_brings_it() {
    let chain = chain("10.0.0.0/24");
    let (one, other) = (Connection::new(), Connection::new());
    let given = ask(&chain, &one, IpContext::default()).await.unwrap();
    let brought = IpContext {
        src_ip_addrs: [given.src_ip_addrs.clone(), vec!["10.1.0.1/32".into()]].concat(),
        ..given.clone()
    };
    let answered = ask(&chain, &other, brought).await.unwrap();
    assert_eq!(answered.src_ip_addrs, ["10.1.0.1/32", "10.0.0.3/32"]);
    assert_eq!(answered.dst_ip_addrs, ["10.0.0.2/32"]);
    let to = |prefix: &str| {
        vec![Route {
            prefix: prefix.into(),
            ..Default::default()
        }]
    };
    assert_eq!(
        (answered.src_routes, answered.dst_routes),
        (to("10.0.0.2/32"), to("10.0.0.3/32"))
    );
    assert_eq!(
        ask(&chain, &one, given.clone()).await.unwrap(),
        given,
        "the holder keeps it"
    );
    let stale = IpContext {
        src_ip_addrs: vec!["10.0.0.9/32".into()],
        dst_ip_addrs: vec!["10.0.0.8/32".into()],
        ..Default::default()
    };
    assert_eq!(
        ask(&chain, &one, stale).await.unwrap(),
        given,
        "it has a pair already"
    );
}

#[tokio::test]
async fn a_refresh_changes_nothing() {
    let chain = chain("fd00::/64");
    let connection = Connection::new();
    let first = ask(&chain, &connection, IpContext::default()).await.unwrap();
    assert_eq!(first.dst_ip_addrs, ["fd00::/128"]);
    assert_eq!(ask(&chain, &connection, first.clone()).await.unwrap(), first);
}

#[tokio::test]
async fn what_is_free_is_counted() {
    let (chain, connection) = (chain("10.0.0.0/29"), Connection::new());
    let ctx = connection.first();
    let meters = ctx.component().meters().clone();
    meters.switch_on();
    let is_free = |count: u32| {
        let line = format!("nsm_ipam_free{{prefix=\"10.0.0.0/29\"}} {count}");
        assert!(
            meters.text().lines().any(|told| told == line),
            "{}",
            meters.text()
        );
    };
    let mut asked = request();
    chain.request(&ctx, &mut asked).await.unwrap();
    is_free(6);
    let other = Connection::new();
    chain.request(&other.first(), &mut request()).await.unwrap();
    is_free(4);
    drop(other);
    is_free(6);
    chain.close(&connection.again(), &mut asked).await.unwrap();
    is_free(8);
    assert!(
        meters
            .text()
            .contains("nsm_ipam_addresses{prefix=\"10.0.0.0/29\"} 8")
    );
}
