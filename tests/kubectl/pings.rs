// SPDX-License-Identifier: Apache-2.0
//! A stream of pings that goes on while something happens, and how many of them were lost.

use std::collections::HashMap;

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
        let end = self.cluster.eventually("the pings end", || {
            let end = self.tail()?;
            ensure!(end.contains("packets received"), "{end}");
            Ok(end)
        })?;
        let all = self.cluster.shell(self.namespace, self.pod, "cat /tmp/pings")?;
        count(&all).with_context(|| format!("this is not how pings end: {end}"))
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

/// Reads what busybox's ping told. One that was under way in the end is not lost.
///
/// Its own count of answers is not taken: a signal that sends the next ping while an answer is noted makes it forget that
/// the answer to that one is new, and so it is called a duplicate and is not counted.
fn count(told: &str) -> Option<Count> {
    let answers = told
        .lines()
        .filter_map(|line| line.split_once(" seq=")?.1.split(' ').next()?.parse::<u16>().ok());
    let (mut heard, mut last, mut received) = (HashMap::new(), None, 0);
    for (at, number) in answers.enumerate() {
        let before = heard.insert(number, at);
        // Numbers begin anew after 65,536 pings.
        if before.is_none_or(|before| at - before > usize::from(u16::MAX / 2)) {
            received += 1;
            last = Some(number);
        }
    }
    let transmitted: u64 = told
        .lines()
        .find_map(|line| line.split_once(" packets transmitted")?.0.parse().ok())?;
    let under_way = (transmitted.checked_sub(1)? as u16).wrapping_sub(last?);
    let sent = transmitted.checked_sub(under_way.into())?;
    Some(Count {
        sent,
        lost: sent.saturating_sub(received),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What ping tells of these answers to so many pings.
    fn told(answers: impl IntoIterator<Item = u64>, sent: u64) -> String {
        let mut told = "PING 10.0.0.1 (10.0.0.1): 56 data bytes\n".to_string();
        for number in answers {
            let line = format!(
                "64 bytes from 10.0.0.1: seq={} ttl=64 time=0.1 ms\n",
                number % 65_536
            );
            told.push_str(&line);
        }
        told + &format!(
            "\n--- 10.0.0.1 ping statistics ---\n{sent} packets transmitted, 1 packets received, 3% packet loss\n\
             round-trip min/avg/max = 0.1/0.2/0.3 ms\n"
        )
    }

    #[test]
    fn what_is_under_way_in_the_end_is_not_lost() {
        assert_eq!(count(&told(0..10, 11)), Some(Count { sent: 10, lost: 0 }));
        let three_are_lost = (0..3).chain(6..10);
        assert_eq!(
            count(&told(three_are_lost, 10)),
            Some(Count { sent: 10, lost: 3 })
        );
        assert_eq!(count("PING 10.0.0.1"), None);
    }

    #[test]
    fn what_is_answered_twice_is_answered_once() {
        let one_is_lost = [0, 1, 1, 3];
        assert_eq!(count(&told(one_is_lost, 4)), Some(Count { sent: 4, lost: 1 }));
        // Ping calls it a duplicate, and nothing came before it.
        let wrong = told(0..4, 4).replace("seq=2 ttl=64 time=0.1 ms", "seq=2 ttl=64 time=0.1 ms (DUP!)");
        assert_eq!(count(&wrong), Some(Count { sent: 4, lost: 0 }));
    }

    #[test]
    fn pings_are_counted_beyond_the_last_number() {
        let long = (0..70_000).filter(|number| *number != 68_000);
        assert_eq!(
            count(&told(long, 70_001)),
            Some(Count {
                sent: 70_000,
                lost: 1
            })
        );
    }
}
