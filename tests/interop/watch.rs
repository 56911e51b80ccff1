// SPDX-License-Identifier: Apache-2.0
//! Somebody who listens to what a program tells of a connection.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use nsm::mesh::Node;
use nsm_api::connection::{
    Connection, ConnectionEvent, ConnectionEventType, MonitorScopeSelector, PathSegment,
};
use nsm_sdk::core::{Component, Ctx, Dialer, NetworkService};
use nsm_sdk::identity::Tokens;
use nsm_sdk::transport::Pool;
use tokio::time::timeout;

use crate::mesh::PATIENCE;

/// What is told of one connection, from the beginning.
pub(crate) struct Watch {
    component: Component,
    events: futures::stream::BoxStream<'static, nsm_sdk::core::Result<ConnectionEvent>>,
}

impl Watch {
    /// Listens to the program at `url`, which tells first what there is.
    pub(crate) async fn new(node: &Node, url: &str, id: &str) -> Result<(Self, Vec<Connection>)> {
        let component = Component::new("listener");
        let tokens = Tokens::new(Duration::from_secs(600));
        let pool = Pool::new(&component, node.identity().clone(), tokens);
        let ctx = Ctx::own(&component, PATIENCE);
        let remote = Dialer::<NetworkService>::dial(&pool, url, ctx.deadline()).await?;
        let segment = PathSegment {
            id: id.to_string(),
            ..Default::default()
        };
        let selector = MonitorScopeSelector {
            path_segments: vec![segment],
            ..Default::default()
        };
        let events = remote.find(&ctx, selector).await?;
        let mut watch = Self { component, events };
        let first = watch
            .hears(ConnectionEventType::InitialStateTransfer, |_| true)
            .await?;
        Ok((watch, first))
    }

    /// Waits for an event of this kind with connections that are as wanted; answers with them.
    pub(crate) async fn hears(
        &mut self,
        kind: ConnectionEventType,
        wanted: impl Fn(&Connection) -> bool,
    ) -> Result<Vec<Connection>> {
        let mut heard = Vec::new();
        let hearing = async {
            loop {
                let event = self.events.next().await.context("nothing more is told")??;
                let connections: Vec<_> = event.connections.values().cloned().collect();
                if event.r#type() == kind && connections.iter().all(&wanted) {
                    return Ok(connections);
                }
                heard.push(event.r#type());
            }
        };
        let done = timeout(PATIENCE, hearing).await;
        done.with_context(|| format!("{kind:?} was not told, but {heard:?}"))?
    }

    /// Listens no more.
    pub(crate) async fn ends(self) {
        drop(self.events);
        self.component.end().await;
    }
}
