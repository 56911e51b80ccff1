// SPDX-License-Identifier: Apache-2.0
//! What every program tells people: its help, what is wrong with variables, and how it obeys signals.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::Signal;
use tokio::net::UnixStream;

use crate::Bench;
use crate::world::{PATIENCE, World, programs, same, says, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let plain = |name: &'static str, run: fn() -> Result<()>| {
        Trial::test(name, move || {
            run().map_err(|error| libtest_mimic::Failed::from(format!("{error:#}")))
        })
    };
    vec![
        plain("help_lists_every_variable_that_a_program_reads", help),
        plain("programs_are_called_as_documents_say", names),
        plain("variables_that_nobody_knows_are_told_by_name", strange_variables),
        plain("an_old_name_of_a_variable_counts_and_is_told", old_name),
        bench.test("sigusr1_logs_everything_and_sigusr2_as_before", levels),
        bench.test("sigint_ends_a_program_in_order_and_a_second_signal_at_once", ends),
    ]
}

/// The folders of all programs with settings of their own, and the programs' names.
fn all() -> Result<Vec<(PathBuf, String)>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let mut all = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let folder = entry?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if let Some(program) = name.strip_prefix("cmd-")
            && folder.join("src/settings.rs").is_file()
        {
            all.push((folder.clone(), program.to_string()));
        }
    }
    ensure!(all.len() > 10, "there are only {all:?}");
    Ok(all)
}

/// What a program prints and how it ends, with no variables but these.
fn run(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    let done = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(programs()?.file(program)?)
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output();
    done.with_context(|| format!("cannot start {program}"))
}

fn helps(program: &str) -> Result<String> {
    let done = run(program, &["--help"], &[])?;
    ensure!(done.status.success(), "{program} --help: {}", done.status);
    Ok(String::from_utf8(done.stdout)?)
}

/// The texts between quotes behind each `mark` of a source.
fn quoted<'a>(source: &'a str, mark: &'a str) -> impl Iterator<Item = &'a str> {
    source
        .split(mark)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
}

/// The variables of settings, those of the groups of settings that they contain among them.
fn variables(folder: &Path) -> Result<BTreeSet<String>> {
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk/src/app");
    let settings = std::fs::read_to_string(folder.join("src/settings.rs"))?;
    let mut sources = vec![settings.clone()];
    for (group, files) in [
        ("log: LogSettings", &["log"][..]),
        ("info: InfoSettings", &["info"]),
        ("endpoint: EndpointSettings", &["endpoint"]),
        (
            "observability: ObservabilitySettings",
            &["prometheus", "telemetry"],
        ),
    ] {
        for file in files.iter().filter(|_| settings.contains(group)) {
            sources.push(std::fs::read_to_string(app.join(format!("{file}.rs")))?);
        }
    }
    let all = sources.iter().flat_map(|source| quoted(source, "env = \""));
    Ok(all.map(String::from).collect())
}

fn help() -> Result<()> {
    let mut listed = 0;
    for (folder, program) in all()? {
        let help = helps(&program)?;
        let wanted = variables(&folder)?;
        for variable in &wanted {
            let line = format!("[env: {variable}=");
            ensure!(
                help.contains(&line),
                "{program} --help does not list {variable}:\n{help}"
            );
        }
        // Those that are no settings.
        for variable in ["SPIFFE_ENDPOINT_SOCKET", "NSM_IDENTITY_DIR", "130 second signal"] {
            ensure!(
                help.contains(variable),
                "{program} --help does not tell {variable}"
            );
        }
        ensure!(!wanted.is_empty(), "{program} has no variables");
        listed += wanted.len();
    }
    ensure!(listed > 100, "there are only {listed} variables");
    let init = helps("nsc-init")?;
    ensure!(init.contains("[env: NSM_NETWORK_SERVICES="), "{init}");
    for arguments in [&["--help"][..], &["mesh", "--help"], &["connections", "--help"]] {
        let done = run("nsm", arguments, &[])?;
        ensure!(done.status.success(), "nsm {arguments:?}: {}", done.status);
    }
    Ok(())
}

fn names() -> Result<()> {
    for (program, name) in [
        ("nsmgr", "nsmgr"),
        ("forwarder", "forwarder"),
        ("nse-icmp", "nse"),
        ("nsc", "nsc"),
        ("registry-memory", "registry"),
        ("registry-k8s", "registry"),
    ] {
        let help = helps(program)?;
        let (_, rest) = help.split_once("[env: NSM_NAME=]").context("no NSM_NAME")?;
        let default = quoted_default(rest).context("no default")?;
        same(&format!("the name of {program}"), default, name)?;
    }
    Ok(())
}

fn quoted_default(rest: &str) -> Option<&str> {
    rest.split_once("[default: ")?.1.split(']').next()
}

/// The variables that have no effect, as the sources of a program list them.
fn dead(folder: &Path) -> Result<Vec<String>> {
    let settings = std::fs::read_to_string(folder.join("src/settings.rs"))?;
    let list = settings.split_once("const DEAD:").map_or("", |(_, rest)| rest);
    let list = list.split_once(" = &[").map_or("", |(_, rest)| rest);
    let list = list.split(']').next().unwrap_or_default();
    Ok(list.split('"').skip(1).step_by(2).map(String::from).collect())
}

fn strange_variables() -> Result<()> {
    let mut told = 0;
    for (folder, program) in all()? {
        let (help, dead) = (helps(&program)?, dead(&folder)?);
        for variable in &dead {
            let line = format!("[env: {variable}=");
            ensure!(!help.contains(&line), "{program} does read {variable}");
        }
        // The others ask Kubernetes, or the node, before they look who they are.
        if ![
            "nsmgr",
            "forwarder",
            "registry-memory",
            "registry-k8s",
            "nsc",
            "nse-icmp",
        ]
        .contains(&&*program)
        {
            continue;
        }
        let mut variables = vec![("NSM_FOO", "1"), ("NSM_NMAE", "1")];
        variables.extend(dead.iter().map(|variable| (variable.as_str(), "1")));
        variables.push(("NSM_NETWORK_SERVICES", "kernel://icmp-responder"));
        let done = run(&program, &[], &variables)?;
        // There is nobody to tell it who it is.
        same(
            &format!("the exit code of {program}"),
            done.status.code(),
            Some(64),
        )?;
        let printed = String::from_utf8(done.stderr)?;
        let strange = ["NSM_FOO is not known to this program", "did you mean NSM_NAME?"];
        let dead = dead
            .iter()
            .map(|name| format!("{name} has no effect in this program"));
        for words in strange.map(String::from).into_iter().chain(dead) {
            let line = printed.lines().find(|line| line.contains(&words));
            let line = line.with_context(|| format!("{program} does not tell {words:?}:\n{printed}"))?;
            ensure!(line.contains(" WARN "), "{line}");
            told += 1;
        }
    }
    ensure!(told > 30, "only {told} variables were told");
    Ok(())
}

fn old_name() -> Result<()> {
    for (program, old, today) in [
        ("nse-icmp", "NSE_NAME", "NSM_NAME"),
        ("nse-icmp", "NSE_CIDR_PREFIX", "NSM_CIDR_PREFIX"),
        ("registry-memory", "REGISTRY_MEMORY_LISTEN_ON", "NSM_LISTEN_ON"),
        ("registry-k8s", "REGISTRY_K8S_NAMESPACE", "NSM_NAMESPACE"),
    ] {
        let done = run(program, &[], &[(old, "unheard-of")])?;
        let printed = String::from_utf8(done.stderr)?;
        let words = format!("{old} is the old name of {today}: use {today}");
        ensure!(
            printed.contains(&words),
            "{program} does not tell {words:?}:\n{printed}"
        );
        let is_used = match old {
            "NSE_NAME" => Some("starting name=\"unheard-of\""),
            "NSE_CIDR_PREFIX" => Some("\"unheard-of\" is no prefix"),
            _ => None,
        };
        ensure!(is_used.is_none_or(|words| printed.contains(words)), "{printed}");
    }
    Ok(())
}

/// What a program says at DEBUG of who connects and goes.
const GONE: &str = "a client left during the handshake";

/// Somebody connects to the endpoint and goes, and a wire comes and goes after that.
async fn somebody_goes(world: &World) -> Result<()> {
    let url = world.node.url("nse-2");
    drop(UnixStream::connect(url.trim_start_matches("unix://")).await?);
    let client = world.quiet()?;
    let attached = client.attach("levels", "kernel://levels/nsm-1").await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn levels(world: &mut World) -> Result<()> {
    let mut endpoint = world.serve("levels", &[("NSM_LOG_LEVEL", "INFO")]).await?;
    somebody_goes(world).await?;
    ensure!(!endpoint.printed().contains(GONE), "{}", endpoint.printed());
    endpoint.signal(Signal::USR1);
    says(&mut endpoint, "log level changed level=trace").await?;
    somebody_goes(world).await?;
    says(&mut endpoint, GONE).await?;
    endpoint.signal(Signal::USR2);
    says(&mut endpoint, "log level changed level=info").await?;
    somebody_goes(world).await?;
    let told = endpoint.printed();
    same("how often it was told", told.matches(GONE).count(), 1)?;
    stops(endpoint).await
}

async fn ends(world: &mut World) -> Result<()> {
    for (signals, code) in [
        (&[Signal::INT][..], 0),
        (&[Signal::HUP], 0),
        (&[Signal::INT, Signal::TERM], 130),
    ] {
        // It asks for what is not there, so it has nothing to close.
        let mut nsc = world.nsc("kernel://nobody-has-it/nsm-1", &[])?;
        says(&mut nsc, "no-service").await?;
        // While it is stopped they gather, and it gets all of them at once.
        nsc.signal(Signal::STOP);
        signals.iter().for_each(|signal| nsc.signal(*signal));
        nsc.signal(Signal::CONT);
        let ended = wait_for(PATIENCE, "it ends", async || nsc.ended()).await?;
        same(
            &format!("the exit code after {signals:?}"),
            ended.code(),
            Some(code),
        )?;
    }
    world.clean().await
}
