// SPDX-License-Identifier: Apache-2.0
//! Gets a certificate, registers, and answers.

use nsm_sdk::app::{Duration, Failure, Start};
use nsm_sdk::core::Component;

use crate::certificate::{Keeper, Presented, Secrets, follow_files, follow_identity};
use crate::cluster::Cluster;
use crate::registration::Registration;
use crate::review::Reviewer;
use crate::rules::Rules;
use crate::serve;
use crate::settings::{Mode, Settings};

/// We call nobody of the mesh, so no token of ours is ever seen.
const TOKEN_LIFETIME: Duration = Duration(std::time::Duration::from_secs(600));

pub(crate) async fn run(component: Component, settings: Settings) -> Result<(), Failure> {
    let rules = Rules::new(&settings)?;
    let cluster = Cluster::infer(&settings.namespace)
        .await
        .map_err(Failure::settings)?;
    let start = Start::new(&component, TOKEN_LIFETIME);
    let presented = match settings.webhook_mode {
        Mode::Spire => follow_identity(&component, start.identity().await?)?,
        Mode::Selfregister => register(&component, &settings, &cluster, &rules).await?,
    };
    let reviewer = Reviewer {
        rules: rules.clone(),
        cluster: cluster.clone(),
    };
    let url = serve::listen(&component, &settings.listen_on, presented, reviewer).await?;
    component.spawn_detached("namespaces", {
        let shutdown = component.shutdown().clone();
        async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = cluster.mark_namespaces(&rules) => {}
            }
        }
    });
    start.ready(&[url]).await;
    Ok(())
}

async fn register(
    component: &Component,
    settings: &Settings,
    cluster: &Cluster,
    rules: &Rules,
) -> Result<Presented, Failure> {
    let (service, namespace) = (&settings.service_name, &settings.namespace);
    let registration = Registration::new(cluster.client(), &settings.name, service, namespace, rules);
    if let Some(files) = settings.files()? {
        return Ok(follow_files(component, files, registration).await?);
    }
    let keeper = Keeper {
        component: component.clone(),
        secrets: Secrets::new(cluster.client(), namespace, &settings.secret_name),
        registration,
        names: ["", ".cluster.local"]
            .map(|domain| format!("{service}.{namespace}.svc{domain}"))
            .to_vec(),
    };
    Ok(keeper.start().await?)
}
