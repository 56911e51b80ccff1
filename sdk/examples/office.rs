// SPDX-License-Identifier: Apache-2.0
//! An endpoint of an outside author: gives each client an address of its own and the way to the office network.

use std::process::ExitCode;

use nsm_api::connectioncontext::Route;
use nsm_sdk::app::{EndpointProgram, Failure, main as run, serve};
use nsm_sdk::chain;
use nsm_sdk::core::{Ctx, Element, NetworkService, Next, Request, Result};
use nsm_sdk::ipam::Point2Point;
use nsm_sdk::networkservice::kernel::{Kernel, OWN_NETNS};
use nsm_sdk::networkservice::{mechanisms::Mechanisms, sendfd::SendFd};

/// The one element that is ours.
struct Office;

#[tonic::async_trait]
impl Element<NetworkService> for Office {
    fn name(&self) -> &'static str {
        "office"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let network = Route {
            prefix: "10.9.0.0/16".into(),
            ..Default::default()
        };
        let routes = &mut request.connection.ip_context_mut().src_routes;
        if !routes.contains(&network) {
            routes.push(network);
        }
        next.request(ctx, request).await
    }
}

fn main() -> ExitCode {
    run(async |us, program: EndpointProgram| {
        let addresses = "10.9.1.0/24".parse().map_err(Failure::settings)?;
        let chain = chain![
            Point2Point::new(&[addresses])?,
            Office,
            Mechanisms::server([("KERNEL", chain![Kernel::server(OWN_NETNS)])]),
            SendFd::server(),
        ];
        serve(&us, &program.endpoint, chain).await
    })
}
