// SPDX-License-Identifier: Apache-2.0
//! One trace over the hops of a call.

use async_trait::async_trait;

use super::*;
use crate::core::traces::{Outcome, Side, Span, Trace};
use crate::core::{Error, Next, Request, Result, Way};
use crate::elements::connect::Connect;

/// Leaves the way to the next hop.
struct To(Way<NetworkService>);

#[async_trait]
impl Element<NetworkService> for To {
    fn name(&self) -> &'static str {
        "to"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        ctx.call().insert(self.0.clone());
        next.request(ctx, message).await
    }
}

/// Three programs: one calls the next, which calls the last.
struct Hops {
    programs: [Program; 3],
    first: Chain<NetworkService>,
    _machine: Machine,
}

impl Hops {
    async fn new(last: Arc<Probe<NetworkService>>) -> Self {
        let machine = Machine::new();
        let programs = ["nsc", "nsmgr", "nse"].map(|name| machine.program(name));
        let [client, manager, endpoint] = &programs;
        let url = endpoint.serve(&machine.url("nse"), last).await;
        let to = To(Way(dial(&manager.pool(), &url).await));
        let server = Server::new(&manager.component, manager.identity.clone());
        let chain = crate::chain![to, Connect];
        let urls = server
            .network_service(chain)
            .listen(&[machine.url("nsmgr")])
            .await;
        let to = To(Way(dial(&client.pool(), &urls.unwrap()[0]).await));
        Self {
            first: crate::chain![to, Connect],
            programs,
            _machine: machine,
        }
    }

    fn note(&self, hop: usize) {
        self.programs[hop].component.spans().switch_on();
    }

    /// The spans of a program, in the order in which they ended.
    fn spans(&self, hop: usize) -> Vec<Span> {
        self.programs[hop].component.spans().take(9)
    }

    async fn ask(&self, ctx: &Ctx) -> Result<()> {
        self.first.request(ctx, &mut request()).await
    }
}

/// Whether `inner` is part of `outer`.
fn is_part(inner: &Span, outer: &Span) -> bool {
    inner.own.trace == outer.own.trace && inner.parent == Some(outer.own.span)
}

#[tokio::test]
async fn each_hop_is_part_of_the_one_before() {
    let hops = Hops::new(Probe::new()).await;
    (0..3).for_each(|hop| hops.note(hop));
    hops.ask(&hops.programs[0].ctx()).await.unwrap();
    let (client, manager, endpoint) = (hops.spans(0), hops.spans(1), hops.spans(2));
    let sides = |spans: &[Span]| spans.iter().map(|span| span.side).collect::<Vec<_>>();
    assert_eq!(sides(&client), [Side::Client]);
    assert_eq!(sides(&manager), [Side::Client, Side::Server]);
    assert_eq!(sides(&endpoint), [Side::Server]);
    assert_eq!(client[0].parent, None, "it begins the trace");
    assert!(is_part(&manager[1], &client[0]));
    assert!(is_part(&manager[0], &manager[1]));
    assert!(is_part(&endpoint[0], &manager[0]));
    let all = [&client[..], &manager, &endpoint].concat();
    for span in &all {
        assert_eq!(
            (span.name, &span.outcome),
            (NetworkService::CALLS[0], &Outcome::Ok)
        );
        assert_eq!(span.id, request().connection.id);
    }
}

#[tokio::test]
async fn a_hop_that_notes_nothing_passes_the_trace_on() {
    let hops = Hops::new(Probe::new()).await;
    hops.note(2);
    let caller = Trace::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    hops.ask(&hops.programs[0].ctx().traced(caller)).await.unwrap();
    assert!(hops.spans(0).is_empty() && hops.spans(1).is_empty());
    let endpoint = &hops.spans(2)[0];
    assert_eq!(endpoint.parent, caller.map(|caller| caller.span));
    assert_eq!(Some(endpoint.own.trace), caller.map(|caller| caller.trace));
}

#[tokio::test]
async fn an_error_is_on_every_span_that_it_passes() {
    let refuses = Probe::answering(|_| Err(Error::exhausted("pool-empty", "no address left")));
    let hops = Hops::new(refuses).await;
    (0..3).for_each(|hop| hops.note(hop));
    hops.ask(&hops.programs[0].ctx()).await.unwrap_err();
    for span in (0..3).flat_map(|hop| hops.spans(hop)) {
        let Outcome::Error { reason, code, .. } = &span.outcome else {
            panic!("{span:?}");
        };
        assert_eq!(
            (reason.as_str(), *code),
            ("pool-empty", tonic::Code::ResourceExhausted)
        );
    }
}
