// SPDX-License-Identifier: Apache-2.0
//! Gives the connection the id and the index of this hop on its way in, and those of the caller on its way back.
//!
//! **Guarantees**: elements behind see a path that is well formed and bounded, whose segment `index` is ours and has
//! the connection's id; the caller gets its own id and index back. A repeated request keeps our id. A new one is the
//! id that the caller suggests, if it does ([`SegmentId`]), so that it can close what it heard no answer of.
//! **Placement**: first in a server chain and in a client chain. Where both are in one program the client's half
//! recognises the segment of the server's half by its name, so both use the name of the [`Component`].
//! **Reads / writes**: `id`, `path.index`, and our own segment of the path (name, id); takes the [`SegmentId`].
//! **On failure**: an answer whose path has lost or renamed the caller's segment is an error, and what it
//! established is closed.
//! **Cost**: one UUID a new connection.

use async_trait::async_trait;
use nsm_api::connection::{Connection, PathSegment};
use nsm_api::path::{MAX_SEGMENTS, PathError};

use crate::core::{Component, Ctx, Element, Error, NetworkService, Next, Request, Result};

/// How long a name or an id in a path may be, bytes.
pub const MAX_NAME: usize = 1024;

/// How long a token in a path may be, bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// How many metrics a segment may carry.
pub const MAX_METRICS: usize = 64;

/// In [`Ctx::call`]: the UUID that a caller suggests as the id of the segment behind its own, when that is new.
///
/// On the wire: `nsm-segment-id` beside a request or a close. The reference ignores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentId(pub String);

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct UpdatePath;

/// The place of the caller on the path, which its answer must have again.
struct Caller {
    index: u32,
    id: String,
}

#[async_trait]
impl Element<NetworkService> for UpdatePath {
    fn name(&self) -> &'static str {
        "updatepath"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let caller = enter(&mut message.connection, ctx)?;
        let id = message.connection.id.clone();
        next.request(ctx, message).await?;
        leave(&mut message.connection, caller).inspect_err(|_| message.connection.id = id)
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        enter(&mut message.connection, ctx)?;
        next.close(ctx, message).await
    }
}

/// Moves the connection from the caller's segment to ours.
fn enter(connection: &mut Connection, ctx: &Ctx) -> Result<Caller> {
    check(connection)?;
    let component = ctx.component();
    let name = component.name();
    let suggested = ctx.call().take().map(|SegmentId(id)| id);
    let segment = |id: &str| PathSegment {
        name: name.to_string(),
        id: id.to_string(),
        ..Default::default()
    };
    let path = connection.path.get_or_insert_default();
    let count = path.path_segments.len();
    if count == 0 {
        if connection.id.is_empty() {
            connection.id = component.uuid();
        }
        path.index = 0;
        path.path_segments.push(segment(&connection.id));
        return Ok(Caller {
            index: 0,
            id: connection.id.clone(),
        });
    }
    let index = path.index;
    let Some(current) = path.current() else {
        return Err(wrong(&PathError::Index { index, len: count }));
    };
    if current.name == name {
        connection.id.clone_from(&current.id);
        let id = current.id.clone();
        return Ok(Caller { index, id });
    }
    if current.id != connection.id {
        return Err(wrong(&PathError::Id {
            segment: current.id.clone(),
            connection: connection.id.clone(),
        }));
    }
    let caller = Caller {
        index,
        id: current.id.clone(),
    };
    match path.next_mut() {
        Some(ours) if ours.name == name => {}
        Some(other) => {
            other.name = name.to_string();
            other.id = new_id(suggested, component);
        }
        None if count == MAX_SEGMENTS => return Err(wrong(&PathError::Long(count + 1))),
        None => path.path_segments.push(segment(&new_id(suggested, component))),
    }
    path.index += 1;
    let ours = path.current().map(|segment| segment.id.clone());
    connection.id = ours.unwrap_or_default();
    Ok(caller)
}

/// The id that is suggested, if it cannot be another's by accident.
fn new_id(suggested: Option<String>, component: &Component) -> String {
    suggested
        .filter(|id| uuid::Uuid::try_parse(id).is_ok())
        .unwrap_or_else(|| component.uuid())
}

/// Moves an answer back to the caller's segment.
fn leave(connection: &mut Connection, caller: Caller) -> Result<()> {
    check(connection)?;
    let path = connection.path.get_or_insert_default();
    let found = usize::try_from(caller.index)
        .ok()
        .and_then(|index| path.path_segments.get(index));
    match found {
        Some(segment) if segment.id == caller.id => {}
        Some(segment) => {
            let (was, is) = (&caller.id, &segment.id);
            let text = format!(
                "the answer renamed segment {} of the path from {was:?} to {is:?}",
                caller.index
            );
            return Err(Error::internal("bad-answer-path", text));
        }
        None => {
            let (count, index) = (path.path_segments.len(), caller.index);
            let text = format!(
                "the answer has {count} path segments, not even the caller's, which is number {index}"
            );
            return Err(Error::internal("bad-answer-path", text));
        }
    }
    path.index = caller.index;
    connection.id = caller.id;
    Ok(())
}

/// Refuses what is larger than any honest path.
fn check(connection: &Connection) -> Result<()> {
    let segments = connection
        .path
        .as_ref()
        .map_or(&[][..], |path| &path.path_segments);
    if segments.len() > MAX_SEGMENTS {
        return Err(wrong(&PathError::Long(segments.len())));
    }
    let too_large = |what: &str, size: usize, most: usize| {
        let text = format!("{what} in the path of the connection is {size} long; at most {most} is allowed");
        Err(Error::invalid("path-too-large", text))
    };
    if connection.id.len() > MAX_NAME {
        return too_large("the id", connection.id.len(), MAX_NAME);
    }
    for segment in segments {
        let metric = segment
            .metrics
            .iter()
            .map(|(key, value)| key.len().max(value.len()));
        let sizes = [
            ("a name", segment.name.len(), MAX_NAME),
            ("an id", segment.id.len(), MAX_NAME),
            ("a token", segment.token.len(), MAX_TOKEN),
            ("the list of metrics", segment.metrics.len(), MAX_METRICS),
            ("a metric", metric.max().unwrap_or(0), MAX_NAME),
        ];
        for (what, size, most) in sizes {
            if size > most {
                return too_large(what, size, most);
            }
        }
    }
    Ok(())
}

fn wrong(path: &PathError) -> Error {
    let reason = match path {
        PathError::Index { .. } => "bad-path-index",
        PathError::Id { .. } => "bad-path-id",
        PathError::Long(_) => "path-too-long",
    };
    Error::invalid(reason, path.to_string())
}

#[cfg(test)]
mod tests;
