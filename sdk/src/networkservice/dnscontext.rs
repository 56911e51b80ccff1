// SPDX-License-Identifier: Apache-2.0
//! Tells clients which DNS servers serve which domains behind an endpoint, and the client's resolver of them.
//!
//! **Guarantees**: the resolver knows of a connection what its last answer told, and nothing once it is closed.
//! **Placement**: [`DnsContext`] in an endpoint; [`DnsContextClient`] in a client, before `connect`.
//! **Reads / writes**: the endpoint's appends the configurations to `context.dns_context` that are absent. The client's
//! empties `context.dns_context` of what earlier answers told, so that it does not outlive a change at the endpoint.
//! **On failure**: of a refresh, the resolver goes by the answer before.
//! **On close**: the resolver forgets the connection first.
//! **Cost**: a comparison with each configuration that is there.

use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connectioncontext::{ConnectionContext, DnsConfig};

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// Who asks DNS servers on behalf of a pod.
pub trait Resolver: Send + Sync {
    /// The connection `id` is up, with this context in place of an earlier one.
    fn tell(&self, id: &str, context: &ConnectionContext);

    /// The connection `id` is gone.
    fn forget(&self, id: &str);
}

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

/// See the [module](self).
pub struct DnsContextClient(Arc<dyn Resolver>);

/// What the resolver knows of a connection.
struct Told {
    resolver: Arc<dyn Resolver>,
    id: String,
}

impl Drop for Told {
    fn drop(&mut self) {
        self.resolver.forget(&self.id);
    }
}

impl DnsContextClient {
    /// Tells this resolver.
    pub fn new(resolver: Arc<dyn Resolver>) -> Self {
        Self(resolver)
    }
}

#[async_trait]
impl Element<NetworkService> for DnsContextClient {
    fn name(&self) -> &'static str {
        "dnscontext"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let context = request.connection.context.get_or_insert_default();
        context.dns_context = Some(Default::default());
        next.request(ctx, request).await?;
        let id = &request.connection.id;
        let context = request.connection.context.get_or_insert_default();
        self.0.tell(id, context);
        if !ctx.store().has::<Told>() {
            ctx.store().insert(Told {
                resolver: self.0.clone(),
                id: id.clone(),
            });
        }
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        drop(ctx.store().take::<Told>());
        next.close(ctx, request).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use parking_lot::Mutex;

    use super::*;
    use crate::core::Error;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    /// What it was told.
    #[derive(Default)]
    struct Names(Mutex<BTreeMap<String, Vec<DnsConfig>>>);

    impl Names {
        fn known(&self) -> Vec<(String, Vec<DnsConfig>)> {
            self.0.lock().clone().into_iter().collect()
        }
    }

    impl Resolver for Names {
        fn tell(&self, id: &str, context: &ConnectionContext) {
            let configs = context.dns_context.clone().unwrap_or_default().configs;
            self.0.lock().insert(id.to_string(), configs);
        }

        fn forget(&self, id: &str) {
            self.0.lock().remove(id);
        }
    }

    /// An endpoint that tells this.
    fn endpoint(server: &'static str) -> impl Fn(&mut Request) -> Result<()> {
        move |request| {
            let context = request.connection.context.get_or_insert_default();
            context.dns_context_mut().add(&config(server));
            Ok(())
        }
    }

    #[tokio::test]
    async fn the_client_passes_the_standard_cases() {
        let mut asked = request();
        let context = asked.connection.context.get_or_insert_default();
        context.dns_context = Some(Default::default());
        standard_cases::<NetworkService, _>(|| DnsContextClient::new(Arc::new(Names::default())), asked)
            .await;
    }

    #[tokio::test]
    async fn the_resolver_knows_what_the_last_answer_told_until_the_close() {
        let (names, connection) = (Arc::new(Names::default()), Connection::new());
        let probe = Probe::answering(endpoint("10.0.0.53"));
        let chain = before(DnsContextClient::new(names.clone()), &probe);
        let mut request = request();
        let id = request.connection.id.clone();
        chain.request(&connection.first(), &mut request).await.unwrap();
        assert_eq!(names.known(), [(id.clone(), vec![config("10.0.0.53")])]);
        probe.answer(endpoint("10.0.0.54"));
        chain.request(&connection.again(), &mut request).await.unwrap();
        assert_eq!(names.known(), [(id, vec![config("10.0.0.54")])]);
        chain.close(&connection.again(), &mut request).await.unwrap();
        assert_eq!(names.known(), []);
    }

    #[tokio::test]
    async fn a_refresh_that_fails_leaves_what_is_known() {
        let (names, connection) = (Arc::new(Names::default()), Connection::new());
        let probe = Probe::answering(endpoint("10.0.0.53"));
        let chain = before(DnsContextClient::new(names.clone()), &probe);
        let mut request = request();
        chain.request(&connection.first(), &mut request).await.unwrap();
        let known = names.known();
        probe.answer(|_| Err(Error::unavailable("gone", "nobody is there")));
        chain
            .request(&connection.again(), &mut request)
            .await
            .unwrap_err();
        assert_eq!(names.known(), known);
    }

    #[tokio::test]
    async fn a_connection_that_goes_without_a_close_is_forgotten() {
        let (names, connection) = (Arc::new(Names::default()), Connection::new());
        let chain = before(
            DnsContextClient::new(names.clone()),
            &Probe::answering(endpoint("10.0.0.53")),
        );
        chain.request(&connection.first(), &mut request()).await.unwrap();
        assert_eq!(names.known().len(), 1);
        drop(connection);
        assert_eq!(names.known(), []);
    }

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
