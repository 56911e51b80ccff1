// SPDX-License-Identifier: Apache-2.0
//! Resident memory: before the first request, after it, with many connections, and when many have come and gone.

use anyhow::{Context, Result};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::cpu::quiet;
use super::mesh::{Mesh, wire};
use crate::figure::Figure;

/// How many connections are made, or come and go, at a time.
const AT_ONCE: usize = 16;

/// The programs whose memory counts as that of a mesh.
const SERVERS: [&str; 3] = ["registry", "nsmgr", "forwarder"];

/// The endpoint, which is told beside them.
const ENDPOINT: &str = "nse";

/// Many connections that stay, in each mesh.
pub(super) async fn many(meshes: [&Mesh; 2], connections: usize) -> Result<Vec<Figure>> {
    let [theirs, ours] = meshes;
    quiet(&meshes).await?;
    let ready = [Sizes::of(theirs)?, Sizes::of(ours)?];
    let [their_idle, their_full] = fill(theirs, connections).await?;
    let [our_idle, our_full] = fill(ours, connections).await?;
    let (idle, full) = ([their_idle, our_idle], [their_full, our_full]);
    let connections = connections.to_string();
    let mut figures = Vec::from(compared("ready", &ready));
    let [servers, endpoint] = compared(&connections, &full);
    figures.extend([servers.at_least(30.0), endpoint]);
    for (when, sizes) in [("ready", ready), ("idle", idle), (&connections, full)] {
        for (mesh, sizes) in meshes.iter().zip(&sizes) {
            figures.extend(sizes.told(mesh, when));
        }
    }
    Ok(figures)
}

/// Makes so many connections; answers what a mesh weighs after the first of them, and with all.
async fn fill(mesh: &Mesh, connections: usize) -> Result<[Sizes; 2]> {
    mesh.attach("first", 1, 1).await?;
    let idle = Sizes::of(mesh)?;
    mesh.attach("many", connections.saturating_sub(1), AT_ONCE)
        .await?;
    Ok([idle, Sizes::of(mesh)?])
}

/// Connections that come and go: what the worst of the programs weighs afterwards, against what it weighed when each
/// caller had made one, for what they call over stays.
pub(super) async fn closed(mesh: &Mesh, connections: usize) -> Result<Vec<Figure>> {
    let first = mesh.attach("first", AT_ONCE, AT_ONCE).await?;
    mesh.close_all(first).await?;
    let idle = Sizes::of(mesh)?;
    let cycles = (0..connections).map(|number| async move {
        let (id, service) = wire("gone", number);
        let made = mesh.request(number % AT_ONCE, &id, &service).await?;
        mesh.close(made).await
    });
    let cycles = stream::iter(cycles).buffer_unordered(AT_ONCE);
    cycles.try_for_each(|_| async { Ok(()) }).await?;
    let after = Sizes::of(mesh)?;
    let worst = after.servers.iter().zip(&idle.servers);
    let worst = worst.map(|(after, idle)| after / idle).fold(f64::NAN, f64::max);
    let when = format!("after_{connections}_closed");
    let worst = Figure::new(format!("rss.{when}_over_idle"), worst, "ratio", 1).at_most(1.1);
    let sizes = idle.told(mesh, "idle").chain(after.told(mesh, &when));
    Ok([worst].into_iter().chain(sizes).collect())
}

/// What the programs of a mesh weigh, MiB.
struct Sizes {
    servers: [f64; SERVERS.len()],
    endpoint: f64,
}

impl Sizes {
    fn of(mesh: &Mesh) -> Result<Self> {
        let mut servers = [0.0; SERVERS.len()];
        for (size, name) in servers.iter_mut().zip(SERVERS) {
            *size = resident(mesh, name)?;
        }
        let endpoint = resident(mesh, ENDPOINT)?;
        Ok(Self { servers, endpoint })
    }

    fn told(&self, mesh: &Mesh, when: &str) -> impl Iterator<Item = Figure> {
        let programs = SERVERS.into_iter().chain([ENDPOINT]);
        let sizes = self.servers.into_iter().chain([self.endpoint]);
        programs.zip(sizes).map(move |(program, mib)| {
            let name = mesh.named(&format!("rss_{when}_mib.{program}"));
            Figure::new(name, mib, "MiB", 1)
        })
    }
}

fn resident(mesh: &Mesh, name: &str) -> Result<f64> {
    let program = mesh.programs().find(|program| program.name() == name);
    let program = program.with_context(|| format!("{name} does not run"))?;
    Ok(program.memory_kib()?.resident as f64 / 1024.0)
}

/// Theirs over ours: all servers, and the endpoint.
fn compared(when: &str, [theirs, ours]: &[Sizes; 2]) -> [Figure; 2] {
    let sum = |sizes: &Sizes| sizes.servers.iter().sum::<f64>();
    let name = format!("go.rss_{when}_over_ours");
    let endpoint = format!("{name}.{ENDPOINT}");
    [
        Figure::new(name, sum(theirs) / sum(ours), "ratio", 1),
        Figure::new(endpoint, theirs.endpoint / ours.endpoint, "ratio", 1),
    ]
}
