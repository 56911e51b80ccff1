// SPDX-License-Identifier: Apache-2.0
//! A node with two pods and a data plane, and other programs' view of them.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use nsm_sdk::core::{Component, Error};
use nsm_sdk::dataplane::{DataPlane, Interface, Payload, Route, Wire};
use nsm_sdk_kernel::{Config, Kernel};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A pod: a process in a network namespace of its own, which ends with this.
pub(crate) struct Pod(Child);

impl Pod {
    pub(crate) fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "no namespace for a pod");
        Self(child)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// A command that runs in the pod.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.0.id().to_string(), "-n", program]);
        command
    }

    /// What a command in the pod prints.
    pub(crate) fn run(&self, line: &str) -> String {
        let (success, output) = self.try_run(line);
        assert!(success, "{line}: {output}");
        output
    }

    /// Whether a command in the pod succeeds, and what it prints.
    pub(crate) fn try_run(&self, line: &str) -> (bool, String) {
        let mut words = line.split_whitespace();
        let program = words.next().expect("a program");
        let output = self
            .command(program)
            .args(words)
            .output()
            .expect("nsenter starts");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    /// What `ip -j` says.
    pub(crate) fn ip(&self, line: &str) -> Value {
        // What changes while it is listed is listed again.
        let text = loop {
            let text = self.run(&format!("ip -j {line}"));
            if !text.contains("Dump was interrupted") {
                break text;
            }
        };
        if text.trim().is_empty() {
            return Value::Array(Vec::new());
        }
        serde_json::from_str(&text).expect("JSON")
    }

    /// The link of this name.
    pub(crate) fn link(&self, name: &str) -> Option<Value> {
        let (success, text) = self.try_run(&format!("ip -j -d link show dev {name}"));
        success.then(|| serde_json::from_str::<Value>(&text).expect("JSON")[0].clone())
    }

    /// The addresses of global scope, as `ip/length`.
    pub(crate) fn addresses(&self, name: &str) -> Vec<String> {
        let shown = self.ip(&format!("addr show dev {name} scope global"));
        let infos = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
        infos
            .iter()
            .filter(|info| info["local"].is_string())
            .map(|info| format!("{}/{}", info["local"].as_str().expect("text"), info["prefixlen"]))
            .collect()
    }

    /// The lines of `ip route` for an interface, without blanks at their ends.
    pub(crate) fn routes(&self, rest: &str) -> Vec<String> {
        match self.try_run(&format!("ip {rest}")) {
            (true, output) => lines(&output),
            (false, output) => {
                assert!(output.contains("FIB table does not exist"), "ip {rest}: {output}");
                Vec::new()
            }
        }
    }

    /// A sysctl's value.
    pub(crate) fn sysctl(&self, name: &str) -> String {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(&format!("cat {path}"))
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Whether one packet, sent right now, is answered.
    pub(crate) fn ping(&self, to: &str) -> bool {
        self.try_run(&format!("ping -n -q -c 1 -W 2 {to}")).0
    }

    /// Whether nothing of ours is left: no link but the loopback, no rule, no table.
    pub(crate) fn is_clean(&self) -> bool {
        let links = self.ip("link");
        let rules = [self.ip("rule"), self.ip("-6 rule")];
        links.as_array().is_some_and(|links| links.len() == 1)
            && rules
                .iter()
                .zip([3, 2])
                .all(|(rules, count)| rules.as_array().is_some_and(|r| r.len() == count))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Its standard input is at its end: it goes by itself.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The lines of a text, without blanks at their ends.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim_end().to_string()).collect()
}

/// A node.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) component: Component,
    pub(crate) client: Pod,
    pub(crate) endpoint: Pod,
    pub(crate) config: Config,
    kernel: Option<Kernel>,
    _directory: TempDir,
}

impl World {
    /// A node with two empty pods, whose data plane keeps a journal.
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let config = Config {
            journal: Some(directory.path().join("journal")),
            group: rand::random_range(1..1 << 30),
            ..Config::default()
        };
        let component = Component::new("test");
        component.meters().switch_on();
        let kernel = runtime
            .block_on(Kernel::start(&component, config.clone()))
            .expect("starts");
        Self {
            runtime,
            component,
            client: Pod::new(),
            endpoint: Pod::new(),
            config,
            kernel: Some(kernel),
            _directory: directory,
        }
    }

    /// The data plane.
    pub(crate) fn kernel(&self) -> &Kernel {
        self.kernel.as_ref().expect("it runs")
    }

    /// Makes `wire` be.
    pub(crate) fn connect(&self, wire: &Wire, before: Option<&Wire>) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        self.runtime
            .block_on(self.kernel().connect(wire, before, deadline))
    }

    /// Makes `wire` be, or fails the test.
    pub(crate) fn up(&self, wire: &Wire) {
        self.connect(wire, None).expect("connects");
    }

    /// Makes the wire `before` into `wire`, or fails the test.
    pub(crate) fn refresh(&self, wire: &Wire, before: &Wire) {
        self.connect(wire, Some(before)).expect("refreshes");
    }

    /// Removes `wire`.
    pub(crate) fn down(&self, wire: &Wire) {
        self.runtime
            .block_on(self.kernel().disconnect(wire))
            .expect("disconnects");
    }

    /// Ends the data plane as a crash would: nothing is cleaned up.
    pub(crate) fn crash(&mut self) {
        drop(self.kernel.take());
    }

    /// Starts the data plane again, as soon as its former life has let go of the journal.
    pub(crate) fn start(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while self.kernel.is_none() {
            match self
                .runtime
                .block_on(Kernel::start(&self.component, self.config.clone()))
            {
                Ok(kernel) => self.kernel = Some(kernel),
                Err(error) => {
                    assert!(
                        error.reason() == "journal" && Instant::now() < deadline,
                        "{error}"
                    );
                    std::thread::yield_now();
                }
            }
        }
    }

    /// Ends the data plane in order.
    pub(crate) fn end(&mut self) {
        let kernel = self.kernel.take().expect("it runs");
        self.runtime.block_on(kernel.end());
    }

    /// Waits until `condition` holds.
    pub(crate) fn wait(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < deadline, "in vain: {what}");
            self.runtime
                .block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        }
    }

    /// Waits until nothing of ours is left in either pod.
    pub(crate) fn wait_clean(&self) {
        self.wait("both pods clean", || {
            self.client.is_clean() && self.endpoint.is_clean()
        });
    }

    /// The wire of connection `id` as the usual IPAM makes it, between interfaces of this name.
    pub(crate) fn wire(&self, id: &str, name: &str) -> Wire {
        let client = Interface {
            netns: self.client.path(),
            name: name.into(),
            addresses: vec![net("172.16.1.101/32")],
            routes: vec![peer("172.16.1.100/32"), route("172.16.1.100/32")],
            peers: vec![ip("172.16.1.100")],
            ..Interface::default()
        };
        let endpoint = Interface {
            netns: self.endpoint.path(),
            name: name.into(),
            addresses: vec![net("172.16.1.100/32")],
            routes: vec![peer("172.16.1.101/32"), route("172.16.1.101/32")],
            peers: vec![ip("172.16.1.101")],
            ..Interface::default()
        };
        Wire {
            connection: id.into(),
            payload: Payload::Ip,
            mtu: 9000,
            client,
            endpoint,
        }
    }

    /// The same with IPv6 addresses besides.
    pub(crate) fn dual(&self, id: &str, name: &str) -> Wire {
        let mut wire = self.wire(id, name);
        for (end, own, other) in [
            (&mut wire.client, "2001:db8::2", "2001:db8::1"),
            (&mut wire.endpoint, "2001:db8::1", "2001:db8::2"),
        ] {
            end.addresses.push(net(&format!("{own}/128")));
            end.routes.push(peer(&format!("{other}/128")));
            end.routes.push(route(&format!("{other}/128")));
            end.peers.push(ip(other));
        }
        wire
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

/// A route through the interface.
pub(crate) fn route(prefix: &str) -> Route {
    Route {
        prefix: net(prefix),
        via: None,
        link: false,
    }
}

/// A route to a peer on the link.
pub(crate) fn peer(prefix: &str) -> Route {
    Route {
        link: true,
        ..route(prefix)
    }
}

/// A route through a gateway.
pub(crate) fn via(prefix: &str, gateway: &str) -> Route {
    Route {
        via: Some(ip(gateway)),
        ..route(prefix)
    }
}
