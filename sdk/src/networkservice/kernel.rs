// SPDX-License-Identifier: Apache-2.0
//! The `KERNEL` mechanism at the two ends of a wire and between them: who names the interface, and in which network
//! namespace it is to be.
//!
//! A client offers it, an endpoint accepts it, and a forwarder offers it to endpoints without a word about either.
//! **Guarantees**: what a client offers and an endpoint answers names the own namespace and an interface that Linux
//! takes. A name that is given is kept or refused, never cut; one that is made up stays over refreshes, and at an
//! endpoint also when the forwarder before it has been restarted and asks anew.
//! **Placement**: client and endpoint as the chain of `KERNEL` in `mechanisms`; the forwarder behind
//! [`mechanismtranslation`](super::mechanismtranslation) and before `filtermechanisms`.
//! **Reads / writes**: the preferences (client, forwarder), the mechanism (endpoint); a name in [`Ctx::store`].
//! **Cost**: none.

use async_trait::async_trait;
use nsm_api::connection::Mechanism;
use nsm_api::interface_name;
use nsm_api::mechanism::{KERNEL, Kernel as View, LOCAL};
use rand::Rng;

use crate::core::{Ctx, Element, Error, NetworkService, Next, Request, Result};

/// The network namespace of this program.
pub const OWN_NETNS: &str = "file:///proc/thread-self/ns/net";

/// See the [module](self).
pub struct Kernel(Role);

enum Role {
    Client(Own),
    Endpoint(Own),
    Forwarder,
}

/// What is ours.
struct Own {
    netns_url: String,
    interface_name: Option<String>,
}

/// The names that were made up for the connection: a hop may be the endpoint of one wire of it and the client of
/// another.
#[derive(Default)]
struct MadeUp {
    client: String,
    endpoint: String,
}

impl MadeUp {
    fn as_client(&mut self) -> &mut String {
        &mut self.client
    }

    fn as_endpoint(&mut self) -> &mut String {
        &mut self.endpoint
    }
}

impl Own {
    fn at(netns_url: &str) -> Self {
        Self {
            netns_url: netns_url.into(),
            interface_name: None,
        }
    }

    /// Completes a mechanism for an interface to `service`. A name that was made up for the connection stays, also
    /// for a caller that has lost it.
    fn complete(
        &self,
        ctx: &Ctx,
        service: &str,
        kernel: &mut View<&mut Mechanism>,
        kept: fn(&mut MadeUp) -> &mut String,
    ) -> Result<()> {
        kernel.set_netns_url(&self.netns_url);
        if kernel.interface_name().is_empty() {
            let random = |below| ctx.component().random(|random| random.random_range(0..below));
            let made_up = || {
                ctx.store().update(|made_up: &mut MadeUp| {
                    let name = kept(made_up);
                    if name.is_empty() {
                        *name = interface_name::generate(service, random);
                    }
                    name.clone()
                })
            };
            kernel.set_interface_name(self.interface_name.clone().unwrap_or_else(made_up));
        }
        check(kernel.interface_name())
    }
}

/// Errors: `bad-interface-name`.
fn check(name: &str) -> Result<()> {
    let refused =
        |error: interface_name::InterfaceNameError| Error::invalid("bad-interface-name", error.to_string());
    interface_name::check(name).map_err(refused)
}

impl Kernel {
    /// Offers an interface in the namespace at `netns_url`, usually [`OWN_NETNS`], under the name of the preference
    /// or one that is made up.
    pub fn client(netns_url: &str) -> Self {
        Self(Role::Client(Own::at(netns_url)))
    }

    /// Answers with an interface in the namespace at `netns_url`, usually [`OWN_NETNS`], under the name of the
    /// request or one that is made up.
    pub fn server(netns_url: &str) -> Self {
        Self(Role::Endpoint(Own::at(netns_url)))
    }

    /// Offers endpoints an interface of which they decide everything.
    pub fn forwarder() -> Self {
        Self(Role::Forwarder)
    }

    /// Uses `name` in place of one that is made up.
    ///
    /// Errors: `bad-interface-name`.
    pub fn named(mut self, name: &str) -> Result<Self> {
        check(name)?;
        if let Role::Client(own) | Role::Endpoint(own) = &mut self.0 {
            own.interface_name = Some(name.into());
        }
        Ok(self)
    }
}

/// Offers the mechanism unless it is offered.
fn offer(preferences: &mut Vec<Mechanism>) {
    if !preferences.iter().any(|mechanism| mechanism.r#type == KERNEL) {
        preferences.push(Mechanism::new(LOCAL, KERNEL));
    }
}

#[async_trait]
impl Element<NetworkService> for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let service = &request.connection.network_service;
        match &self.0 {
            Role::Client(own) => {
                offer(&mut request.mechanism_preferences);
                for mut kernel in request.mechanism_preferences.iter_mut().filter_map(View::of) {
                    own.complete(ctx, service, &mut kernel, MadeUp::as_client)?;
                }
            }
            Role::Endpoint(own) => {
                if let Some(mut kernel) = request.connection.mechanism.as_mut().and_then(View::of) {
                    own.complete(ctx, service, &mut kernel, MadeUp::as_endpoint)?;
                }
            }
            Role::Forwarder => {
                let offered = request.mechanism_preferences.clone();
                offer(&mut request.mechanism_preferences);
                let done = next.request(ctx, request).await;
                request.mechanism_preferences = offered;
                return done;
            }
        }
        next.request(ctx, request).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn client() -> Kernel {
        Kernel::client(OWN_NETNS)
    }

    fn named(name: &str) -> Mechanism {
        let mut mechanism = Mechanism::new(LOCAL, KERNEL);
        mechanism.set_parameter("name", name);
        mechanism
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(client, request()).await;
        standard_cases::<NetworkService, _>(|| Kernel::server(OWN_NETNS), request()).await;
        standard_cases::<NetworkService, _>(Kernel::forwarder, request()).await;
    }

    #[tokio::test]
    async fn c93_a_preference_without_a_name_gets_one_of_exactly_15_bytes() {
        let (probe, connection) = (Probe::new(), Connection::new());
        let mut request = request();
        let chain = before(client(), &probe);
        chain.request(&connection.first(), &mut request).await.unwrap();
        chain.request(&connection.again(), &mut request).await.unwrap();
        let seen = probe.requests();
        let kernel = View::of(&seen[0].mechanism_preferences[0]).unwrap();
        let random = kernel
            .interface_name()
            .strip_prefix("icmp-respo-")
            .expect("10 bytes and a dash");
        assert!(random.len() == 4 && random.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(
            (kernel.mechanism().cls.as_str(), kernel.netns_url()),
            (LOCAL, OWN_NETNS)
        );
        assert_eq!(
            seen[1].mechanism_preferences, seen[0].mechanism_preferences,
            "the name stays"
        );
    }

    #[tokio::test]
    async fn names_are_kept_or_refused_and_never_cut() {
        let ask = async |element: Kernel, name: &str| {
            let probe = Probe::new();
            let mut request = request();
            request.mechanism_preferences = vec![Mechanism::new(LOCAL, "MEMIF"), named(name)];
            before(element, &probe)
                .request(&Connection::new().first(), &mut request)
                .await?;
            let seen = probe.requests().remove(0).mechanism_preferences;
            assert_eq!(
                seen[0],
                Mechanism::new(LOCAL, "MEMIF"),
                "other mechanisms are left alone"
            );
            Ok::<_, Error>(View::of(&seen[1]).unwrap().interface_name().to_string())
        };
        let default = || Kernel::client("file:///netns").named("nsm-0").unwrap();
        assert_eq!(ask(client(), "nsm-45678901234").await.unwrap(), "nsm-45678901234");
        assert_eq!(ask(default(), "nsm-1").await.unwrap(), "nsm-1");
        assert_eq!(ask(default(), "").await.unwrap(), "nsm-0");
        let error = ask(client(), "nsm-456789012345").await.unwrap_err();
        assert_eq!(error.reason(), "bad-interface-name");
        assert!(error.text().contains("16 bytes"), "{error}");
        assert!(Kernel::server(OWN_NETNS).named("a/b").is_err());
    }

    #[tokio::test]
    async fn an_endpoint_answers_with_its_own_namespace_and_keeps_the_name() {
        let connection = Connection::new();
        let chain = before(Kernel::server("file:///netns"), &Probe::new());
        let mut request = request();
        request.connection.mechanism = Some(View::at("inode://4/5"));
        chain.request(&connection.first(), &mut request).await.unwrap();
        let first = request.connection.mechanism.clone().unwrap();
        let kernel = View::of(&first).unwrap();
        assert_eq!(
            (kernel.netns_url(), kernel.interface_name().len()),
            ("file:///netns", 15)
        );
        chain.request(&connection.again(), &mut request).await.unwrap();
        assert_eq!(request.connection.mechanism, Some(first.clone()));
        request.connection.mechanism = Some(View::at("inode://4/5"));
        chain.request(&connection.again(), &mut request).await.unwrap();
        assert_eq!(
            request.connection.mechanism,
            Some(first),
            "a caller that asks anew gets the same name"
        );
    }

    #[tokio::test]
    async fn both_wires_of_a_hop_that_is_endpoint_and_client_have_names_of_their_own() {
        let (probe, connection) = (Probe::new(), Connection::new());
        let chain = crate::core::Chain::new(vec![
            std::sync::Arc::new(Kernel::server(OWN_NETNS)),
            std::sync::Arc::new(client()),
            std::sync::Arc::new(std::sync::Arc::clone(&probe)),
        ]);
        let mut request = request();
        request.connection.mechanism = Some(View::at("inode://4/5"));
        chain.request(&connection.first(), &mut request).await.unwrap();
        let seen = probe.requests().remove(0);
        let name = |mechanism| View::of(mechanism).unwrap().interface_name().to_string();
        let ours = name(seen.connection.mechanism.as_ref().unwrap());
        assert_ne!(ours, name(&seen.mechanism_preferences[0]));
        assert_eq!(ours, name(request.connection.mechanism.as_ref().unwrap()));
    }

    #[tokio::test]
    async fn a_forwarder_offers_it_without_parameters_and_only_behind_itself() {
        let (probe, mut asked) = (Probe::new(), request());
        before(Kernel::forwarder(), &probe)
            .request(&Connection::new().first(), &mut asked)
            .await
            .unwrap();
        assert_eq!(
            probe.requests()[0].mechanism_preferences,
            [Mechanism::new(LOCAL, KERNEL)]
        );
        assert_eq!(asked, request());
    }
}
