// SPDX-License-Identifier: Apache-2.0
use http::StatusCode;

use super::*;
use crate::testing::{Objects, model, rules};

const KEY: &str = "networkservicemesh.io";

fn reviewer() -> (Reviewer, Objects) {
    let (client, objects) = model();
    let reviewer = Reviewer {
        rules: rules(),
        cluster: Cluster::new(client, "nsm-system"),
    };
    (reviewer, objects)
}

/// A namespace of these annotations and labels is there.
async fn namespace(objects: &Objects, annotations: Value, labels: Value) {
    let object = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": "apps", "annotations": annotations, "labels": labels },
    });
    let mut state = objects.lock().await;
    state.objects.insert("/api/v1/namespaces/apps".into(), object);
}

/// A review as the API server sends it.
fn asks(operation: &str, kind: &str, object: Value, old: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": kind },
            "resource": { "group": "", "version": "v1", "resource": format!("{}s", kind.to_lowercase()) },
            "requestKind": { "group": "", "version": "v1", "kind": kind },
            "name": "app", "namespace": "apps", "operation": operation,
            "userInfo": { "username": "admin", "groups": ["system:authenticated"] },
            "object": object, "oldObject": old, "dryRun": false,
            "options": { "apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions" },
        },
    })
}

fn pod(annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "app", "namespace": "apps", "annotations": annotations },
        "spec": { "containers": [{ "name": "app", "image": "app" }] },
    })
}

fn workload(own: Value, template: Value) -> Value {
    json!({
        "metadata": { "name": "app", "namespace": "apps", "annotations": own },
        "spec": { "template": {
            "metadata": { "annotations": template },
            "spec": { "containers": [{ "name": "app", "image": "app" }] },
        } },
    })
}

async fn answer(reviewer: &Reviewer, review: &Value) -> Value {
    let answer = reviewer
        .review(review.to_string().as_bytes())
        .await
        .expect("an answer");
    assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
    answer["response"].clone()
}

/// What the object is once the answer's patch is applied to it.
fn patched(review: &Value, response: &Value) -> Value {
    assert_eq!(response["allowed"], true, "{response}");
    let mut object = review["request"]["object"].clone();
    if let Some(patch) = response["patch"].as_str() {
        let bytes = STANDARD.decode(patch).expect("base64");
        let patch: json_patch::Patch = serde_json::from_slice(&bytes).expect("a patch");
        json_patch::patch(&mut object, &patch).expect("it applies");
    }
    object
}

fn services(pod: &Value) -> Option<&str> {
    let sidecar = pod["spec"]["initContainers"].as_array()?.last()?;
    let env = sidecar["env"].as_array()?;
    env.iter().find(|one| one["name"] == "NSM_NETWORK_SERVICES")?["value"].as_str()
}

#[tokio::test]
async fn an_annotated_pod_is_connected() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({}), json!({})).await;
    let review = asks(
        "CREATE",
        "Pod",
        pod(json!({ KEY: "kernel://a/nsm-1" })),
        Value::Null,
    );
    let response = answer(&reviewer, &review).await;
    let pod = patched(&review, &response);
    assert_eq!(services(&pod), Some("kernel://a/nsm-1"));
    assert_eq!(response.get("warnings"), None);

    let again = asks("CREATE", "Pod", pod, Value::Null);
    assert_eq!(answer(&reviewer, &again).await.get("patch"), None);
}

#[tokio::test]
async fn a_pod_without_an_annotation_takes_that_of_its_namespace_and_wins_with_its_own() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({ KEY: "kernel://of-namespace" }), json!({})).await;
    for (own, wanted) in [
        (json!({}), Some("kernel://of-namespace")),
        (Value::Null, Some("kernel://of-namespace")),
        (json!({ KEY: "kernel://own" }), Some("kernel://own")),
        (json!({ KEY: "" }), None),
    ] {
        let review = asks("CREATE", "Pod", pod(own), Value::Null);
        let response = answer(&reviewer, &review).await;
        assert_eq!(services(&patched(&review, &response)), wanted);
    }
}

#[tokio::test]
async fn the_level_of_the_namespace_decides_about_volumes() {
    let (reviewer, objects) = reviewer();
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    namespace(&objects, json!({}), labels).await;
    let review = asks("CREATE", "Pod", pod(json!({ KEY: "kernel://a" })), Value::Null);
    let response = answer(&reviewer, &review).await;
    let pod = patched(&review, &response);
    assert_eq!(
        pod["spec"]["volumes"][1]["csi"]["driver"],
        "csi.networkservicemesh.io"
    );
}

#[tokio::test]
async fn a_namespace_that_cannot_be_read_is_no_silent_guess() {
    let (reviewer, objects) = reviewer();
    objects.lock().await.refused = Some(("/api/v1/namespaces".into(), StatusCode::SERVICE_UNAVAILABLE));
    let review = asks("CREATE", "Pod", pod(json!({ KEY: "kernel://a" })), Value::Null);
    let response = answer(&reviewer, &review).await;
    assert_eq!(response["allowed"], false);
    assert_eq!(response["status"]["code"], 503);
    let told = response["status"]["message"].as_str().expect("a message");
    assert!(told.contains("\"apps\"") && told.contains("try again"), "{told}");
}

#[tokio::test]
async fn what_nobody_can_make_is_refused_and_named() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({}), json!({})).await;
    for (annotation, why) in [
        ("kernel://", "names no service"),
        ("kernel://a/sixteen-bytes-xx", "at most 15"),
        ("tap://a", "use kernel, memif, vfio or noop"),
        ("kernel://a/x,kernel://b/x", "two services"),
    ] {
        let pods = asks("CREATE", "Pod", pod(json!({ KEY: annotation })), Value::Null);
        let own = workload(json!({ KEY: annotation }), Value::Null);
        let template = workload(Value::Null, json!({ KEY: annotation }));
        let namespaces = json!({ "metadata": { "name": "apps", "annotations": { KEY: annotation } } });
        for review in [
            pods,
            asks("CREATE", "Deployment", own, Value::Null),
            asks("CREATE", "Job", template, Value::Null),
            asks("CREATE", "Namespace", namespaces, Value::Null),
        ] {
            let response = answer(&reviewer, &review).await;
            assert_eq!(response["allowed"], false, "{annotation}");
            let told = response["status"]["message"].as_str().expect("a message");
            assert!(told.starts_with("annotation networkservicemesh.io: "), "{told}");
            assert!(told.contains(why), "{told}");
        }
    }
}

#[tokio::test]
async fn what_only_other_forwarders_serve_is_let_in_and_told() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({}), json!({})).await;
    let annotated = || json!({ KEY: "memif://a" });
    let namespaces = json!({ "metadata": { "name": "apps", "annotations": annotated() } });
    for review in [
        asks("CREATE", "Pod", pod(annotated()), Value::Null),
        asks(
            "CREATE",
            "Deployment",
            workload(annotated(), Value::Null),
            Value::Null,
        ),
        asks("CREATE", "Namespace", namespaces, Value::Null),
    ] {
        let response = answer(&reviewer, &review).await;
        assert_eq!(response["allowed"], true);
        assert!(response["patch"].is_string());
        let told = response["warnings"][0].as_str().expect("a warning");
        assert!(told.starts_with("memif://a: "), "{told}");
    }
}

#[tokio::test]
async fn what_was_let_in_before_can_still_be_changed_otherwise() {
    let (reviewer, _) = reviewer();
    let bad = workload(Value::Null, json!({ KEY: "tap://a" }));
    let same = asks("UPDATE", "Deployment", bad.clone(), bad.clone());
    let response = answer(&reviewer, &same).await;
    assert_eq!(response["allowed"], true);
    assert!(
        response["warnings"][0]
            .as_str()
            .is_some_and(|text| text.contains("pods will be refused"))
    );

    let good = workload(Value::Null, json!({ KEY: "kernel://a" }));
    let worse = asks("UPDATE", "Deployment", bad.clone(), good);
    assert_eq!(answer(&reviewer, &worse).await["allowed"], false);

    let mut going = bad;
    going["metadata"]["deletionTimestamp"] = json!("2026-11-26T06:00:00Z");
    let going = asks("UPDATE", "Deployment", going, Value::Null);
    assert_eq!(answer(&reviewer, &going).await["allowed"], true);
}

#[tokio::test]
async fn every_workload_hands_its_annotation_on() {
    let (reviewer, _) = reviewer();
    for kind in ["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"] {
        let object = workload(json!({ KEY: "kernel://a" }), json!({ "other": "x" }));
        let review = asks("CREATE", kind, object, Value::Null);
        let response = answer(&reviewer, &review).await;
        let object = patched(&review, &response);
        let template = &object["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"][KEY], "kernel://a", "{kind}");
        assert_eq!(
            template["spec"],
            review["request"]["object"]["spec"]["template"]["spec"]
        );
    }
    let mut cron = json!({ "metadata": { "name": "app", "annotations": { KEY: "kernel://a" } } });
    cron["spec"]["jobTemplate"]["spec"] = workload(Value::Null, Value::Null)["spec"].clone();
    let review = asks("CREATE", "CronJob", cron, Value::Null);
    let object = patched(&review, &answer(&reviewer, &review).await);
    let template = &object["spec"]["jobTemplate"]["spec"]["template"];
    assert_eq!(template["metadata"]["annotations"][KEY], "kernel://a");
}

#[tokio::test]
async fn an_annotation_that_comes_later_counts_and_what_another_has_made_is_left_alone() {
    let (reviewer, _) = reviewer();
    let (old, new) = (
        workload(Value::Null, Value::Null),
        workload(json!({ KEY: "kernel://a" }), Value::Null),
    );
    let review = asks("UPDATE", "Deployment", new.clone(), old);
    let response = answer(&reviewer, &review).await;
    assert!(response["patch"].is_string());

    let mut made = new;
    made["metadata"]["ownerReferences"] =
        json!([{ "controller": true, "kind": "Deployment", "name": "app" }]);
    let review = asks("UPDATE", "ReplicaSet", made, Value::Null);
    assert_eq!(answer(&reviewer, &review).await.get("patch"), None);
}

#[tokio::test]
async fn a_namespace_is_marked() {
    let (reviewer, _) = reviewer();
    let object = json!({ "metadata": { "name": "apps", "annotations": { KEY: "kernel://a" } } });
    let review = asks("CREATE", "Namespace", object, Value::Null);
    let object = patched(&review, &answer(&reviewer, &review).await);
    assert_eq!(
        object["metadata"]["labels"]["networkservicemesh.io/inject"],
        "enabled"
    );
}

#[tokio::test]
async fn namespaces_that_were_annotated_before_us_are_marked_and_others_not() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({ KEY: "kernel://a" }), json!({})).await;
    let other = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "other" } });
    let path = "/api/v1/namespaces/other";
    objects.lock().await.objects.insert(path.into(), other.clone());
    reviewer.cluster.mark_namespaces(&reviewer.rules).await;
    let state = objects.lock().await;
    let marked = &state.objects["/api/v1/namespaces/apps"]["metadata"]["labels"];
    assert_eq!(marked["networkservicemesh.io/inject"], "enabled");
    assert_eq!(state.objects[path], other);
}

#[tokio::test]
async fn misspelt_labels_are_told_to_people_and_not_to_controllers() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({}), json!({})).await;
    let service = json!({
        "apiVersion": "networkservicemesh.io/v1", "kind": "NetworkService",
        "metadata": { "name": "a", "namespace": "nsm-system" },
        "spec": { "matches": [{ "source_selector": { "app": "gateway" } }] },
    });
    let path = "/apis/networkservicemesh.io/v1/namespaces/nsm-system/networkservices/a";
    objects.lock().await.objects.insert(path.into(), service);
    let mut pod = pod(json!({ KEY: "kernel://a?ap=gateway,kernel://unknown?x=y" }));
    let review = asks("CREATE", "Pod", pod.clone(), Value::Null);
    let response = answer(&reviewer, &review).await;
    assert_eq!(
        response["warnings"],
        json!(["no match of service \"a\" looks at label \"ap\", but at app"])
    );
    pod["metadata"]["ownerReferences"] = json!([{ "controller": true, "kind": "ReplicaSet" }]);
    let review = asks("CREATE", "Pod", pod, Value::Null);
    assert_eq!(answer(&reviewer, &review).await.get("warnings"), None);
}

#[tokio::test]
async fn whatever_else_is_asked_about_is_let_through() {
    let (reviewer, objects) = reviewer();
    namespace(&objects, json!({}), json!({})).await;
    let annotated = || pod(json!({ KEY: "tap://a" }));
    let mut part = asks("CREATE", "Pod", annotated(), Value::Null);
    part["request"]["subResource"] = json!("ephemeralcontainers");
    for review in [
        part,
        asks("UPDATE", "Pod", annotated(), annotated()),
        asks("DELETE", "Pod", Value::Null, annotated()),
        asks("CREATE", "ConfigMap", annotated(), Value::Null),
        asks("CREATE", "Pod", pod(Value::Null), Value::Null),
    ] {
        let response = answer(&reviewer, &review).await;
        assert_eq!(
            response,
            json!({ "uid": review["request"]["uid"], "allowed": true })
        );
    }
}

#[tokio::test]
async fn what_is_no_review_is_an_error() {
    let (reviewer, _) = reviewer();
    for body in [
        "",
        "[]",
        "{}",
        r#"{"apiVersion":"admission.k8s.io/v1beta1","request":{"uid":"1"}}"#,
        r#"{"apiVersion":"admission.k8s.io/v1"}"#,
        r#"{"apiVersion":"admission.k8s.io/v1","request":{}}"#,
    ] {
        reviewer.review(body.as_bytes()).await.expect_err(body);
    }
    let odd = json!({ "apiVersion": "admission.k8s.io/v1", "request": {
        "uid": "1", "operation": "CREATE", "kind": { "kind": "Deployment" }, "object": { "metadata": "x", "spec": [] },
    } });
    let answer = reviewer
        .review(odd.to_string().as_bytes())
        .await
        .expect("an answer");
    assert_eq!(answer["response"]["allowed"], true);
}
