// SPDX-License-Identifier: Apache-2.0
//! Names behind wires: the client program resolves them for its pod, asked by programs as they are.

mod servers;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::Program;
use tokio::time::Instant;

use crate::Bench;
use crate::world::{World, prints, same, says, stops};
use servers::{Dnsmasq, Hostile};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test(
            "names_of_an_endpoints_zone_are_asked_of_its_server_and_no_others",
            zones,
        ),
        bench.test(
            "names_that_are_not_there_and_all_kinds_of_records_are_answered",
            records,
        ),
        bench.test("programs_find_names_by_the_library_of_the_system", library),
        bench.test("answers_are_kept_as_long_as_they_hold", cached),
        bench.test("a_dns_server_that_is_silent_gives_way_to_the_next", silent),
        bench.test("a_dns_server_that_lies_is_not_believed", lying),
        bench.test("a_dns_answer_of_64_kib_arrives_whole", huge),
        bench.test("resolv_conf_is_as_it_was_after_a_kill_9_and_a_restart", killed),
        bench.test("a_wire_that_is_closed_takes_its_names_with_it", closed),
        bench.test("a_client_goes_on_when_resolv_conf_cannot_be_written", read_only),
        bench.test("a_client_of_endpoints_without_dns_touches_nothing", untouched),
    ]
}

const URL: &str = "kernel://names/nsm-1";

/// The address of the endpoint, which its server has.
const SERVER: &str = "172.16.7.0";

/// Another address of the endpoint, where a server may misbehave.
const OTHER: &str = "172.16.8.0";

/// The prefixes of both.
const PREFIXES: &str = "172.16.7.0/31,172.16.8.0/31";

/// What the pod has before: a server of its own for everything else, at an address of its loopback.
const ORIGINAL: &str = "# by the test\nsearch pod.example\nnameserver 127.0.0.53\noptions ndots:2\n";

/// A client whose endpoint tells of DNS.
struct Names {
    endpoint: Program,
    nsc: Option<Program>,
    file: PathBuf,
    /// The server for everything else, in the client's pod.
    others: Dnsmasq,
}

impl Names {
    /// An endpoint with these DNS servers for `corp.example`, a client with its wire, and a server for others.
    async fn start(world: &World, servers: &[&str]) -> Result<Self> {
        let file = world.node.folder().join("resolv.conf");
        std::fs::write(&file, ORIGINAL)?;
        let records = [
            "--host-record=web.other.example,192.0.2.80,300",
            "--local=/other.example/",
        ];
        let others = Dnsmasq::start(&world.near, "127.0.0.53", &records).await?;
        let list = servers.iter().map(|server| format!("{server:?}"));
        let list = list.collect::<Vec<_>>().join(",");
        let configs = format!(r#"[{{"dns_server_ips": [{list}], "search_domains": ["corp.example"]}}]"#);
        let variables = [("NSM_CIDR_PREFIX", PREFIXES), ("NSM_DNS_CONFIGS", &configs)];
        let endpoint = world.serve("names", &variables).await?;
        let mut names = Self {
            endpoint,
            nsc: None,
            file,
            others,
        };
        names.attach(world).await?;
        Ok(names)
    }

    /// The client program again, until it has its wire.
    async fn attach(&mut self, world: &World) -> Result<()> {
        let file = self.file.display().to_string();
        let mut nsc = world.nsc(URL, &[("NSM_RESOLV_CONFIG_PATH", &file)])?;
        says(&mut nsc, "INFO ready").await?;
        self.nsc = Some(nsc);
        Ok(())
    }

    fn nsc(&mut self) -> Result<Program> {
        self.nsc.take().context("the client does not run")
    }

    fn resolv_conf(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.file)?)
    }

    async fn end(mut self, world: &World) -> Result<()> {
        if let Some(nsc) = self.nsc.take() {
            stops(nsc).await?;
        }
        same(
            "resolv.conf at the end",
            self.resolv_conf()?,
            ORIGINAL.to_string(),
        )?;
        stops(self.endpoint).await?;
        world.clean().await
    }
}

/// The endpoint's server, once there is a wire.
async fn corp(world: &World) -> Result<Dnsmasq> {
    let records = [
        "--host-record=db.corp.example,172.16.7.100,fd00::100,300",
        "--srv-host=_sql._tcp.corp.example,db.corp.example,5432,1,2",
        "--ptr-record=0.7.16.172.in-addr.arpa,gateway.corp.example",
        "--local=/corp.example/",
        "--local=/other.example/",
    ];
    Dnsmasq::start(&world.far, SERVER, &records).await
}

/// What `dig` prints in the client's pod, asking whom `resolv.conf` names there: us.
async fn dig(world: &World, arguments: &[&str]) -> Result<String> {
    let mut dig = world.near.command("dig");
    dig.args(["@127.0.0.1", "+tries=1", "+timeout=6"]).args(arguments);
    let done = tokio::task::spawn_blocking(move || dig.stdin(Stdio::null()).output()).await??;
    let printed = String::from_utf8_lossy(&done.stdout).into_owned();
    ensure!(done.status.success(), "dig {arguments:?} failed: {printed}");
    Ok(printed.trim().to_string())
}

/// The answer alone.
async fn short(world: &World, arguments: &[&str]) -> Result<String> {
    dig(world, &[&["+short"], arguments].concat()).await
}

async fn zones(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[SERVER]).await?;
    let corp = corp(world).await?;
    same(
        "inside",
        short(world, &["db.corp.example"]).await?,
        "172.16.7.100".into(),
    )?;
    same(
        "outside",
        short(world, &["web.other.example"]).await?,
        "192.0.2.80".into(),
    )?;
    let (inside, outside) = (corp.asked()?, names.others.asked()?);
    ensure!(
        !inside.is_empty() && inside.iter().all(|name| name.ends_with("corp.example")),
        "the endpoint's server was asked for {inside:?}"
    );
    ensure!(
        !outside.is_empty() && !outside.iter().any(|name| name.ends_with("corp.example")),
        "the pod's own server was asked for {outside:?}"
    );
    drop(corp);
    names.end(world).await
}

async fn records(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[SERVER]).await?;
    let _corp = corp(world).await?;
    for transport in ["+notcp", "+tcp"] {
        let ask = async |arguments: &[&str]| short(world, &[&[transport], arguments].concat()).await;
        same("A", ask(&["db.corp.example", "A"]).await?, "172.16.7.100".into())?;
        same(
            "AAAA",
            ask(&["db.corp.example", "AAAA"]).await?,
            "fd00::100".into(),
        )?;
        let service = ask(&["_sql._tcp.corp.example", "SRV"]).await?;
        same("SRV", service, "1 2 5432 db.corp.example.".into())?;
        let name = ask(&["-x", SERVER]).await?;
        same("PTR", name, "gateway.corp.example.".into())?;
    }
    for name in ["none.corp.example", "none.other.example"] {
        let told = dig(world, &[name]).await?;
        ensure!(told.contains("status: NXDOMAIN"), "of {name}: {told}");
    }
    let none = dig(world, &["db.corp.example", "TXT"]).await?;
    ensure!(
        none.contains("status: NOERROR") && none.contains("ANSWER: 0"),
        "{none}"
    );
    names.end(world).await
}

/// What `getent` prints in the client's pod, with its `resolv.conf`.
async fn getent(world: &World, names: &Names, name: &str) -> Result<String> {
    let mut command = world.near.command("unshare");
    let script = r#"mount --bind "$1" /etc/resolv.conf && exec getent ahostsv4 "$2""#;
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&names.file)
        .arg(name);
    let done = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(done.status.success(), "getent {name} failed: {done:?}");
    Ok(String::from_utf8(done.stdout)?)
}

async fn library(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[SERVER]).await?;
    let _corp = corp(world).await?;
    let text = names.resolv_conf()?;
    ensure!(
        text.contains("\nnameserver 127.0.0.1\nsearch pod.example\noptions ndots:2\n"),
        "resolv.conf is {text}"
    );
    let found = getent(world, &names, "db.corp.example").await?;
    ensure!(found.starts_with("172.16.7.100"), "{found}");
    let found = getent(world, &names, "web.other.example").await?;
    ensure!(found.starts_with("192.0.2.80"), "{found}");
    names.end(world).await
}

async fn cached(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[SERVER]).await?;
    let corp = corp(world).await?;
    for _ in 0..3 {
        short(world, &["db.corp.example"]).await?;
        dig(world, &["none.corp.example"]).await?;
    }
    let times = |asked: &[String], name: &str| asked.iter().filter(|asked| *asked == name).count();
    let asked = corp.asked()?;
    same("how often it was asked", times(&asked, "db.corp.example"), 1)?;
    drop(corp);
    same(
        "without it",
        short(world, &["db.corp.example"]).await?,
        "172.16.7.100".into(),
    )?;
    names.end(world).await
}

async fn silent(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[OTHER, SERVER]).await?;
    let _silent = Hostile::start(&world.far, OTHER, |_| Vec::new())?;
    let _corp = corp(world).await?;
    let began = Instant::now();
    same(
        "the answer",
        short(world, &["db.corp.example"]).await?,
        "172.16.7.100".into(),
    )?;
    let took = began.elapsed();
    ensure!(
        took > Duration::from_secs(1) && took < Duration::from_secs(4),
        "it took {took:?}"
    );
    let began = Instant::now();
    short(world, &["_sql._tcp.corp.example", "SRV"]).await?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(1), "the next one took {took:?}");
    names.end(world).await
}

async fn lying(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[OTHER, SERVER]).await?;
    let _liar = Hostile::start(&world.far, OTHER, servers::lies)?;
    let _corp = corp(world).await?;
    same(
        "the answer",
        short(world, &["db.corp.example"]).await?,
        "172.16.7.100".into(),
    )?;
    names.end(world).await
}

async fn huge(world: &mut World) -> Result<()> {
    let names = Names::start(world, &[OTHER]).await?;
    let _huge = Hostile::start(&world.far, OTHER, servers::cut)?;
    // By UDP it is cut, so that dig asks again by TCP, and so do we.
    let addresses = short(world, &["big.corp.example"]).await?;
    same("the addresses", addresses.lines().count(), servers::MANY)?;
    let cut = dig(world, &["+ignore", "+notcp", "big.corp.example"]).await?;
    ensure!(
        cut.contains("flags: qr tc") || cut.contains(" tc "),
        "it is not cut: {cut}"
    );
    names.end(world).await
}

async fn killed(world: &mut World) -> Result<()> {
    let mut names = Names::start(world, &[SERVER]).await?;
    let _corp = corp(world).await?;
    names.nsc()?.kill()?;
    let left = names.resolv_conf()?;
    ensure!(left.contains("\nnameserver 127.0.0.1\n"), "left is {left}");
    names.attach(world).await?;
    let said = names.nsc.as_ref().map(Program::printed).unwrap_or_default();
    ensure!(
        said.contains("given back what an earlier life had taken over"),
        "{said}"
    );
    same(
        "the answer",
        short(world, &["db.corp.example"]).await?,
        "172.16.7.100".into(),
    )?;
    same(
        "outside",
        short(world, &["web.other.example"]).await?,
        "192.0.2.80".into(),
    )?;
    names.end(world).await
}

async fn closed(world: &mut World) -> Result<()> {
    let mut names = Names::start(world, &[SERVER]).await?;
    let _corp = corp(world).await?;
    same(
        "before",
        short(world, &["db.corp.example"]).await?,
        "172.16.7.100".into(),
    )?;
    stops(names.nsc()?).await?;
    same("resolv.conf", names.resolv_conf()?, ORIGINAL.to_string())?;
    // The same file and the same pod, by a wire to an endpoint that tells nothing of DNS.
    let mut nsc = world.nsc("kernel://icmp-responder/nsm-1", &[])?;
    says(&mut nsc, "INFO ready").await?;
    let mut dig = world.near.command("dig");
    dig.args(["@127.0.0.1", "+tries=1", "+timeout=1", "db.corp.example"]);
    let done = tokio::task::spawn_blocking(move || dig.output()).await??;
    ensure!(!done.status.success(), "somebody still answers: {done:?}");
    stops(nsc).await?;
    names.end(world).await
}

async fn read_only(world: &mut World) -> Result<()> {
    let file = world.node.folder().join("resolv.conf");
    std::fs::write(&file, ORIGINAL)?;
    let configs = format!(r#"[{{"dns_server_ips": ["{SERVER}"], "search_domains": ["corp.example"]}}]"#);
    let variables = [("NSM_CIDR_PREFIX", PREFIXES), ("NSM_DNS_CONFIGS", &configs)];
    let endpoint = world.serve("names", &variables).await?;
    let path = file.display().to_string();
    let _mount = servers::ReadOnly::new(&path)?;
    let mut nsc = world.nsc(URL, &[("NSM_RESOLV_CONFIG_PATH", &path)])?;
    says(&mut nsc, "INFO ready").await?;
    says(&mut nsc, "readOnlyRootFilesystem: false").await?;
    stops(nsc).await?;
    stops(endpoint).await?;
    world.clean().await
}

async fn untouched(world: &mut World) -> Result<()> {
    let file = world.node.folder().join("resolv.conf");
    std::fs::write(&file, ORIGINAL)?;
    let path = file.display().to_string();
    let mut nsc = world.nsc(
        "kernel://icmp-responder/nsm-1",
        &[("NSM_RESOLV_CONFIG_PATH", &path)],
    )?;
    says(&mut nsc, "INFO ready").await?;
    same(
        "resolv.conf",
        std::fs::read_to_string(&file)?,
        ORIGINAL.to_string(),
    )?;
    let sockets = prints(&world.near, "ss", &["-H", "-lnut"])?;
    same("who listens", sockets, String::new())?;
    stops(nsc).await?;
    world.clean().await
}
