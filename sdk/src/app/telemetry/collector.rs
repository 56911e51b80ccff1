// SPDX-License-Identifier: Apache-2.0
//! The connection to a collector: OTLP by gRPC, in the clear.

use hyper_util::rt::TokioIo;
use nsm_api::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use nsm_api::opentelemetry::proto::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use nsm_api::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use nsm_api::opentelemetry::proto::collector::trace::v1::trace_service_client::TraceServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tracing::debug;

use crate::transport::{Address, connect};

/// A collector, and the connection to it while there is one.
pub(super) struct Collector {
    address: Address,
    endpoint: Endpoint,
    channel: Option<Channel>,
}

/// Why a collector did not take something.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is away, or has too much to do: it may be tried again.
    Away(String),
    /// It never takes this.
    Final(String),
}

impl Collector {
    /// The collector at `host:port` or `unix:///path`. Errors: what is wrong with that.
    pub(super) fn at(endpoint: &str) -> Result<Self, String> {
        let is_none = || "is no host:port of a collector that takes OTLP by gRPC without TLS".to_string();
        let (address, authority) = match endpoint.strip_prefix("unix://") {
            Some(path) => (Address::Unix(path.into()), "localhost"),
            None => {
                let authority = endpoint.strip_prefix("http://").unwrap_or(endpoint);
                let authority = authority.trim_end_matches('/');
                let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
                if authority.contains('/') || !matches!(port, Some(Ok(1..))) {
                    return Err(is_none());
                }
                (Address::Tcp(authority.to_string()), authority)
            }
        };
        Ok(Self {
            endpoint: Endpoint::from_shared(format!("http://{authority}")).map_err(|_| is_none())?,
            address,
            channel: None,
        })
    }

    /// Forgets a connection that hangs.
    pub(super) fn hang_up(&mut self) {
        self.channel = None;
    }

    pub(super) async fn take_spans(&mut self, message: ExportTraceServiceRequest) -> Result<(), Refusal> {
        let mut client = TraceServiceClient::new(self.channel().await?);
        let taken = client
            .export(message)
            .await
            .map_err(|status| self.refusal(&status))?;
        if let Some(part) = taken
            .into_inner()
            .partial_success
            .filter(|part| part.rejected_spans > 0)
        {
            debug!(
                rejected = part.rejected_spans,
                error = part.error_message,
                "the collector refuses spans"
            );
        }
        Ok(())
    }

    pub(super) async fn take_counts(&mut self, message: ExportMetricsServiceRequest) -> Result<(), Refusal> {
        let mut client = MetricsServiceClient::new(self.channel().await?);
        let taken = client
            .export(message)
            .await
            .map_err(|status| self.refusal(&status))?;
        if let Some(part) = taken
            .into_inner()
            .partial_success
            .filter(|part| part.rejected_data_points > 0)
        {
            debug!(
                rejected = part.rejected_data_points,
                error = part.error_message,
                "the collector refuses counts"
            );
        }
        Ok(())
    }

    async fn channel(&mut self) -> Result<Channel, Refusal> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let address = self.address.clone();
        let connect = tower::service_fn(move |_| {
            let address = address.clone();
            async move { connect(&address).await.map(TokioIo::new) }
        });
        let connected = self.endpoint.connect_with_connector(connect).await;
        let channel = connected.map_err(|error| Refusal::Away(innermost(&error)))?;
        Ok(self.channel.insert(channel).clone())
    }

    /// What the status means, as OTLP/gRPC says.
    fn refusal(&mut self, status: &Status) -> Refusal {
        let text = match std::error::Error::source(status) {
            Some(cause) => innermost(cause),
            None => format!("{:?}: {}", status.code(), status.message()),
        };
        let is_broken = std::error::Error::source(status).is_some();
        if is_broken {
            self.hang_up();
        }
        match status.code() {
            _ if is_broken => Refusal::Away(text),
            Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::OutOfRange
            | Code::DataLoss
            | Code::ResourceExhausted => Refusal::Away(text),
            _ => Refusal::Final(text),
        }
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}
