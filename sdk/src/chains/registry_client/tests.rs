// SPDX-License-Identifier: Apache-2.0
use tokio::time::sleep;

use super::*;
use crate::chains::testing::{Mesh, REGISTRY_URL, endpoint, names};
use crate::registry::testing::service;

#[tokio::test]
async fn the_chains_read_like_this() {
    let mesh = Mesh::new();
    let client = mesh.nse.client(&mesh.network, REGISTRY_URL);
    let [nse, ns] = names(&client.nse, &client.ns);
    assert_eq!(
        nse,
        "begin retry heal refresh authorize clienturl dial sendfd connect"
    );
    assert_eq!(ns, "begin retry authorize heal clienturl dial connect");
    let lookup = mesh.forwarder.lookup(&mesh.network, REGISTRY_URL);
    let [nse, ns] = names(&lookup.endpoints, &lookup.services);
    assert_eq!(nse, "recvfd querycache clienturl dial recvfd connect");
    assert_eq!(ns, "querycache clienturl dial connect");
}

#[tokio::test(start_paused = true)]
async fn c47_c49_what_is_registered_stays_until_it_is_unregistered() {
    let mesh = Mesh::new();
    let client = mesh.nse.client(&mesh.network, REGISTRY_URL);
    let entry = endpoint("nse", &["s"], "tcp://10.0.0.9:5001");
    let registered = mesh.nse.registers(&client.nse, entry).await.expect("registers");
    for _ in 0..10 {
        sleep(Duration::from_secs(60)).await;
        assert_eq!(mesh.registered().await.len(), 1);
    }
    mesh.nse
        .unregisters(&client.nse, registered)
        .await
        .expect("unregisters");
    assert!(mesh.registered().await.is_empty());
    sleep(Duration::from_secs(300)).await;
    assert!(mesh.registered().await.is_empty());
    assert_eq!(mesh.nse.component.tasks(), 0);
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn c54_a_registry_that_was_away_gets_everything_back_within_seconds() {
    let mesh = Mesh::new();
    let client = mesh.nse.client(&mesh.network, REGISTRY_URL);
    let entry = endpoint("nse", &["s"], "tcp://10.0.0.9:5001");
    mesh.nse.registers(&client.nse, entry).await.expect("registers");
    mesh.nse
        .registers(&client.ns, service("s", "IP"))
        .await
        .expect("registers");
    sleep(Duration::from_secs(100)).await;
    mesh.network.unlisten(REGISTRY_URL);
    sleep(Duration::from_secs(5)).await;
    mesh.start_registry();
    sleep(Duration::from_secs(8)).await;
    assert_eq!(
        (mesh.registered().await.len(), mesh.services().await.len()),
        (1, 1)
    );
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_service_can_be_unregistered() {
    let mesh = Mesh::new();
    let client = mesh.nse.client(&mesh.network, REGISTRY_URL);
    let registered = mesh
        .nse
        .registers(&client.ns, service("s", "IP"))
        .await
        .expect("registers");
    mesh.nse
        .unregisters(&client.ns, registered)
        .await
        .expect("unregisters");
    assert!(mesh.services().await.is_empty());
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_name_of_another_is_refused_at_once() {
    let mesh = Mesh::new();
    let client = mesh.nse.client(&mesh.network, REGISTRY_URL);
    let entry = || endpoint("nse", &["s"], "tcp://10.0.0.9:5001");
    mesh.nse.registers(&client.nse, entry()).await.expect("registers");
    let other = mesh.other.client(&mesh.network, REGISTRY_URL);
    let refused = mesh
        .other
        .registers(&other.nse, entry())
        .await
        .expect_err("is refused");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    mesh.end().await;
}
