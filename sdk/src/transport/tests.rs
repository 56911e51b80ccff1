// SPDX-License-Identifier: Apache-2.0
//! Programs that speak with each other over real sockets.

mod calls;
mod connections;
mod lack;
mod limits;
mod traces;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Config, Pool, Server};
use crate::core::testing::{Probe, request};
use crate::core::{
    Api, Chain, Component, Ctx, Dialer, Element, Message, NetworkService, NsRegistry, NseRegistry, Remote,
};
use crate::identity::{Credentials, Identity, Issuer, Tokens};

/// A program on this machine and what it needs to be one.
struct Program {
    component: Component,
    identity: Identity,
    source: watch::Sender<Credentials>,
}

/// A machine: a directory for sockets and an authority.
struct Machine {
    directory: TempDir,
    issuer: Issuer,
}

impl Machine {
    fn new() -> Self {
        let issuer = Issuer::new(&Component::new("issuer"), "a.org").unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { directory, issuer }
    }

    fn program(&self, name: &str) -> Program {
        let (source, identity) = watch::channel(self.issuer.issue(&format!("/{name}")).unwrap());
        Program {
            component: Component::new(name),
            identity: Identity::new(identity),
            source,
        }
    }

    fn url(&self, name: &str) -> String {
        format!("unix://{}/{name}.sock", self.directory.path().display())
    }

    /// Replaces a program's SVID by a new one of the same id.
    fn rotate(&self, program: &Program) {
        let new = self
            .issuer
            .issue(&format!("/{}", program.component.name()))
            .unwrap();
        program.source.send_replace(new);
    }
}

impl Program {
    /// Serves a chain of one element on `url`, which is returned as it was bound.
    async fn serve(&self, url: &str, element: impl Element<NetworkService>) -> String {
        let chain = Chain::new(vec![Arc::new(element)]);
        let server = Server::new(&self.component, self.identity.clone()).network_service(chain);
        server.listen(&[url]).await.unwrap().remove(0)
    }

    /// Serves both registries on `url`.
    async fn serve_registries(
        &self,
        url: &str,
        nses: &Arc<Probe<NseRegistry>>,
        services: &Arc<Probe<NsRegistry>>,
    ) {
        let server = Server::new(&self.component, self.identity.clone())
            .nse_registry(Chain::new(vec![Arc::new(Arc::clone(nses))]))
            .ns_registry(Chain::new(vec![Arc::new(Arc::clone(services))]));
        server.listen(&[url]).await.unwrap();
    }

    fn pool(&self) -> Pool {
        self.pool_with(Config::default())
    }

    fn pool_with(&self, config: Config) -> Pool {
        let tokens = Tokens::new(Duration::from_secs(600));
        Pool::with(&self.component, self.identity.clone(), tokens, config)
    }

    fn ctx(&self) -> Ctx {
        Ctx::own(&self.component, Duration::from_secs(10))
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn dial(pool: &Pool, url: &str) -> Arc<dyn Remote<NetworkService>> {
    pool.dial(url, soon()).await.unwrap()
}

async fn call(remote: &Arc<dyn Remote<NetworkService>>, from: &Program) -> <NetworkService as Api>::Message {
    remote.request(&from.ctx(), &request()).await.unwrap()
}

/// Waits until `condition` holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap_or_else(|_| panic!("{what} did not come true"));
}

/// The program's name, set as the answer's id: tells who answered.
fn naming(name: &str) -> Arc<Probe<NetworkService>> {
    let name = name.to_string();
    Probe::answering(move |message: &mut <NetworkService as Api>::Message| {
        message.set_id(name.clone());
        Ok(())
    })
}
