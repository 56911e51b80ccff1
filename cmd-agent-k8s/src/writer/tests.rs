// SPDX-License-Identifier: Apache-2.0
//! What the API server is asked.

use std::sync::Arc;
use std::time::SystemTime;

use http::{Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use nsm_sdk::core::Clock;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::service_fn;

use super::*;
use crate::event::tests::telling;

/// What was asked: method, path and body.
type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

/// An API server that answers by these codes in turn, and what it is asked.
fn answering(codes: &'static [u16]) -> (Client, Asked) {
    let asked = Asked::default();
    let all = Arc::clone(&asked);
    let service = service_fn(move |request: Request<Body>| {
        let asked = Arc::clone(&all);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.expect("a body").to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            let number = {
                let mut asked = asked.lock();
                asked.push((head.method.to_string(), head.uri.path().to_string(), body));
                asked.len() - 1
            };
            let code = codes.get(number).copied().unwrap_or(200);
            let answer = match code {
                200 => r#"{"metadata":{"name":"x","uid":"0b5e"},"eventTime":null}"#.to_string(),
                code => format!(
                    r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"x","code":{code}}}"#
                ),
            };
            let answer = Response::builder()
                .status(code)
                .body(Body::from(answer.into_bytes()));
            Ok::<_, std::io::Error>(answer.expect("it is well formed"))
        }
    });
    (Client::new(service, "default"), asked)
}

/// Writes one Event, told for the `count`th time, to an API server that answers so. Returns what that was asked.
async fn written(codes: &'static [u16], count: i32) -> Vec<(String, String, String)> {
    let (client, asked) = answering(codes);
    let (told, waiting) = mpsc::channel(1);
    let clock = Clock::starting_at(SystemTime::UNIX_EPOCH);
    let component = Component::with("agent", clock, StdRng::seed_from_u64(1));
    let mut telling = telling(count);
    telling.at = Timestamp::try_from(component.now()).expect("a time");
    told.send(telling).await.expect("there is room");
    drop(told);
    write(component, client, waiting).await;
    let asked = asked.lock();
    asked.clone()
}

#[tokio::test(start_paused = true)]
async fn an_event_is_made_by_two_requests() {
    let asked = written(&[], 1).await;
    let [(look, pod, _), (method, path, body)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!(
        (&**look, &**pod),
        ("GET", "/api/v1/namespaces/default/pods/nsc-1")
    );
    assert_eq!(method, "POST");
    assert_eq!(path, "/apis/events.k8s.io/v1/namespaces/default/events");
    assert!(
        body.contains(r#""reason":"pool-empty""#) && body.contains("0b5e"),
        "{body}"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_is_there_is_told_again() {
    let asked = written(&[200, 409], 3).await;
    let (method, path, body) = asked.last().expect("it was asked");
    assert_eq!((&**method, asked.len()), ("PATCH", 3));
    assert!(
        path.starts_with("/apis/events.k8s.io/v1/namespaces/default/events/nsc-1."),
        "{path}"
    );
    assert!(body.contains(r#""count":3"#), "{body}");
}

#[tokio::test(start_paused = true)]
async fn one_that_expires_meanwhile_is_made_anew() {
    let methods: Vec<_> = written(&[200, 409, 404], 3)
        .await
        .into_iter()
        .map(|(method, ..)| method)
        .collect();
    assert_eq!(methods, ["GET", "POST", "PATCH", "POST"]);
}

#[tokio::test(start_paused = true)]
async fn events_wait_while_the_api_server_is_away_until_they_are_no_news() {
    assert_eq!(written(&[503, 503, 503], 1).await.len(), 5);
    let began = Instant::now();
    let tries = written(&[503; 1000], 1).await.len();
    assert!(
        began.elapsed() >= NEWS && tries < 100,
        "{tries} tries in {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_not_taken_is_left_and_so_is_a_pod_that_is_gone() {
    assert_eq!(written(&[403], 1).await.len(), 1);
    assert_eq!(written(&[404], 1).await.len(), 1);
}
