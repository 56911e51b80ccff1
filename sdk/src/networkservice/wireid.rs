// SPDX-License-Identifier: Apache-2.0
//! What a wire is called on this node.

use nsm_api::connection::Connection;

use crate::core::{Error, Result};

/// The id of the wire that this hop makes for a connection: that of the connection at its client, as it is for every
/// implementation of this protocol, so that what one has left another finds.
///
/// A connection that an endpoint passes on may come through a node more than once. It has a wire there each time, which
/// is told apart by how often this hop was on the path before.
///
/// Errors: `no-path`.
pub(super) fn wire_id(connection: &Connection) -> Result<String> {
    let path = connection.path.as_ref();
    let first = path.and_then(|path| path.path_segments.first());
    let Some(first) = first.filter(|first| !first.id.is_empty()) else {
        return Err(Error::invalid(
            "no-path",
            "the path of the connection does not begin with its client",
        ));
    };
    Ok(match path.map_or(0, passes) {
        0 => first.id.clone(),
        passes => format!("{}+{passes}", first.id),
    })
}

/// How often the hop at the index is on the path before.
fn passes(path: &nsm_api::connection::Path) -> usize {
    let ours = usize::try_from(path.index).unwrap_or(usize::MAX);
    let Some((ours, before)) = path.path_segments.get(..=ours).and_then(<[_]>::split_last) else {
        return 0;
    };
    before.iter().filter(|segment| segment.name == ours.name).count()
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::{Path, PathSegment};

    use super::*;

    fn at(index: u32) -> Connection {
        let names = [
            "nsc",
            "nsmgr",
            "forwarder",
            "firewall",
            "nsmgr",
            "forwarder",
            "nse",
        ];
        let segments = names.iter().enumerate().map(|(number, name)| PathSegment {
            name: name.to_string(),
            id: format!("id-{number}"),
            ..Default::default()
        });
        Connection {
            path: Some(Path {
                index,
                path_segments: segments.collect(),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_wire_is_called_as_its_client_calls_the_connection() {
        assert_eq!(wire_id(&at(2)).unwrap(), "id-0");
    }

    #[test]
    fn a_connection_that_comes_through_a_node_again_has_another_wire_there() {
        assert_eq!(wire_id(&at(5)).unwrap(), "id-0+1");
        assert_eq!(
            wire_id(&at(70)).unwrap(),
            "id-0",
            "an index behind the path says nothing"
        );
    }

    #[test]
    fn without_a_client_there_is_no_id() {
        let mut nobody = at(0);
        nobody.path = Some(Path::default());
        assert_eq!(wire_id(&nobody).unwrap_err().reason(), "no-path");
        assert_eq!(wire_id(&Connection::default()).unwrap_err().reason(), "no-path");
    }
}
