// SPDX-License-Identifier: Apache-2.0
//! Cuts what is behind this hop from the path of an answer, where this hop is the last, and what hops behind have
//! counted from the path of a request, for they say it anew.
//!
//! **Guarantees**: a terminating endpoint answers with a path that ends with itself; a hop that passes the request
//! on keeps the segments of those behind it.
//! **Placement**: the server half behind `updatepath` and before everything that may answer; the client half in the
//! client chain, right before `connect`.
//! **Reads / writes**: `path.path_segments`. The client half marks each successful request in [`Ctx::store`], where
//! the mark is found although selectors give their attempts a [`Ctx::call`] of their own; the server half uses it up.

use async_trait::async_trait;

use crate::core::{Ctx, Element, Message, NetworkService, Next, Request, Result};

/// See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct TrimPath {
    is_client: bool,
}

/// The request went on to another hop.
struct PassedOn;

impl TrimPath {
    /// Cuts the paths of answers.
    pub fn server() -> Self {
        Self { is_client: false }
    }

    /// Marks what is passed on.
    pub fn client() -> Self {
        Self { is_client: true }
    }
}

#[async_trait]
impl Element<NetworkService> for TrimPath {
    fn name(&self) -> &'static str {
        "trimpath"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let ours = usize::try_from(message.path().index).unwrap_or(usize::MAX);
        if self.is_client {
            let path = message.connection.path.iter_mut();
            let behind = path.flat_map(|path| path.path_segments.iter_mut().skip(ours.saturating_add(1)));
            behind.for_each(|segment| segment.metrics.clear());
            next.request(ctx, message).await?;
            ctx.store().insert(PassedOn);
            return Ok(());
        }
        let _stale = ctx.store().take::<PassedOn>();
        next.request(ctx, message).await?;
        if ctx.store().take::<PassedOn>().is_none() {
            message.path_mut().path_segments.truncate(ours.saturating_add(1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::Chain;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    /// A request at index 0 with `tail` segments behind.
    fn with_tail(tail: usize) -> Request {
        let mut message = request();
        let segments = &mut message.path_mut().path_segments;
        segments.resize(1 + tail, Default::default());
        message
    }

    fn hops(message: &Request) -> usize {
        message.path().path_segments.len()
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(TrimPath::server, request()).await;
        standard_cases::<NetworkService, _>(TrimPath::client, request()).await;
    }

    #[tokio::test]
    async fn c09_a_terminating_endpoint_cuts_a_stale_tail() {
        let probe = Probe::new();
        let mut message = with_tail(3);
        before(TrimPath::server(), &probe)
            .request(&Connection::new().first(), &mut message)
            .await
            .expect("passes");
        assert_eq!((hops(&probe.requests()[0]), hops(&message)), (4, 1));
    }

    #[tokio::test]
    async fn what_hops_behind_have_counted_is_not_sent_to_them() {
        let (probe, mut message) = (Probe::new(), with_tail(1));
        for segment in &mut message.path_mut().path_segments {
            segment.metrics.insert("rx_bytes".into(), "1".into());
        }
        before(TrimPath::client(), &probe)
            .request(&Connection::new().first(), &mut message)
            .await
            .expect("passes");
        let sent = probe.requests();
        let counts = sent[0].path().path_segments.iter().map(|hop| hop.metrics.len());
        assert_eq!(counts.collect::<Vec<_>>(), [1, 0]);
    }

    #[tokio::test]
    async fn c10_a_pass_through_keeps_the_tail_of_every_answer() {
        let probe = Probe::answering(|request: &mut Request| {
            request.path_mut().path_segments.resize(3, Default::default());
            Ok(())
        });
        let chain: Chain<NetworkService> =
            crate::chain![TrimPath::server(), TrimPath::client(), Arc::clone(&probe)];
        let (connection, mut message) = (Connection::new(), request());
        for _ in 0..3 {
            chain
                .request(&connection.again(), &mut message)
                .await
                .expect("passes");
            assert_eq!(hops(&message), 3);
        }
    }

    #[tokio::test]
    async fn a_mark_counts_for_one_request_only() {
        let (connection, probe) = (Connection::new(), Probe::new());
        let through: Chain<NetworkService> =
            crate::chain![TrimPath::server(), TrimPath::client(), Arc::clone(&probe)];
        through
            .request(&connection.first(), &mut with_tail(2))
            .await
            .expect("passes");
        let mut message = with_tail(2);
        before(TrimPath::server(), &probe)
            .request(&connection.again(), &mut message)
            .await
            .expect("passes");
        assert_eq!(hops(&message), 1);
    }
}
