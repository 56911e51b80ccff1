// SPDX-License-Identifier: Apache-2.0
//! Serves every driver at a socket of its own, where the kubelet finds it.

use nsm_sdk::app::Failure;
use nsm_sdk::core::{Component, Error};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::info;

use crate::authority::Connection;
use crate::driver::Driver;
use crate::mounts;
use crate::proto::csi::identity_server::IdentityServer;
use crate::proto::csi::node_server::NodeServer;
use crate::proto::registration::registration_server::RegistrationServer;
use crate::settings::Settings;
use crate::socket::Socket;

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let registry = settings.kubelet.join("plugins_registry");
    let (refused, mut refusals) = mpsc::channel(1);
    let mut sockets = Vec::new();
    for driver in &settings.drivers {
        mounts::prepare(&driver.folder).map_err(|error| {
            let text = format!(
                "cannot serve {}: {}: {error}",
                driver.name,
                driver.folder.display()
            );
            Error::unavailable("no-volume", text)
        })?;
        let (listener, socket) =
            Socket::bind(&registry, &format!("{}-reg.sock", driver.name)).map_err(|error| {
                let text = format!("cannot serve {} in {}: {error}", driver.name, registry.display());
                Error::unavailable("bind", text)
            })?;
        info!(driver = driver.name, folder = %driver.folder.display(), "serving");
        sockets.push(socket);
        let served = Driver::new(driver, &settings.node_name, &settings.kubelet, refused.clone());
        let (end, refused) = (component.shutdown().clone(), refused.clone());
        component.spawn_detached("driver", async move {
            if let Err(error) = serve(listener, served, end).await {
                let _one_is_told_already = refused.try_send(format!("cannot serve: {error}"));
            }
        });
    }
    tokio::select! {
        () = component.stop().cancelled() => Ok(()),
        why = refusals.recv() => Err(Error::unavailable("no-kubelet", why.unwrap_or_default()).into()),
    }
}

async fn serve(
    listener: UnixListener,
    driver: Driver,
    end: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let connections = UnixListenerStream::new(listener).map(|stream| stream.map(Connection::new));
    Server::builder()
        .add_service(RegistrationServer::new(driver.clone()))
        .add_service(IdentityServer::new(driver.clone()))
        .add_service(NodeServer::new(driver))
        .serve_with_incoming_shutdown(connections, end.cancelled_owned())
        .await
}
