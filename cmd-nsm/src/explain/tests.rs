// SPDX-License-Identifier: Apache-2.0

use std::time::{Duration, UNIX_EPOCH};

use super::*;

/// One service that is refused to a client: what is known as YAML, and what the explanation says.
struct Refusal {
    services: &'static str,
    endpoints: &'static str,
    url: &'static str,
    reason: &'static str,
    cause: &'static [&'static str],
    remedy: &'static [&'static str],
}

fn service(name: &str, matches: &str) -> String {
    format!(
        "---\napiVersion: networkservicemesh.io/v1\nkind: NetworkService\nmetadata: {{name: {name}}}\nspec: \
         {{payload: IP, matches: {matches}}}\n"
    )
}

fn endpoint(name: &str, service: &str, labels: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: networkservicemesh.io/v1\nkind: NetworkServiceEndpoint\nmetadata: {{name: {name}}}\nspec: \
         {{network_service_names: [{service}], network_service_labels: {{{service}: {{labels: {labels}}}}}, {rest}}}\n"
    )
}

/// What is known: `name <matches>` a line, and `name | service | labels | rest` a line.
fn known(services: &str, endpoints: &str) -> Known {
    let mut text = String::new();
    for line in services.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (name, matches) = line.split_once(' ').expect("a name and matches");
        text.push_str(&service(name, matches));
    }
    for line in endpoints.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut words = line.split('|').map(str::trim);
        let mut next = || words.next().unwrap_or_default();
        text.push_str(&endpoint(next(), next(), next(), next()));
    }
    let mut known = Known::default();
    known
        .add(&text)
        .unwrap_or_else(|error| panic!("{error:#}\n{text}"));
    known
}

fn explained(known: &Known, url: &str, is_whole: bool) -> Explanation {
    let url: nsm_api::service_url::ServiceUrl = url.parse().expect("a good URL");
    let asked = Asked {
        network_service: &url.network_service,
        labels: &url.labels,
        forwarder_service: "forwarder",
        is_whole,
        now: UNIX_EPOCH + Duration::from_secs(1000),
    };
    explain(known, &asked)
}

const URL: &str = "url: 'tcp://10.0.0.1:5001'";

const REFUSALS: [Refusal; 12] = [
    Refusal {
        services: "icmp-responder []",
        endpoints: "",
        url: "icmp-respnder",
        reason: "no-service",
        cause: &["there is no network service \"icmp-respnder\""],
        remedy: &["ask for icmp-responder"],
    },
    Refusal {
        services: "",
        endpoints: "e | s | {} | url: null",
        url: "s",
        reason: "no-service",
        cause: &["though 1 endpoints offer it"],
        remedy: &["create it: a NetworkService called s"],
    },
    Refusal {
        services: "vpn []",
        endpoints: "e | vpm | {} | url: null",
        url: "vpn",
        reason: "no-endpoint",
        cause: &["no endpoint offers vpn", "names like vpm"],
        remedy: &["NSM_SERVICE_NAMES=vpn"],
    },
    Refusal {
        services: "s []",
        endpoints: "e | s | {} | expiration_time: {seconds: 940}",
        url: "s",
        reason: "no-endpoint",
        cause: &["all 1 endpoints of s have expired", "expired 60 s ago"],
        remedy: &["whether they run and reach their manager", "clocks"],
    },
    Refusal {
        services: "s [{source_selector: {app: a}, routes: [{}]}]",
        endpoints: "e | s | {} | url: u",
        url: "s",
        reason: "no-endpoint",
        cause: &[
            "none of the 1 matches applies to a client with no labels",
            "match 1 wants app=a: there is no label app, wanted \"a\"",
        ],
        remedy: &["ask for s?app=a"],
    },
    Refusal {
        services: "s [{source_selector: {app: a}, routes: [{}]}]",
        endpoints: "e | s | {} | url: u",
        url: "s?app=b",
        reason: "no-endpoint",
        cause: &["a client with app=b", "label app is \"b\", wanted \"a\""],
        remedy: &["or add a match without a source_selector"],
    },
    Refusal {
        services: "s [{routes: [{destination_selector: {color: red}}]}]",
        endpoints: "e1 | s | {color: blue} | url: u\ne2 | s | {} | url: u",
        url: "s",
        reason: "no-endpoint",
        cause: &[
            "match 1 applies to this client, and none of 2 endpoints fits",
            "e1: match 1, route 1: label color is \"blue\", wanted \"red\"",
            "e2: match 1, route 1: there is no label color, wanted \"red\"",
        ],
        remedy: &["give an endpoint the labels color=red (NSM_LABELS, for the service s)"],
    },
    Refusal {
        services: "s [{routes: [{destination_selector: {node: '{{.nodeName}}'}}]}]",
        endpoints: "e | s | {node: n1} | url: u",
        url: "s",
        reason: "no-endpoint",
        cause: &["label node is \"n1\", wanted {{.nodeName}} of a client that has no such label"],
        remedy: &["give the client the label that the template names", "NODE_NAME"],
    },
    Refusal {
        services: "s [{routes: [{destination_selector: {a: x}}]}, {routes: [{}]}]",
        endpoints: "e | s | {a: z} | url: u",
        url: "s",
        reason: "no-endpoint",
        cause: &["match 1 applies to this client, and none of 1 endpoints fits"],
        remedy: &["with fallthrough: true in match 1 a later one would choose e"],
    },
    Refusal {
        services: "s [{}]",
        endpoints: "e | s | {} | url: u",
        url: "s",
        reason: "no-endpoint",
        cause: &["match 1 applies to this client and has no routes"],
        remedy: &["routes: [{}] chooses every endpoint"],
    },
    Refusal {
        services: "s []",
        endpoints: "e | s | {} | url: null",
        url: "s",
        reason: "no-endpoint",
        cause: &["e fits, but it has no URL"],
        remedy: &["spec.url"],
    },
    Refusal {
        services: "s [{metadata: {labels: {sriov: 'true'}}}]",
        endpoints: "e | s | {} | url: u\nf | forwarder | {p2p: 'true'} | url: u",
        url: "s",
        reason: "no-forwarder",
        cause: &[
            "the matches allow none of 1 forwarders",
            "f: match 1, route 1: there is no label sriov, wanted \"true\"",
        ],
        remedy: &["give a forwarder of the client's node the labels"],
    },
];

#[test]
fn every_refusal_names_its_cause_and_its_remedy() {
    for case in REFUSALS {
        let known = known(case.services, case.endpoints);
        let explanation = explained(&known, case.url, false);
        let verdict = &explanation.verdict;
        assert!(!verdict.is_served, "{explanation}");
        assert_eq!(verdict.reason, case.reason, "{explanation}");
        for part in case.cause {
            assert!(verdict.cause.contains(part), "{part}\nnot in\n{explanation}");
        }
        for part in case.remedy {
            assert!(verdict.remedy.contains(part), "{part}\nnot in\n{explanation}");
        }
        assert!(
            crate::reasons::entry(verdict.reason).is_some(),
            "{}",
            verdict.reason
        );
    }
}

#[test]
fn without_any_forwarder_nobody_is_served_where_all_is_known() {
    let known = known("s []", &format!("e | s | {{}} | {URL}"));
    assert!(explained(&known, "s", false).verdict.is_served);
    let verdict = explained(&known, "s", true).verdict;
    assert_eq!(verdict.reason, "no-forwarder");
    assert!(verdict.remedy.contains("start a forwarder"), "{verdict:?}");
}

#[test]
fn who_is_served_is_told_by_whom_and_by_which_route() {
    let services = "s [{source_selector: {app: x}, routes: [{}]}, {fallthrough: true, routes: \
                    [{destination_selector: {node: '{{.nodeName}}'}}]}, {routes: [{destination_selector: {app: far}}]}]";
    let known = known(
        services,
        "far | s | {app: far, node: n2} | url: u\nnear | s | {node: n1} | url: u\nold | s | {node: n1} | expiration_time: {seconds: 1}",
    );
    let near = explained(&known, "kernel://s/nsm-1?nodeName=n1", false);
    assert!(near.verdict.is_served, "{near}");
    let told: Vec<_> = near
        .endpoints
        .iter()
        .map(|judged| (&*judged.name, judged.reason, &*judged.cause))
        .collect();
    assert_eq!(
        told,
        [
            (
                "far",
                "label-differs",
                "match 2, route 1: label node is \"n2\", wanted \"n1\" (of {{.nodeName}})"
            ),
            ("near", "chosen", "match 2, route 1"),
            ("old", "expired", "its registration has expired 999 s ago"),
        ]
    );
    let outcomes: Vec<_> = near.matches.iter().map(|matched| matched.outcome).collect();
    assert_eq!(outcomes, [Became::DoesNotApply, Became::Chose, Became::NotAsked]);
    let other = explained(&known, "s?nodeName=n3", false);
    assert_eq!(other.matches[1].outcome, Became::FellThrough);
    assert_eq!(
        other.verdict.cause,
        "1 of 3 endpoints serve this client and are tried in turn: far"
    );
}

#[test]
fn the_explanation_is_the_choice_of_requests() {
    let known = known(
        "s [{routes: [{destination_selector: {a: '1'}}, {destination_selector: {b: '2'}}]}]",
        "e1 | s | {a: '1', b: '2'} | url: u\ne2 | s | {b: '2'} | url: u\ne3 | s | {a: '2'} | url: u",
    );
    let chosen = matching::endpoints(&Labels::new(), &known.services[0], &known.endpoints);
    let mut chosen: Vec<_> = chosen.iter().map(|endpoint| endpoint.name.clone()).collect();
    chosen.sort();
    chosen.dedup();
    let explanation = explained(&known, "s", false);
    let told = explanation.endpoints.iter().filter(|judged| judged.is_chosen);
    let told: Vec<_> = told.map(|judged| judged.name.clone()).collect();
    assert_eq!(told, chosen);
}

#[test]
fn what_lies_beyond_the_limit_of_requests_is_told() {
    let one = &known("s []", "e | s | {} | url: u").endpoints[0];
    let many = (0..MAX_FOUND + 2).map(|number| NetworkServiceEndpoint {
        name: format!("e{number}"),
        ..one.clone()
    });
    let known = Known {
        services: known("s []", "").services,
        endpoints: many.collect(),
    };
    let explanation = explained(&known, "s", false);
    let beyond = explanation
        .endpoints
        .iter()
        .filter(|judged| judged.reason == "too-many");
    assert_eq!(beyond.count(), 2);
    let text = explanation.to_string();
    assert!(text.lines().count() < 40, "{text}");
    assert!(text.contains("more; --json has all of them"), "{text}");
}

#[test]
fn json_has_the_same_shape_whoever_reads_it() {
    let known = known("s [{routes: [{}]}]", "e | s | {} | url: u");
    let value = serde_json::to_value(explained(&known, "s?a=b", false)).expect("plain data");
    let wanted = serde_json::json!({
        "network_service": "s",
        "payload": "IP",
        "labels": {"a": "b"},
        "verdict": {
            "is_served": true,
            "reason": "served",
            "cause": "1 of 1 endpoints serve this client and are tried in turn: e",
            "remedy": "",
        },
        "matches": [{
            "number": 1,
            "source_selector": {},
            "routes": [{}],
            "forwarder_selector": null,
            "fallthrough": false,
            "outcome": "chose",
            "chosen": 1,
            "cause": null,
        }],
        "endpoints": [
            {"name": "e", "url": "u", "is_chosen": true, "reason": "chosen", "cause": "match 1, route 1"}
        ],
        "forwarders": [],
        "nearest": [],
        "is_at": null,
    });
    assert_eq!(value, wanted);
}
