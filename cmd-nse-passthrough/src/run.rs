// SPDX-License-Identifier: Apache-2.0
//! Builds the endpoint's own elements and runs it.

use nsm_api::matching::Labels;
use nsm_sdk::app::{self, Failure, labels};
use nsm_sdk::chain;
use nsm_sdk::chains::passthrough::{self, passthrough};
use nsm_sdk::core::Component;
use nsm_sdk::ipam::{Group, groups};
use nsm_sdk::networkservice::kernel::OWN_NETNS;

use crate::forwarding;
use crate::settings::Settings;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let groups = groups(&settings.cidr_prefix).map_err(Failure::settings)?;
    let addresses = chain![Group::new(&groups).map_err(Failure::settings)?];
    let onward = passthrough::Settings {
        connect_to: settings.endpoint.connect_to.clone(),
        labels: onward_labels(&settings)?,
        netns: OWN_NETNS.to_string(),
    };
    forwarding::enable()?;
    app::serve_calling(&component, &settings.endpoint, |pool| {
        addresses.then(&passthrough(&onward, pool.clone()))
    })
    .await
}

/// Without labels of our own the service would lead us to ourselves.
fn onward_labels(settings: &Settings) -> Result<Labels, Failure> {
    let labels = labels(&settings.endpoint.labels)?;
    if labels.is_empty() {
        let text = "NSM_LABELS is empty; name labels, such as app:firewall, that a match of the service has as its \
                    source selector, so that it leads on from here";
        return Err(Failure::Settings(text.to_string()));
    }
    Ok(labels)
}
