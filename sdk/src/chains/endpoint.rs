// SPDX-License-Identifier: Apache-2.0
//! The chain that every server of connections begins with.

use crate::chain;
use crate::core::{Chain, Component, NetworkService};
use crate::elements::authorize::AuthorizeServer;
use crate::elements::begin::Begin;
use crate::elements::meter::Meter;
use crate::elements::updatepath::UpdatePath;
use crate::elements::updatetoken::UpdateToken;
use crate::identity::{Identity, Tokens};
use crate::networkservice::hoptime::HopTime;
use crate::networkservice::monitor::Monitor;
use crate::networkservice::timeout::Timeout;
use crate::networkservice::trimpath::TrimPath;
use crate::policy::Policies;

/// Who a server is and whom it lets in.
#[derive(Clone)]
pub struct Gate {
    /// The identity whose key signs its tokens.
    pub identity: Identity,
    /// How long its tokens are valid, and those that it has signed lately.
    pub tokens: Tokens,
    /// What a caller's path must fulfil.
    pub policies: Policies,
}

/// The elements that every hop has, and behind them those that make it what it is.
pub fn endpoint(
    component: &Component,
    gate: &Gate,
    additional: &Chain<NetworkService>,
) -> Chain<NetworkService> {
    let common = chain![
        UpdatePath,
        Begin::server(component),
        Meter,
        UpdateToken::new(&gate.tokens, &gate.identity),
        AuthorizeServer::new(&gate.policies),
        Timeout,
        Monitor::new(component),
        HopTime,
        TrimPath::server(),
    ];
    common.then(additional)
}
