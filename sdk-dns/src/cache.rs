// SPDX-License-Identifier: Apache-2.0
//! Answers that may be given again.
//!
//! Two generations, each of half of the entries: when the young one is full it becomes the old one, and what nobody
//! has asked for meanwhile goes with the one before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RData, RecordType};
use tokio::time::Instant;

/// How many answers are kept.
const MOST: usize = 1024;

/// Answers with more records are not kept, so that the memory is bounded.
const RECORDS: usize = 64;

/// No answer is kept longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(3600);

/// No answer that there is nothing is kept longer.
const LONGEST_NOTHING: Duration = Duration::from_secs(300);

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: LowerName,
    kind: RecordType,
    class: DNSClass,
    is_dnssec_ok: bool,
    is_checking_disabled: bool,
}

impl Key {
    /// Of a message with this question, unless what answers it is of no use to others.
    pub(crate) fn new(message: &Message, query: &Query) -> Option<Self> {
        message.metadata.recursion_desired.then(|| Self {
            name: LowerName::new(query.name()),
            kind: query.query_type(),
            class: query.query_class(),
            is_dnssec_ok: message.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            is_checking_disabled: message.metadata.checking_disabled,
        })
    }
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Message>,
    since: Instant,
    until: Instant,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Cache {
    young: HashMap<Key, Entry>,
    old: HashMap<Key, Entry>,
}

impl Cache {
    /// The answer to this, if it still holds, and for how many seconds it has been here.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<(Arc<Message>, u32)> {
        if !self.young.contains_key(key) {
            let entry = self.old.remove(key)?;
            self.insert(key.clone(), entry);
        }
        let entry = self.young.get(key)?;
        if entry.until <= now {
            self.young.remove(key);
            return None;
        }
        let age = now.duration_since(entry.since).as_secs();
        Some((entry.answer.clone(), u32::try_from(age).unwrap_or(u32::MAX)))
    }

    /// Keeps an answer as long as it says.
    pub(crate) fn put(&mut self, key: Key, answer: Arc<Message>, now: Instant) {
        let Some(lifetime) = lifetime(&answer).filter(|lifetime| !lifetime.is_zero()) else {
            return;
        };
        let until = now + lifetime;
        let since = now;
        self.insert(key, Entry { answer, since, until });
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        if self.young.len() >= MOST / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

/// How long an answer holds: as the shortest of its records, or as its zone says of what is not there (RFC 2308).
fn lifetime(answer: &Message) -> Option<Duration> {
    let code = answer.metadata.response_code;
    let records = || answer.all_sections();
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) || records().count() > RECORDS {
        return None;
    }
    let shortest = records().map(|record| record.ttl).min();
    if code == ResponseCode::NoError && !answer.answers.is_empty() {
        return Some(Duration::from_secs(shortest?.into()).min(LONGEST));
    }
    let minimum = answer.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(soa.minimum),
        _ => None,
    })?;
    Some(Duration::from_secs(shortest?.min(minimum).into()).min(LONGEST_NOTHING))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{MessageType, OpCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, Record};

    use super::*;

    fn asked(name: &str) -> (Key, Query) {
        let query = Query::query(Name::from_ascii(name).unwrap(), RecordType::A);
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        (Key::new(&message, &query).unwrap(), query)
    }

    fn answer(ttls: &[u32]) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        for ttl in ttls {
            let data = RData::A(A::new(10, 0, 0, 1));
            message.add_answer(Record::from_rdata(Name::root(), *ttl, data));
        }
        message
    }

    fn nothing(code: ResponseCode, ttl: u32, minimum: u32) -> Message {
        let mut message = answer(&[]);
        message.metadata.response_code = code;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        message
    }

    #[test]
    fn an_answer_holds_as_long_as_its_shortest_record_and_nothing_as_its_zone_says() {
        let seconds = |answer: &Message| lifetime(answer).map(|lifetime| lifetime.as_secs());
        assert_eq!(seconds(&answer(&[30, 5])), Some(5));
        assert_eq!(seconds(&answer(&[u32::MAX])), Some(3600));
        assert_eq!(seconds(&answer(&[])), None);
        assert_eq!(seconds(&nothing(ResponseCode::NXDomain, 60, 20)), Some(20));
        assert_eq!(seconds(&nothing(ResponseCode::NoError, 10, 20)), Some(10));
        assert_eq!(seconds(&nothing(ResponseCode::NXDomain, 9000, 9000)), Some(300));
        assert_eq!(seconds(&nothing(ResponseCode::ServFail, 60, 60)), None);
        assert_eq!(seconds(&answer(&[60; RECORDS + 1])), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_ages_and_goes() {
        let (mut cache, (key, _)) = (Cache::default(), asked("a.example."));
        cache.put(key.clone(), Arc::new(answer(&[30])), Instant::now());
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(cache.get(&key, Instant::now()).unwrap().1, 29);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.get(&key, Instant::now()).is_none());
        cache.put(key.clone(), Arc::new(answer(&[0])), Instant::now());
        assert!(cache.get(&key, Instant::now()).is_none());
    }

    #[test]
    fn what_is_asked_for_stays_and_the_rest_makes_room() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (wanted, _) = asked("wanted.example.");
        cache.put(wanted.clone(), Arc::new(answer(&[60])), now);
        for number in 0..4 * MOST {
            let (key, _) = asked(&format!("n{number}.example."));
            cache.put(key, Arc::new(answer(&[60])), now);
            assert!(cache.get(&wanted, now).is_some());
            assert!(cache.young.len() + cache.old.len() <= MOST);
        }
        assert!(cache.get(&asked("n0.example.").0, now).is_none());
    }

    #[test]
    fn the_case_of_a_name_makes_no_difference_and_what_is_not_recursive_is_not_kept() {
        assert_eq!(asked("A.Example.").0, asked("a.example.").0);
        let mut message = Message::query();
        message.metadata.recursion_desired = false;
        assert!(Key::new(&message, &asked("a.").1).is_none());
    }
}
