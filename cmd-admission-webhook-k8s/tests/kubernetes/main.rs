// SPDX-License-Identifier: Apache-2.0
//! The real program beside a real API server of Kubernetes, with the rights and objects of the manifests.
//!
//! `CLUSTER_PROGRAMS` names the folder with the program `kube`. Nothing runs pods here: what is looked at is what the
//! API server stores, and whom it asks. The webhook listens on port 443 of an address of this machine alone, since the
//! API server finds it by a service that is a name outside of the cluster. Nothing is left when the tests end.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

#[allow(dead_code, reason = "the tests of the registry do more with it")]
#[path = "../../../cmd-registry-k8s/tests/kubernetes/control.rs"]
mod control;
mod world;

use world::{KEY, World};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => Arc::new(runtime),
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let world = Arc::new(Mutex::new(None));
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let test = |name: &'static str, run: Test| trial(name, run, &runtime, &world);
    let tests = vec![
        test("each_level_gives_a_pod_its_client", |world| {
            Box::pin(each_level_gives_a_pod_its_client(world))
        }),
        test("a_deployment_follows_its_annotation", |world| {
            Box::pin(a_deployment_follows_its_annotation(world))
        }),
        test("a_bad_annotation_is_refused_by_kubectl_apply", |world| {
            Box::pin(a_bad_annotation_is_refused_by_kubectl_apply(world))
        }),
        test("a_restricted_namespace_takes_the_pod", |world| {
            Box::pin(a_restricted_namespace_takes_the_pod(world))
        }),
        test("a_dead_webhook_hinders_nobody_who_does_not_need_it", |world| {
            Box::pin(a_dead_webhook_hinders_nobody_who_does_not_need_it(world))
        }),
        test("a_restart_goes_on_with_the_same_authority", |world| {
            Box::pin(a_restart_goes_on_with_the_same_authority(world))
        }),
    ];
    let done = libtest_mimic::run(&arguments, tests).exit_code();
    runtime.block_on(async { drop(world.lock().await.take()) });
    done
}

type Test = for<'a> fn(&'a mut World) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + 'a>>;
type Shared = Arc<Mutex<Option<World>>>;

/// A test on the shared API server; after a failure there is a new one.
fn trial(name: &'static str, run: Test, runtime: &Arc<Runtime>, shared: &Shared) -> Trial {
    let (runtime, shared) = (Arc::clone(runtime), Arc::clone(shared));
    Trial::test(name, move || {
        let done = runtime.block_on(async {
            let mut shared = shared.lock().await;
            let mut world = match shared.take() {
                Some(world) => world,
                None => World::start().await.context("cannot start an API server")?,
            };
            if let Err(error) = run(&mut world).await {
                return Err(error.context(world.keep()));
            }
            *shared = Some(world);
            Ok(())
        });
        done.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "app-", "annotations": annotations },
        "spec": { "containers": [{ "name": "app", "image": "app" }] },
    })
}

fn deployment(name: &str, own: &Value, template: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "annotations": own },
        "spec": { "selector": { "matchLabels": { "app": name } }, "template": {
            "metadata": { "labels": { "app": name }, "annotations": template },
            "spec": pod(&Value::Null)["spec"],
        } },
    })
}

/// The services that the client of a pod is told, and whether it is a native sidecar.
fn told(pod: &Value) -> Option<(&str, bool)> {
    let containers = pod["spec"]["initContainers"].as_array()?;
    let client = containers.iter().find(|one| one["name"] == "cmd-nsc")?;
    let variables = client["env"].as_array()?;
    let services = variables
        .iter()
        .find(|one| one["name"] == "NSM_NETWORK_SERVICES")?;
    Some((services["value"].as_str()?, client["restartPolicy"] == "Always"))
}

async fn each_level_gives_a_pod_its_client(world: &mut World) -> Result<()> {
    world.namespace("plain", &json!({}), &json!({})).await?;
    let plain = world.makes("plain", &pod(&json!({}))).await?;
    ensure!(told(&plain).is_none(), "{plain}");
    let annotated = world
        .makes("plain", &pod(&json!({ KEY: "kernel://s/nsm-1" })))
        .await?;
    ensure!(
        told(&annotated) == Some(("kernel://s/nsm-1", true)),
        "{annotated}"
    );

    world
        .namespace("meshed", &json!({ KEY: "kernel://of-namespace" }), &json!({}))
        .await?;
    let inherits = world.makes("meshed", &pod(&json!({}))).await?;
    ensure!(
        told(&inherits) == Some(("kernel://of-namespace", true)),
        "{inherits}"
    );
    let own = world
        .makes("meshed", &pod(&json!({ KEY: "kernel://own" })))
        .await?;
    ensure!(told(&own) == Some(("kernel://own", true)), "{own}");
    let none = world.makes("meshed", &pod(&json!({ KEY: "" }))).await?;
    ensure!(told(&none).is_none(), "{none}");
    Ok(())
}

async fn a_deployment_follows_its_annotation(world: &mut World) -> Result<()> {
    world.namespace("workloads", &json!({}), &json!({})).await?;
    let of = |stored: &Value| stored["spec"]["template"]["metadata"]["annotations"][KEY].clone();
    let scraped = json!({ "prometheus.io/scrape": "true" });
    for (own, wanted) in [
        (json!({ KEY: "kernel://a" }), json!("kernel://a")),
        (json!({ KEY: "kernel://b" }), json!("kernel://b")),
        (json!({}), Value::Null),
    ] {
        let stored = world
            .applies("workloads", &deployment("app", &own, &scraped))
            .await?;
        ensure!(of(&stored) == wanted, "{stored}");
        ensure!(
            stored["spec"]["template"]["spec"]["initContainers"].is_null(),
            "{stored}"
        );
    }
    Ok(())
}

async fn a_bad_annotation_is_refused_by_kubectl_apply(world: &mut World) -> Result<()> {
    world.namespace("refused", &json!({}), &json!({})).await?;
    for (annotation, why) in [
        ("tap://a", "use kernel, memif, vfio or noop"),
        ("kernel://a/a-name-too-long-for-linux", "at most 15"),
    ] {
        let bad = json!({ KEY: annotation });
        for object in [
            pod(&bad),
            deployment("own", &bad, &json!({})),
            deployment("template", &json!({}), &bad),
        ] {
            let refused = world.makes("refused", &object).await.err();
            let text = refused.map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(text.contains(why), "{annotation}: {text:?}");
        }
    }
    Ok(())
}

async fn a_restricted_namespace_takes_the_pod(world: &mut World) -> Result<()> {
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    world.namespace("restricted", &json!({}), &labels).await?;
    let mut pod = pod(&json!({ KEY: "kernel://s" }));
    pod["spec"]["securityContext"] =
        json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } });
    pod["spec"]["containers"][0]["securityContext"] =
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let stored = world.makes("restricted", &pod).await?;
    ensure!(told(&stored) == Some(("kernel://s", true)), "{stored}");
    Ok(())
}

async fn a_dead_webhook_hinders_nobody_who_does_not_need_it(world: &mut World) -> Result<()> {
    world.namespace("alone", &json!({}), &json!({})).await?;
    world.kill()?;
    world.makes("alone", &pod(&json!({ "other": "x" }))).await?;
    let deployment = deployment("app", &json!({}), &json!({ "other": "x" }));
    world.makes("alone", &deployment).await?;
    world.namespace("made-meanwhile", &json!({}), &json!({})).await?;
    let refused = world.makes("alone", &pod(&json!({ KEY: "kernel://s" }))).await;
    let text = refused
        .err()
        .map(|error| format!("{error:#}"))
        .unwrap_or_default();
    ensure!(text.contains("pods.networkservicemesh.io"), "{text:?}");
    world.restart().await?;
    world.makes("alone", &pod(&json!({ KEY: "kernel://s" }))).await?;
    Ok(())
}

async fn a_restart_goes_on_with_the_same_authority(world: &mut World) -> Result<()> {
    let (secret, configuration) = (world.secret().await?, world.configuration().await?);
    ensure!(secret["data"]["tls.key"].is_string(), "{}", secret["metadata"]);
    world.kill()?;
    world.restart().await?;
    ensure!(world.secret().await? == secret, "the secret has changed");
    let after = world.configuration().await?;
    ensure!(
        after["webhooks"] == configuration["webhooks"],
        "{after} is not {configuration}"
    );
    Ok(())
}
