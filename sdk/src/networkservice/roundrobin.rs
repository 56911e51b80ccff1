// SPDX-License-Identifier: Apache-2.0
//! Chooses among the candidates of `discover`, each one's turn after the other's, and tries the next when one fails.
//!
//! **Guarantees**: one request tries each candidate at most once, beginning behind where the previous request of the
//! same service began. The endpoint that a reselection leaves goes last. A candidate that hangs leaves half of the time to the others. Weights have no effect.
//! **Placement**: behind [`discover`](super::discover), before `dial`.
//! **Reads / writes**: reads [`Candidates`], the state and the name of the next path segment; writes [`NextUrl`] and the endpoint's name, unless an element before it
//! has chosen a URL already.
//! **On failure**: the failures of all candidates in one error.
//! **Cost**: a copy of the request a candidate.

use std::collections::{HashMap, HashSet};

use async_trait::async_trait;
use nsm_api::connection::State;
use parking_lot::Mutex;

use super::attempts::{Failures, share};
use super::discover::Candidates;
use super::supply::SUPPLIED;
use crate::core::{Ctx, Element, Error, Message, NetworkService, Next, Request, Result};
use crate::elements::clienturl::NextUrl;

/// For how many services the turn is remembered.
const MAX_SERVICES: usize = 4096;

/// See the [module](self).
#[derive(Default)]
pub struct RoundRobin {
    turns: Mutex<HashMap<String, usize>>,
}

impl RoundRobin {
    /// Begins with the first candidate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whose turn it is among `count`.
    fn turn(&self, service: &str, count: usize) -> usize {
        let mut turns = self.turns.lock();
        if turns.len() >= MAX_SERVICES && !turns.contains_key(service) {
            turns.clear();
        }
        let turn = turns.entry(service.to_string()).or_default();
        let now = *turn;
        *turn = turn.wrapping_add(1);
        now % count.max(1)
    }
}

/// What the endpoint calls itself that a reselection leaves, by the path of the request before.
fn left(request: &Request) -> Option<String> {
    if request.connection.state() != State::ReselectRequested {
        return None;
    }
    let path = request.path();
    let next = usize::try_from(path.index).ok()?.checked_add(1)?;
    let left = path.path_segments.get(next)?.name.clone();
    Some(left).filter(|left| !left.is_empty())
}

/// Whether an endpoint that is registered as `name` calls itself `itself`: registries add to names.
fn is_called(name: &str, itself: &str) -> bool {
    let added = name.strip_prefix(itself);
    added.is_some_and(|added| added.is_empty() || added.starts_with('-'))
}

#[async_trait]
impl Element<NetworkService> for RoundRobin {
    fn name(&self) -> &'static str {
        "roundrobin"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        if ctx.call().has::<NextUrl>() || !ctx.call().has::<Candidates>() {
            return next.request(ctx, request).await;
        }
        let Candidates(mut candidates) = ctx.call().take().unwrap_or(Candidates(Vec::new()));
        let turn = self.turn(&request.connection.network_service, candidates.len());
        candidates.rotate_left(turn);
        if let Some(left) = left(request) {
            candidates.sort_by_key(|candidate| is_called(&candidate.name, &left));
        }
        let mut names = HashSet::new();
        candidates.retain(|candidate| names.insert(candidate.name.clone()));
        let mut failures = Failures::default();
        for (at, candidate) in candidates.iter().enumerate() {
            let more = candidates.len() - at - 1;
            let Some(ctx) = share(ctx, more) else {
                break;
            };
            let ctx = ctx.attempt();
            ctx.call().insert(NextUrl(candidate.url.clone()));
            let asked = (more > 0).then(|| request.clone());
            request
                .connection
                .network_service_endpoint_name
                .clone_from(&candidate.name);
            match next.request(&ctx, request).await {
                Ok(()) => return Ok(()),
                // There is a better one now, which is not among them.
                Err(error) if error.reason() == SUPPLIED => {
                    if let Some(asked) = asked {
                        *request = asked;
                    }
                    return Err(error);
                }
                Err(error) => {
                    let told = format!(
                        "{at}. An error during select endpoint {} --> {error}",
                        candidate.name
                    );
                    failures.add(told, error);
                    if let Some(asked) = asked {
                        *request = asked;
                    }
                }
            }
        }
        let none = || {
            Error::unavailable(
                "no-endpoint",
                "all candidates have failed: there was no time to try one",
            )
        };
        Err(failures
            .into_error("all candidates have failed")
            .unwrap_or_else(none))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::lookup::Candidate;
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    fn candidates(names: &[&str]) -> Candidates {
        let candidate = |name: &&str| Candidate {
            name: name.to_string(),
            url: format!("unix:///{name}"),
        };
        Candidates(names.iter().map(candidate).collect())
    }

    fn among(connection: &Connection, names: &[&str]) -> Ctx {
        let ctx = connection.first();
        ctx.call().insert(candidates(names));
        ctx
    }

    fn tried(probe: &Arc<Probe<NetworkService>>) -> Vec<String> {
        let name = |request: Request| request.connection.network_service_endpoint_name;
        probe.requests().into_iter().map(name).collect()
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(RoundRobin::new, request()).await;
    }

    #[tokio::test]
    async fn the_endpoint_that_a_reselection_leaves_goes_last() {
        let probe = Probe::answering(|_| Err(Error::unavailable("told-so", "told to fail")));
        let chain = before(RoundRobin::new(), &probe);
        for (left, expected) in [("a", ["b", "c", "a-x7"]), ("c", ["a-x7", "b", "c"])] {
            let mut request = request();
            request.connection.set_state(State::ReselectRequested);
            let segment = nsm_api::connection::PathSegment {
                name: left.into(),
                ..Default::default()
            };
            request.path_mut().path_segments.push(segment);
            let ctx = among(&Connection::new(), &["a-x7", "b", "c"]);
            let chain = match left {
                "a" => &chain,
                _ => &before(RoundRobin::new(), &probe),
            };
            chain.request(&ctx, &mut request).await.unwrap_err();
            let tried = tried(&probe);
            assert_eq!(tried[tried.len() - 3..], expected);
        }
    }

    #[tokio::test]
    async fn g30_equal_endpoints_take_turns() {
        let probe = Probe::new();
        let chain = before(RoundRobin::new(), &probe);
        for _ in 0..4 {
            let mut request = request();
            chain
                .request(&among(&Connection::new(), &["a", "b", "c"]), &mut request)
                .await
                .unwrap();
            assert_eq!(
                request.connection.network_service_endpoint_name,
                *tried(&probe).last().unwrap()
            );
        }
        assert_eq!(tried(&probe), ["a", "b", "c", "a"]);
    }

    #[tokio::test]
    async fn g31_the_next_candidate_is_tried_and_every_failure_is_told() {
        let probe = Probe::answering(|request: &mut Request| {
            match &request.connection.network_service_endpoint_name[..] {
                "c" => Ok(()),
                name => Err(Error::exhausted("told-so", format!("{name} is full"))),
            }
        });
        let chain = before(RoundRobin::new(), &probe);
        let mut chosen = request();
        chain
            .request(&among(&Connection::new(), &["a", "b", "c"]), &mut chosen)
            .await
            .unwrap();
        assert_eq!(chosen.connection.network_service_endpoint_name, "c");
        assert_eq!(tried(&probe), ["a", "b", "c"]);

        let ctx = among(&Connection::new(), &["b", "a", "a"]);
        let error = chain.request(&ctx, &mut request()).await.unwrap_err();
        assert_eq!(
            error.text(),
            "0. An error during select endpoint a --> probe: a is full: 1. An error during select endpoint b --> \
             probe: b is full: all candidates have failed"
        );
        assert_eq!(
            (error.code(), error.reason()),
            (tonic::Code::ResourceExhausted, "told-so")
        );
        assert_eq!(
            tried(&probe).len(),
            5,
            "a candidate that is there twice is tried once"
        );
    }

    #[tokio::test]
    async fn a_supplier_that_had_one_started_ends_the_search() {
        let probe = Probe::answering(|_| Err(Error::unavailable(SUPPLIED, "the endpoint is there")));
        let mut asked = request();
        let error = before(RoundRobin::new(), &probe)
            .request(&among(&Connection::new(), &["a", "b"]), &mut asked)
            .await
            .unwrap_err();
        assert_eq!((error.reason(), tried(&probe).len()), (SUPPLIED, 1));
        assert_eq!(asked, request(), "the next choice begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_candidate_that_hangs_leaves_time_for_the_next() {
        struct Hangs;
        #[async_trait]
        impl Element<NetworkService> for Hangs {
            fn name(&self) -> &'static str {
                "hangs"
            }
            async fn request(
                &self,
                ctx: &Ctx,
                request: &mut Request,
                _: Next<'_, NetworkService>,
            ) -> Result<()> {
                match &request.connection.network_service_endpoint_name[..] {
                    "a" => ctx.bounded("hang", std::future::pending()).await,
                    _ => Ok(()),
                }
            }
        }
        let chain = crate::chain![RoundRobin::new(), Hangs];
        let connection = Connection::new();
        let ctx = among(&connection, &["a", "b"]);
        let mut request = request();
        chain.request(&ctx, &mut request).await.unwrap();
        assert_eq!(request.connection.network_service_endpoint_name, "b");
        assert_eq!(ctx.remaining(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn nobody_is_tried_when_nobody_waits() {
        let probe = Probe::new();
        let ctx = among(&Connection::new(), &["a"]);
        ctx.cancelled().cancel();
        before(RoundRobin::new(), &probe)
            .request(&ctx, &mut request())
            .await
            .unwrap_err();
        assert!(probe.requests().is_empty());
    }

    #[tokio::test]
    async fn an_earlier_choice_stays() {
        let probe = Probe::new();
        let ctx = among(&Connection::new(), &["a"]);
        ctx.call().insert(NextUrl("unix:///chosen".into()));
        before(RoundRobin::new(), &probe)
            .request(&ctx, &mut request())
            .await
            .unwrap();
        assert_eq!(tried(&probe), [""]);
    }
}
