// SPDX-License-Identifier: Apache-2.0
//! Wires between two nodes.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Client, Host, Node, Pod, Program, Settings, Snapshot, Underlay, ping};
use serde_json::Value;
use tempfile::TempDir;

use crate::Bench;
use crate::moves::{Passed, Stream};
use crate::world::{PATIENCE, links, programs, replied, same, says, stops, wait_for};

/// What the link between the nodes carries in one packet.
const UNDERLAY_MTU: u32 = 1500;

/// Set where the kernel must have WireGuard, so that a run without it fails.
const KERNEL: &str = "NSM_WIREGUARD_TEST_KERNEL";

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let mut trials = vec![
        bench.apart("d49_ethernet_to_another_node_goes_by_vxlan", "ETHERNET", ethernet),
        bench.apart("d47_ip_to_another_node_goes_by_wireguard", "IP", ip),
        bench.apart(
            "d50_packets_of_exactly_the_mtu_pass_by_vxlan",
            "ETHERNET",
            exactly_the_mtu,
        ),
        bench.apart(
            "d50_packets_of_exactly_the_mtu_pass_by_wireguard",
            "IP",
            exactly_the_mtu,
        ),
        bench.apart(
            "closing_leaves_nothing_on_either_node_of_vxlan",
            "ETHERNET",
            closing,
        ),
        bench.apart(
            "closing_leaves_nothing_on_either_node_of_wireguard",
            "IP",
            closing,
        ),
        bench.apart("d59_a_refresh_changes_nothing_of_vxlan", "ETHERNET", refreshing),
        bench.apart("d59_a_refresh_changes_nothing_of_wireguard", "IP", refreshing),
        bench.apart(
            "forwarders_end_in_order_under_a_wire_by_vxlan",
            "ETHERNET",
            forwarders_end,
        ),
        bench.apart(
            "forwarders_end_in_order_under_a_wire_by_wireguard",
            "IP",
            forwarders_end,
        ),
        bench.apart_over_ipv6("d55_ethernet_over_ipv6_goes_by_vxlan", "ETHERNET", over_ipv6),
        bench.apart_over_ipv6("d55_ip_over_ipv6_goes_by_wireguard", "IP", over_ipv6),
        bench.apart("a_node_that_cannot_be_reached_is_named", "ETHERNET", cut_off),
    ];
    // The tunnels of our own engine end with their forwarder.
    if std::env::var_os(KERNEL).is_some() {
        trials.push(bench.apart(
            "d38_kill_9_of_the_forwarders_changes_nothing_of_wireguard",
            "IP",
            forwarders_killed,
        ));
    }
    trials
}

/// Two nodes: a pod for clients on the first, and one with an endpoint on the second.
pub(crate) struct Apart {
    pub(crate) near: Pod,
    pub(crate) far: Pod,
    pub(crate) first: Node,
    pub(crate) second: Node,
    pub(crate) hosts: [Arc<Host>; 2],
    pub(crate) endpoint: Option<Program>,
    pub(crate) underlay: Underlay,
    /// What the service carries.
    pub(crate) payload: &'static str,
    /// The kernel as it was before anything was asked for.
    before: Snapshot,
    folder: TempDir,
}

impl Apart {
    /// Tunnels go over this family of addresses; all programs have the variables.
    pub(crate) async fn with(
        payload: &'static str,
        over_ipv6: bool,
        variables: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let underlay = Underlay::new(UNDERLAY_MTU)?;
        let host = |number| -> Result<Arc<Host>> {
            let host = underlay.host(number)?;
            Ok(Arc::new(if over_ipv6 {
                host.with_tunnels_over_ipv6()
            } else {
                host
            }))
        };
        let hosts = [host(1)?, host(2)?];
        let (near, far) = (Pod::new("near")?, Pod::new("far")?);
        let before = Snapshot::take(None)?;
        let settings = Settings {
            programs: programs()?,
            folder: folder.path().to_path_buf(),
            log_level: std::env::var("NSM_LOG_LEVEL").unwrap_or_else(|_| "DEBUG".to_string()),
            identities: [
                "nsmgr-2",
                "forwarder-2",
                "registry-3",
                "nsmgr-3",
                "forwarder-3",
                "nse",
                "nse-2",
                "nse-3",
                "nsc",
                "worker-node-1",
                "worker-node-2",
            ]
            .map(String::from)
            .to_vec(),
            svid_lifetime: None,
            variables,
            host: Some(Arc::clone(&hosts[0])),
        };
        let first = Node::start(settings, |_, _| ()).await?;
        let second = first.join(2, Arc::clone(&hosts[1]), |_, _| ()).await?;
        let mut apart = Self {
            near,
            far,
            first,
            second,
            hosts,
            endpoint: None,
            underlay,
            payload,
            before,
            folder,
        };
        let variables = [("NSM_PAYLOAD", payload.to_string())];
        let (mut endpoint, _) = apart.second.start_endpoint("nse", &apart.far, &variables).await?;
        says(&mut endpoint, "INFO ready").await?;
        apart.endpoint = Some(endpoint);
        Ok(apart)
    }

    /// One more endpoint of the same service.
    pub(crate) async fn join(&self, node: &Node, name: &str, pod: &Pod) -> Result<Program> {
        let variables = [("NSM_REGISTER_SERVICE", "false".to_string())];
        let (mut endpoint, _) = node.start_endpoint(name, pod, &variables).await?;
        says(&mut endpoint, "INFO ready").await?;
        Ok(endpoint)
    }

    /// A client of the first node, whose wires count when they carry a ping.
    pub(crate) fn client(&self) -> Result<Client> {
        Client::new(&self.first, "nsc", self.near.path())?.pinging()
    }

    /// Waits until the kernel is as it was.
    pub(crate) async fn clean(&self) -> Result<()> {
        let mut left = Vec::new();
        let clean = wait_for(PATIENCE, "the kernel is as before", async || {
            left = tokio::task::spawn_blocking(|| Snapshot::take(None))
                .await??
                .since(&self.before);
            // The nodes know each other by now.
            left.retain(|object| {
                !(object.starts_with("neighbour") && object.contains(" on underlay in node-"))
            });
            Ok(left.is_empty().then_some(()))
        });
        clean.await.with_context(|| format!("left behind: {left:?}"))
    }

    /// All programs but clients.
    pub(crate) fn programs(&self) -> Vec<&Program> {
        let programs = self.first.programs().chain(self.second.programs());
        programs.chain(&self.endpoint).collect()
    }

    /// Keeps the logs, and tells where.
    pub(crate) fn keep(&mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("the logs are in {}", self.folder.path().display())
    }

    pub(crate) async fn end(self) -> Result<()> {
        if let Some(endpoint) = self.endpoint {
            endpoint.stop().await?;
        }
        self.second.end().await?;
        self.first.end().await
    }
}

/// The ends of a wire: the client's address and the endpoint's.
pub(crate) fn ends(attached: &Attached) -> Result<(IpAddr, IpAddr)> {
    let ip = attached.request.connection.ip_context().context("no addresses")?;
    let (src, dst) = (ip.src_nets(), ip.dst_nets());
    src.first()
        .zip(dst.first())
        .map(|(src, dst)| (src.addr(), dst.addr()))
        .context("no addresses")
}

async fn ethernet(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("remote-0", "kernel://icmp-responder/nsm-1").await?;
    passes_six_hops(&attached)?;
    ping_both_ways(apart, &attached)?;
    let link = device(&apart.near)?;
    same("the kind", link["linkinfo"]["info_kind"].as_str(), Some("vxlan"))?;
    same("the MTU", link["mtu"].as_u64(), Some(1446))?;
    let data = &link["linkinfo"]["info_data"];
    same("our address", data["local"].as_str(), Some("10.77.0.1"))?;
    same("the other node's", data["remote"].as_str(), Some("10.77.0.2"))?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn ip(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("remote-0", "kernel://icmp-responder/nsm-1").await?;
    passes_six_hops(&attached)?;
    ping_both_ways(apart, &attached)?;
    let link = device(&apart.near)?;
    let kind = link["linkinfo"]["info_kind"].as_str();
    ensure!(matches!(kind, Some("wireguard" | "tun")), "the kind is {kind:?}");
    same("the MTU", link["mtu"].as_u64(), Some(1440))?;
    // Encrypted between the nodes: nothing of the pods' addresses is there, and the pod has no socket.
    let sockets = apart.near.command("ss").args(["-Hlun"]).output()?;
    same(
        "sockets of the pod",
        String::from_utf8_lossy(&sockets.stdout).trim(),
        "",
    )?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

fn passes_six_hops(attached: &Attached) -> Result<()> {
    let path = attached.request.connection.path.as_ref().context("no path")?;
    let hops = path.path_segments.iter().map(|segment| segment.name.as_str());
    let should = ["nsc", "nsmgr", "forwarder", "nsmgr-2", "forwarder-2", "nse"];
    same("the path", hops.collect::<Vec<_>>(), should.to_vec())
}

pub(crate) fn ping_both_ways(apart: &Apart, attached: &Attached) -> Result<()> {
    let (source, destination) = ends(attached)?;
    for (pod, to) in [(&apart.near, destination), (&apart.far, source)] {
        let pings = ping(pod, to, 5)?;
        ensure!(pings.loss == 0.0, "to {to}: {pings:?}");
    }
    Ok(())
}

/// The client's interface, which is the kernel's where it must be.
pub(crate) fn device(pod: &Pod) -> Result<Value> {
    let links = pod.ip(&["-details", "link", "show", "dev", "nsm-1"])?;
    let link = links.get(0).cloned().context("no interface nsm-1")?;
    let is_ours = link["linkinfo"]["info_kind"] == "tun";
    ensure!(
        !is_ours || std::env::var_os(KERNEL).is_none(),
        "the forwarder did not use the kernel's WireGuard"
    );
    Ok(link)
}

async fn refreshing(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("again-0", "kernel://icmp-responder/nsm-1").await?;
    let before = (
        device(&apart.near)?["ifindex"].clone(),
        attached.request.connection.mechanism.clone(),
    );
    let (_, to) = ends(&attached)?;
    let stream = Stream::start(&apart.near, to)?;
    let mut request = attached.request;
    for _ in 0..10 {
        request = client.again(request).await?.request;
        replied(&apart.near, 10).await?;
    }
    let Passed { sent, lost, .. } = stream.stop().await?;
    // The answer to the last one may be on its way when ping ends.
    ensure!(lost <= 1, "{lost} of {sent} packets were lost");
    let after = (
        device(&apart.near)?["ifindex"].clone(),
        request.connection.mechanism.clone(),
    );
    same("the interface and its mechanism", after, before)?;
    client.close(request).await?;
    client.end().await;
    Ok(())
}

/// Ends both forwarders under a wire, and starts them again: nothing in them waits for the wire to be closed.
async fn forwarders_end(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let mut request = client
        .attach("ends-0", "kernel://icmp-responder/nsm-1")
        .await?
        .request;
    for node in [&mut apart.first, &mut apart.second] {
        let forwarder = node.forwarder.take().context("no forwarder")?;
        let log = node.folder().join(format!("{}.log", forwarder.name()));
        stops(forwarder).await?;
        let told = std::fs::read_to_string(log)?;
        ensure!(!told.contains("still uses the data plane"), "{told}");
        node.start_forwarder().await?;
        let again = wait_for(PATIENCE, "the wire is refreshed", async || {
            Ok(client.again(request.clone()).await.ok())
        });
        request = again.await?.request;
    }
    client.close(request).await?;
    client.end().await;
    Ok(())
}

/// Kills both forwarders under a wire that carries pings, and starts them again: no ping is lost, and the ends keep their
/// keys, ports and sessions.
async fn forwarders_killed(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("killed-0", "kernel://icmp-responder/nsm-1").await?;
    let (_, destination) = ends(&attached)?;
    let before = (wireguard(&apart.near)?, wireguard(&apart.far)?);
    let mut pings = apart.near.command("ping");
    let pings = pings.args([
        "-n",
        "-q",
        "-i",
        "0.02",
        "-W",
        "2",
        "-c",
        "500",
        &destination.to_string(),
    ]);
    let pings = pings.stdout(std::process::Stdio::piped()).spawn()?;
    let mut request = attached.request;
    for node in [&mut apart.first, &mut apart.second] {
        node.forwarder.take().context("no forwarder")?.kill()?;
        node.start_forwarder().await?;
        let again = wait_for(PATIENCE, "the wire is refreshed", async || {
            Ok(client.again(request.clone()).await.ok())
        });
        request = again.await?.request;
        let after = (wireguard(&apart.near)?, wireguard(&apart.far)?);
        same("both ends", &after, &before)?;
    }
    let printed = tokio::task::spawn_blocking(move || pings.wait_with_output()).await??;
    let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
    ensure!(printed.contains("500 received"), "pings were lost: {printed}");
    client.close(request).await?;
    client.end().await;
    Ok(())
}

/// What `wg` shows of a pod's only tunnel: its keys, its port, its peer, and when they last shook hands.
fn wireguard(pod: &Pod) -> Result<Vec<String>> {
    let mut shown = Vec::new();
    for what in [
        "private-key",
        "listen-port",
        "peers",
        "endpoints",
        "allowed-ips",
        "latest-handshakes",
    ] {
        let output = pod.command("wg").args(["show", "all", what]).output()?;
        ensure!(output.status.success(), "wg show all {what}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout);
        // The interfaces of the two pods have different names.
        shown.extend(text.split_whitespace().skip(1).map(str::to_owned));
    }
    Ok(shown)
}

async fn exactly_the_mtu(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("mtu-0", "kernel://icmp-responder/nsm-1").await?;
    let (_, destination) = ends(&attached)?;
    let mtu = attached
        .request
        .connection
        .context
        .as_ref()
        .context("no context")?
        .mtu;
    for (size, passes) in [(mtu - 28, true), (mtu - 27, false)] {
        let line = [
            "-n",
            "-q",
            "-c",
            "1",
            "-W",
            "2",
            "-M",
            "do",
            "-s",
            &size.to_string(),
            &destination.to_string(),
        ];
        let done = apart.near.command("ping").args(line).output()?;
        same(&format!("{size} bytes pass"), done.status.success(), passes)?;
    }
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn closing(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    for number in 0..3 {
        let attached = client
            .attach(&format!("close-{number}"), "kernel://icmp-responder/nsm-1")
            .await?;
        client.close(attached.request).await?;
        same("interfaces of the client", links(&apart.near)?.len(), 0)?;
    }
    client.end().await;
    Ok(())
}

async fn over_ipv6(apart: &mut Apart) -> Result<()> {
    let client = apart.client()?;
    let attached = client.attach("ipv6-0", "kernel://icmp-responder/nsm-1").await?;
    ping_both_ways(apart, &attached)?;
    let mechanism = attached.request.connection.path.as_ref().context("no path")?;
    ensure!(mechanism.path_segments.len() == 6, "{mechanism:?}");
    let mtu = device(&apart.near)?["mtu"].as_u64();
    ensure!(matches!(mtu, Some(1420 | 1426)), "the MTU is {mtu:?}");
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn cut_off(apart: &mut Apart) -> Result<()> {
    apart.underlay.plug(2, false)?;
    let client = apart.client()?;
    let error = client.attach("cut-0", "kernel://icmp-responder/nsm-1").await;
    let error = format!("{:#}", error.err().context("a wire through a cable that is out")?);
    ensure!(error.contains("10.77.0.2"), "{error}");
    same("interfaces of the client", links(&apart.near)?.len(), 0)?;
    apart.underlay.plug(2, true)?;
    let attached = wait_for(PATIENCE, "the wire is made", async || {
        Ok(client.attach("cut-0", "kernel://icmp-responder/nsm-1").await.ok())
    });
    client.close(attached.await?.request).await?;
    client.end().await;
    Ok(())
}

/// What the service carries, whether tunnels go over IPv6, and the variables that all programs have.
type Nodes = (&'static str, bool, &'static [(&'static str, &'static str)]);

impl Bench {
    /// A test on two nodes of its own, which has left nothing when it has passed.
    pub(crate) fn apart<F>(&self, name: &'static str, payload: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Apart) -> Result<()> + Send + 'static,
    {
        self.two_nodes(name, (payload, false, &[]), run)
    }

    /// The same with tunnels over IPv6.
    pub(crate) fn apart_over_ipv6<F>(&self, name: &'static str, payload: &'static str, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Apart) -> Result<()> + Send + 'static,
    {
        self.two_nodes(name, (payload, true, &[]), run)
    }

    /// The same as [`Bench::apart`], with variables that all programs have.
    pub(crate) fn apart_with<F>(
        &self,
        name: &'static str,
        payload: &'static str,
        variables: &'static [(&'static str, &'static str)],
        run: F,
    ) -> Trial
    where
        F: AsyncFnOnce(&mut Apart) -> Result<()> + Send + 'static,
    {
        self.two_nodes(name, (payload, false, variables), run)
    }

    fn two_nodes<F>(&self, name: &'static str, nodes: Nodes, run: F) -> Trial
    where
        F: AsyncFnOnce(&mut Apart) -> Result<()> + Send + 'static,
    {
        self.trial(name, async move |shared| {
            if let Some(world) = shared.take() {
                world.end().await.context("the node before could not be ended")?;
            }
            let (payload, over_ipv6, variables) = nodes;
            let variables = variables.iter().map(|(name, value)| (*name, value.to_string()));
            let apart = Apart::with(payload, over_ipv6, variables.collect()).await;
            let mut apart = apart.context("cannot start two nodes")?;
            let done = match run(&mut apart).await {
                Ok(()) => apart.clean().await,
                Err(error) => Err(error),
            };
            done.map_err(|error| error.context(apart.keep()))?;
            apart.end().await
        })
    }
}
