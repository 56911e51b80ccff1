// SPDX-License-Identifier: Apache-2.0
//! Peers that break the rules: each is refused, and nobody else notices.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use libtest_mimic::Trial;
use nsm::mesh::{Client, Pod, Program, Start};
use nsm_api::connection::{Path, PathSegment};
use nsm_sdk::core::{Clock, Component, Ctx, Error, PeerIdentity, Request};
use nsm_sdk::elements::updatepath::SegmentId;
use nsm_sdk::identity::{Source, Tokens};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::Bench;
use crate::world::{Caller, PATIENCE, World, index, links, plain_file, refused, same, says, stops};

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    vec![
        bench.test("a_path_index_out_of_range_is_refused", path_index),
        bench.test("a_path_whose_id_is_not_the_connections_is_refused", path_id),
        bench.test("a_path_over_64_segments_is_refused", path_length),
        bench.test("nobody_acts_on_the_connection_of_another", another_identity),
        bench.test("who_guesses_an_id_first_keeps_nobody_out", guessed_id),
        bench.test("tokens_that_prove_nothing_are_refused", bad_tokens),
        bench.test(
            "an_identity_of_another_trust_domain_is_refused",
            another_trust_domain,
        ),
        bench.test("who_does_not_speak_tls_is_dropped", plain_text),
        bench.test("a_file_that_is_no_namespace_is_refused", no_namespace),
        bench.test(
            "a_file_that_is_never_sent_is_waited_for_until_the_deadline",
            no_file,
        ),
        bench.test("a_path_instead_of_a_file_is_refused", path_instead_of_file),
        bench.test("d44_a_deadline_in_the_middle_leaves_nothing", deadlines),
        bench.test(
            "d44_a_caller_that_goes_in_the_middle_leaves_nothing",
            callers_that_go,
        ),
        bench.test(
            "a_namespace_that_dies_in_the_middle_leaves_nothing",
            dying_namespace,
        ),
    ]
}

const URL: &str = "kernel://icmp-responder/nsm-1";

async fn path_index(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("index-0", URL)?;
    request.connection.path.get_or_insert_default().index = 5;
    let done = caller.request(&world.nsmgr(), request.clone()).await;
    refused(
        done,
        "bad-path-index",
        &["nsmgr", "Path.Index+1==6 should be less or equal"],
    )?;
    request.connection.path.get_or_insert_default().index = u32::MAX;
    refused(
        caller.request(&world.nsmgr(), request).await,
        "bad-path-index",
        &["4294967296"],
    )
}

async fn path_id(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("one-0", URL)?;
    request.connection.id = "other-0".into();
    refused(
        caller.request(&world.nsmgr(), request).await,
        "bad-path-id",
        &["one-0", "other-0"],
    )
}

async fn path_length(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("long-0", URL)?;
    let path = request.connection.path.get_or_insert_default();
    path.path_segments.resize_with(65, PathSegment::default);
    refused(
        caller.request(&world.nsmgr(), request).await,
        "path-too-long",
        &["65", "64"],
    )
}

async fn another_identity(world: &mut World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("mine-0", URL).await?;
    let before = index(&world.near, "nsm-1")?;
    let thief = world.caller("nsc-2").await?;
    let stolen = attached.request.clone();
    refused(
        thief.request(&world.nsmgr(), stolen.clone()).await,
        "not-the-owner",
        &["nsmgr", "nsc-2"],
    )?;
    refused(
        thief.close(&world.nsmgr(), stolen.clone()).await,
        "not-the-owner",
        &["nsmgr", "nsc-2"],
    )?;
    let mut behind = stolen;
    let path = behind.connection.path.get_or_insert_default();
    path.index = 1;
    behind.connection.id = path.path_segments[1].id.clone();
    let forwarder = world.node.url("forwarder");
    refused(
        thief.close(&forwarder, behind.clone()).await,
        "not-the-owner",
        &["forwarder", "nsc-2"],
    )?;
    refused(
        thief.request(&forwarder, behind).await,
        "not-the-owner",
        &["forwarder", "nsc-2"],
    )?;
    same("the index", index(&world.near, "nsm-1")?, before)?;
    let attached = client.again(attached.request).await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

/// The ids of a client that knows its pod and node can be guessed. Whoever has one at the manager before it comes is its
/// owner there, and the client gets its wire under another.
async fn guessed_id(world: &mut World) -> Result<()> {
    let guessed = Component::placed("nsc", "/node-1/near").next_id("nsc-0");
    let thief = world.caller("nsc-2").await?;
    let mut request = thief.ask("theirs-0", "kernel://icmp-responder/theirs")?;
    let path = request.connection.path.get_or_insert_default();
    path.path_segments.push(PathSegment {
        name: "nsmgr".into(),
        id: guessed.clone(),
        ..Default::default()
    });
    let (remote, request) = thief
        .with_netns(&world.nsmgr(), request, world.near.path())
        .await?;
    let stolen = remote
        .request(&Ctx::own(&thief.component, PATIENCE), &request)
        .await?;
    let path = stolen.connection.path.clone().unwrap_or_default();
    same("the id that was guessed", &path.path_segments[1].id, &guessed)?;
    let pod = [("NODE_NAME", "node-1"), ("POD_NAME", "near")];
    let mut client = world.nsc(URL, &pod)?;
    says(&mut client, "INFO attached").await?;
    index(&world.near, "nsm-1")?;
    stops(client).await?;
    index(&world.near, "theirs")?;
    remote
        .close(&Ctx::own(&thief.component, PATIENCE), &stolen)
        .await?;
    Ok(())
}

/// A request that claims to come from `nse-3` through us; its first token is `token`.
fn through_us(caller: &Caller, id: &str, token: String) -> Result<Request> {
    let mut request = caller.ask(id, URL)?;
    let first = PathSegment {
        name: "nse-3".into(),
        id: format!("{id}-first"),
        token,
        expires: Some((Clock::System.now() + Duration::from_secs(600)).into()),
        ..Default::default()
    };
    let us = request.connection.path.take().unwrap_or_default().path_segments;
    request.connection.path = Some(Path {
        index: 1,
        path_segments: [vec![first], us].concat(),
    });
    Ok(request)
}

async fn bad_tokens(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let first = world.identity("nse-3").await?.current().svid;
    let to = |name: &str| PeerIdentity {
        spiffe_id: caller.identity.current().svid.spiffe_id.replace("nsc", name),
        certificate: Vec::new(),
        not_after: Clock::System.now() + Duration::from_secs(3600),
    };
    let tokens = Tokens::new(Duration::from_secs(60));
    let now = Clock::System.now();
    let issue = |to: Option<&PeerIdentity>, at| tokens.issue(&first, to, at).map(|token| token.token);
    let good = issue(Some(&to("nsc")), now)?;
    let expired = issue(Some(&to("nsc")), now - Duration::from_secs(3600))?;
    for (number, (what, token)) in [
        ("none", String::new()),
        ("garbage", "garbage".to_string()),
        ("expired", expired),
        ("for nobody", issue(None, now)?),
        ("for another", issue(Some(&to("somebody-else")), now)?),
    ]
    .into_iter()
    .enumerate()
    {
        let request = through_us(&caller, &format!("token-{number}"), token)?;
        let done = caller.request(&world.nsmgr(), request).await;
        refused(done, "policy", &["common/tokens_", "no sufficient privileges"]).context(what)?;
    }
    // What is right about the others is not why they are refused.
    let netns = world.near.path();
    let (remote, request) = caller
        .with_netns(&world.nsmgr(), through_us(&caller, "token-9", good)?, netns)
        .await?;
    let ctx = Ctx::own(&caller.component, PATIENCE);
    let done = remote.request(&ctx, &request).await?;
    remote.close(&ctx, &done).await?;
    Ok(())
}

async fn another_trust_domain(world: &mut World) -> Result<()> {
    let folder = world.node.folder().join("elsewhere");
    let what = Start {
        name: "issuer-2",
        file: &world.node.programs_folder().join("nsm"),
        pod: None,
        folder: world.node.folder(),
    };
    let text = folder.display().to_string();
    let arguments = ["issuer", "--trust-domain", "other.nsm", "--folder", &text, "nsc"];
    let issuer = Program::start(what, &arguments, &[])?;
    let source = Source::WorkloadApi(folder.join("nsc.sock"));
    let identity = source
        .follow(world.node.component(), Instant::now() + PATIENCE)
        .await?;
    let stranger = Client::at(&world.nsmgr(), "nsc", identity, world.near.path())?;
    refused(
        stranger.attach("stranger-0", URL).await,
        "peer-unreachable",
        &["nsm.sock", "trust domain"],
    )?;
    stranger.end().await;
    still_serves(world).await?;
    issuer.stop().await?;
    Ok(())
}

/// Checks that a client of good manners gets its wire.
async fn still_serves(world: &World) -> Result<()> {
    let client = world.client()?;
    let attached = client.attach("after-all", URL).await?;
    client.close(attached.request).await?;
    client.end().await;
    Ok(())
}

async fn plain_text(world: &mut World) -> Result<()> {
    for name in ["nsm", "forwarder", "registry", "nse"] {
        let socket = world.node.folder().join(format!("{name}.sock"));
        let mut stream = tokio::net::UnixStream::connect(&socket).await?;
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        ensure!(closed.is_ok(), "{name} keeps the connection open");
    }
    // And those who say nothing hold nobody up.
    let socket = world.node.folder().join("nsm.sock");
    let _silent =
        futures::future::try_join_all((0..20).map(|_| tokio::net::UnixStream::connect(&socket))).await?;
    still_serves(world).await
}

async fn no_namespace(world: &mut World) -> Result<()> {
    let plain = plain_file(world)?;
    let client = Client::new(&world.node, "nsc", &plain)?;
    refused(
        client.attach("plain-0", URL).await,
        "not-a-netns",
        &["plain", "forwarder", "not a network namespace"],
    )?;
    client.end().await;
    let client = Client::new(&world.node, "nsc", std::path::Path::new("/dev/null"))?;
    refused(client.attach("null-0", URL).await, "not-a-netns", &["/dev/null"])?;
    client.end().await;
    let client = Client::new(&world.node, "nsc", std::path::Path::new("/run/netns/nobody"))?;
    refused(
        client.attach("nobody-0", URL).await,
        "file-gone",
        &["/run/netns/nobody"],
    )?;
    client.end().await;
    Ok(())
}

async fn no_file(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("unsent-0", URL)?;
    for mechanism in &mut request.mechanism_preferences {
        mechanism.set_parameter("inodeURL", "inode://1/2");
    }
    let remote = caller.dial(&world.nsmgr()).await?;
    let began = Instant::now();
    let done = remote
        .request(&Ctx::own(&caller.component, Duration::from_secs(1)), &request)
        .await;
    let error = done.err().context("it got a wire without a namespace")?;
    ensure!(["fd-timeout", "deadline"].contains(&error.reason()), "{error}");
    ensure!(
        began.elapsed() < Duration::from_secs(3),
        "it took {:?}",
        began.elapsed()
    );
    still_serves(world).await
}

async fn path_instead_of_file(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut request = caller.ask("foreign-0", URL)?;
    for mechanism in &mut request.mechanism_preferences {
        mechanism.set_parameter("inodeURL", "file:///proc/1/ns/net");
    }
    let done = caller.request(&world.nsmgr(), request.clone()).await;
    refused(done, "foreign-path", &["file:///proc/1/ns/net", "inode://"])?;
    for mechanism in &mut request.mechanism_preferences {
        mechanism.set_parameter("inodeURL", "inode://one/two");
    }
    refused(
        caller.request(&world.nsmgr(), request).await,
        "bad-netns",
        &["inode://one/two"],
    )
}

async fn dying_namespace(world: &mut World) -> Result<()> {
    for number in 0..10_u64 {
        let pod = Pod::new("short")?;
        let client = Client::new(&world.node, "nsc", pod.path())?;
        let id = format!("dying-{number}");
        let asking = client.attach(&id, URL);
        let dying = async {
            tokio::time::sleep(Duration::from_millis(number)).await;
            drop(pod);
        };
        let (done, ()) = tokio::join!(asking, dying);
        match done {
            Ok(attached) => drop(client.close(attached.request).await?),
            Err(error) => {
                let reason = error
                    .downcast_ref::<Error>()
                    .map(|error| error.reason().to_string());
                let known = ["file-gone", "netns-gone", "interface-gone"];
                ensure!(
                    reason.as_deref().is_some_and(|reason| known.contains(&reason)),
                    "{error:#}"
                );
            }
        }
        client.end().await;
        world
            .clean()
            .await
            .with_context(|| format!("after {number} ms"))?;
    }
    same("the interfaces of the endpoint", links(&world.far)?.len(), 0)?;
    still_serves(world).await
}

/// The circumstances of a call whose answer may not be heard: the id at the next hop is suggested, as a client does.
fn hearing_nothing(caller: &Caller, budget: Duration, request: &Request) -> Ctx {
    let ctx = Ctx::own(&caller.component, budget);
    ctx.call()
        .insert(SegmentId(caller.component.next_id(&request.connection.id)));
    ctx
}

async fn deadlines(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    let mut failures = 0;
    for number in 0..20_u64 {
        let request = caller.ask(&format!("short-{number}"), URL)?;
        let (remote, request) = caller
            .with_netns(&world.nsmgr(), request, world.near.path())
            .await?;
        let ctx = hearing_nothing(&caller, Duration::from_millis(number), &request);
        match remote.request(&ctx, &request).await {
            Ok(done) => {
                remote
                    .close(&Ctx::own(&caller.component, PATIENCE), &done)
                    .await?
            }
            Err(error) => {
                ensure!(error.code() == Error::deadline("").code(), "{error}");
                failures += 1;
                let ctx = hearing_nothing(&caller, PATIENCE, &request);
                remote.close(&ctx, &request).await?;
            }
        }
        world
            .clean_within(PATIENCE)
            .await
            .with_context(|| format!("after {number} ms"))?;
    }
    ensure!(failures > 0, "no deadline passed");
    still_serves(world).await
}

async fn callers_that_go(world: &mut World) -> Result<()> {
    let caller = world.caller("nsc").await?;
    for number in 0..20_u64 {
        let request = caller.ask(&format!("gone-{number}"), URL)?;
        let (remote, request) = caller
            .with_netns(&world.nsmgr(), request, world.near.path())
            .await?;
        let ctx = hearing_nothing(&caller, PATIENCE, &request);
        let asking = remote.request(&ctx, &request);
        let heard = tokio::time::timeout(Duration::from_millis(number), asking).await;
        remote.close(&ctx, &heard.unwrap_or(Ok(request))?).await?;
        world
            .clean_within(PATIENCE)
            .await
            .with_context(|| format!("after {number} ms"))?;
    }
    still_serves(world).await
}
