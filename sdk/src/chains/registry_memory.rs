// SPDX-License-Identifier: Apache-2.0
//! The registry of a cluster, in memory.
//!
//! Names of other domains are not passed on to their registries; they are entries like any other.

use std::time::Duration;

use super::endpoint::Gate;
use crate::chain;
use crate::core::{Chain, Component, NsRegistry, NseRegistry};
use crate::elements::begin::Begin;
use crate::elements::meter::Meter;
use crate::registry::authorize::AuthorizeServer;
use crate::registry::checks::Checks;
use crate::registry::expire::Expire;
use crate::registry::memory::{Limits, Memory};
use crate::registry::setpayload::SetPayload;
use crate::registry::setregistrationtime::SetRegistrationTime;
use crate::registry::updatepath::UpdatePath;

/// What makes one registry differ from another.
#[derive(Clone)]
pub struct Settings {
    /// Who it is and whom it lets in.
    pub gate: Gate,
    /// How long an endpoint stays that is not refreshed.
    pub expiration: Duration,
}

/// The chain for endpoints.
pub fn nse(component: &Component, settings: &Settings) -> Chain<NseRegistry> {
    let Gate {
        identity,
        tokens,
        policies,
    } = &settings.gate;
    chain![
        Checks,
        UpdatePath::new(tokens, identity),
        AuthorizeServer::stored(policies, identity),
        Begin::server(component),
        Meter,
        SetRegistrationTime,
        Expire::new(settings.expiration),
        Memory::new(Limits::default()),
    ]
}

/// The chain for services.
pub fn ns(component: &Component, settings: &Settings) -> Chain<NsRegistry> {
    let Gate {
        identity,
        tokens,
        policies,
    } = &settings.gate;
    chain![
        Checks,
        UpdatePath::new(tokens, identity),
        AuthorizeServer::stored(policies, identity),
        Begin::server(component),
        Meter,
        SetPayload,
        Memory::new(Limits::default()),
    ]
}

#[cfg(test)]
mod tests;
