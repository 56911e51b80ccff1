// SPDX-License-Identifier: Apache-2.0
//! A model of the API server: objects of two kinds, versions, conflicts, watches, an end of its memory, outages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::stream::{self, BoxStream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

/// Names an object: its kind in the plural, namespace and name.
type Id = (String, String, String);

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct Model(Arc<Mutex<State>>);

/// What somebody else does in between.
type Crossing = Box<dyn FnOnce(&Model) + Send>;

struct State {
    began: Instant,
    version: u64,
    /// Changes before this version are forgotten.
    oldest: u64,
    objects: BTreeMap<Id, Value>,
    changes: Vec<(u64, String, Value)>,
    watchers: Vec<(String, UnboundedSender<Value>)>,
    is_down: bool,
    /// What was asked for: method and path.
    asked: Vec<String>,
    /// Runs once before the next write.
    before_write: Option<Crossing>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            began: Instant::now(),
            version: 100,
            oldest: 0,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            watchers: Vec::new(),
            is_down: false,
            asked: Vec::new(),
            before_write: None,
        })))
    }

    /// How long it exists.
    pub(crate) fn elapsed(&self) -> Duration {
        self.0.lock().began.elapsed()
    }

    pub(crate) fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move { this.serve(request).await }
        });
        Client::new(service, "home")
    }

    /// Ends every watch and answers nothing until it is back.
    pub(crate) fn goes(&self) {
        let mut state = self.0.lock();
        state.is_down = true;
        state.watchers.clear();
    }

    /// Answers again.
    pub(crate) fn comes_back(&self) {
        self.0.lock().is_down = false;
    }

    /// Ends every watch, and forgets all that has changed.
    pub(crate) fn forgets(&self) {
        let mut state = self.0.lock();
        state.oldest = state.version + 1;
        state.version += 1;
        state.watchers.clear();
    }

    /// Does something just before the next write.
    pub(crate) fn before_write(&self, act: impl FnOnce(&Self) + Send + 'static) {
        self.0.lock().before_write = Some(Box::new(act));
    }

    /// How many writes have been asked for since this was asked last.
    pub(crate) fn writes(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.0.lock().asked);
        asked
            .into_iter()
            .filter(|what| !what.starts_with("GET "))
            .collect()
    }

    /// How many requests, of any kind, have been made since this was asked last.
    pub(crate) fn requests(&self) -> usize {
        std::mem::take(&mut self.0.lock().asked).len()
    }

    /// An object of ours, as it is stored.
    pub(crate) fn stored(&self, kind: &str, name: &str) -> Option<Value> {
        let id = (kind.to_string(), "home".to_string(), name.to_string());
        self.0.lock().objects.get(&id).cloned()
    }

    /// Somebody else writes an object.
    pub(crate) fn put(&self, kind: &str, namespace: &str, name: &str, spec: Value) {
        let id = (kind.to_string(), namespace.to_string(), name.to_string());
        self.0.lock().put(&id, |object| object["spec"] = spec);
    }

    /// Somebody else deletes an object.
    pub(crate) fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let id = (kind.to_string(), namespace.to_string(), name.to_string());
        self.0.lock().delete(&id);
    }

    async fn serve(&self, request: Request<Body>) -> Result<Answer, Infallible> {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (method, path) = (parts.method, parts.uri.path().to_string());
        let query = parts.uri.query().unwrap_or_default().to_string();
        self.0.lock().asked.push(format!("{method} {path}"));
        if self.0.lock().is_down {
            return Ok(failure(
                StatusCode::SERVICE_UNAVAILABLE,
                "",
                "the model is told to be down",
            ));
        }
        if method != Method::GET {
            let act = self.0.lock().before_write.take();
            if let Some(act) = act {
                act(self);
            }
        }
        Ok(self.0.lock().answer(&method, &path, &query, &body))
    }
}

impl State {
    fn put(&mut self, id: &Id, change: impl FnOnce(&mut Value)) -> Value {
        self.version += 1;
        let version = self.version;
        let is_new = !self.objects.contains_key(id);
        let object = self.objects.entry(id.clone()).or_insert_with(|| {
            json!({
                "apiVersion": "networkservicemesh.io/v1",
                "kind": if id.0 == "networkservices" { "NetworkService" } else { "NetworkServiceEndpoint" },
                "metadata": { "name": id.2, "namespace": id.1, "uid": format!("uid-{version}"), "generation": 0 },
            })
        });
        let spec = object["spec"].clone();
        change(object);
        if object["spec"] != spec {
            object["metadata"]["generation"] =
                json!(object["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        let object = object.clone();
        self.tell(&id.0, if is_new { "ADDED" } else { "MODIFIED" }, &object);
        object
    }

    fn delete(&mut self, id: &Id) {
        if let Some(mut object) = self.objects.remove(id) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell(&id.0, "DELETED", &object);
        }
    }

    fn tell(&mut self, kind: &str, what: &str, object: &Value) {
        let event = json!({ "type": what, "object": object });
        self.changes.push((self.version, kind.to_string(), event.clone()));
        self.watchers
            .retain(|(watched, watcher)| watched != kind || watcher.unbounded_send(event.clone()).is_ok());
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: &Value) -> Answer {
        if path == "/readyz" {
            return success(&json!("ok"));
        }
        let parts: Vec<&str> = path
            .trim_start_matches("/apis/networkservicemesh.io/v1/")
            .split('/')
            .collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", [kind]) if query.contains("watch=true") => self.watch(kind, query),
            ("GET", [kind]) => self.list(kind),
            ("POST", ["namespaces", namespace, kind]) => self.create(kind, namespace, body),
            (method, ["namespaces", namespace, kind, name, rest @ ..]) => {
                let id = (kind.to_string(), namespace.to_string(), name.to_string());
                let Some(object) = self.objects.get(&id).cloned() else {
                    return failure(StatusCode::NOT_FOUND, "NotFound", "there is no such object");
                };
                match method {
                    "GET" => success(&object),
                    "DELETE" => self.end(&id, &object, body),
                    _ if rest == ["status"] => self.patch_status(&id, &object, body),
                    _ => self.patch(&id, object, body),
                }
            }
            _ => failure(StatusCode::NOT_FOUND, "NotFound", path),
        }
    }

    fn list(&self, kind: &str) -> Answer {
        let items = self.objects.iter().filter(|((other, ..), _)| other == kind);
        let items: Vec<_> = items.map(|(_, object)| object).collect();
        success(&json!({
            "apiVersion": "networkservicemesh.io/v1", "kind": "List",
            "metadata": { "resourceVersion": self.version.to_string() }, "items": items,
        }))
    }

    fn watch(&mut self, kind: &str, query: &str) -> Answer {
        let from = query
            .split('&')
            .find_map(|part| part.strip_prefix("resourceVersion="));
        let from: u64 = from
            .and_then(|from| from.parse().ok())
            .expect("watches from a version");
        if from < self.oldest {
            let status = status(StatusCode::GONE, "Expired", "too old resource version");
            return streamed(stream::iter([json!({ "type": "ERROR", "object": status })]).boxed());
        }
        let past = self
            .changes
            .iter()
            .filter(|(version, other, _)| *version > from && other == kind);
        let past: Vec<_> = past.map(|(.., event)| event.clone()).collect();
        let (sender, news) = unbounded();
        self.watchers.push((kind.to_string(), sender));
        streamed(stream::iter(past).chain(news).boxed())
    }

    fn create(&mut self, kind: &str, namespace: &str, body: &Value) -> Answer {
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        if name.chars().any(char::is_uppercase) {
            return failure(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                "a lowercase RFC 1123 subdomain must consist of",
            );
        }
        let id = (kind.to_string(), namespace.to_string(), name.to_string());
        if self.objects.contains_key(&id) {
            return failure(StatusCode::CONFLICT, "AlreadyExists", "it is there already");
        }
        success(&self.put(&id, |object| object["spec"] = body["spec"].clone()))
    }

    fn patch(&mut self, id: &Id, object: Value, body: &Value) -> Answer {
        let patch: json_patch::Patch = serde_json::from_value(body.clone()).expect("is a JSON patch");
        let mut patched = object.clone();
        json_patch::patch(&mut patched, &patch).expect("applies");
        if patched["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        success(&self.put(id, |object| object["spec"] = patched["spec"].take()))
    }

    fn patch_status(&mut self, id: &Id, object: &Value, body: &Value) -> Answer {
        let wanted = &body["metadata"]["resourceVersion"];
        if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
            return failure(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        // What others have written stays.
        let told = body["status"].as_object().cloned().unwrap_or_default();
        success(&self.put(id, |object| {
            for (field, value) in told {
                object["status"][field] = value;
            }
        }))
    }

    fn end(&mut self, id: &Id, object: &Value, body: &Value) -> Answer {
        let wanted = &body["preconditions"];
        let is = |wanted: &Value, is: &Value| wanted.is_null() || wanted == is;
        let metadata = &object["metadata"];
        if !is(&wanted["uid"], &metadata["uid"])
            || !is(&wanted["resourceVersion"], &metadata["resourceVersion"])
        {
            return failure(StatusCode::CONFLICT, "Conflict", "the precondition does not hold");
        }
        self.delete(id);
        success(&json!({ "apiVersion": "v1", "kind": "Status", "status": "Success" }))
    }
}

fn status(code: StatusCode, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": message,
    })
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Answer {
    let mut answer = success(&status(code, reason, message));
    *answer.status_mut() = code;
    answer
}

fn success(body: &Value) -> Answer {
    streamed(stream::iter([body.clone()]).boxed())
}

fn streamed(lines: BoxStream<'static, Value>) -> Answer {
    let frame = |line: Value| Ok(Frame::data(Bytes::from(format!("{line}\n"))));
    Response::new(StreamBody::new(lines.map(frame).boxed()))
}
