// SPDX-License-Identifier: Apache-2.0

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nsm_api::mechanism::Kernel as View;
use tempfile::NamedTempFile;

use super::*;
use crate::core::testing::{Connection, Probe, request, standard_cases};
use crate::core::{Chain, Message};
use crate::dataplane::model::Model;
use crate::dataplane::{DataPlane, Wire};
use crate::networkservice::mechanismtranslation::MechanismTranslation;

/// A node with a client and an endpoint, and a forwarder's chain between them.
struct Node {
    client: NamedTempFile,
    endpoint: NamedTempFile,
    model: Model,
    probe: Arc<Probe<NetworkService>>,
    chain: Chain<NetworkService>,
    connection: Connection,
}

fn kernel(netns: &NamedTempFile, name: &str) -> nsm_api::connection::Mechanism {
    let mut mechanism = View::at(&format!("file://{}", netns.path().display()));
    mechanism.set_parameter("name", name);
    mechanism
}

fn netns() -> NamedTempFile {
    NamedTempFile::new().expect("a temporary file")
}

impl Node {
    fn new() -> Self {
        let (model, endpoint) = (Model::new(), netns());
        let downstream = kernel(&endpoint, "nse-1");
        let probe = Probe::answering(move |request: &mut Request| {
            request.connection.mechanism = Some(downstream.clone());
            let ip = request.connection.ip_context_mut();
            ip.src_ip_addrs = vec!["10.0.0.1/32".into()];
            ip.dst_ip_addrs = vec!["10.0.0.0/32".into()];
            Ok(())
        });
        let chain = crate::chain![
            XConnect::new(&Planes::new(Arc::new(model.clone()))),
            MechanismTranslation,
            Arc::clone(&probe)
        ];
        Self {
            client: netns(),
            endpoint,
            model,
            probe,
            chain,
            connection: Connection::new(),
        }
    }

    fn asked(&self) -> Request {
        let mut request = request();
        request.connection.mechanism = Some(kernel(&self.client, "nsm-1"));
        request
    }

    async fn connect(&self) -> Request {
        let mut request = self.asked();
        self.chain
            .request(&self.connection.first(), &mut request)
            .await
            .expect("the wire is made");
        request
    }

    async fn refresh(&self, request: &mut Request) {
        self.chain
            .request(&self.connection.again(), request)
            .await
            .expect("refreshes");
    }

    /// Until nothing runs in the background.
    async fn idle(&self) {
        while self.connection.again().component().tasks() > 0 {
            tokio::task::yield_now().await;
        }
    }

    fn reaches(&self) -> bool {
        let ip = |text: &str| text.parse().unwrap();
        self.model
            .can_reach(self.client.path(), ip("10.0.0.1"), ip("10.0.0.0"))
            .unwrap()
    }
}

/// The chain of a node as one element.
struct Whole(Chain<NetworkService>);

#[async_trait]
impl Element<NetworkService> for Whole {
    fn name(&self) -> &'static str {
        "whole"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.through(&self.0).request(ctx, request).await
    }

    async fn close(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.through(&self.0).close(ctx, request).await
    }
}

#[tokio::test]
async fn passes_the_standard_cases() {
    let node = Node::new();
    let whole = || {
        let plane = Arc::new(Model::new());
        Whole(crate::chain![
            XConnect::new(&Planes::new(plane)),
            MechanismTranslation,
            SetDownstream(kernel(&node.endpoint, "nse-1"))
        ])
    };
    standard_cases::<NetworkService, _>(whole, node.asked()).await;
}

/// Answers with this mechanism.
struct SetDownstream(nsm_api::connection::Mechanism);

#[async_trait]
impl Element<NetworkService> for SetDownstream {
    fn name(&self) -> &'static str {
        "setdownstream"
    }

    async fn request(&self, ctx: &Ctx, request: &mut Request, next: Next<'_, NetworkService>) -> Result<()> {
        next.request(ctx, request).await?;
        request.connection.mechanism = Some(self.0.clone());
        Ok(())
    }
}

#[tokio::test]
async fn the_wire_is_there_when_the_request_is_answered_and_gone_when_the_close_is() {
    let node = Node::new();
    let mut request = node.connect().await;
    assert!(node.reaches());
    assert_eq!(request.connection.mechanism, node.asked().connection.mechanism);
    node.chain
        .close(&node.connection.again(), &mut request)
        .await
        .unwrap();
    assert!(node.model.objects().is_empty());
    assert_eq!(node.probe.closes().len(), 1);
}

#[tokio::test]
async fn a_refresh_without_changes_changes_nothing_and_one_that_heals_does() {
    let node = Node::new();
    let mut request = node.connect().await;
    node.chain
        .request(&node.connection.again(), &mut request)
        .await
        .unwrap();
    assert_eq!((node.model.changes(), node.model.index("nsc-0")), (1, Some(1)));
    node.model.delete(node.client.path(), "nsm-1").unwrap();
    node.chain
        .request(&node.connection.again(), &mut request)
        .await
        .unwrap();
    assert!(node.reaches());
}

#[tokio::test]
async fn when_the_wire_cannot_be_made_the_endpoint_is_closed_and_nothing_is_left() {
    let node = Node::new();
    node.model
        .set_fault(|_| Some(Error::internal("kernel", "told to fail")));
    let error = node
        .chain
        .request(&node.connection.first(), &mut node.asked())
        .await
        .unwrap_err();
    assert_eq!((error.reason(), error.place()), ("kernel", Some("xconnect")));
    assert_eq!(node.probe.closes().len(), 1);
    assert!(node.model.objects().is_empty());
}

#[tokio::test]
async fn a_failed_refresh_leaves_the_wire_and_closes_nothing() {
    let node = Node::new();
    let mut request = node.connect().await;
    node.model
        .set_fault(|_| Some(Error::internal("kernel", "told to fail")));
    request.connection.context.get_or_insert_default().mtu = 1300;
    node.chain
        .request(&node.connection.again(), &mut request)
        .await
        .unwrap_err();
    assert!(node.reaches() && node.probe.closes().is_empty());
    assert_eq!(node.model.wire("nsc-0").unwrap().mtu, 9000);
}

#[tokio::test]
async fn a_wire_to_an_endpoint_that_is_left_carries_packets_until_the_next_one_does() {
    let node = Node::new();
    let mut request = node.connect().await;
    let (model, downstream) = (node.model.clone(), kernel(&node.endpoint, "nse-2"));
    node.probe.answer(move |request: &mut Request| {
        assert!(
            model
                .wire("nsc-0")
                .is_some_and(|wire| wire.endpoint.name == "nse-1")
        );
        request.connection.mechanism = Some(downstream.clone());
        Ok(())
    });
    request.connection.network_service_endpoint_name = "other".into();
    let again = node.connection.again();
    node.chain.request(&again, &mut request).await.expect("moves");
    assert!(node.reaches());
    assert_eq!(node.model.wire("nsc-0").unwrap().endpoint.name, "nse-2");
}

#[tokio::test]
async fn a_wire_to_an_endpoint_that_is_left_goes_when_the_next_one_says_no() {
    let node = Node::new();
    let mut request = node.connect().await;
    node.probe
        .answer(|_| Err(Error::unavailable("told-so", "told to fail")));
    request.connection.network_service_endpoint_name = "other".into();
    let again = node.connection.again();
    node.chain.request(&again, &mut request).await.unwrap_err();
    assert!(
        node.model.objects().is_empty(),
        "the addresses may be another's from now on"
    );
    assert!(!node.connection.store.has::<Made>());
}

#[tokio::test(start_paused = true)]
async fn a_wire_to_an_endpoint_that_is_left_goes_when_the_next_one_hesitates() {
    let node = Node::new();
    let mut request = node.connect().await;
    let held = node.probe.hold();
    request.connection.network_service_endpoint_name = "other".into();
    let again = node.connection.again();
    let (done, ()) = tokio::join!(node.chain.request(&again, &mut request), async {
        tokio::time::sleep(OVERLAP - Duration::from_millis(1)).await;
        assert!(!node.model.objects().is_empty());
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(node.model.objects().is_empty());
        held.cancel();
    });
    done.expect("moves in the end");
    assert!(node.reaches());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_cut_is_undone_by_the_close() {
    let node = Node::new();
    node.model.set_times(Duration::from_secs(3600), Duration::ZERO);
    let ctx = node.connection.first();
    let mut asked = node.asked();
    let cut = tokio::time::timeout(Duration::from_secs(1), node.chain.request(&ctx, &mut asked)).await;
    assert!(cut.is_err());
    let wanted = node.connection.store.get::<Made>().unwrap().wanted;
    assert!(wanted.is_some(), "the close knows what may be there");
    node.chain.close(&ctx.postponed(), &mut asked).await.unwrap();
    assert!(!node.connection.store.has::<Made>());
}

/// Makes no wires.
struct Failing(Model);

#[async_trait]
impl DataPlane for Failing {
    async fn connect(&self, _: &Wire, _: Option<&Wire>, _: tokio::time::Instant) -> Result<()> {
        Err(Error::internal("kernel", "told to fail"))
    }

    async fn disconnect(&self, wire: &Wire) -> Result<()> {
        self.0.disconnect(wire).await
    }

    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)> {
        self.0.counters(wire).await
    }
}

#[tokio::test]
async fn what_an_earlier_life_left_goes_when_it_cannot_be_made_again() {
    let node = Node::new();
    node.connect().await;
    let chain = crate::chain![
        XConnect::new(&Planes::new(Arc::new(Failing(node.model.clone())))),
        MechanismTranslation,
        Arc::clone(&node.probe)
    ];
    assert!(node.reaches());
    let another_life = Connection::new();
    chain
        .request(&another_life.first(), &mut node.asked())
        .await
        .expect_err("told to fail");
    assert!(!node.reaches(), "the endpoint may give its addresses to others");
}

/// Fails, or hangs, when a wire is to be removed.
struct Stubborn {
    model: Model,
    hangs: bool,
}

#[async_trait]
impl DataPlane for Stubborn {
    async fn connect(
        &self,
        wire: &Wire,
        before: Option<&Wire>,
        deadline: tokio::time::Instant,
    ) -> Result<()> {
        self.model.connect(wire, before, deadline).await
    }

    async fn disconnect(&self, _: &Wire) -> Result<()> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        Err(Error::internal("kernel", "told to fail"))
    }

    async fn counters(&self, wire: &Wire) -> Result<(Counters, Counters)> {
        self.model.counters(wire).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_reaches_the_endpoint_also_when_the_wire_cannot_be_removed() {
    for (hangs, reason) in [(false, "kernel"), (true, "deadline")] {
        let node = Node::new();
        let plane = Stubborn {
            model: node.model.clone(),
            hangs,
        };
        let chain = crate::chain![
            XConnect::new(&Planes::new(Arc::new(plane))),
            MechanismTranslation,
            Arc::clone(&node.probe)
        ];
        let mut request = node.asked();
        chain
            .request(&node.connection.first(), &mut request)
            .await
            .unwrap();
        let error = chain
            .close(&node.connection.again(), &mut request)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), reason);
        assert_eq!(node.probe.closes().len(), 1);
        assert!(node.connection.store.has::<Made>(), "another close tries again");
    }
}

#[tokio::test]
async fn the_path_tells_interfaces_and_counters_from_the_wires_side() {
    let node = Node::new();
    let mut request = node.connect().await;
    let told = |request: &Request| request.path().path_segments[0].metrics.clone();
    let first = told(&request);
    assert_eq!(
        (&*first["server_interface"], &*first["client_interface"]),
        ("KERNEL/nsm-1", "KERNEL/nse-1")
    );
    assert_eq!(first["server_rx_bytes"], "0");
    assert!(node.reaches());
    node.refresh(&mut request).await;
    assert_eq!(told(&request)["server_rx_bytes"], "0", "nothing was read yet");
    node.idle().await;
    node.refresh(&mut request).await;
    let second = told(&request);
    for (key, value) in [
        ("server_rx_packets", "1"),
        ("client_tx_bytes", "84"),
        ("server_drops", "0"),
    ] {
        assert_eq!(second[key], value, "{key}");
    }
}

/// Never says what went through a wire, but counts who asks.
struct Mute(Model, Arc<AtomicUsize>);

#[async_trait]
impl DataPlane for Mute {
    async fn connect(
        &self,
        wire: &Wire,
        before: Option<&Wire>,
        deadline: tokio::time::Instant,
    ) -> Result<()> {
        self.0.connect(wire, before, deadline).await
    }

    async fn disconnect(&self, wire: &Wire) -> Result<()> {
        self.0.disconnect(wire).await
    }

    async fn counters(&self, _: &Wire) -> Result<(Counters, Counters)> {
        self.1.fetch_add(1, Ordering::Relaxed);
        std::future::pending().await
    }
}

#[tokio::test]
async fn no_request_waits_for_counters_and_a_connection_reads_them_once_at_a_time() {
    let (mut node, asked) = (Node::new(), Arc::default());
    let plane = Mute(node.model.clone(), Arc::clone(&asked));
    node.chain = crate::chain![
        XConnect::new(&Planes::new(Arc::new(plane))),
        MechanismTranslation,
        Arc::clone(&node.probe)
    ];
    let mut request = node.connect().await;
    for _ in 0..3 {
        node.refresh(&mut request).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    node.chain
        .close(&node.connection.again(), &mut request)
        .await
        .unwrap();
    node.idle().await;
}
