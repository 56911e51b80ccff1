// SPDX-License-Identifier: Apache-2.0
//! The kernel's engine while the kernel has WireGuard, and the one of this program when it has none any more: its module
//! can be removed, or forbidden, after the start.
//!
//! **Guarantees**: a tunnel stays with the engine that made it. The other engine is started when it is needed first, and
//! the log says so once.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use nsm_sdk::core::{Component, Result};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::engine::{Config, Engine, Kind};
use crate::tunnel::{Made, Statistics, Tunnel};
use crate::userspace;

/// Starts the engine that is fallen back to.
#[async_trait]
pub(crate) trait Starter: Send + Sync + 'static {
    async fn start(&self) -> Result<Arc<dyn Engine>>;
}

/// Starts the engine of this program.
pub(crate) struct Userspace {
    pub(crate) component: Component,
    pub(crate) config: Config,
}

#[async_trait]
impl Starter for Userspace {
    async fn start(&self) -> Result<Arc<dyn Engine>> {
        userspace::start(&self.component, &self.config).await
    }
}

/// See the [module](self).
pub(crate) struct Fallback<S> {
    first: Arc<dyn Engine>,
    second: OnceCell<Arc<dyn Engine>>,
    starter: S,
    /// The tunnels that the second has made, or is making.
    moved: Mutex<HashSet<String>>,
}

impl<S: Starter> Fallback<S> {
    pub(crate) fn new(first: Arc<dyn Engine>, starter: S) -> Self {
        Self {
            first,
            second: OnceCell::new(),
            starter,
            moved: Mutex::default(),
        }
    }

    /// The engine that has the tunnel `id`, or would have it.
    fn of(&self, id: &str) -> &Arc<dyn Engine> {
        match self.second.get() {
            Some(second) if self.moved.lock().contains(id) => second,
            _ => &self.first,
        }
    }

    async fn start(&self) -> Result<Arc<dyn Engine>> {
        let second = self.starter.start().await?;
        tracing::warn!("the kernel has no WireGuard any more: new tunnels are made in this program");
        Ok(second)
    }

    async fn make_elsewhere(&self, tunnel: &Tunnel, deadline: Instant) -> Result<Made> {
        let second = self.second.get_or_try_init(|| self.start()).await?;
        self.moved.lock().insert(tunnel.id.clone());
        let made = second.make(tunnel, deadline).await;
        if made.is_err() {
            self.moved.lock().remove(&tunnel.id);
        }
        made
    }
}

#[async_trait]
impl<S: Starter> Engine for Fallback<S> {
    fn kind(&self) -> Kind {
        self.second.get().unwrap_or(&self.first).kind()
    }

    async fn make(&self, tunnel: &Tunnel, deadline: Instant) -> Result<Made> {
        match self.of(&tunnel.id).make(tunnel, deadline).await {
            Err(error) if error.reason() == "no-wireguard" => {
                let made = self.make_elsewhere(tunnel, deadline).await;
                made.map_err(|other| other.context(format!("neither engine works: {error}")))
            }
            made => made,
        }
    }

    async fn remove(&self, id: &str, deadline: Instant) -> Result<()> {
        self.of(id).remove(id, deadline).await?;
        self.moved.lock().remove(id);
        Ok(())
    }

    fn dismiss(&self, id: &str) {
        self.of(id).dismiss(id);
        self.moved.lock().remove(id);
    }

    async fn statistics(&self, id: &str) -> Result<Vec<Statistics>> {
        self.of(id).statistics(id).await
    }

    async fn established(&self, id: &str, deadline: Instant) -> Result<()> {
        self.of(id).established(id, deadline).await
    }

    async fn left(&self, netns: &Path, name: &str) -> Result<Option<Tunnel>> {
        self.first.left(netns, name).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use nsm_sdk::core::Error;
    use tonic::Code;

    use super::*;
    use crate::model::{Model, tunnel};

    /// Hands out an engine, or fails.
    struct Ready(Option<Arc<Model>>);

    #[async_trait]
    impl Starter for Ready {
        async fn start(&self) -> Result<Arc<dyn Engine>> {
            match &self.0 {
                Some(engine) => Ok(engine.clone()),
                None => Err(Error::new(Code::FailedPrecondition, "no-tun", "no /dev/net/tun")),
            }
        }
    }

    /// Notes that it was asked.
    struct Never(Arc<AtomicBool>);

    #[async_trait]
    impl Starter for Never {
        async fn start(&self) -> Result<Arc<dyn Engine>> {
            self.0.store(true, Ordering::Relaxed);
            Err(Error::internal("wireguard", "never"))
        }
    }

    fn soon() -> Instant {
        Instant::now() + std::time::Duration::from_secs(1)
    }

    #[tokio::test]
    async fn a_tunnel_is_made_in_this_program_when_the_kernel_has_lost_its_wireguard() {
        let kernel = Arc::new(Model::new(Kind::Kernel));
        let userspace = Arc::new(Model::new(Kind::Userspace));
        let engine = Fallback::new(kernel.clone(), Ready(Some(userspace.clone())));
        engine.make(&tunnel("a"), soon()).await.expect("by the kernel");
        assert_eq!(engine.kind(), Kind::Kernel);
        kernel.lose_wireguard();
        engine.make(&tunnel("b"), soon()).await.expect("in this program");
        assert_eq!(engine.kind(), Kind::Userspace);
        assert_eq!(
            (kernel.ids(), userspace.ids()),
            (vec!["a".into()], vec!["b".into()])
        );
        // Each stays where it is, and goes from there.
        engine.make(&tunnel("b"), soon()).await.expect("again");
        for id in ["a", "b"] {
            engine.statistics(id).await.expect("it is there");
            engine.established(id, soon()).await.expect("it is there");
        }
        engine.dismiss("a");
        engine.remove("b", soon()).await.expect("removed");
        assert!(kernel.ids().is_empty() && userspace.ids().is_empty());
    }

    #[tokio::test]
    async fn when_neither_works_the_error_says_why_of_both() {
        let kernel = Arc::new(Model::new(Kind::Kernel));
        kernel.lose_wireguard();
        let engine = Fallback::new(kernel, Ready(None));
        let error = engine.make(&tunnel("a"), soon()).await.expect_err("neither");
        assert_eq!(error.reason(), "no-tun");
        for words in ["no WireGuard", "/dev/net/tun"] {
            assert!(error.text().contains(words), "{error}");
        }
        assert_eq!(engine.kind(), Kind::Kernel);
    }

    #[tokio::test]
    async fn other_errors_are_not_fallen_back_from() {
        let kernel = Arc::new(Model::new(Kind::Kernel));
        let was_started = Arc::new(AtomicBool::new(false));
        kernel.take_ports();
        let engine = Fallback::new(kernel, Never(was_started.clone()));
        let error = engine.make(&tunnel("a"), soon()).await.expect_err("taken");
        assert_eq!(error.reason(), "port-taken");
        assert!(!was_started.load(Ordering::Relaxed));
    }
}
