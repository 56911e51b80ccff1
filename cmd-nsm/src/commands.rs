// SPDX-License-Identifier: Apache-2.0
//! The commands, one file each.

use nsm_api::connection::{MonitorScopeSelector, PathSegment};

pub(crate) mod connections;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod endpoints;
pub(crate) mod explain;
pub(crate) mod health;
pub(crate) mod issuer;
pub(crate) mod mesh;
pub(crate) mod monitor;
pub(crate) mod output;
pub(crate) mod path;
pub(crate) mod ping;

/// Selects the connection that a hop of its path knows by `id`; all when it is empty.
fn selecting(id: &str) -> MonitorScopeSelector {
    let segment = PathSegment {
        id: id.to_string(),
        ..Default::default()
    };
    MonitorScopeSelector {
        path_segments: match id.is_empty() {
            true => Vec::new(),
            false => vec![segment],
        },
        ..Default::default()
    }
}
