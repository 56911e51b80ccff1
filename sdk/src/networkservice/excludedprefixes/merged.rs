// SPDX-License-Identifier: Apache-2.0
//! Prefixes that come and go, merged at any time.
//!
//! **Guarantees**: what [`Merged::all`] returns is what merging everything that is there would give.
//! **Cost**: a few look-ups for a prefix that comes or goes, however many there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// How often each is there.
    counts: BTreeMap<IpNet, usize>,
    /// The fewest prefixes that cover the same.
    cover: BTreeSet<IpNet>,
}

impl Merged {
    pub(super) fn add(&mut self, net: IpNet) {
        let net = net.trunc();
        let count = self.counts.entry(net).or_default();
        *count += 1;
        if *count == 1 {
            self.cover(net);
        }
    }

    /// Takes one back that was added.
    pub(super) fn remove(&mut self, net: IpNet) {
        let net = net.trunc();
        if let Some(count) = self.counts.get_mut(&net) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&net);
                self.uncover(net);
            }
        }
    }

    /// The fewest prefixes that cover everything, those of IPv4 first.
    pub(super) fn all(&self) -> impl Iterator<Item = IpNet> {
        self.cover.iter().copied()
    }

    /// Those that were added and contain `address`.
    pub(super) fn containing(&self, address: IpAddr) -> impl Iterator<Item = IpNet> {
        let host = IpNet::from(address);
        let parts = self.covering(host).map(|whole| parts(host, whole));
        parts
            .into_iter()
            .flatten()
            .filter(|net| self.counts.contains_key(net))
    }

    /// As [`Merged::all`], of everything but `without`.
    pub(super) fn all_but(&mut self, without: &BTreeSet<IpNet>) -> Vec<IpNet> {
        let mut left = Vec::with_capacity(without.len());
        for net in without {
            if let Some(count) = self.counts.remove_entry(net) {
                left.push(count);
                self.uncover(*net);
            }
        }
        let all = self.all().collect();
        for (net, count) in left {
            self.counts.insert(net, count);
            self.cover(net);
        }
        all
    }

    /// What contains the prefix of that which is covered.
    fn covering(&self, net: IpNet) -> Option<IpNet> {
        let before = self.cover.range(..=net).next_back().copied();
        before.filter(|before| before.contains(&net))
    }

    fn cover(&mut self, mut net: IpNet) {
        if self.covering(net).is_some() {
            return;
        }
        let narrower: Vec<_> = self.cover.range(within(net)).copied().collect();
        for net in narrower {
            self.cover.remove(&net);
        }
        while let (Some(sibling), Some(both)) = (sibling(net), net.supernet())
            && self.cover.remove(&sibling)
        {
            net = both;
        }
        self.cover.insert(net);
    }

    /// Mends the cover after `net` has gone: its part leaves what is covered, unless others are there.
    fn uncover(&mut self, net: IpNet) {
        let Some(whole) = self.covering(net) else {
            return;
        };
        if parts(net, whole).any(|part| self.counts.contains_key(&part)) {
            return;
        }
        self.cover.remove(&whole);
        let others = parts(net, whole).take_while(|part| *part != whole);
        self.cover.extend(others.filter_map(sibling));
        let narrower: Vec<_> = self.counts.range(within(net)).map(|(net, _)| *net).collect();
        for net in narrower {
            self.cover(net);
        }
    }
}

/// Everything that contains `net`, from itself to `whole`.
fn parts(net: IpNet, whole: IpNet) -> impl Iterator<Item = IpNet> {
    let wider = std::iter::successors(Some(net), |net| net.supernet());
    wider.take_while(move |part| part.prefix_len() >= whole.prefix_len())
}

/// The prefix and everything that it contains.
fn within(net: IpNet) -> RangeInclusive<IpNet> {
    net..=IpNet::from(net.broadcast())
}

/// The other half of what the prefix is one half of.
fn sibling(net: IpNet) -> Option<IpNet> {
    let halves = net.supernet()?.subnets(net.prefix_len()).ok()?;
    halves.into_iter().find(|half| *half != net)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few enough that they meet often.
    fn net() -> impl Strategy<Value = IpNet> {
        let v4 = (0_u8..32, 27_u8..=32).prop_map(|(host, length)| format!("10.0.0.{host}/{length}"));
        let v6 = (0_u8..8, 124_u8..=128).prop_map(|(host, length)| format!("fd00::{host}/{length}"));
        prop_oneof![v4, v6, Just("0.0.0.0/0".to_string())].prop_map(|text| text.parse().unwrap())
    }

    proptest! {
        #[test]
        fn what_comes_and_goes_is_merged_as_at_once(
            added in prop::collection::vec(net(), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
            without in prop::collection::btree_set(net().prop_map(|net| net.trunc()), 0..4),
        ) {
            let (mut merged, mut there) = (Merged::default(), added.clone());
            added.into_iter().for_each(|net| merged.add(net));
            for at in removed {
                if !there.is_empty() {
                    merged.remove(there.swap_remove(at.index(there.len())));
                }
            }
            prop_assert_eq!(merged.all().collect::<Vec<_>>(), IpNet::aggregate(&there));
            let rest: Vec<_> = there.iter().copied().filter(|net| !without.contains(&net.trunc())).collect();
            prop_assert_eq!(merged.all_but(&without), IpNet::aggregate(&rest));
            prop_assert_eq!(merged.all().collect::<Vec<_>>(), IpNet::aggregate(&there));
            let address = "10.0.0.7".parse().unwrap();
            let holds = there.iter().any(|net| net.contains(&address));
            prop_assert_eq!(merged.containing(address).next().is_some(), holds);
        }
    }
}
