// SPDX-License-Identifier: Apache-2.0
//! etcd and the API server, which can be killed and started again.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use nsm::mesh::{Program, Start};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::time::{Instant, timeout};

/// How long a program may take to start.
pub(crate) const TO_START: Duration = Duration::from_secs(120);

/// etcd and the API server.
pub(crate) struct Control {
    kube: PathBuf,
    folder: PathBuf,
    ports: [u16; 4],
    etcd: Option<Program>,
    api: Option<Program>,
    /// The administrator's way to the API server.
    pub(crate) client: Client,
}

impl Control {
    /// Starts both, with what they keep and print in `folder`.
    pub(crate) async fn start(folder: &Path) -> Result<Self> {
        let programs = std::env::var_os("CLUSTER_PROGRAMS")
            .context("CLUSTER_PROGRAMS is not set; use cargo xtask test kubernetes")?;
        let kube = Path::new(&programs).join("kube");
        let key = rcgen::KeyPair::generate()?;
        std::fs::write(folder.join("tokens.key"), key.serialize_pem())?;
        std::fs::write(folder.join("tokens.pub"), key.public_key_pem())?;
        let users = "admin,admin,1,system:masters\nregistry,registry,2\n";
        std::fs::write(folder.join("users.csv"), users)?;
        let ports = free_ports()?;
        for (file, user, port) in [
            ("admin", "admin", ports[2]),
            ("registry", "registry", ports[2]),
            ("aside", "admin", ports[3]),
        ] {
            std::fs::write(folder.join(format!("{file}.conf")), kubeconfig(user, port))?;
        }
        let client = client(&folder.join("admin.conf")).await?;
        let mut control = Self {
            kube,
            folder: folder.to_path_buf(),
            ports,
            etcd: None,
            api: None,
            client,
        };
        control.start_etcd()?;
        control.start_api().await?;
        Ok(control)
    }

    /// The file by which `user` finds the API server.
    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.join(format!("{user}.conf"))
    }

    /// Starts etcd, with what it had.
    pub(crate) fn start_etcd(&mut self) -> Result<()> {
        let [clients, peers, ..] = self.ports;
        let (clients, peers) = (
            format!("http://127.0.0.1:{clients}"),
            format!("http://127.0.0.1:{peers}"),
        );
        let data = self.folder.join("etcd").display().to_string();
        let arguments = [
            "etcd",
            "--data-dir",
            &data,
            "--unsafe-no-fsync",
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &clients,
            "--listen-peer-urls",
            &peers,
        ];
        self.etcd = Some(self.run("etcd", &arguments)?);
        Ok(())
    }

    /// Starts the API server and waits until it answers.
    pub(crate) async fn start_api(&mut self) -> Result<()> {
        self.api = Some(self.serve("kube-apiserver", self.ports[2], &self.client).await?);
        Ok(())
    }

    /// Starts another API server on the same etcd; answers the administrator's way to it.
    pub(crate) async fn aside(&self) -> Result<(Program, Client)> {
        let client = client(&self.folder.join("aside.conf")).await?;
        Ok((self.serve("aside", self.ports[3], &client).await?, client))
    }

    async fn serve(&self, name: &str, port: u16, client: &Client) -> Result<Program> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let (etcd, port) = (format!("http://127.0.0.1:{}", self.ports[0]), port.to_string());
        let (certificates, key, public, users) = (
            file(&format!("{name}-pki")),
            file("tokens.key"),
            file("tokens.pub"),
            file("users.csv"),
        );
        let arguments = [
            "kube-apiserver",
            "--etcd-servers",
            &etcd,
            "--bind-address",
            "127.0.0.1",
            "--secure-port",
            &port,
            "--cert-dir",
            &certificates,
            "--token-auth-file",
            &users,
            "--authorization-mode",
            "RBAC",
            "--service-cluster-ip-range",
            "10.0.0.0/24",
            "--service-account-issuer",
            "https://kubernetes.default",
            "--service-account-signing-key-file",
            &key,
            "--service-account-key-file",
            &public,
        ];
        let mut api = self.run(name, &arguments)?;
        let is_ready = async |_: &Program| {
            let request = http::Request::get("/readyz").body(Vec::new()).ok()?;
            let ready = timeout(Duration::from_secs(5), client.request_text(request)).await;
            ready.ok()?.ok().map(drop)
        };
        api.wait_for("it answered", Instant::now() + TO_START, is_ready)
            .await?;
        Ok(api)
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Result<Program> {
        let what = Start {
            name,
            file: &self.kube,
            pod: None,
            folder: &self.folder,
        };
        Program::start(what, arguments, &[])
    }

    /// Kills the API server.
    pub(crate) fn kill_api(&mut self) -> Result<()> {
        kill(self.api.take())
    }

    /// Kills etcd.
    pub(crate) fn kill_etcd(&mut self) -> Result<()> {
        kill(self.etcd.take())
    }

    /// Sends the API server a signal.
    pub(crate) fn signal_api(&self, signal: Signal) -> Result<()> {
        signal_to(self.api.as_ref().context("it does not run")?, signal)
    }
}

pub(crate) fn signal_to(program: &Program, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(program.pid())?).context("a process has a number")?;
    Ok(kill_process(pid, signal)?)
}

fn kill(program: Option<Program>) -> Result<()> {
    // A program ends when it is dropped.
    program.map(drop).context("it does not run")
}

/// The way that a file names.
async fn client(file: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(file)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn free_ports() -> Result<[u16; 4]> {
    let sockets = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 4];
    for (port, socket) in ports.iter_mut().zip(sockets) {
        *port = socket?.local_addr()?.port();
    }
    Ok(ports)
}

fn kubeconfig(user: &str, port: u16) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{ "name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
        }}],
        "users": [{ "name": user, "user": { "token": user } }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
    })
    .to_string()
}
