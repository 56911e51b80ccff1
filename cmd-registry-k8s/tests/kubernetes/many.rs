// SPDX-License-Identifier: Apache-2.0
//! Many endpoints: what they cost.
//!
//! `NSM_MANY` says how many; the figures of the specification are for 10,000 and a program built for release, and are
//! measured by this test: `cargo xtask bench kubernetes` runs it.

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream;
use kube::api::PostParams;
use libtest_mimic::Trial;
use nsm_api::registry::{NetworkServiceEndpoint, NetworkServiceLabels};
use nsm_sdk::core::NseRegistry;
use serde_json::json;
use tokio::time::Instant;

use crate::Bench;
use crate::world::{HOME, NSE, World, eventually};

/// How many look-ups are timed.
const LOOKUPS: usize = 2_000;

/// How many endpoints have one service.
const A_SERVICE: usize = 10;

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![bench.test("c108_many_endpoints_are_found_in_little_memory", many)]
}

/// An endpoint as a mesh has it.
fn numbered(number: usize) -> NetworkServiceEndpoint {
    let service = format!("many-{}", number / A_SERVICE);
    let labels = [
        ("app", "nse-kernel"),
        ("nodeName", "worker-17"),
        ("podName", "nse-kernel-7d9c5d8b9d-abcde"),
    ];
    let labels = labels
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into();
    NetworkServiceEndpoint {
        name: format!("nse-kernel-7d9c5d8b9d-{number:05}"),
        network_service_names: vec![service.clone()],
        network_service_labels: [(service, NetworkServiceLabels { labels })].into(),
        url: "tcp://10.244.17.5:5001".into(),
        expiration_time: Some(prost_types::Timestamp {
            seconds: 4_000_000_000,
            nanos: 0,
        }),
        initial_registration_time: Some(prost_types::Timestamp {
            seconds: 1_700_000_000,
            nanos: 5,
        }),
        path_ids: [
            "nse-kernel-7d9c5d8b9d-abcde",
            "nsmgr-x2k4j",
            "registry-k8s-6c5d7f8b9d-x7x2k",
        ]
        .map(|pod| format!("spiffe://k8s.nsm/ns/nsm-system/pod/{pod}"))
        .into(),
    }
}

async fn many(world: &mut World) -> Result<()> {
    let count: usize = match std::env::var("NSM_MANY") {
        Ok(count) => count.parse().context("NSM_MANY is a number")?,
        Err(_) => 500,
    };
    let objects = world.objects(NSE, HOME);
    let made = stream::iter(0..count).map(|number| {
        let (objects, entry) = (&objects, numbered(number));
        async move {
            let object = json!({
                "apiVersion": "networkservicemesh.io/v1", "kind": "NetworkServiceEndpoint",
                "metadata": { "name": entry.name },
                "spec": nsm_sdk_k8s::resources::NetworkServiceEndpointSpec::from(entry),
            });
            objects
                .create(&PostParams::default(), &serde_json::from_value(object)?)
                .await?;
            Ok::<(), anyhow::Error>(())
        }
    });
    for done in made.buffer_unordered(32).collect::<Vec<_>>().await {
        done?;
    }
    let registry = world.registry(&[("NSM_LOG_LEVEL", "INFO")]).await?;
    let caller = world.caller(&registry, "nsc")?;
    let mut taken = Vec::with_capacity(LOOKUPS);
    for number in 0..LOOKUPS {
        let service = format!("many-{}", number % count.div_ceil(A_SERVICE));
        let began = Instant::now();
        let found = caller.names(&service).await?;
        taken.push(began.elapsed());
        ensure!(!found.is_empty() && found.len() <= A_SERVICE, "{found:?}");
    }
    taken.sort();
    let (median, p99) = (taken[LOOKUPS / 2], taken[LOOKUPS * 99 / 100]);
    let all = caller
        .finds::<NseRegistry>(NetworkServiceEndpoint::default())
        .await?;
    ensure!(all.len() == count, "{} are found", all.len());
    let memory = registry.program.memory_kib()?;
    println!(
        "{count} endpoints: ready after {:?}, {} MiB resident, a look-up {median:?}, p99 {p99:?}",
        registry.ready,
        memory.resident / 1024
    );
    let mib = memory.resident as f64 / 1024.0;
    println!("figure k8s.registry_find_p99_ms {}", p99.as_secs_f64() * 1e3);
    println!("figure k8s.registry_rss_mib {mib}");
    println!("figure k8s.registry_ready_s {}", registry.ready.as_secs_f64());
    ensure!(
        memory.resident < 64 * 1024 + u64::try_from(count)?,
        "{} KiB are resident",
        memory.resident
    );
    // All at once would take the API server longer than it gives a request.
    let deleted = stream::iter(0..count).map(|number| {
        let (objects, name) = (&objects, numbered(number).name);
        async move { objects.delete(&name, &Default::default()).await.map(drop) }
    });
    for done in deleted.buffer_unordered(32).collect::<Vec<_>>().await {
        done?;
    }
    let gone = async || {
        caller
            .finds::<NseRegistry>(NetworkServiceEndpoint::default())
            .await
            .ok()?
            .is_empty()
            .then_some(())
    };
    eventually("all are gone", gone).await
}
