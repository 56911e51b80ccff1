// SPDX-License-Identifier: Apache-2.0
//! Tells clients which DNS servers serve which domains behind this endpoint.
//!
//! **Placement**: in an endpoint.
//! **Reads / writes**: appends the configurations to `context.dns_context` that are absent.
//! **Cost**: a comparison with each configuration that is there.

use async_trait::async_trait;
use nsm_api::connectioncontext::DnsConfig;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// See the [module](self).
pub struct DnsContext(Vec<DnsConfig>);

impl DnsContext {
    /// Tells these configurations.
    pub fn new(configs: Vec<DnsConfig>) -> Self {
        Self(configs)
    }
}

#[async_trait]
impl Element<NetworkService> for DnsContext {
    fn name(&self) -> &'static str {
        "dnscontext"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        for config in &self.0 {
            request
                .connection
                .context
                .get_or_insert_default()
                .dns_context_mut()
                .add(config);
        }
        next.request(ctx, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn config(server: &str) -> DnsConfig {
        DnsConfig {
            dns_server_ips: vec![server.into()],
            search_domains: vec!["my.domain".into()],
        }
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| DnsContext::new(vec![config("10.0.0.53")]), request()).await;
    }

    #[tokio::test]
    async fn configurations_are_told_once_and_others_stay() {
        let connection = Connection::new();
        let element = DnsContext::new(vec![config("10.0.0.53"), config("10.0.0.54")]);
        let chain = before(element, &Probe::new());
        let mut request = request();
        let context = request.connection.context.get_or_insert_default();
        context.dns_context.get_or_insert_default().configs = vec![config("1.1.1.1"), config("10.0.0.54")];
        for ctx in [connection.first(), connection.again()] {
            chain.request(&ctx, &mut request).await.unwrap();
            let told = request
                .connection
                .context
                .clone()
                .unwrap()
                .dns_context
                .unwrap()
                .configs;
            assert_eq!(
                told,
                [config("1.1.1.1"), config("10.0.0.54"), config("10.0.0.53")]
            );
        }
    }

    #[tokio::test]
    async fn without_configurations_no_context_is_made() {
        let mut asked = request();
        let chain = before(DnsContext::new(Vec::new()), &Probe::new());
        chain
            .request(&Connection::new().first(), &mut asked)
            .await
            .unwrap();
        assert_eq!(asked, request());
    }
}
