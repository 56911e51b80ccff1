// SPDX-License-Identifier: Apache-2.0
//! Small documents, run by the real program in a real bash.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder of documents. `~` in them is the folder itself.
struct Documents(TempDir);

impl Documents {
    fn new(files: &[(&str, &str)]) -> Self {
        let documents = Self(tempfile::tempdir().expect("a folder"));
        for (name, text) in files {
            let path = documents.path(name);
            std::fs::create_dir_all(path.parent().expect("it has one")).expect("a folder");
            let text = text.replace('~', &documents.0.path().display().to_string());
            std::fs::write(path, text).expect("a file");
        }
        documents
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nsm-md"));
        command
            .args(arguments)
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs the program: its exit code, and what it printed on both ways.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        told(self.command(arguments).output().expect("it starts"))
    }

    /// The report of a run, and its exit code.
    fn report(&self, arguments: &[&str]) -> (i32, Value) {
        let (code, printed) = self.run(&[arguments, &["--json", "report.json"]].concat());
        let text = std::fs::read(self.path("report.json")).unwrap_or_else(|_| panic!("{printed}"));
        (code, serde_json::from_slice(&text).expect("it is JSON"))
    }
}

fn told(output: Output) -> (i32, String) {
    let both = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code().unwrap_or(-1), both.concat())
}

/// A document with these blocks in Run and Cleanup.
fn page(run: &str, cleanup: &str) -> String {
    format!("# A page\n\n## Run\n\n{run}\n\n## Cleanup\n\n{cleanup}\n")
}

fn block(code: &str, attributes: &str) -> String {
    format!("```bash {attributes}\n{code}\n```\n")
}

fn outcome<'a>(report: &'a Value, name: &str) -> &'a str {
    let documents = report["documents"].as_array().expect("a list");
    let found = documents.iter().find(|document| document["name"] == name);
    found
        .and_then(|document| document["outcome"].as_str())
        .unwrap_or("nowhere")
}

#[test]
fn a_document_of_the_reference_runs_as_it_stands() {
    let includer = "# Basic\n\n## Includes\n\n- [One](./one)\n\n## Run\n\n```bash\nexport NAME=given\n```\n";
    let inner = "# One\n\n## Requires\n\nMake sure that you have completed steps from [basic](../) or [memory](../memory) \
        setup.\n\n## Run\n\nDo it:\n```bash\ntest \"${NAME}\" = given\nLIST=(a b)\n```\n```bash\n[[ ${LIST[1]} == b ]]\n\
        ```\n\n## Cleanup\n\n```bash\ntouch ~/cleaned\n```\n";
    let memory = "# Memory\n\n## Run\n\n```bash\ntrue\n```\n";
    let documents = Documents::new(&[
        ("README.md", includer),
        ("one/README.md", inner),
        ("memory/README.md", memory),
    ]);
    let (code, report) = documents.report(&[]);
    assert_eq!(
        (code, outcome(&report, "one"), outcome(&report, ".")),
        (0, "passed", "passed"),
        "{report}"
    );
    assert!(documents.has("cleaned"));
}

#[test]
fn a_block_is_tried_until_it_succeeds_and_only_the_last_try_is_told() {
    let flaky = "echo x >>~/tries; echo try $(wc -l <~/tries); test $(wc -l <~/tries) = 3";
    let documents = Documents::new(&[("README.md", &page(&block(flaky, ""), ""))]);
    let (code, report) = documents.report(&[]);
    let tried = &report["documents"][0]["blocks"][0];
    assert_eq!((code, tried["tries"].as_u64()), (0, Some(3)), "{report}");
    assert_eq!(tried["output"], "try 3\n");
}

#[test]
fn a_block_that_hangs_is_killed_with_all_that_it_started_and_cleanup_still_knows_the_variables() {
    let run =
        block("NAME=mine", "") + &block("sleep 1000 & echo $! >~/pid; echo waiting; wait", "timeout=500ms");
    let documents = Documents::new(&[("README.md", &page(&run, &block("touch ~/$NAME", "")))]);
    let (code, printed) = documents.run(&[]);
    assert_eq!(code, 1, "{printed}");
    assert!(
        printed.contains("README.md:8: it hung, and was killed when its 500ms were over"),
        "{printed}"
    );
    assert!(printed.contains("| waiting"), "{printed}");
    assert!(documents.has("mine"));
    let pid = std::fs::read_to_string(documents.path("pid")).expect("it was written");
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim()));
    assert!(status.is_err() || status.is_ok_and(|status| status.contains("State:\tZ")));
}

#[test]
fn what_a_block_must_print_and_how_it_must_end_is_looked_at() {
    for (code, attributes, expected) in [
        ("echo 0% loss", "expect=\" ?0% loss\" retry=no", 0),
        ("echo 5 lost", "expect=\"0% loss\" retry=no", 1),
        ("exit 3", "expect-exit=3 retry=no", 0),
        ("exit 3", "expect-exit=4 retry=no", 1),
        ("false", "expect-exit=nonzero retry=no", 0),
        ("true", "expect-exit=nonzero retry=no", 1),
        (
            "trap 'echo bye; exit 2' INT; while :; do sleep 0.01; done",
            "background expect-exit=2 expect=bye",
            0,
        ),
    ] {
        // What runs in the background is given the time to begin.
        let wait =
            "until [ -z \"$(jobs -r)\" ] || pgrep -P $(jobs -rp) sleep >/dev/null; do sleep 0.01; done";
        let documents = Documents::new(&[(
            "README.md",
            &page(&(block(code, attributes) + &block(wait, "")), ""),
        )]);
        let (is, printed) = documents.run(&[]);
        assert_eq!(is, expected, "{code} {attributes}: {printed}");
    }
}

#[test]
fn blocks_for_another_place_are_left_out_and_a_word_that_nobody_knows_is_named() {
    let run = block("touch ~/here", "only=namespaces") + &block("touch ~/there", "only=cluster");
    let documents = Documents::new(&[("README.md", &page(&run, ""))]);
    assert_eq!(documents.run(&["--on", "namespaces"]).0, 0);
    assert!(documents.has("here") && !documents.has("there"));
    let typed = page(&block("true", "only=namespace"), "");
    let (code, printed) = Documents::new(&[("README.md", &typed)]).run(&["--on", "namespaces"]);
    assert_eq!(code, 2);
    assert!(
        printed.contains("README.md:5: only=namespace: nobody knows \"namespace\"; write namespaces, or"),
        "{printed}"
    );
}

#[test]
fn wrong_documents_run_nothing_and_all_that_is_wrong_is_told() {
    let first = "# Requires\n[x](../x)\n# Run\n```bash\ntouch ~/ran\n```\n```bash wrong\n```\n";
    let documents = Documents::new(&[("a/README.md", first), ("b/README.md", "# Run\n```bash\nopen\n")]);
    let (code, printed) = documents.run(&[]);
    assert_eq!(code, 2);
    for told in [
        "a/README.md:2: the link \"../x\" leads to no document",
        "a/README.md:7: there is no attribute \"wrong\"",
        "b/README.md:2: this fence is never closed",
        "nothing was run: 3 to mend",
    ] {
        assert!(printed.contains(told), "{told}: {printed}");
    }
    assert!(!documents.has("ran"));
}

#[test]
fn requirements_are_set_up_before_and_cleaned_up_after_and_what_needs_a_broken_one_is_not_run() {
    let requires = |what: &str, code: &str, cleanup: &str| {
        format!("# Requires\n[it](../{what})\n")
            + &page(&block(code, "retry=no"), &block(cleanup, "retry=no"))
    };
    let say = |word: &str| format!("echo {word} >>~/said");
    let base = page(&block(&say("base"), "retry=no"), &block(&say("gone"), "retry=no"));
    let broken = page(&block("false", "retry=no"), &block(&say("broken"), "retry=no"));
    let documents = Documents::new(&[
        ("base/README.md", &base),
        ("broken/README.md", &broken),
        ("one/README.md", &requires("base", &say("one"), &say("end"))),
        ("two/README.md", &requires("broken", &say("two"), "true")),
    ]);
    let (code, report) = documents.report(&[]);
    let said = std::fs::read_to_string(documents.path("said")).expect("it was said");
    assert_eq!(said, "base\none\nend\ngone\nbroken\n");
    assert_eq!(
        (code, outcome(&report, "two"), outcome(&report, "broken")),
        (1, "not-run", "failed")
    );
}

#[test]
fn what_is_left_behind_is_named_by_the_leak_check() {
    let documents = Documents::new(&[("README.md", &page(&block("touch ~/kept/x", ""), ""))]);
    std::fs::create_dir(documents.path("kept")).expect("a folder");
    let look = format!("ls {}", documents.path("kept").display());
    let (code, printed) = documents.run(&["--leak-check", &look]);
    assert_eq!(code, 3, "{printed}");
    assert!(printed.contains("left behind: x"), "{printed}");
}

#[test]
fn a_kept_run_is_resumed_where_it_came_to_and_cleaned_up() {
    let run = block("echo x >>~/first; NAME=mine", "") + &block("test -e ~/mended", "retry=no");
    let documents = Documents::new(&[("README.md", &page(&run, &block("touch ~/$NAME", "")))]);
    assert_eq!(documents.run(&["--keep"]).0, 1);
    assert!(!documents.has("mine"));
    std::fs::write(documents.path("mended"), "").expect("a file");
    let (code, printed) = documents.run(&["--resume"]);
    assert_eq!(code, 0, "{printed}");
    assert!(documents.has("mine") && !documents.has(".nsm-md"));
    assert_eq!(
        std::fs::read_to_string(documents.path("first")).expect("it is there"),
        "x\n"
    );
    let (code, printed) = documents.run(&["--resume"]);
    assert!(
        code == 2 && printed.contains("run with --keep first"),
        "{printed}"
    );
}

#[test]
fn ctrl_c_ends_the_block_and_cleans_up() {
    let run = block("touch ~/begun; sleep 1000", "") + &block("touch ~/never", "");
    let documents = Documents::new(&[("README.md", &page(&run, &block("touch ~/cleaned", "")))]);
    let mut command = documents.command(&[]);
    command
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("it starts");
    let pid = rustix::process::Pid::from_child(&child);
    wait_for(&documents.path("begun"));
    rustix::process::kill_process_group(pid, rustix::process::Signal::INT).expect("it runs");
    let (code, printed) = told(child.wait_with_output().expect("it ends"));
    assert_eq!(code, 130, "{printed}");
    assert!(documents.has("cleaned") && !documents.has("never"));
}

/// Waits until a file is there; the test's own deadline is that of its block.
fn wait_for(path: &Path) {
    while !path.exists() {
        std::thread::yield_now();
    }
}

#[test]
fn lists_and_reports_say_what_there_is() {
    let index = "# All\n\n| example | shows | namespaces |\n|---|---|--:|\n\n## Includes\n\n[One](one)\n\n## Run\n\n```bash\ntrue\n\
        ```\n";
    let one = format!(
        "# The first\n\nIt shows that. More.\n\n{}",
        page(&block("echo '<&>'; false", "retry=no"), "")
    );
    let documents = Documents::new(&[("README.md", index), ("one/README.md", &one)]);
    let (code, listed) = documents.run(&["--list"]);
    assert_eq!(
        (code, listed.as_str()),
        (0, ".  All (1 blocks)\n  one  The first (1 blocks)\n")
    );
    let (code, graph) = documents.run(&["--graph"]);
    assert!(code == 0 && graph.contains("d0 -- includes --> d1"), "{graph}");
    let options = [
        "--on",
        "namespaces",
        "--junit",
        "junit.xml",
        "--index",
        "README.md",
    ];
    let (code, printed) = documents.run(&options);
    assert_eq!(code, 1, "{printed}");
    assert!(
        !printed.contains('\u{1b}'),
        "colours without a terminal: {printed}"
    );
    let junit = std::fs::read_to_string(documents.path("junit.xml")).expect("it is there");
    assert!(
        junit.contains("tests=\"2\" failures=\"1\"") && junit.contains("&lt;&amp;&gt;"),
        "{junit}"
    );
    let index = std::fs::read_to_string(documents.path("README.md")).expect("it is there");
    assert!(
        index.contains("| [The first](one) | It shows that |  |\n"),
        "{index}"
    );
}
