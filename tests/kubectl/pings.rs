// SPDX-License-Identifier: Apache-2.0
//! A stream of pings that goes on while something happens, and how many of them were lost.

use super::{Cluster, peer};
use anyhow::{Context, Result, ensure};

/// Pings from a container named `app`, a thousand a second.
#[derive(Debug)]
pub struct Pings<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    pod: &'a str,
}

/// What became of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How many were sent until the last one that was answered.
    pub sent: u64,
    /// How many of these were not answered.
    pub lost: u64,
}

impl<'a> Pings<'a> {
    /// Starts them, to the other end of the wire `nsm-1`, and waits for the first answer.
    pub fn start(cluster: &'a Cluster, namespace: &'a str, pod: &'a str) -> Result<Self> {
        let ping = format!(
            "ping -i 0.001 $({}) </dev/null >/tmp/pings 2>&1 & echo $! >/tmp/ping",
            peer("nsm-1")
        );
        cluster.shell(namespace, pod, &ping)?;
        let pings = Self {
            cluster,
            namespace,
            pod,
        };
        cluster.until("the first ping is answered", || {
            Ok(pings.tail()?.contains("seq="))
        })?;
        Ok(pings)
    }

    /// Ends them.
    pub fn stop(self) -> Result<Count> {
        self.end()?;
        let told = self.cluster.eventually("the pings end", || {
            let told = self.tail()?;
            ensure!(told.contains("packets received"), "{told}");
            Ok(told)
        })?;
        count(&told).with_context(|| format!("this is not how pings end: {told}"))
    }

    fn end(&self) -> Result<()> {
        let kill = "kill -INT $(cat /tmp/ping)";
        self.cluster.shell(self.namespace, self.pod, kill).map(drop)
    }

    fn tail(&self) -> Result<String> {
        self.cluster
            .shell(self.namespace, self.pod, "tail -n 6 /tmp/pings")
    }
}

/// A test that fails leaves no load to those after it.
impl Drop for Pings<'_> {
    fn drop(&mut self) {
        // Mostly they have ended, or the pod has.
        let _ended = self.end();
    }
}

/// Reads the last lines of busybox's ping. One that was under way in the end is not lost.
fn count(told: &str) -> Option<Count> {
    let last = told
        .lines()
        .filter_map(|line| line.split_once(" seq="))
        .next_back()?;
    let last: u64 = last.1.split(' ').next()?.parse().ok()?;
    let received = told
        .lines()
        .find_map(|line| line.strip_suffix("% packet loss").map(|_| line))?;
    let received = received
        .split(", ")
        .find_map(|part| part.strip_suffix(" packets received"))?;
    let sent = last + 1;
    Some(Count {
        sent,
        lost: sent.saturating_sub(received.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_in_the_end_is_not_lost() {
        let told = |last: u64, sent: u64, received: u64| {
            format!(
                "64 bytes from 10.0.0.1: seq={last} ttl=64 time=0.1 ms\n\n--- 10.0.0.1 ping statistics ---\n\
                 {sent} packets transmitted, {received} packets received, 3% packet loss\n\
                 round-trip min/avg/max = 0.1/0.2/0.3 ms\n"
            )
        };
        assert_eq!(count(&told(9, 11, 10)), Some(Count { sent: 10, lost: 0 }));
        assert_eq!(count(&told(9, 10, 7)), Some(Count { sent: 10, lost: 3 }));
        assert_eq!(count("PING 10.0.0.1"), None);
    }
}
