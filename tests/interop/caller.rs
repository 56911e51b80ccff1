// SPDX-License-Identifier: Apache-2.0
//! A client that does what it is told: ours in this process, theirs by signals.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use nsm::mesh::{Client, Node, Pod, Program};
use nsm_api::connection::Connection;
use nsm_sdk::core::Request;
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::mesh::{PATIENCE, SERVICE, client, wait_for};

/// The id of its connection.
pub(crate) const ID: &str = "nsc-0";

/// A client of a mesh.
pub(crate) enum Caller {
    Ours(Client, Box<Option<Request>>),
    Go(Program),
}

/// What a client was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    /// Its addresses.
    pub(crate) near: Vec<IpAddr>,
    /// Those of the endpoint.
    pub(crate) far: Vec<IpAddr>,
    /// The names of the programs on the way.
    pub(crate) path: Vec<String>,
}

impl Caller {
    /// A client in `pod` that has not asked yet; theirs begins as soon as it runs.
    pub(crate) fn new(node: &Node, pod: &Pod, is_go: bool) -> Result<Self> {
        if is_go {
            return Ok(Self::Go(client(node, pod, &[])?));
        }
        Ok(Self::Ours(Client::new(node, "nsc", pod.path())?, Box::default()))
    }

    /// Asks for the wire, or once more for what there is.
    pub(crate) async fn asks(&mut self) -> Result<Granted> {
        match self {
            Self::Ours(client, last) => {
                let request = match last.take() {
                    Some(request) => request,
                    None => client.ask(ID, SERVICE)?,
                };
                let granted = client.again(request).await?.request;
                let answer = Granted::of(&granted.connection);
                **last = Some(granted);
                answer
            }
            Self::Go(program) => {
                let before = told(program, "connected").len();
                if before > 0 {
                    program.signal(Signal::USR1);
                }
                let until = Instant::now() + PATIENCE;
                let granted = program.wait_for("it was connected", until, async |program| {
                    told(program, "connected").into_iter().nth(before)
                });
                Granted::told(&granted.await?)
            }
        }
    }

    /// Closes the wire and ends; answers what theirs was told meanwhile, as the kinds of events.
    pub(crate) async fn ends(self) -> Result<Option<Vec<String>>> {
        match self {
            Self::Ours(client, last) => {
                client.close(last.context("it has asked for nothing")?).await?;
                client.end().await;
                Ok(None)
            }
            Self::Go(mut program) => {
                program.terminate();
                let ended = wait_for(PATIENCE, "the client has ended", async || program.ended());
                let status = ended.await?;
                ensure!(
                    status.success(),
                    "the client ended with {status}: {}",
                    program.printed()
                );
                let events = lines(&program).filter_map(|line| line["event"].as_str().map(String::from));
                Ok(Some(events.collect()))
            }
        }
    }
}

/// The lines that the program has told, in order.
fn lines(program: &Program) -> impl Iterator<Item = Value> {
    let printed = program.printed();
    let lines: Vec<_> = printed
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    lines.into_iter()
}

/// Those of one kind.
pub(crate) fn told(program: &Program, event: &str) -> Vec<Value> {
    lines(program).filter(|line| line["event"] == event).collect()
}

impl Granted {
    pub(crate) fn of(connection: &Connection) -> Result<Self> {
        let ip = connection.ip_context().context("it has no addresses")?;
        let path = connection.path.as_ref().context("it has no path")?;
        Ok(Self {
            near: ip.src_nets().iter().map(|net| net.addr()).collect(),
            far: ip.dst_nets().iter().map(|net| net.addr()).collect(),
            path: path
                .path_segments
                .iter()
                .map(|segment| segment.name.clone())
                .collect(),
        })
    }

    fn told(line: &Value) -> Result<Self> {
        let connection = &line["connections"][0];
        let texts = |key: &str| -> Vec<String> {
            let all = connection[key].as_array().into_iter().flatten();
            all.filter_map(|text| text.as_str().map(String::from)).collect()
        };
        let addresses = |key: &str| -> Result<Vec<IpAddr>> {
            let addresses = texts(key);
            let addresses = addresses.iter().map(|net| net.split('/').next().unwrap_or(net));
            Ok(addresses.map(str::parse).collect::<Result<_, _>>()?)
        };
        let granted = Self {
            near: addresses("near")?,
            far: addresses("far")?,
            path: texts("path"),
        };
        ensure!(!granted.path.is_empty(), "what it told is no connection: {line}");
        Ok(granted)
    }
}
