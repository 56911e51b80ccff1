// SPDX-License-Identifier: Apache-2.0
//! Until when the hops of a path promise to keep it.

use std::time::SystemTime;

use nsm_api::connection::{Path, PathSegment};

/// When the promise of this hop ends; absent when it made none, or one that no clock can tell.
pub(crate) fn of(segment: &PathSegment) -> Option<SystemTime> {
    segment
        .expires
        .and_then(|expires| SystemTime::try_from(expires).ok())
}

/// The first end of a promise on the path; absent when nobody made one.
pub(crate) fn earliest(path: &Path) -> Option<SystemTime> {
    path.path_segments.iter().filter_map(of).min()
}
