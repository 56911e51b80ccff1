// SPDX-License-Identifier: Apache-2.0
//! Whether there is anything to tell of a connection.
//!
//! **Guarantees**: two connections with one fingerprint are the same but for their metrics, which every call changes;
//! that two others have one by chance is as likely as that somebody guesses 64 bits, the key of which is made anew
//! by every program.
//! **Cost**: 2 µs.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::LazyLock;

use nsm_api::connection::{Connection, Mechanism, Path, PathSegment};
use prost::Message;

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fingerprint(u64);

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Fingerprint {
    pub(super) fn of(connection: &Connection) -> Self {
        let Connection {
            id,
            network_service,
            mechanism,
            context,
            labels,
            path,
            network_service_endpoint_name,
            payload,
            state,
        } = connection;
        let mut hasher = KEY.build_hasher();
        (id, network_service, labels, network_service_endpoint_name).hash(&mut hasher);
        (payload, state).hash(&mut hasher);
        let mechanism = mechanism.as_ref();
        mechanism
            .map(
                |Mechanism {
                     cls,
                     r#type,
                     parameters,
                 }| (cls, r#type, parameters),
            )
            .hash(&mut hasher);
        let context = context.as_ref();
        context.map(Message::encode_to_vec).hash(&mut hasher);
        if let Some(Path { index, path_segments }) = path {
            (index, path_segments.len()).hash(&mut hasher);
            for segment in path_segments {
                let PathSegment {
                    name,
                    id,
                    token,
                    expires,
                    metrics: _,
                } = segment;
                (name, id, token, expires).hash(&mut hasher);
            }
        }
        Self(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::State;
    use nsm_api::connectioncontext::ConnectionContext;

    use super::*;
    use crate::core::Message;
    use crate::core::testing::request;

    /// A change of a connection.
    type Change = fn(&mut Connection);

    #[test]
    fn everything_but_metrics_changes_it() {
        let mut first = request();
        first.path_mut().path_segments = vec![PathSegment::default()];
        let before = Fingerprint::of(&first.connection);
        let changes: &[Change] = &[
            |connection| connection.id.push('x'),
            |connection| connection.network_service.push('x'),
            |connection| connection.mechanism = Some(Mechanism::default()),
            |connection| connection.context = Some(ConnectionContext::default()),
            |connection| drop(connection.labels.insert("x".into(), "x".into())),
            |connection| connection.path = None,
            |connection| connection.network_service_endpoint_name.push('x'),
            |connection| connection.payload.push('x'),
            |connection| connection.set_state(State::Down),
        ];
        for (at, change) in changes.iter().enumerate() {
            let mut changed = first.connection.clone();
            change(&mut changed);
            assert_ne!(Fingerprint::of(&changed), before, "change {at}");
        }
        let segment = &mut first.path_mut().path_segments[0];
        segment.metrics.insert("x".into(), "1".into());
        assert_eq!(Fingerprint::of(&first.connection), before);
        first.path_mut().path_segments[0].token.push('x');
        assert_ne!(Fingerprint::of(&first.connection), before);
    }
}
