// SPDX-License-Identifier: Apache-2.0
//! What a hop makes of the path of a connection.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use nsm_api::connection::Connection;
use nsm_sdk::core::{Chain, Component, Ctx, Element, NetworkService, Next, Request, Result};
use nsm_sdk::elements::updatepath::UpdatePath;
use parking_lot::Mutex;
use prost::Message;
use serde_json::json;

use super::draw::Draw;
use super::theirs::{Answer, bytes};
use super::{Case, same};

/// The connection that went on to the next hop, and the one that came back, or why there is none.
type Way = std::result::Result<[Connection; 2], String>;

/// Ends a chain and keeps what has reached it.
#[derive(Clone, Default)]
struct End(Arc<Mutex<Option<Connection>>>);

#[async_trait]
impl Element<NetworkService> for End {
    fn name(&self) -> &'static str {
        "end"
    }

    async fn request(&self, _: &Ctx, message: &mut Request, _: Next<'_, NetworkService>) -> Result<()> {
        *self.0.lock() = Some(message.connection.clone());
        Ok(())
    }
}

pub(super) fn update(draw: &mut Draw) -> Case {
    let (name, is_client) = (draw.text(&["nsc", "nsmgr", "forwarder"]), draw.chance(50));
    let connection = draw.connection();
    let question = json!({
        "ask": "path", "name": name, "is_client": is_client, "object": bytes(&connection),
    });
    let ours = ours(&name, connection.clone());
    let compare = move |answer: &Answer| {
        let known = ids(&connection);
        let anonymous = |way: Way| way.map(|way| way.map(|connection| anonymous(connection, &known)));
        let ours = anonymous(ours);
        if !answer.crashed.is_empty() {
            return ours
                .is_err()
                .then_some(())
                .ok_or_else(|| format!("ours is {ours:?}"));
        }
        same(&ours, &anonymous(theirs(answer)?))
    };
    Case {
        question,
        compare: Box::new(compare),
    }
}

fn ours(name: &str, connection: Connection) -> Way {
    let (component, end) = (Component::new(name), End::default());
    let chain: Chain<NetworkService> = nsm_sdk::chain![UpdatePath, end.clone()];
    let ctx = Ctx::own(&component, Duration::from_secs(1));
    let mut message = Request {
        connection,
        ..Default::default()
    };
    let done = chain.request(&ctx, &mut message).now_or_never();
    done.ok_or("it waits for something")?
        .map_err(|error| error.text().to_string())?;
    let arrived = end.0.lock().take().ok_or("nothing went on")?;
    Ok([arrived, message.connection])
}

fn theirs(answer: &Answer) -> std::result::Result<Way, String> {
    if !answer.error.is_empty() {
        return Ok(Err(answer.error.clone()));
    }
    let read = |bytes: &[u8]| Connection::decode(bytes).map_err(|error| error.to_string());
    Ok(Ok([read(&answer.passed_on)?, read(&answer.returned)?]))
}

/// The ids of a connection and of its path.
fn ids(connection: &Connection) -> HashSet<String> {
    let segments = connection.path.iter().flat_map(|path| &path.path_segments);
    let ids = segments.map(|segment| &segment.id).chain([&connection.id]);
    ids.filter(|id| !id.is_empty()).cloned().collect()
}

/// The same with one word in place of every id that was made up.
fn anonymous(mut connection: Connection, known: &HashSet<String>) -> Connection {
    let replace = |id: &mut String| {
        if !id.is_empty() && !known.contains(id) {
            *id = "new".to_string();
        }
    };
    replace(&mut connection.id);
    let segments = connection
        .path
        .iter_mut()
        .flat_map(|path| &mut path.path_segments);
    segments.for_each(|segment| replace(&mut segment.id));
    connection
}
