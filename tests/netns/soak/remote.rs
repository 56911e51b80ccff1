// SPDX-License-Identifier: Apache-2.0
//! The same between two nodes.

use anyhow::Result;
use libtest_mimic::Trial;
use nsm::mesh::Client;

use super::{COUNTING, CYCLES, Counts, cycle, cycles};
use crate::Bench;
use crate::remote::Apart;

pub(super) fn tests(bench: &Bench) -> [Trial; 2] {
    [
        bench.apart_with("soak_of_wires_by_vxlan", "ETHERNET", COUNTING, soak),
        bench.apart_with("soak_of_wires_by_wireguard", "IP", COUNTING, soak),
    ]
}

/// A fifth of what comes and goes on one node, as many at a time.
async fn soak(apart: &mut Apart) -> Result<()> {
    let client = Client::new(&apart.first, "nsc", apart.near.path())?;
    cycle(&client, 32).await?;
    apart.clean().await?;
    let before = Counts::settled(&apart.programs()).await?;
    cycle(&client, cycles(CYCLES)? / 5).await?;
    apart.clean().await?;
    before.are_there_again(&apart.programs()).await?;
    client.end().await;
    Ok(())
}
