// SPDX-License-Identifier: Apache-2.0
//! Tells Prometheus what a program counts.
//!
//! The listener speaks plain HTTP and answers nothing but `GET /metrics`. What it tells are sums: no names of pods, no
//! ids, no addresses. So it is off by default, listens on the loopback interface when it is switched on, and whoever
//! lets others reach it decides whom by the address, a unix socket or a network policy. The mutual TLS of the mesh
//! would ask every Prometheus for an identity of the mesh, which it has no other use for.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Failure;
use super::process::{Gauge, gauges};
use crate::core::Component;
use crate::core::meters::{Kind, head};

/// How many scrapers are served at the same time.
const MAX_SCRAPERS: usize = 16;

/// How long one of them may stay.
const STAY: Duration = Duration::from_secs(30);

/// The pause after a scraper that could not be accepted.
const PAUSE: Duration = Duration::from_millis(200);

/// Whether and where a program tells what it counts.
#[derive(clap::Args, Clone, Debug)]
pub struct PrometheusSettings {
    /// Tell Prometheus what we count
    #[arg(long, env = "NSM_PROMETHEUS", default_value = "false", action = clap::ArgAction::Set)]
    pub prometheus: bool,
    /// Where, in plain HTTP: host:port, or unix:///path
    #[arg(long, env = "NSM_PROMETHEUS_LISTEN_ON", default_value = "127.0.0.1:8081")]
    pub prometheus_listen_on: String,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl PrometheusSettings {
    /// Begins to count, and to tell, if that is wanted.
    pub(super) async fn start(&self, component: &Component) -> Result<(), Failure> {
        if !self.prometheus {
            return Ok(());
        }
        let url = &self.prometheus_listen_on;
        let failed = |error: std::io::Error| {
            Failure::Settings(format!(
                "NSM_PROMETHEUS_LISTEN_ON: cannot listen on {url}: {error}"
            ))
        };
        let listener = match url.strip_prefix("unix://") {
            Some(path) => {
                let _there_was_none = std::fs::remove_file(path);
                Listener::Unix(UnixListener::bind(path).map_err(failed)?)
            }
            None => {
                let address = url.strip_prefix("tcp://").unwrap_or(url);
                let address = match address.starts_with(':') {
                    true => format!("[::]{address}"),
                    false => address.to_string(),
                };
                Listener::Tcp(TcpListener::bind(&address).await.map_err(failed)?)
            }
        };
        component.meters().switch_on();
        // A port 0 is replaced by the real one.
        let url = match &listener {
            Listener::Tcp(listener) => listener.local_addr().map_err(failed)?.to_string(),
            Listener::Unix(_) => url.clone(),
        };
        info!(url, "telling Prometheus");
        let (serving, component) = (component.clone(), component.clone());
        component.spawn_detached("prometheus", async move {
            tokio::select! {
                () = serving.shutdown().cancelled() => {}
                () = serve(&serving, &listener) => {}
            }
        });
        Ok(())
    }
}

async fn serve(component: &Component, listener: &Listener) {
    let scrapers = Arc::new(Semaphore::new(MAX_SCRAPERS));
    let began = component.now();
    while let Ok(place) = Arc::clone(&scrapers).acquire_owned().await {
        let accepted = match listener {
            Listener::Tcp(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| answer(component, began, stream, place))
            }
            Listener::Unix(listener) => {
                let accepted = listener.accept().await;
                accepted.map(|(stream, _)| answer(component, began, stream, place))
            }
        };
        if let Err(error) = accepted {
            warn!(%error, "a scraper could not be accepted");
            sleep(PAUSE).await;
        }
    }
}

/// Answers one scraper until it goes, in a task of its own.
fn answer<S>(component: &Component, began: SystemTime, stream: S, place: tokio::sync::OwnedSemaphorePermit)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (serving, shutdown) = (component.clone(), component.shutdown().clone());
    component.spawn_detached("scraper", async move {
        let service = service_fn(move |request| {
            let told = tell(&serving, began, &request);
            async move { Ok::<_, Infallible>(told) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            () = shutdown.cancelled() => {}
            served = timeout(STAY, connection) => if let Ok(Err(error)) = served {
                debug!(%error, "a scraper broke off");
            },
        }
        drop(place);
    });
}

fn tell(component: &Component, began: SystemTime, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            let kind = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            *response.body_mut() = Full::from(text(component, began));
        }
        (&Method::GET, _) => *response.status_mut() = StatusCode::NOT_FOUND,
        _ => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
    }
    response
}

/// What the program counts, and what the system counts of it.
fn text(component: &Component, began: SystemTime) -> String {
    let mut text = component.meters().text();
    for Gauge { name, help, value } in gauges(component, began) {
        head(&mut text, name, help, Kind::Gauge);
        let _infallible = writeln!(text, "{name} {value}");
    }
    head(&mut text, "nsm_build_info", "Which version runs.", Kind::Gauge);
    let _infallible = writeln!(
        text,
        "nsm_build_info{{version=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION")
    );
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn asked(path: &std::path::Path, request: &str) -> String {
        let mut stream = tokio::net::UnixStream::connect(path).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        answer
    }

    #[tokio::test]
    async fn only_metrics_are_told_and_only_when_that_is_wanted() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.sock");
        let component = Component::new("test");
        let mut settings = PrometheusSettings {
            prometheus: false,
            prometheus_listen_on: format!("unix://{}", path.display()),
        };
        settings.start(&component).await.expect("nothing to do");
        assert!(!path.exists() && !component.meters().is_on());
        settings.prometheus = true;
        settings.start(&component).await.expect("it listens");
        component
            .meters()
            .add(&crate::elements::meter::CALLS, &["a", "b", "ok"], 1);
        let request = |line: &str| format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let told = asked(&path, &request("GET /metrics")).await;
        assert!(told.starts_with("HTTP/1.1 200 OK\r\n"), "{told}");
        for part in [
            "content-type: text/plain; version=0.0.4",
            "nsm_calls_total{api=\"a\",call=\"b\",reason=\"ok\"} 1\n",
            "# TYPE process_resident_memory_bytes gauge\n",
            "nsm_build_info{version=",
        ] {
            assert!(told.contains(part), "{part}\nnot in\n{told}");
        }
        assert!(
            asked(&path, &request("GET /secrets"))
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            asked(&path, &request("POST /metrics"))
                .await
                .starts_with("HTTP/1.1 405")
        );
        assert!(asked(&path, "nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400"));
        component.end().await;
    }

    #[tokio::test]
    async fn an_address_that_cannot_be_listened_on_is_told_by_its_setting() {
        let settings = PrometheusSettings {
            prometheus: true,
            prometheus_listen_on: "256.0.0.1:1".into(),
        };
        let failure = settings.start(&Component::new("test")).await;
        let text = failure.expect_err("it is no address").to_string();
        assert!(
            text.starts_with("NSM_PROMETHEUS_LISTEN_ON: cannot listen on 256.0.0.1:1"),
            "{text}"
        );
    }
}
