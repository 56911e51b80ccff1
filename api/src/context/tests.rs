// SPDX-License-Identifier: Apache-2.0

use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn route(prefix: &str, next_hop: &str) -> Route {
    Route {
        prefix: prefix.into(),
        next_hop: next_hop.into(),
    }
}

#[test]
fn addresses_keep_their_host_part_and_bad_ones_are_skipped() {
    let bad = [
        "",
        "10.0.0.1",
        "10.0.0.1/33",
        "10.0.0.1/+8",
        "10.0.0/8",
        "010.0.0.1/8",
        "fd00::1/129",
        "x/8",
    ];
    let mut context = IpContext {
        src_ip_addrs: texts(&bad),
        ..Default::default()
    };
    assert_eq!(context.src_nets(), []);
    context.src_ip_addrs.extend(texts(&["10.0.0.1/8", "FD00::1/64"]));
    let nets: Vec<_> = context.src_nets().iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.1/8", "fd00::1/64"]);
}

#[test]
fn peers_in_a_prefix_need_no_route() {
    let context = IpContext {
        src_ip_addrs: texts(&["10.0.0.1/24", "fd00::1/128"]),
        dst_ip_addrs: texts(&["10.0.0.2/32", "10.0.1.3/32", "fd00::2/64"]),
        ..Default::default()
    };
    assert_eq!(
        context.dst_ip_routes(),
        [route("10.0.1.3/32", ""), route("fd00::2/64", "")]
    );
    assert_eq!(context.src_ip_routes(), [route("10.0.0.1/24", "")]);
}

#[test]
fn routes_go_by_the_first_peer_of_their_family() {
    let context = IpContext {
        src_ip_addrs: texts(&["172.16.1.101/32"]),
        dst_ip_addrs: texts(&["bad", "fd00::2/64", "10.0.0.2/24", "10.0.0.3/24"]),
        src_routes: vec![
            route("0.0.0.0/0", ""),
            route("::/0", ""),
            route("10.0.0.77/32", ""),
            route("10.9.0.0/16", "10.0.0.254"),
            route("10.9.0.0/16", "nonsense"),
            route("nonsense", ""),
        ],
        dst_routes: vec![route("10.0.0.0/8", ""), route("::/0", "")],
        ..Default::default()
    };
    let expected = [
        route("0.0.0.0/0", "10.0.0.2"),
        route("::/0", "fd00::2"),
        route("10.0.0.77/32", ""),
        route("10.9.0.0/16", "10.0.0.254"),
        route("10.9.0.0/16", "10.0.0.2"),
        route("nonsense", ""),
    ];
    assert_eq!(context.src_routes_with_explicit_next_hop(), expected);
    let expected = [route("10.0.0.0/8", "172.16.1.101"), route("::/0", "")];
    assert_eq!(context.dst_routes_with_explicit_next_hop(), expected);
}

#[test]
fn policies_select_by_what_they_name() {
    let policy = PolicyRoute {
        from: "172.16.2.201/24".into(),
        proto: "6".into(),
        dst_port: "6667-6670".into(),
        ..Default::default()
    };
    let selectors = policy.selectors().expect("a good policy");
    assert_eq!(
        selectors.from.map(|net| net.to_string()).as_deref(),
        Some("172.16.2.201/24")
    );
    assert_eq!(selectors.protocol, Some(6));
    let (first, last) = (6667, 6670);
    assert_eq!(selectors.destination_ports, Some(PortRange { first, last }));
    assert_eq!(selectors.source_ports, None);
    assert_eq!(PolicyRoute::default().selectors(), Ok(PolicySelectors::default()));
}

#[test]
fn policies_that_cannot_be_read_are_errors() {
    let errors = |change: &dyn Fn(&mut PolicyRoute)| {
        let mut policy = PolicyRoute::default();
        change(&mut policy);
        policy.selectors().expect_err("a bad policy").to_string()
    };
    let error = errors(&|policy| policy.from = "somewhere".into());
    assert_eq!(
        error,
        "policy route has source \"somewhere\", write an address and a prefix length"
    );
    assert!(errors(&|policy| policy.proto = "tcp".into()).contains("\"tcp\""));
    assert!(errors(&|policy| policy.dst_port = "1-2-3".into()).contains("\"1-2-3\""));
    assert!(errors(&|policy| policy.src_port = "x".into()).contains("\"x\""));
}

#[test]
fn dns_configs_are_added_once() {
    let config = DnsConfig {
        dns_server_ips: texts(&["10.0.0.53"]),
        search_domains: texts(&["my.domain"]),
    };
    let mut connection = Connection::default();
    let dns = connection.context.get_or_insert_default().dns_context_mut();
    assert!(dns.add(&config));
    assert!(!dns.add(&config));
    assert!(dns.add(&DnsConfig::default()));
    assert_eq!(dns.configs.len(), 2);
}

#[test]
fn mac_addresses_are_read_in_three_spellings() {
    let mac = [0x02, 0, 0, 0xAB, 0xcd, 0x01];
    for text in ["02:00:00:AB:cd:01", "02-00-00-ab-CD-01", "0200.00ab.cd01"] {
        assert_eq!(parse_mac(text), Ok(mac), "{text}");
    }
    let bad = [
        "",
        "02",
        "02:00:00:00:00",
        "02:00:00:00:00:00:00",
        "02:00-00:00:00:00",
        "2:0:0:0:0:0",
        "02:00:00:00:00:0g",
        "02:00:00:00:00:+1",
        "020000000001",
        "0200.0000",
        "é2:00:00:00:00:01",
        "02:00:00:00:00:00:00:01",
    ];
    for text in bad {
        parse_mac(text).expect_err(text);
    }
    let mut ethernet = EthernetContext::default();
    assert_eq!(
        (ethernet.src_mac_address(), ethernet.dst_mac_address()),
        (Ok(None), Ok(None))
    );
    ethernet.src_mac = "02:00:00:ab:cd:01".into();
    assert_eq!(ethernet.src_mac_address(), Ok(Some(mac)));
    ethernet.dst_mac = "mine".into();
    let error = ethernet.dst_mac_address().expect_err("no MAC address");
    assert_eq!(
        error.to_string(),
        "MAC address \"mine\" cannot be read, write six bytes as 02:00:00:00:00:01"
    );
}

#[test]
fn contexts_are_made_when_they_are_written() {
    let mut connection = Connection::default();
    assert_eq!(connection.ip_context(), None);
    connection
        .ip_context_mut()
        .src_ip_addrs
        .push("10.0.0.1/32".into());
    let addresses = connection.ip_context().map(|ip| ip.src_ip_addrs.len());
    assert_eq!(addresses, Some(1));
}
