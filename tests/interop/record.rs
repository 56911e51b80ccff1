// SPDX-License-Identifier: Apache-2.0
//! What programs of theirs say to each other, written down by somebody between them.
//!
//! Two nodes of theirs, of which every program is called through a [proxy](proxy), have a wire that comes, is
//! refreshed and goes. `NSM_BLESS=1` writes what was said to `tests/vectors/wire.json`, on which
//! [`tests/wire`](../wire/main.rs) tries ours; otherwise the same kinds of calls must have been made.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use libtest_mimic::Trial;
use nsm::mesh::Host;
use nsm_sdk::core::Component;
use nsm_tests::recording::{Call, Recording};

mod proxy;
mod stream;
mod tls;

use crate::Bench;
use crate::apart::Apart;
use crate::caller::Caller;
use crate::matrix::comes_and_goes;
use crate::mesh::is_as;
use crate::mix::Hop;
use crate::peer;
use proxy::{Proxy, Seen};

/// How many calls of one kind are kept, and how many messages of a stream.
const KEPT: usize = 2;
const MESSAGES: usize = 6;

/// Where the proxy is found in the place of the second manager.
const PORT: u16 = 5003;

/// What differs from run to run, or says nothing.
const OMITTED: [&str; 6] = [
    "te",
    "content-type",
    "user-agent",
    "grpc-accept-encoding",
    "date",
    "grpc-timeout",
];

pub(crate) fn tests(bench: &Bench) -> Vec<Trial> {
    let name = "their_programs_say_what_was_recorded";
    vec![bench.trial(name, async |bench| {
        bench.end().await.context("the mesh before could not be ended")?;
        let component = Component::new("tap");
        let done = record(&component).await;
        component.end().await;
        let now = done?;
        if std::env::var_os("NSM_BLESS").is_some() {
            return now.write();
        }
        let (kinds, known) = (kinds(&now), kinds(&Recording::read()?));
        ensure!(
            kinds == known,
            "they said {kinds:#?}\nand the recording has {known:#?}\nNSM_BLESS=1 records it anew"
        );
        now.check()
    })]
}

/// Who has asked whom for what.
fn kinds(recording: &Recording) -> Vec<String> {
    let kind = |call: &Call| format!("{} {} {}", call.from, call.to, call.method);
    let mut kinds: Vec<_> = recording.calls.iter().map(kind).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

async fn record(component: &Component) -> Result<Recording> {
    let mut proxy = None;
    let apart = Apart::with("ETHERNET", None, |files, number, host| {
        let folder = files.parent().context("the programs are in a folder")?;
        let proxy = proxy.get_or_insert_with(|| Proxy::new(component, folder));
        match number {
            1 => stand_before(proxy, files, folder),
            _ => proxy.before_tcp(listen(host)?, "nsm-2", "nsmgr-2"),
        }
    })
    .await?;
    let proxy = proxy.context("no node was started")?;
    let done = async {
        let caller = Caller::new(&apart.first, &apart.near, true)?;
        let path = ["nsc", "nsmgr", "forwarder", "nsmgr-2", "forwarder-2", "nse"];
        comes_and_goes(&apart.first, caller, [&apart.near, &apart.far], &path).await?;
        is_as(&apart.before).await
    };
    if let Err(error) = done.await {
        return Err(error.context(apart.keep()));
    }
    apart.end().await?;
    Ok(recording(component, &proxy))
}

/// Lets every program be found through the proxy.
fn stand_before(proxy: &Proxy, files: &Path, folder: &Path) -> Result<()> {
    for (socket, name) in [
        ("registry", "registry"),
        ("nsm", "nsmgr"),
        ("nsm-2", "nsmgr-2"),
        ("forwarder", "forwarder"),
        ("forwarder-2", "forwarder-2"),
        ("nse", "nse"),
    ] {
        proxy.before(socket, name)?;
    }
    for hop in Hop::ALL {
        let file = files.join(hop.program());
        fs::remove_file(&file)?;
        fs::write(&file, script(hop, folder)?)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The program of theirs, told to call others, and to be called, through the proxy.
fn script(hop: Hop, folder: &Path) -> Result<String> {
    let (peer, role, folder) = (peer::file()?, hop.program(), folder.display());
    let manager = "NSM_CONNECT_TO=\"${NSM_CONNECT_TO%.sock}.tap\"";
    let public = "NSM_PUBLIC_URL=\"${NSM_LISTEN_ON%.sock}.tap\"";
    let through = match hop {
        Hop::Registry => String::new(),
        Hop::Client => format!("export {manager}"),
        Hop::Forwarder | Hop::Endpoint => format!("export {manager} {public}"),
        Hop::Nsmgr => format!(
            "export NSM_REGISTRY_URL=unix://{folder}/registry.tap\n\
             [ $NSM_NAME = nsmgr ] || export NSM_PUBLIC_URL=tcp://10.77.0.2:{PORT}"
        ),
    };
    Ok(format!("#!/bin/sh\n{through}\nexec {} {role}\n", peer.display()))
}

/// Listens where programs of other nodes find the second manager.
fn listen(host: &Host) -> Result<TcpListener> {
    let (space, ip): (fs::File, IpAddr) = (fs::File::open(host.pod().path())?, host.ip());
    // A thread of its own is in another namespace, and ends there.
    let inside = std::thread::spawn(move || -> Result<TcpListener> {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), Some(kind))?;
        Ok(TcpListener::bind(SocketAddr::new(ip, PORT))?)
    });
    inside.join().ok().context("the thread has panicked")?
}

/// Of what was seen what is worth keeping.
fn recording(component: &Component, proxy: &Proxy) -> Recording {
    let mut counts = BTreeMap::<_, usize>::new();
    let mut calls = Vec::new();
    for seen in proxy.calls() {
        let seen = seen.lock();
        let count = counts
            .entry((seen.from.clone(), seen.to.clone(), seen.method.clone()))
            .or_default();
        *count += 1;
        if *count <= KEPT {
            calls.push(call(&seen));
        }
    }
    let parties = proxy.known().into_iter().map(|(name, svid)| {
        let leaf = svid.certificates.first().map(|leaf| leaf.to_vec());
        (name, BASE64_STANDARD.encode(leaf.unwrap_or_default()))
    });
    Recording {
        at: nsm_tests::recording::seconds(component.now()),
        parties: parties.collect(),
        calls,
    }
}

fn call(seen: &Seen) -> Call {
    let status = |name: &str| {
        let value = seen.trailers.get(name).or(seen.answer_headers.get(name));
        value.and_then(|value| value.to_str().ok()).map(String::from)
    };
    Call {
        from: seen.from.clone(),
        to: seen.to.clone(),
        method: seen.method.clone(),
        headers: headers(&seen.headers),
        asked: messages(&seen.asked),
        answer_headers: headers(&seen.answer_headers),
        answered: messages(&seen.answered),
        status: status("grpc-status").and_then(|status| status.parse().ok()),
        error: status("grpc-message").unwrap_or_default(),
    }
}

fn headers(all: &HeaderMap) -> BTreeMap<String, String> {
    let told = all.iter().filter(|(name, _)| !OMITTED.contains(&name.as_str()));
    told.filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_string())))
        .filter(|(name, _)| !name.starts_with("grpc-"))
        .collect()
}

/// The messages of a body: each has five bytes before it, of which four are its length (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
fn messages(mut body: &[u8]) -> Vec<String> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = body.split_first_chunk::<5>() {
        let [_, length @ ..] = *prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        messages.push(BASE64_STANDARD.encode(message));
        body = rest;
    }
    messages.truncate(MESSAGES);
    messages
}
