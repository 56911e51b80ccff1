// SPDX-License-Identifier: Apache-2.0
//! Resident memory: after the first request, with many connections, and when many have come and gone.

use anyhow::Result;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::mesh::{Mesh, wire};
use crate::figure::Figure;

/// How many connections are made, or come and go, at a time.
const AT_ONCE: usize = 16;

/// The programs whose memory counts.
const SERVERS: [&str; 3] = ["registry", "nsmgr", "forwarder"];

/// Many connections that stay, in each mesh.
pub(super) async fn many(meshes: [&Mesh; 2], connections: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut sums = Vec::new();
    for mesh in meshes {
        let first = mesh.attach("first", 1, 1).await?;
        let idle = resident(mesh)?;
        mesh.attach("many", connections.saturating_sub(first.len()), AT_ONCE)
            .await?;
        let full = resident(mesh)?;
        for (what, sizes) in [("idle".to_string(), &idle), (connections.to_string(), &full)] {
            for (program, mib) in SERVERS.iter().zip(sizes) {
                let name = mesh.named(&format!("rss_{what}_mib.{program}"));
                figures.push(Figure::new(name, *mib, "MiB", 1));
            }
        }
        sums.push(full.iter().sum::<f64>());
    }
    let name = format!("go.rss_{connections}_over_ours");
    figures.push(Figure::new(name, sums[0] / sums[1], "ratio", 1).at_least(30.0));
    Ok(figures)
}

/// Connections that come and go: what the worst of the programs weighs afterwards, against what it weighed when each
/// caller had made one, for what they call over stays.
pub(super) async fn closed(mesh: &Mesh, connections: usize) -> Result<Vec<Figure>> {
    let first = mesh.attach("first", AT_ONCE, AT_ONCE).await?;
    mesh.close_all(first, AT_ONCE).await;
    let idle = resident(mesh)?;
    let cycles = (0..connections).map(|number| async move {
        let (id, service) = wire("gone", number);
        let made = mesh.request(number % AT_ONCE, &id, &service).await?;
        mesh.close(made).await
    });
    let cycles = stream::iter(cycles).buffer_unordered(AT_ONCE);
    cycles.try_for_each(|_| async { Ok(()) }).await?;
    let after = resident(mesh)?;
    let worst = after.iter().zip(&idle).map(|(after, idle)| after / idle);
    let worst = worst.fold(f64::NAN, f64::max);
    let mut figures = vec![
        Figure::new(
            format!("rss.after_{connections}_closed_over_idle"),
            worst,
            "ratio",
            1,
        )
        .at_most(1.1),
    ];
    for (what, sizes) in [
        ("idle".to_string(), idle),
        (format!("after_{connections}_closed"), after),
    ] {
        let named = |program: &str| mesh.named(&format!("rss_{what}_mib.{program}"));
        figures.extend(
            SERVERS
                .iter()
                .zip(sizes)
                .map(|(program, mib)| Figure::new(named(program), mib, "MiB", 1)),
        );
    }
    Ok(figures)
}

/// What each of [`SERVERS`] weighs, MiB.
fn resident(mesh: &Mesh) -> Result<Vec<f64>> {
    let mut sizes = Vec::new();
    for name in SERVERS {
        for program in mesh.programs().filter(|program| program.name() == name) {
            sizes.push(program.memory_kib()?.resident as f64 / 1024.0);
        }
    }
    anyhow::ensure!(sizes.len() == SERVERS.len(), "a program does not run");
    Ok(sizes)
}
