// SPDX-License-Identifier: Apache-2.0
//! Chooses among the mechanisms that a request offers, and runs the elements of the chosen one.
//!
//! **Guarantees**: a connection that has a mechanism keeps it. Otherwise the caller's order decides: the first
//! preference wins that is known here and with which the rest of the chain succeeds. The server half puts it into the
//! connection; the client half passes all preferences on.
//! **Placement**: the server half before what depends on the chosen mechanism; the elements of a mechanism run
//! between it and the rest of the chain.
//! **Reads / writes**: the mechanism and the preferences; the metric `server_interface` or `client_interface` of our
//! path segment, unless it is there.
//! **On failure**: the failures of all preferences in one error.
//! **On close**: the elements of the connection's mechanism; of an unknown one only the rest of the chain.
//! **Cost**: a copy of the request for each preference but the last.

use std::collections::BTreeMap;

use async_trait::async_trait;
use nsm_api::connection::{Connection, Mechanism};
use nsm_api::mechanism::key;

use super::attempts::{Failures, share};
use crate::core::{Chain, Ctx, Element, Error, NetworkService, Next, Request, Result};

/// The end of the error when no preference works.
const NONE: &str = "cannot support any of the requested mechanism";

/// See the [module](self).
pub struct Mechanisms {
    chains: BTreeMap<&'static str, Chain<NetworkService>>,
    side: Side,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Server,
    Client,
}

impl Mechanisms {
    /// For what callers offer: a chain for each mechanism's type.
    pub fn server(chains: impl IntoIterator<Item = (&'static str, Chain<NetworkService>)>) -> Self {
        Self {
            chains: chains.into_iter().collect(),
            side: Side::Server,
        }
    }

    /// For what we offer: a chain for each mechanism's type.
    pub fn client(chains: impl IntoIterator<Item = (&'static str, Chain<NetworkService>)>) -> Self {
        Self {
            side: Side::Client,
            ..Self::server(chains)
        }
    }

    /// Tries the preferences in the caller's order.
    async fn choose(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let offered = std::mem::take(&mut request.mechanism_preferences);
        let known: Vec<_> = offered
            .iter()
            .filter_map(|mechanism| Some((mechanism, self.chains.get(mechanism.r#type.as_str())?)))
            .collect();
        let mut failures = Failures::default();
        for (at, (mechanism, chain)) in known.iter().enumerate() {
            let Some(ctx) = share(ctx, known.len() - at - 1) else {
                break;
            };
            let mut attempt = request.clone();
            attempt.mechanism_preferences.clone_from(&offered);
            if self.side == Side::Server {
                attempt.connection.mechanism = Some((*mechanism).clone());
            }
            match next.through(chain).request(&ctx, &mut attempt).await {
                Ok(()) => {
                    *request = attempt;
                    return Ok(());
                }
                Err(error) => failures.add(error.clone(), error),
            }
        }
        Err(failures.into_error(NONE).unwrap_or_else(|| self.none(&offered)))
    }

    fn none(&self, offered: &[Mechanism]) -> Error {
        let offered: Vec<_> = offered
            .iter()
            .take(16)
            .map(|mechanism| mechanism.r#type.as_str())
            .collect();
        let known: Vec<_> = self.chains.keys().copied().collect();
        let text = format!(
            "{NONE}: offered are [{}], known here are [{}]",
            offered.join(", "),
            known.join(", ")
        );
        Error::invalid("unsupported-mechanism", text)
    }

    /// Tells the chosen interface in our segment of the path.
    fn tell(&self, connection: &mut Connection) {
        let Some(mechanism) = &connection.mechanism else {
            return;
        };
        let name = match mechanism.parameters.is_empty() {
            true => "unknown",
            false => mechanism.parameter(key::INTERFACE_NAME),
        };
        let interface = format!("{}/{name}", mechanism.r#type);
        let key = match self.side {
            Side::Server => "server_interface",
            Side::Client => "client_interface",
        };
        let segment = connection
            .path
            .as_mut()
            .and_then(|path| path.path_segments.get_mut(path.index as usize));
        if let Some(segment) = segment {
            segment.metrics.entry(key.into()).or_insert(interface);
        }
    }
}

#[async_trait]
impl Element<NetworkService> for Mechanisms {
    fn name(&self) -> &'static str {
        "mechanisms"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        match &request.connection.mechanism {
            None => self.choose(ctx, request, next).await?,
            Some(mechanism) => {
                let Some(chain) = self.chains.get(mechanism.r#type.as_str()) else {
                    let known: Vec<_> = self.chains.keys().copied().collect();
                    let text = format!(
                        "unsupported mechanism {:?}; known here are [{}]",
                        mechanism.r#type,
                        known.join(", ")
                    );
                    return Err(Error::invalid("unsupported-mechanism", text));
                };
                next.through(chain).request(ctx, request).await?;
            }
        }
        self.tell(&mut request.connection);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let chosen = request.connection.mechanism.as_ref();
        match chosen.and_then(|mechanism| self.chains.get(mechanism.r#type.as_str())) {
            Some(chain) => next.through(chain).close(ctx, request).await,
            None => next.close(ctx, request).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chain;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};
    use crate::networkservice::setextracontext::SetExtraContext;

    fn mechanism(r#type: &str) -> Mechanism {
        Mechanism {
            cls: "LOCAL".into(),
            r#type: r#type.into(),
            ..Default::default()
        }
    }

    fn offering(types: &[&str]) -> Request {
        let mechanism_preferences = types.iter().map(|r#type| mechanism(r#type)).collect();
        Request {
            mechanism_preferences,
            ..request()
        }
    }

    /// Knows `FAILING` and `GOOD`, and marks requests that pass the elements of `GOOD`.
    fn server() -> Mechanisms {
        let mark = SetExtraContext::new([("good".into(), "passed".into())].into());
        Mechanisms::server([("FAILING", chain![]), ("GOOD", chain![mark])])
    }

    fn failing() -> Arc<Probe<NetworkService>> {
        Probe::answering(|request: &mut Request| match &request.connection.mechanism {
            Some(mechanism) if mechanism.r#type == "FAILING" => {
                Err(Error::exhausted("told-so", "no more of this one"))
            }
            _ => Ok(()),
        })
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        let chains = || [("GOOD", chain![])];
        standard_cases::<NetworkService, _>(|| Mechanisms::server(chains()), offering(&["GOOD"])).await;
        standard_cases::<NetworkService, _>(|| Mechanisms::client(chains()), offering(&["GOOD"])).await;
    }

    #[tokio::test]
    async fn c95_the_first_preference_that_is_known_and_succeeds_is_chosen() {
        let probe = failing();
        let connection = Connection::new();
        let chain = before(server(), &probe);
        let mut request = offering(&["UNKNOWN", "FAILING", "GOOD"]);
        let original = request.mechanism_preferences.clone();
        chain.request(&connection.first(), &mut request).await.unwrap();
        assert_eq!(request.connection.mechanism, Some(mechanism("GOOD")));
        assert_eq!(request.mechanism_preferences, original);
        let seen = probe.requests();
        assert_eq!(seen.len(), 2, "the unknown one is not tried");
        let marked = |request: &Request| request.connection.context.is_some();
        assert!(!marked(&seen[0]) && marked(&seen[1]));

        let error = chain
            .request(&connection.first(), &mut offering(&["FAILING"]))
            .await
            .unwrap_err();
        assert!(
            error
                .text()
                .ends_with("no more of this one: cannot support any of the requested mechanism")
        );
        assert_eq!(
            (error.code(), error.reason()),
            (tonic::Code::ResourceExhausted, "told-so")
        );
        let error = chain
            .request(&connection.first(), &mut offering(&["UNKNOWN"]))
            .await
            .unwrap_err();
        assert!(
            error
                .text()
                .contains("cannot support any of the requested mechanism"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn c96_a_mechanism_that_is_set_and_unknown_is_refused() {
        let probe = Probe::new();
        let mut request = offering(&["GOOD"]);
        request.connection.mechanism = Some(mechanism("UNKNOWN"));
        let chain = before(server(), &probe);
        let error = chain
            .request(&Connection::new().first(), &mut request)
            .await
            .unwrap_err();
        assert!(error.text().contains("unsupported mechanism"), "{error}");
        assert!(probe.requests().is_empty());
    }

    #[tokio::test]
    async fn a_close_reaches_what_is_behind_whatever_the_mechanism() {
        let probe = Probe::new();
        let chain = before(server(), &probe);
        for chosen in [None, Some(mechanism("UNKNOWN")), Some(mechanism("GOOD"))] {
            let mut request = request();
            request.connection.mechanism = chosen;
            chain
                .close(&Connection::new().again(), &mut request)
                .await
                .unwrap();
        }
        assert_eq!(probe.closes().len(), 3);
    }

    #[tokio::test]
    async fn the_client_half_passes_every_preference_and_sets_nothing() {
        let probe = Probe::new();
        let client = Mechanisms::client([("GOOD", chain![])]);
        let mut request = offering(&["UNKNOWN", "GOOD"]);
        let original = request.clone();
        before(client, &probe)
            .request(&Connection::new().first(), &mut request)
            .await
            .unwrap();
        assert_eq!(probe.requests(), [original]);
    }

    #[tokio::test]
    async fn the_interface_is_told_once_in_our_segment() {
        let probe = Probe::answering(|request: &mut Request| {
            if let Some(mechanism) = &mut request.connection.mechanism {
                mechanism
                    .parameters
                    .entry("name".into())
                    .or_insert("nsm-1".into());
            }
            Ok(())
        });
        let connection = Connection::new();
        let mut request = offering(&["GOOD"]);
        let chain = before(server(), &probe);
        chain.request(&connection.first(), &mut request).await.unwrap();
        let told = |request: &Request| {
            request.connection.path.as_ref().unwrap().path_segments[0].metrics["server_interface"].clone()
        };
        assert_eq!(told(&request), "GOOD/nsm-1");
        let chosen = request.connection.mechanism.as_mut().unwrap();
        chosen.parameters.insert("name".into(), "nsm-2".into());
        chain.request(&connection.again(), &mut request).await.unwrap();
        assert_eq!(told(&request), "GOOD/nsm-1");
    }
}
