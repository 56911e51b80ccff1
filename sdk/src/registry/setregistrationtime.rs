// SPDX-License-Identifier: Apache-2.0
//! Writes when an endpoint was registered first.
//!
//! **Guarantees**: the time of the first registration stays until the endpoint is unregistered, whatever later
//! registrations say; the first one may bring a time of its own.
//! **Placement**: behind `begin`, before `memory`.
//! **Reads / writes**: `initial_registration_time`.

use async_trait::async_trait;
use nsm_api::registry::NetworkServiceEndpoint;
use prost_types::Timestamp;

use crate::core::{Ctx, Element, Next, NseRegistry, Registration, Result};

/// See the [module](self).
#[derive(Clone, Copy, Debug, Default)]
pub struct SetRegistrationTime;

/// The time that the first registration got.
#[derive(Clone, Copy)]
struct First(Timestamp);

#[async_trait]
impl Element<NseRegistry> for SetRegistrationTime {
    fn name(&self) -> &'static str {
        "setregistrationtime"
    }

    async fn request(
        &self,
        ctx: &Ctx,
        message: &mut Registration<NetworkServiceEndpoint>,
        next: Next<'_, NseRegistry>,
    ) -> Result<()> {
        let First(time) = ctx.store().get().unwrap_or_else(|| {
            let asked = message.entry.initial_registration_time;
            First(asked.unwrap_or_else(|| ctx.component().now().into()))
        });
        ctx.store().insert(First(time));
        message.entry.initial_registration_time = Some(time);
        next.request(ctx, message).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::chain;
    use crate::core::Component;
    use crate::core::testing::standard_cases;
    use crate::elements::begin::Begin;
    use crate::registry::testing::{Nse, component, endpoint, register, unregister};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NseRegistry, _>(|| SetRegistrationTime, endpoint("nse", &["s"])).await;
    }

    async fn registered(chain: &Nse, component: &Component, asked: Option<Timestamp>) -> Option<Timestamp> {
        let mut message = endpoint("nse", &["s"]);
        message.entry.initial_registration_time = asked;
        let answer = register(chain, component, message).await;
        answer.entry.initial_registration_time
    }

    #[tokio::test(start_paused = true)]
    async fn c50_the_first_registration_decides_until_the_endpoint_is_unregistered() {
        let component = component();
        let chain: Nse = chain![Begin::server(&component), SetRegistrationTime];
        let now = || Some(Timestamp::from(component.now()));
        let first = now();
        assert_eq!(registered(&chain, &component, None).await, first);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(registered(&chain, &component, None).await, first);
        assert_eq!(registered(&chain, &component, now()).await, first);
        unregister(&chain, &component, "nse").await;
        assert_eq!(registered(&chain, &component, None).await, now());
        unregister(&chain, &component, "nse").await;
        assert_eq!(registered(&chain, &component, first).await, first);
        component.end().await;
    }
}
