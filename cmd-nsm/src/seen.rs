// SPDX-License-Identifier: Apache-2.0
//! Connections as one hop of their path tells of them, for people and as JSON.

use std::collections::BTreeMap;
use std::time::SystemTime;

use nsm_api::connection::{Connection, PathSegment};
use nsm_sdk::identity::jwt::Claims;
use nsm_sdk::networkservice::hoptime::REQUEST_MICROS;
use nsm_sdk::networkservice::monitor::word;
use serde::{Deserialize, Serialize};

/// A connection.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Seen {
    /// Its id at the hop that tells of it.
    pub id: String,
    /// Who has asked for it.
    pub client: String,
    /// The same as its token says, which its manager has verified; empty when it says nothing.
    pub client_identity: String,
    /// Its id at the client.
    pub client_id: String,
    /// Who provides it.
    pub endpoint: String,
    /// What was asked for.
    pub network_service: String,
    /// What it carries.
    pub payload: String,
    /// How it comes to the hop that tells of it.
    pub mechanism: String,
    /// What the mechanism says of itself, without what only its ends understand.
    pub parameters: BTreeMap<String, String>,
    /// The client's addresses.
    pub client_addresses: Vec<String>,
    /// The endpoint's addresses.
    pub endpoint_addresses: Vec<String>,
    /// `up`, `down`, `refresh-requested` or `reselect-requested`.
    pub state: String,
    /// Until when it stays without a refresh, RFC 3339.
    pub expires: Option<String>,
    /// The same from now, seconds; negative when it is over.
    pub expires_in_s: Option<i64>,
    /// The hops of its path, the client first.
    pub hops: Vec<Hop>,
}

/// A hop of a path.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Hop {
    /// Its name.
    pub name: String,
    /// The id of the connection there.
    pub id: String,
    /// How long its last request took, microseconds, with everything behind it.
    pub request_us: Option<u64>,
    /// The part of that which it has taken itself.
    pub own_us: Option<u64>,
    /// Until when its token is valid, seconds from now.
    pub expires_in_s: Option<i64>,
    /// How the connection comes to it, when it was asked.
    pub mechanism: Option<String>,
    /// What else it tells.
    pub metrics: BTreeMap<String, String>,
}

impl Seen {
    /// The connection as it is told, at the time `now`.
    pub fn of(connection: &Connection, now: SystemTime) -> Self {
        let segments = connection
            .path
            .as_ref()
            .map_or(&[][..], |path| &path.path_segments);
        let client = segments.first();
        let context = connection.ip_context();
        let addresses = |of: fn(&nsm_api::connectioncontext::IpContext) -> Vec<ipnet::IpNet>| {
            let nets = context.map(of).unwrap_or_default();
            nets.iter().map(ToString::to_string).collect()
        };
        let expires = segments.iter().filter_map(expires).min();
        let mechanism = connection.mechanism.as_ref();
        Self {
            id: connection.id.clone(),
            client: client.map(|segment| segment.name.clone()).unwrap_or_default(),
            client_identity: client.map(identity).unwrap_or_default(),
            client_id: client.map(|segment| segment.id.clone()).unwrap_or_default(),
            endpoint: connection.network_service_endpoint_name.clone(),
            network_service: connection.network_service.clone(),
            payload: connection.payload.clone(),
            mechanism: mechanism
                .map(|mechanism| mechanism.r#type.clone())
                .unwrap_or_default(),
            parameters: mechanism
                .map(|mechanism| mechanism.parameters.clone())
                .unwrap_or_default(),
            client_addresses: addresses(|context| context.src_nets()),
            endpoint_addresses: addresses(|context| context.dst_nets()),
            state: word(connection.state()).to_string(),
            expires: expires.map(|at| humantime::format_rfc3339_seconds(at).to_string()),
            expires_in_s: expires.map(|at| seconds_until(at, now)),
            hops: hops(segments, now),
        }
    }

    /// Whether the hop that tells of it is the one that its client has asked.
    pub fn is_at_first_hop(&self) -> bool {
        self.hops.get(1).is_some_and(|hop| hop.id == self.id)
    }

    /// Notes how the wire comes to the hop that knows it by `id`.
    pub fn note(&mut self, id: &str, mechanism: &str) {
        if let Some(hop) = self.hops.iter_mut().find(|hop| hop.id == id) {
            hop.mechanism = Some(mechanism.to_string());
        }
    }

    /// The heads of [`Seen::row`].
    pub fn heads() -> Vec<String> {
        let heads = [
            "ID",
            "CLIENT",
            "SERVICE",
            "ENDPOINT",
            "MECHANISM",
            "ADDRESSES",
            "STATE",
            "EXPIRES",
        ];
        heads.map(str::to_string).to_vec()
    }

    /// A line of a table.
    pub fn row(&self) -> Vec<String> {
        let addresses = format!(
            "{} - {}",
            self.client_addresses.join(","),
            self.endpoint_addresses.join(",")
        );
        let expires = self
            .expires_in_s
            .map_or(String::new(), |seconds| format!("{seconds} s"));
        vec![
            self.id.clone(),
            self.client.clone(),
            self.network_service.clone(),
            self.endpoint.clone(),
            self.mechanism.clone(),
            addresses,
            self.state.clone(),
            expires,
        ]
    }
}

/// Who a hop is, as its token says.
fn identity(segment: &PathSegment) -> String {
    Claims::of(&segment.token)
        .map(|claims| claims.sub)
        .unwrap_or_default()
}

fn expires(segment: &PathSegment) -> Option<SystemTime> {
    segment.expires.and_then(|at| SystemTime::try_from(at).ok())
}

/// Whole seconds, negative when it is past.
fn seconds_until(at: SystemTime, now: SystemTime) -> i64 {
    let whole = |left: std::time::Duration| i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(left) => whole(left),
        Err(past) => -whole(past.duration()),
    }
}

fn hops(segments: &[PathSegment], now: SystemTime) -> Vec<Hop> {
    let took = |segment: &PathSegment| segment.metrics.get(REQUEST_MICROS)?.parse::<u64>().ok();
    let hop = |(at, segment): (usize, &PathSegment)| {
        let (mut metrics, request_us) = (segment.metrics.clone(), took(segment));
        metrics.remove(REQUEST_MICROS);
        let behind = segments.get(at + 1).and_then(took).unwrap_or_default();
        Hop {
            name: segment.name.clone(),
            id: segment.id.clone(),
            request_us,
            own_us: request_us.map(|took| took.saturating_sub(behind)),
            expires_in_s: expires(segment).map(|at| seconds_until(at, now)),
            mechanism: None,
            metrics,
        }
    };
    segments.iter().enumerate().map(hop).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use nsm_api::connection::{Mechanism, Path};

    use super::*;

    fn segment(name: &str, took: Option<u64>, expires: i64) -> PathSegment {
        PathSegment {
            name: name.into(),
            id: format!("{name}-id"),
            expires: Some(prost_types::Timestamp {
                seconds: expires,
                nanos: 0,
            }),
            metrics: took
                .map(|took| (REQUEST_MICROS.to_string(), took.to_string()))
                .into_iter()
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_hop_is_told_with_its_own_share_of_the_time() {
        let mut connection = Connection {
            id: "nsmgr-id".into(),
            network_service: "s".into(),
            network_service_endpoint_name: "nse".into(),
            mechanism: Some(Mechanism::new("LOCAL", "KERNEL")),
            path: Some(Path {
                index: 1,
                path_segments: vec![
                    segment("nsc", None, 160),
                    segment("nsmgr", Some(900), 130),
                    segment("forwarder", Some(600), 190),
                ],
            }),
            ..Default::default()
        };
        let context = connection.ip_context_mut();
        context.src_ip_addrs = vec!["10.0.0.1/32".into()];
        context.dst_ip_addrs = vec!["10.0.0.0/32".into()];
        let seen = Seen::of(&connection, UNIX_EPOCH + Duration::from_secs(100));
        let own: Vec<_> = seen.hops.iter().map(|hop| hop.own_us).collect();
        assert_eq!(own, [None, Some(300), Some(600)]);
        assert_eq!(seen.expires_in_s, Some(30));
        assert_eq!(seen.expires.as_deref(), Some("1970-01-01T00:02:10Z"));
        assert_eq!((&*seen.client, &*seen.client_id), ("nsc", "nsc-id"));
        assert_eq!(
            seen.row(),
            [
                "nsmgr-id",
                "nsc",
                "s",
                "nse",
                "KERNEL",
                "10.0.0.1/32 - 10.0.0.0/32",
                "up",
                "30 s"
            ]
        );
        assert_eq!(Seen::heads().len(), seen.row().len());
    }
}
