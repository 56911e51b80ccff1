// SPDX-License-Identifier: Apache-2.0
//! Identity from the SPIFFE Workload API (SPIFFE specification "Workload API"): SPIRE, or what speaks like it.
//!
//! **Guarantees**: the first SVID of the first answer is who we are; each later answer replaces it at once. An
//! answer that makes no sense is logged and changes nothing, nor does the loss of the agent: its identity stays
//! until it expires, while we try to reach the agent again.
//! **Cost**: one stream; while the agent is away one try every 0.1–5 s, at random.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use nsm_api::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use nsm_api::workload::{X509svidRequest, X509svidResponse};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Request, Status, Streaming};
use tracing::{debug, info, warn};

use super::certificate::{bad, split_der};
use super::{Bundles, Credentials, Identity, Svid, trust_domain};
use crate::core::{Backoff, Component, Error, Result};

/// The time between two tries to reach the agent: at first, and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long opening a stream may take.
const OPENING: Duration = Duration::from_secs(5);

/// Follows the agent that listens on the unix socket `socket` until `component` ends. Waits for the first identity
/// until `deadline`.
///
/// Errors: `no-identity`, with what was wrong at last.
pub async fn follow(component: &Component, socket: PathBuf, deadline: Instant) -> Result<Identity> {
    let mut agent = Agent {
        component: component.clone(),
        stream: None,
        backoff: Backoff::new(BACKOFF.0, BACKOFF.1),
        trouble: "it does not answer".into(),
        socket,
    };
    let Ok(first) = timeout_at(deadline, agent.next()).await else {
        let (at, trouble) = (agent.socket.display(), agent.trouble);
        let text = format!(
            "no identity from the Workload API at {at}: {trouble}; check that the agent runs and has an entry for us"
        );
        return Err(Error::unavailable("no-identity", text));
    };
    info!(spiffe_id = first.svid.spiffe_id, "identity received");
    let (sender, receiver) = watch::channel(first);
    component.spawn_detached("identity", async move {
        let shutdown = agent.component.shutdown().clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sender.closed() => break,
                credentials = agent.next() => {
                    info!(spiffe_id = credentials.svid.spiffe_id, "identity renewed");
                    sender.send_replace(credentials);
                }
            }
        }
    });
    Ok(Identity::new(receiver))
}

struct Agent {
    component: Component,
    socket: PathBuf,
    stream: Option<Streaming<X509svidResponse>>,
    backoff: Backoff,
    /// What was wrong at last.
    trouble: String,
}

impl Agent {
    /// The next identity that the agent tells.
    async fn next(&mut self) -> Credentials {
        loop {
            match self.message().await {
                Ok(message) => {
                    self.backoff.reset();
                    match read(&message) {
                        Ok(credentials) => return credentials,
                        Err(error) => {
                            warn!(%error, "the Workload API sent an identity that cannot be used");
                            self.trouble = error.to_string();
                        }
                    }
                }
                Err(status) => self.back_off(&status).await,
            }
        }
    }

    async fn message(&mut self) -> Result<X509svidResponse, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let opened = timeout(OPENING, open(self.socket.clone())).await;
                let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer")));
                self.stream.insert(opened?)
            }
        };
        stream
            .message()
            .await?
            .ok_or_else(|| Status::unavailable("it ended the stream"))
    }

    async fn back_off(&mut self, status: &Status) {
        self.stream = None;
        self.trouble = format!("{:?}: {}", status.code(), status.message());
        debug!(socket = %self.socket.display(), trouble = self.trouble, "no word from the Workload API");
        tokio::time::sleep(self.backoff.next(&self.component)).await;
    }
}

async fn open(socket: PathBuf) -> Result<Streaming<X509svidResponse>, Status> {
    let connect = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://workload-api")
        .connect_with_connector(connect)
        .await
        .map_err(|error| Status::unavailable(innermost(&error).to_string()))?;
    let mut request = Request::new(X509svidRequest {});
    request
        .metadata_mut()
        .insert("workload.spiffe.io", MetadataValue::from_static("true"));
    let opened = SpiffeWorkloadApiClient::new(channel)
        .fetch_x509svid(request)
        .await;
    opened.map(tonic::Response::into_inner)
}

fn innermost<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner
}

fn read(message: &X509svidResponse) -> Result<Credentials> {
    let told = message.svids.first().ok_or_else(|| bad("the agent told none"))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(told.x509_svid_key.clone()));
    let svid = Svid::new(split_der(&told.x509_svid)?, key)?;
    let own = trust_domain(&svid.spiffe_id).unwrap_or_default().to_string();
    let mut bundles = Bundles::new();
    for (domain, bundle) in &message.federated_bundles {
        let domain = domain
            .strip_prefix("spiffe://")
            .unwrap_or(domain)
            .trim_end_matches('/');
        bundles.insert(domain.to_string(), split_der(bundle)?);
    }
    bundles.insert(own, split_der(&told.bundle)?);
    Ok(Credentials {
        svid: Arc::new(svid),
        bundles: Arc::new(bundles),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Issuer;

    fn soon(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn follows_the_agent_through_rotation_and_restart() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let (component, agents) = (Component::new("test"), Component::new("agent"));
        let issuer = Issuer::with_lifetime(&agents, "k8s.nsm", Duration::from_secs(3)).unwrap();
        let agent = issuer.serve(&socket, 0o600, "/ns/a/pod/b").unwrap();

        let mut identity = follow(&component, socket.clone(), soon(10)).await.unwrap();
        let first = identity.current();
        assert_eq!(first.svid.spiffe_id, "spiffe://k8s.nsm/ns/a/pod/b");
        assert_eq!(first.bundles, issuer.bundles());
        let renewed = identity.changed().await;
        assert_ne!(renewed.svid.certificates, first.svid.certificates);

        drop(agent);
        assert!(!socket.exists(), "the socket ends with its agent");
        let _restarted = issuer.serve(&socket, 0o600, "/ns/a/pod/c").unwrap();
        while identity.changed().await.svid.spiffe_id != "spiffe://k8s.nsm/ns/a/pod/c" {}
        component.end().await;
        agents.end().await;
        assert!(!socket.exists(), "the socket ends with the component");
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_is_not_there_is_named_at_the_deadline() {
        let component = Component::new("test");
        let error = follow(&component, "/nowhere/agent.sock".into(), soon(30))
            .await
            .unwrap_err();
        assert_eq!(error.reason(), "no-identity");
        assert!(error.text().contains("/nowhere/agent.sock"), "{error}");
        assert!(error.text().contains("No such file"), "{error}");
        assert_eq!(component.tasks(), 0);
    }

    #[test]
    fn nonsense_of_the_agent_is_an_error() {
        assert_eq!(
            read(&X509svidResponse::default()).unwrap_err().reason(),
            "bad-svid"
        );
    }
}
