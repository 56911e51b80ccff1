// SPDX-License-Identifier: Apache-2.0
//! Sums up the metrics that the hops of connections report in the path.
//!
//! **Guarantees**: each whole number that a segment carries is added to the counter `<segment name>_<metric>` by how
//! much it has grown since it was last seen for this connection; one that has shrunk has begun anew.
//! **Placement**: in a server chain before `connect`, so that the whole path of the answer is seen.
//! **Reads / writes**: the metrics of every segment; what was last seen in [`Ctx::store`].
//! **On close**: adds what has grown since, then forgets the connection; the sums stay.
//! **Cost**: one look-up a metric and call; 16 bytes a metric and connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_api::connection::Connection;
use parking_lot::Mutex;
use tracing::{trace, warn};

use crate::core::{Ctx, Element, NetworkService, Next, Request, Result};

/// How many counters one program has.
pub const MAX_COUNTERS: usize = 4096;

/// How many metrics of one connection are seen.
const MAX_METRICS: usize = 1024;

/// The counters of a program, for whoever exports them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Counters(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    /// Which counter a metric of a segment has, by the names of both.
    numbers: BTreeMap<String, BTreeMap<String, usize>>,
    counts: Vec<u64>,
}

impl Counters {
    /// Every counter by its name, as it is now. Counters only grow.
    pub fn read(&self) -> BTreeMap<String, u64> {
        let table = self.0.lock();
        let mut all = BTreeMap::<_, u64>::new();
        for (segment, metrics) in &table.numbers {
            for (metric, number) in metrics {
                let sum = all.entry(format!("{segment}_{metric}")).or_default();
                *sum = sum.saturating_add(table.counts[*number]);
            }
        }
        all
    }
}

impl Table {
    /// The counter of this metric; nothing when there are too many, or when there is nothing to be counted yet.
    fn number(&mut self, segment: &str, metric: &str, is_zero: bool) -> Option<usize> {
        let known = self.numbers.get(segment).and_then(|metrics| metrics.get(metric));
        if known.is_some() || is_zero {
            return known.copied();
        }
        let new = self.counts.len();
        if new >= MAX_COUNTERS {
            warn!(segment, metric, "{MAX_COUNTERS} counters are in use; not counted");
            return None;
        }
        let metrics = self.numbers.entry(segment.to_string()).or_default();
        metrics.insert(metric.to_string(), new);
        self.counts.push(0);
        Some(new)
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Metrics {
    counters: Counters,
}

/// What was last seen of a connection, by the numbers of the counters, in their order.
#[derive(Default)]
struct Seen(Vec<(usize, u64)>);

impl Seen {
    /// How much the metric has grown, if there is a place for it.
    fn growth(&mut self, number: usize, value: u64) -> Option<u64> {
        match self.0.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(at) => {
                let before = std::mem::replace(&mut self.0[at].1, value);
                Some(value.checked_sub(before).unwrap_or(value))
            }
            Err(_) if self.0.len() >= MAX_METRICS => None,
            Err(at) => {
                self.0.insert(at, (number, value));
                Some(value)
            }
        }
    }
}

impl Metrics {
    /// Sums up in `counters`.
    pub fn new(counters: &Counters) -> Self {
        Self {
            counters: counters.clone(),
        }
    }

    fn record(&self, ctx: &Ctx, connection: &Connection) {
        let Some(path) = &connection.path else {
            return;
        };
        let id = path.path_segments.first().map_or("", |segment| &segment.id);
        let metrics = path.path_segments.iter().flat_map(|segment| {
            let of_segment = segment.metrics.iter();
            of_segment.filter_map(|(metric, value)| Some((&segment.name, metric, value.parse().ok()?)))
        });
        let mut table = self.counters.0.lock();
        ctx.store().update(|seen: &mut Seen| {
            for (segment, metric, value) in metrics.take(MAX_METRICS) {
                let number = table.number(segment, metric, value == 0);
                let grown = number.and_then(|number| Some((number, seen.growth(number, value)?)));
                if let Some((number, growth)) = grown.filter(|(_, growth)| *growth > 0) {
                    trace!(segment, metric, growth, connection = id, "metric");
                    let count = &mut table.counts[number];
                    *count = count.saturating_add(growth);
                }
            }
        });
    }
}

#[async_trait]
impl Element<NetworkService> for Metrics {
    fn name(&self) -> &'static str {
        "metrics"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.request(ctx, message).await?;
        self.record(ctx, &message.connection);
        Ok(())
    }

    async fn close(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        let done = next.close(ctx, message).await;
        self.record(ctx, &message.connection);
        drop(ctx.store().take::<Seen>());
        done
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::connection::PathSegment;

    use super::*;
    use crate::core::testing::{Connection, Probe, before, request, standard_cases};

    /// A request whose only hop reports these metrics.
    fn with<const N: usize>(metrics: [(&str, &str); N]) -> Request {
        let mut message = request();
        let path = message.connection.path.as_mut().expect("a path");
        path.path_segments[0].metrics = metrics.map(|(key, value)| (key.into(), value.into())).into();
        message
    }

    #[tokio::test]
    async fn passes_the_standard_cases() {
        standard_cases::<NetworkService, _>(|| Metrics::new(&Counters::default()), request()).await;
    }

    #[tokio::test]
    async fn counters_grow_by_what_has_grown() {
        let counters = Counters::default();
        let chain = before(Metrics::new(&counters), &Probe::new());
        let (one, other) = (Connection::new(), Connection::new());
        let mut steps = vec![];
        for (connection, value) in [
            (&one, "5"),
            (&one, "7"),
            (&one, "7"),
            (&other, "100"),
            (&one, "2"),
        ] {
            let mut message = with([
                ("rx_bytes", value),
                ("client_interface", "KERNEL/nsm-1"),
                ("bad", "-3"),
            ]);
            chain
                .request(&connection.again(), &mut message)
                .await
                .expect("passes");
            steps.push(counters.read()["nsc_rx_bytes"]);
        }
        assert_eq!(steps, [5, 7, 7, 107, 109]);
        assert_eq!(counters.read().len(), 1);
    }

    #[tokio::test]
    async fn a_close_counts_the_rest_and_forgets_the_connection() {
        let (counters, connection) = (Counters::default(), Connection::new());
        let chain = before(Metrics::new(&counters), &Probe::new());
        let ctx = connection.again();
        chain
            .request(&ctx, &mut with([("drops", "1")]))
            .await
            .expect("passes");
        chain
            .close(&ctx, &mut with([("drops", "4")]))
            .await
            .expect("passes");
        assert_eq!(counters.read()["nsc_drops"], 4);
        assert!(!connection.store.has::<Seen>());
    }

    #[test]
    fn counters_of_one_name_are_one() {
        let (counters, connection) = (Counters::default(), Connection::new());
        let mut message = with([("a_b", "1")]);
        let path = message.connection.path.as_mut().expect("a path");
        let other = PathSegment {
            name: "nsc_a".into(),
            metrics: [("b".to_string(), "2".to_string())].into(),
            ..Default::default()
        };
        path.path_segments.push(other);
        Metrics::new(&counters).record(&connection.again(), &message.connection);
        assert_eq!(counters.read(), [("nsc_a_b".to_string(), 3)].into());
    }

    #[test]
    fn the_number_of_counters_is_bounded() {
        let mut table = Table::default();
        assert_eq!(table.number("nsc", "none yet", true), None);
        for number in 0..MAX_COUNTERS {
            assert_eq!(table.number("nsc", &number.to_string(), false), Some(number));
        }
        assert_eq!(table.number("nsc", "one more", false), None);
        assert_eq!(table.number("nsc", "7", true), Some(7));
    }
}
