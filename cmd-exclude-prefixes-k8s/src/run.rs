// SPDX-License-Identifier: Apache-2.0
//! Follows the sources, and writes.

use std::time::Duration;

use ipnet::IpNet;
use nsm_sdk::app::{self, Failure, Start};
use nsm_sdk::core::{Backoff, Component, Result};
use nsm_sdk::transport::Server;
use nsm_sdk_k8s::client;
use nsm_sdk_k8s::reach::Reach;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::warn;

use crate::output::Output;
use crate::prefixes::merge;
use crate::settings::Settings;
use crate::sources::Sources;

/// How long is waited after a failed write.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// We call nobody of the mesh, so no token of ours is ever seen.
const TOKEN_LIFETIME: app::Duration = app::Duration(Duration::from_secs(600));

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let client = client::infer().await.map_err(Failure::settings)?;
    let reach = Reach::new(&component, &client, "managers go on with what was known");
    let sources = Sources::follow(&component, &client, &reach, &settings);
    let output = Output::open(&component, &client, &reach, &settings).await;
    let (told, mut is_written) = watch::channel(false);
    let writer = Writer {
        component: component.clone(),
        sources,
        output,
        is_written: told,
    };
    let _writer = component.spawn("exclude prefixes", writer.run());
    let start = Start::new(&component, TOKEN_LIFETIME);
    // What the channel lends is given back at once: the writer waits for it when it writes again.
    let everything = async { is_written.wait_for(|is_written| *is_written).await.is_ok() };
    tokio::select! {
        _is_written = everything => {}
        () = component.stop().cancelled() => return Ok(()),
    }
    let urls = listen(&component, &start, &settings).await?;
    start.ready(&urls).await;
    Ok(())
}

/// Lets our health be asked for, where that is wanted. That we listen says that everything is written.
async fn listen(component: &Component, start: &Start, settings: &Settings) -> Result<Vec<String>, Failure> {
    if settings.listen_on.is_empty() {
        return Ok(Vec::new());
    }
    let identity = start.identity().await?;
    Ok(Server::new(component, identity)
        .listen(&settings.listen_on)
        .await?)
}

struct Writer {
    component: Component,
    sources: Sources,
    output: Output,
    /// Whether everything was known and written once.
    is_written: watch::Sender<bool>,
}

impl Writer {
    async fn run(mut self) {
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut is_told = false;
        loop {
            let (mut prefixes, is_known) = self.sources.now();
            if !*self.is_written.borrow() && !is_known {
                // Until everything is known, what an earlier run has written may still be right.
                prefixes.extend(self.output.there().await);
            }
            let prefixes = merge(&prefixes);
            match self.put(&prefixes, is_known).await {
                Ok(()) => {
                    backoff.reset();
                    is_told = false;
                    if is_known {
                        self.is_written.send_replace(true);
                    }
                    tokio::select! {
                        () = self.sources.changed() => {}
                        () = self.output.changed() => {}
                    }
                }
                Err(error) => {
                    if !is_told {
                        warn!(%error, "tried again until it is written");
                    }
                    is_told = true;
                    sleep(backoff.next(&self.component)).await;
                }
            }
        }
    }

    /// Writes them. That the cluster uses nothing is said only when everything is known: whoever reads an empty list
    /// takes every address for free.
    async fn put(&mut self, prefixes: &[IpNet], is_known: bool) -> Result<()> {
        if prefixes.is_empty() && !is_known {
            return Ok(());
        }
        self.output.write(prefixes).await
    }
}
