// SPDX-License-Identifier: Apache-2.0
//! Wires that come, stay and go.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use crate::test;
use crate::world::World;

pub fn tests() -> Vec<Trial> {
    vec![test(
        "a_wire_carries_pings_and_goes_when_it_is_closed",
        a_wire_comes_and_goes,
    )]
}

async fn a_wire_comes_and_goes() -> Result<()> {
    let world = World::new().await?;
    let client = world.client("nsc")?;
    let attached = client.attach("nsc-0", "kernel://icmp-responder/nsm-1").await?;
    let path = attached.request.connection.path.as_ref();
    ensure!(
        path.is_some_and(|path| path.path_segments.len() == 4),
        "the path is {path:?}"
    );
    world.near.ip(&["link", "show", "nsm-1"])?;
    client.close(attached.request).await?;
    world.clean().await?;
    client.end().await;
    world.end().await
}
