// SPDX-License-Identifier: Apache-2.0
use nsm_api::registry::NetworkServiceEndpoint;
use tokio::time::sleep;

use super::*;
use crate::chains::testing::{Mesh, Place, URLS, endpoint, manager, names};
use crate::networkservice::Registries;
use crate::registry::sockets::testing::{listen, open_files};
use crate::registry::testing::{find, service};

#[tokio::test]
async fn the_chains_read_like_this() {
    let mesh = Mesh::new();
    let [first, _] = &mesh.managers;
    let [nse, ns] = names(&first.served.nse, &first.served.ns);
    let serve = "checks updatepath authorize begin meter";
    let hand_on = "querycache clienturl authorize dial connect";
    assert_eq!(
        nse,
        format!("{serve} clientinfo expire recvfd sendfd localbypass {hand_on}")
    );
    assert_eq!(ns, format!("{serve} {hand_on}"));
    let [nse, ns] = names(&first.served.lookup.endpoints, &first.served.lookup.services);
    assert_eq!(
        (nse.as_str(), ns.as_str()),
        (format!("localbypass {hand_on}").as_str(), hand_on)
    );
    let alone = manager(&mesh.network, Place::nsmgr(), "tcp://10.0.0.3:5001", None);
    let [nse, ns] = names(&alone.served.nse, &alone.served.ns);
    assert_eq!(
        nse,
        format!("{serve} clientinfo expire recvfd sendfd localbypass memory")
    );
    assert_eq!(ns, format!("{serve} setpayload memory"));
}

fn offering(service: &str) -> NetworkServiceEndpoint {
    NetworkServiceEndpoint {
        network_service_names: vec![service.into()],
        ..Default::default()
    }
}

fn urls(found: &[NetworkServiceEndpoint]) -> Vec<&str> {
    found.iter().map(|entry| entry.url.as_str()).collect()
}

async fn found(registries: &Registries, component: &Component, service: &str) -> Vec<NetworkServiceEndpoint> {
    find(&registries.endpoints, component, offering(service)).await
}

#[tokio::test(start_paused = true)]
async fn c60_an_endpoint_is_a_socket_on_its_node_and_its_manager_elsewhere() {
    let (mesh, socket) = (Mesh::new(), listen());
    let client = mesh.nse.client(&mesh.network, URLS[0]);
    let answer = mesh
        .nse
        .registers(&client.nse, endpoint("nse", &["s"], &socket.url))
        .await
        .expect("registers");
    assert_eq!(answer.entry.url, socket.url);
    let labels = &answer.entry.network_service_labels["s"].labels;
    assert_eq!(labels["nodeName"], URLS[0]);
    assert_eq!(urls(&mesh.registered().await), [URLS[0]]);
    let [first, second] = &mesh.managers;
    let own = found(&first.served.lookup, &first.place.component, "s").await;
    assert!(socket.is_reached_by(&own[0].url), "{own:?}");
    let foreign = found(&second.served.lookup, &second.place.component, "s").await;
    assert_eq!(urls(&foreign), [URLS[0]]);
    mesh.end().await;
}

/// The first look-up asks the manager, later ones the cache: either way what is found can be dialled as long as who
/// asked keeps it, and not longer.
#[tokio::test(start_paused = true)]
async fn c63_a_forwarder_reaches_the_sockets_of_its_node() {
    let (mesh, socket) = (Mesh::new(), listen());
    let client = mesh.nse.client(&mesh.network, URLS[0]);
    let registered = mesh
        .nse
        .registers(&client.nse, endpoint("nse", &["s"], &socket.url))
        .await
        .expect("registers");
    let lookup = mesh.forwarder.lookup(&mesh.network, URLS[0]);
    let mut all = Vec::new();
    for _ in 0..5 {
        let ctx = crate::registry::testing::within(&mesh.forwarder.component, 10);
        let query = NseRegistry::query(offering("s"), false);
        let mut found = lookup.endpoints.find(&ctx, query).await.expect("finds");
        let answer = futures::StreamExt::next(&mut found)
            .await
            .expect("one")
            .expect("an answer");
        let url = NseRegistry::told(&answer).expect("an entry").0.url.clone();
        assert!(socket.is_reached_by(&url), "{url}");
        all.push((url, ctx));
        sleep(Duration::from_millis(100)).await;
    }
    assert!(all.iter().all(|(url, _)| *url == all[0].0), "one socket, one url");
    mesh.nse
        .unregisters(&client.nse, registered)
        .await
        .expect("unregisters");
    sleep(Duration::from_secs(1)).await;
    assert!(
        socket.is_reached_by(&all[0].0),
        "it was found, and may be dialled"
    );
    drop(all);
    sleep(Duration::from_secs(120)).await;
    assert_eq!(open_files(&socket), 0);
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn c64_forwarders_are_found_by_their_own_manager() {
    let mesh = Mesh::new();
    for (count, url) in URLS.iter().enumerate() {
        let client = mesh.forwarder.client(&mesh.network, url);
        let entry = endpoint(
            &format!("forwarder-{count}"),
            &["forwarder"],
            "tcp://10.0.0.7:6001",
        );
        mesh.forwarder
            .registers(&client.nse, entry)
            .await
            .expect("registers");
    }
    for (count, manager) in mesh.managers.iter().enumerate() {
        let example = NetworkServiceEndpoint {
            url: manager.url.into(),
            ..offering("forwarder")
        };
        for _ in 0..3 {
            let found = find(
                &manager.served.lookup.endpoints,
                &manager.place.component,
                example.clone(),
            )
            .await;
            let names: Vec<_> = found.iter().map(|entry| entry.name.clone()).collect();
            assert_eq!(names, [format!("forwarder-{count}")]);
            assert_eq!(urls(&found), ["tcp://10.0.0.7:6001"]);
            sleep(Duration::from_secs(1)).await;
        }
    }
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn c65_a_manager_without_a_registry_keeps_everything_itself() {
    let (mesh, socket) = (Mesh::new(), listen());
    let alone = manager(&mesh.network, Place::nsmgr(), "tcp://10.0.0.3:5001", None);
    let client = mesh.nse.client(&mesh.network, alone.url);
    mesh.nse
        .registers(&client.nse, endpoint("nse", &["s"], &socket.url))
        .await
        .expect("registers");
    mesh.nse
        .registers(&client.ns, service("s", ""))
        .await
        .expect("registers");
    let forwarder = mesh.forwarder.client(&mesh.network, alone.url);
    let entry = endpoint("forwarder", &["forwarder"], "tcp://10.0.0.7:6001");
    mesh.forwarder
        .registers(&forwarder.nse, entry)
        .await
        .expect("registers");
    let own = found(&alone.served.lookup, &alone.place.component, "s").await;
    assert!(socket.is_reached_by(&own[0].url));
    let services = find(
        &alone.served.lookup.services,
        &alone.place.component,
        Default::default(),
    )
    .await;
    assert_eq!(services[0].payload, "IP");
    let example = NetworkServiceEndpoint {
        url: alone.url.into(),
        ..offering("forwarder")
    };
    let forwarders = find(&alone.served.lookup.endpoints, &alone.place.component, example).await;
    assert_eq!(
        urls(&forwarders),
        ["tcp://10.0.0.7:6001"],
        "found by the manager's url"
    );
    assert!(mesh.registered().await.is_empty());
    alone.place.component.end().await;
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn three_hops_are_named_on_the_path_and_in_the_entry() {
    let mesh = Mesh::new();
    let client = mesh.nse.client(&mesh.network, URLS[0]);
    let answer = mesh
        .nse
        .registers(&client.nse, endpoint("nse", &["s"], "tcp://10.0.0.7:1"))
        .await
        .expect("registers");
    let [first, _] = &mesh.managers;
    let hops = [
        mesh.nse.party.id(),
        first.place.party.id(),
        mesh.registry.party.id(),
    ];
    assert_eq!(answer.entry.path_ids, hops);
    assert_eq!((answer.path.index, answer.path.path_segments.len()), (0, 3));
    mesh.end().await;
}

/// An endpoint that is killed is gone when its registration ends, at its manager and at the registry.
#[tokio::test(start_paused = true)]
async fn c46_an_endpoint_that_died_is_removed_everywhere() {
    let (mesh, socket) = (Mesh::new(), listen());
    let client = mesh.nse.client(&mesh.network, URLS[0]);
    mesh.nse
        .registers(&client.nse, endpoint("nse", &["s"], &socket.url))
        .await
        .expect("registers");
    mesh.nse.component.end().await;
    sleep(Duration::from_secs(44)).await;
    assert_eq!(mesh.registered().await.len(), 1);
    sleep(Duration::from_secs(2)).await;
    assert!(mesh.registered().await.is_empty());
    let [first, _] = &mesh.managers;
    assert!(
        found(&first.served.lookup, &first.place.component, "s")
            .await
            .is_empty()
    );
    sleep(Duration::from_secs(60)).await;
    assert_eq!(open_files(&socket), 0);
    mesh.end().await;
}

#[tokio::test(start_paused = true)]
async fn c54_everything_is_back_after_a_restart_of_the_registry_behind_the_manager() {
    let (mesh, socket) = (Mesh::new(), listen());
    let client = mesh.nse.client(&mesh.network, URLS[0]);
    mesh.nse
        .registers(&client.nse, endpoint("nse", &["s"], &socket.url))
        .await
        .expect("registers");
    mesh.nse
        .registers(&client.ns, service("s", "IP"))
        .await
        .expect("registers");
    sleep(Duration::from_secs(70)).await;
    mesh.start_registry();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        (mesh.registered().await.len(), mesh.services().await.len()),
        (1, 1)
    );
    let [first, _] = &mesh.managers;
    let own = found(&first.served.lookup, &first.place.component, "s").await;
    assert!(socket.is_reached_by(&own[0].url));
    mesh.end().await;
}
