// SPDX-License-Identifier: Apache-2.0
use http::StatusCode;
use nsm_sdk::core::Clock;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::certificate::authority::AUTHORITY;
use crate::testing::{Objects, model, rules};

const CONFIGURATION: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/admission-webhook-k8s";
const SECRET: &str = "/api/v1/namespaces/nsm-system/secrets/webhook";

fn component(seed: u64) -> Component {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    Component::with("webhook", Clock::starting_at(start), StdRng::seed_from_u64(seed))
}

fn keeper(component: &Component, client: &Client) -> Keeper {
    let name = "admission-webhook-k8s";
    Keeper {
        component: component.clone(),
        secrets: Secrets::new(client.clone(), "nsm-system", "webhook"),
        registration: Registration::new(client.clone(), name, "svc", "nsm-system", &rules()),
        names: vec!["svc.nsm-system.svc".into()],
    }
}

/// What the API server believes in.
async fn believed(objects: &Objects) -> serde_json::Value {
    let state = objects.lock().await;
    state.objects[CONFIGURATION]["webhooks"][0]["clientConfig"]["caBundle"].clone()
}

#[tokio::test(start_paused = true)]
async fn replicas_are_one_authority_whoever_comes_first() {
    let (client, objects) = model();
    let (one, other) = (component(1), component(2));
    let shared = [&one, &other].map(|component| {
        let secrets = keeper(component, &client).secrets;
        async move { secrets.share(component, None).await }
    });
    let [first, second] = shared;
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first.expect("shared"), second.expect("shared"));
    assert_eq!(objects.lock().await.writes, 1);
}

#[tokio::test(start_paused = true)]
async fn a_secret_of_the_manifest_is_filled() {
    let (client, objects) = model();
    let empty = serde_json::json!({ "metadata": { "name": "webhook", "labels": { "app": "a" }, "resourceVersion": "0" } });
    objects.lock().await.objects.insert(SECRET.into(), empty);
    let component = component(1);
    let shared = keeper(&component, &client).secrets.share(&component, None).await;
    let stored = objects.lock().await.objects[SECRET].clone();
    let secret: Secret = serde_json::from_value(stored.clone()).expect("a secret");
    assert_eq!(read(&secret), shared.ok());
    assert_eq!(stored["metadata"]["labels"]["app"], "a");
}

#[tokio::test(start_paused = true)]
async fn the_api_server_is_told_before_anything_is_presented() {
    let (client, objects) = model();
    let component = component(1);
    let mut presented = keeper(&component, &client).start().await.expect("started");
    let first = believed(&objects).await;
    assert!(first.is_string());

    // A new authority is believed for a while before its certificate is shown.
    let mut seen = objects.lock().await.objects[SECRET].clone();
    tokio::time::advance(AUTHORITY / 2).await;
    while objects.lock().await.objects[SECRET] == seen {
        sleep(Duration::from_millis(100)).await;
    }
    seen = objects.lock().await.objects[SECRET].clone();
    // Its first leaf was renewed on the way here.
    presented.mark_unchanged();
    let told = tokio::time::Instant::now();
    presented.changed().await.expect("it is kept");
    assert!(told.elapsed() >= TO_SETTLE - Duration::from_millis(200));
    assert_ne!(believed(&objects).await, first);
    assert_eq!(objects.lock().await.objects[SECRET], seen);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_writes_is_mended() {
    let (client, objects) = model();
    let component = component(1);
    let _presented = keeper(&component, &client).start().await.expect("started");
    let ours = believed(&objects).await;
    objects
        .lock()
        .await
        .objects
        .get_mut(CONFIGURATION)
        .expect("written")["webhooks"] = serde_json::json!([]);
    sleep(LOOK * 2).await;
    assert_eq!(believed(&objects).await, ours);
    component.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_secrets_there_is_one_of_us() {
    let (client, objects) = model();
    objects.lock().await.refused = Some((SECRET.trim_end_matches("/webhook").into(), StatusCode::FORBIDDEN));
    let component = component(1);
    let secrets = keeper(&component, &client).secrets;
    let first = secrets.share(&component, None).await.expect("made");
    let again = secrets.share(&component, Some(&first)).await.expect("kept");
    assert_eq!(again, first);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_and_missing_rights_are_not() {
    let (client, objects) = model();
    objects.lock().await.refused = Some(("/apis".into(), StatusCode::SERVICE_UNAVAILABLE));
    let component = component(1);
    let starting = keeper(&component, &client).start();
    let ending = async {
        sleep(PAUSE * 3).await;
        objects.lock().await.refused = None;
    };
    let (presented, ()) = tokio::join!(starting, ending);
    presented.expect("started after all");

    objects.lock().await.refused = Some(("/apis".into(), StatusCode::FORBIDDEN));
    let refused = keeper(&component, &client).start().await.expect_err("refused");
    assert_eq!(refused.reason(), "forbidden");
    component.end().await;
}
