// SPDX-License-Identifier: Apache-2.0
//! From what a program asks to what it is answered.
//!
//! The groups of a [`Table`]'s route are asked one after the other until one knows the name. That it is not there is an
//! answer, and kept: what counts then is the word of the first group. In a group every server knows the same, so the
//! next one is asked only when one is silent or has no word.

use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use nsm_sdk::core::Component;
use parking_lot::RwLock;
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::cache::Key;
use crate::table::{Group, Table};
use crate::upstream::{self, Answer, PAYLOAD};

/// How long a server may be silent until the next one is asked.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long an answer may take in all: less than the five seconds for which programs wait.
const TO_ANSWER: Duration = Duration::from_secs(4);

/// How often each server is asked.
const ROUNDS: usize = 2;

/// For how long a server that was silent is asked last.
const SILENT: Duration = Duration::from_secs(30);

/// What a program may get by UDP that says nothing about it.
const LEAST_PAYLOAD: u16 = 512;

/// What came in.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Nothing to answer to.
    Nothing,
    /// What it is answered already.
    Reply(Box<Reply>),
    /// What somebody has to be asked.
    Question(Box<Question>),
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Reply {
    message: Message,
    /// The bytes that a server has sent. Those of ours may be more, since names after the first hundred are written in
    /// full.
    raw: Vec<u8>,
}

impl From<Message> for Reply {
    fn from(message: Message) -> Self {
        let raw = Vec::new();
        Self { message, raw }
    }
}

/// What somebody has to be asked.
#[derive(Debug)]
pub(crate) struct Question {
    message: Message,
    query: Query,
    key: Option<Key>,
}

impl Question {
    /// What it is answered when nobody could say anything.
    pub(crate) fn failed(&self) -> Reply {
        refuse(&self.message.metadata, &self.message, ResponseCode::ServFail).into()
    }

    /// How many bytes may be sent to its program by UDP.
    pub(crate) fn payload(&self) -> usize {
        payload(&self.message)
    }
}

/// How many bytes may be sent by UDP to whoever has asked so.
fn payload(message: &Message) -> usize {
    message
        .edns
        .as_ref()
        .map_or(LEAST_PAYLOAD, Edns::max_payload)
        .max(LEAST_PAYLOAD)
        .into()
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Resolve {
    component: Component,
    table: RwLock<Arc<Table>>,
}

impl Resolve {
    pub(crate) fn new(component: Component, table: Table) -> Self {
        Self {
            component,
            table: RwLock::new(Arc::new(table)),
        }
    }

    /// Goes by this table from now on; with the one before goes what was known by it.
    pub(crate) fn go_by(&self, table: Table) {
        *self.table.write() = Arc::new(table);
    }

    /// Reads what came in, and answers it from what is known.
    pub(crate) fn hear(&self, bytes: &[u8]) -> Heard {
        let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else {
            return Heard::Nothing;
        };
        let header = header.metadata;
        if header.message_type != MessageType::Query {
            return Heard::Nothing;
        }
        let nothing = Message::query();
        let reply = |message: &Message, code| Heard::Reply(Box::new(refuse(&header, message, code).into()));
        if header.op_code != OpCode::Query {
            return reply(&nothing, ResponseCode::NotImp);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return reply(&nothing, ResponseCode::FormErr);
        };
        let [query] = message.queries.as_slice() else {
            return reply(&nothing, ResponseCode::FormErr);
        };
        if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return reply(&message, ResponseCode::BADVERS);
        }
        if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return reply(&message, ResponseCode::Refused);
        }
        let (query, key) = (query.clone(), Key::new(&message, query));
        let table = self.table.read().clone();
        let known = key
            .as_ref()
            .and_then(|key| table.cache.lock().get(key, Instant::now()));
        match known {
            Some((answer, age)) => Heard::Reply(Box::new(answered(&message, &answer, age).into())),
            None => Heard::Question(Box::new(Question { message, query, key })),
        }
    }

    /// Asks whoever knows.
    pub(crate) async fn ask(&self, question: &Question) -> Reply {
        let until = Instant::now() + TO_ANSWER;
        let table = self.table.read().clone();
        let mut first = None;
        for (number, group) in table.route(question.query.name()).iter().enumerate() {
            let servers = table.order(group, number > 0, Instant::now());
            let answer = self.ask_group(&table, &servers, question, until).await;
            if matches!(&answer, Some((answer, _)) if answer.metadata.response_code == ResponseCode::NoError)
            {
                first = Some(answer);
                break;
            }
            first.get_or_insert(answer);
        }
        let Some((answer, raw)) = first.flatten() else {
            return question.failed();
        };
        let message = answered(&question.message, &answer, 0);
        if let Some(key) = question.key.clone() {
            table.cache.lock().put(key, Arc::new(answer), Instant::now());
        }
        Reply { message, raw }
    }

    /// What the first of these servers says that has a word.
    async fn ask_group(
        &self,
        table: &Table,
        servers: &Group,
        question: &Question,
        until: Instant,
    ) -> Option<Answer> {
        let mut last = None;
        for server in std::iter::repeat_n(servers, ROUNDS).flatten().copied() {
            let patience = PATIENCE.min(until.saturating_duration_since(Instant::now()));
            if patience.is_zero() {
                break;
            }
            let asked = upstream::ask(&self.component, server, &question.message, &question.query);
            match timeout(patience, asked).await {
                Ok(Ok(answer)) => {
                    table.heard(server, None);
                    let code = answer.0.metadata.response_code;
                    if matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
                        return Some(answer);
                    }
                    debug!(%server, query = %question.query, %code, "a DNS server has no word");
                    last = Some(answer);
                }
                Ok(Err(error)) => {
                    debug!(%server, query = %question.query, %error, "a DNS server cannot be asked");
                    table.heard(server, Some(Instant::now() + SILENT));
                }
                Err(_) => {
                    debug!(%server, query = %question.query, "a DNS server is silent");
                    table.heard(server, Some(Instant::now() + SILENT));
                }
            }
        }
        last
    }
}

/// What is answered with this code and nothing else.
fn refuse(header: &Metadata, asked: &Message, code: ResponseCode) -> Message {
    let mut nothing = Message::new(0, MessageType::Response, OpCode::Query);
    nothing.metadata.response_code = code;
    let mut reply = answered(asked, &nothing, 0);
    let flags = reply.metadata;
    reply.metadata = Metadata::response_from_request(header);
    reply.metadata.recursion_available = flags.recursion_available;
    reply.metadata.response_code = code;
    reply
}

/// The answer of a server, `age` seconds old, as the answer to who has asked.
fn answered(asked: &Message, answer: &Message, age: u32) -> Message {
    let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    let (said, metadata) = (&answer.metadata, &mut reply.metadata);
    *metadata = Metadata::response_from_request(&asked.metadata);
    metadata.authoritative = said.authoritative && age == 0;
    metadata.recursion_available = true;
    metadata.authentic_data = said.authentic_data;
    metadata.response_code = said.response_code;
    reply.queries.clone_from(&asked.queries);
    reply.answers.clone_from(&answer.answers);
    reply.authorities.clone_from(&answer.authorities);
    reply.additionals.clone_from(&answer.additionals);
    let records = reply
        .answers
        .iter_mut()
        .chain(&mut reply.authorities)
        .chain(&mut reply.additionals);
    records.for_each(|record| record.ttl = record.ttl.saturating_sub(age));
    if let Some(edns) = &asked.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(PAYLOAD);
        ours.set_dnssec_ok(edns.flags().dnssec_ok);
        reply.set_edns(ours);
    }
    reply
}

/// The bytes of a reply of which at most `most` may be sent: one that is longer says so, and has nothing in it.
pub(crate) fn bytes(reply: &Reply, most: usize) -> Option<Vec<u8>> {
    let whole = reply.message.to_vec().ok()?;
    let header = Header::read(&mut BinDecoder::new(&whole)).ok()?.metadata;
    if whole.len() <= most && header.truncation == reply.message.metadata.truncation {
        return Some(whole);
    }
    if let (Some(rest), true) = (reply.raw.get(2..), reply.raw.len() <= most) {
        return Some([&reply.message.metadata.id.to_be_bytes(), rest].concat());
    }
    reply.message.truncate().to_vec().ok()
}

/// The same for a reply to `heard`, by UDP.
pub(crate) fn datagram(reply: &Reply, heard: &[u8]) -> Option<Vec<u8>> {
    let most = Message::from_vec(heard).map_or(LEAST_PAYLOAD.into(), |message| payload(&message));
    bytes(reply, most)
}

#[cfg(test)]
mod tests;
