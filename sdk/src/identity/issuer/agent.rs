// SPDX-License-Identifier: Apache-2.0
//! The serving half of the SPIFFE Workload API: one socket, and one identity or one for each caller.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use nsm_api::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use nsm_api::workload::{X509BundlesRequest, X509BundlesResponse};
use nsm_api::workload::{X509svid, X509svidRequest, X509svidResponse};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};
use tracing::{error, info, warn};

use super::super::{Credentials, Identity, trust_domain};
use crate::core::{Component, Error, Result};

/// Tells the path of the identity of a process, by the number that it has where the issuer runs.
pub type Attest = dyn Fn(i32) -> Result<String> + Send + Sync;

/// Tells the identity of a caller, by the number of its process if the kernel told that.
pub(super) type Identify = dyn Fn(Option<i32>) -> Result<Identity> + Send + Sync;

/// A socket that serves identities until this is dropped.
#[derive(Debug)]
pub struct Agent {
    socket: Arc<Socket>,
    _serving: DropGuard,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.socket.remove();
    }
}

impl Agent {
    pub(super) fn start(
        component: &Component,
        socket: &Path,
        mode: u32,
        identify: Arc<Identify>,
    ) -> Result<Self> {
        let bind = |error: io::Error| {
            let text = format!("cannot serve the Workload API at {}: {error}", socket.display());
            Error::unavailable("bind", text)
        };
        let (listener, file) = Socket::bind(socket, mode, &component.uuid()).map_err(bind)?;
        let end = component.shutdown().child_token();
        let api = Api {
            identify,
            end: end.clone(),
        };
        let (serving, name) = (end.clone(), socket.display().to_string());
        let file = Arc::new(file);
        let served_file = Arc::clone(&file);
        component.spawn_detached("workload-api", async move {
            info!(socket = name, "serving an identity");
            let served = Server::builder()
                .add_service(SpiffeWorkloadApiServer::new(api))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end.cancelled())
                .await;
            served_file.remove();
            if let Err(error) = served {
                error!(socket = name, %error, "serving an identity");
            }
        });
        Ok(Self {
            socket: file,
            _serving: serving.drop_guard(),
        })
    }
}

/// The file of a socket, removed once.
#[derive(Debug)]
struct Socket(Mutex<Option<PathBuf>>);

impl Socket {
    /// Appears under its name with its mode already set, in place of what an earlier life has left.
    fn bind(path: &Path, mode: u32, unique: &str) -> io::Result<(UnixListener, Self)> {
        let mut hidden = path.as_os_str().to_owned();
        hidden.push(format!(".{}", unique.get(..8).unwrap_or(unique)));
        let listener = UnixListener::bind(&hidden)?;
        let shown = fs::set_permissions(&hidden, fs::Permissions::from_mode(mode))
            .and_then(|()| fs::rename(&hidden, path));
        if let Err(error) = shown {
            let _it_may_be_gone_already = fs::remove_file(&hidden);
            return Err(error);
        }
        Ok((listener, Self(Mutex::new(Some(path.to_path_buf())))))
    }

    fn remove(&self) {
        if let Some(path) = self.0.lock().take() {
            let _it_may_be_gone_already = fs::remove_file(path);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.remove();
    }
}

struct Api {
    identify: Arc<Identify>,
    end: CancellationToken,
}

impl Api {
    /// The identity now and whenever it changes, until serving ends.
    fn stream<T, R>(
        &self,
        request: &Request<R>,
        show: fn(&Credentials) -> T,
    ) -> Result<Response<BoxStream<'static, Result<T, Status>>>, Status>
    where
        T: Send + 'static,
    {
        if request
            .metadata()
            .get("workload.spiffe.io")
            .is_none_or(|value| value != "true")
        {
            return Err(Status::invalid_argument(
                "the header workload.spiffe.io: true is missing",
            ));
        }
        let caller = request.extensions().get::<UdsConnectInfo>();
        let caller = caller.and_then(|info| info.peer_cred?.pid());
        let identity = (self.identify)(caller).map_err(|error| {
            warn!(caller, %error, "a caller gets no identity");
            Status::permission_denied(error.text())
        })?;
        let stream = WatchStream::new(identity.watch())
            .map(move |credentials| Ok(show(&credentials)))
            .take_until(self.end.clone().cancelled_owned());
        Ok(Response::new(Box::pin(stream)))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Api {
    type FetchX509SVIDStream = BoxStream<'static, Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = BoxStream<'static, Result<X509BundlesResponse, Status>>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.stream(&request, |credentials| {
            let svid = &credentials.svid;
            let bundle = trust_domain(&svid.spiffe_id).and_then(|domain| credentials.bundles.get(domain));
            X509svidResponse {
                svids: vec![X509svid {
                    spiffe_id: svid.spiffe_id.clone(),
                    x509_svid: join(&svid.certificates),
                    x509_svid_key: svid.key.secret_der().to_vec(),
                    bundle: bundle.map(|bundle| join(bundle)).unwrap_or_default(),
                    hint: String::new(),
                }],
                ..Default::default()
            }
        })
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.stream(&request, |credentials| X509BundlesResponse {
            bundles: credentials
                .bundles
                .iter()
                .map(|(domain, bundle)| (format!("spiffe://{domain}"), join(bundle)))
                .collect(),
            ..Default::default()
        })
    }
}

fn join(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    certificates
        .iter()
        .flat_map(|certificate| certificate.iter().copied())
        .collect()
}
