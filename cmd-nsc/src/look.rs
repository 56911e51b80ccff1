// SPDX-License-Identifier: Apache-2.0
//! Looks at the pod's wires once and tells, in place of asking for them: how `kubectl nsm ping` sees them from inside.

use std::io::Write;
use std::time::Duration;

use nsm_api::connection::{Connection, State};
use nsm_sdk::core::{Component, Ctx, Error};
use nsm_sdk::networkservice::heal::{Liveness, Pulse};
use nsm_sdk_kernel::Ping;
use serde::Serialize;
use tokio::time::Instant;

use crate::wire::Wire;

/// How often each wire is pinged; the quickest answer is told.
const PINGS: usize = 3;

/// How long the manager may take to tell of a wire.
const TO_TELL: Duration = Duration::from_secs(5);

/// A wire as it is seen from its pod.
#[derive(Serialize)]
struct Look {
    id: String,
    network_service: String,
    /// Empty when the manager knows no such connection.
    endpoint: String,
    interface: String,
    is_up: bool,
    /// `alive`, `silent`, `gone` when the interface is not there, or `unknown`.
    pulse: &'static str,
    /// The quickest answer, microseconds.
    round_trip_us: Option<u64>,
}

/// Prints a JSON list of the wires. A ping may take `within`.
pub(crate) async fn look(component: &Component, wires: &[Wire<'_>], within: Duration) -> Result<(), Error> {
    let mut looks = Vec::new();
    for wire in wires {
        let earlier = wire.earlier(&Ctx::own(component, TO_TELL)).await;
        looks.push(Look {
            id: wire.id().to_string(),
            network_service: wire.network_service().to_string(),
            ..match earlier {
                Some(connection) => Look::at(&connection, within).await,
                None => Look::nothing(),
            }
        });
    }
    let text = serde_json::to_string(&looks).unwrap_or_default();
    // Whoever does not read any more wants nothing.
    drop(writeln!(std::io::stdout().lock(), "{text}"));
    Ok(())
}

impl Look {
    fn nothing() -> Self {
        Self {
            id: String::new(),
            network_service: String::new(),
            endpoint: String::new(),
            interface: String::new(),
            is_up: false,
            pulse: "unknown",
            round_trip_us: None,
        }
    }

    async fn at(connection: &Connection, within: Duration) -> Self {
        let (mut pulse, mut quickest) = (Pulse::Unknown, None);
        for _ in 0..PINGS {
            let began = Instant::now();
            pulse = Ping.pulse(connection, within).await;
            if pulse != Pulse::Alive {
                break;
            }
            let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            quickest = Some(quickest.map_or(took, |quickest: u64| quickest.min(took)));
        }
        let mechanism = connection.mechanism.as_ref();
        let interface = mechanism.map_or("", |mechanism| mechanism.parameter("name"));
        Self {
            endpoint: connection.network_service_endpoint_name.clone(),
            interface: interface.to_string(),
            is_up: connection.state() == State::Up,
            pulse: match pulse {
                Pulse::Alive => "alive",
                Pulse::Silent => "silent",
                Pulse::Gone => "gone",
                Pulse::Unknown => "unknown",
            },
            round_trip_us: quickest,
            ..Self::nothing()
        }
    }
}
