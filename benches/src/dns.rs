// SPDX-License-Identifier: Apache-2.0
//! Names behind a wire: what asking the client's resolver takes more than asking the endpoint's server itself.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use nsm::mesh::{Node, Pod, Program, Programs, Settings};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::time::Instant;

use crate::figure::{Figure, Times};

/// DNS: what the client's resolver adds to a question
#[derive(Args)]
pub(crate) struct Dns {
    /// How many questions of each kind are asked
    #[arg(long, default_value_t = 2000)]
    rounds: usize,
    /// Where the program files are; beside this one by default
    #[arg(long)]
    programs: Option<PathBuf>,
}

/// The address of the endpoint, at which its server hears.
const SERVER: &str = "172.16.7.0:53";

/// Where the client's resolver hears.
const RESOLVER: &str = "127.0.0.1:53";

/// How long something may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

impl Dns {
    pub(crate) async fn run(self) -> Result<Vec<Figure>> {
        let programs = match &self.programs {
            Some(folder) => Programs::in_folder(folder),
            None => Programs::beside_us()?,
        };
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let (near, far) = (Pod::new("dns-client")?, Pod::new("dns-endpoint")?);
        let settings = Settings {
            programs,
            folder: folder.path().to_path_buf(),
            log_level: "INFO".to_string(),
            identities: vec!["nse".to_string(), "nsc".to_string()],
            svid_lifetime: None,
            variables: Vec::new(),
            host: None,
        };
        let node = Node::start(settings, |_, _| ()).await?;
        let configs = r#"[{"dns_server_ips": ["172.16.7.0"], "search_domains": ["corp.example"]}]"#;
        let variables = [
            ("NSM_CIDR_PREFIX", "172.16.7.0/31".to_string()),
            ("NSM_DNS_CONFIGS", configs.to_string()),
        ];
        let (endpoint, _) = node.start_endpoint("nse", &far, &variables).await?;
        let client = client(&node, &near, folder.path()).await?;
        let server = Server::start(&far)?;
        let before = client.memory_kib()?.resident;
        let path = near.path().to_path_buf();
        let figures = tokio::task::spawn_blocking(move || measure(&path, self.rounds));
        let mut figures = figures.await??;
        let grown = client.memory_kib()?.resident.saturating_sub(before) as f64 / 1024.0;
        figures.push(Figure::new("dns.rss_grown_mib", grown, "MiB", 1));
        drop(server);
        client.stop().await?;
        endpoint.stop().await?;
        node.end().await?;
        Ok(figures)
    }
}

/// The client program, with its wire and its resolver.
async fn client(node: &Node, pod: &Pod, folder: &Path) -> Result<Program> {
    let resolv_conf = folder.join("resolv.conf");
    std::fs::write(&resolv_conf, "")?;
    let variables = [
        ("NSM_CONNECT_TO", node.manager_url()),
        (
            "NSM_NETWORK_SERVICES",
            "kernel://icmp-responder/nsm-1".to_string(),
        ),
        ("NSM_RESOLV_CONFIG_PATH", resolv_conf.display().to_string()),
    ];
    let mut client = node.launch("nsc", "nsc", Some(pod), &variables)?;
    let until = Instant::now() + PATIENCE;
    let is_ready = async |client: &Program| client.printed().contains("INFO ready").then_some(());
    client.wait_for("it was ready", until, is_ready).await?;
    Ok(client)
}

/// `dnsmasq`, which knows every name of the endpoint's domain.
struct Server(Child);

impl Server {
    fn start(pod: &Pod) -> Result<Self> {
        let mut command = pod.command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "dnsmasq", "--keep-in-foreground"])
            .args([
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
            ])
            .args([
                "--user=root",
                "--pid-file=",
                "--local-ttl=300",
                "--listen-address=172.16.7.0",
            ])
            .arg("--address=/corp.example/10.9.8.7")
            .stdin(Stdio::null());
        Ok(Self(command.spawn().context("dnsmasq cannot be started")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _it_may_have_ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Asks by turns, so that whatever else the machine does meets all alike.
fn measure(pod: &Path, rounds: usize) -> Result<Vec<Figure>> {
    let (server, resolver) = (socket(pod, SERVER)?, socket(pod, RESOLVER)?);
    let began = Instant::now();
    while let Err(error) = ask(&server, 0, "first") {
        ensure!(began.elapsed() < PATIENCE, "dnsmasq does not answer: {error:#}");
    }
    ask(&resolver, 0, "kept")?;
    let (mut direct, mut cached, mut uncached) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let id = (round % 0xffff) as u16;
        direct.push(ask(&server, id, &format!("direct{round}"))?);
        uncached.push(ask(&resolver, id, &format!("through{round}"))?);
        cached.push(ask(&resolver, id, "kept")?);
    }
    let us = |times: Vec<Duration>| Times::new(times).p50_ms() * 1e3;
    let (direct, cached, uncached) = (us(direct), us(cached), us(uncached));
    Ok(vec![
        Figure::new("dns.direct_p50_us", direct, "us", rounds),
        Figure::new("dns.added_p50_us.cached", cached - direct, "us", rounds).at_most(50.0),
        Figure::new("dns.added_p50_us.uncached", uncached - direct, "us", rounds).at_most(200.0),
    ])
}

/// A socket of the pod, which a thread that has entered it makes.
fn socket(pod: &Path, to: &'static str) -> Result<UdpSocket> {
    let netns = std::fs::File::open(pod)?;
    let made = std::thread::spawn(move || -> Result<UdpSocket> {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    });
    made.join().map_err(|_| anyhow!("no socket could be made"))?
}

/// Asks for the address of `host` in the endpoint's domain; answers how long that took.
fn ask(socket: &UdpSocket, id: u16, host: &str) -> Result<Duration> {
    let mut query = Vec::from(id.to_be_bytes());
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in [host, "corp", "example"] {
        query.push(u8::try_from(label.len())?);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    let mut answer = [0; 512];
    let began = Instant::now();
    socket.send(&query)?;
    let length = socket.recv(&mut answer)?;
    let took = began.elapsed();
    ensure!(
        answer[..2] == id.to_be_bytes() && answer[..length].ends_with(&[10, 9, 8, 7]),
        "{host} was answered by {:?}",
        &answer[..length]
    );
    Ok(took)
}
