// SPDX-License-Identifier: Apache-2.0
//! An endpoint of an outside author: gives each client an address of its own and the way to the office network.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::Parser;
use nsm_api::connectioncontext::Route;
use nsm_sdk::app::{EndpointSettings, LogSettings, Settings, main as run, serve};
use nsm_sdk::chain;
use nsm_sdk::core::{Ctx, Element, NetworkService, Next, Request, Result};
use nsm_sdk::networkservice::kernel::{Kernel, OWN_NETNS};
use nsm_sdk::networkservice::{mechanisms::Mechanisms, sendfd::SendFd};

/// The one element that is ours.
#[derive(Default)]
struct Office(AtomicU8);

/// The number of a client, kept as long as its connection.
#[derive(Clone)]
struct Number(u8);

#[tonic::async_trait]
impl Element<NetworkService> for Office {
    fn name(&self) -> &'static str {
        "office"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let number = ctx
            .store()
            .get()
            .unwrap_or_else(|| Number(self.0.fetch_add(1, Ordering::Relaxed)));
        ctx.store().insert(number.clone());
        let ip = request.connection.ip_context_mut();
        ip.src_ip_addrs = vec![format!("10.9.1.{}/32", number.0)];
        ip.dst_ip_addrs = vec!["10.9.0.1/32".to_string()];
        ip.src_routes = ["10.9.0.1/32", "10.9.0.0/16"]
            .map(|prefix| Route {
                prefix: prefix.into(),
                ..Default::default()
            })
            .to_vec();
        ip.dst_routes = vec![Route {
            prefix: ip.src_ip_addrs[0].clone(),
            ..Default::default()
        }];
        next.request(ctx, request).await
    }
}

#[derive(Parser)]
struct Program {
    #[command(flatten)]
    endpoint: EndpointSettings,
    #[command(flatten)]
    log: LogSettings,
}

impl Settings for Program {
    fn name(&self) -> &str {
        &self.endpoint.name
    }
    fn log(&self) -> &LogSettings {
        &self.log
    }
}

fn main() -> ExitCode {
    let kernel = || Mechanisms::server([("KERNEL", chain![Kernel::server(OWN_NETNS)])]);
    run(async |us, settings: Program| {
        serve(
            &us,
            &settings.endpoint,
            chain![Office::default(), kernel(), SendFd::server()],
        )
        .await
    })
}
