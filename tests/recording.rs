// SPDX-License-Identifier: Apache-2.0
//! What programs on the Go SDK said to each other: their bytes, as `tests/vectors/wire.json` keeps them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nsm_api::FILE_DESCRIPTOR_SET;
use nsm_api::connection::{Connection, ConnectionEvent, MonitorScopeSelector};
use nsm_api::networkservice::NetworkServiceRequest;
use nsm_api::registry::{
    NetworkService, NetworkServiceEndpoint, NetworkServiceEndpointQuery, NetworkServiceEndpointResponse,
    NetworkServiceQuery, NetworkServiceResponse,
};
use prost::{DecodeError, Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::{Deserialize, Serialize};

/// All that was said, and by whom.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Recording {
    /// When it was recorded, seconds since 1970.
    pub at: u64,
    /// The certificates of all programs by their names, DER in base64.
    pub parties: BTreeMap<String, String>,
    /// The calls, in the order in which they began.
    pub calls: Vec<Call>,
}

/// One call. Messages are their bytes in base64.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Call {
    /// Who has called.
    pub from: String,
    /// Who was called.
    pub to: String,
    /// `/package.Service/Method`.
    pub method: String,
    /// What the call carried beside its message.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// What was asked.
    pub asked: Vec<String>,
    /// What the answer carried beside its messages.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answer_headers: BTreeMap<String, String>,
    /// What was answered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<String>,
    /// The code with which it ended, if its end was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<i32>,
    /// Why, if it was refused.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// Reads a message into our type, and answers the bytes that we would write.
type Through = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

fn through<M: Message + Name + Default>() -> (String, Through) {
    (M::full_name(), |bytes| Ok(M::decode(bytes)?.encode_to_vec()))
}

/// Our types, by the names of the messages.
static TYPES: LazyLock<BTreeMap<String, Through>> = LazyLock::new(|| {
    [
        through::<NetworkServiceRequest>(),
        through::<Connection>(),
        through::<MonitorScopeSelector>(),
        through::<ConnectionEvent>(),
        through::<NetworkService>(),
        through::<NetworkServiceQuery>(),
        through::<NetworkServiceResponse>(),
        through::<NetworkServiceEndpoint>(),
        through::<NetworkServiceEndpointQuery>(),
        through::<NetworkServiceEndpointResponse>(),
    ]
    .into()
});

/// What the wire is made of, as the `.proto` files say it.
static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("a set of descriptors"));

fn file() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "vectors", "wire.json"]
        .iter()
        .collect()
}

/// Seconds since 1970.
pub fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Recording {
    /// The one that is kept.
    pub fn read() -> Result<Self> {
        let (file, advice) = (
            file(),
            "NSM_BLESS=1 cargo test -p nsm-tests --test interop -- recorded",
        );
        let text = std::fs::read_to_string(&file).with_context(|| format!("{}: {advice}", file.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Keeps this one, a call a line.
    pub fn write(&self) -> Result<()> {
        let parties = serde_json::to_string(&self.parties)?;
        let mut text = format!("{{\"at\":{},\"parties\":{parties},\n\"calls\":[\n", self.at);
        for (place, call) in self.calls.iter().enumerate() {
            let comma = if place == 0 { "" } else { ",\n" };
            write!(text, "{comma}{}", serde_json::to_string(call)?)?;
        }
        text.push_str("\n]}\n");
        Ok(std::fs::write(file(), text)?)
    }

    /// When it was recorded.
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.at)
    }

    /// The certificate of a program, DER.
    pub fn certificate(&self, name: &str) -> Result<Vec<u8>> {
        let certificate = self
            .parties
            .get(name)
            .with_context(|| format!("who is {name}?"))?;
        Ok(BASE64_STANDARD.decode(certificate)?)
    }

    /// Reads every message into our types, and checks that what we would write means the same.
    ///
    /// Bytes may differ: the order of maps is free, and where a map has an empty value theirs write it out. So both
    /// are read once more, by the `.proto` files alone, and compared with all that those do not know.
    pub fn check(&self) -> Result<()> {
        for call in &self.calls {
            let [question, answer] = types(&call.method)?;
            for (kind, messages) in [(question, &call.asked), (answer, &call.answered)] {
                for message in messages {
                    let same = is_kept(&kind, &BASE64_STANDARD.decode(message)?);
                    same.with_context(|| format!("{} {} {}: {message}", call.from, call.to, call.method))?;
                }
            }
        }
        Ok(())
    }
}

impl Call {
    /// The first message that was asked.
    pub fn question<M: Message + Default>(&self) -> Result<M> {
        let first = self.asked.first().context("nothing was asked")?;
        Ok(M::decode(BASE64_STANDARD.decode(first)?.as_slice())?)
    }

    /// Everything that was answered.
    pub fn answers<M: Message + Default>(&self) -> Result<Vec<M>> {
        let read = |message: &String| Ok(M::decode(BASE64_STANDARD.decode(message)?.as_slice())?);
        self.answered.iter().map(read).collect()
    }
}

/// What a method asks and answers.
fn types(method: &str) -> Result<[MessageDescriptor; 2]> {
    let known = POOL.services().flat_map(|service| {
        let methods: Vec<_> = service.methods().collect();
        methods.into_iter()
    });
    let name = |known: &prost_reflect::MethodDescriptor| {
        format!("/{}/{}", known.parent_service().full_name(), known.name())
    };
    let known = known.into_iter().find(|known| name(known) == method);
    let known = known.with_context(|| format!("{method} is no method of the contract"))?;
    Ok([known.input(), known.output()])
}

fn is_kept(kind: &MessageDescriptor, bytes: &[u8]) -> Result<()> {
    let Some(through) = TYPES.get(kind.full_name()) else {
        ensure!(
            kind.full_name() == "google.protobuf.Empty" && bytes.is_empty(),
            "{kind:?} is not ours"
        );
        return Ok(());
    };
    let ours = through(bytes)?;
    let [theirs, ours] = [bytes, &ours].map(|bytes| DynamicMessage::decode(kind.clone(), bytes));
    let (theirs, ours) = (theirs?, ours?);
    ensure!(theirs == ours, "we write {ours} for {theirs}");
    Ok(())
}
