// SPDX-License-Identifier: Apache-2.0
use http_body_util::Empty;
use hyper::client::conn::http1 as client;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio_rustls::TlsConnector;

use super::*;
use crate::certificate::presented;
use crate::cluster::Cluster;
use crate::testing::{model, rules};

/// A server on a port that is free, and who believes its certificate.
async fn server(component: &Component) -> (String, TlsConnector) {
    let (presented, authority) = presented(component);
    let mut roots = RootCertStore::empty();
    roots.add(authority).expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = listen(component, "tcp://127.0.0.1:0", presented, reviewer()).await;
    let url = url.expect("it listens");
    let authority = url.strip_prefix("https://").expect("https").to_string();
    (authority, Arc::new(config).into())
}

fn reviewer() -> Reviewer {
    Reviewer {
        rules: rules(),
        cluster: Cluster::new(model().0, "nsm-system"),
    }
}

/// One request over a connection of its own.
async fn ask(
    component: &Component,
    (authority, tls): &(String, TlsConnector),
    method: Method,
    path: &str,
    body: Option<String>,
) -> (StatusCode, String) {
    let stream = TcpStream::connect(authority).await.expect("connected");
    let name = ServerName::try_from("webhook").expect("a name");
    let stream = tls.connect(name, stream).await.expect("believed");
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.expect("HTTP");
    component.spawn_detached("client", async move { drop(connection.await) });
    let body = match body {
        Some(text) => Full::from(text).boxed(),
        None => Empty::<Bytes>::new().boxed(),
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "webhook");
    let request = request.body(body).expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status();
    let text = response.into_body().collect().await.expect("a body").to_bytes();
    (status, String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn reviews_are_answered_over_https() {
    let component = Component::new("webhook");
    let server = server(&component).await;
    let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "1", "operation": "DELETE", "kind": { "kind": "Pod" }, "object": null,
    } });
    let (status, text) = ask(&component, &server, Method::POST, PATH, Some(review.to_string())).await;
    assert_eq!(status, StatusCode::OK);
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(answer["response"], json!({ "uid": "1", "allowed": true }));
    let ready = ask(&component, &server, Method::GET, READY, None).await;
    assert_eq!(ready.0, StatusCode::OK);
    component.end().await;
}

#[tokio::test]
async fn what_is_no_review_is_an_error_of_http() {
    let component = Component::new("webhook");
    let server = server(&component).await;
    for (method, path, body, wanted) in [
        (Method::POST, PATH, Some("{".to_string()), StatusCode::BAD_REQUEST),
        (Method::GET, PATH, None, StatusCode::METHOD_NOT_ALLOWED),
        (Method::GET, "/", None, StatusCode::NOT_FOUND),
        (
            Method::POST,
            PATH,
            Some(" ".repeat(MAX_REVIEW + 1)),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        let (status, _) = ask(&component, &server, method, path, body).await;
        assert_eq!(status, wanted);
    }
    component.end().await;
}

#[tokio::test]
async fn only_tcp_can_be_called() {
    let component = Component::new("webhook");
    let (presented, _) = presented(&component);
    let error = listen(&component, "unix:///a", presented, reviewer()).await;
    assert_eq!(error.expect_err("refused").reason(), "bad-url");
    component.end().await;
}
