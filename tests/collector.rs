// SPDX-License-Identifier: Apache-2.0
//! A collector of OpenTelemetry in this process: a gRPC server that takes what programs tell by OTLP.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
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
use nsm_api::opentelemetry::proto::common::v1::any_value::Value;
use nsm_api::opentelemetry::proto::resource::v1::Resource;
use nsm_api::opentelemetry::proto::trace::v1::Span;
use nsm_api::opentelemetry::proto::trace::v1::span::SpanKind;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// What programs have told.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    /// Each span with the name of its program.
    pub spans: Vec<(String, Span)>,
    /// The names of what each program counts.
    pub counts: BTreeMap<String, BTreeSet<String>>,
}

/// A collector that listens, until it is dropped, which ends its connections as well.
pub struct Collector {
    heard: watch::Receiver<Heard>,
    _tasks: JoinSet<()>,
}

#[derive(Clone)]
struct Ear(watch::Sender<Heard>);

/// The text of an attribute.
pub fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.as_str()),
        _ => None,
    }
}

fn name(resource: Option<&Resource>) -> String {
    let attributes = resource.map_or(&[][..], |resource| &resource.attributes[..]);
    attribute(attributes, "service.name").unwrap_or("?").to_string()
}

#[tonic::async_trait]
impl TraceService for Ear {
    async fn export(
        &self,
        call: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for told in call.into_inner().resource_spans {
            let name = name(told.resource.as_ref());
            let spans = told.scope_spans.into_iter().flat_map(|scope| scope.spans);
            let spans = spans.map(|span| (name.clone(), span));
            self.0.send_modify(|heard| heard.spans.extend(spans));
        }
        Ok(Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Ear {
    async fn export(
        &self,
        call: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        for told in call.into_inner().resource_metrics {
            let name = name(told.resource.as_ref());
            let metrics = told.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.0.send_modify(|heard| {
                let counts = heard.counts.entry(name).or_default();
                counts.extend(metrics.map(|metric| metric.name));
            });
        }
        Ok(Response::new(Default::default()))
    }
}

impl Collector {
    /// Listens on a unix socket.
    pub fn listen(socket: &Path) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let accepted = futures::stream::unfold(listener, |listener: UnixListener| async move {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        let (ear, heard) = watch::channel(Heard::default());
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(Ear(ear.clone())))
            .add_service(MetricsServiceServer::new(Ear(ear)))
            .serve_with_incoming_shutdown(Box::pin(accepted), std::future::pending());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(error) = serving.await {
                eprintln!("the collector has ended: {error}");
            }
        });
        Ok(Self { heard, _tasks: tasks })
    }

    /// What it was told so far.
    pub fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }
}

impl Heard {
    /// The hops of the first request of `client` that reached `last`, each by the name of its program, if each is called
    /// by the one before within one trace.
    pub fn hops(&self, client: &str, last: &str) -> Option<Vec<String>> {
        let roots = self
            .spans
            .iter()
            .filter(|(name, span)| name == client && span.parent_span_id.is_empty() && span.name == REQUEST);
        let mut paths = roots.map(|(_, root)| {
            let mut hops = Vec::new();
            self.follow(root, &mut hops);
            hops
        });
        paths.find(|hops| hops.last().is_some_and(|hop| hop == last))
    }

    /// The trace of that request, a line a span below the one that it is part of, with its time.
    pub fn drawn(&self, client: &str) -> String {
        let root = self.spans.iter().find(|(name, span)| {
            name == client && span.parent_span_id.is_empty() && span.name == REQUEST && span.status.is_none()
        });
        let mut text = String::new();
        if let Some(root) = root {
            self.draw(root, root.1.start_time_unix_nano, 0, &mut text);
        }
        text
    }

    fn draw(&self, (name, span): &(String, Span), began: u64, depth: usize, text: &mut String) {
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        let side = match span.kind() {
            SpanKind::Server => "serves",
            _ => "calls",
        };
        let what = format!("{:indent$}{name} {side} {}", "", span.name, indent = depth * 2);
        let (at, took) = (
            ms(began, span.start_time_unix_nano),
            ms(span.start_time_unix_nano, span.end_time_unix_nano),
        );
        text.push_str(&format!("{at:8.2} {took:8.2}  {what}\n"));
        let mut below: Vec<_> = self
            .spans
            .iter()
            .filter(|(_, one)| one.trace_id == span.trace_id && one.parent_span_id == span.span_id)
            .collect();
        below.sort_by_key(|(_, one)| one.start_time_unix_nano);
        for one in below {
            self.draw(one, began, depth + 1, text);
        }
    }

    /// Follows a call to who was called, and what that has called.
    fn follow(&self, calling: &Span, hops: &mut Vec<String>) {
        let Some((name, called)) = self.below(calling, SpanKind::Server).next() else {
            return;
        };
        hops.push(name.clone());
        // Of several that were tried, the one that was answered well.
        let calls: Vec<_> = self.below(called, SpanKind::Client).collect();
        let well = calls.iter().find(|(_, call)| call.status.is_none());
        if let Some((_, call)) = well {
            self.follow(call, hops);
        }
    }

    /// The requests of one side that are part of `span` and lie within its time.
    fn below<'h>(&'h self, span: &'h Span, kind: SpanKind) -> impl Iterator<Item = &'h (String, Span)> {
        self.spans.iter().filter(move |(_, one)| {
            one.trace_id == span.trace_id
                && one.parent_span_id == span.span_id
                && one.kind() == kind
                && one.name == REQUEST
                && one.start_time_unix_nano >= span.start_time_unix_nano
        })
    }
}

/// What gRPC calls a request.
pub const REQUEST: &str = "networkservice.NetworkService/Request";
