// SPDX-License-Identifier: Apache-2.0
//! Which notices become Events: the news among them, and not too many.
//!
//! A client that is refused asks again and again. The first refusal for a reason is told at once, and then once a minute
//! that it goes on, with how often; a success only after a refusal that was told. A node tells no more than
//! [`BURST`] at once and [`PER_SECOND`] in the long run, however many of its clients are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use nsm_sdk::networkservice::report::{Became, Notice};
use tokio::time::Instant;

/// How many connections are remembered.
const MAX_CONNECTIONS: usize = 4096;

/// How often the same is told of a connection.
const AGAIN: Duration = Duration::from_secs(60);

/// How soon another refusal is told of it.
const OTHER: Duration = Duration::from_secs(1);

/// How many are told at once.
const BURST: f64 = 25.0;

/// How many are told in the long run, a second.
const PER_SECOND: f64 = 5.0;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Limits {
    told: BTreeMap<(String, String), Told>,
    left: f64,
    since: Instant,
}

/// What was told last of a connection.
#[derive(Debug)]
struct Told {
    reason: String,
    at: Instant,
    /// How often it was so.
    count: i32,
}

impl Limits {
    /// Nothing was told yet.
    pub(crate) fn new() -> Self {
        Self {
            told: BTreeMap::new(),
            left: BURST,
            since: Instant::now(),
        }
    }

    /// Whether a notice is told, and how often it was so.
    pub(crate) fn judge(&mut self, notice: &Notice) -> Option<i32> {
        let key = (notice.client.clone(), notice.id.clone());
        let now = Instant::now();
        let before = self.told.get_mut(&key);
        if before.is_none() && notice.became == Became::Attached {
            return None;
        }
        let mut count = 1;
        if let Some(before) = before {
            let is_same = before.reason == notice.reason;
            before.count = if is_same {
                before.count.saturating_add(1)
            } else {
                before.count
            };
            count = if is_same { before.count } else { 1 };
            let pause = match notice.became {
                Became::Attached => Duration::ZERO,
                _ if is_same => AGAIN,
                // However fast it was mended.
                Became::Healed => Duration::ZERO,
                Became::Refused => OTHER,
            };
            if now.duration_since(before.at) < pause {
                return None;
            }
        }
        self.may(now).then(|| self.note(key, notice, count, now))
    }

    /// Whether the node may tell one more.
    fn may(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.since).as_secs_f64() * PER_SECOND;
        (self.left, self.since) = ((self.left + gained).min(BURST), now);
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }

    fn note(&mut self, key: (String, String), notice: &Notice, count: i32, now: Instant) -> i32 {
        if notice.became == Became::Attached {
            self.told.remove(&key);
            return count;
        }
        if self.told.len() >= MAX_CONNECTIONS && !self.told.contains_key(&key) {
            let oldest = self.told.iter().min_by_key(|(_, told)| told.at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.told.remove(&oldest);
            }
        }
        let told = Told {
            reason: notice.reason.clone(),
            at: now,
            count,
        };
        self.told.insert(key, told);
        count
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn notice(id: &str, became: Became, reason: &str) -> Notice {
        Notice {
            client: "spiffe://mesh/ns/default/pod/nsc-1".into(),
            id: id.into(),
            network_service: "vpn".into(),
            endpoint: String::new(),
            became,
            reason: reason.into(),
            text: String::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_told_at_once_and_then_once_a_minute_with_how_often() {
        let (mut limits, mut told) = (Limits::new(), Vec::new());
        let refused = notice("1", Became::Refused, "no-endpoint");
        for _ in 0..25 {
            told.extend(limits.judge(&refused));
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(told, [1, 13, 25]);
        let other = notice("1", Became::Refused, "no-forwarder");
        assert_eq!(limits.judge(&other), Some(1), "another reason is news");
        assert_eq!(limits.judge(&refused), None, "but not at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_success_is_told_only_after_a_refusal_that_was_told() {
        let mut limits = Limits::new();
        let attached = notice("1", Became::Attached, "attached");
        assert_eq!(limits.judge(&attached), None);
        let refused = notice("1", Became::Refused, "no-endpoint");
        assert_eq!(limits.judge(&refused), Some(1));
        assert_eq!(limits.judge(&attached), Some(1));
        assert_eq!(limits.judge(&attached), None);
        assert_eq!(limits.judge(&refused), Some(1), "it is news again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_mended_is_told_however_soon_after_a_refusal() {
        let mut limits = Limits::new();
        let healed = notice("1", Became::Healed, "healed");
        assert_eq!(
            limits.judge(&notice("1", Became::Refused, "no-endpoint")),
            Some(1)
        );
        assert_eq!(limits.judge(&notice("1", Became::Refused, "endpoint-lost")), None);
        assert_eq!(limits.judge(&healed), Some(1));
        assert_eq!(limits.judge(&healed), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_all_the_time_is_told_once_a_minute() {
        let (mut limits, mut told) = (Limits::new(), 0);
        for _ in 0..120 {
            told += i32::from(limits.judge(&notice("1", Became::Healed, "healed")).is_some());
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(told, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_tells_no_more_than_its_share_and_remembers_no_more_than_the_bound() {
        let (mut limits, mut told) = (Limits::new(), 0);
        let number = |number: usize| notice(&number.to_string(), Became::Refused, "no-endpoint");
        for at in 0..1000 {
            told += usize::from(limits.judge(&number(at)).is_some());
        }
        assert_eq!(told, 25);
        advance(Duration::from_secs(2)).await;
        let more = (0..1000).filter(|at| limits.judge(&number(at + 5000)).is_some());
        assert_eq!(more.count(), 10);
        for at in 0..2 * MAX_CONNECTIONS {
            advance(Duration::from_secs(1)).await;
            limits.judge(&number(at + 10_000));
        }
        assert_eq!(limits.told.len(), MAX_CONNECTIONS);
    }
}
