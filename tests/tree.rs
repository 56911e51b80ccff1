// SPDX-License-Identifier: Apache-2.0
//! Checks of the tree itself: that documents keep what they promise, and that sources are as we want them.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tree/metrics.rs"]
mod metrics;

/// Words that no finished source has. Spelled in parts, since this is a source as well.
const UNFINISHED: [&str; 7] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("dbg", "!("),
    concat!("to", "do!("),
    concat!("unimplemented", "!("),
    concat!("#[ign", "ore"),
];

/// What a source has that lists its tests in place of marking them.
const TRIALS: &str = concat!("libtest_mimic", "::Trial");

/// What begins a list of tests by their functions' names.
const LIST: &str = concat!("tests", "![");

/// How a source asks at which level the program logs.
const LOG_LEVEL: [&str; 2] = [concat!("enab", "led!("), concat!("Level", "Filter")];

/// The numbered cases of the wire contract, by their prefix: the first and the last number, and numbers between
/// them that nobody gave out.
const CASES: [(&str, u32, u32, &[std::ops::RangeInclusive<u32>]); 3] = [
    ("R-C", 1, 110, &[]),
    (
        "G-C",
        1,
        136,
        &[15..=19, 35..=39, 56..=59, 67..=69, 91..=99, 109..=109, 120..=129],
    ),
    ("D-", 1, 70, &[]),
];

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the tests are a folder of the workspace")
        .to_path_buf()
}

/// Every file of the tree, by its path from the root, that people write.
fn files() -> BTreeMap<String, PathBuf> {
    let (root, mut files) = (root(), BTreeMap::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be read") {
            let path = entry.expect("an entry can be read").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let is_link = path.is_symlink();
            if path.is_dir() && !is_link && !matches!(name.as_str(), ".git" | "target" | "node_modules") {
                folders.push(path);
            } else if path.is_file() && !is_link {
                let relative = path
                    .strip_prefix(&root)
                    .expect("a file of the tree is below its root");
                files.insert(relative.to_string_lossy().into_owned(), path.clone());
            }
        }
    }
    files
}

fn with_ending(endings: &[&str]) -> Vec<(String, String)> {
    let wanted = |name: &str| endings.iter().any(|ending| name.ends_with(ending));
    let read = |(name, path): (String, PathBuf)| {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name} is not text: {error}"));
        (name, text)
    };
    files()
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(read)
        .collect()
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Fails with all that is wrong at once.
fn expect_none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn every_source_begins_with_its_licence() {
    let sources = with_ending(&[
        ".rs", ".proto", ".toml", ".sh", ".rego", ".go", ".mod", ".yaml", ".ci/run",
    ]);
    let is_licensed = |text: &str| {
        let mut first = text.lines().take(2);
        first.any(|line| line.ends_with("SPDX-License-Identifier: Apache-2.0"))
    };
    let wrong: Vec<_> = sources
        .into_iter()
        .filter(|(_, text)| !is_licensed(text))
        .map(|(name, _)| name)
        .collect();
    expect_none(
        "no line SPDX-License-Identifier: Apache-2.0 at the top of",
        &wrong,
    );
}

#[test]
fn no_source_is_unfinished() {
    let mut wrong = Vec::new();
    for (name, text) in with_ending(&[".rs", ".proto", ".toml", ".sh", ".rego", ".go", ".ci/run"]) {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = UNFINISHED.iter().find(|word| line.contains(**word)) {
                wrong.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    expect_none("finish it, or leave it out", &wrong);
}

/// The places in a document that name a test or a benchmark: `` `path/file.rs#function` ``.
fn references(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted
        .filter_map(|quoted| quoted.split_once('#'))
        .filter(|(file, _)| file.ends_with(".rs"))
}

/// Whether `source` has a test of this name: a function, or an entry of a list of trials.
fn has_test(source: &str, function: &str) -> bool {
    if source.contains(TRIALS) {
        return trials(source).any(|name| name == function);
    }
    if listed(source).any(|name| name == function) {
        return true;
    }
    let head = format!("fn {function}(");
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let above = lines[..at].iter().rev();
        let mut attributes = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        line.contains(&head) && attributes.any(|line| line.contains("test]") || line.contains("test("))
    })
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut wrong = Vec::new();
    for (name, text) in with_ending(&[".md"]) {
        for (file, function) in references(&text) {
            let exists =
                fs::read_to_string(root().join(file)).is_ok_and(|source| has_test(&source, function));
            if !exists {
                wrong.push(format!("{name}: {file}#{function}"));
            }
        }
    }
    expect_none("no such test", &wrong);
}

/// The names in a list of trials: texts of a word.
fn trials(source: &str) -> impl Iterator<Item = &str> {
    let texts = source.split('"').skip(1).step_by(2);
    texts.filter(|text| {
        text.contains('_') && !text.contains(|char: char| !char.is_ascii_alphanumeric() && char != '_')
    })
}

/// The names in lists of the macro `tests`, of sources that have no trials of their own.
fn listed(source: &str) -> impl Iterator<Item = &str> {
    let lists = source.split(LIST).skip(1);
    let lists = lists.filter_map(|rest| rest.split(']').next());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

/// The cells of the tables of a document, row by row, without the lines that rule them.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = text
        .lines()
        .filter(|line| line.starts_with('|') && !line.starts_with("|-"));
    rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
}

#[test]
fn the_conformance_table_has_every_case_once() {
    let text = document("docs/conformance.md");
    let mut found = BTreeMap::<&str, u32>::new();
    for row in rows(&text) {
        *found.entry(row[0]).or_default() += 1;
    }
    let mut wrong = Vec::new();
    for (prefix, first, last, gaps) in CASES {
        for number in first..=last {
            let expected = u32::from(!gaps.iter().any(|gap| gap.contains(&number)));
            let case = format!("{prefix}{number}");
            let times = found.get(case.as_str()).copied().unwrap_or_default();
            if times != expected {
                wrong.push(format!("{case} is there {times} times, not {expected}"));
            }
        }
    }
    expect_none("docs/conformance.md", &wrong);
}

#[test]
fn every_case_names_its_tests_or_says_why_it_has_none() {
    let text = document("docs/conformance.md");
    let mut wrong = Vec::new();
    for row in rows(&text)
        .filter(|row| row[0].starts_with(|first: char| "RGD".contains(first)) && row[0].contains('-'))
    {
        let test = row.get(2).copied().unwrap_or_default();
        let says_why =
            test == "pending" || test.strip_prefix("no: ").is_some_and(|reason| !reason.is_empty());
        if row.len() != 3 || row[1].is_empty() || !(says_why || references(test).next().is_some()) {
            wrong.push(row.join(" | "));
        }
    }
    expect_none(
        "neither `file.rs#test`, nor pending, nor no: with a reason",
        &wrong,
    );
}

/// Whether a test is named after a case: `c35_…`, `r90_…`, `g12_…` or `d7_…`.
fn is_named_after_a_case(function: &str) -> bool {
    let number = function.strip_prefix(['c', 'r', 'g', 'd']).unwrap_or_default();
    let rest = number.trim_start_matches(|digit: char| digit.is_ascii_digit());
    rest.len() < number.len() && rest.starts_with('_')
}

#[test]
fn every_test_that_is_named_after_a_case_is_in_the_table() {
    let text = document("docs/conformance.md");
    let named: BTreeSet<_> = references(&text).collect();
    let mut wrong = Vec::new();
    for (name, source) in with_ending(&[".rs"]) {
        let functions = source
            .split("fn ")
            .skip(1)
            .filter_map(|rest| rest.split('(').next());
        for function in functions
            .chain(trials(&source))
            .filter(|name| is_named_after_a_case(name))
        {
            if has_test(&source, function) && !named.contains(&(name.as_str(), function)) {
                wrong.push(format!("{name}#{function}"));
            }
        }
    }
    expect_none("docs/conformance.md does not name", &wrong);
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for (name, text) in with_ending(&[".md"]) {
        let folder = root()
            .join(&name)
            .parent()
            .expect("a file is in a folder")
            .to_path_buf();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !target.contains("://") && !folder.join(path).exists() {
                wrong.push(format!("{name}: {target}"));
            }
        }
    }
    expect_none("no such file", &wrong);
}

#[test]
fn every_image_of_a_deployment_has_its_place_and_its_tag() {
    let text = document("deployments/images/kustomization.yaml");
    let images = text.split("  - name: ").skip(1);
    let wrong: Vec<_> = images
        .filter(|image| !image.contains("newName: ") || !image.contains("newTag: "))
        .map(|image| image.lines().next().unwrap_or_default().to_string())
        .collect();
    expect_none(
        "deployments/images/kustomization.yaml does not say all of",
        &wrong,
    );
}

/// What is not included is not run.
#[test]
fn every_example_is_in_the_index() {
    let index = document("deployments/examples/README.md");
    let pages = files().into_keys();
    let names = pages.filter_map(|name| {
        let inner = name.strip_prefix("deployments/examples/")?;
        inner.strip_suffix("/README.md").map(String::from)
    });
    let wrong: Vec<_> = names
        .filter(|name| !index.contains(&format!("]({name})")))
        .collect();
    expect_none("deployments/examples/README.md has no row for", &wrong);
}

/// What has no name there, or no tag, no node has.
#[test]
fn every_image_that_is_deployed_is_one_that_is_built() {
    let names = document("deployments/images/kustomization.yaml");
    let manifests = with_ending(&[".yaml"])
        .into_iter()
        .filter(|(name, _)| name.starts_with("deployments/"));
    let mut wrong = Vec::new();
    for (name, text) in manifests {
        let images = text
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "));
        for image in images.filter(|image| image.starts_with("cmd-")) {
            let built = format!("  - name: {image}\n    newName: localhost/nsm/{image}\n    newTag: dev\n");
            if !names.contains(&built) {
                wrong.push(format!("{name}: {image}"));
            }
        }
    }
    expect_none("deployments/images/kustomization.yaml does not name", &wrong);
}

/// The example in the README is the one that is compiled and that the system tests run.
#[test]
fn the_endpoint_in_the_readme_is_the_one_that_is_tested() {
    let source = document("sdk/examples/office.rs");
    let readme = document("README.md");
    assert!(
        readme.contains(&format!("```rust\n{source}```\n")),
        "copy sdk/examples/office.rs into the README's section \"Your own endpoint\""
    );
}

/// Only the program's surroundings know at which level it logs, so that no call depends on it.
#[test]
fn the_log_level_decides_nothing() {
    let products = [
        "api/src/",
        "sdk/src/",
        "sdk-dns/src/",
        "sdk-kernel/src/",
        "sdk-wireguard/src/",
    ];
    let mut wrong = Vec::new();
    for (name, source) in with_ending(&[".rs"]) {
        let is_product = products.iter().any(|product| name.starts_with(product));
        if is_product && !name.starts_with("sdk/src/app/") {
            let asks = LOG_LEVEL.iter().filter(|word| source.contains(**word));
            wrong.extend(asks.map(|word| format!("{name}: {word}")));
        }
    }
    expect_none("a call must not depend on the log level", &wrong);
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = document("Cargo.toml");
    let table = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .expect("the workspace has dependencies");
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    let wanted: BTreeSet<_> = lines
        .filter(|line| !line.contains("path = "))
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim().to_string())
        .collect();
    let reasons = document("docs/dependencies.md");
    let given: BTreeSet<_> = rows(&reasons)
        .map(|row| row[0].trim_matches('`').to_string())
        .collect();
    let wrong: Vec<_> = wanted.difference(&given).cloned().collect();
    expect_none("no row in docs/dependencies.md for", &wrong);
}

/// Sources that models of the world below the programs are in; their reasons leave no program.
const MODELS: [&str; 5] = ["/sandbox", "/model", "/testing", "/tests", "/conformance"];

/// The reasons of the errors that a source makes: the first text in a call that makes one, and texts that such a call
/// gets by a name.
fn reasons(source: &str) -> BTreeSet<String> {
    let code = source
        .split("\n#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    let mut reasons = BTreeSet::new();
    for made in code.split(MAKES_ERROR).skip(1) {
        let Some((how, rest)) = made.split_once('(') else {
            continue;
        };
        let rest = match how {
            "new" => rest.split_once(',').map_or("", |(_, rest)| rest),
            "invalid" | "unavailable" | "not_found" | "denied" | "exhausted" | "internal" => rest,
            _ => continue,
        };
        let text = rest.trim_start().strip_prefix('"');
        reasons.extend(text.and_then(|text| text.split('"').next()).map(str::to_string));
    }
    for line in code.lines().map(str::trim) {
        // `_ => "kernel",` of a choice between reasons, and `const LOST: &str = "endpoint-lost";`.
        let named = line
            .split_once(" => \"")
            .filter(|_| code.contains(CHOOSES_REASON))
            .or_else(|| {
                line.split_once(": &str = \"")
                    .filter(|_| code.contains(".because("))
            });
        reasons.extend(
            named
                .and_then(|(_, rest)| rest.split('"').next())
                .map(str::to_string),
        );
    }
    let is_word = |reason: &String| {
        reason
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            && !reason.is_empty()
    };
    reasons.into_iter().filter(is_word).collect()
}

/// The reasons of conditions that a source sets.
fn faults(source: &str) -> impl Iterator<Item = String> {
    let made = source.split(concat!("Fault::", "new(\"")).skip(1);
    made.filter_map(|rest| rest.split('"').next()).map(str::to_string)
}

/// How a source makes an error, and how it chooses the reason of one.
const MAKES_ERROR: &str = concat!("Error", "::");
const CHOOSES_REASON: &str = concat!("let ", "reason = match");

#[test]
fn every_reason_code_is_in_the_list_and_none_that_is_not_there() {
    let text = document("docs/reasons.md");
    let mut listed = BTreeMap::<&str, Vec<&str>>::new();
    for row in rows(&text).filter(|row| row[0].starts_with('`')) {
        let code = row[0].trim_matches('`');
        assert!(
            row.len() == 3 && !row[1].is_empty() && !row[2].is_empty(),
            "{row:?}"
        );
        let earlier = listed.insert(code, row);
        assert!(earlier.is_none(), "{code} is there twice");
    }
    // Those that have a name in the source.
    let named = [
        "deadline",
        "peer",
        "endpoint-supplied",
        "no-request",
        "no-client",
        "not-scheduled",
        "not-the-owner",
    ];
    let mut made: BTreeMap<_, _> = named.map(|reason| (reason.to_string(), "")).into();
    let sources = with_ending(&[".rs"]);
    for (name, source) in &sources {
        let is_product = name.contains("/src/") && !name.starts_with("benches") && !name.starts_with("xtask");
        if is_product && !MODELS.iter().any(|model| name.contains(model)) {
            made.extend(reasons(source).into_iter().map(|reason| (reason, name.as_str())));
            made.extend(faults(source).map(|reason| (reason, name.as_str())));
        }
    }
    let listed: BTreeSet<_> = listed.into_keys().collect();
    let missing: Vec<_> = made
        .iter()
        .filter(|(reason, _)| !listed.contains(reason.as_str()))
        .map(|(reason, name)| format!("{reason} of {name}"))
        .collect();
    expect_none("docs/reasons.md does not have", &missing);
    let unknown: Vec<_> = listed
        .iter()
        .filter(|reason| !made.contains_key(**reason))
        .map(ToString::to_string)
        .collect();
    expect_none("docs/reasons.md has what no program says", &unknown);
}

#[test]
fn the_checks_see_what_they_look_for() {
    let source = format!(
        "{MAKES_ERROR}new(\n    Code::Aborted,\n    \"a-b\", text) {MAKES_ERROR}invalid(\"c\", {MAKES_ERROR}deadline(\"d\")"
    );
    assert_eq!(
        reasons(&source),
        BTreeSet::from(["a-b".to_string(), "c".to_string()])
    );

    let source = "#[tokio::test(start_paused = true)]\n/// Why.\nasync fn it_holds() {\nfn helper() {";
    assert!(has_test(source, "it_holds"));
    assert!(!has_test(source, "helper"));
    let trials = format!("use {TRIALS};\nvec![test(\"d1_it_holds\", run)]\nfn run() {{");
    assert!(has_test(&trials, "d1_it_holds") && !has_test(&trials, "run"));
    let list = format!("{LIST}\n    case_1_it_holds,\n    so_does_this,\n];\nfn run() {{");
    assert!(has_test(&list, "case_1_it_holds") && has_test(&list, "so_does_this") && !has_test(&list, "run"));
    assert!(is_named_after_a_case("c35_it_holds"));
    assert!(!is_named_after_a_case("close_it") && !is_named_after_a_case("c35"));
    let found: Vec<_> = references("a `b` and `c/d.rs#e`, `f#g`").collect();
    assert_eq!(found, [("c/d.rs", "e")]);
    let cells: Vec<_> = rows("| a | b |\n|---|---|\n| c | d |\ntext").collect();
    assert_eq!(cells, [["a", "b"], ["c", "d"]]);
}
