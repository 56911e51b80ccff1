// SPDX-License-Identifier: Apache-2.0
//! What the reference's address management answered to random requests, refreshes and closes, and that ours answers
//! the same. `tests/vectors/addresses.json` has one conversation with one endpoint a line.
#![allow(clippy::unwrap_used, reason = "the recorded conversations are well formed")]

use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nsm_api::connection::{Connection, Path, PathSegment};
use nsm_api::connectioncontext::{ConnectionContext, IpContext, Route};
use nsm_sdk::core::{Chain, Component, Ctx, Element, NetworkService, Request};
use nsm_sdk::elements::begin::Begin;
use nsm_sdk::ipam::group::Group;
use nsm_sdk::ipam::point2point::Point2Point;
use nsm_sdk::ipam::singlepoint::SinglePoint;
use nsm_sdk::ipam::strict::Strict;
use serde_json::Value;

/// Conversations in which we mean to answer otherwise from some step on, and why.
const DIFFERENT: &[(usize, &str)] = &[
    (
        10,
        "a client that excludes everything empties the reference's pool for all others, too",
    ),
    (
        24,
        "the reference frees an address a second time and gives it to two clients",
    ),
    (
        31,
        "a client that brings one half of a free pair makes the reference lose that half",
    ),
    (
        22,
        "the reference lets a client keep addresses of the pool that another may be given",
    ),
    (
        39,
        "the reference lets a client keep addresses of the pool that another may be given",
    ),
    (
        45,
        "the reference lets a client keep addresses of the pool that another may be given",
    ),
];

fn texts(value: &Value) -> Vec<String> {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_string)
        .collect()
}

fn ip_context(value: &Value) -> IpContext {
    let routes = |value: &Value| {
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        items
            .iter()
            .map(|route| Route {
                prefix: route["prefix"].as_str().unwrap_or_default().into(),
                next_hop: route["nextHop"].as_str().unwrap_or_default().into(),
            })
            .collect()
    };
    IpContext {
        src_ip_addrs: texts(&value["src_ip_addrs"]),
        dst_ip_addrs: texts(&value["dst_ip_addrs"]),
        src_routes: routes(&value["src_routes"]),
        dst_routes: routes(&value["dst_routes"]),
        excluded_prefixes: texts(&value["excluded_prefixes"]),
        ..Default::default()
    }
}

fn elements(kind: &str, groups: &[Vec<IpNet>]) -> Vec<Arc<dyn Element<NetworkService>>> {
    match kind {
        "point2point" => vec![Arc::new(Point2Point::new(&groups[0]).unwrap())],
        "strict" => vec![
            Arc::new(Strict::new(&groups[0]).unwrap()),
            Arc::new(Point2Point::new(&groups[0]).unwrap()),
        ],
        "group" => vec![Arc::new(Group::new(groups).unwrap())],
        "singlepoint" => vec![Arc::new(SinglePoint::new(&groups[0]).unwrap())],
        other => panic!("unknown kind {other}"),
    }
}

fn message(id: &str, context: IpContext) -> Request {
    let segment = PathSegment {
        name: "endpoint".into(),
        id: id.into(),
        ..Default::default()
    };
    let connection = Connection {
        id: id.into(),
        context: Some(ConnectionContext {
            ip_context: Some(context),
            ..Default::default()
        }),
        path: Some(Path {
            index: 0,
            path_segments: vec![segment],
        }),
        ..Default::default()
    };
    Request {
        connection,
        ..Default::default()
    }
}

/// The first step that we answer otherwise.
async fn converse(conversation: &Value) -> Result<(), String> {
    let component = Component::new("endpoint");
    let groups = conversation["prefix_groups"].as_array().unwrap();
    let groups: Vec<Vec<IpNet>> = groups
        .iter()
        .map(|group| texts(group).iter().map(|net| net.parse().unwrap()).collect())
        .collect();
    let mut chain: Vec<Arc<dyn Element<NetworkService>>> = vec![Arc::new(Begin::server(&component))];
    chain.extend(elements(conversation["kind"].as_str().unwrap(), &groups));
    let chain = Chain::new(chain);
    for (at, step) in conversation["steps"].as_array().unwrap().iter().enumerate() {
        let ctx = Ctx::own(&component, Duration::from_secs(10));
        let expected_error = step["error"].as_str().unwrap();
        if let Some(id) = step["close"].as_str() {
            let closed = chain.close(&ctx, &mut message(id, IpContext::default())).await;
            assert!(closed.is_ok() && expected_error.is_empty());
            continue;
        }
        let mut request = message(step["request"].as_str().unwrap(), ip_context(&step["asked"]));
        let done = chain.request(&ctx, &mut request).await;
        let answered = request.connection.context.and_then(|context| context.ip_context);
        let answered = answered.unwrap_or_default();
        let same = match &done {
            Ok(()) => expected_error.is_empty() && answered == ip_context(&step["answered"]),
            Err(error) => !expected_error.is_empty() && error.text().contains(expected_error),
        };
        if !same {
            return Err(format!("step {at} {step}: we {done:?} {answered:?}"));
        }
    }
    component.end().await;
    Ok(())
}

#[tokio::test]
async fn conversations_with_an_endpoint_are_as_with_the_reference() {
    let all: Vec<Value> = serde_json::from_str(include_str!("../../tests/vectors/addresses.json")).unwrap();
    assert_eq!(all.len(), 50);
    let mut wrong = Vec::new();
    for (line, conversation) in all.iter().enumerate() {
        let different = DIFFERENT.iter().find(|(at, _)| *at == line);
        match (converse(conversation).await, different) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Ok(()), Some((_, why))) => wrong.push(format!("{line}: agrees, so that this is untrue: {why}")),
            (Err(step), None) => wrong.push(format!("{line}: {} {step}", conversation["kind"])),
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}
