// SPDX-License-Identifier: Apache-2.0
//! What programs on the Go SDK have said to each other is understood by ours, and answered as theirs answered.
//!
//! The recording is `tests/vectors/wire.json`; `tests/interop/record.rs` makes it.
#![forbid(unsafe_code)]

use nsm_sdk::transport::grpcmetadata;
use nsm_tests::recording::Recording;

mod manager;
mod place;
mod registry;
mod replay;

fn recording() -> Recording {
    Recording::read().expect("a recording")
}

#[test]
fn every_message_of_theirs_is_read_and_written_without_loss() {
    recording().check().expect("all messages are kept");
}

#[test]
fn every_path_header_of_theirs_is_written_as_it_was() {
    let mut seen = 0;
    for call in recording().calls {
        for headers in [&call.headers, &call.answer_headers] {
            let metadata = replay::metadata(headers).expect("headers");
            let Some(path) = grpcmetadata::find(&metadata).expect("a path") else {
                continue;
            };
            if path.path_segments.is_empty() {
                // Theirs write null, which nobody tells from an empty list.
                continue;
            }
            let mut written = tonic::metadata::MetadataMap::new();
            grpcmetadata::write(&mut written, &path).expect("is written");
            assert_eq!(written.get("path"), metadata.get("path"), "{call:?}");
            seen += 1;
        }
    }
    assert!(seen > 10, "registrations carry paths: {seen}");
}
