// SPDX-License-Identifier: Apache-2.0
//! The chain of a client, and of the client half of every hop.

use std::sync::Arc;

use nsm_api::connection::Connection;
use nsm_api::service_url::ServiceUrl;

use crate::chain;
use crate::core::{Chain, Component, Dialer, NetworkService, Request, Result};
use crate::elements::authorize::Authorize;
use crate::elements::begin::Begin;
use crate::elements::clientinfo::ClientInfo;
use crate::elements::clienturl::ClientUrl;
use crate::elements::connect::Connect;
use crate::elements::dial::Dial;
use crate::elements::updatepath::UpdatePath;
use crate::networkservice::excludedprefixes::ExcludedPrefixes;
use crate::networkservice::kernel::Kernel;
use crate::networkservice::mechanisms::Mechanisms;
use crate::networkservice::refresh::Refresh;
use crate::networkservice::sendfd::SendFd;
use crate::networkservice::trimpath::TrimPath;
use crate::networkservice::upstreamrefresh::UpstreamRefresh;
use crate::policy::Policies;

/// The client half of a hop that passes requests on: `additional` stands between the dialled way and the call.
///
/// Its `begin` is the server's, so none is here.
pub fn pass_through(
    component: &Component,
    dialer: Arc<dyn Dialer<NetworkService>>,
    before: &Chain<NetworkService>,
    additional: &Chain<NetworkService>,
) -> Chain<NetworkService> {
    let head: Chain<NetworkService> = chain![UpdatePath::client(component)];
    let way: Chain<NetworkService> = chain![Dial::new(dialer)];
    let tail: Chain<NetworkService> = chain![TrimPath::client(), Connect];
    head.then(before).then(&way).then(additional).then(&tail)
}
