// SPDX-License-Identifier: Apache-2.0

use std::time::Duration;

use futures::StreamExt;
use nsm_api::connection::MonitorScopeSelector;
use nsm_api::mechanism::REMOTE;
use tokio::sync::watch;

use super::*;
use crate::core::testing::{Probe, request, standard_cases};
use crate::core::{Chain, Message};
use crate::elements::begin::Begin;
use crate::networkservice::monitor::Monitor;

/// Ways that can be made narrower.
struct Links(watch::Sender<u32>, watch::Sender<()>);

#[async_trait]
impl Underlay for Links {
    async fn mtu(&self, _: IpAddr, _: Option<IpAddr>) -> Result<u32> {
        Ok(*self.0.borrow())
    }

    fn changes(&self) -> watch::Receiver<()> {
        self.1.subscribe()
    }
}

impl Links {
    fn new() -> Arc<Self> {
        Arc::new(Self(watch::Sender::new(1500), watch::Sender::new(())))
    }

    fn become_of(&self, mtu: u32) {
        self.0.send_replace(mtu);
        self.1.send_replace(());
    }
}

fn element(component: &Component, links: &Arc<Links>) -> PathMtu {
    let underlay: Arc<dyn Underlay> = Arc::clone(links) as _;
    PathMtu::new(component, "10.0.0.1".parse().expect("an address"), &underlay)
}

/// A request with a tunnel towards its client.
fn tunnelled() -> Request {
    let mut request = request();
    let mut mechanism = Mechanism::new(REMOTE, "VXLAN");
    mechanism.set_parameter(key::SRC_IP, "10.0.0.2");
    mechanism.set_parameter(key::MTU, "1446");
    request.connection.mechanism = Some(mechanism);
    request
}

#[tokio::test(start_paused = true)]
async fn passes_the_standard_cases() {
    let make = || element(&Component::new("forwarder"), &Links::new());
    standard_cases::<NetworkService, _>(make, tunnelled()).await;
}

#[tokio::test(start_paused = true)]
async fn d60_a_way_that_becomes_narrower_asks_for_one_refresh_and_a_wider_one_for_none() {
    let (component, links, probe) = (Component::new("forwarder"), Links::new(), Probe::new());
    let pathmtu = element(&component, &links);
    let ways = Arc::clone(&pathmtu.ways);
    let chain: Chain<NetworkService> = crate::chain![
        Begin::server(&component),
        Monitor::new(&component),
        pathmtu,
        Arc::clone(&probe)
    ];
    let ctx = Ctx::own(&component, Duration::from_secs(10));
    let mut asked = tunnelled();
    chain.request(&ctx, &mut asked).await.expect("established");
    let mut events = chain
        .find(&ctx, MonitorScopeSelector::default())
        .await
        .expect("monitored");
    events.next().await.expect("a transfer").expect("a transfer");
    for (mtu, is_told) in [(1500, false), (1400, true), (1450, false), (1300, true)] {
        links.become_of(mtu);
        let told = tokio::time::timeout(Duration::from_secs(60), events.next()).await;
        assert_eq!(told.is_ok(), is_told, "at {mtu}");
        if let Ok(Some(Ok(event))) = told {
            let mut told = event.connections.into_values();
            let connection = told.next().expect("one connection");
            assert_eq!((connection.state(), told.next()), (State::RefreshRequested, None));
        }
    }
    assert_eq!(ways.known.lock().ways.len(), 1);
    let ctx = Ctx::own(&component, Duration::from_secs(10));
    chain.close(&ctx, &mut asked).await.expect("closed");
    assert!(ways.known.lock().ways.is_empty(), "{}", asked.id());
}

/// Makes the way narrower when its MTU has been agreed upon already.
struct Narrows(Arc<Links>);

#[async_trait]
impl Element<NetworkService> for Narrows {
    fn name(&self) -> &'static str {
        "narrows"
    }

    async fn request(&self, ctx: &Ctx, message: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.request(ctx, message).await?;
        self.0.become_of(1400);
        tokio::time::sleep(Duration::from_millis(1)).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_way_that_becomes_narrower_while_a_request_is_under_way_is_seen() {
    let (component, links) = (Component::new("forwarder"), Links::new());
    let chain: Chain<NetworkService> = crate::chain![
        Begin::server(&component),
        Monitor::new(&component),
        element(&component, &links),
        Narrows(Arc::clone(&links)),
        Probe::new()
    ];
    let ctx = Ctx::own(&component, Duration::from_secs(10));
    chain.request(&ctx, &mut tunnelled()).await.expect("established");
    let events = chain.find(&ctx, MonitorScopeSelector::default()).await;
    let transfer = events.expect("monitored").next().await;
    let transfer = transfer.expect("a transfer").expect("a transfer");
    let states: Vec<_> = transfer
        .connections
        .values()
        .map(|connection| connection.state())
        .collect();
    assert_eq!(states, [State::RefreshRequested]);
}
