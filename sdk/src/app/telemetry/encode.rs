// SPDX-License-Identifier: Apache-2.0
//! What a program tells, as the messages of OTLP.

use std::time::{SystemTime, UNIX_EPOCH};

use nsm_api::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use nsm_api::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use nsm_api::opentelemetry::proto::common::v1::any_value::Value as Any;
use nsm_api::opentelemetry::proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use nsm_api::opentelemetry::proto::metrics::v1::metric::Data;
use nsm_api::opentelemetry::proto::metrics::v1::number_data_point::Value as Number;
use nsm_api::opentelemetry::proto::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum,
};
use nsm_api::opentelemetry::proto::resource::v1::Resource;
use nsm_api::opentelemetry::proto::trace::v1::span::SpanKind;
use nsm_api::opentelemetry::proto::trace::v1::status::StatusCode;
use nsm_api::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span as Told, Status};

use super::super::process::gauges;
use crate::core::Component;
use crate::core::meters::{BOUNDS, Family, Kind, Series, Value};
use crate::core::traces::{Outcome, Side, Span};

/// Who tells: what is the same in every message.
pub(super) struct Teller {
    resource: Resource,
    scope: InstrumentationScope,
}

fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Any::StringValue(value.to_string()))
}

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue {
        key: key.to_string(),
        value: Some(AnyValue { value: Some(value) }),
    }
}

/// Nanoseconds since 1970.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Teller {
    /// `component`, where the environment says.
    pub(super) fn of(component: &Component, variable: impl Fn(&str) -> Option<String>) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let mut attributes = vec![
            text("service.name", component.name()),
            text("service.version", version),
            text("service.instance.id", &component.uuid()),
        ];
        for (key, name) in [
            ("k8s.node.name", "NODE_NAME"),
            ("k8s.pod.name", "POD_NAME"),
            ("k8s.cluster.name", "CLUSTER_NAME"),
        ] {
            attributes.extend(variable(name).map(|value| text(key, &value)));
        }
        Self {
            resource: Resource { attributes },
            scope: InstrumentationScope {
                name: "nsm".to_string(),
                version: version.to_string(),
            },
        }
    }

    /// Spans.
    pub(super) fn spans(&self, spans: &[Span]) -> ExportTraceServiceRequest {
        let scope_spans = ScopeSpans {
            scope: Some(self.scope.clone()),
            spans: spans.iter().map(span).collect(),
        };
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![scope_spans],
            }],
        }
    }

    /// What `component`, which began at `began`, counts now.
    pub(super) fn counts(&self, component: &Component, began: SystemTime) -> ExportMetricsServiceRequest {
        let times = Times {
            began: nanos(began),
            now: nanos(component.now()),
        };
        let scope_metrics = ScopeMetrics {
            scope: Some(self.scope.clone()),
            metrics: times.metrics(component, began),
        };
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![scope_metrics],
            }],
        }
    }
}

fn span(span: &Span) -> Told {
    let (service, method) = span.name.split_once('/').unwrap_or((span.name, ""));
    let mut attributes = vec![
        text("rpc.system", "grpc"),
        text("rpc.service", service),
        text("rpc.method", method),
    ];
    if !span.id.is_empty() {
        attributes.push(text("nsm.id", &span.id));
    }
    let (code, status) = match &span.outcome {
        Outcome::Ok => (Some(tonic::Code::Ok), None),
        Outcome::Left => (None, Some("nobody waited for the answer".to_string())),
        Outcome::Error {
            code,
            reason,
            text: told,
        } => {
            attributes.push(text("nsm.reason", reason));
            (Some(*code), Some(told.clone()))
        }
    };
    if let Some(code) = code {
        attributes.push(attribute(
            "rpc.grpc.status_code",
            Any::IntValue(i32::from(code).into()),
        ));
    }
    let kind = match span.side {
        Side::Server => SpanKind::Server,
        Side::Client => SpanKind::Client,
    };
    Told {
        trace_id: span.own.trace.to_vec(),
        span_id: span.own.span.to_vec(),
        trace_state: String::new(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        name: span.name.to_string(),
        kind: kind.into(),
        start_time_unix_nano: nanos(span.began),
        end_time_unix_nano: nanos(span.ended),
        attributes,
        status: status.map(|message| Status {
            message,
            code: StatusCode::Error.into(),
        }),
        flags: span.own.flags.into(),
    }
}

/// When the counts began, and what time they are of.
#[derive(Clone, Copy)]
struct Times {
    began: u64,
    now: u64,
}

impl Times {
    fn metrics(self, component: &Component, began: SystemTime) -> Vec<Metric> {
        let mut series = component.meters().read();
        series.sort_by_key(|series| series.family.name);
        let families = series.chunk_by(|one, other| std::ptr::eq(one.family, other.family));
        let mut metrics: Vec<_> = families
            .filter_map(|series| Some(self.family(series.first()?.family, series)))
            .collect();
        let gauges = gauges(component, began).into_iter();
        metrics.extend(gauges.map(|gauge| Metric {
            name: gauge.name.to_string(),
            description: gauge.help.to_string(),
            unit: unit(gauge.name).to_string(),
            data: Some(Data::Gauge(Gauge {
                data_points: vec![self.point(Vec::new(), Number::AsDouble(gauge.value))],
            })),
        }));
        let others = component.meters().others().into_iter();
        metrics.extend(others.map(|(name, value)| Metric {
            unit: unit(&name).to_string(),
            name,
            description: "What wires have carried, as the hop of this name tells it.".to_string(),
            data: Some(sum(vec![self.number(Vec::new(), value)])),
        }));
        metrics
    }

    fn family(self, family: &Family, series: &[Series]) -> Metric {
        let numbers = || {
            let points = series.iter().filter_map(|one| match one.value {
                Value::Number(value) => Some(self.number(labels(one), value)),
                Value::Times { .. } => None,
            });
            points.collect()
        };
        let data = match family.kind {
            Kind::Counter => sum(numbers()),
            Kind::Gauge => Data::Gauge(Gauge {
                data_points: numbers(),
            }),
            Kind::Histogram => Data::Histogram(Histogram {
                data_points: series.iter().filter_map(|one| self.times(one)).collect(),
                aggregation_temporality: AggregationTemporality::Cumulative.into(),
            }),
        };
        Metric {
            name: family.name.to_string(),
            description: family.help.to_string(),
            unit: unit(family.name).to_string(),
            data: Some(data),
        }
    }

    fn number(self, attributes: Vec<KeyValue>, value: u64) -> NumberDataPoint {
        self.point(
            attributes,
            Number::AsInt(i64::try_from(value).unwrap_or(i64::MAX)),
        )
    }

    fn point(self, attributes: Vec<KeyValue>, value: Number) -> NumberDataPoint {
        NumberDataPoint {
            attributes,
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            value: Some(value),
        }
    }

    fn times(self, series: &Series) -> Option<HistogramDataPoint> {
        let Value::Times { buckets, count, sum } = &series.value else {
            return None;
        };
        let beyond = count - buckets.iter().sum::<u64>();
        Some(HistogramDataPoint {
            attributes: labels(series),
            start_time_unix_nano: self.began,
            time_unix_nano: self.now,
            count: *count,
            sum: Some(sum.as_secs_f64()),
            bucket_counts: buckets.iter().copied().chain([beyond]).collect(),
            explicit_bounds: BOUNDS.to_vec(),
        })
    }
}

fn sum(data_points: Vec<NumberDataPoint>) -> Data {
    Data::Sum(Sum {
        data_points,
        aggregation_temporality: AggregationTemporality::Cumulative.into(),
        is_monotonic: true,
    })
}

fn labels(series: &Series) -> Vec<KeyValue> {
    let names = series.family.labels.iter();
    names
        .zip(&series.labels)
        .map(|(name, value)| text(name, value))
        .collect()
}

/// The unit that a name ends with (UCUM).
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit_once('_').map(|(_, unit)| unit) {
        Some("seconds") => "s",
        Some("bytes") => "By",
        _ => "1",
    }
}
