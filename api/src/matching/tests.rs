// SPDX-License-Identifier: Apache-2.0

use proptest::prelude::*;

use super::*;
use crate::connection::Path;
use crate::registry::{Destination, Match, Metadata, NetworkServiceLabels};

fn labels(labels: &[(&str, &str)]) -> Labels {
    let owned = |&(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    labels.iter().map(owned).collect()
}

fn endpoint(name: &str, service: &str, offered: &[(&str, &str)]) -> NetworkServiceEndpoint {
    let offered = NetworkServiceLabels {
        labels: labels(offered),
    };
    NetworkServiceEndpoint {
        name: name.into(),
        network_service_names: vec![service.into()],
        network_service_labels: [(service.to_string(), offered)].into(),
        ..Default::default()
    }
}

fn service(matches: Vec<Match>) -> NetworkService {
    NetworkService {
        name: "s".into(),
        matches,
        ..Default::default()
    }
}

/// A match that asks the client for `source` and has a route for each of `routes`.
fn when(source: &[(&str, &str)], routes: &[&[(&str, &str)]]) -> Match {
    let route = |selector: &&[(&str, &str)]| Destination {
        destination_selector: labels(selector),
        ..Default::default()
    };
    Match {
        source_selector: labels(source),
        routes: routes.iter().map(route).collect(),
        ..Default::default()
    }
}

fn chosen(
    client: &[(&str, &str)],
    service: &NetworkService,
    candidates: &[NetworkServiceEndpoint],
) -> Vec<String> {
    let chosen = endpoints(&labels(client), service, candidates);
    chosen.into_iter().map(|endpoint| endpoint.name.clone()).collect()
}

fn gateways() -> Vec<NetworkServiceEndpoint> {
    let app = |name, app| endpoint(name, "s", &[("app", app)]);
    vec![app("e1", "fw"), app("e2", "mid"), app("e3", "gw")]
}

fn firewall_chain() -> NetworkService {
    service(vec![
        when(&[("app", "fw")], &[&[("app", "mid")]]),
        when(&[], &[&[("app", "fw")]]),
    ])
}

/// Registry cases C20 and C21.
#[test]
fn without_matches_all_are_chosen_and_without_an_applicable_one_none() {
    assert_eq!(chosen(&[], &service(vec![]), &gateways()), ["e1", "e2", "e3"]);
    let zoned = service(vec![when(&[("zone", "a")], &[&[]])]);
    assert_eq!(chosen(&[], &zoned, &gateways()), [""; 0]);
}

/// Registry case C22.
#[test]
fn the_first_applicable_match_wins() {
    let service = firewall_chain();
    assert_eq!(chosen(&[], &service, &gateways()), ["e1"]);
    assert_eq!(chosen(&[("app", "fw")], &service, &gateways()), ["e2"]);
    assert_eq!(
        chosen(&[("app", "fw"), ("nodeName", "n1")], &service, &gateways()),
        ["e2"]
    );
    assert_eq!(chosen(&[("app", "x")], &service, &gateways()), ["e1"]);
}

/// Registry case C23 and request case C102.
#[test]
fn an_empty_choice_stands_unless_it_falls_through() {
    let mut candidates = gateways();
    candidates.remove(1);
    let mut service = firewall_chain();
    assert_eq!(chosen(&[("app", "fw")], &service, &candidates), [""; 0]);
    service.matches[0].fallthrough = true;
    assert_eq!(chosen(&[("app", "fw")], &service, &candidates), ["e1"]);
}

/// Registry cases C24 and C25.
#[test]
fn a_match_of_metadata_alone_chooses_all_and_an_empty_one_none() {
    let mut metadata_only = when(&[], &[]);
    metadata_only.metadata = Some(Metadata::default());
    assert_eq!(
        chosen(&[], &service(vec![metadata_only.clone()]), &gateways()),
        ["e1", "e2", "e3"]
    );
    assert_eq!(chosen(&[], &service(vec![when(&[], &[])]), &gateways()), [""; 0]);
    metadata_only.fallthrough = true;
    let next = service(vec![metadata_only, when(&[], &[&[("app", "gw")]])]);
    assert_eq!(
        chosen(&[], &next, &gateways()),
        ["e3"],
        "falling through comes first"
    );
}

/// Registry case C26 and request case C101.
#[test]
fn a_template_wants_the_clients_label() {
    let candidates = [
        endpoint("e1", "s", &[("nodeName", "n1")]),
        endpoint("e2", "s", &[("nodeName", "n2")]),
    ];
    for template in ["{{.nodeName}}", "{{ .nodeName }}", "{{index . \"nodeName\"}}"] {
        let local = service(vec![when(&[], &[&[("nodeName", template)]])]);
        assert_eq!(
            chosen(&[("nodeName", "n1")], &local, &candidates),
            ["e1"],
            "{template}"
        );
        assert_eq!(chosen(&[], &local, &candidates), [""; 0], "{template}");
    }
    let alike = service(vec![when(&[("a", "{{.b}}")], &[&[]])]);
    assert_eq!(
        chosen(&[("a", "1"), ("b", "1")], &alike, &candidates),
        ["e1", "e2"]
    );
    assert_eq!(chosen(&[("a", "1"), ("b", "2")], &alike, &candidates), [""; 0]);
}

/// Registry case C27.
#[test]
fn a_malformed_template_is_compared_literally() {
    for template in ["{{", "{{.a-b}}", "{{printf \"%s\" .a}}"] {
        let wanted = labels(&[("a", template)]);
        assert!(
            is_subset(&labels(&[("a", template)]), &wanted, &Labels::new()),
            "{template}"
        );
        assert!(
            !is_subset(&labels(&[("a", "")]), &wanted, &Labels::new()),
            "{template}"
        );
    }
}

/// Registry case C28.
#[test]
fn an_empty_value_is_had_by_a_missing_label_if_there_are_enough_labels() {
    let wanted = labels(&[("a", "")]);
    assert!(is_subset(&labels(&[("b", "1")]), &wanted, &Labels::new()));
    assert!(!is_subset(&Labels::new(), &wanted, &Labels::new()));
}

#[test]
fn an_endpoint_of_two_routes_is_chosen_twice() {
    let candidates = [endpoint("e1", "s", &[("a", "1"), ("b", "2")])];
    let twice = service(vec![when(&[], &[&[("a", "1")], &[("b", "2")]])]);
    assert_eq!(chosen(&[], &twice, &candidates), ["e1", "e1"]);
}

#[test]
fn labels_count_for_their_own_service_only() {
    let candidates = [endpoint("e1", "other", &[("app", "fw")])];
    assert_eq!(chosen(&[], &firewall_chain(), &candidates), [""; 0]);
}

/// Registry case C29.
#[test]
fn forwarders_need_p2p_unless_a_match_says_otherwise() {
    let candidates = [
        endpoint("f0", "forwarder", &[("p2p", "true")]),
        endpoint("f1", "forwarder", &[]),
        endpoint("f2", "forwarder", &[("cap", "true")]),
        endpoint("f3", "other", &[("p2p", "true"), ("cap", "true")]),
    ];
    let allowed = |service: &NetworkService| -> Vec<&str> {
        let allowed = forwarders(&labels(&[("n", "1")]), service, "forwarder", &candidates);
        allowed
            .into_iter()
            .map(|forwarder| forwarder.name.as_str())
            .collect()
    };
    assert_eq!(allowed(&service(vec![])), ["f0", "f1", "f2", "f3"]);
    assert_eq!(allowed(&service(vec![when(&[], &[])])), ["f0"]);
    let with = |wanted: &[(&str, &str)]| Match {
        metadata: Some(Metadata {
            labels: labels(wanted),
        }),
        ..Default::default()
    };
    assert_eq!(
        allowed(&service(vec![with(&[])])),
        ["f0"],
        "no labels on the wire are no labels"
    );
    assert_eq!(allowed(&service(vec![with(&[("cap", "true")])])), ["f2"]);
    assert_eq!(allowed(&service(vec![with(&[("cap", "{{.n}}")])])), [""; 0]);
    assert_eq!(
        allowed(&service(vec![when(&[("n", "2")], &[])])),
        [""; 0],
        "none applies"
    );
    let mut falling = with(&[("cap", "no")]);
    assert_eq!(allowed(&service(vec![falling.clone(), with(&[])])), [""; 0]);
    falling.fallthrough = true;
    assert_eq!(allowed(&service(vec![falling, with(&[])])), ["f0"]);
}

/// Registry cases C1 to C6.
#[test]
fn queries_of_endpoints_ask_for_what_they_hold() {
    let mut stored = endpoint("ab", "s", &[("x", "1"), ("y", "2")]);
    stored.network_service_names = vec!["b".into(), "c".into(), "a".into()];
    stored.url = "tcp://10.0.0.1:50011".into();
    let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    stored.expiration_time = time(600, 9);
    let asks = |change: &dyn Fn(&mut NetworkServiceEndpoint)| {
        let mut query = NetworkServiceEndpoint::default();
        change(&mut query);
        endpoint_matches(&query, &stored)
    };
    assert!(asks(&|_| ()), "C2: an empty query asks for all");
    assert!(asks(&|query| query.name = "ab".into()));
    assert!(!asks(&|query| query.name = "a".into()), "C1: a part of the name");
    assert!(
        asks(&|query| query.network_service_names = vec!["a".into(), "b".into()]),
        "C3"
    );
    assert!(
        !asks(&|query| query.network_service_names = vec!["a".into(), "d".into()]),
        "C3"
    );
    let labelled = |service: &str, wanted: &[(&str, &str)]| {
        let wanted = endpoint("", service, wanted).network_service_labels;
        asks(&|query| query.network_service_labels = wanted.clone())
    };
    assert!(labelled("s", &[("x", "1")]), "C4: more labels are stored");
    assert!(!labelled("s", &[("x", "2")]), "C4: another value");
    assert!(!labelled("t", &[]), "C4: an unknown service");
    assert!(labelled("s", &[]), "C4: the service alone");
    assert!(!labelled("s", &[("z", "")]), "an empty value is a value");
    assert!(
        asks(&|query| query.url = "10.0.0.1:5001".into()),
        "C5: a part of the URL"
    );
    assert!(asks(&|query| query.expiration_time = time(600, 5)), "C6");
    assert!(!asks(&|query| query.expiration_time = time(601, 9)), "C6");
    assert!(
        asks(&|query| query.path_ids = vec!["spiffe://a".into()]),
        "the path is not looked at"
    );
    stored.expiration_time = None;
    let query = NetworkServiceEndpoint {
        expiration_time: time(0, 0),
        ..Default::default()
    };
    assert!(
        !endpoint_matches(&query, &stored),
        "what never expires does not expire at 0"
    );
}

/// Registry cases C7 and C8.
#[test]
fn queries_of_services_ask_for_what_they_hold() {
    let stored = firewall_chain();
    let mut query = NetworkService::default();
    assert!(service_matches(&query, &stored));
    query.matches = stored.matches.clone();
    assert!(service_matches(&query, &stored));
    query.matches.reverse();
    assert!(!service_matches(&query, &stored), "C8: the order of matches");
    query.matches.clear();
    query.payload = "IP".into();
    assert!(
        !service_matches(&query, &stored),
        "C7: an empty payload is not IP"
    );
}

fn segment(name: &str, id: &str, token: &str) -> PathSegment {
    PathSegment {
        name: name.into(),
        id: id.into(),
        token: token.into(),
        ..Default::default()
    }
}

/// Request case C49.
#[test]
fn monitors_select_a_window_of_the_path() {
    let connection = Connection {
        path: Some(Path {
            index: 7,
            path_segments: vec![
                segment("nsc", "a", "t0"),
                segment("nsmgr", "b", "t1"),
                segment("fwd", "c", "t2"),
            ],
        }),
        ..Default::default()
    };
    let selects = |path_segments: &[PathSegment]| {
        let selector = MonitorScopeSelector {
            path_segments: path_segments.to_vec(),
            ..Default::default()
        };
        connection_matches(&selector, &connection)
    };
    assert!(selects(&[]));
    assert!(selects(&[segment("nsmgr", "", "")]));
    assert!(selects(&[segment("", "c", "")]));
    assert!(selects(&[segment("", "", "t2")]));
    assert!(selects(&[segment("nsmgr", "b", ""), segment("fwd", "", "")]));
    assert!(selects(&[
        segment("nsc", "", ""),
        segment("", "", ""),
        segment("", "c", "")
    ]));
    assert!(
        !selects(&[segment("nsc", "", ""), segment("fwd", "", "")]),
        "not neighbours"
    );
    assert!(
        !selects(&[segment("nsc", "b", "")]),
        "name and id of different segments"
    );
    assert!(!selects(&[
        segment("", "", ""),
        segment("", "", ""),
        segment("", "", ""),
        segment("", "", "")
    ]));
}

/// Request case C50.
#[test]
fn monitors_select_services_exactly_and_with_the_path() {
    let connection = |service: &str| Connection {
        network_service: service.into(),
        path: Some(Path {
            index: 0,
            path_segments: vec![segment("nsc", "a", "")],
        }),
        ..Default::default()
    };
    let mut selector = MonitorScopeSelector {
        network_services: vec!["a".into()],
        ..Default::default()
    };
    assert!(connection_matches(&selector, &connection("a")));
    assert!(!connection_matches(&selector, &connection("a@b")));
    selector.path_segments.push(segment("nse", "", ""));
    assert!(!connection_matches(&selector, &connection("a")));
    assert!(!connection_matches(&selector, &Connection::default()), "no path");
}

fn few_labels() -> impl Strategy<Value = Labels> {
    const NAMES: &[&str] = &["a", "b", "c"];
    const VALUES: &[&str] = &[
        "",
        "x",
        "y",
        "{{.a}}",
        "{{ .b }}",
        "{{.c}}-{{.a}}",
        "{{",
        "<no value>",
    ];
    let names = proptest::sample::select(NAMES).prop_map(String::from);
    let values = proptest::sample::select(VALUES).prop_map(String::from);
    proptest::collection::btree_map(names, values, 0..4)
}

/// `value` with its fields replaced one by one, as few as it has: right for the values of [`few_labels`].
fn filled_in(value: &str, variables: &Labels) -> String {
    let field = |name: &str| {
        variables
            .get(name)
            .map_or("<no value>", String::as_str)
            .to_string()
    };
    match value {
        "{{.a}}" => field("a"),
        "{{ .b }}" => field("b"),
        "{{.c}}-{{.a}}" => format!("{}-{}", field("c"), field("a")),
        _ => value.into(),
    }
}

proptest! {
    #[test]
    fn subset_agrees_with_its_definition(have in few_labels(), want in few_labels(), variables in few_labels()) {
        let mut expected = have.len() >= want.len();
        for (name, value) in &want {
            let had = have.get(name).cloned().unwrap_or_default();
            expected &= had == *value || had == filled_in(value, &variables);
        }
        prop_assert_eq!(is_subset(&have, &want, &variables), expected);
    }

    #[test]
    fn labels_have_themselves_and_any_part_of_them(have in few_labels(), kept in any::<u8>()) {
        let bits = (0..8).map(|bit| kept >> bit & 1 == 1);
        let part = have.clone().into_iter().zip(bits).filter(|(_, kept)| *kept);
        let part: Labels = part.map(|(label, _)| label).collect();
        prop_assert!(is_subset(&have, &part, &have));
    }
}
