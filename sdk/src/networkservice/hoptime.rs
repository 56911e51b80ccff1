// SPDX-License-Identifier: Apache-2.0
//! Notes in a hop's path segment how long its last request took.
//!
//! **Guarantees**: `request_us` in the metrics of the hop's own segment, whole microseconds, decimal, of the last
//! request that succeeded; what lies behind the hop is included, so the hop's own share is the difference to the
//! next segment's.
//! **Placement**: behind `updatepath`, which decides which segment is the hop's own, and right behind `monitor`, so that
//! monitors are told. What stands before it (tokens, policies) counts to the hop before.
//! **Cost**: two readings of the clock and one short string.

use async_trait::async_trait;
use tokio::time::Instant;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// The key in the metrics of a path segment.
pub const REQUEST_MICROS: &str = "request_us";

/// See the [module](self).
#[derive(Debug, Default)]
pub struct HopTime;

#[async_trait]
impl Element<NetworkService> for HopTime {
    fn name(&self) -> &'static str {
        "hoptime"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let own = request.connection.path.as_ref().map(|path| path.index as usize);
        let began = Instant::now();
        next.request(ctx, request).await?;
        let took = began.elapsed().as_micros().to_string();
        let path = request.connection.path.as_mut();
        if let Some(segment) = path
            .zip(own)
            .and_then(|(path, own)| path.path_segments.get_mut(own))
        {
            segment.metrics.insert(REQUEST_MICROS.to_string(), took);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::core::Chain;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    #[tokio::test(start_paused = true)]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(HopTime::default, request()).await;
    }

    /// Takes its time.
    struct Slow;

    #[async_trait]
    impl Element<NetworkService> for Slow {
        fn name(&self) -> &'static str {
            "slow"
        }

        async fn request(
            &self,
            ctx: &Ctx,
            request: &mut Request,
            next: Next<'_, NetworkService>,
        ) -> Result<()> {
            tokio::time::sleep(Duration::from_micros(1500)).await;
            next.request(ctx, request).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_own_segment_tells_how_long_the_request_took() {
        let chain = before(HopTime, &Probe::new());
        let slow = Chain::new(vec![std::sync::Arc::new(HopTime), std::sync::Arc::new(Slow)]);
        let (mut quick, mut late) = (request(), request());
        let (one, other) = (Connection::new().first(), Connection::new().first());
        chain.request(&one, &mut quick).await.expect("passes");
        slow.request(&other, &mut late).await.expect("passes");
        let told = |request: &Request| {
            let path = request.connection.path.as_ref().expect("a path");
            let text = path.path_segments[0].metrics.get(REQUEST_MICROS)?;
            text.parse::<u64>().ok()
        };
        assert_eq!(told(&quick), Some(0));
        assert!(
            told(&late).is_some_and(|micros| micros >= 1500),
            "{:?}",
            told(&late)
        );
    }
}
