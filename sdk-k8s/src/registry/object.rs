// SPDX-License-Identifier: Apache-2.0
//! An object as the API server tells it, read so that nothing in it can make the reading fail.

use std::sync::Arc;

use kube::core::DynamicObject;
use nsm_sdk::core::Entry as _;
use serde_json::Value;

use super::kind::Kind;
use crate::resources::{ACCEPTED, Condition, Status};

/// Names an object. Those of the registry's own namespace come before others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) is_foreign: bool,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

/// Why an object cannot be used: a word for programs, a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub(super) reason: &'static str,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn new(reason: &'static str, text: String) -> Self {
        Self { reason, text }
    }
}

/// An object.
#[derive(Debug)]
pub(super) struct Object<A: Kind> {
    pub(super) key: Key,
    /// Names this life of it.
    pub(super) uid: Arc<str>,
    /// Its resource version.
    pub(super) version: Version,
    /// Counts the changes of its specification.
    pub(super) generation: i64,
    /// Whether it is deleted, and something only delays its end.
    pub(super) is_going: bool,
    /// What it registers.
    pub(super) entry: Result<Arc<A::Entry>, Fault>,
    /// What its status says of it.
    pub(super) told: Option<Told>,
    /// How many endpoints its status says that it has.
    pub(super) counted: Option<i64>,
}

/// A state of an object. Later ones are larger: so it is with every API server that stores in etcd, and promised from
/// Kubernetes 1.35 on. One that is no number is later than any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version(String);

impl Version {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn number(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    pub(super) fn is_after(&self, other: &Self) -> bool {
        match (self.number(), other.number()) {
            (Some(one), Some(other)) => one > other,
            _ => self != other,
        }
    }
}

/// What a condition says: whether the object is used, why, and of which generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) is_accepted: bool,
    pub(super) reason: String,
    pub(super) generation: i64,
}

impl<A: Kind> Object<A> {
    /// Reads `object`. `home` is the registry's namespace.
    pub(super) fn read(object: DynamicObject, home: &Arc<str>) -> Self {
        let DynamicObject {
            metadata, mut data, ..
        } = object;
        let name: Arc<str> = metadata.name.unwrap_or_default().into();
        let namespace = match metadata.namespace {
            Some(namespace) if namespace != **home => namespace.into(),
            _ => Arc::clone(home),
        };
        let spec = data.get_mut("spec").map(Value::take).unwrap_or_default();
        let status = data.get_mut("status").map(Value::take).unwrap_or_default();
        Self {
            entry: entry::<A>(spec, &name).map(Arc::new),
            counted: status["endpoints"].as_i64(),
            told: told(status),
            key: Key {
                is_foreign: namespace != *home,
                namespace,
                name,
            },
            uid: metadata.uid.unwrap_or_default().into(),
            version: Version::new(metadata.resource_version.unwrap_or_default()),
            generation: metadata.generation.unwrap_or_default(),
            is_going: metadata.deletion_timestamp.is_some(),
        }
    }

    /// The name that it registers, if it can be used.
    pub(super) fn entry_name(&self) -> Option<&str> {
        self.entry.as_ref().ok().map(|entry| entry.name())
    }

    /// Who has registered it.
    pub(super) fn owner(&self) -> Option<&str> {
        let entry = self.entry.as_ref().ok()?;
        let owner = entry.path_ids().first().map(String::as_str);
        owner.filter(|owner| !owner.is_empty())
    }

    /// Whether people have written it, and no program may change it.
    pub(super) fn is_of_people(&self) -> bool {
        A::IS_WRITTEN_BY_PEOPLE && self.entry.is_ok() && self.owner().is_none()
    }
}

fn entry<A: Kind>(spec: Value, name: &str) -> Result<A::Entry, Fault> {
    let spec = if spec.is_null() {
        Value::Object(serde_json::Map::new())
    } else {
        spec
    };
    let mut entry =
        A::read(spec).map_err(|error| Fault::new("BadSpec", format!("spec cannot be read: {error}")))?;
    if entry.name().is_empty() {
        entry.set_name(name.to_string());
    }
    A::check(&entry)?;
    Ok(entry)
}

fn told(status: Value) -> Option<Told> {
    let status: Status = serde_json::from_value(status).ok()?;
    let condition: Condition = status.conditions.into_iter().find(|one| one.r#type == ACCEPTED)?;
    Some(Told {
        is_accepted: condition.status == "True",
        reason: condition.reason,
        generation: condition.observed_generation,
    })
}

#[cfg(test)]
mod tests;
