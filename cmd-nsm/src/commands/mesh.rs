// SPDX-License-Identifier: Apache-2.0
//! `nsm mesh`: a mesh on this machine that stays until it is told to go, for trying and for documents that run.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

mod ask;
mod keeper;
mod manifest;
mod pods;
mod up;

use ask::{Ask, NewPod, Place};
use up::Up;

/// A mesh on this machine, of the real programs, in namespaces of its own
///
/// `up` starts it and leaves it running; the other commands are to it what kubectl is to a cluster. Nothing outside is
/// touched, no root is needed, and `down` proves that nothing is left. The variable NSM_MESH names the folder of its
/// sockets and logs, so that several can run at once; /tmp/nsm-mesh-UID without it.
#[derive(Args)]
pub(crate) struct Mesh {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Up(Up),
    /// End the mesh and tell what is left of it, which is nothing: otherwise the exit code is 1
    Down,
    /// Start an endpoint in a pod of its own, and wait until it is registered
    Endpoint(Endpoint),
    /// Start a client in a pod of its own, and wait until it has its wires
    Client(Client),
    /// Register a network service, or change it: a manifest of Kubernetes
    Service {
        /// The file
        file: PathBuf,
        /// Unregister it instead
        #[arg(long)]
        delete: bool,
    },
    /// Run a command in the network of a pod, or of a node (node-1, node-2 ...)
    Exec {
        /// The pod
        name: String,
        /// The command
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Kill a program as `kill -9` does: that of a pod, or nsmgr, forwarder or registry
    Kill(Target),
    /// Start a program again that was killed, and wait until it is ready
    Start(Target),
    /// End the programs of pods as Kubernetes does, and remove the pods
    Delete {
        /// The pods
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Show what runs where
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a program has printed
    Logs {
        /// Its name, as `list` shows it
        name: String,
    },
    /// Print all that a document could leave behind: a line for each object of the kernel, socket and program
    Snapshot,
}

#[derive(Args)]
struct Endpoint {
    /// The name of the pod and of the endpoint
    name: String,
    /// The node on which it runs
    #[arg(long, default_value_t = 1)]
    node: usize,
    /// The services that it offers
    #[arg(long, required = true, value_delimiter = ',')]
    service: Vec<String>,
    /// What its clients' addresses come from: one pair of each group, [a,b],c
    #[arg(long)]
    cidr: Option<String>,
    /// What its wires carry: ETHERNET or IP
    #[arg(long)]
    payload: Option<String>,
    /// Its labels, key:value
    #[arg(long)]
    label: Vec<String>,
    /// Take the services as they are registered already
    #[arg(long)]
    no_register_service: bool,
    /// A setting of the program, as in a manifest: NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    env: Vec<(String, String)>,
    /// The program
    #[arg(long, default_value = "nse-icmp")]
    program: String,
}

#[derive(Args)]
struct Client {
    /// The name of the pod and of the client
    name: String,
    /// The node on which it runs
    #[arg(long, default_value_t = 1)]
    node: usize,
    /// What it asks for: kernel://service/interface?label=value
    #[arg(long, required = true)]
    url: Vec<String>,
    /// A setting of the program, as in a manifest: NAME=VALUE
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting)]
    env: Vec<(String, String)>,
    /// The program
    #[arg(long, default_value = "nsc")]
    program: String,
    /// Do not wait for the wires
    #[arg(long)]
    no_wait: bool,
}

#[derive(Args)]
struct Target {
    /// The pod, or nsmgr, forwarder or registry
    name: String,
    /// The node of a manager or a forwarder
    #[arg(long, default_value_t = 1)]
    node: usize,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let pair = text
        .split_once('=')
        .map(|(name, value)| (name.to_string(), value.to_string()));
    pair.ok_or_else(|| format!("{text:?} is not of the form NAME=VALUE"))
}

impl Mesh {
    /// Does what is asked.
    pub(crate) fn run(self) -> Result<ExitCode> {
        let ask = match self.action {
            Action::Up(up) => return up.run(),
            Action::Exec { name, command } => return Err(exec(&name, &command)),
            Action::Logs { name } => {
                let file = ask::folder()?.join(format!("{name}.log"));
                let text = std::fs::read(&file).with_context(|| format!("there is no program {name:?}"))?;
                print!("{}", String::from_utf8_lossy(&text));
                return Ok(ExitCode::SUCCESS);
            }
            Action::Snapshot if !ask::is_up()? => return Ok(ExitCode::SUCCESS),
            Action::Snapshot => Ask::Snapshot,
            Action::Down => Ask::Down,
            Action::Endpoint(endpoint) => Ask::Pod(endpoint.pod()),
            Action::Client(client) => Ask::Pod(client.pod()),
            Action::Service { file, delete } => Ask::Service {
                service: manifest::read(&file)?,
                is_deleted: delete,
            },
            Action::Kill(Target { name, node }) => Ask::Kill { name, node },
            Action::Start(Target { name, node }) => Ask::Start { name, node },
            Action::Delete { names } => Ask::Delete { names },
            Action::List { json } => Ask::List { is_json: json },
        };
        let told = ask::ask(&ask)?;
        print!("{}", told.text);
        Ok(ExitCode::from(u8::from(!told.is_good)))
    }
}

impl Endpoint {
    fn pod(self) -> NewPod {
        let mut env = vec![("NSM_SERVICE_NAMES".to_string(), self.service.join(","))];
        let mut set = |name: &str, value: Option<String>| {
            env.extend(value.map(|value| (name.to_string(), value)));
        };
        set("NSM_CIDR_PREFIX", self.cidr);
        set("NSM_PAYLOAD", self.payload);
        set(
            "NSM_LABELS",
            (!self.label.is_empty()).then(|| self.label.join(",")),
        );
        set(
            "NSM_REGISTER_SERVICE",
            self.no_register_service.then(|| "false".to_string()),
        );
        env.extend(self.env);
        NewPod {
            name: self.name,
            node: self.node,
            program: self.program,
            is_endpoint: true,
            is_awaited: true,
            env,
        }
    }
}

impl Client {
    fn pod(self) -> NewPod {
        let mut env = vec![("NSM_NETWORK_SERVICES".to_string(), self.url.join(","))];
        env.extend(self.env);
        NewPod {
            name: self.name,
            node: self.node,
            program: self.program,
            is_endpoint: false,
            is_awaited: !self.no_wait,
            env,
        }
    }
}

/// Becomes a command in the network of a pod; answers only if that cannot be.
fn exec(name: &str, command: &[String]) -> anyhow::Error {
    let place = || -> Result<Place> {
        let told = ask::ask(&Ask::Place {
            name: name.to_string(),
        })?;
        Ok(serde_json::from_str(&told.text)?)
    };
    let place = match place() {
        Ok(place) => place,
        Err(error) => return error,
    };
    let mut enter = Command::new("nsenter");
    let users = format!("/proc/{}/ns/user", place.keeper);
    // Who was not root has made a user namespace to be root in; one cannot enter the own one.
    if std::fs::read_link(&users).ok() != std::fs::read_link("/proc/self/ns/user").ok() {
        enter.arg(format!("--user={users}")).arg("--preserve-credentials");
    }
    enter
        .arg(format!(
            "--net=/proc/{}/root{}",
            place.keeper,
            place.netns.display()
        ))
        .arg("--")
        .args(command);
    anyhow::Error::from(enter.exec()).context("cannot start nsenter: install the package util-linux")
}
