// SPDX-License-Identifier: Apache-2.0
//! Who is asked for which name.
//!
//! A name is asked for where the longest zone is that it belongs to; one of an address (`in-addr.arpa`, `ip6.arpa`)
//! also behind the wire that leads there. Everything else is asked for where the pod has always asked. Servers that
//! come without a domain are asked for what nobody else knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::{LowerName, Name};
use ipnet::IpNet;
use nsm_api::connectioncontext::{ConnectionContext, DnsConfig, Route};
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;

use crate::cache::Cache;

/// The port of servers that say none.
pub(crate) const PORT: u16 = 53;

/// What one connection may bring: configurations, servers and domains of each, and prefixes behind it.
const CONFIGS: usize = 16;
const SERVERS: usize = 8;
const DOMAINS: usize = 64;
const PREFIXES: usize = 256;

/// Servers of which each knows the same.
pub(crate) type Group = Vec<SocketAddr>;

/// What one connection has told, as far as it makes sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    configs: Vec<(Group, Vec<LowerName>)>,
    prefixes: Vec<IpNet>,
}

impl Told {
    /// Reads what `id` tells; `is_us` finds servers that would be ourselves.
    pub(crate) fn read(id: &str, context: &ConnectionContext, is_us: impl Fn(&SocketAddr) -> bool) -> Self {
        let told = context.dns_context.as_ref();
        let configs = told.map_or(&[][..], |dns| &dns.configs);
        if configs.len() > CONFIGS {
            warn!(
                id,
                configs = configs.len(),
                most = CONFIGS,
                "an endpoint tells too much of DNS"
            );
        }
        let configs = configs.iter().take(CONFIGS);
        let configs = configs.map(|config| (servers(id, config, &is_us), domains(id, config)));
        let configs: Vec<_> = configs.filter(|(servers, _)| !servers.is_empty()).collect();
        let prefixes = if configs.is_empty() {
            Vec::new()
        } else {
            prefixes(context)
        };
        Self { configs, prefixes }
    }

    /// Whether there is nobody to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.configs.is_empty()
    }
}

fn servers(id: &str, config: &DnsConfig, is_us: impl Fn(&SocketAddr) -> bool) -> Group {
    let mut servers = Group::new();
    for text in &config.dns_server_ips {
        match server(text) {
            Some(server) if is_us(&server) || !is_elsewhere(server.ip()) => {
                warn!(id, %server, "a DNS server of an endpoint would be in this pod, so it is not asked");
            }
            Some(server) if servers.len() < SERVERS && !servers.contains(&server) => servers.push(server),
            Some(_) => {}
            None => warn!(id, server = text, "a DNS server of an endpoint is no address"),
        }
    }
    servers
}

/// An address with or without a port.
fn server(text: &str) -> Option<SocketAddr> {
    let plain = || text.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, PORT));
    let server = text.parse().ok().or_else(plain)?;
    Some(SocketAddr::new(server.ip().to_canonical(), server.port())).filter(|server| server.port() != 0)
}

/// Whether an address may be one of another pod.
fn is_elsewhere(ip: IpAddr) -> bool {
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || is_broadcast)
}

fn domains(id: &str, config: &DnsConfig) -> Vec<LowerName> {
    let mut domains = Vec::new();
    for text in config.search_domains.iter().take(DOMAINS) {
        match Name::from_utf8(text.trim_end_matches('.')) {
            Ok(mut name) => {
                name.set_fqdn(true);
                domains.push(LowerName::from(name));
            }
            Err(error) => warn!(id, domain = text, %error, "a search domain of an endpoint is no name"),
        }
    }
    domains
}

/// The addresses to which the wire leads, but not those of a default route.
fn prefixes(context: &ConnectionContext) -> Vec<IpNet> {
    let Some(ip) = context.ip_context.as_ref() else {
        return Vec::new();
    };
    let hosts = ip.dst_nets().into_iter().chain(ip.src_nets());
    let hosts = hosts.map(|net| IpNet::from(net.addr()));
    let routes = ip.src_routes.iter().filter_map(Route::prefix_net);
    let all = hosts.chain(routes).filter(|net| net.prefix_len() > 0);
    all.take(PREFIXES).collect()
}

/// Who is asked for which name, with the answers that hold as long as that does not change.
#[derive(Debug, Default)]
pub(crate) struct Table {
    zones: HashMap<LowerName, Vec<Group>>,
    prefixes: Vec<(IpNet, Vec<Group>)>,
    others: Vec<Group>,
    /// The answers that are known.
    pub(crate) cache: Mutex<Cache>,
    /// Servers that have not answered, and until when they are asked last.
    silent: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Table {
    /// Of what connections have told, and of the servers that the pod has always asked.
    pub(crate) fn new<'a>(told: impl IntoIterator<Item = &'a Told>, always: Group) -> Self {
        let mut table = Self::default();
        if !always.is_empty() {
            table.others.push(always);
        }
        let mut prefixes = BTreeMap::<IpNet, Vec<Group>>::new();
        for told in told {
            for (servers, domains) in &told.configs {
                for domain in domains {
                    add(table.zones.entry(domain.clone()).or_default(), servers);
                }
                if domains.is_empty() {
                    add(&mut table.others, servers);
                }
                for prefix in &told.prefixes {
                    add(prefixes.entry(prefix.trunc()).or_default(), servers);
                }
            }
        }
        table.prefixes = prefixes.into_iter().collect();
        table
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        table
    }

    /// Who is asked for this name, group by group until one knows it.
    pub(crate) fn route(&self, name: &Name) -> &[Group] {
        let mut zone = LowerName::new(name);
        loop {
            if let Some(groups) = self.zones.get(&zone) {
                return groups;
            }
            if zone.is_root() {
                break;
            }
            zone = zone.base_name();
        }
        let behind = name.parse_arpa_name().ok();
        let behind = behind.and_then(|net| self.prefixes.iter().find(|(prefix, _)| prefix.contains(&net)));
        behind.map_or(&self.others, |(_, groups)| groups)
    }

    /// These servers, those that were silent of late last; of which only the others when `is_spare`.
    pub(crate) fn order(&self, group: &Group, is_spare: bool, now: Instant) -> Group {
        let mut silent = self.silent.lock();
        silent.retain(|_, until| *until > now);
        let is_silent = |server: &&SocketAddr| silent.contains_key(server);
        let (last, first): (Vec<_>, Vec<_>) = group.iter().partition(is_silent);
        let last = last.into_iter().filter(|_| !is_spare);
        first.into_iter().chain(last).copied().collect()
    }

    /// Remembers whether a server has answered.
    pub(crate) fn heard(&self, server: SocketAddr, silent_until: Option<Instant>) {
        match silent_until {
            Some(until) => drop(self.silent.lock().insert(server, until)),
            None => drop(self.silent.lock().remove(&server)),
        }
    }

    /// The domains that have servers of their own.
    pub(crate) fn zones(&self) -> HashSet<String> {
        self.zones.keys().map(ToString::to_string).collect()
    }
}

fn add(groups: &mut Vec<Group>, group: &Group) {
    if !groups.contains(group) {
        groups.push(group.clone());
    }
}

#[cfg(test)]
mod tests {
    use nsm_api::connectioncontext::{DnsContext, IpContext};

    use super::*;

    fn told(server: &str, domains: &[&str], routes: &[&str]) -> Told {
        let config = DnsConfig {
            dns_server_ips: vec![server.into()],
            search_domains: domains.iter().map(ToString::to_string).collect(),
        };
        let route = |prefix: &&str| Route {
            prefix: prefix.to_string(),
            ..Default::default()
        };
        let context = ConnectionContext {
            dns_context: Some(DnsContext {
                configs: vec![config],
            }),
            ip_context: Some(IpContext {
                src_routes: routes.iter().map(route).collect(),
                ..Default::default()
            }),
            ..Default::default()
        };
        Told::read("nsc-0", &context, |_| false)
    }

    fn asked(table: &Table, name: &str) -> Vec<String> {
        let groups = table.route(&Name::from_ascii(name).unwrap()).iter();
        groups.map(|group| group[0].ip().to_string()).collect()
    }

    fn always() -> Group {
        vec!["10.96.0.10:53".parse().unwrap()]
    }

    #[test]
    fn the_longest_zone_has_a_name_and_all_others_go_where_they_always_went() {
        let (wide, narrow) = (
            told("10.0.0.1", &["corp"], &[]),
            told("10.0.0.2", &["Lab.Corp."], &[]),
        );
        let table = Table::new([&wide, &narrow], always());
        assert_eq!(asked(&table, "db.corp."), ["10.0.0.1"]);
        assert_eq!(asked(&table, "corp."), ["10.0.0.1"]);
        assert_eq!(asked(&table, "a.LAB.corp."), ["10.0.0.2"]);
        for other in ["notcorp.", "corp.example.", "example.com.", "."] {
            assert_eq!(asked(&table, other), ["10.96.0.10"], "{other}");
        }
    }

    #[test]
    fn a_zone_of_two_endpoints_asks_one_after_the_other() {
        let (one, two) = (told("10.0.0.1", &["corp"], &[]), told("10.0.0.2", &["corp"], &[]));
        let table = Table::new([&one, &two, &one], always());
        assert_eq!(asked(&table, "db.corp."), ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn a_server_without_a_domain_is_asked_for_what_others_do_not_know() {
        let (any, zone) = (told("10.0.0.1", &[], &[]), told("10.0.0.2", &["corp"], &[]));
        let table = Table::new([&any, &zone], always());
        assert_eq!(asked(&table, "alpine.vl3."), ["10.96.0.10", "10.0.0.1"]);
        assert_eq!(asked(&table, "db.corp."), ["10.0.0.2"]);
        assert_eq!(
            asked(&Table::new([&any], Vec::new()), "alpine.vl3."),
            ["10.0.0.1"]
        );
    }

    #[test]
    fn names_of_addresses_are_asked_for_behind_the_wire_that_leads_there() {
        let near = told(
            "10.0.0.1",
            &["corp"],
            &["172.16.0.0/16", "fd00:1::/64", "0.0.0.0/0"],
        );
        let nearer = told(
            "10.0.0.2",
            &["lab", "5.1.16.172.in-addr.arpa"],
            &["172.16.1.0/24"],
        );
        let table = Table::new([&near, &nearer], always());
        assert_eq!(asked(&table, "9.9.16.172.in-addr.arpa."), ["10.0.0.1"]);
        assert_eq!(asked(&table, "9.1.16.172.in-addr.arpa."), ["10.0.0.2"]);
        assert_eq!(asked(&table, "5.1.16.172.in-addr.arpa."), ["10.0.0.2"]);
        assert_eq!(asked(&table, "1.0.17.172.in-addr.arpa."), ["10.96.0.10"]);
        assert_eq!(asked(&table, "172.in-addr.arpa."), ["10.96.0.10"]);
        let v6 = Name::from("fd00:1::7".parse::<std::net::Ipv6Addr>().unwrap());
        assert_eq!(asked(&table, &v6.to_string()), ["10.0.0.1"]);
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        for bad in [
            "",
            "dns.example",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "224.0.0.1",
            "10.0.0.1:0",
            "::ffff:127.0.0.1",
        ] {
            assert!(told(bad, &["corp"], &["10.0.0.0/8"]).is_empty(), "{bad}");
        }
        assert_eq!(
            told("10.0.0.1:5353", &[], &[]).configs[0].0,
            ["10.0.0.1:5353".parse().unwrap()]
        );
        assert_eq!(
            told("fd00::1", &[], &[]).configs[0].0,
            ["[fd00::1]:53".parse().unwrap()]
        );
        assert!(
            told("10.0.0.1", &["a..b", &"x".repeat(64)], &[]).configs[0]
                .1
                .is_empty()
        );
    }

    #[test]
    fn what_one_connection_brings_is_bounded() {
        let config = DnsConfig {
            dns_server_ips: (0..100).map(|n| format!("10.0.0.{n}")).collect(),
            search_domains: (0..100).map(|n| format!("d{n}")).collect(),
        };
        let context = ConnectionContext {
            dns_context: Some(DnsContext {
                configs: vec![config; 100],
            }),
            ..Default::default()
        };
        let told = Told::read("nsc-0", &context, |_| false);
        assert_eq!(told.configs.len(), CONFIGS);
        assert_eq!(told.configs[0].0.len(), SERVERS);
        assert_eq!(told.configs[0].1.len(), DOMAINS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_asked_last_for_a_while_and_a_spare_one_not_at_all() {
        let (one, two): (SocketAddr, SocketAddr) =
            ("10.0.0.1:53".parse().unwrap(), "10.0.0.2:53".parse().unwrap());
        let (table, group) = (Table::default(), vec![one, two]);
        table.heard(one, Some(Instant::now() + std::time::Duration::from_secs(30)));
        assert_eq!(table.order(&group, false, Instant::now()), [two, one]);
        assert_eq!(table.order(&group, true, Instant::now()), [two]);
        table.heard(one, None);
        assert_eq!(table.order(&group, true, Instant::now()), [one, two]);
        table.heard(one, Some(Instant::now() + std::time::Duration::from_secs(30)));
        tokio::time::advance(std::time::Duration::from_secs(30)).await;
        assert_eq!(table.order(&group, false, Instant::now()), [one, two]);
    }
}
