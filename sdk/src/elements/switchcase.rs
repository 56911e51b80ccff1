// SPDX-License-Identifier: Apache-2.0
//! Sends a call through the first chain whose condition it meets, or past all of them.
//!
//! **Guarantees**: at most one case runs; its chain goes on with the rest of ours unless one of its elements answers.
//! **Placement**: anywhere; a condition should look at what a stored message still says when it is closed.
//! **Cost**: the conditions, in order.

use async_trait::async_trait;

use crate::core::{Api, Chain, Ctx, Element, Next, Result};

type Condition<A> = Box<dyn Fn(&Ctx, &<A as Api>::Message) -> bool + Send + Sync>;

/// One condition and the chain for what meets it.
pub struct Case<A: Api> {
    when: Condition<A>,
    chain: Chain<A>,
}

impl<A: Api> Case<A> {
    /// `chain` for messages of which `when` holds.
    pub fn new(when: impl Fn(&Ctx, &A::Message) -> bool + Send + Sync + 'static, chain: Chain<A>) -> Self {
        Self {
            when: Box::new(when),
            chain,
        }
    }
}

/// See the [module](self).
pub struct SwitchCase<A: Api>(Vec<Case<A>>);

impl<A: Api> SwitchCase<A> {
    /// These cases, the first that holds counts.
    pub fn new(cases: Vec<Case<A>>) -> Self {
        Self(cases)
    }

    fn chosen(&self, ctx: &Ctx, message: &A::Message) -> Option<&Chain<A>> {
        let case = self.0.iter().find(|case| (case.when)(ctx, message))?;
        Some(&case.chain)
    }
}

#[async_trait]
impl<A: Api> Element<A> for SwitchCase<A> {
    fn name(&self) -> &'static str {
        "switchcase"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        match self.chosen(ctx, message) {
            Some(chain) => next.through(chain).request(ctx, message).await,
            None => next.request(ctx, message).await,
        }
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        match self.chosen(ctx, message) {
            Some(chain) => next.through(chain).close(ctx, message).await,
            None => next.close(ctx, message).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::testing::{Connection, Probe, request, standard_cases};
    use crate::core::{NetworkService, NseRegistry, Registration, Request};
    use crate::elements::null::Null;

    fn case<A: Api>(holds: bool, chain: Chain<A>) -> Case<A> {
        Case::new(move |_, _| holds, chain)
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        for holds in [false, true] {
            let switch = || SwitchCase::new(vec![case(holds, crate::chain![Null])]);
            standard_cases::<NetworkService, _>(switch, request()).await;
            let switch = || SwitchCase::new(vec![case(holds, crate::chain![Null])]);
            standard_cases::<NseRegistry, _>(switch, Registration::default()).await;
        }
    }

    #[tokio::test]
    async fn the_first_case_that_holds_handles_requests_and_closes() {
        let probes: [_; 4] = std::array::from_fn(|_| Probe::<NetworkService>::new());
        let when = |payload: &'static str, probe: &Arc<Probe<NetworkService>>| {
            Case::new(
                move |_, request: &Request| request.connection.payload == payload,
                crate::chain![Arc::clone(probe)],
            )
        };
        let switch = SwitchCase::new(vec![
            when("IP", &probes[0]),
            when("ETHERNET", &probes[1]),
            when("ETHERNET", &probes[2]),
        ]);
        let chain: Chain<NetworkService> = crate::chain![switch, Arc::clone(&probes[3])];
        let connection = Connection::new();
        for (payload, expected) in [("ETHERNET", 1), ("other", 3)] {
            let mut message = request();
            message.connection.payload = payload.into();
            chain
                .request(&connection.first(), &mut message)
                .await
                .expect("passes");
            chain
                .close(&connection.again(), &mut message)
                .await
                .expect("passes");
            assert_eq!(probes[expected].seen().len(), 2, "{payload}");
        }
        assert!(probes[0].seen().is_empty() && probes[2].seen().is_empty());
    }
}
