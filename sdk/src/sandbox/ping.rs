// SPDX-License-Identifier: Apache-2.0
//! Pings on the model of the kernel.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use nsm_api::connection::Connection;
use nsm_api::connectioncontext::IpContext;

use crate::dataplane::model::Model;
use crate::networkservice::heal::{Liveness, Pulse};

/// Sends pings from one namespace.
pub(super) struct Ping {
    kernel: Model,
    netns: PathBuf,
}

impl Ping {
    pub(super) fn new(kernel: &Model, netns: PathBuf) -> Self {
        Self {
            kernel: kernel.clone(),
            netns,
        }
    }
}

#[async_trait]
impl Liveness for Ping {
    async fn pulse(&self, connection: &Connection, within: Duration) -> Pulse {
        if self.kernel.wire(&connection.id).is_none() {
            return Pulse::Gone;
        }
        let ip = connection.ip_context();
        let (sources, destinations) = (ip.map(IpContext::src_nets), ip.map(IpContext::dst_nets));
        let mut pulse = Pulse::Unknown;
        for source in sources.into_iter().flatten() {
            for destination in destinations.iter().flatten() {
                let reached = self
                    .kernel
                    .can_reach(&self.netns, source.addr(), destination.addr());
                match reached {
                    Ok(true) => return Pulse::Alive,
                    Ok(false) => pulse = Pulse::Silent,
                    Err(_) => return Pulse::Gone,
                }
            }
        }
        if pulse == Pulse::Silent {
            tokio::time::sleep(within).await;
        }
        pulse
    }
}
