// SPDX-License-Identifier: Apache-2.0
//! Tells a listener beside the program what became of the requests of the node's clients, so that people can be told.
//!
//! **Guarantees**: every request of a client that is refused, or that is not answered within the time that the client
//! gave, is told once, with its reason; of those that succeed, the first one after a refusal, and one that mends a
//! connection by choosing anew. Everything else is silent: a client that simply gets its wire, and one that refreshes it.
//! Requests that other hops pass on are none of this node's clients, and are told by nobody here.
//! **Placement**: first in the chain of a manager, where refusals of all other elements are seen.
//! **Reads / writes**: reads the caller's identity and the path's index.
//! **On failure**: the error passes as it is.
//! **Cost**: two short strings a request; what is told is handed over without waiting, and lost when nobody takes it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::State;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result};

/// Of how many connections it is known that they were refused.
pub const MAX_REFUSED: usize = 4096;

/// How long a text is told, bytes.
pub const MAX_TEXT: usize = 1024;

/// What became of the request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The client's SPIFFE id.
    pub client: String,
    /// The connection's id at the client.
    pub id: String,
    /// What was asked for.
    pub network_service: String,
    /// Who provides it now; empty after a refusal.
    pub endpoint: String,
    /// What became of it.
    pub became: Became,
    /// The reason code: of the refusal, or for what is good.
    pub reason: String,
    /// The same for people, at most [`MAX_TEXT`] bytes.
    pub text: String,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Became {
    /// It was refused.
    Refused,
    /// It has succeeded, after it was refused before.
    Attached,
    /// It has mended a connection that was broken, by choosing anew.
    Healed,
}

/// Who is told.
pub trait Listener: Send + Sync + 'static {
    /// Takes a notice without waiting; answers whether it was taken.
    fn tell(&self, notice: &Notice) -> bool;
}

/// See the [module](self).
#[derive(Clone)]
pub struct Report {
    listener: Arc<dyn Listener>,
    refused: Arc<Mutex<BTreeSet<String>>>,
}

impl Report {
    /// Tells `listener`.
    pub fn new(listener: Arc<dyn Listener>) -> Self {
        Self {
            listener,
            refused: Arc::default(),
        }
    }

    /// Tells what became of a request, if that is worth it.
    fn tell(&self, asked: &Asked, endpoint: &str, done: Result<(), &Error>) {
        let Some(became) = self.judge(asked, done.is_ok()) else {
            return;
        };
        let (reason, text) = match done {
            Err(error) => (error.reason(), error.to_string()),
            Ok(()) => good(became, endpoint),
        };
        let notice = Notice {
            client: asked.client.clone(),
            id: asked.id.clone(),
            network_service: asked.network_service.clone(),
            endpoint: endpoint.to_string(),
            became,
            reason: reason.to_string(),
            text: shortened(text),
        };
        let is_told = self.listener.tell(&notice);
        let mut refused = self.refused.lock();
        match became {
            Became::Refused => {
                if refused.len() >= MAX_REFUSED && !refused.contains(&asked.id) {
                    // Whose is it does not matter: most are of clients that are gone.
                    refused.pop_first();
                }
                refused.insert(asked.id.clone());
            }
            // The next refresh tells it, if this one was not heard.
            Became::Attached | Became::Healed if is_told => drop(refused.remove(&asked.id)),
            _ => {}
        }
    }

    fn judge(&self, asked: &Asked, is_good: bool) -> Option<Became> {
        match is_good {
            false => Some(Became::Refused),
            true if asked.is_reselected => Some(Became::Healed),
            true => self
                .refused
                .lock()
                .contains(&asked.id)
                .then_some(Became::Attached),
        }
    }
}

/// The request of a client of this node, told as unanswered if it is dropped before it is told otherwise.
struct Asked {
    client: String,
    id: String,
    network_service: String,
    is_reselected: bool,
}

impl Asked {
    /// The request, if it is a client's.
    fn of(ctx: &Ctx, request: &Request) -> Option<Self> {
        let connection = &request.connection;
        let index = connection.path.as_ref().map_or(0, |path| path.index);
        let identity = ctx.peer().identity.as_ref().filter(|_| index == 0)?;
        Some(Self {
            client: identity.spiffe_id.clone(),
            id: connection.id.clone(),
            network_service: connection.network_service.clone(),
            is_reselected: connection.state() == State::ReselectRequested,
        })
    }
}

/// A request that is on its way.
struct OnItsWay<'a> {
    report: &'a Report,
    asked: Option<Asked>,
    until: Instant,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        // A client that leaves early knows why.
        if let Some(asked) = self.asked.take().filter(|_| Instant::now() >= self.until) {
            let error = Error::deadline("nobody has answered within the time that the client gave");
            self.report.tell(&asked, "", Err(&error));
        }
    }
}

#[async_trait]
impl Element<NetworkService> for Report {
    fn name(&self) -> &'static str {
        "report"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let mut waiting = OnItsWay {
            report: self,
            asked: Asked::of(ctx, message),
            until: ctx.deadline(),
        };
        let done = next.request(ctx, message).await;
        if let Some(asked) = waiting.asked.take() {
            let endpoint = &message.connection.network_service_endpoint_name;
            match &done {
                Ok(()) => self.tell(&asked, endpoint, Ok(())),
                Err(error) => self.tell(&asked, "", Err(error)),
            }
        }
        done
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        self.refused.lock().remove(&message.connection.id);
        next.close(ctx, message).await
    }
}

/// The code and the text for what is good.
fn good(became: Became, endpoint: &str) -> (&'static str, String) {
    let reason = match became {
        Became::Healed => "healed",
        Became::Attached | Became::Refused => "attached",
    };
    let text = match became {
        Became::Healed => format!("the connection was broken and goes to {endpoint} now"),
        Became::Attached | Became::Refused => format!("connected to {endpoint}, after refusals"),
    };
    (reason, text)
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

#[cfg(test)]
mod tests;
