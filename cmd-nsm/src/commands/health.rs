// SPDX-License-Identifier: Apache-2.0
//! `nsm health`: asks a program whether it is ready, as a probe does.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use nsm_sdk::app::Duration;
use nsm_sdk::core::Component;
use nsm_sdk::identity::Source;
use nsm_sdk::transport::health;
use tokio::time::Instant;

/// Ask a program whether it is ready: exit code 0 if it is, 1 if not
///
/// Who we are comes from SPIFFE_ENDPOINT_SOCKET or NSM_IDENTITY_DIR, as for every program.
#[derive(Args)]
pub(crate) struct Health {
    /// Where the program listens: unix:///path or tcp://host:port
    url: String,
    /// The full name of one gRPC service, instead of all that the program serves
    #[arg(long, default_value = "")]
    service: String,
    /// How long to wait for the answer
    #[arg(long, default_value = "1s")]
    timeout: Duration,
}

impl Health {
    /// Asks.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let component = Component::new("nsm-health");
            let until = Instant::now() + self.timeout.0;
            let identity = Source::choose(|name| std::env::var(name).ok())?
                .follow(&component, until)
                .await?;
            health::check(&component, &identity, &self.url, &self.service, until).await?;
            println!("{} is ready", self.url);
            Ok(ExitCode::SUCCESS)
        })
    }
}
