// SPDX-License-Identifier: Apache-2.0
//! Wires whose endpoint changes between the client's node and another one.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::IpAddr;
use std::process::Child;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Attached, Client, Pod, Program};
use tokio::time::{Duration, Instant};

use crate::Bench;
use crate::remote::{Apart, ends, ping_both_ways};
use crate::world::{
    PATIENCE, addresses, links, only_link, prints, replied, routes, same, says, stops, wait_for,
};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.apart(
            "d36_d37_by_vxlan_to_the_endpoint_that_is_asked_for_and_back",
            "ETHERNET",
            asked_for,
        ),
        bench.apart(
            "d36_d37_by_wireguard_to_the_endpoint_that_is_asked_for_and_back",
            "IP",
            asked_for,
        ),
        bench.apart(
            "d36_d37_by_vxlan_when_endpoints_are_killed_and_back",
            "ETHERNET",
            killed,
        ),
        bench.apart(
            "d36_d37_by_wireguard_when_endpoints_are_killed_and_back",
            "IP",
            killed,
        ),
        bench.apart(
            "packets_that_pass_one_way_only_move_the_wire_by_vxlan",
            "ETHERNET",
            one_way_only,
        ),
        bench.apart(
            "packets_that_pass_one_way_only_move_the_wire_by_wireguard",
            "IP",
            one_way_only,
        ),
        bench.apart(
            "an_endpoint_on_another_node_that_says_no_leaves_nothing",
            "ETHERNET",
            refused,
        ),
    ]
}

const SERVICE: &str = "kernel://icmp-responder/nsm-1";

/// How many packets may be lost of a stream of one every millisecond while a wire on this node is exchanged for a
/// tunnel by a request that took so long: those that are under way when the routes change, which are more where
/// processors are slow.
fn under_way(took: Duration) -> u32 {
    u32::try_from(10 + took.as_millis() / 20).unwrap_or(u32::MAX)
}

/// For how much longer than the request takes a stream may be silent on the way back: the other node removes its half as
/// soon as it is told that the connection leaves, who gets no answers sends but every 10 ms, and machines are busy.
const TO_NOTICE: Duration = Duration::from_millis(100);

/// An endpoint on the node of the client.
struct Here {
    program: Program,
    pod: Pod,
}

async fn here(apart: &Apart) -> Result<Here> {
    let pod = Pod::new("here")?;
    let program = start_here(apart, &pod).await?;
    Ok(Here { program, pod })
}

async fn start_here(apart: &Apart, pod: &Pod) -> Result<Program> {
    apart.join(&apart.first, "nse-2", pod).await
}

/// A ping every millisecond, which ends when this is dropped.
pub(crate) struct Stream {
    ping: Child,
    printed: File,
}

/// What came of a stream.
pub(crate) struct Passed {
    pub(crate) sent: u32,
    pub(crate) lost: u32,
    /// The longest time between two answers.
    pub(crate) silence: Duration,
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ended_already = self.ping.kill();
        let _reaped = self.ping.wait();
    }
}

impl Stream {
    pub(crate) fn start(pod: &Pod, to: IpAddr) -> Result<Self> {
        let mut ping = pod.command("ping");
        ping.args(["-n", "-D", "-i", "0.001", "-W", "1", &to.to_string()]);
        let printed = tempfile::tempfile()?;
        let ping = ping.stdout(printed.try_clone()?).spawn()?;
        Ok(Self { ping, printed })
    }

    /// Ends it. An answer that is on its way then counts as lost.
    pub(crate) async fn stop(mut self) -> Result<Passed> {
        let pid = rustix::process::Pid::from_child(&self.ping);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        wait_for(PATIENCE, "ping has ended", async || Ok(self.ping.try_wait()?)).await?;
        let mut printed = String::new();
        self.printed.rewind()?;
        self.printed.read_to_string(&mut printed)?;
        let count = |what: &str| -> Result<u32> {
            let before = printed.split_once(what).context("ping printed no counts")?.0;
            let number = before.rsplit([' ', '\n']).find(|word| !word.is_empty());
            Ok(number.context("ping printed no counts")?.parse()?)
        };
        let (sent, received) = (count(" packets transmitted")?, count(" received")?);
        // [1700000000.123456] 64 bytes from ...
        let answers = printed.lines().filter(|line| line.contains(" bytes from "));
        let times = answers.map(|line| -> Result<f64> {
            let time = line
                .split(['[', ']'])
                .nth(1)
                .context("an answer without a time")?;
            Ok(time.parse()?)
        });
        let times = times.collect::<Result<Vec<_>>>()?;
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        Ok(Passed {
            sent,
            lost: sent.saturating_sub(received),
            silence: Duration::from_secs_f64(longest),
        })
    }
}

/// The addresses and the routes of an interface.
type Configured = (Vec<String>, Vec<String>);

/// What must stay the same of the client's interface, and what it is.
fn seen(pod: &Pod) -> Result<(Configured, String)> {
    let link = only_link(pod)?;
    same("the name", link["ifname"].as_str(), Some("nsm-1"))?;
    let kind = link["linkinfo"]["info_kind"].as_str().unwrap_or_default();
    let is_configured = (addresses(pod, "nsm-1")?, routes(pod, "nsm-1", "-4")?);
    Ok((is_configured, kind.to_string()))
}

/// Waits until nothing but the wire is in the client's pod: the former one is removed in the background.
async fn alone(pod: &Pod) -> Result<()> {
    wait_for(PATIENCE, "the former interface is gone", async || {
        Ok((links(pod)?.len() == 1).then_some(()))
    })
    .await
}

/// Asks for another endpoint under a stream, of which at most what is under way may be lost where this node alone
/// decides when the old wire goes, and which is silent no longer than the request takes where it does not.
async fn move_to(apart: &Apart, client: &Client, attached: Attached, name: &str) -> Result<Attached> {
    let (_, to) = ends(&attached)?;
    let stream = Stream::start(&apart.near, to)?;
    replied(&apart.near, 10).await?;
    let is_here = seen(&apart.near)?.1 == "veth";
    let mut request = attached.request;
    request.connection.network_service_endpoint_name = name.into();
    let began = Instant::now();
    let attached = client.again(request).await?;
    let took = began.elapsed();
    alone(&apart.near).await?;
    replied(&apart.near, 10).await?;
    let Passed { sent, lost, silence } = stream.stop().await?;
    println!("to {name}: {took:?}, {lost} of {sent} packets lost, silent for {silence:?}");
    match is_here {
        true => ensure!(lost <= under_way(took), "{lost} of {sent} packets were lost"),
        false => ensure!(silence <= took + TO_NOTICE, "silent for {silence:?} of {took:?}"),
    }
    same(
        "the endpoint",
        attached.request.connection.network_service_endpoint_name.as_str(),
        name,
    )?;
    Ok(attached)
}

async fn asked_for(apart: &mut Apart) -> Result<()> {
    let Here { program, pod } = here(apart).await?;
    let client = apart.client()?;
    let mut request = client.ask("moves-0", SERVICE)?;
    request.connection.network_service_endpoint_name = "nse-2".into();
    let mut attached = client.again(request).await?;
    let (before, kind) = seen(&apart.near)?;
    same("the kind", kind.as_str(), "veth")?;
    for _ in 0..2 {
        attached = move_to(apart, &client, attached, "nse").await?;
        let (now, kind) = seen(&apart.near)?;
        ensure!(kind != "veth", "it is still on this node");
        same("addresses and routes", &now, &before)?;
        ping_both_ways(apart, &attached)?;
        same("wires of the endpoint that was left", links(&pod)?.len(), 0)?;
        attached = move_to(apart, &client, attached, "nse-2").await?;
        let (now, kind) = seen(&apart.near)?;
        same("the kind", kind.as_str(), "veth")?;
        same("addresses and routes", &now, &before)?;
        nothing_left(&apart.far).await?;
    }
    client.close(attached.request).await?;
    client.end().await;
    stops(program).await?;
    drop(pod);
    Ok(())
}

async fn nothing_left(pod: &Pod) -> Result<()> {
    wait_for(PATIENCE, "the endpoint that was left has no wire", async || {
        Ok(links(pod)?.is_empty().then_some(()))
    })
    .await
}

async fn killed(apart: &mut Apart) -> Result<()> {
    // Only the one on this node while the client attaches.
    stops(apart.endpoint.take().context("no endpoint")?).await?;
    let Here { program, pod } = here(apart).await?;
    let variables = [
        ("NSM_CONNECT_TO", apart.first.manager_url()),
        ("NSM_NETWORK_SERVICES", SERVICE.to_string()),
    ];
    let mut nsc = apart.first.launch("nsc", "nsc", Some(&apart.near), &variables)?;
    says(&mut nsc, "INFO ready").await?;
    let (before, _) = seen(&apart.near)?;
    apart.endpoint = Some(apart.join(&apart.second, "nse", &apart.far).await?);
    program.kill()?;
    moved(apart, &nsc, 1, &before, |kind| kind != "veth").await?;
    nothing_left(&pod).await?;
    let program = start_here(apart, &pod).await?;
    apart.endpoint.take().context("no endpoint")?.kill()?;
    moved(apart, &nsc, 2, &before, |kind| kind == "veth").await?;
    nothing_left(&apart.far).await?;
    stops(nsc).await?;
    stops(program).await?;
    std::fs::remove_file(apart.first.folder().join("nse.sock"))?;
    drop(pod);
    Ok(())
}

/// Waits until the client has mended its wire `times`, which then has the same addresses and is of this kind.
async fn moved(
    apart: &Apart,
    nsc: &Program,
    times: usize,
    before: &(Vec<String>, Vec<String>),
    is_of: impl Fn(&str) -> bool,
) -> Result<()> {
    let began = Instant::now();
    wait_for(PATIENCE, "the wire is mended", async || {
        let healed = nsc.printed().matches("healed_ms").count();
        Ok((healed >= times).then_some(()))
    })
    .await?;
    println!("mended after {:?}", began.elapsed());
    alone(&apart.near).await?;
    let (now, kind) = seen(&apart.near)?;
    ensure!(is_of(&kind), "it is {kind}");
    same("addresses and routes", &now, before)
}

/// Lets the first node drop every UDP packet of the second, silently, or hear it again.
///
/// The rule stands before the one for local addresses, which the kernel has as its very first.
fn deafen(apart: &Apart, is_deaf: bool) -> Result<()> {
    let from = apart.hosts[1].tunnel_ip().to_string();
    let mut rules = vec![
        vec!["add", "pref", "5", "lookup", "local"],
        vec!["del", "pref", "0"],
        vec!["add", "pref", "1", "from", &from, "ipproto", "udp", "blackhole"],
    ];
    if !is_deaf {
        rules = vec![
            vec!["del", "pref", "1"],
            vec!["add", "pref", "0", "lookup", "local"],
            vec!["del", "pref", "5"],
        ];
    }
    for rule in rules {
        prints(apart.hosts[0].pod(), "ip", &[vec!["rule"], rule].concat())?;
    }
    Ok(())
}

async fn one_way_only(apart: &mut Apart) -> Result<()> {
    let variables = [
        ("NSM_CONNECT_TO", apart.first.manager_url()),
        ("NSM_NETWORK_SERVICES", SERVICE.to_string()),
    ];
    let mut nsc = apart.first.launch("nsc", "nsc", Some(&apart.near), &variables)?;
    says(&mut nsc, "INFO ready").await?;
    let (before, kind) = seen(&apart.near)?;
    ensure!(kind != "veth", "it is on this node");
    replied(&apart.near, 1).await?;
    let Here { program, pod } = here(apart).await?;
    deafen(apart, true)?;
    moved(apart, &nsc, 1, &before, |kind| kind == "veth").await?;
    nothing_left(&apart.far).await?;
    replied(&apart.near, 1).await?;
    deafen(apart, false)?;
    stops(nsc).await?;
    stops(program).await?;
    drop(pod);
    Ok(())
}

async fn refused(apart: &mut Apart) -> Result<()> {
    let Here { program, pod } = here(apart).await?;
    let client = apart.client()?;
    let mut request = client.ask("refused-0", SERVICE)?;
    request.connection.network_service_endpoint_name = "nse-2".into();
    let attached = client.again(request).await?;
    apart.underlay.plug(2, false)?;
    let mut request = attached.request.clone();
    request.connection.network_service_endpoint_name = "nse".into();
    let error = client.again(request).await.err();
    let error = format!("{:#}", error.context("a wire through a cable that is out")?);
    ensure!(error.contains("10.77.0.2"), "{error}");
    nothing_left(&apart.near).await?;
    nothing_left(&pod).await?;
    apart.underlay.plug(2, true)?;
    let back = wait_for(Duration::from_secs(20), "the wire is there again", async || {
        Ok(client.again(attached.request.clone()).await.ok())
    });
    client.close(back.await?.request).await?;
    client.end().await;
    stops(program).await?;
    drop(pod);
    Ok(())
}
