// SPDX-License-Identifier: Apache-2.0
//! What one element costs that does nothing.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use nsm_sdk::core::{Chain, Component, Ctx, Element, NetworkService, Next, Request};
use tokio::time::Instant;

use crate::figure::{Figure, median};

const ELEMENTS: usize = 30;
const CALLS: usize = 20_000;
const RUNS: usize = 9;

/// Awaits, as real elements do, and passes.
struct Idle;

#[async_trait]
impl Element<NetworkService> for Idle {
    fn name(&self) -> &'static str {
        "idle"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        request: &mut Request,
        next: Next<'_, NetworkService>,
    ) -> nsm_sdk::core::Result<()> {
        next.request(ctx, request).await
    }
}

pub(crate) async fn element() -> Result<Vec<Figure>> {
    let component = Component::new("bench");
    let chain: Chain<NetworkService> = Chain::new((0..ELEMENTS).map(|_| Arc::new(Idle) as _).collect());
    let ctx = Ctx::own(&component, Duration::from_secs(60));
    let mut request = Request::default();
    let mut runs = Vec::with_capacity(RUNS);
    for _ in 0..RUNS {
        let began = Instant::now();
        for _ in 0..CALLS {
            chain.request(&ctx, &mut request).await?;
        }
        runs.push(began.elapsed().as_nanos() as f64 / (CALLS * ELEMENTS) as f64);
    }
    Ok(vec![
        Figure::new("chain.element_ns", median(runs), "ns", RUNS).at_most(50.0),
    ])
}
