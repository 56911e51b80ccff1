// SPDX-License-Identifier: Apache-2.0
//! The program in a mount namespace of its own, asked as a kubelet asks it; what is mounted, the kernel tells.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Generated code has no docs of its own; the `.proto` files carry them.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    pub(crate) mod csi {
        tonic::include_proto!("csi.v1");
    }
    pub(crate) mod registration {
        tonic::include_proto!("pluginregistration");
    }
}

use proto::csi::identity_client::IdentityClient;
use proto::csi::node_client::NodeClient;
use proto::csi::{
    GetPluginInfoRequest, NodeGetInfoRequest, NodePublishVolumeRequest, NodeUnpublishVolumeRequest,
};
use proto::registration::registration_client::RegistrationClient;
use proto::registration::{InfoRequest, RegistrationStatus};

const DRIVER: &str = "csi.networkservicemesh.io";

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node: its kubelet's folders, a folder with a socket, and a mount namespace that outlives the driver.
struct Node {
    folders: TempDir,
    namespace: Child,
    driver: Option<Child>,
    _socket: UnixListener,
}

impl Node {
    async fn start() -> Result<Self> {
        let folders = tempfile::tempdir()?;
        for folder in ["plugins_registry", "pods/1/volumes", "nsm"] {
            fs::create_dir_all(folders.path().join(folder))?;
        }
        let socket = UnixListener::bind(folders.path().join("nsm/nsm.io.sock"))?;
        // It says when it is there, and ends with its standard input.
        let mut namespace = Command::new("unshare")
            .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
            .arg(r#"mount --bind "$0" "$0" && echo && read end"#)
            .arg(folders.path().join("nsm"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start unshare")?;
        let mut line = String::new();
        let told = namespace.stdout.take().context("it is piped")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(told), &mut line)?;
        ensure!(!line.is_empty(), "there is no mount namespace");
        let mut node = Self {
            folders,
            namespace,
            driver: None,
            _socket: socket,
        };
        node.start_driver().await?;
        Ok(node)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folders.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path(&format!("plugins_registry/{DRIVER}-reg.sock"))
    }

    /// A command among the node's mounts.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--user", "--mount", "--preserve-credentials", "--target"])
            .arg(self.namespace.id().to_string())
            .arg("--")
            .arg(program);
        command
    }

    async fn start_driver(&mut self) -> Result<()> {
        let mut driver = self.inside(env!("CARGO_BIN_EXE_csi-driver"));
        driver
            .env("NODE_NAME", "node1")
            .env("NSM_DRIVERS", format!("{DRIVER}={}", self.path("nsm").display()))
            .env("NSM_KUBELET", self.folders.path());
        self.driver = Some(driver.spawn().context("could not start the driver")?);
        let until = tokio::time::Instant::now() + PATIENCE;
        while UnixStream::connect(self.socket()).await.is_err() {
            ensure!(tokio::time::Instant::now() < until, "the driver does not listen");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Kills the driver without a word, and starts another one.
    async fn kill_driver(&mut self) -> Result<()> {
        let mut driver = self.driver.take().context("it runs")?;
        driver.kill()?;
        driver.wait()?;
        self.start_driver().await
    }

    async fn channel(&self) -> Result<Channel> {
        let socket = self.socket();
        let connect = move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        };
        let endpoint = Endpoint::from_static("http://localhost");
        Ok(endpoint
            .connect_with_connector(tower::service_fn(connect))
            .await?)
    }

    async fn publish(&self, target: &Path) -> Result<(), Status> {
        self.ask_to_publish(request(target)).await
    }

    async fn ask_to_publish(&self, request: NodePublishVolumeRequest) -> Result<(), Status> {
        let channel = self
            .channel()
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        NodeClient::new(channel)
            .node_publish_volume(request)
            .await
            .map(drop)
    }

    async fn unpublish(&self, target: &Path) -> Result<(), Status> {
        let channel = self
            .channel()
            .await
            .map_err(|error| Status::unknown(error.to_string()))?;
        let request = NodeUnpublishVolumeRequest {
            volume_id: "v".into(),
            target_path: target.display().to_string(),
        };
        NodeClient::new(channel)
            .node_unpublish_volume(request)
            .await
            .map(drop)
    }

    /// The options of what is mounted at a place, one line a mount.
    fn mounts(&self, target: &Path) -> Result<Vec<String>> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.namespace.id()))?;
        let target = target.display().to_string();
        let lines = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let ours = lines.filter(|fields| fields.get(4) == Some(&target.as_str()));
        Ok(ours.map(|fields| fields[5].to_string()).collect())
    }

    /// Whether a line of shell succeeds among the node's mounts.
    fn shell(&self, line: &str) -> Result<bool> {
        let told = self.inside("sh").args(["-c", line]).output()?;
        Ok(told.status.success())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in self.driver.iter_mut().chain([&mut self.namespace]) {
            let _it_may_have_ended = child.kill();
            let _it_may_have_ended = child.wait();
        }
    }
}

fn request(target: &Path) -> NodePublishVolumeRequest {
    NodePublishVolumeRequest {
        volume_id: "v".into(),
        target_path: target.display().to_string(),
        readonly: true,
        volume_context: [("csi.storage.k8s.io/ephemeral".into(), "true".into())].into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_kubelet_gets_to_know_the_driver_by_its_socket_alone() -> Result<()> {
    let node = Node::start().await?;
    let channel = node.channel().await?;
    let mut registration = RegistrationClient::new(channel.clone());
    let info = registration.get_info(InfoRequest {}).await?.into_inner();
    assert_eq!((info.r#type.as_str(), info.name.as_str()), ("CSIPlugin", DRIVER));
    assert_eq!(
        (info.endpoint.as_str(), info.supported_versions),
        ("", vec!["1.0.0".to_string()])
    );
    let registered = RegistrationStatus {
        plugin_registered: true,
        error: String::new(),
    };
    registration.notify_registration_status(registered).await?;
    let told = IdentityClient::new(channel.clone())
        .get_plugin_info(GetPluginInfoRequest {})
        .await?;
    assert_eq!(told.into_inner().name, DRIVER);
    let told = NodeClient::new(channel)
        .node_get_info(NodeGetInfoRequest {})
        .await?;
    assert_eq!(told.into_inner().node_id, "node1");
    Ok(())
}

/// What a kubelet's library, which is written in Go, sends when it dials a path: the path is the authority.
#[tokio::test]
async fn a_kubelet_that_dials_a_path_is_answered() -> Result<()> {
    let node = Node::start().await?;
    let text = |value: &[u8]| [&[value.len() as u8], value].concat();
    let mut fields = b"\x83\x86\x44".to_vec();
    fields.extend(text(b"/csi.v1.Identity/Probe"));
    fields.push(0x41);
    fields.extend(text(b"%2Fvar%2Flib%2Fkubelet%2Fplugins_registry%2Fx.sock"));
    for (name, value) in [
        (&b"content-type"[..], &b"application/grpc"[..]),
        (b"te", b"trailers"),
    ] {
        fields.push(0x40);
        fields.extend([text(name), text(value)].concat());
    }
    let head = |length: usize, kind, flags, stream| [0, 0, length as u8, kind, flags, 0, 0, 0, stream];
    let mut stream = UnixStream::connect(node.socket()).await?;
    let sent = [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
        &head(0, 4, 0, 0),
        &head(fields.len(), 1, 4, 1),
        &fields,
        &head(5, 0, 1, 1),
        &[0; 5],
    ];
    stream.write_all(&sent.concat()).await?;
    loop {
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        let mut payload = vec![0; usize::from(frame[1]) << 8 | usize::from(frame[2])];
        stream.read_exact(&mut payload).await?;
        match frame[3] {
            1 => return Ok(()),
            3 | 7 => bail!("the request is refused: {frame:?} {payload:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_driver_that_the_kubelet_refuses_ends_and_says_why() -> Result<()> {
    let mut node = Node::start().await?;
    let refused = RegistrationStatus {
        plugin_registered: false,
        error: "another one has this name".into(),
    };
    let mut registration = RegistrationClient::new(node.channel().await?);
    registration.notify_registration_status(refused).await?;
    let mut driver = node.driver.take().context("it runs")?;
    let ended = tokio::task::spawn_blocking(move || driver.wait()).await??;
    assert_eq!(ended.code(), Some(69));
    assert!(!node.socket().exists(), "its socket is gone");
    Ok(())
}

#[tokio::test]
async fn a_volume_is_the_folder_read_only_and_goes_without_a_trace() -> Result<()> {
    let node = Node::start().await?;
    let target = node.path("pods/1/volumes/mount");
    for _ in 0..2 {
        node.publish(&target).await?;
        let [options] = &node.mounts(&target)?[..] else {
            bail!("mounts: {:?}", node.mounts(&target)?)
        };
        for wanted in ["ro", "nosuid", "nodev", "noexec"] {
            assert!(options.split(',').any(|option| option == wanted), "{options}");
        }
    }
    let there = target.display();
    assert!(node.shell(&format!("test -S {there}/nsm.io.sock"))?);
    assert!(!node.shell(&format!("touch {there}/x"))?, "it can be written to");
    for _ in 0..2 {
        node.unpublish(&target).await?;
        assert!(node.mounts(&target)?.is_empty());
        assert!(!target.exists());
    }
    assert!(node.path("nsm/nsm.io.sock").exists(), "the folder stays as it is");
    Ok(())
}

#[tokio::test]
async fn a_killed_driver_leaves_volumes_and_its_successor_removes_them() -> Result<()> {
    let mut node = Node::start().await?;
    let target = node.path("pods/1/volumes/mount");
    node.publish(&target).await?;
    node.kill_driver().await?;
    assert_eq!(node.mounts(&target)?.len(), 1);
    // Another folder is there, or it is there twice.
    let (there, nsm) = (target.display(), node.path("nsm"));
    assert!(node.shell(&format!(
        "mount --bind {there} {there} && mount -t tmpfs x {there}"
    ))?);
    node.publish(&target).await?;
    assert!(node.shell(&format!("test -S {there}/nsm.io.sock"))?);
    assert!(node.shell(&format!("mount --bind {} {there}", nsm.display()))?);
    node.unpublish(&target).await?;
    assert!(node.mounts(&target)?.is_empty() && !target.exists());
    Ok(())
}

#[tokio::test]
async fn what_is_no_volume_of_a_pod_is_refused() -> Result<()> {
    let node = Node::start().await?;
    let target = node.path("pods/1/volumes/mount");
    let mut wrong = vec![];
    for path in ["nsm", "pods", "pods/../nsm", "pods/1/../../nsm"] {
        wrong.push(request(&node.path(path)));
    }
    wrong.push(NodePublishVolumeRequest {
        readonly: false,
        ..request(&target)
    });
    wrong.push(NodePublishVolumeRequest {
        volume_id: String::new(),
        ..request(&target)
    });
    let mut persistent = request(&target);
    persistent
        .volume_context
        .insert("csi.storage.k8s.io/ephemeral".into(), "false".into());
    wrong.push(persistent);
    for request in wrong {
        let told = node.ask_to_publish(request.clone()).await.expect_err("refused");
        assert_eq!(told.code(), Code::InvalidArgument, "{request:?}");
    }
    assert_eq!(
        node.unpublish(&node.path("nsm"))
            .await
            .expect_err("refused")
            .code(),
        Code::InvalidArgument
    );
    assert!(node.mounts(&target)?.is_empty() && !target.exists());
    Ok(())
}
