// SPDX-License-Identifier: Apache-2.0
//! What the kubelet asks: who we are, and volumes.

use std::collections::HashMap;
use std::io;
use std::path::{Component as Part, Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};
use tracing::{info, warn};

use crate::mounts;
use crate::proto::csi::identity_server::Identity;
use crate::proto::csi::node_server::Node;
use crate::proto::csi::volume_capability::AccessType;
use crate::proto::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse,
    NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest, NodeGetInfoResponse,
    NodePublishVolumeRequest, NodePublishVolumeResponse, NodeUnpublishVolumeRequest,
    NodeUnpublishVolumeResponse, ProbeRequest, ProbeResponse,
};
use crate::proto::registration::registration_server::Registration;
use crate::proto::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use crate::settings;

/// One driver of this node. Cheap to clone; clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Driver(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    node: String,
    folder: PathBuf,
    /// Where volumes of pods are.
    pods: PathBuf,
    /// One volume at a time: the kubelet asks again when an answer takes long.
    one: Mutex<()>,
    /// Whom to tell that the kubelet refuses us.
    refused: mpsc::Sender<String>,
}

impl Driver {
    /// The driver for pods of `kubelet` on `node`, which tells `refused` why it cannot be.
    pub(crate) fn new(
        driver: &settings::Driver,
        node: &str,
        kubelet: &Path,
        refused: mpsc::Sender<String>,
    ) -> Self {
        Self(Arc::new(Inner {
            name: driver.name.clone(),
            node: node.into(),
            folder: driver.folder.clone(),
            pods: kubelet.join("pods"),
            one: Mutex::new(()),
            refused,
        }))
    }

    /// Where a volume is to be: among those of pods, and nowhere else.
    fn target(&self, path: &str) -> Result<PathBuf, Status> {
        let (path, pods) = (PathBuf::from(path), &self.0.pods);
        let is_plain = path
            .components()
            .all(|part| matches!(part, Part::RootDir | Part::Normal(_)));
        if is_plain && path.starts_with(pods) && path != *pods {
            return Ok(path);
        }
        Err(Status::invalid_argument(format!(
            "the target path {} is no place of a pod's volume, below {}",
            path.display(),
            pods.display()
        )))
    }

    /// Asks the kernel, which may let us wait.
    async fn ask(&self, target: PathBuf, work: fn(&Inner, &Path) -> io::Result<()>) -> Result<(), Status> {
        let inner = Arc::clone(&self.0);
        let asked = tokio::task::spawn_blocking(move || {
            let _one = inner.one.lock();
            work(&inner, &target).map_err(|error| {
                warn!(driver = inner.name, target = %target.display(), %error, "a volume");
                Status::internal(format!(
                    "{} at {}: {error}",
                    inner.folder.display(),
                    target.display()
                ))
            })
        });
        asked
            .await
            .map_err(|error| Status::internal(format!("asking the kernel: {error}")))?
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "CSIPlugin".into(),
            name: self.0.name.clone(),
            // The driver is behind this very socket.
            endpoint: String::new(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        let status = request.into_inner();
        if status.plugin_registered {
            info!(driver = self.0.name, "registered at the kubelet");
        } else {
            let why = format!("the kubelet refuses the driver {}: {}", self.0.name, status.error);
            let _one_is_told_already = self.0.refused.try_send(why);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl Identity for Driver {
    async fn get_plugin_info(
        &self,
        _: Request<GetPluginInfoRequest>,
    ) -> Result<Response<GetPluginInfoResponse>, Status> {
        Ok(Response::new(GetPluginInfoResponse {
            name: self.0.name.clone(),
            vendor_version: env!("CARGO_PKG_VERSION").into(),
        }))
    }

    async fn get_plugin_capabilities(
        &self,
        _: Request<GetPluginCapabilitiesRequest>,
    ) -> Result<Response<GetPluginCapabilitiesResponse>, Status> {
        Ok(Response::new(GetPluginCapabilitiesResponse {}))
    }

    async fn probe(&self, _: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(ProbeResponse {}))
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_publish_volume(
        &self,
        request: Request<NodePublishVolumeRequest>,
    ) -> Result<Response<NodePublishVolumeResponse>, Status> {
        let request = request.into_inner();
        check(&request)?;
        let target = self.target(&request.target_path)?;
        self.ask(target, |inner, target| mounts::publish(&inner.folder, target))
            .await?;
        let of = |key: &str| request.volume_context.get(key).map(String::as_str);
        info!(
            driver = self.0.name,
            namespace = of(NAMESPACE),
            pod = of(POD),
            "a volume is there"
        );
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: Request<NodeUnpublishVolumeRequest>,
    ) -> Result<Response<NodeUnpublishVolumeResponse>, Status> {
        let request = request.into_inner();
        named(&request.volume_id)?;
        let target = self.target(&request.target_path)?;
        self.ask(target, |_, target| mounts::unpublish(target)).await?;
        info!(
            driver = self.0.name,
            volume = request.volume_id,
            "a volume is gone"
        );
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_capabilities(
        &self,
        _: Request<NodeGetCapabilitiesRequest>,
    ) -> Result<Response<NodeGetCapabilitiesResponse>, Status> {
        Ok(Response::new(NodeGetCapabilitiesResponse {}))
    }

    async fn node_get_info(
        &self,
        _: Request<NodeGetInfoRequest>,
    ) -> Result<Response<NodeGetInfoResponse>, Status> {
        Ok(Response::new(NodeGetInfoResponse {
            node_id: self.0.node.clone(),
        }))
    }
}

/// What the kubelet tells of a pod whose volume it asks for.
const NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD: &str = "csi.storage.k8s.io/pod.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// Whether it is a volume as we have them.
fn check(request: &NodePublishVolumeRequest) -> Result<(), Status> {
    named(&request.volume_id)?;
    let capability = request.volume_capability.as_ref();
    if matches!(
        capability.and_then(|capability| capability.access_type.as_ref()),
        Some(AccessType::Block(_))
    ) {
        return Err(Status::invalid_argument(
            "volumes of this driver are folders, not blocks",
        ));
    }
    if !request.readonly {
        return Err(Status::invalid_argument(
            "volumes of this driver are read only: set csi.readOnly to true in the pod's volume",
        ));
    }
    if !is_ephemeral(&request.volume_context) {
        return Err(Status::invalid_argument(
            "volumes of this driver live as long as their pod: name it in the pod itself, below csi",
        ));
    }
    Ok(())
}

fn is_ephemeral(context: &HashMap<String, String>) -> bool {
    context.get(EPHEMERAL).is_none_or(|value| value == "true")
}

fn named(volume: &str) -> Result<(), Status> {
    if volume.is_empty() {
        return Err(Status::invalid_argument("the volume has no id"));
    }
    Ok(())
}
