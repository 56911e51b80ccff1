// SPDX-License-Identifier: Apache-2.0
//! What the objects of endpoints and of services differ in.

use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use nsm_sdk::core::{Entry as _, NsRegistry, NseRegistry};
use nsm_sdk::registry::checks::{MAX_ENTRY, MAX_NAME};
use nsm_sdk::registry::queries::Registry;
use nsm_sdk::transport::Address;
use prost::Message as _;
use prost_types::Timestamp;
use serde_json::Value;

use super::object::Fault;
use crate::resources::{self, NetworkServiceEndpointSpec, NetworkServiceSpec};

/// The seconds of a timestamp, as its definition bounds them: the years 1 to 9999.
const TIMES: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// A registry whose entries are the specifications of objects of one kind.
pub trait Kind: Registry {
    /// The kind.
    type Resource: kube::Resource<DynamicType = ()>;

    /// Whether an object without an owner is an administrator's, which programs neither overwrite nor delete; and
    /// whether it is told that all is well with an object.
    const IS_WRITTEN_BY_PEOPLE: bool;

    /// An entry as it is stored.
    fn spec(entry: Self::Entry) -> serde_json::Result<Value>;

    /// What is stored, as an entry.
    fn read(spec: Value) -> serde_json::Result<Self::Entry>;

    /// Finds fault with an entry that people may have written.
    fn check(entry: &Self::Entry) -> Result<(), Fault>;

    /// Says until when the entry is registered.
    fn set_expiration(_: &mut Self::Entry, _: Option<Timestamp>) {}

    /// Takes over what stays from the first registration on.
    fn keep_first(_: &Self::Entry, _: &mut Self::Entry) {}

    /// The entry without what differs between two registrations of the same: times, and the hops on the way.
    fn essence(entry: &Self::Entry) -> Self::Entry;
}

impl Kind for NseRegistry {
    type Resource = resources::NetworkServiceEndpoint;
    const IS_WRITTEN_BY_PEOPLE: bool = false;

    fn spec(entry: NetworkServiceEndpoint) -> serde_json::Result<Value> {
        serde_json::to_value(NetworkServiceEndpointSpec::from(entry))
    }

    fn read(spec: Value) -> serde_json::Result<NetworkServiceEndpoint> {
        Ok(serde_json::from_value::<NetworkServiceEndpointSpec>(spec)?.into())
    }

    fn check(entry: &NetworkServiceEndpoint) -> Result<(), Fault> {
        check_sizes::<Self>(entry)?;
        let is_inode = entry.url.starts_with("inode://");
        if !entry.url.is_empty() && !is_inode {
            let url = entry.url.parse::<Address>();
            url.map_err(|error| Fault::new("BadURL", format!("spec.url: {}", error.text())))?;
        }
        for (field, time) in [
            ("expiration_time", entry.expiration_time),
            ("initial_registration_time", entry.initial_registration_time),
        ] {
            let is_time = time
                .is_none_or(|time| TIMES.contains(&time.seconds) && (0..=999_999_999).contains(&time.nanos));
            if !is_time {
                return Err(Fault::new("BadTime", format!("spec.{field} is no time")));
            }
        }
        Ok(())
    }

    fn set_expiration(entry: &mut NetworkServiceEndpoint, time: Option<Timestamp>) {
        entry.expiration_time = time;
    }

    fn keep_first(stored: &NetworkServiceEndpoint, entry: &mut NetworkServiceEndpoint) {
        if stored.initial_registration_time.is_some() {
            entry.initial_registration_time = stored.initial_registration_time;
        }
    }

    fn essence(entry: &NetworkServiceEndpoint) -> NetworkServiceEndpoint {
        NetworkServiceEndpoint {
            expiration_time: None,
            initial_registration_time: None,
            path_ids: entry.path_ids.first().cloned().into_iter().collect(),
            ..entry.clone()
        }
    }
}

impl Kind for NsRegistry {
    type Resource = resources::NetworkService;
    const IS_WRITTEN_BY_PEOPLE: bool = true;

    fn spec(entry: NetworkService) -> serde_json::Result<Value> {
        serde_json::to_value(NetworkServiceSpec::from(entry))
    }

    fn read(spec: Value) -> serde_json::Result<NetworkService> {
        Ok(serde_json::from_value::<NetworkServiceSpec>(spec)?.into())
    }

    fn check(entry: &NetworkService) -> Result<(), Fault> {
        check_sizes::<Self>(entry)
    }

    fn essence(entry: &NetworkService) -> NetworkService {
        NetworkService {
            path_ids: entry.path_ids.first().cloned().into_iter().collect(),
            ..entry.clone()
        }
    }
}

fn check_sizes<A: Kind>(entry: &A::Entry) -> Result<(), Fault> {
    if entry.name().len() > MAX_NAME {
        let text = format!(
            "spec.name has {} bytes, and may have {MAX_NAME}",
            entry.name().len()
        );
        return Err(Fault::new("BadName", text));
    }
    if entry.encoded_len() > MAX_ENTRY {
        let text = format!("spec has {} bytes, and may have {MAX_ENTRY}", entry.encoded_len());
        return Err(Fault::new("TooLarge", text));
    }
    Ok(())
}
