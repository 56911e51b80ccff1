// SPDX-License-Identifier: Apache-2.0
//! Separates the mechanism towards the client from the one towards the endpoint.
//!
//! **Guarantees**: behind it the connection has the mechanism that the endpoint was last answered with, none at
//! first, and no preferences; before it the client's, unchanged.
//! **Placement**: in a forwarder, first of the elements that call the endpoint.
//! **Reads / writes**: the mechanism and the preferences; [`Downstream`] in [`Ctx::store`].
//! **On failure**: the mechanism of the last success stays.
//! **On close**: the endpoint's mechanism is closed.
//! **Cost**: a copy of a mechanism a call.

use async_trait::async_trait;
use nsm_api::connection::Mechanism;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// The mechanism towards the endpoint, as it was last answered: `xconnect` joins it with the one towards the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Downstream(pub Mechanism);

/// See the [module](self).
pub struct MechanismTranslation;

#[async_trait]
impl Element<NetworkService> for MechanismTranslation {
    fn name(&self) -> &'static str {
        "mechanismtranslation"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let offered = std::mem::take(&mut request.mechanism_preferences);
        let downstream = ctx.store().get().map(|Downstream(mechanism)| mechanism);
        let upstream = std::mem::replace(&mut request.connection.mechanism, downstream);
        let done = next.request(ctx, request).await;
        let answered = std::mem::replace(&mut request.connection.mechanism, upstream);
        request.mechanism_preferences = offered;
        done?;
        match answered {
            Some(mechanism) => ctx.store().insert(Downstream(mechanism)),
            None => ctx.store().take::<Downstream>(),
        };
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let downstream = ctx.store().get().map(|Downstream(mechanism)| mechanism);
        let upstream = std::mem::replace(&mut request.connection.mechanism, downstream);
        let done = next.close(ctx, request).await;
        request.connection.mechanism = upstream;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Error;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn mechanism(r#type: &str) -> Mechanism {
        Mechanism {
            r#type: r#type.into(),
            ..Default::default()
        }
    }

    fn asked() -> Request {
        let mut request = request();
        request.connection.mechanism = Some(mechanism("UP"));
        request.mechanism_preferences = vec![mechanism("UP")];
        request
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| MechanismTranslation, asked()).await;
    }

    #[tokio::test]
    async fn c98_each_side_keeps_its_own_mechanism() {
        let probe = Probe::answering(|request: &mut Request| {
            request.connection.mechanism = Some(mechanism("DOWN"));
            Ok(())
        });
        let connection = Connection::new();
        let chain = before(MechanismTranslation, &probe);
        let mut request = asked();
        chain.request(&connection.first(), &mut request).await.unwrap();
        assert_eq!(request, asked());
        probe.answer(|_| Err(Error::unavailable("told-so", "the refresh fails")));
        chain
            .request(&connection.again(), &mut request)
            .await
            .unwrap_err();
        chain.close(&connection.again(), &mut request).await.unwrap();
        let seen = probe.requests();
        assert_eq!(seen[0].connection.mechanism, None);
        assert!(seen[0].mechanism_preferences.is_empty());
        assert_eq!(seen[1].connection.mechanism, Some(mechanism("DOWN")));
        assert_eq!(probe.closes()[0].connection.mechanism, Some(mechanism("DOWN")));
    }
}
