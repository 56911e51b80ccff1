// SPDX-License-Identifier: Apache-2.0
//! Chooses where the identity of a program comes from, by its configuration.

use std::path::PathBuf;

use tokio::time::Instant;

use super::{Identity, pem, workload_api};
use crate::core::{Component, Error, Result};

/// Where an identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The Workload API on this unix socket.
    WorkloadApi(PathBuf),
    /// PEM files in this directory.
    Pem(PathBuf),
}

impl Source {
    /// The source that the environment names: `SPIFFE_ENDPOINT_SOCKET` (`unix:///run/spire/sockets/agent.sock`) or
    /// `NSM_IDENTITY_DIR` (a directory of PEM files). The directory is used where both are set, since the socket is
    /// set in every published manifest. `variable` answers the value of a variable.
    ///
    /// Errors: `no-identity-source`, `bad-url`.
    pub fn choose(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name| variable(name).filter(|value| !value.is_empty());
        if let Some(directory) = set("NSM_IDENTITY_DIR") {
            return Ok(Self::Pem(directory.into()));
        }
        let Some(url) = set("SPIFFE_ENDPOINT_SOCKET") else {
            let text = "who are we? set SPIFFE_ENDPOINT_SOCKET (unix:///…, the Workload API of SPIRE) or \
                        NSM_IDENTITY_DIR (a directory with tls.crt, tls.key and ca.crt)";
            return Err(Error::invalid("no-identity-source", text));
        };
        let path = url
            .strip_prefix("unix:")
            .map(|path| path.strip_prefix("//").unwrap_or(path));
        match path {
            Some(path) if path.starts_with('/') => Ok(Self::WorkloadApi(path.into())),
            _ => {
                let text =
                    format!("SPIFFE_ENDPOINT_SOCKET is {url:?}; it must be unix:// and an absolute path");
                Err(Error::invalid("bad-url", text))
            }
        }
    }

    /// Waits for the first identity until `deadline`, and follows the source until `component` ends.
    ///
    /// Errors: `no-identity`.
    pub async fn follow(self, component: &Component, deadline: Instant) -> Result<Identity> {
        match self {
            Self::WorkloadApi(socket) => workload_api::follow(component, socket, deadline).await,
            Self::Pem(directory) => pem::follow(component, directory, deadline).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(set: &[(&str, &str)]) -> Result<Source, String> {
        let value = |name: &str| {
            set.iter()
                .find(|pair| pair.0 == name)
                .map(|pair| pair.1.to_string())
        };
        Source::choose(value).map_err(|error| error.reason().to_string())
    }

    #[test]
    fn the_environment_names_the_source() {
        let (socket, dir) = ("SPIFFE_ENDPOINT_SOCKET", "NSM_IDENTITY_DIR");
        assert_eq!(
            choose(&[(socket, "unix:///a/b")]),
            Ok(Source::WorkloadApi("/a/b".into()))
        );
        assert_eq!(
            choose(&[(socket, "unix:/a/b")]),
            Ok(Source::WorkloadApi("/a/b".into()))
        );
        assert_eq!(
            choose(&[(dir, "/c"), (socket, "unix:///a")]),
            Ok(Source::Pem("/c".into()))
        );
        assert_eq!(choose(&[(dir, "")]), Err("no-identity-source".into()));
        assert_eq!(choose(&[(socket, "tcp://1.2.3.4:5")]), Err("bad-url".into()));
        assert_eq!(choose(&[(socket, "unix://a")]), Err("bad-url".into()));
    }
}
