// SPDX-License-Identifier: Apache-2.0
//! Sends every call to one fixed URL.
//!
//! **Placement**: before `dial`.
//! **Reads / writes**: writes [`NextUrl`] into [`Ctx::call`], unless an element before it has chosen already.
//! **Cost**: one copy of the URL a call.

use async_trait::async_trait;

use crate::core::{Api, Ctx, Element, Found, Next, Result};

/// Where the call goes next: what `clienturl`, `discover`, `roundrobin` and `discoverforwarder` choose and `dial`
/// opens. Lives in [`Ctx::call`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextUrl(pub String);

/// See the [module](self).
#[derive(Debug)]
pub struct ClientUrl(String);

impl ClientUrl {
    /// Sends calls to `url`.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    fn choose(&self, ctx: &Ctx) {
        if !ctx.call().has::<NextUrl>() {
            ctx.call().insert(NextUrl(self.0.clone()));
        }
    }
}

#[async_trait]
impl<A: Api> Element<A> for ClientUrl {
    fn name(&self) -> &'static str {
        "clienturl"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        self.choose(ctx);
        next.request(ctx, message).await
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        self.choose(ctx);
        next.close(ctx, message).await
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        self.choose(ctx);
        next.find(ctx, query).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::NetworkService;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| ClientUrl::new("unix:///a"), request()).await;
    }

    #[tokio::test]
    async fn an_earlier_choice_stays() {
        let chain = before(ClientUrl::new("unix:///mine"), &Probe::new());
        let ctx = Connection::new().first();
        ctx.call().insert(NextUrl("unix:///earlier".into()));
        chain.request(&ctx, &mut request()).await.expect("passes");
        assert_eq!(ctx.call().get(), Some(NextUrl("unix:///earlier".into())));
    }
}
