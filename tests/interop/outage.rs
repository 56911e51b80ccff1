// SPDX-License-Identifier: Apache-2.0
//! For how long no ping is answered.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::{Pinger, Pod};
use serde_json::Value;
use tokio::time::Instant;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(20);

/// The pause after a ping that was answered.
const PAUSE: Duration = Duration::from_millis(10);

/// Pings over the wire of a client until it is ended, wherever the wire leads just then.
pub(crate) struct Outage {
    shared: Arc<Shared>,
    thread: JoinHandle<Duration>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    answered: AtomicUsize,
}

impl Outage {
    /// Begins with the wire of the client in `near`, which carries pings.
    pub(crate) fn watch(near: &Pod) -> Result<Self> {
        let pinger = Pinger::new(near.path())?;
        let to = far_end(near.ip(&["-4", "route", "show", "dev", "nsm-1"])?);
        let mut to = to.context("the wire leads nowhere")?;
        let shared = Arc::new(Shared::default());
        let (all, pod) = (Arc::clone(&shared), near.name().to_string());
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            let mut number = 0_u16;
            while !all.ends.load(Ordering::Acquire) {
                number = number.wrapping_add(1);
                if pinger.once(to, number, Instant::now() + ANSWER).is_ok() {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                    all.answered.fetch_add(1, Ordering::Release);
                    std::thread::park_timeout(PAUSE);
                } else {
                    to = leads(&pod).unwrap_or(to);
                }
            }
            longest
        });
        Ok(Self { shared, thread })
    }

    /// How many pings were answered until now.
    pub(crate) fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Acquire)
    }

    /// The longest time between two answers.
    pub(crate) fn end(self) -> Result<Duration> {
        self.shared.ends.store(true, Ordering::Release);
        let ended = self.thread.join();
        ended.map_err(|_| anyhow::anyhow!("the thread that pings has panicked"))
    }
}

/// Where the wire in this namespace leads now, if there is one.
fn leads(pod: &str) -> Option<Ipv4Addr> {
    let line = ["-n", pod, "-j", "-4", "route", "show", "dev", "nsm-1"];
    let shown = std::process::Command::new("ip").args(line).output().ok()?;
    far_end(serde_json::from_slice(&shown.stdout).ok()?)
}

/// The address of the other end among the routes of a wire: that which leads to one host.
fn far_end(routes: Value) -> Option<Ipv4Addr> {
    let routes = routes.as_array()?;
    let host = |route: &Value| route["dst"].as_str()?.trim_end_matches("/32").parse().ok();
    routes.iter().find_map(host)
}
