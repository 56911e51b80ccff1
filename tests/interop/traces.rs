// SPDX-License-Identifier: Apache-2.0
//! One trace of a request that passes programs of both kinds, as a collector of OpenTelemetry hears it.

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Node, Settings};
use nsm_tests::collector::Collector;

use crate::Bench;
use crate::mesh::{Mesh, PATIENCE, PROGRAMS, programs, stops, wait_for};
use crate::mix::Mix;

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    [
        "one_trace_passes_go_nsmgr",
        "one_trace_passes_go_forwarder",
        "one_trace_passes_go_client_endpoint",
    ]
    .map(|name| {
        bench.trial(name, async move |bench| {
            bench.end().await.context("the mesh before could not be ended")?;
            passes(Mix::named(name)).await
        })
    })
    .into()
}

async fn passes(mix: Mix) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
    let socket = folder.path().join("collector.sock");
    let collector = Collector::listen(&socket)?;
    let variables = vec![
        ("TELEMETRY", "true".to_string()),
        (
            "NSM_OPEN_TELEMETRY_ENDPOINT",
            format!("unix://{}", socket.display()),
        ),
    ];
    let programs = programs(&folder.path().join(PROGRAMS), mix)?;
    let mut mesh = Mesh::of(mix, folder, programs, async |settings| {
        Node::start(
            Settings {
                variables,
                ..settings
            },
            |_, _| (),
        )
        .await
    })
    .await?;
    match is_heard(&mut mesh, &collector).await {
        Ok(()) => mesh.end().await,
        Err(error) => Err(error.context(mesh.keep())),
    }
}

async fn is_heard(mesh: &mut Mesh, collector: &Collector) -> Result<()> {
    let client = mesh.client()?;
    let heard = wait_for(PATIENCE, "a request was seen on its whole way", async || {
        Ok(collector.heard().hops("nsc", "nse"))
    });
    let hops = heard.await?;
    println!("{}", collector.heard().drawn("nsc"));
    ensure!(hops == ["nsmgr", "forwarder", "nse"], "it passed {hops:?}");
    stops(client).await
}
