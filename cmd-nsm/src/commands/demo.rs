// SPDX-License-Identifier: Apache-2.0
//! `nsm demo`: two pods, one wire, and what it takes.

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nsm::mesh::{self, Client, Node, Pings, Pod, Program, Programs, Snapshot};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

mod facts;
mod picture;

use facts::{Facts, Latency};

const CLIENT: &str = "nsc-1";
const ENDPOINT: &str = "nse-1";
const SERVICE: &str = "kernel://icmp-responder/nsm-1";

/// Show a wire between two pods on this machine: made, measured, removed
///
/// Makes namespaces of its own (a node and two pods), starts the real programs in them, asks for a wire, pings
/// through it both ways, asks 100 times more, and removes everything. Nothing outside is touched, and no root is
/// needed. Exit code 0 only if every ping was answered and nothing was left.
#[derive(Args)]
pub(crate) struct Demo {
    /// Leave it running, say how to look inside, and clean up on Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Print the facts as one JSON document instead of a picture
    #[arg(long)]
    json: bool,
    /// How many more wires to ask for, one after the other
    #[arg(long, default_value_t = 100)]
    more: u32,
    /// The level at which the programs log, into files that are shown when something fails
    #[arg(long, default_value = "INFO")]
    log_level: String,
}

impl Demo {
    /// Shows it.
    pub(crate) fn run(self) -> Result<ExitCode> {
        if let Some(code) = mesh::enter()? {
            return Ok(code);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt())?;
            let mut terminate = signal(SignalKind::terminate())?;
            let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
            let before = Snapshot::take(None)?;
            let shown = tokio::select! {
                shown = self.show(folder.path()) => shown,
                _ = interrupt.recv() => bail!("interrupted; everything is being removed"),
                _ = terminate.recv() => bail!("told to end; everything is being removed"),
            };
            let path = folder.path().to_path_buf();
            folder.close()?;
            let mut facts = shown?;
            facts.left_behind = Snapshot::take(Some(&path))?.since(&before);
            facts.left_behind.extend(
                facts
                    .running
                    .iter()
                    .filter(|(_, pid)| is_running(*pid))
                    .map(|(name, pid)| format!("process {name} ({pid})")),
            );
            self.print(&facts)?;
            Ok(ExitCode::from(u8::from(!facts.is_good())))
        })
    }

    async fn show(&self, folder: &std::path::Path) -> Result<Facts> {
        let settings = mesh::Settings {
            programs: Programs::beside_us()?,
            folder: folder.to_path_buf(),
            log_level: self.log_level.clone(),
            identities: vec![CLIENT.to_string(), ENDPOINT.to_string()],
            host: None,
        };
        let pods = [Pod::new(CLIENT)?, Pod::new(ENDPOINT)?];
        let [near, far] = &pods;
        let mut facts = Facts::default();
        let node = Node::start(settings, |name, took| {
            self.progress(&format!("{name} is ready"), took)
        })
        .await?;
        let (endpoint, took) = node.start_endpoint(ENDPOINT, far, &[]).await?;
        self.progress("the endpoint is registered", took);
        let began = Instant::now();
        let (client, first) = attach(&node, near).await?;
        self.progress("the client has its wire", began.elapsed());

        let watcher = Client::new(&node, "demo", near.path())?;
        let connection = watcher
            .look(&format!("{CLIENT}-0"))
            .await?
            .context("the manager does not know the wire")?;
        let (source, destination) = addresses(&connection)?;
        facts.ping = vec![mesh::ping(near, destination, 10)?, mesh::ping(far, source, 10)?];
        facts.picture = picture::of(&connection, first);
        self.progress("pings went both ways", Duration::ZERO);
        watcher.end().await;

        facts.attach_ms = self.more(&node, near, first).await?;
        for program in node.programs().chain([&endpoint, &client]) {
            facts.rss_mib.insert(
                program.name().to_string(),
                program.memory_kib()?.resident as f64 / 1024.0,
            );
            facts.running.push((program.name().to_string(), program.pid()));
        }
        if self.keep {
            self.wait(&node, &endpoint, &client, &facts).await?;
        }
        client.stop().await?;
        endpoint.stop().await?;
        node.end().await?;
        Ok(facts)
    }

    /// Asks for more wires, one after the other, each until it carries a ping, and closes each.
    async fn more(&self, node: &Node, pod: &Pod, first: f64) -> Result<Latency> {
        let client = Client::new(node, "more", pod.path())?.pinging()?;
        let mut took = Vec::with_capacity(self.more as usize);
        for number in 0..self.more {
            let attached = client
                .attach(
                    &format!("more-{number}"),
                    &format!("kernel://icmp-responder/more{number}"),
                )
                .await?;
            took.push(attached.carried);
            client.close(attached.request).await?;
        }
        client.end().await;
        self.progress(
            &format!("{} more wires came and went", self.more),
            took.iter().sum(),
        );
        Ok(Latency::of(first, took))
    }

    async fn wait(&self, node: &Node, endpoint: &Program, client: &Program, facts: &Facts) -> Result<()> {
        self.print(facts)?;
        let us = std::process::id();
        let inside = format!("nsenter --target {us} --user --preserve-credentials --mount --net");
        eprintln!("\nIt is running; Ctrl-C removes it. Look inside from another terminal:");
        eprintln!("  the node          {inside}");
        for program in [client, endpoint] {
            eprintln!(
                "  the pod {:<9} {inside} ip netns exec {} ip addr",
                program.name(),
                program.name()
            );
        }
        eprintln!("  logs and sockets  {}", node.folder().display());
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    }

    fn progress(&self, what: &str, took: Duration) {
        if took.is_zero() {
            eprintln!("  {what}");
        } else {
            eprintln!("  {what:<44} {:>9.1} ms", took.as_secs_f64() * 1e3);
        }
    }

    fn print(&self, facts: &Facts) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(facts)?);
        } else {
            println!("{facts}");
        }
        Ok(())
    }
}

/// Starts the client program and waits for its wire; answers how long the program says that it took, in
/// milliseconds.
async fn attach(node: &Node, pod: &Pod) -> Result<(Program, f64)> {
    let mut client = node.start_client(CLIENT, pod, SERVICE)?;
    let until = Instant::now() + Duration::from_secs(20);
    let took = client
        .wait_for("it had its wire", until, async |client| {
            attached(&client.printed())
        })
        .await?;
    Ok((client, took))
}

/// The duration in the line by which the client tells that it has its wire.
fn attached(log: &str) -> Option<f64> {
    log.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["fields"]["attached_ms"].as_f64()
    })
}

fn addresses(connection: &nsm_api::connection::Connection) -> Result<(IpAddr, IpAddr)> {
    let addresses = connection.ip_context().and_then(|ip| {
        let first = |nets: Vec<ipnet::IpNet>| nets.first().map(ipnet::IpNet::addr);
        Some((first(ip.src_nets())?, first(ip.dst_nets())?))
    });
    addresses.context("the connection has no addresses")
}

fn is_running(pid: u32) -> bool {
    std::path::Path::new("/proc").join(pid.to_string()).exists()
}

impl Facts {
    /// Whether every ping was answered and nothing is left.
    fn is_good(&self) -> bool {
        !self.ping.is_empty()
            && self.ping.iter().all(|ping: &Pings| ping.loss == 0.0)
            && self.left_behind.is_empty()
    }
}
