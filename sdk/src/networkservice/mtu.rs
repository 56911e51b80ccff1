// SPDX-License-Identifier: Apache-2.0
//! Gives a connection whose MTU nobody has set the one of a wire on this node.
//!
//! **Placement**: in a forwarder, before the endpoint is called.
//! **Reads / writes**: `context.mtu` when it is 0, before and after.
//! **Cost**: none.

use async_trait::async_trait;

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// The MTU of a wire on one node, bytes.
pub const LOCAL_MTU: u32 = 9000;

/// See the [module](self).
pub struct Mtu;

fn default(request: &mut Request) {
    let context = request.connection.context.get_or_insert_default();
    if context.mtu == 0 {
        context.mtu = LOCAL_MTU;
    }
}

#[async_trait]
impl Element<NetworkService> for Mtu {
    fn name(&self) -> &'static str {
        "mtu"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        default(request);
        next.request(ctx, request).await?;
        default(request);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| Mtu, request()).await;
    }

    #[tokio::test]
    async fn an_mtu_that_is_set_stays_and_an_unset_one_is_9000_for_both_sides() {
        for (asked, expected) in [(0, 9000), (1300, 1300)] {
            let probe = Probe::new();
            let mut request = request();
            request.connection.context.get_or_insert_default().mtu = asked;
            before(Mtu, &probe)
                .request(&Connection::new().first(), &mut request)
                .await
                .unwrap();
            let mtu = |request: &Request| request.connection.context.as_ref().map(|context| context.mtu);
            assert_eq!(
                (mtu(&probe.requests()[0]), mtu(&request)),
                (Some(expected), Some(expected))
            );
        }
    }
}
