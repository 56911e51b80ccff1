// SPDX-License-Identifier: Apache-2.0
//! `updatepath` passes on and answers what the reference does: random connections with its answers.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::connection::{Connection, Path, PathSegment};
use nsm_sdk::core::{Chain, Component, Ctx, Element, NetworkService, Next, Request, Result};
use nsm_sdk::elements::updatepath::UpdatePath;
use parking_lot::Mutex;
use serde_json::Value;

/// Ends a chain and remembers what reached it.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Option<Connection>>>);

#[async_trait]
impl Element<NetworkService> for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }

    async fn request(&self, _: &Ctx, message: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        *self.0.lock() = Some(message.connection.clone());
        Ok(())
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_string()
}

/// A connection from its protobuf JSON, as far as updatepath is concerned.
fn connection(json: &Value) -> Connection {
    let segment = |json: &Value| PathSegment {
        name: text(json, "name"),
        id: text(json, "id"),
        ..Default::default()
    };
    let segments = |json: &Value| json.as_array().into_iter().flatten().map(segment).collect();
    let path = json.get("path").map(|path| Path {
        index: u32::try_from(path["index"].as_u64().unwrap_or(0)).expect("a small index"),
        path_segments: segments(&path["path_segments"]),
    });
    Connection {
        id: text(json, "id"),
        path,
        ..Default::default()
    }
}

/// The connection with every id that is not in `known` replaced by the mark that the reference's answers use.
fn anonymous(mut connection: Connection, known: &HashSet<String>) -> Connection {
    let replace = |id: &mut String| {
        if !known.contains(id) {
            *id = "<new>".to_string();
        }
    };
    replace(&mut connection.id);
    let path = connection.path.get_or_insert_default();
    path.path_segments
        .iter_mut()
        .for_each(|segment| replace(&mut segment.id));
    connection
}

#[tokio::test]
async fn every_answer_of_the_reference_is_ours() {
    let file = include_str!("../../tests/vectors/path_update.json");
    let cases: Vec<Value> = serde_json::from_str(file).expect("a list");
    assert_eq!(cases.len(), 400);
    for case in cases {
        let component = Component::new(text(&case, "name"));
        let sink = Sink::default();
        let chain: Chain<NetworkService> = nsm_sdk::chain![UpdatePath, sink.clone()];
        let asked = connection(&case["in"]);
        let segments = asked.path.iter().flat_map(|path| &path.path_segments);
        let known = segments
            .map(|segment| segment.id.clone())
            .chain([asked.id.clone()].into_iter().filter(|id| !id.is_empty()))
            .collect();
        let mut message = Request {
            connection: asked,
            mechanism_preferences: Vec::new(),
        };
        let ctx = Ctx::own(&component, Duration::from_secs(1));
        match chain.request(&ctx, &mut message).await {
            Err(error) => assert_eq!(error.text(), text(&case, "error"), "{case}"),
            Ok(()) => {
                let inside = sink.0.lock().take().expect("arrived");
                assert_eq!(
                    anonymous(inside, &known),
                    connection(&case["passed_on"]),
                    "{case}"
                );
                assert_eq!(
                    anonymous(message.connection, &known),
                    connection(&case["returned"]),
                    "{case}"
                );
            }
        }
    }
}
