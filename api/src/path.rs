// SPDX-License-Identifier: Apache-2.0
//! Access to the hops of a path that never leaves its bounds, whatever a peer sent.

use thiserror::Error;

use crate::connection::{Connection, Path, PathSegment};
use crate::text::excerpt;

/// How many hops a path may have. The longest that is made, between two clusters, has 8.
pub const MAX_SEGMENTS: usize = 64;

/// Why a path cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// The index is behind the last segment.
    #[error(
        "Path.Index+1=={} should be less or equal len(Path.PathSegments)=={len}",
        u64::from(*.index) + 1
    )]
    Index {
        /// The index.
        index: u32,
        /// How many segments there are.
        len: usize,
    },
    /// There are more than [`MAX_SEGMENTS`] segments.
    #[error("path has {0} segments, at most {MAX_SEGMENTS} are allowed: look for a loop of hops")]
    Long(usize),
    /// The current segment is another connection's.
    #[error("Current PathSegment.Id=={segment} should be equal Connection.Id=={connection}")]
    Id {
        /// The id in the segment.
        segment: String,
        /// The id of the connection.
        connection: String,
    },
}

impl Path {
    /// The segment at `index`, that of the hop which is speaking.
    pub fn current(&self) -> Option<&PathSegment> {
        self.path_segments.get(self.at())
    }

    /// [`Path::current`], to be changed.
    pub fn current_mut(&mut self) -> Option<&mut PathSegment> {
        let at = self.at();
        self.path_segments.get_mut(at)
    }

    /// The segment before the current one, towards the client.
    pub fn previous(&self) -> Option<&PathSegment> {
        self.path_segments.get(self.at().checked_sub(1)?)
    }

    /// [`Path::previous`], to be changed.
    pub fn previous_mut(&mut self) -> Option<&mut PathSegment> {
        let at = self.at().checked_sub(1)?;
        self.path_segments.get_mut(at)
    }

    /// The segment behind the current one, towards the endpoint.
    pub fn next(&self) -> Option<&PathSegment> {
        self.path_segments.get(self.at().checked_add(1)?)
    }

    /// [`Path::next`], to be changed.
    pub fn next_mut(&mut self) -> Option<&mut PathSegment> {
        let at = self.at().checked_add(1)?;
        self.path_segments.get_mut(at)
    }

    /// Cuts off what is behind the current segment, as the last hop does.
    pub fn trim(&mut self) {
        self.path_segments.truncate(self.at().saturating_add(1));
    }

    /// Checks that `index` names a segment and that there are not too many of them. A path without any
    /// segment has no current one, so it fails too.
    pub fn check(&self) -> Result<(), PathError> {
        let (index, len) = (self.index, self.path_segments.len());
        if len > MAX_SEGMENTS {
            return Err(PathError::Long(len));
        }
        if self.at() >= len {
            return Err(PathError::Index { index, len });
        }
        Ok(())
    }

    fn at(&self) -> usize {
        usize::try_from(self.index).unwrap_or(usize::MAX)
    }
}

impl Connection {
    /// Checks that the path can be followed and that the current segment carries the connection's id. A
    /// connection without a path fails.
    pub fn check_path(&self) -> Result<(), PathError> {
        let none = Path::default();
        let path = self.path.as_ref().unwrap_or(&none);
        path.check()?;
        match path.current() {
            Some(segment) if segment.id != self.id => Err(PathError::Id {
                segment: excerpt(&segment.id),
                connection: excerpt(&self.id),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(index: u32, names: &[&str]) -> Path {
        let segment = |name: &&str| PathSegment {
            name: name.to_string(),
            id: format!("{name}-id"),
            ..Default::default()
        };
        Path {
            index,
            path_segments: names.iter().map(segment).collect(),
        }
    }

    fn around(path: &Path) -> [Option<&str>; 3] {
        [path.previous(), path.current(), path.next()]
            .map(|segment| segment.map(|segment| segment.name.as_str()))
    }

    #[test]
    fn segments_out_of_bounds_are_absent() {
        let hops = ["nsc", "nsmgr", "fwd"];
        assert_eq!(around(&path(0, &hops)), [None, Some("nsc"), Some("nsmgr")]);
        assert_eq!(around(&path(1, &hops)), [Some("nsc"), Some("nsmgr"), Some("fwd")]);
        assert_eq!(around(&path(2, &hops)), [Some("nsmgr"), Some("fwd"), None]);
        assert_eq!(around(&path(3, &hops)), [Some("fwd"), None, None]);
        assert_eq!(around(&path(4, &hops)), [None; 3]);
        assert_eq!(around(&path(u32::MAX, &hops)), [None; 3]);
        assert_eq!(around(&path(0, &[])), [None; 3]);
    }

    #[test]
    fn segments_can_be_changed_in_place() {
        let mut path = path(1, &["nsc", "nsmgr", "fwd"]);
        for segment in [Path::previous_mut, Path::current_mut, Path::next_mut] {
            segment(&mut path).expect("three segments").token = "t".into();
        }
        assert!(path.path_segments.iter().all(|segment| segment.token == "t"));
    }

    /// Request case C5.
    #[test]
    fn an_index_behind_the_end_is_an_error_that_peers_know() {
        let error = path(3, &["nsc"]).check().expect_err("out of range");
        assert_eq!(
            error.to_string(),
            "Path.Index+1==4 should be less or equal len(Path.PathSegments)==1"
        );
        let error = path(u32::MAX, &["nsc"]).check().expect_err("out of range");
        assert!(
            error.to_string().starts_with("Path.Index+1==4294967296 "),
            "{error}"
        );
        assert!(path(0, &[]).check().is_err());
        assert_eq!(path(0, &["nsc"]).check(), Ok(()));
    }

    #[test]
    fn the_number_of_segments_is_bounded() {
        assert_eq!(path(0, &["hop"; MAX_SEGMENTS]).check(), Ok(()));
        let long = path(0, &["hop"; MAX_SEGMENTS + 1]);
        assert_eq!(long.check(), Err(PathError::Long(65)));
    }

    /// Request case C6.
    #[test]
    fn the_current_segment_carries_the_connections_id() {
        let mut connection = Connection {
            id: "nsc-id".into(),
            path: Some(path(0, &["nsc"])),
            ..Default::default()
        };
        assert_eq!(connection.check_path(), Ok(()));
        connection.id = "other".into();
        let error = connection.check_path().expect_err("another id");
        assert_eq!(
            error.to_string(),
            "Current PathSegment.Id==nsc-id should be equal Connection.Id==other"
        );
        connection.path = None;
        assert!(matches!(connection.check_path(), Err(PathError::Index { .. })));
    }

    #[test]
    fn trimming_keeps_the_current_segment_and_those_before() {
        let mut long = path(1, &["nsc", "nsmgr", "fwd", "nse"]);
        long.trim();
        assert_eq!(around(&long), [Some("nsc"), Some("nsmgr"), None]);
        let mut out_of_range = path(u32::MAX, &["nsc"]);
        out_of_range.trim();
        assert_eq!(out_of_range.path_segments.len(), 1);
    }
}
