// SPDX-License-Identifier: Apache-2.0
//! What is registered as objects, and objects of people as what is registered.

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams};
use libtest_mimic::Trial;
use nsm_api::registry::NetworkService;
use nsm_sdk::core::{NsRegistry, NseRegistry};
use serde_json::{Value, json};

use crate::Bench;
use crate::caller::{endpoint, next, offering};
use crate::world::{HOME, NS, NSE, World, eventually};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "c101_a_registration_is_an_object_of_our_namespace",
            c101_a_registration_is_an_object_of_our_namespace,
        ),
        bench.test(
            "c100_c105_services_of_people_are_found_and_followed",
            c100_c105_services_of_people_are_found_and_followed,
        ),
        bench.test(
            "c106_a_name_that_kubernetes_refuses_leaves_nothing",
            c106_a_name_that_kubernetes_refuses_leaves_nothing,
        ),
        bench.test(
            "c102_what_has_expired_is_deleted_and_told",
            c102_what_has_expired_is_deleted_and_told,
        ),
        bench.test(
            "the_definitions_refuse_nonsense_and_print_columns",
            the_definitions_refuse_nonsense_and_print_columns,
        ),
        bench.test(
            "nonsense_under_definitions_without_a_schema_hinders_nobody",
            nonsense_under_definitions_without_a_schema_hinders_nobody,
        ),
    ]
}

async fn c101_a_registration_is_an_object_of_our_namespace(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let nse = world.caller(&registry, "nse")?;
    let mut watch = nse.opens::<NseRegistry>(offering("c101"), true).await?;
    let answer = nse.registers::<NseRegistry>(endpoint("c101", "c101")).await?;
    ensure!(!next::<NseRegistry>(&mut watch).await?.1, "it is told");
    ensure!(
        answer.expiration_time.is_some() && answer.initial_registration_time.is_some(),
        "{answer:?}"
    );
    let stored = world.stored(NSE, "c101").await?.context("is stored")?;
    let spec = &stored["spec"];
    ensure!(spec["network_service_names"] == json!(["c101"]), "{spec}");
    ensure!(spec["expiration_time"]["seconds"].is_i64(), "{spec}");
    ensure!(
        spec["path_ids"][0] == json!("spiffe://test/ns/default/pod/nse"),
        "{spec}"
    );
    let changed = nsm_api::registry::NetworkServiceEndpoint {
        url: "tcp://10.0.0.2:5001".into(),
        ..endpoint("c101", "c101")
    };
    nse.registers::<NseRegistry>(changed).await?;
    let again = world.stored(NSE, "c101").await?.context("is stored")?;
    ensure!(again["spec"]["url"] == json!("tcp://10.0.0.2:5001"), "{again}");
    ensure!(
        again["metadata"]["uid"] == stored["metadata"]["uid"],
        "the same object"
    );
    ensure!(!next::<NseRegistry>(&mut watch).await?.1, "the change is told");
    nse.unregisters::<NseRegistry>("c101").await?;
    ensure!(next::<NseRegistry>(&mut watch).await?.1, "the end is told");
    ensure!(world.stored(NSE, "c101").await?.is_none(), "is deleted");
    Ok(())
}

async fn c100_c105_services_of_people_are_found_and_followed(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let caller = world.caller(&registry, "nse")?;
    let named = NetworkService {
        name: "c105".into(),
        ..Default::default()
    };
    let mut watch = caller.opens::<NsRegistry>(named.clone(), true).await?;
    let matches =
        json!([{ "source_selector": null, "routes": [{ "destination_selector": { "app": "a" } }] }]);
    world
        .writes(
            NS,
            "elsewhere",
            "c105",
            json!({ "payload": "ETHERNET", "matches": matches }),
        )
        .await?;
    let (told, deleted) = next::<NsRegistry>(&mut watch).await?;
    ensure!(
        !deleted && told.name == "c105" && told.payload == "ETHERNET" && told.matches.len() == 1,
        "{told:?}"
    );
    let objects = world.objects(NS, "elsewhere");
    let accepted = async || -> Option<Value> {
        let object = objects.get("c105").await.ok()?;
        let condition = object.data["status"]["conditions"][0].clone();
        (!condition.is_null()).then_some(condition)
    };
    let condition = eventually("its status says that it is used", accepted).await?;
    ensure!(
        condition["type"] == json!("Accepted") && condition["status"] == json!("True"),
        "{condition}"
    );
    caller.registers::<NsRegistry>(named.clone()).await?;
    caller.unregisters::<NsRegistry>("c105").await?;
    ensure!(
        caller
            .service("c105")
            .await?
            .is_some_and(|found| found.payload == "ETHERNET"),
        "it stays"
    );
    ensure!(world.stored(NS, "c105").await?.is_none(), "no other one is made");
    world
        .writes(NS, "elsewhere", "c105", json!({ "payload": "IP" }))
        .await?;
    let is_changed = async || {
        caller
            .service("c105")
            .await
            .ok()??
            .matches
            .is_empty()
            .then_some(())
    };
    eventually("the change is found", is_changed).await?;
    objects.delete("c105", &DeleteParams::default()).await?;
    while !next::<NsRegistry>(&mut watch).await?.1 {}
    ensure!(caller.service("c105").await?.is_none(), "it is gone");
    Ok(())
}

async fn c106_a_name_that_kubernetes_refuses_leaves_nothing(world: &mut World) -> Result<()> {
    let registry = world.registry(&[]).await?;
    let nse = world.caller(&registry, "nse")?;
    let refused = nse.registers::<NseRegistry>(endpoint("C106", "c106")).await;
    let refused = refused.err().context("is refused")?;
    ensure!(
        refused.reason() == "refused-by-kubernetes" && refused.text().contains("RFC 1123"),
        "{refused}"
    );
    ensure!(nse.names("c106").await?.is_empty(), "nothing is found");
    nse.registers::<NseRegistry>(endpoint("c106", "c106")).await?;
    nse.sees("c106", &["c106"]).await?;
    nse.unregisters::<NseRegistry>("c106").await?;
    Ok(())
}

async fn c102_what_has_expired_is_deleted_and_told(world: &mut World) -> Result<()> {
    let old = json!({ "network_service_names": ["c102"], "url": "tcp://a:1", "expiration_time": { "seconds": 10 } });
    world.writes(NSE, HOME, "c102-old", old.clone()).await?;
    world.writes(NSE, "elsewhere", "c102-foreign", old).await?;
    let registry = world.registry(&[("NSM_EXPIRE_PERIOD", "2s")]).await?;
    let nse = world.caller(&registry, "nse")?;
    ensure!(
        nse.names("c102").await?.is_empty(),
        "what has expired is not found"
    );
    let mut watch = nse.opens::<NseRegistry>(offering("c102"), true).await?;
    nse.registers::<NseRegistry>(endpoint("c102", "c102")).await?;
    ensure!(!next::<NseRegistry>(&mut watch).await?.1, "it comes");
    ensure!(next::<NseRegistry>(&mut watch).await?.1, "and goes");
    let gone = async || {
        let foreign = world
            .objects(NSE, "elsewhere")
            .get_opt("c102-foreign")
            .await
            .ok()?;
        let ours = [
            world.stored(NSE, "c102").await.ok()?,
            world.stored(NSE, "c102-old").await.ok()?,
        ];
        (foreign.is_none() && ours == [None, None]).then_some(())
    };
    eventually("all three are deleted", gone).await
}

async fn the_definitions_refuse_nonsense_and_print_columns(world: &mut World) -> Result<()> {
    for (kind, spec) in [
        (NS, json!({ "payload": "TEA" })),
        (NS, json!({ "matches": [{ "routes": "all" }] })),
        (NSE, json!({ "network_service_names": "one" })),
        (NSE, json!({ "expiration_time": { "seconds": 1, "nanos": -1 } })),
    ] {
        let refused = world.writes(kind, HOME, "nonsense", spec.clone()).await;
        ensure!(refused.is_err(), "{kind} {spec} is accepted");
    }
    world
        .writes(NS, HOME, "columns", json!({ "payload": "ETHERNET" }))
        .await?;
    let path = format!("/apis/networkservicemesh.io/v1/namespaces/{HOME}/{NS}");
    let request = http::Request::get(path).header("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let table: Value = world.control.client.request(request.body(Vec::new())?).await?;
    let columns = table["columnDefinitions"].as_array().context("a table")?;
    let columns: Vec<_> = columns
        .iter()
        .filter_map(|column| column["name"].as_str())
        .collect();
    ensure!(
        columns == ["Name", "Payload", "Endpoints", "Accepted", "Reason", "Age"],
        "{columns:?}"
    );
    world
        .objects(NS, HOME)
        .delete("columns", &DeleteParams::default())
        .await?;
    Ok(())
}

/// The Go implementation's definitions say nothing about what objects look like.
async fn nonsense_under_definitions_without_a_schema_hinders_nobody(world: &mut World) -> Result<()> {
    let ours = nsm_sdk_k8s::resources::definitions()?;
    let mut loose = Vec::new();
    for (_, text) in &ours {
        let mut definition: Value = serde_saphyr::from_str(text)?;
        let version = &mut definition["spec"]["versions"][0];
        version["schema"]["openAPIV3Schema"] =
            json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        version["subresources"] = json!({});
        version["additionalPrinterColumns"] = json!([]);
        loose.push(definition.to_string());
    }
    world.define(&loose).await?;
    let registry = world.registry(&[]).await?;
    let nse = world.caller(&registry, "nse")?;
    let is_loose = async || {
        let written = world
            .writes(NSE, HOME, "nonsense-1", json!({ "network_service_names": 7 }))
            .await;
        written.ok()
    };
    eventually("the loose definition counts", is_loose).await?;
    world.writes(NSE, HOME, "nonsense-2", json!("text")).await?;
    nse.registers::<NseRegistry>(endpoint("sense", "loose")).await?;
    nse.sees("loose", &["sense"]).await?;
    nse.registers::<NseRegistry>(endpoint("nonsense-2", "loose"))
        .await?;
    nse.sees("loose", &["nonsense-2", "sense"]).await?;
    let patch = Patch::Merge(json!({ "spec": { "network_service_labels": [1] } }));
    world
        .objects(NSE, HOME)
        .patch("sense", &PatchParams::default(), &patch)
        .await?;
    nse.sees("loose", &["nonsense-2"]).await?;
    nse.registers::<NseRegistry>(endpoint("sense", "loose")).await?;
    nse.sees("loose", &["nonsense-2", "sense"]).await?;
    ensure!(
        registry.program.printed().contains("nonsense-1"),
        "the log tells of it"
    );
    world.define(&ours.map(|(_, text)| text)).await?;
    for name in ["nonsense-1", "nonsense-2", "sense"] {
        world
            .objects(NSE, HOME)
            .delete(name, &DeleteParams::default())
            .await?;
    }
    Ok(())
}
