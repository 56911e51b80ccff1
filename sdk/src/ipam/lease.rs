// SPDX-License-Identifier: Apache-2.0
//! Which connection holds which addresses: one record a connection and element, freed exactly once.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use ipnet::IpNet;
use parking_lot::Mutex;

use super::pool::Pool;
use crate::core::meters::{Family, Kind, Meters};
use crate::core::{Error, Result, Store};

/// What may still be given out.
static FREE: Family = Family {
    name: "nsm_ipam_free",
    help: "Addresses that are free, of each prefix that this endpoint gives out.",
    kind: Kind::Gauge,
    labels: &["prefix"],
};

/// What could be given out if nothing were.
static ALL: Family = Family {
    name: "nsm_ipam_addresses",
    help: "Addresses of each prefix that this endpoint gives out, free or not.",
    kind: Kind::Gauge,
    labels: &["prefix"],
};

/// The pools of one element, shared by its connections.
#[derive(Clone)]
pub(super) struct Pools(Arc<Shared>);

struct Shared {
    pools: Mutex<Vec<Pool>>,
    /// Where is told what is free.
    meters: OnceLock<Meters>,
}

/// What the elements of a chain hold for one connection.
#[derive(Default)]
struct Leases(Vec<Lease>);

/// What one element holds for one connection. Dropping it frees everything.
struct Lease {
    pools: Pools,
    /// What the last successful request left, or what the first one is to leave.
    held: Vec<IpAddr>,
    /// What a refresh that still runs is to put in place of it.
    proposed: Option<Vec<IpAddr>>,
}

impl Pools {
    /// Errors: `no-prefix`, `overlapping-prefixes`.
    pub(super) fn new(prefixes: &[IpNet]) -> Result<Self> {
        if prefixes.is_empty() {
            let text = "required one or more prefixes to give addresses from";
            return Err(Error::invalid("no-prefix", text));
        }
        for (at, one) in prefixes.iter().enumerate() {
            if let Some(other) = prefixes[..at].iter().find(|other| overlap(one, other)) {
                let text = format!("the prefixes {other} and {one} overlap; remove one of them");
                return Err(Error::invalid("overlapping-prefixes", text));
            }
        }
        let pools = prefixes.iter().copied().map(Pool::new).collect();
        Ok(Self(Arc::new(Shared {
            pools: Mutex::new(pools),
            meters: OnceLock::new(),
        })))
    }

    /// Looks at the pools.
    pub(super) fn look<R>(&self, look: impl FnOnce(&[Pool]) -> R) -> R {
        look(&self.0.pools.lock())
    }

    /// Changes the pools for all connections.
    pub(super) fn change(&self, change: impl FnOnce(&mut [Pool])) {
        change(&mut self.0.pools.lock());
    }

    /// What the connection holds.
    pub(super) fn held(&self, store: &Store) -> Option<Vec<IpAddr>> {
        store.update(|leases: &mut Leases| leases.find(self).map(|lease| lease.held.clone()))
    }

    /// Leases what `allocate` takes from the pools, in which what the connection holds counts as free.
    /// Whether it replaces that or is freed again [`Pools::settle`] decides.
    pub(super) fn lease(
        &self,
        store: &Store,
        allocate: impl FnOnce(&mut [Pool]) -> Option<Vec<IpAddr>>,
    ) -> Option<Vec<IpAddr>> {
        store.update(|leases: &mut Leases| {
            let mut pools = self.0.pools.lock();
            let Some(lease) = leases.find(self) else {
                let held = allocate(&mut pools)?;
                self.tell(&pools);
                drop(pools);
                let pools = self.clone();
                leases.0.push(Lease {
                    pools,
                    held: held.clone(),
                    proposed: None,
                });
                return Some(held);
            };
            put_all(&mut pools, lease.proposed.take().iter().flatten());
            put_all(&mut pools, &lease.held);
            let proposed = allocate(&mut pools);
            for ip in &lease.held {
                pools.iter_mut().any(|pool| pool.take(*ip));
            }
            lease.proposed.clone_from(&proposed);
            self.tell(&pools);
            proposed
        })
    }

    /// Ends a refresh: what was leased during it replaces what was held, or is freed.
    pub(super) fn settle(&self, store: &Store, done: bool) {
        store.update(|leases: &mut Leases| {
            let Some(lease) = leases.find(self) else { return };
            let Some(mut dropped) = lease.proposed.take() else {
                return;
            };
            if done {
                std::mem::swap(&mut dropped, &mut lease.held);
            }
            let gone = dropped.iter().filter(|ip| !lease.held.contains(ip));
            let mut pools = self.0.pools.lock();
            put_all(&mut pools, gone);
            self.tell(&pools);
        });
    }

    /// Lets these meters know from now on how many addresses of each prefix are free.
    pub(super) fn count_by(&self, meters: &Meters) {
        if !meters.is_on() || self.0.meters.set(meters.clone()).is_err() {
            return;
        }
        let pools = self.0.pools.lock();
        for pool in pools.iter() {
            let all = Pool::new(pool.prefix());
            meters.set(&ALL, &[&pool.prefix().to_string()], free(&all));
        }
        self.tell(&pools);
    }

    fn tell(&self, pools: &[Pool]) {
        let Some(meters) = self.0.meters.get() else { return };
        for pool in pools {
            meters.set(&FREE, &[&pool.prefix().to_string()], free(pool));
        }
    }

    /// Frees what the connection holds.
    pub(super) fn release(&self, store: &Store) {
        store.update(|leases: &mut Leases| leases.0.retain(|lease| !lease.is_of(self)));
    }
}

/// How many addresses are free, as far as a gauge can say it.
fn free(pool: &Pool) -> u64 {
    u64::try_from(pool.free()).unwrap_or(u64::MAX)
}

impl Leases {
    fn find(&mut self, pools: &Pools) -> Option<&mut Lease> {
        self.0.iter_mut().find(|lease| lease.is_of(pools))
    }
}

impl Lease {
    fn is_of(&self, pools: &Pools) -> bool {
        Arc::ptr_eq(&self.pools.0, &pools.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // One lock for all: an address that is both held and proposed must not be freed twice.
        let mut pools = self.pools.0.pools.lock();
        put_all(&mut pools, self.held.iter().chain(self.proposed.iter().flatten()));
        self.pools.tell(&pools);
    }
}

fn put_all<'a>(pools: &mut [Pool], ips: impl IntoIterator<Item = &'a IpAddr>) {
    for ip in ips {
        pools.iter_mut().for_each(|pool| pool.put(*ip));
    }
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(prefix: &str) -> Pools {
        Pools::new(&[prefix.parse().unwrap()]).unwrap()
    }

    fn pull(pools: &mut [Pool]) -> Option<Vec<IpAddr>> {
        pools[0].pull(&[]).map(|ip| vec![ip])
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn a_failed_refresh_keeps_what_was_held() {
        let pools = pools("10.0.0.0/30");
        let (one, other) = (Store::default(), Store::default());
        assert_eq!(pools.lease(&one, pull), Some(vec![ip(0)]));
        let third = pools.lease(&one, |pools| pools[0].take(ip(2)).then(|| vec![ip(2)]));
        assert_eq!(third, Some(vec![ip(2)]));
        assert_eq!(
            pools.lease(&other, pull),
            Some(vec![ip(1)]),
            "both are taken meanwhile"
        );
        pools.settle(&one, false);
        assert_eq!(pools.held(&one), Some(vec![ip(0)]));
        assert!(pools.look(|pools| pools[0].is_free(ip(2)) && !pools[0].is_free(ip(0))));
    }

    #[test]
    fn a_refresh_may_keep_a_part_of_what_was_held() {
        let pools = pools("10.0.0.0/30");
        let store = Store::default();
        let take = |wanted: [u8; 2]| {
            move |pools: &mut [Pool]| {
                Some(
                    wanted
                        .map(ip)
                        .into_iter()
                        .filter(|ip| pools[0].take(*ip))
                        .collect::<Vec<_>>(),
                )
            }
        };
        pools.lease(&store, take([0, 1]));
        assert_eq!(pools.lease(&store, take([1, 2])), Some(vec![ip(1), ip(2)]));
        pools.settle(&store, true);
        let free = |pools: &[Pool]| {
            (0..4)
                .filter(|last| pools[0].is_free(ip(*last)))
                .collect::<Vec<_>>()
        };
        assert_eq!(pools.look(free), [0, 3]);
        drop(store);
        assert_eq!(pools.look(free), [0, 1, 2, 3]);
    }

    #[test]
    fn elements_of_one_chain_do_not_mix_their_records() {
        let (one, other) = (pools("10.0.0.0/30"), pools("10.0.0.0/30"));
        let store = Store::default();
        one.lease(&store, pull);
        assert_eq!(other.held(&store), None);
        assert_eq!(other.lease(&store, pull), Some(vec![ip(0)]));
        other.release(&store);
        assert_eq!(one.held(&store), Some(vec![ip(0)]));
    }

    #[test]
    fn no_and_overlapping_prefixes_are_refused() {
        let reason = |prefixes: &[&str]| {
            let prefixes: Vec<_> = prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
            Pools::new(&prefixes)
                .err()
                .map(|error| error.reason().to_string())
        };
        assert_eq!(reason(&[]).as_deref(), Some("no-prefix"));
        assert_eq!(
            reason(&["10.0.0.0/8", "fd00::/64", "10.1.0.0/24"]).as_deref(),
            Some("overlapping-prefixes")
        );
        assert_eq!(reason(&["10.0.0.0/24", "fd00::/64", "10.0.1.0/24"]), None);
    }
}
