// SPDX-License-Identifier: Apache-2.0
//! How fast wires come, and what they carry.

use std::time::Duration;

use crate::mesh::Client;
use anyhow::Result;

use super::facts::Wire;
use super::plan::{PLANS, Plan};
use super::progress;
use super::stage::Stage;

/// One of the other kinds for so many of the first.
const SHARE: u32 = 5;

/// Asks for more wires of each kind that is there, `more` of the first.
pub(crate) async fn repeat(stage: &Stage, wires: &mut [Wire], more: u32) -> Result<()> {
    for (plan, wire) in PLANS.iter().zip(wires) {
        if wire.withheld.is_none() {
            let count = if plan.number == 1 {
                more
            } else {
                more.div_ceil(SHARE)
            };
            let took = attach(stage, plan, count).await?;
            wire.attach_ms = wire.attach_ms.and(took);
        }
    }
    Ok(())
}

/// Asks for wires, one after the other, each until it carries a ping, and closes each.
async fn attach(stage: &Stage, plan: &Plan, count: u32) -> Result<Vec<Duration>> {
    let [near, _] = stage.pods(plan)?;
    let client = Client::new(&stage.first, "more", near.path())?.pinging()?;
    let mut took = Vec::with_capacity(count as usize);
    for number in 0..count {
        let attached = client
            .attach(&format!("more-{number}"), &plan.url(&format!("more{number}")))
            .await?;
        took.push(attached.carried);
        client.close(attached.request).await?;
    }
    client.end().await;
    let what = format!("{count} more like wire {} came and went", plan.number);
    progress(&what, Some(took.iter().sum()));
    Ok(took)
}
