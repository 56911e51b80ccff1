// SPDX-License-Identifier: Apache-2.0
//! A node to test on, and the check that nothing is left on it.

use std::fmt::Debug;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nsm::mesh::{Client, Node, Pod, Program, Programs, Settings, Snapshot};
use nsm_api::registry::{NetworkService as Service, NetworkServiceEndpointQuery};
use nsm_sdk::chains::registry_client;
use nsm_sdk::core::{
    Component, Ctx, Dialer, Error, NetworkService, NseRegistry, Registration, Remote, Request,
};
use nsm_sdk::identity::{Identity, Source, Tokens};
use nsm_sdk::policy::{self, Policies};
use nsm_sdk::transport::Pool;
pub(crate) use nsm_tests::wait::wait_for;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// How long what was closed may take until it is gone.
pub(crate) const SOON: Duration = Duration::from_secs(1);

/// How long something may take that happens by itself, on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A node with one endpoint `nse` of the service `icmp-responder` in `far`, and a pod `near` for clients.
pub(crate) struct World {
    pub node: Node,
    pub endpoint: Option<Program>,
    pub near: Pod,
    pub far: Pod,
    /// The kernel as it was before anything was asked for.
    pub before: Snapshot,
    folder: TempDir,
}

/// The programs: those of `NSM_PROGRAMS`, or those that were built with the tests.
pub(crate) fn programs() -> Result<Programs> {
    match std::env::var_os("NSM_PROGRAMS") {
        Some(folder) => Ok(Programs::in_folder(folder)),
        None => Programs::beside_us(),
    }
}

impl World {
    pub(crate) async fn new() -> Result<Self> {
        Self::with(Vec::new()).await
    }

    /// The same, with variables that all programs have.
    pub(crate) async fn with(variables: Vec<(&'static str, String)>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("nsm-").tempdir()?;
        let (near, far) = (Pod::new("near")?, Pod::new("far")?);
        let before = Snapshot::take(None)?;
        let programs = programs()?;
        let settings = Settings {
            programs,
            folder: folder.path().to_path_buf(),
            log_level: std::env::var("NSM_LOG_LEVEL").unwrap_or_else(|_| "DEBUG".to_string()),
            identities: ["nse", "nse-2", "nse-3", "nsc", "nsc-2", "worker-node-1"]
                .map(String::from)
                .to_vec(),
            svid_lifetime: None,
            variables,
            host: None,
        };
        let node = Node::start(settings, |_, _| ()).await?;
        let mut world = Self {
            node,
            endpoint: None,
            near,
            far,
            before,
            folder,
        };
        world.start_endpoint().await?;
        Ok(world)
    }

    /// Starts the endpoint `nse`.
    pub(crate) async fn start_endpoint(&mut self) -> Result<()> {
        let (mut endpoint, _) = self.node.start_endpoint("nse", &self.far, &[]).await?;
        says(&mut endpoint, "INFO ready").await?;
        self.endpoint = Some(endpoint);
        Ok(())
    }

    /// One more endpoint, `nse-2`, of the service `service`, with these variables as well.
    pub(crate) async fn serve(&self, service: &str, variables: &[(&str, &str)]) -> Result<Program> {
        let mut all = vec![("NSM_SERVICE_NAMES", service.to_string())];
        all.extend(variables.iter().map(|(name, value)| (*name, value.to_string())));
        let (mut endpoint, _) = self.node.start_endpoint("nse-2", &self.far, &all).await?;
        says(&mut endpoint, "INFO ready").await?;
        Ok(endpoint)
    }

    /// A client in this process whose wires end in `near`, and count when they carry a ping.
    pub(crate) fn client(&self) -> Result<Client> {
        self.quiet()?.pinging()
    }

    /// A client in this process whose wires end in `near`.
    pub(crate) fn quiet(&self) -> Result<Client> {
        Client::new(&self.node, "nsc", self.near.path())
    }

    /// The client program in `near`, asking for `services`, with these variables as well.
    pub(crate) fn nsc(&self, services: &str, variables: &[(&str, &str)]) -> Result<Program> {
        self.nsc_in(&self.near, services, variables)
    }

    /// The client program in a pod.
    pub(crate) fn nsc_in(&self, pod: &Pod, services: &str, variables: &[(&str, &str)]) -> Result<Program> {
        self.launch_client("nsc", pod, services, variables)
    }

    /// The program that runs before the client, under the client's name.
    pub(crate) fn nsc_init(&self, services: &str) -> Result<Program> {
        self.launch_client("nsc-init", &self.near, services, &[])
    }

    fn launch_client(
        &self,
        program: &str,
        pod: &Pod,
        services: &str,
        variables: &[(&str, &str)],
    ) -> Result<Program> {
        let mut all = vec![
            ("NSM_CONNECT_TO", self.nsmgr()),
            ("NSM_NETWORK_SERVICES", services.to_string()),
        ];
        all.extend(variables.iter().map(|(name, value)| (*name, value.to_string())));
        self.node.launch("nsc", program, Some(pod), &all)
    }

    /// The identity `name` as the issuer gives it to programs.
    pub(crate) async fn identity(&self, name: &str) -> Result<Identity> {
        let socket = self.node.folder().join("identity").join(format!("{name}.sock"));
        let source = Source::WorkloadApi(socket);
        Ok(source
            .follow(self.node.component(), Instant::now() + PATIENCE)
            .await?)
    }

    /// Somebody called `name` who calls without a chain.
    pub(crate) async fn caller(&self, name: &str) -> Result<Caller> {
        Ok(Caller::new(
            name,
            self.identity(name).await?,
            Duration::from_secs(600),
        ))
    }

    /// Where the manager listens.
    pub(crate) fn nsmgr(&self) -> String {
        self.node.url("nsm")
    }

    /// Waits until the kernel is as it was, for at most the second that is promised.
    pub(crate) async fn clean(&self) -> Result<()> {
        self.clean_within(SOON).await
    }

    /// Waits until the kernel is as it was.
    pub(crate) async fn clean_within(&self, patience: Duration) -> Result<()> {
        let mut left = Vec::new();
        let done = wait_for(patience, "the kernel is as before", async || {
            // Not on the thread on which our own calls run.
            left = tokio::task::spawn_blocking(|| Snapshot::take(None))
                .await??
                .since(&self.before);
            Ok(left.is_empty().then_some(()))
        });
        done.await.with_context(|| format!("left behind: {left:?}"))
    }

    /// Whether every program runs and the kernel is as it was.
    pub(crate) async fn is_whole(&mut self) -> Result<()> {
        let running = [
            self.node.issuer.as_mut(),
            self.node.registry.as_mut(),
            self.node.nsmgr.as_mut(),
            self.node.forwarder.as_mut(),
            self.endpoint.as_mut(),
        ];
        for program in running {
            let program = program.context("a program has not been started again")?;
            if let Some(status) = program.ended()? {
                bail!("{} has ended: {status}", program.name());
            }
        }
        self.clean().await
    }

    /// Keeps the logs and says where they are.
    pub(crate) fn keep(mut self) -> String {
        self.folder.disable_cleanup(true);
        format!("the logs are in {}", self.folder.path().display())
    }

    /// Ends everything in order and checks that nothing is left.
    pub(crate) async fn end(mut self) -> Result<()> {
        let programs = [
            self.endpoint.take(),
            self.node.forwarder.take(),
            self.node.nsmgr.take(),
            self.node.registry.take(),
        ];
        for program in programs.into_iter().flatten() {
            stops(program).await?;
        }
        self.node.end().await?;
        let left = Snapshot::take(Some(self.folder.path()))?.since(&self.before);
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }

    /// Registers a service with the manager.
    pub(crate) async fn register_service(&self, service: Service) -> Result<()> {
        register_service(self.identity("nse-3").await?, &self.nsmgr(), service).await
    }

    /// The names of the endpoints that the registry knows.
    pub(crate) async fn endpoints(&self) -> Result<Vec<String>> {
        use futures::StreamExt;
        let (component, identity) = (self.node.component(), self.node.identity().clone());
        let pool = Pool::new(component, identity, Tokens::new(Duration::from_secs(600)));
        let ctx = Ctx::own(component, PATIENCE);
        let url = self.node.url("registry");
        let remote = Dialer::<NseRegistry>::dial(&pool, &url, ctx.deadline()).await?;
        let query = NetworkServiceEndpointQuery {
            network_service_endpoint: Some(Default::default()),
            watch: false,
        };
        let mut found = remote.find(&ctx, query).await?;
        let mut names = Vec::new();
        while let Some(found) = found.next().await {
            let endpoint = found?.network_service_endpoint;
            names.extend(endpoint.map(|endpoint| endpoint.name));
        }
        names.sort();
        Ok(names)
    }
}

/// Registers a service with the manager at `nsmgr`.
pub(crate) async fn register_service(identity: Identity, nsmgr: &str, service: Service) -> Result<()> {
    let component = Component::new("nse-3");
    let pool = Pool::new(&component, identity, Tokens::new(Duration::from_secs(600)));
    let settings = registry_client::Settings {
        connect_to: nsmgr.to_string(),
        policies: Policies::choose(policy::REGISTRY_CLIENT)?,
    };
    let registry = registry_client::client(&component, &settings, &Arc::new(pool));
    let mut registration = Registration {
        entry: service,
        ..Default::default()
    };
    registry
        .ns
        .request(&Ctx::own(&component, PATIENCE), &mut registration)
        .await?;
    component.end().await;
    Ok(())
}

/// What is done in a network namespace, on a thread that ends there.
pub(crate) fn inside<T: Send + 'static>(
    netns: File,
    act: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let enter_and_act = move || -> Result<T> {
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), kind)?;
        Ok(act()?)
    };
    let done = std::thread::spawn(enter_and_act).join();
    done.map_err(|_| anyhow::anyhow!("a thread in another namespace has panicked"))?
}

/// What is answered to a request in HTTP.
pub(crate) async fn http_get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Waits until a program has said this.
pub(crate) async fn says(program: &mut Program, words: &str) -> Result<()> {
    let said = async |program: &Program| program.printed().contains(words).then_some(());
    program
        .wait_for(&format!("it said {words:?}"), Instant::now() + PATIENCE, said)
        .await
}

/// Tells a program to end, which it has to do with exit code 0 within a second.
pub(crate) async fn stops(program: Program) -> Result<()> {
    let (name, began) = (program.name().to_string(), Instant::now());
    let status = program.stop().await?;
    let took = began.elapsed();
    ensure!(status.success(), "{name} ended with {status}");
    ensure!(took < SOON, "{name} took {took:?} to end");
    Ok(())
}

/// Somebody who calls without a chain, and may send anything.
pub(crate) struct Caller {
    pub component: Component,
    pub identity: Identity,
    pool: Pool,
}

impl Caller {
    pub(crate) fn new(name: &str, identity: Identity, token_lifetime: Duration) -> Self {
        let (component, tokens) = (Component::new(name), Tokens::new(token_lifetime));
        let pool = Pool::new(&component, identity.clone(), tokens);
        Self {
            component,
            identity,
            pool,
        }
    }

    pub(crate) async fn dial(&self, url: &str) -> Result<Arc<dyn Remote<NetworkService>>> {
        Ok(self.pool.dial(url, Instant::now() + PATIENCE).await?)
    }

    pub(crate) async fn request(&self, url: &str, request: Request) -> Result<Request> {
        let ctx = Ctx::own(&self.component, PATIENCE);
        Ok(self.dial(url).await?.request(&ctx, &request).await?)
    }

    pub(crate) async fn close(&self, url: &str, request: Request) -> Result<()> {
        let ctx = Ctx::own(&self.component, PATIENCE);
        Ok(self.dial(url).await?.close(&ctx, &request).await?)
    }

    /// A way to `url` over which the namespace was passed that `request` now names.
    pub(crate) async fn with_netns(
        &self,
        url: &str,
        mut request: Request,
        netns: &std::path::Path,
    ) -> Result<(Arc<dyn Remote<NetworkService>>, Request)> {
        let remote = self.dial(url).await?;
        let files = remote.peer().files.clone().context("no files can be passed")?;
        let inode = files.send(std::fs::File::open(netns)?.into())?;
        for mechanism in &mut request.mechanism_preferences {
            mechanism.set_parameter("inodeURL", inode.to_string());
        }
        Ok((remote, request))
    }

    /// A first request for `service` as the connection `id`.
    pub(crate) fn ask(&self, id: &str, service: &str) -> Result<Request> {
        let url = service.parse()?;
        Ok(nsm_sdk::chains::client::request(&self.component, id, &url))
    }
}

/// Checks that a call was refused with this reason and a text that has these words.
pub(crate) fn refused<T: Debug>(done: Result<T>, reason: &str, words: &[&str]) -> Result<()> {
    let error = match done {
        Ok(done) => bail!("it was not refused ({reason}): {done:?}"),
        Err(error) => error,
    };
    let Some(refused) = error.downcast_ref::<Error>() else {
        return Err(error);
    };
    ensure!(
        refused.reason() == reason,
        "not {reason} but {}: {refused}",
        refused.reason()
    );
    for word in words {
        ensure!(
            refused.to_string().contains(word),
            "the text does not name {word:?}: {refused}"
        );
    }
    Ok(())
}

/// Checks that two things are equal.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, is: T, should: T) -> Result<()> {
    ensure!(is == should, "{what} is {is:?} and should be {should:?}");
    Ok(())
}

/// The interfaces of a pod but its loopback.
pub(crate) fn links(pod: &Pod) -> Result<Vec<Value>> {
    let Value::Array(links) = pod.ip(&["-details", "link", "show"])? else {
        bail!("ip shows no list of links");
    };
    Ok(links.into_iter().filter(|link| link["ifname"] != "lo").collect())
}

/// The one interface of a pod.
pub(crate) fn only_link(pod: &Pod) -> Result<Value> {
    let mut links = links(pod)?;
    ensure!(
        links.len() == 1,
        "{} has {} interfaces: {links:?}",
        pod.name(),
        links.len()
    );
    links.pop().context("no link")
}

/// The name of the one interface of a pod.
pub(crate) fn only_name(pod: &Pod) -> Result<String> {
    let link = only_link(pod)?;
    Ok(link["ifname"].as_str().unwrap_or_default().to_string())
}

/// The index of an interface.
pub(crate) fn index(pod: &Pod, name: &str) -> Result<u64> {
    let link = pod.ip(&["link", "show", "dev", name])?;
    link[0]["ifindex"].as_u64().context("ip shows no index")
}

/// The addresses of an interface, as `address/length scope`, but those that the kernel makes.
pub(crate) fn addresses(pod: &Pod, name: &str) -> Result<Vec<String>> {
    let shown = pod.ip(&["addr", "show", "dev", name])?;
    let mut all = Vec::new();
    for address in shown[0]["addr_info"].as_array().into_iter().flatten() {
        let (local, scope) = (address["local"].as_str(), address["scope"].as_str());
        if let (Some(local), Some(scope)) = (local, scope)
            && scope != "link"
        {
            all.push(format!("{local}/{} {scope}", address["prefixlen"]));
        }
    }
    all.sort();
    Ok(all)
}

/// The routes of an interface as `ip` prints them, but those that the kernel makes of link-local addresses.
pub(crate) fn routes(pod: &Pod, name: &str, family: &str) -> Result<Vec<String>> {
    let done = pod
        .command("ip")
        .args([family, "route", "show", "dev", name])
        .output()?;
    ensure!(
        done.status.success(),
        "ip failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let text = String::from_utf8(done.stdout)?;
    let lines = text.lines().map(str::trim);
    let mut all: Vec<_> = lines
        .filter(|line| !line.starts_with("fe80::") && !line.starts_with("multicast"))
        .map(String::from)
        .collect();
    all.sort();
    Ok(all)
}

/// What a program prints in a pod.
pub(crate) fn prints(pod: &Pod, program: &str, arguments: &[&str]) -> Result<String> {
    let done = pod.command(program).args(arguments).output()?;
    ensure!(
        done.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(String::from_utf8(done.stdout)?.trim().to_string())
}

/// How many pings of a pod were answered until now.
fn replies(pod: &Pod) -> Result<u64> {
    let counters = prints(pod, "cat", &["/proc/net/snmp"])?;
    let mut lines = counters.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, numbers) = (lines.next(), lines.next());
    let names = names.context("no counters of ICMP")?.split_whitespace();
    let mut counters = names.zip(numbers.unwrap_or_default().split_whitespace());
    let counted = counters.find(|(name, _)| *name == "InEchoReps");
    Ok(counted.context("no count of answers")?.1.parse()?)
}

/// Waits until this many more pings of a pod were answered.
pub(crate) async fn replied(pod: &Pod, more: u64) -> Result<()> {
    let wanted = replies(pod)? + more;
    wait_for(PATIENCE, "pings are answered", async || {
        Ok((replies(pod)? >= wanted).then_some(()))
    })
    .await
}

/// A file that is no namespace.
pub(crate) fn plain_file(world: &World) -> Result<PathBuf> {
    let path = world.node.folder().join("plain");
    std::fs::write(&path, "no namespace")?;
    Ok(path)
}
