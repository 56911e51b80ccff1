// SPDX-License-Identifier: Apache-2.0
//! Hears, judges, and has written.

use k8s_openapi::jiff::Timestamp;
use nsm_sdk::app::Failure;
use nsm_sdk::core::Component;
use nsm_sdk::transport::notices::Notices;
use nsm_sdk_k8s::client;
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use crate::event::Telling;
use crate::limits::Limits;
use crate::pods::Pod;
use crate::settings::Settings;
use crate::writer::{self, MAX_WAITING};

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let client = client::infer().await.map_err(Failure::settings)?;
    let path = settings.report_to.display();
    let notices = Notices::listen(&settings.report_to);
    let notices = notices
        .map_err(|error| Failure::Settings(format!("cannot listen on {path} (NSM_REPORT_TO): {error}")))?;
    let (told, waiting) = mpsc::channel(MAX_WAITING);
    let _writer = component.spawn("writer", writer::write(component.clone(), client, waiting));
    info!(%path, "ready");
    let teller = Teller {
        node: settings.node_name,
        limits: Limits::new(),
        told,
        component: component.clone(),
    };
    tokio::select! {
        failed = teller.tell(&notices) => Err(failed),
        () = component.stop().cancelled() => Ok(()),
    }
}

struct Teller {
    component: Component,
    node: String,
    limits: Limits,
    told: mpsc::Sender<Telling>,
}

impl Teller {
    /// Tells for ever.
    async fn tell(mut self, notices: &Notices) -> Failure {
        loop {
            let notice = match notices.next().await {
                Ok(notice) => notice,
                Err(error) => return Failure::Settings(format!("nothing can be heard any more: {error}")),
            };
            let Some(count) = self.limits.judge(&notice) else {
                continue;
            };
            let Some(pod) = Pod::of(&notice.client) else {
                debug!(client = notice.client, "that is no pod");
                continue;
            };
            info!(
                pod = pod.name,
                namespace = pod.namespace,
                service = notice.network_service,
                reason = notice.reason,
                "told"
            );
            let telling = Telling {
                notice,
                pod,
                node: self.node.clone(),
                count,
                at: Timestamp::try_from(self.component.now()).unwrap_or_default(),
            };
            if self.told.try_send(telling).is_err() {
                warn!("an Event is lost: {MAX_WAITING} wait to be written");
            }
        }
    }
}
