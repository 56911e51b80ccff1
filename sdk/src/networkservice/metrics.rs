// SPDX-License-Identifier: Apache-2.0
//! Sums up the metrics that the hops of connections report in the path.
//!
//! **Guarantees**: each whole number that a segment carries is added to the counter `<segment name>_<metric>` by how
//! much it has grown since it was last seen for this connection; one that has shrunk has begun anew.
//! **Placement**: in a server chain before `connect`, so that the whole path of the answer is seen.
//! **Reads / writes**: the metrics of every segment; what was last seen in [`Ctx::store`].
//! **On close**: adds what has grown since, then forgets the connection; the sums stay.
//! **Cost**: one look-up a metric and call.

use std::collections::{BTreeMap, HashMap};
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
pub struct Counters(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counters {
    /// Every counter by its name, as it is now. Counters only grow.
    pub fn read(&self) -> BTreeMap<String, u64> {
        self.0.lock().clone()
    }

    fn add(&self, name: &str, growth: u64) {
        let mut counters = self.0.lock();
        if let Some(counter) = counters.get_mut(name) {
            *counter = counter.saturating_add(growth);
        } else if counters.len() < MAX_COUNTERS {
            counters.insert(name.to_string(), growth);
        } else {
            drop(counters);
            warn!(name, "{MAX_COUNTERS} counters are in use; not counted");
        }
    }
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub struct Metrics {
    counters: Counters,
}

/// What was last seen of a connection, by the names of the counters.
#[derive(Default)]
struct Seen(HashMap<String, u64>);

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
            let whole = |(metric, value): (&String, &String)| {
                let value: u64 = value.parse().ok()?;
                Some((format!("{}_{metric}", segment.name), value))
            };
            segment.metrics.iter().filter_map(whole)
        });
        for (name, value) in metrics.take(MAX_METRICS) {
            let before = ctx.store().update(|seen: &mut Seen| {
                let has_place = seen.0.len() < MAX_METRICS || seen.0.contains_key(&name);
                has_place.then(|| seen.0.insert(name.clone(), value).unwrap_or(0))
            });
            let growth = before.map(|before| value.checked_sub(before).unwrap_or(value));
            if let Some(growth) = growth.filter(|growth| *growth > 0) {
                trace!(name, growth, connection = id, "metric");
                self.counters.add(&name, growth);
            }
        }
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
    fn the_number_of_counters_is_bounded() {
        let counters = Counters::default();
        for number in 0..MAX_COUNTERS + 10 {
            counters.add(&number.to_string(), 1);
        }
        assert_eq!(counters.read().len(), MAX_COUNTERS);
        counters.add("0", u64::MAX);
        assert_eq!(counters.read()["0"], u64::MAX);
    }
}
