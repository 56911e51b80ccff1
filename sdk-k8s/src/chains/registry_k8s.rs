// SPDX-License-Identifier: Apache-2.0
//! The registry of a cluster, in Kubernetes.
//!
//! Names of other domains are not passed on to their registries; they are entries like any other.

use std::time::Duration;

use nsm_sdk::chain;
use nsm_sdk::chains::endpoint::Gate;
use nsm_sdk::core::{Chain, Component, NsRegistry, NseRegistry};
use nsm_sdk::elements::begin::Begin;
use nsm_sdk::elements::meter::Meter;
use nsm_sdk::registry::authorize::AuthorizeServer;
use nsm_sdk::registry::checks::Checks;
use nsm_sdk::registry::expire::Expire;
use nsm_sdk::registry::setpayload::SetPayload;
use nsm_sdk::registry::setregistrationtime::SetRegistrationTime;
use nsm_sdk::registry::updatepath::UpdatePath;

use crate::registry::Etcd;

/// What makes one registry differ from another.
#[derive(Clone)]
pub struct Settings {
    /// Who it is and whom it lets in.
    pub gate: Gate,
    /// How long an endpoint stays that is not refreshed.
    pub expiration: Duration,
}

/// The chain for endpoints, which are stored in `etcd`.
pub fn nse(component: &Component, settings: &Settings, etcd: &Etcd<NseRegistry>) -> Chain<NseRegistry> {
    let Gate {
        identity,
        tokens,
        policies,
    } = &settings.gate;
    chain![
        Checks,
        UpdatePath::new(tokens, identity),
        AuthorizeServer::stored(policies, identity),
        Begin::server(component),
        Meter,
        SetRegistrationTime,
        Expire::new(settings.expiration),
        Etcd::clone(etcd),
    ]
}

/// The chain for services, which are stored in `etcd`.
pub fn ns(component: &Component, settings: &Settings, etcd: &Etcd<NsRegistry>) -> Chain<NsRegistry> {
    let Gate {
        identity,
        tokens,
        policies,
    } = &settings.gate;
    chain![
        Checks,
        UpdatePath::new(tokens, identity),
        AuthorizeServer::stored(policies, identity),
        Begin::server(component),
        Meter,
        SetPayload,
        Etcd::clone(etcd),
    ]
}

#[cfg(test)]
mod tests {
    use nsm_sdk::identity::{Identity, Issuer, Tokens};
    use nsm_sdk::policy::Policies;

    use super::*;
    use crate::registry::testing::Model;
    use crate::registry::{ApiServer, Etcd};

    #[tokio::test]
    async fn the_chains_read_like_this() {
        let component = Component::new("registry");
        let issuer = Issuer::new(&component, "test").expect("a trust domain");
        let credentials = issuer.issue("/ns/nsm-system/pod/registry").expect("an identity");
        let settings = Settings {
            gate: Gate {
                identity: Identity::fixed(credentials),
                tokens: Tokens::new(Duration::from_secs(600)),
                policies: Policies::of(&[]),
            },
            expiration: Duration::from_secs(60),
        };
        let api = ApiServer::new(&component, Model::new().client(), 1);
        let (endpoints, services) = (
            Etcd::start(&component, &api, "home", settings.expiration),
            Etcd::start(&component, &api, "home", settings.expiration),
        );
        assert_eq!(
            nse(&component, &settings, &endpoints).names().join(" "),
            "checks updatepath authorize begin meter setregistrationtime expire etcd"
        );
        assert_eq!(
            ns(&component, &settings, &services).names().join(" "),
            "checks updatepath authorize begin meter setpayload etcd"
        );
        component.end().await;
    }
}
