// SPDX-License-Identifier: Apache-2.0

use std::net::IpAddr;

use tempfile::NamedTempFile;

use super::*;
use crate::dataplane::{DataPlane, Payload, Policy, Route};

fn netns() -> NamedTempFile {
    NamedTempFile::new().expect("a temporary file")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn end(netns: &NamedTempFile, name: &str, own: &str, peer: &str) -> Interface {
    let route = Route {
        prefix: peer.parse().unwrap(),
        via: None,
        link: true,
    };
    Interface {
        netns: netns.path().into(),
        name: name.into(),
        addresses: vec![own.parse().unwrap()],
        routes: vec![route],
        ..Default::default()
    }
}

fn wire(connection: &str, client: Interface, endpoint: Interface) -> Wire {
    Wire {
        connection: connection.into(),
        payload: Payload::Ethernet,
        mtu: 9000,
        client,
        endpoint,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A client and an endpoint on a wire.
async fn joined(model: &Model) -> (NamedTempFile, NamedTempFile, Wire) {
    let (client, endpoint) = (netns(), netns());
    let wire = wire(
        "c-0",
        end(&client, "nsm-1", "10.0.0.1/32", "10.0.0.0/32"),
        end(&endpoint, "nsm-2", "10.0.0.0/32", "10.0.0.1/32"),
    );
    model.connect(&wire, None, soon()).await.unwrap();
    (client, endpoint, wire)
}

#[tokio::test]
async fn both_ends_of_a_wire_reach_each_other_until_it_is_removed() {
    let model = Model::new();
    let (client, endpoint, wire) = joined(&model).await;
    assert!(
        model
            .can_reach(client.path(), ip("10.0.0.1"), ip("10.0.0.0"))
            .unwrap()
    );
    assert!(
        model
            .can_reach(endpoint.path(), ip("10.0.0.0"), ip("10.0.0.1"))
            .unwrap()
    );
    assert!(
        !model
            .can_reach(client.path(), ip("10.0.0.1"), ip("10.0.0.2"))
            .unwrap()
    );
    let (at_client, at_endpoint) = model.counters(&wire).await.unwrap();
    assert_eq!((at_client.tx_packets, at_client.rx_packets), (2, 2));
    assert_eq!(at_endpoint.rx_bytes, at_client.tx_bytes);
    assert_eq!(model.objects().len(), 6);
    assert!(model.objects().iter().all(|object| object.owner == "c-0"));
    for _ in 0..2 {
        model.disconnect(&wire).await.unwrap();
        assert!(model.objects().is_empty());
    }
    assert!(
        !model
            .can_reach(client.path(), ip("10.0.0.1"), ip("10.0.0.0"))
            .unwrap()
    );
}

#[tokio::test]
async fn a_wire_survives_who_made_it_and_is_adopted() {
    let model = Model::new();
    let (_client, _endpoint, mut wire) = joined(&model).await;
    let index = model.index("c-0");
    model.connect(&wire, None, soon()).await.unwrap();
    assert_eq!(
        (model.index("c-0"), model.changes()),
        (index, 1),
        "nothing was there to change"
    );
    wire.mtu = 1300;
    model.connect(&wire, None, soon()).await.unwrap();
    assert_eq!((model.index("c-0"), model.changes()), (index, 2));
    let other = netns();
    wire.endpoint.netns = other.path().into();
    model.connect(&wire, None, soon()).await.unwrap();
    assert_ne!(model.index("c-0"), index, "another namespace means another link");
}

#[tokio::test]
async fn a_link_that_is_down_deleted_or_in_a_dead_namespace_reaches_nobody() {
    let model = Model::new();
    let (client, endpoint, wire) = joined(&model).await;
    let reaches = || {
        model
            .can_reach(client.path(), ip("10.0.0.1"), ip("10.0.0.0"))
            .unwrap()
    };
    model.set_up(endpoint.path(), "nsm-2", false).unwrap();
    assert!(!reaches());
    model.connect(&wire, None, soon()).await.unwrap();
    assert!(reaches());
    model.delete(client.path(), "nsm-1").unwrap();
    assert!(!reaches());
    model.connect(&wire, None, soon()).await.unwrap();
    assert!(reaches());
    model.destroy(endpoint.path()).unwrap();
    assert!(!reaches() && model.objects().is_empty());
    assert_eq!(
        model.connect(&wire, None, soon()).await.unwrap_err().reason(),
        "netns-gone"
    );
}

#[tokio::test]
async fn names_are_taken_once_a_namespace() {
    let model = Model::new();
    let (client, endpoint, _wire) = joined(&model).await;
    let mut second = wire(
        "c-1",
        end(&client, "nsm-1", "10.0.0.3/32", "10.0.0.2/32"),
        end(&endpoint, "nsm-3", "10.0.0.2/32", "10.0.0.3/32"),
    );
    let taken = async |wire: &Wire| {
        model
            .connect(wire, None, soon())
            .await
            .unwrap_err()
            .reason()
            .to_string()
    };
    assert_eq!(taken(&second).await, "interface-taken");
    model.occupy(client.path(), "eth0").unwrap();
    second.client.name = "eth0".into();
    assert_eq!(taken(&second).await, "interface-taken");
    second.client.name = "a-name-that-is-too-long".into();
    assert_eq!(taken(&second).await, "bad-interface-name");
    second.client.name = "nsm-9".into();
    model.connect(&second, None, soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_takes_its_time_and_its_name_is_waited_for() {
    let model = Model::new();
    let (_client, _endpoint, wire) = joined(&model).await;
    model.set_times(Duration::from_millis(2), Duration::from_millis(20));
    let start = Instant::now();
    model.disconnect(&wire).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
    model.connect(&wire, None, soon()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::from_millis(20));
    model.disconnect(&wire).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(10);
    assert_eq!(
        model.connect(&wire, None, deadline).await.unwrap_err().reason(),
        "deadline"
    );
    assert!(model.objects().is_empty());
}

#[tokio::test]
async fn a_fault_leaves_what_was_there() {
    let model = Model::new();
    let (_client, _endpoint, wire) = joined(&model).await;
    model.set_fault(|wire| (wire.mtu == 1300).then(|| Error::internal("kernel", "told to fail")));
    let changed = Wire {
        mtu: 1300,
        ..wire.clone()
    };
    assert_eq!(
        model
            .connect(&changed, Some(&wire), soon())
            .await
            .unwrap_err()
            .reason(),
        "kernel"
    );
    assert_eq!(model.wire("c-0"), Some(wire));
}

#[tokio::test]
async fn packets_follow_gateways_policies_and_the_longest_prefix() {
    let model = Model::new();
    let (client, middle, far) = (netns(), netns(), netns());
    let via = |prefix: &str, gateway: &str| Route {
        prefix: prefix.parse().unwrap(),
        via: Some(ip(gateway)),
        link: false,
    };
    let mut first = wire(
        "c-0",
        end(&client, "nsm-1", "10.0.0.1/32", "10.0.0.0/32"),
        end(&middle, "in", "10.0.0.0/32", "10.0.0.1/32"),
    );
    let mut second = wire(
        "c-1",
        end(&middle, "out", "10.0.0.3/32", "10.0.0.2/32"),
        end(&far, "nsm-1", "10.0.0.2/32", "10.0.0.3/32"),
    );
    second.endpoint.routes.push(via("10.0.0.1/32", "10.0.0.3"));
    model.connect(&second, None, soon()).await.unwrap();
    let reaches = || {
        model
            .can_reach(client.path(), ip("10.0.0.1"), ip("10.0.0.2"))
            .unwrap()
    };
    first.client.routes.push(Route {
        prefix: "0.0.0.0/0".parse().unwrap(),
        via: None,
        link: false,
    });
    model.connect(&first, None, soon()).await.unwrap();
    assert!(!reaches(), "nobody at the other end answers for the far address");
    first.client.routes.push(via("10.0.0.2/32", "10.0.0.0"));
    model.connect(&first, None, soon()).await.unwrap();
    assert!(reaches());

    let astray = Policy {
        from: Some("10.0.0.1/32".parse().unwrap()),
        routes: vec![via("10.0.0.2/32", "10.9.9.9")],
        ..Default::default()
    };
    first.client.policies = vec![Policy {
        protocol: Some(6),
        ..astray.clone()
    }];
    model.connect(&first, None, soon()).await.unwrap();
    assert!(reaches(), "a policy about TCP is not about pings");
    first.client.policies = vec![astray];
    model.connect(&first, None, soon()).await.unwrap();
    assert!(!reaches());
}
