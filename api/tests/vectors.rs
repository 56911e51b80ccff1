// SPDX-License-Identifier: Apache-2.0
//! Asks this crate the questions whose answers the reference gave, `tests/vectors/*.json` at the root of the
//! repository, and expects the same answers. `NSM_VECTORS` names another folder of answers to try.

use std::path::PathBuf;
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nsm_api::connection::{Connection, MonitorScopeSelector};
use nsm_api::connectioncontext::{IpContext, Route};
use nsm_api::matching::{self, Labels};
use nsm_api::registry::{NetworkService, NetworkServiceEndpoint};
use nsm_api::service_url::ServiceUrl;
use nsm_api::{FILE_DESCRIPTOR_SET, interdomain};
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};

/// Asks each question of `subject`, and fails with the lines whose answers differ.
fn ask(subject: &str, answer: impl Fn(&Value) -> Result<(), String>) {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors");
    let folder = std::env::var_os("NSM_VECTORS").map_or_else(|| PathBuf::from(recorded), PathBuf::from);
    let file = folder.join(format!("{subject}.json"));
    let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let questions: Vec<Value> = serde_json::from_str(&text).expect("a JSON array");
    assert!(!questions.is_empty(), "{} has no questions", file.display());
    let failures: Vec<String> = (2..)
        .zip(&questions)
        .filter_map(|(line, question)| {
            let difference = answer(question).err()?;
            Some(format!("{}:{line}: {difference}\n  {question}", file.display()))
        })
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {} answers differ:\n{}",
        failures.len(),
        questions.len(),
        failures.join("\n")
    );
}

/// An error that shows both answers, if they differ.
fn same<T: PartialEq + std::fmt::Debug>(ours: T, theirs: T) -> Result<(), String> {
    if ours == theirs {
        return Ok(());
    }
    Err(format!("ours {ours:?}, theirs {theirs:?}"))
}

fn descriptor<T: Name>() -> MessageDescriptor {
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("a set of descriptors"));
    POOL.get_message_by_name(&T::full_name())
        .expect("a message of ours")
}

fn message<T: Message + Name + Default>(json: &Value) -> T {
    let dynamic = DynamicMessage::deserialize(descriptor::<T>(), json).expect("protobuf JSON");
    dynamic.transcode_to().expect("the same message")
}

fn labels(json: &Value) -> Labels {
    serde_json::from_value::<Option<Labels>>(json.clone())
        .expect("a map of texts")
        .unwrap_or_default()
}

fn text(json: &Value) -> &str {
    json.as_str().expect("a text")
}

#[test]
fn label_subset() {
    ask("label_subset", |question| {
        let [have, want, variables] = ["have", "want", "variables"].map(|name| labels(&question[name]));
        let subset = matching::is_subset(&have, &want, &variables);
        same(json!(subset), question["subset"].clone())
    });
}

#[test]
fn endpoint_selection() {
    ask("endpoint_selection", |question| {
        let service: NetworkService = message(&question["network_service"]);
        let candidates = question["endpoints"].as_array().into_iter().flatten();
        let candidates: Vec<NetworkServiceEndpoint> = candidates.map(message).collect();
        let chosen = matching::endpoints(&labels(&question["labels"]), &service, &candidates);
        let chosen: Vec<_> = chosen.iter().map(|endpoint| &endpoint.name).collect();
        same(json!(chosen), question["chosen"].clone())
    });
}

/// On lines with `"matches":null` the reference crashes: a query for an expiration meets an endpoint without
/// one. Ours does not match.
#[test]
fn registry_matching() {
    ask("registry_matching", |question| {
        let (query, object) = (&question["query"], &question["object"]);
        let theirs = question["matches"].as_bool();
        let ours = match text(&question["kind"]) {
            "network_service" => matching::service_matches(&message(query), &message(object)),
            _ => matching::endpoint_matches(&message(query), &message(object)),
        };
        same(ours, theirs.unwrap_or(false))
    });
}

#[test]
fn monitor_selector() {
    ask("monitor_selector", |question| {
        let selector: MonitorScopeSelector = message(&question["selector"]);
        let matches = matching::connection_matches(&selector, &message(&question["connection"]));
        same(json!(matches), question["matches"].clone())
    });
}

#[test]
fn routes() {
    ask("routes", |question| {
        let context: IpContext = message(&question["ip_context"]);
        let theirs = |name: &str| -> Vec<Route> {
            let routes = question[name].as_array().into_iter().flatten();
            routes.map(message).collect()
        };
        same(context.src_ip_routes(), theirs("src_routes"))?;
        same(context.dst_ip_routes(), theirs("dst_routes"))?;
        same(
            context.src_routes_with_explicit_next_hop(),
            theirs("src_explicit"),
        )?;
        same(
            context.dst_routes_with_explicit_next_hop(),
            theirs("dst_explicit"),
        )
    });
}

/// Every line is read as the reference reads it. Programs of ours refuse the lines with scheme `x` all the
/// same, by [`ServiceUrl::check`]: the reference asks for a mechanism X, which nobody has, for as long as it
/// runs.
#[test]
fn service_url() {
    ask("service_url", |question| {
        let url = ServiceUrl::parse(text(&question["url"])).map_err(|error| error.to_string())?;
        same(url.check().is_err(), text(&question["url"]).starts_with("x://"))?;
        same(url.mechanism, message(&question["mechanism"]))?;
        same(url.labels, labels(&question["labels"]))?;
        same(url.network_service.as_str(), text(&question["network_service"]))
    });
}

#[test]
fn interdomain_name() {
    ask("interdomain_name", |question| {
        let name = text(&question["name"]);
        same(
            json!(interdomain::is_interdomain(name)),
            question["is_interdomain"].clone(),
        )?;
        same(interdomain::domain(name), text(&question["domain"]))?;
        same(interdomain::target(name), text(&question["target"]))
    });
}

fn bytes(question: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(text(&question["bytes"])).expect("base64")
}

#[test]
fn messages_mean_what_their_json_says() {
    ask("messages", |question| {
        let decoded = Connection::decode(bytes(question).as_slice()).map_err(|error| error.to_string())?;
        same(decoded, message(&question["json"]))?;

        let dynamic = DynamicMessage::decode(descriptor::<Connection>(), bytes(question).as_slice())
            .map_err(|error| error.to_string())?;
        let options = SerializeOptions::new().use_proto_field_name(true);
        let ours = dynamic.serialize_with_options(serde_json::value::Serializer, &options);
        same(ours.map_err(|error| error.to_string())?, question["json"].clone())
    });
}

/// Bytes are the reference's own, with one freedom that protobuf leaves: where a map has an empty value the
/// reference writes it out and we leave it away, which every decoder reads alike.
#[test]
fn messages_are_encoded_as_they_were() {
    ask("messages", |question| {
        let decoded = Connection::decode(bytes(question).as_slice()).map_err(|error| error.to_string())?;
        let encoded = decoded.encode_to_vec();
        same(Connection::decode(encoded.as_slice()).as_ref(), Ok(&decoded))?;
        if has_empty_value(&question["json"]) {
            return same(encoded.len() < bytes(question).len(), true);
        }
        same(encoded, bytes(question))
    });
}

/// In protobuf JSON only values of maps are empty texts: empty fields are left away.
fn has_empty_value(json: &Value) -> bool {
    match json {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().any(has_empty_value),
        Value::Object(fields) => fields.values().any(has_empty_value),
        _ => false,
    }
}

/// Request case C110.
#[test]
fn messages_with_unknown_fields_are_read() {
    ask("messages", |question| {
        let known = Connection::decode(bytes(question).as_slice()).map_err(|error| error.to_string())?;
        // Field 1000 as a number, as bytes, as a fixed number of 32 bits; none of them is known.
        let unknown: [&[u8]; 3] = [b"\xc0\x3e\x07", b"\xc2\x3e\x03abc", b"\xc5\x3e\x01\x02\x03\x04"];
        for field in unknown {
            let extended = [field, &bytes(question), field].concat();
            same(Connection::decode(extended.as_slice()).as_ref(), Ok(&known))?;
        }
        let mut newer = known.clone();
        newer.state = 77;
        let encoded = newer.encode_to_vec();
        same(
            Connection::decode(encoded.as_slice()).map(|newer| newer.state),
            Ok(77),
        )
    });
}
