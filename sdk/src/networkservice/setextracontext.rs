// SPDX-License-Identifier: Apache-2.0
//! Adds fixed pairs to the extra context of every connection.
//!
//! **Reads / writes**: `context.extra_context`, replacing values that are there.
//! **Cost**: a copy of the pairs a request.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct SetExtraContext(BTreeMap<String, String>);

impl SetExtraContext {
    /// Adds these pairs.
    pub fn new(pairs: BTreeMap<String, String>) -> Self {
        Self(pairs)
    }
}

#[async_trait]
impl Element<NetworkService> for SetExtraContext {
    fn name(&self) -> &'static str {
        "setextracontext"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let context = request.connection.context.get_or_insert_default();
        context.extra_context.extend(self.0.clone());
        next.request(ctx, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn element() -> SetExtraContext {
        SetExtraContext::new([("mine".into(), "new".into())].into())
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(element, request()).await;
    }

    #[tokio::test]
    async fn own_pairs_win_and_others_stay() {
        let mut request = request();
        let context = request.connection.context.get_or_insert_default();
        context.extra_context = [("mine".into(), "old".into()), ("other".into(), "kept".into())].into();
        let probe = Probe::new();
        before(element(), &probe)
            .request(&Connection::new().first(), &mut request)
            .await
            .unwrap();
        let seen = probe.requests()[0]
            .connection
            .context
            .clone()
            .unwrap()
            .extra_context;
        assert_eq!((seen["mine"].as_str(), seen["other"].as_str()), ("new", "kept"));
    }
}
