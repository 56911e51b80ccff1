// SPDX-License-Identifier: Apache-2.0
//! The path of a registration, which travels beside it: in the header `path` of a Register or Unregister, and in the
//! initial header of its answer.
//!
//! The header is JSON, `{"Index":0,"PathSegments":[{"token":"…"}]}`. Of a segment it carries the token only.
//! **Limits**: [`MAX_HEADER`] bytes and [`MAX_SEGMENTS`] segments.

use nsm_api::connection::{Path, PathSegment};
use serde::{Deserialize, Serialize};
use tonic::metadata::MetadataMap;
use tracing::debug;

use crate::core::{Error, Result};

/// The key of the header.
const KEY: &str = "path";

/// How long the header may be, bytes. A hop adds 300 to 500.
pub const MAX_HEADER: usize = 64 * 1024;

/// How many hops a path may have.
pub const MAX_SEGMENTS: usize = 64;

#[derive(Serialize)]
struct Written<'a> {
    #[serde(rename = "Index")]
    index: u32,
    #[serde(rename = "PathSegments")]
    segments: Vec<WrittenSegment<'a>>,
}

#[derive(Serialize)]
struct WrittenSegment<'a> {
    token: &'a str,
}

#[derive(Deserialize)]
struct Read {
    #[serde(default, rename = "Index", alias = "index")]
    index: Option<u32>,
    #[serde(
        default,
        rename = "PathSegments",
        alias = "path_segments",
        alias = "pathSegments",
        alias = "pathsegments"
    )]
    segments: Option<Vec<Option<ReadSegment>>>,
}

#[derive(Deserialize)]
struct ReadSegment {
    #[serde(default, rename = "token", alias = "Token")]
    token: Option<String>,
}

/// The path in `metadata`; an empty one where [`find`] finds none.
///
/// Errors: as [`find`].
pub fn read(metadata: &MetadataMap) -> Result<Path> {
    Ok(find(metadata)?.unwrap_or_default())
}

/// The path in `metadata`. None when there is none, or when it cannot be read: the reference's servers and clients
/// ignore it then. An empty one when it has no segments, whatever its index. Of several headers the last one counts.
///
/// Errors: `bad-path` when it is longer than the limits or has a segment that is null.
pub fn find(metadata: &MetadataMap) -> Result<Option<Path>> {
    let Some(header) = metadata.get_all(KEY).iter().next_back() else {
        return Ok(None);
    };
    let header = header.as_encoded_bytes();
    let bad = |text: String| Err(Error::invalid("bad-path", text));
    if header.len() > MAX_HEADER {
        return bad(format!(
            "the header {KEY:?} has {} bytes, more than {MAX_HEADER}",
            header.len()
        ));
    }
    let read: Read = match serde_json::from_slice(header) {
        Ok(read) => read,
        Err(error) => {
            debug!(%error, "a header {KEY:?} cannot be read; going on without a path");
            return Ok(None);
        }
    };
    let segments = read.segments.unwrap_or_default();
    if segments.len() > MAX_SEGMENTS {
        return bad(format!(
            "the path has {} segments, more than {MAX_SEGMENTS}",
            segments.len()
        ));
    }
    let segments: Option<Vec<_>> = segments
        .into_iter()
        .map(|segment| {
            Some(PathSegment {
                token: segment?.token.unwrap_or_default(),
                ..PathSegment::default()
            })
        })
        .collect();
    let Some(path_segments) = segments else {
        return bad("the path has a segment that is null".into());
    };
    let index = if path_segments.is_empty() {
        0
    } else {
        read.index.unwrap_or_default()
    };
    Ok(Some(Path { index, path_segments }))
}

/// Puts `path` into `metadata`.
///
/// Errors: `bad-path` when it is longer than the limits.
pub fn write(metadata: &mut MetadataMap, path: &Path) -> Result<()> {
    let segments = path.path_segments.iter().map(|segment| WrittenSegment {
        token: &segment.token,
    });
    let written = Written {
        index: path.index,
        segments: segments.collect(),
    };
    let header = serde_json::to_string(&written)
        .ok()
        .filter(|header| header.len() <= MAX_HEADER);
    let header = header.and_then(|header| header.parse().ok());
    let Some(header) = header.filter(|_| path.path_segments.len() <= MAX_SEGMENTS) else {
        let text = format!(
            "a path of {} segments cannot be sent in a header",
            path.path_segments.len()
        );
        return Err(Error::invalid("bad-path", text));
    };
    metadata.insert(KEY, header);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(values: &[&str]) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for value in values {
            metadata.append(KEY, value.parse().unwrap());
        }
        metadata
    }

    fn path(index: u32, tokens: &[&str]) -> Path {
        let segment = |token: &&str| PathSegment {
            token: (*token).into(),
            ..PathSegment::default()
        };
        Path {
            index,
            path_segments: tokens.iter().map(segment).collect(),
        }
    }

    #[test]
    fn a_path_is_written_as_the_reference_writes_it() {
        let mut metadata = MetadataMap::new();
        write(&mut metadata, &path(1, &["a.b.c", "d.e.f"])).unwrap();
        let json = r#"{"Index":1,"PathSegments":[{"token":"a.b.c"},{"token":"d.e.f"}]}"#;
        assert_eq!(metadata.get(KEY).unwrap(), json);
        assert_eq!(read(&metadata).unwrap(), path(1, &["a.b.c", "d.e.f"]));
        write(&mut metadata, &path(0, &["g"])).unwrap();
        assert_eq!(
            metadata.get_all(KEY).iter().count(),
            1,
            "an earlier one is replaced"
        );
    }

    #[test]
    fn every_spelling_is_read() {
        for json in [
            r#"{"Index":1,"PathSegments":[{"token":"a"},{"token":"b"}]}"#,
            r#"{"index":1,"path_segments":[{"token":"a","name":"x"},{"Token":"b","expires":{"seconds":1}}]}"#,
        ] {
            assert_eq!(read(&header(&[json])).unwrap(), path(1, &["a", "b"]), "{json}");
        }
        let last = header(&[
            r#"{"PathSegments":[{"token":"a"}]}"#,
            r#"{"PathSegments":[{"token":"b"}]}"#,
        ]);
        assert_eq!(read(&last).unwrap(), path(0, &["b"]));
    }

    #[test]
    fn r75_an_absent_empty_or_malformed_path_is_none_and_a_null_segment_an_error() {
        for json in [
            r#"{"Index":5,"PathSegments":[]}"#,
            r#"{"Index":0,"PathSegments":null}"#,
            "{}",
            "",
            "{",
            "null",
            r#"{"Index":-1}"#,
            r#"{"Index":0,"PathSegments":{}}"#,
        ] {
            assert_eq!(read(&header(&[json])).unwrap(), Path::default(), "{json}");
        }
        assert_eq!(read(&MetadataMap::new()).unwrap(), Path::default());
        for (json, is_there) in [
            ("{}", true),
            (r#"{"Index":5,"PathSegments":null}"#, true),
            ("null", false),
            ("{", false),
        ] {
            assert_eq!(find(&header(&[json])).unwrap().is_some(), is_there, "{json}");
        }
        assert_eq!(find(&MetadataMap::new()).unwrap(), None);
        let kept = read(&header(&[r#"{"Index":5,"PathSegments":[{}]}"#])).unwrap();
        assert_eq!(kept, path(5, &[""]), "updatepath refuses the index");
        let error = read(&header(&[r#"{"Index":0,"PathSegments":[null]}"#])).unwrap_err();
        assert_eq!(error.reason(), "bad-path");
    }

    #[test]
    fn r90_a_path_of_16_kib_is_read_and_sizes_are_bounded() {
        let token = "t".repeat(1024);
        let long = path(15, &[token.as_str(); 16]);
        let mut metadata = MetadataMap::new();
        write(&mut metadata, &long).unwrap();
        assert_eq!(read(&metadata).unwrap(), long);

        let full = vec!["t"; MAX_SEGMENTS];
        write(&mut metadata, &path(0, &full)).unwrap();
        assert_eq!(read(&metadata).unwrap().path_segments.len(), MAX_SEGMENTS);
        let more = vec!["t"; MAX_SEGMENTS + 1];
        assert_eq!(
            write(&mut metadata, &path(0, &more)).unwrap_err().reason(),
            "bad-path"
        );
        let json = format!(r#"{{"PathSegments":[{}{{}}]}}"#, "{},".repeat(MAX_SEGMENTS));
        assert_eq!(read(&header(&[&json])).unwrap_err().reason(), "bad-path");

        let huge = "t".repeat(MAX_HEADER + 1);
        assert_eq!(
            write(&mut metadata, &path(0, &[&huge])).unwrap_err().reason(),
            "bad-path"
        );
        assert_eq!(read(&header(&[&huge])).unwrap_err().reason(), "bad-path");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read(index: u32, tokens in proptest::collection::vec("[!-~]{0,40}", 1..8)) {
            let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
            let mut metadata = MetadataMap::new();
            write(&mut metadata, &path(index, &tokens)).unwrap();
            assert_eq!(read(&metadata).unwrap(), path(index, &tokens));
        }

        #[test]
        fn anything_else_is_read_without_harm(json in r#"[{}\[\]":,a-z0-9 \\-]{0,60}"#) {
            let _any_answer = read(&header(&[&json]));
        }
    }
}
