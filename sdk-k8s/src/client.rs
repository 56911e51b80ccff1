// SPDX-License-Identifier: Apache-2.0
//! The way to the API server of Kubernetes.

use std::time::Duration;

use kube::{Client, Config};
use nsm_sdk::core::{Error, Result};

/// How long the way there may take.
const TO_CONNECT: Duration = Duration::from_secs(3);

/// How long an answer, or what comes next on a watch, may take. Those of ours end after 45 s, so nobody waits this long
/// but for an API server whose node has lost its power, or that hangs.
const TO_READ: Duration = Duration::from_secs(60);

/// The way to the API server of the cluster that the program runs in, or of the file that `KUBECONFIG` names. Nothing is
/// asked, and nothing is asked twice: who calls tries again, and knows until when. Errors: `no-api-server`.
pub async fn infer() -> Result<Client> {
    let missing = |error: &dyn std::fmt::Display| {
        let text =
            format!("which Kubernetes? run in a pod with a service account, or set KUBECONFIG: {error}");
        Error::invalid("no-api-server", text)
    };
    let mut config = Config::infer().await.map_err(|error| missing(&error))?;
    config.connect_timeout = Some(TO_CONNECT);
    config.read_timeout = Some(TO_READ);
    config.reset_reader_on_write = true;
    config.default_retry = false;
    Client::try_from(config).map_err(|error| missing(&error))
}

/// Whether the API server, or what it needs, was not there.
pub fn is_outage(error: &kube::Error) -> bool {
    use kube::Error::{Api, BuildRequest, SerdeError};
    match error {
        Api(status) => status.code >= 500,
        SerdeError(_) | BuildRequest(_) => false,
        _ => true,
    }
}
