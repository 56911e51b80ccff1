// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use nsm_api::opentelemetry::proto::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use nsm_api::opentelemetry::proto::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use nsm_api::opentelemetry::proto::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use nsm_api::opentelemetry::proto::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use nsm_api::opentelemetry::proto::common::v1::KeyValue;
use nsm_api::opentelemetry::proto::common::v1::any_value::Value as Any;
use nsm_api::opentelemetry::proto::metrics::v1::Metric;
use nsm_api::opentelemetry::proto::metrics::v1::metric::Data;
use nsm_api::opentelemetry::proto::metrics::v1::number_data_point::Value as Number;
use nsm_api::opentelemetry::proto::trace::v1::Span as Told;
use nsm_api::opentelemetry::proto::trace::v1::span::SpanKind;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::core::traces::{MAX_WAITING, Side, Trace};
use crate::core::{Ctx, Error};
use crate::elements::meter;

/// What a collector has been told.
#[derive(Clone, Default)]
struct Heard {
    spans: Vec<(Vec<KeyValue>, Told)>,
    counts: BTreeMap<String, Metric>,
}

/// A collector, which may refuse everything.
#[derive(Clone)]
struct Receiver {
    heard: watch::Sender<Heard>,
    refuses: bool,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        call: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if self.refuses {
            return Err(Status::invalid_argument("not like this"));
        }
        for told in call.into_inner().resource_spans {
            let resource = told.resource.unwrap_or_default().attributes;
            let spans = told.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.heard
                .send_modify(|heard| heard.spans.extend(spans.map(|span| (resource.clone(), span))));
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        call: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let told = call.into_inner().resource_metrics.into_iter();
        let metrics = told
            .flat_map(|told| told.scope_metrics)
            .flat_map(|scope| scope.metrics);
        self.heard.send_modify(|heard| {
            heard
                .counts
                .extend(metrics.map(|metric| (metric.name.clone(), metric)));
        });
        Ok(Response::new(Default::default()))
    }
}

/// Takes what comes to `listener`, in a task of `component`.
fn collect(component: &Component, listener: TcpListener, refuses: bool) -> watch::Receiver<Heard> {
    let (heard, told) = watch::channel(Heard::default());
    let receiver = Receiver { heard, refuses };
    let serving = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(receiver.clone()))
        .add_service(MetricsServiceServer::new(receiver))
        .serve_with_incoming_shutdown(
            TcpListenerStream::new(listener),
            component.shutdown().clone().cancelled_owned(),
        );
    component.spawn_detached("collector", async move {
        serving.await.expect("it serves");
    });
    told
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address.to_string())
}

fn settings(endpoint: &str) -> TelemetrySettings {
    TelemetrySettings {
        telemetry: true,
        open_telemetry_endpoint: endpoint.to_string(),
        metrics_export_interval: super::super::Duration(Duration::from_millis(100)),
    }
}

/// Notes the span of a call that ended so, as part of `parent`.
fn call(component: &Component, parent: Option<Trace>, id: &str, done: Result<(), Error>) -> Option<Trace> {
    let ctx = Ctx::own(component, TIMEOUT).traced(parent);
    let (inner, span) = ctx.spanned(Side::Server, "a.B/C");
    let trace = inner.trace();
    span.expect("spans are noted").end(id, &done);
    trace
}

async fn until(told: &mut watch::Receiver<Heard>, what: impl FnMut(&Heard) -> bool) -> Heard {
    let heard = timeout(Duration::from_secs(30), told.wait_for(what)).await;
    heard.expect("in time").expect("it serves").clone()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
    let pairs = attributes.iter().filter_map(|one| {
        let value = one.value.as_ref()?.value.as_ref()?;
        match value {
            Any::StringValue(text) => Some((one.key.as_str(), text.as_str())),
            _ => None,
        }
    });
    pairs.collect()
}

#[tokio::test]
async fn a_collector_is_told_of_spans_and_counts() {
    let (component, there) = (Component::new("nsmgr-1"), Component::new("collector"));
    let (listener, endpoint) = listener().await;
    let mut told = collect(&there, listener, false);
    settings(&endpoint).start(&component).expect("it starts");
    let outer = call(&component, None, "", Ok(()));
    call(
        &component,
        outer,
        "id-1",
        Err(Error::not_found("no-endpoint", "there is none")),
    );
    component.meters().add(&meter::CALLS, &["ns", "request", "ok"], 3);
    component.meters().took(
        &meter::SECONDS,
        &["ns", "request", "ok"],
        Duration::from_secs(100),
    );
    component
        .meters()
        .also(|| [("nse-1_rx_bytes".to_string(), 7)].into());
    let heard = until(&mut told, |heard| {
        heard.spans.len() == 2 && heard.counts.contains_key("nse-1_rx_bytes")
    })
    .await;

    let [(resource, first), (_, second)] = &heard.spans[..] else {
        panic!("two spans");
    };
    assert_eq!(texts(resource)["service.name"], "nsmgr-1");
    assert_eq!((first.name.as_str(), first.kind()), ("a.B/C", SpanKind::Server));
    assert!(first.parent_span_id.is_empty() && first.status.is_none());
    assert_eq!(
        (&second.trace_id, &second.parent_span_id),
        (&first.trace_id, &first.span_id)
    );
    assert!(second.end_time_unix_nano >= second.start_time_unix_nano && second.start_time_unix_nano > 0);
    let attributes = texts(&second.attributes);
    assert_eq!(
        (attributes["rpc.service"], attributes["rpc.method"]),
        ("a.B", "C")
    );
    assert_eq!(
        (attributes["nsm.id"], attributes["nsm.reason"]),
        ("id-1", "no-endpoint")
    );
    assert!(
        second
            .status
            .as_ref()
            .is_some_and(|status| status.message.contains("there is none"))
    );

    let Some(Data::Sum(sum)) = &heard.counts["nsm_calls_total"].data else {
        panic!("a sum");
    };
    assert!(sum.is_monotonic && sum.data_points[0].value == Some(Number::AsInt(3)));
    assert_eq!(texts(&sum.data_points[0].attributes)["reason"], "ok");
    let seconds = &heard.counts["nsm_call_duration_seconds"];
    let Some(Data::Histogram(times)) = &seconds.data else {
        panic!("a histogram");
    };
    let point = &times.data_points[0];
    assert_eq!(
        (seconds.unit.as_str(), point.count, point.sum),
        ("s", 1, Some(100.0))
    );
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1);
    assert_eq!(point.bucket_counts.last(), Some(&1), "longer than every bound");
    assert!(heard.counts.contains_key("process_resident_memory_bytes"));
    component.end().await;
    there.end().await;
}

#[tokio::test]
async fn nothing_runs_unless_it_is_wanted() {
    let component = Component::new("test");
    let mut settings = settings("nowhere");
    settings.telemetry = false;
    settings.start(&component).expect("nothing to do");
    assert!(!component.spans().is_on() && !component.meters().is_on() && component.tasks() == 0);
}

#[tokio::test]
async fn what_is_no_collector_is_told_by_its_setting() {
    for bad in [
        "",
        "collector",
        "collector:",
        "collector:0",
        "https://collector:4317",
        "collector:4317/v1",
        "a b:1",
    ] {
        let failure = settings(bad).start(&Component::new("test")).expect_err(bad);
        let text = failure.to_string();
        assert!(text.starts_with("NSM_OPEN_TELEMETRY_ENDPOINT: "), "{text}");
    }
    for good in [
        "collector:4317",
        "http://collector.ns.svc:4317",
        "[::1]:4317",
        "127.0.0.1:4317/",
    ] {
        assert!(Collector::at(good).is_ok(), "{good}");
    }
    let wanted: Vec<_> = ["true", "TRUE", "1", "false", ""]
        .map(wanted)
        .into_iter()
        .flatten()
        .collect();
    assert_eq!(wanted, [true, true, true, false, false]);
    assert!(super::wanted("maybe").is_err());
}

#[tokio::test]
async fn the_rest_is_told_when_the_program_ends() {
    let (component, there) = (Component::new("test"), Component::new("collector"));
    let (listener, endpoint) = listener().await;
    let mut told = collect(&there, listener, false);
    settings(&endpoint).start(&component).expect("it starts");
    // More than one batch.
    for _ in 0..BATCH + 1 {
        call(&component, None, "", Ok(()));
    }
    component.end().await;
    assert_eq!(told.borrow_and_update().spans.len(), BATCH + 1);
    there.end().await;
}

#[tokio::test]
async fn a_collector_that_comes_late_gets_what_has_waited() {
    let (component, there) = (Component::new("test"), Component::new("collector"));
    let (reserved, endpoint) = listener().await;
    drop(reserved);
    settings(&endpoint).start(&component).expect("it starts");
    call(&component, None, "early", Ok(()));
    // It was taken to be told, and nobody takes it.
    while component.spans().waiting() > 0 {
        tokio::task::yield_now().await;
    }
    let listener = TcpListener::bind(&endpoint).await.expect("the port is free");
    let mut told = collect(&there, listener, false);
    until(&mut told, |heard| {
        heard
            .spans
            .iter()
            .any(|(_, span)| texts(&span.attributes)["nsm.id"] == "early")
    })
    .await;
    component.end().await;
    there.end().await;
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nobody_up() {
    let component = Component::new("test");
    let (_listener, endpoint) = listener().await;
    settings(&endpoint).start(&component).expect("it starts");
    let began = Instant::now();
    for _ in 0..MAX_WAITING + 5 {
        call(&component, None, "", Ok(()));
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let text = component.meters().text();
    assert!(
        text.contains("nsm_spans_dropped_total{cause=\"queue-full\"} 5"),
        "{text}"
    );
    let began = Instant::now();
    component.end().await;
    assert!(
        began.elapsed() < LAST + Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn what_a_collector_refuses_is_counted_and_not_told_again() {
    let (component, there) = (Component::new("test"), Component::new("collector"));
    let (listener, endpoint) = listener().await;
    let mut told = collect(&there, listener, true);
    settings(&endpoint).start(&component).expect("it starts");
    call(&component, None, "", Ok(()));
    until(&mut told, |heard| {
        heard.counts.contains_key("nsm_spans_dropped_total")
    })
    .await;
    assert!(
        component
            .meters()
            .text()
            .contains("nsm_spans_dropped_total{cause=\"refused\"} 1\n")
    );
    component.end().await;
    there.end().await;
}
