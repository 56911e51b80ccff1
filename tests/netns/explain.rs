// SPDX-License-Identifier: Apache-2.0
//! What `nsm` tells of a mesh that runs, and what Prometheus reads of it.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::Program;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::Bench;
use crate::world::{PATIENCE, World, http_get, prints, programs, same, says, stops, wait_for};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("nsm_shows_connections_endpoints_and_paths", shows),
        bench.test("nsm_ping_pings_both_families_and_says_what_fails", pings),
        bench.test("nsm_explains_who_is_served_and_who_is_not", explains),
        bench.test("nsm_monitor_tells_every_change", monitors),
        bench.test("nsm_monitor_draws_a_table_on_a_terminal", draws),
        bench.test("prometheus_scrapes_the_mesh", scraped),
    ]
}

/// Runs `nsm` as somebody of the mesh.
async fn nsm(world: &World, arguments: &[&str]) -> Result<Output> {
    let identity = world.node.folder().join("identity/node.sock");
    let mut command = Command::new(programs()?.file("nsm")?);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("NSM_CONNECT_TO", world.nsmgr())
        .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display()))
        .stdin(Stdio::null());
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

/// The JSON that `nsm` prints, and whether its exit code is 0.
async fn json(world: &World, arguments: &[&str]) -> Result<(Value, bool)> {
    let mut all = arguments.to_vec();
    all.push("--json");
    let output = nsm(world, &all).await?;
    let value = serde_json::from_slice(&output.stdout);
    let value =
        value.with_context(|| format!("nsm {all:?} said {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((value, output.status.success()))
}

async fn shows(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("shown", "kernel://icmp-responder/nsm-1").await?;
    let (all, _) = json(world, &["connections"]).await?;
    let all = all.as_array().context("a list")?;
    same("connections", all.len(), 1)?;
    let shown = &all[0];
    for (key, value) in [
        ("client", "nsc"),
        ("client_id", "shown"),
        ("endpoint", "nse"),
        ("network_service", "icmp-responder"),
        ("mechanism", "KERNEL"),
        ("state", "up"),
    ] {
        same(key, shown[key].as_str(), Some(value))?;
    }
    let expires = shown["expires_in_s"].as_i64().context("it expires")?;
    ensure!(expires > 0, "it expires in {expires} s");
    let (endpoints, _) = json(world, &["endpoints"]).await?;
    let names: Vec<_> = endpoints
        .as_array()
        .context("a list")?
        .iter()
        .filter_map(|endpoint| endpoint["name"].as_str())
        .collect();
    same("endpoints", names, vec!["forwarder", "nse"])?;

    let forwarder = world.node.url("forwarder");
    let (path, _) = json(world, &["path", "shown", "--also", &forwarder]).await?;
    let hops = path["hops"].as_array().context("a path")?;
    let names: Vec<_> = hops.iter().filter_map(|hop| hop["name"].as_str()).collect();
    same("hops", names, vec!["nsc", "nsmgr", "forwarder", "nse"])?;
    same("the forwarder's", hops[2]["mechanism"].as_str(), Some("KERNEL"))?;
    for hop in &hops[1..] {
        let (whole, own) = (hop["request_us"].as_u64(), hop["own_us"].as_u64());
        ensure!(own.is_some() && whole >= own, "{hop}");
    }
    let output = nsm(world, &["path", "shown"]).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains("icmp-responder") && text.contains("nsmgr"),
        "{text}"
    );

    let netns = world.near.path().display().to_string();
    let (steps, works) = json(world, &["ping", "shown", "--netns", &netns]).await?;
    ensure!(works, "{steps}");
    let steps = steps.as_array().context("a list")?;
    let step = |name: &str| {
        steps
            .iter()
            .find(|step| step["step"].as_str().is_some_and(|is| is.starts_with(name)))
    };
    same(
        "interface",
        step("interface").map(|step| &step["works"]),
        Some(&Value::Bool(true)),
    )?;
    let pinged = step("endpoint").context("no ping")?;
    ensure!(pinged["round_trip_us"].as_u64().is_some(), "{pinged}");
    client.close(attached.request).await?;
    let output = nsm(world, &["path", "shown"]).await?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && error.contains("has no connection shown"),
        "{error}"
    );
    client.end().await;
    Ok(())
}

async fn pings(world: &mut World) -> Result<()> {
    let prefixes = ("NSM_CIDR_PREFIX", "[172.16.1.100/31],[2001:db8::/127]");
    let both = world.serve("both", &[prefixes]).await?;
    let client = world.client()?;
    let attached = client.attach("pinged", "kernel://both/nsm-1").await?;
    let netns = world.near.path().display().to_string();
    let ping = [
        "ping", "pinged", "--netns", &netns, "--count", "1", "--wait", "500ms",
    ];
    let states = |steps: &Value| -> Vec<(String, Option<bool>)> {
        let steps = steps.as_array().into_iter().flatten();
        let state = |step: &Value| (step["step"].to_string(), step["works"].as_bool());
        steps.map(state).collect()
    };
    // Addresses of IPv6 are usable when nobody else has answered for them.
    let both_answer = wait_for(PATIENCE, "both families answer", async || {
        let (steps, works) = json(world, &ping).await?;
        let pinged = states(&steps)
            .into_iter()
            .filter(|(step, _)| step.contains("endpoint "));
        Ok((works && pinged.count() == 2).then_some(()))
    });
    both_answer.await?;
    prints(&world.near, "ip", &["link", "set", "nsm-1", "down"])?;
    let (steps, works) = json(world, &ping).await?;
    let failed = states(&steps)
        .into_iter()
        .filter(|(_, works)| *works == Some(false));
    ensure!(!works && failed.count() == 2, "{steps}");
    prints(&world.near, "ip", &["link", "delete", "nsm-1"])?;
    let (steps, works) = json(world, &ping).await?;
    let gone = states(&steps).contains(&("\"interface\"".to_string(), Some(false)));
    ensure!(!works && gone, "{steps}");
    client.close(attached.request).await?;
    client.end().await;
    stops(both).await
}

async fn explains(world: &mut World) -> Result<()> {
    let (served, works) = json(world, &["explain", "kernel://icmp-responder/nsm-1"]).await?;
    ensure!(works && served["verdict"]["is_served"] == true, "{served}");
    same("chosen", served["endpoints"][0]["name"].as_str(), Some("nse"))?;
    same(
        "forwarder",
        served["forwarders"][0]["is_chosen"].as_bool(),
        Some(true),
    )?;
    let (unknown, works) = json(world, &["explain", "icmp-respnder"]).await?;
    same(
        "reason",
        unknown["verdict"]["reason"].as_str(),
        Some("no-service"),
    )?;
    same("nearest", unknown["nearest"][0].as_str(), Some("icmp-responder"))?;
    ensure!(!works, "an unknown service is no success");

    // The same refusal by the mesh itself has the same reason.
    let client = world.quiet()?;
    let refused = client.attach("refused", "kernel://icmp-respnder/nsm-1").await;
    crate::world::refused(refused, "no-service", &["icmp-respnder"])?;
    let attached = client
        .attach("explained", "kernel://icmp-responder/nsm-1")
        .await?;
    let (connection, works) = json(world, &["explain", "explained"]).await?;
    ensure!(works, "{connection}");
    same("it is at", connection["is_at"].as_str(), Some("nse"))?;
    client.close(attached.request).await?;
    client.end().await;
    let output = nsm(world, &["explain", "no-forwarder"]).await?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains("remedy:") && output.status.success(), "{text}");
    Ok(())
}

/// Starts `file` as somebody of the mesh.
fn start(world: &World, name: &str, file: &Path, arguments: &[&str]) -> Result<Program> {
    let folder = world.node.folder();
    let identity = folder.join("identity/node.sock");
    let variables = [
        ("NSM_CONNECT_TO", world.nsmgr()),
        ("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", identity.display())),
    ];
    let what = nsm::mesh::Start {
        name,
        file,
        pod: None,
        folder,
    };
    Program::start(what, arguments, &variables)
}

async fn monitors(world: &mut World) -> Result<()> {
    let mut monitor = start(
        world,
        "monitor",
        &programs()?.file("nsm")?,
        &["monitor", "--json"],
    )?;
    let client = world.quiet()?;
    // A subscriber that comes late sees what is there first, so both words come in any case.
    let attached = client.attach("watched", "kernel://icmp-responder/nsm-1").await?;
    says(&mut monitor, "\"client_id\":\"watched\"").await?;
    client.close(attached.request).await?;
    says(&mut monitor, "\"event\":\"delete\"").await?;
    client.end().await;
    monitor.terminate();
    drop(monitor);
    Ok(())
}

/// What `nsm` has drawn last.
fn drawn(terminal: &Program) -> Vec<String> {
    let printed = terminal.printed();
    let last = printed.rsplit("\x1b[J").nth(1).unwrap_or_default();
    let lines = last.split("\x1b[K").map(str::trim);
    let text = |line: &str| {
        let moved = line.strip_prefix("\x1b[").and_then(|line| line.split_once('A'));
        moved.map_or(line, |(_, line)| line).to_string()
    };
    lines.filter(|line| !line.is_empty()).map(text).collect()
}

/// Waits until the last row of the table has these words.
async fn shows_row(terminal: &Program, words: &[&str]) -> Result<String> {
    let row = wait_for(PATIENCE, "the table has the row", async || {
        let row = drawn(terminal).pop().unwrap_or_default();
        let cells: Vec<_> = row.split_whitespace().collect();
        Ok(words.iter().all(|word| cells.contains(word)).then_some(row))
    });
    row.await
        .with_context(|| format!("{words:?} in {:?}", drawn(terminal)))
}

async fn draws(world: &mut World) -> Result<()> {
    let nsm = programs()?.file("nsm")?;
    let command = format!(
        "stty columns 200 rows 12 && echo pid $$ && exec {} monitor",
        nsm.display()
    );
    let script = [
        "--quiet",
        "--flush",
        "--return",
        "--command",
        &command,
        "/dev/null",
    ];
    let mut terminal = start(world, "terminal", Path::new("/usr/bin/script"), &script)?;
    shows_row(&terminal, &["no", "connections"]).await?;
    let client = world.quiet()?;
    let attached = client.attach("drawn", "kernel://icmp-responder/nsm-1").await?;
    let up = shows_row(&terminal, &["icmp-responder", "nse", "KERNEL", "up", "forwarder"]).await?;
    same("lines", drawn(&terminal).len(), 3)?;
    world.endpoint.take().context("no endpoint")?.kill()?;
    let down = shows_row(&terminal, &["icmp-responder", "down"]).await?;
    let id = |row: &str| row.split(' ').next().map(str::to_string);
    same("the row's id", id(&down), id(&up))?;
    same("lines", drawn(&terminal).len(), 3)?;
    client.close(attached.request).await?;
    client.end().await;
    shows_row(&terminal, &["no", "connections"]).await?;
    let printed = terminal.printed();
    let pid = printed
        .split_whitespace()
        .skip_while(|word| *word != "pid")
        .nth(1);
    let pid = Pid::from_raw(pid.context("no pid")?.parse()?).context("no pid")?;
    kill_process(pid, Signal::INT)?;
    let ended = wait_for(PATIENCE, "the table ends", async || terminal.ended()).await?;
    same("its exit code", ended.code(), Some(130))?;
    let printed = terminal.printed();
    ensure!(
        printed.contains("\x1b[?25l") && printed.ends_with("\x1b[?25h"),
        "there is no cursor any more: {printed:?}"
    );
    world.start_endpoint().await
}

/// A request in HTTP, and its answer.
async fn get(address: &str, path: &str) -> Result<String> {
    http_get(TcpStream::connect(address).await?, path).await
}

const METRICS: &str = "127.0.0.1:19081";
const PROMETHEUS: &str = "127.0.0.1:19090";

async fn scraped(world: &mut World) -> Result<()> {
    stops(world.node.nsmgr.take().context("no manager")?).await?;
    let variables = [
        ("NSM_LISTEN_ON", world.nsmgr()),
        ("NSM_REGISTRY_URL", world.node.url("registry")),
        ("NODE_NAME", "node-1".to_string()),
        ("NSM_PROMETHEUS", "true".to_string()),
        ("NSM_PROMETHEUS_LISTEN_ON", METRICS.to_string()),
    ];
    let mut nsmgr = world.node.launch("nsmgr", "nsmgr", None, &variables)?;
    says(&mut nsmgr, "INFO ready").await?;
    let client = world.quiet()?;
    let attached = wait_for(PATIENCE, "the manager knows its forwarder again", async || {
        Ok(client
            .attach("counted", "kernel://icmp-responder/nsm-1")
            .await
            .ok())
    });
    let attached = attached.await?;
    let told = get(METRICS, "/metrics").await?;
    for line in [
        "nsm_held{api=\"networkservice\"} 1",
        "nsm_connections{state=\"up\"} 1",
        "nsm_connections{state=\"down\"} 0",
        "# TYPE nsm_call_duration_seconds histogram",
        "nsm_calls_total{api=\"networkservice\",call=\"request\",reason=\"ok\"}",
    ] {
        ensure!(told.contains(line), "{line}\nnot in\n{told}");
    }
    check(told.split_once("\r\n\r\n").map_or("", |(_, body)| body))?;
    let prometheus = start_prometheus(world.node.folder())?;
    let query = "/api/v1/query?query=nsm_held%7Bapi%3D%22networkservice%22%7D";
    let scraped = wait_for(PATIENCE, "Prometheus has scraped the manager", async || {
        let told = get(PROMETHEUS, query).await.unwrap_or_default();
        Ok(told.contains("\"1\"]").then_some(told))
    });
    let scraped = scraped.await?;
    ensure!(scraped.contains("\"job\":\"nsm\""), "{scraped}");
    evaluates().await?;
    drop(prometheus);
    world.endpoint.take().context("no endpoint")?.kill()?;
    let is_down = wait_for(PATIENCE, "the connection counts as down", async || {
        let told = get(METRICS, "/metrics").await?;
        Ok(are(&told, [0, 1]).then_some(()))
    });
    is_down.await?;
    client.close(attached.request).await?;
    client.end().await;
    let after = get(METRICS, "/metrics").await?;
    ensure!(
        after.contains("nsm_held{api=\"networkservice\"} 0") && are(&after, [0, 0]),
        "{after}"
    );
    world.start_endpoint().await?;
    stops(nsmgr).await?;
    world.node.start_nsmgr().await.map(drop)?;
    // Forwarder and endpoint register again with the manager that has come back.
    let client = world.quiet()?;
    let again = wait_for(PATIENCE, "the manager knows its forwarder again", async || {
        Ok(client.attach("after", "kernel://icmp-responder/nsm-1").await.ok())
    });
    client.close(again.await?.request).await?;
    client.end().await;
    Ok(())
}

/// Whether so many connections are up, and so many down.
fn are(told: &str, counts: [usize; 2]) -> bool {
    ["up", "down"].iter().zip(counts).all(|(state, count)| {
        let line = format!("nsm_connections{{state=\"{state}\"}} {count}");
        told.lines().any(|told| told == line)
    })
}

/// Prometheus evaluates each rule and each query of the dashboard that are shipped.
async fn evaluates() -> Result<()> {
    let rules = wait_for(PATIENCE, "Prometheus has evaluated its rules", async || {
        let told = get(PROMETHEUS, "/api/v1/rules").await?;
        Ok((!told.contains("\"health\":\"unknown\"")).then_some(told))
    });
    let rules = rules.await?;
    let alerts = std::fs::read_to_string(shipped("alerts.yaml"))?;
    let (healthy, all) = (
        rules.matches("\"health\":\"ok\"").count(),
        alerts.matches("- alert:").count(),
    );
    ensure!(
        healthy == all && all > 0,
        "{healthy} of {all} rules are well: {rules}"
    );
    let dashboard: Value = serde_json::from_slice(&std::fs::read(shipped("dashboard.json"))?)?;
    let targets = dashboard["panels"].as_array().into_iter().flatten();
    let targets = targets.filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut answered = 0;
    for query in targets.filter_map(|target| target["expr"].as_str()) {
        let query = query.replace("$job", ".*").replace("$instance", ".*");
        let coded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let told = get(PROMETHEUS, &format!("/api/v1/query?query={coded}")).await?;
        ensure!(told.contains("\"status\":\"success\""), "{query}: {told}");
        answered += usize::from(!told.contains("\"result\":[]"));
    }
    ensure!(
        answered >= 5,
        "only {answered} queries of the dashboard have an answer"
    );
    Ok(())
}

/// What is shipped for those who look by Prometheus.
fn shipped(file: &str) -> std::path::PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.join("../deployments/observability").join(file)
}

/// What Prometheus itself says of the names and the format of metrics.
fn check(text: &str) -> Result<()> {
    use std::io::Write;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool: install the package prometheus")?;
    child
        .stdin
        .take()
        .context("it has an input")?
        .write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "promtool says {}{}\nof\n{text}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A Prometheus that scrapes the manager, ended when dropped.
fn start_prometheus(folder: &Path) -> Result<Program> {
    let config = folder.join("prometheus.yaml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 200ms}}\nrule_files: ['{}']\nscrape_configs:\n- \
             job_name: nsm\n  static_configs:\n  - targets: ['{METRICS}']\n",
            shipped("alerts.yaml").display()
        ),
    )?;
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .map(|folder| folder.join("prometheus"))
        .find(|file| file.is_file());
    let file = found.context("there is no prometheus: install the package prometheus")?;
    let what = nsm::mesh::Start {
        name: "prometheus",
        file: &file,
        pod: None,
        folder,
    };
    let arguments = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", folder.join("prometheus").display()),
        format!("--web.listen-address={PROMETHEUS}"),
    ];
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    Program::start(what, &arguments, &[])
}
