// SPDX-License-Identifier: Apache-2.0
//! Our registry in the place of theirs.

use std::time::Duration;

use anyhow::{Context, Result};
use nsm_sdk::chains::registry_memory;
use nsm_sdk::policy;

use crate::place::Place;
use crate::replay::Served;

/// The registry's own name.
pub(crate) const NAME: &str = "registry";

pub(crate) fn settings(place: &Place) -> Result<registry_memory::Settings> {
    Ok(registry_memory::Settings {
        gate: place.gate(policy::REGISTRY_SERVER)?,
        expiration: Duration::from_secs(60),
    })
}

#[tokio::test(start_paused = true)]
async fn our_registry_answers_their_calls_as_theirs_did() -> Result<()> {
    let recording = crate::recording();
    let place = Place::new(&recording, NAME)?;
    let settings = settings(&place)?;
    let served = Served {
        endpoints: Some(registry_memory::nse(&place.component, &settings)),
        services: Some(registry_memory::ns(&place.component, &settings)),
        ..Served::default()
    };
    let mut answered = 0;
    for call in recording.calls.iter().filter(|call| call.to == NAME) {
        let ctx = place.arrives(&recording, call, None)?;
        let done = served.answers(&ctx, call).await;
        done.with_context(|| format!("{} asks for {}", call.from, call.method))?;
        answered += 1;
    }
    assert!(answered > 8, "{answered} calls were answered");
    place.component.end().await;
    Ok(())
}
