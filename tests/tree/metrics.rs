// SPDX-License-Identifier: Apache-2.0
//! What dashboards, rules and documents say of metrics, against the sources that make them.

use std::collections::{BTreeMap, BTreeSet};

use super::{document, expect_none, with_ending};

/// The names of labels that a scraper adds, and of the bounds of histograms.
const ADDED: [&str; 3] = ["job", "instance", "le"];

/// What Prometheus makes of one histogram.
const PARTS: [&str; 3] = ["_bucket", "_sum", "_count"];

/// The text between the first `open` and the `close` behind it, and what follows.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<(&'t str, &'t str)> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close)
}

/// The texts in quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('"').skip(1).step_by(2)
}

fn is_ours(name: &str) -> bool {
    name.starts_with("nsm_") || name.starts_with("process_")
}

/// The metrics that programs have, with the names of their labels.
fn known() -> BTreeMap<String, BTreeSet<String>> {
    let mut known = BTreeMap::new();
    for (path, source) in with_ending(&[".rs"]) {
        if !["sdk/src/", "sdk-kernel/src/", "sdk-wireguard/src/"]
            .iter()
            .any(|folder| path.starts_with(folder))
        {
            continue;
        }
        let product = source.split("#[cfg(test)]").next().unwrap_or_default();
        for family in product.split("Family = Family {").skip(1) {
            let name = between(family, "name: \"", "\"").map(|(name, _)| name.to_string());
            let labels = between(family, "labels: &[", "]").map(|(labels, _)| labels);
            let labels = labels.into_iter().flat_map(quoted).map(str::to_string);
            known.extend(name.map(|name| (name, labels.collect())));
        }
        if path.ends_with("app/process.rs") {
            let gauges = quoted(product).filter(|text| is_ours(text));
            known.extend(gauges.map(|name| (name.to_string(), BTreeSet::new())));
        }
    }
    known.insert(
        "nsm_build_info".to_string(),
        BTreeSet::from(["version".to_string()]),
    );
    known
}

/// The name without what Prometheus adds to one of a histogram.
fn family<'n>(name: &'n str, known: &BTreeMap<String, BTreeSet<String>>) -> &'n str {
    let mut parts = PARTS.iter().filter_map(|part| name.strip_suffix(part));
    parts.find(|name| known.contains_key(*name)).unwrap_or(name)
}

/// The words of a query, each with what stands behind it.
fn words(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let starts = query
        .char_indices()
        .filter(move |(at, letter)| is_word(*letter) && !query[..*at].ends_with(is_word));
    starts.map(move |(at, _)| {
        let rest = &query[at..];
        rest.split_at(rest.find(|letter| !is_word(letter)).unwrap_or(rest.len()))
    })
}

/// What is wrong with the names and labels of a query.
fn faults(query: &str, known: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let names: Vec<_> = words(query).filter(|(word, _)| is_ours(word)).collect();
    let mut faults = Vec::new();
    let mut labels: BTreeSet<&str> = ADDED.into();
    for (name, _) in &names {
        match known.get(family(name, known)) {
            Some(has) => labels.extend(has.iter().map(String::as_str)),
            None => faults.push(format!("{name} is no metric")),
        }
    }
    let selected = names
        .iter()
        .filter_map(|(_, rest)| between(rest, "{", "}").filter(|_| rest.starts_with('{')));
    let selected = selected.flat_map(|(inside, _)| {
        let pairs = words(inside).filter(|(_, rest)| rest.starts_with(['=', '!']));
        pairs.map(|(label, _)| label).collect::<Vec<_>>()
    });
    let grouped = query
        .split("by (")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    let grouped = grouped.flat_map(|(inside, _)| inside.split(',').map(str::trim));
    for label in selected.chain(grouped) {
        if !labels.contains(label) {
            faults.push(format!("{label} is no label of what {query} asks for"));
        }
    }
    faults
}

/// Every query in a document of JSON.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Array(list) => list.iter().for_each(|one| queries(one, found)),
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                match value.as_str() {
                    Some(text) if matches!(key.as_str(), "expr" | "query") => found.push(text.to_string()),
                    _ => queries(value, found),
                }
            }
        }
        _ => {}
    }
}

#[test]
fn the_dashboard_asks_for_metrics_and_labels_that_exist() {
    let dashboard = serde_json::from_str(&document("deployments/observability/dashboard.json"));
    let mut found = Vec::new();
    queries(&dashboard.expect("it is JSON"), &mut found);
    let known = known();
    let asks = found
        .iter()
        .filter(|query| words(query).any(|(word, _)| is_ours(word)));
    assert!(asks.count() > 10, "{found:?}");
    let faults: Vec<_> = found.iter().flat_map(|query| faults(query, &known)).collect();
    expect_none("queries of the dashboard", &faults);
}

#[test]
fn the_alerts_ask_for_metrics_and_labels_that_exist() {
    let (known, rules) = (known(), document("deployments/observability/alerts.yaml"));
    let expressions = rules.split("expr:").skip(1).filter_map(|rest| {
        let end = ["\n        for:", "\n        annotations:"]
            .into_iter()
            .filter_map(|end| rest.find(end))
            .min()?;
        Some(&rest[..end])
    });
    let faults: Vec<_> = expressions.flat_map(|query| faults(query, &known)).collect();
    expect_none("expressions of alerts", &faults);
}

#[test]
fn every_metric_is_in_the_table_and_none_that_is_not_there() {
    let (known, page) = (known(), document("docs/observability.md"));
    let rows = page
        .lines()
        .filter_map(|line| between(line, "| `", "`").filter(|_| line.starts_with("| `")));
    let rows = rows.filter(|(name, _)| is_ours(name));
    let listed: BTreeMap<_, _> = rows
        .map(|(name, rest)| {
            let labels = rest.split('|').nth(1).unwrap_or_default();
            let labels = labels.split('`').skip(1).step_by(2).map(str::to_string);
            (name.to_string(), labels.collect::<BTreeSet<_>>())
        })
        .collect();
    // Those of the process are one line.
    let known: BTreeMap<_, _> = known
        .into_iter()
        .filter(|(name, _)| !name.starts_with("process_"))
        .collect();
    let listed: BTreeMap<_, _> = listed
        .into_iter()
        .filter(|(name, _)| name != "process_*")
        .collect();
    assert_eq!(listed, known);
}

#[test]
fn the_checks_of_metrics_see_what_they_look_for() {
    let known = known();
    assert!(known["nsm_calls_total"].contains("reason"), "{known:?}");
    assert!(known.contains_key("process_open_fds"), "{known:?}");
    for wrong in [
        "sum(nsm_calls_totals)",
        "sum(nsm_calls_total{raison=\"ok\"})",
        "sum by (api, cause) (rate(nsm_calls_total[5m]))",
    ] {
        assert_eq!(faults(wrong, &known).len(), 1, "{wrong}");
    }
    let right = "histogram_quantile(0.5, sum by (le) (rate(nsm_call_duration_seconds_bucket{job=~\"$job\", api=\"a\"}[5m])))";
    assert_eq!(faults(right, &known), [""; 0]);
}
