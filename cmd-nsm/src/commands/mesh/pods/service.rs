// SPDX-License-Identifier: Apache-2.0
//! Network services that somebody registers by hand.

use std::sync::Arc;
use std::time::Duration;

use crate::mesh::Node;
use anyhow::Result;
use nsm_sdk::chains::registry_client;
use nsm_sdk::core::{Component, Ctx, Registration};
use nsm_sdk::identity::Tokens;
use nsm_sdk::policy::{self, Policies};
use nsm_sdk::transport::Pool;

use super::super::manifest::Spec;
use super::TO_START;

/// Registers a service with the manager of a node, or unregisters it.
pub(super) async fn register(node: &Node, service: Spec, is_deleted: bool) -> Result<String> {
    let component = Component::new("mesh");
    let tokens = Tokens::new(Duration::from_secs(600));
    let pool = Pool::new(&component, node.identity().clone(), tokens);
    let settings = registry_client::Settings {
        connect_to: node.manager_url(),
        policies: Policies::choose(policy::REGISTRY_CLIENT)?,
    };
    let registry = registry_client::client(&component, &settings, &Arc::new(pool));
    let entry = service.service();
    let name = entry.name.clone();
    let mut registration = Registration {
        entry,
        ..Default::default()
    };
    let ctx = Ctx::own(&component, TO_START);
    let done = if is_deleted {
        registry.ns.close(&ctx, &mut registration).await
    } else {
        registry.ns.request(&ctx, &mut registration).await
    };
    component.end().await;
    done?;
    let what = if is_deleted { "unregistered" } else { "registered" };
    Ok(format!("{name} is {what}\n"))
}
