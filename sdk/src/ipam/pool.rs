// SPDX-License-Identifier: Apache-2.0
//! A set of addresses that are given out lowest first.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// The addresses of one family that are free.
///
/// Network and broadcast addresses are members like any other. Operations with an address of the other family, or
/// outside of the prefix, do nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    prefix: IpNet,
    /// First and last address of each run of free ones. Runs never touch.
    free: BTreeMap<u128, u128>,
}

impl Pool {
    /// All addresses of `prefix`.
    pub fn new(prefix: IpNet) -> Self {
        let prefix = prefix.trunc();
        let free = BTreeMap::from([(number(prefix.network()), number(prefix.broadcast()))]);
        Self { prefix, free }
    }

    /// The prefix that it was made of.
    pub fn prefix(&self) -> IpNet {
        self.prefix
    }

    /// Whether `ip` is free.
    pub fn is_free(&self, ip: IpAddr) -> bool {
        self.prefix.contains(&ip) && self.run(number(ip)).is_some()
    }

    /// How many are free.
    pub fn free(&self) -> u128 {
        let run = |(first, last): (&u128, &u128)| (last - first).saturating_add(1);
        self.free.iter().map(run).fold(0, u128::saturating_add)
    }

    /// Takes the lowest free address outside of `excluded`.
    pub fn pull(&mut self, excluded: &[IpNet]) -> Option<IpAddr> {
        let ip = self.lowest(excluded)?;
        self.take(ip).then_some(ip)
    }

    /// Takes this address; false when it is not free.
    pub fn take(&mut self, ip: IpAddr) -> bool {
        if !self.prefix.contains(&ip) {
            return false;
        }
        let ip = number(ip);
        let Some((first, last)) = self.run(ip) else {
            return false;
        };
        self.free.remove(&first);
        if first < ip {
            self.free.insert(first, ip - 1);
        }
        if ip < last {
            self.free.insert(ip + 1, last);
        }
        true
    }

    /// Gives an address back. One that is free already stays free.
    pub fn put(&mut self, ip: IpAddr) {
        if !self.prefix.contains(&ip) || self.is_free(ip) {
            return;
        }
        let (mut first, mut last) = (number(ip), number(ip));
        let before = first.checked_sub(1).and_then(|before| self.run(before));
        if let Some((start, _)) = before {
            self.free.remove(&start);
            first = start;
        }
        if let Some(end) = last.checked_add(1).and_then(|after| self.free.remove(&after)) {
            last = end;
        }
        self.free.insert(first, last);
    }

    /// The run of free addresses that holds `ip`.
    fn run(&self, ip: u128) -> Option<(u128, u128)> {
        let (&first, &last) = self.free.range(..=ip).next_back()?;
        (ip <= last).then_some((first, last))
    }

    fn lowest(&self, excluded: &[IpNet]) -> Option<IpAddr> {
        let mut excluded: Vec<_> = excluded
            .iter()
            .filter(|net| is_v4(net) == is_v4(&self.prefix))
            .map(|net| (number(net.network()), number(net.broadcast())))
            .collect();
        excluded.sort_unstable();
        let mut excluded = excluded.into_iter().peekable();
        for (&first, &last) in &self.free {
            let mut ip = first;
            loop {
                match excluded.peek() {
                    Some(&(from, to)) if from <= ip && last <= to => break,
                    Some(&(from, to)) if from <= ip => ip = ip.max(to + 1),
                    _ => return Some(self.address(ip)),
                }
                excluded.next();
            }
        }
        None
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.prefix {
            #[allow(
                clippy::cast_possible_truncation,
                reason = "numbers of IPv4 addresses have 32 bits"
            )]
            IpNet::V4(_) => std::net::Ipv4Addr::from(number as u32).into(),
            IpNet::V6(_) => std::net::Ipv6Addr::from(number).into(),
        }
    }
}

fn is_v4(net: &IpNet) -> bool {
    matches!(net, IpNet::V4(_))
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn pool(prefix: &str) -> Pool {
        Pool::new(prefix.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn gives_the_lowest_first_and_every_address_once() {
        let mut pool = pool("192.168.3.4/30");
        let all: Vec<_> = std::iter::from_fn(|| pool.pull(&[])).collect();
        assert_eq!(
            all,
            ["192.168.3.4", "192.168.3.5", "192.168.3.6", "192.168.3.7"].map(ip)
        );
        pool.put(ip("192.168.3.6"));
        pool.put(ip("192.168.3.5"));
        pool.put(ip("192.168.3.5"));
        assert_eq!(pool.free(), 2);
        assert_eq!(pool.pull(&[]), Some(ip("192.168.3.5")));
        assert_eq!(pool.pull(&[]), Some(ip("192.168.3.6")));
        assert_eq!(pool.pull(&[]), None);
    }

    #[test]
    fn never_gives_an_excluded_address() {
        let mut v4 = pool("10.0.0.0/29");
        let excluded = nets(&["fd00::/8", "10.0.0.6/31", "10.0.0.0/30", "10.0.0.1/32"]);
        assert_eq!(v4.pull(&excluded), Some(ip("10.0.0.4")));
        assert_eq!(v4.pull(&excluded), Some(ip("10.0.0.5")));
        assert_eq!(v4.pull(&excluded), None);
        assert_eq!(pool("10.0.0.0/8").pull(&nets(&["0.0.0.0/0"])), None);
        assert_eq!(pool("::/0").pull(&nets(&["::/0"])), None);
        assert_eq!(pool("255.255.255.255/32").pull(&[]), Some(ip("255.255.255.255")));
    }

    #[test]
    fn the_whole_of_ipv6_is_a_pool() {
        let mut all = pool("::/0");
        assert_eq!(all.free(), u128::MAX, "there is one more than a number can say");
        let last = ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(all.take(last) && !all.is_free(last));
        all.put(last);
        assert_eq!(all, pool("::/0"));
    }

    #[test]
    fn an_address_of_another_prefix_or_family_is_ignored() {
        let mut pool = pool("10.0.0.0/30");
        for foreign in ["10.0.0.4", "fd00::1", "::a00:1"] {
            pool.put(ip(foreign));
            assert!(!pool.take(ip(foreign)) && !pool.is_free(ip(foreign)));
        }
        assert_eq!(pool, Pool::new("10.0.0.0/30".parse().unwrap()));
    }

    proptest! {
        /// Against a plain set: the same answers, no overlap, everything back after release.
        #[test]
        fn behaves_as_a_set(
            length in 24_u8..=32,
            steps in proptest::collection::vec((0..3_u8, 0..=255_u8, 0..=255_u8, 27_u8..=32), 1..200),
        ) {
            let prefix: IpNet = format!("10.9.8.0/{length}").parse().unwrap();
            let mut pool = Pool::new(prefix);
            let all: BTreeSet<IpAddr> = (0..=255).map(|host| IpAddr::from([10, 9, 8, host])).filter(|ip| prefix.contains(ip)).collect();
            let mut free = all.clone();
            for (step, host, start, length) in steps {
                let ip = IpAddr::from([10, 9, 8, host]);
                match step {
                    0 => {
                        let excluded: IpNet = format!("10.9.8.{start}/{length}").parse().unwrap();
                        let lowest = free.iter().find(|ip| !excluded.contains(*ip)).copied();
                        prop_assert_eq!(pool.pull(&[excluded]), lowest);
                        lowest.map(|ip| free.remove(&ip));
                    }
                    1 => prop_assert_eq!(pool.take(ip), free.remove(&ip)),
                    _ => {
                        pool.put(ip);
                        if all.contains(&ip) {
                            free.insert(ip);
                        }
                    }
                }
                prop_assert_eq!(pool.is_free(ip), free.contains(&ip));
            }
            for ip in all {
                pool.put(ip);
            }
            prop_assert_eq!(pool, Pool::new(prefix));
        }
    }
}
