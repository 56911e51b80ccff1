// SPDX-License-Identifier: Apache-2.0
//! Rules as the manifest sets them, and a model of the API server: whole objects by their paths, with versions.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::rules::Rules;
use crate::settings::Settings;

/// What the manifest sets.
pub(crate) fn rules() -> Rules {
    rules_with(&[])
}

/// The same, and what these arguments set.
pub(crate) fn rules_with(arguments: &[&str]) -> Rules {
    let manifest = [
        "webhook",
        "--init-container-images=localhost/nsm/cmd-nsc-init:dev",
        "--container-images=localhost/nsm/cmd-nsc:dev",
        "--labels=spiffe.io/spiffe-id:true",
        "--envs=NSM_LOG_LEVEL=INFO",
    ];
    let settings = Settings::parse_from([&manifest, arguments].concat());
    Rules::new(&settings).expect("good settings")
}

/// The objects of an API server, by their paths.
pub(crate) type Objects = Arc<Mutex<State>>;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: BTreeMap<String, Value>,
    /// How many times something was written.
    pub(crate) writes: u64,
    /// The answer to everything below this path.
    pub(crate) refused: Option<(String, StatusCode)>,
}

/// An API server, and what is in it.
pub(crate) fn model() -> (Client, Objects) {
    let objects = Objects::default();
    let state = Arc::clone(&objects);
    let service = tower::service_fn(move |request: Request<Body>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(serve(&state, request).await) }
    });
    (Client::new(service, "nsm-system"), objects)
}

async fn serve(objects: &Objects, request: Request<Body>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut state = objects.lock().await;
    let path = head.uri.path().to_string();
    if let Some((below, status)) = &state.refused
        && path.starts_with(below)
    {
        return failure(*status, "as the test wants it");
    }
    let stored = state.objects.get(&path).cloned();
    match (head.method, stored) {
        (Method::GET, Some(found)) => answer(StatusCode::OK, &found),
        (Method::GET, None) if path.ends_with("/namespaces") => {
            let below = format!("{path}/");
            let items: Vec<_> = state
                .objects
                .iter()
                .filter(|(path, _)| path.starts_with(&below))
                .map(|(_, object)| object.clone())
                .collect();
            let list = json!({ "kind": "List", "apiVersion": "v1", "metadata": {}, "items": items });
            answer(StatusCode::OK, &list)
        }
        (Method::GET, None) => failure(StatusCode::NOT_FOUND, "not found"),
        (Method::POST, _) => {
            let name = body["metadata"]["name"].as_str().unwrap_or_default().to_string();
            write(&mut state, &format!("{path}/{name}"), body, true)
        }
        (Method::PUT, _) => write(&mut state, &path, body, false),
        (Method::PATCH, Some(mut found)) => {
            merge(&mut found, &body);
            found["metadata"]["resourceVersion"] = Value::Null;
            write(&mut state, &path, found, false)
        }
        (Method::PATCH, None) => write(&mut state, &path, body, true),
        _ => failure(StatusCode::METHOD_NOT_ALLOWED, "not in this model"),
    }
}

fn write(state: &mut State, path: &str, mut object: Value, is_new: bool) -> Response<Full<Bytes>> {
    let stored = state.objects.get(path);
    let version = &object["metadata"]["resourceVersion"];
    let is_stale = stored.is_some_and(|stored| {
        is_new || (!version.is_null() && *version != stored["metadata"]["resourceVersion"])
    });
    if is_stale {
        return failure(StatusCode::CONFLICT, "somebody else was faster");
    }
    state.writes += 1;
    object["metadata"]["resourceVersion"] = json!(state.writes.to_string());
    state.objects.insert(path.to_string(), object.clone());
    answer(StatusCode::OK, &object)
}

/// RFC 7386, as far as it is needed.
fn merge(object: &mut Value, change: &Value) {
    let Some(change) = change.as_object() else {
        *object = change.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            object.as_object_mut().expect("a map").remove(key);
        } else {
            merge(&mut object[key.as_str()], value);
        }
    }
}

fn failure(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let body = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                       "message": message, "reason": reason, "code": status.as_u16() });
    answer(status, &body)
}

fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    response
}
