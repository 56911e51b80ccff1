// SPDX-License-Identifier: Apache-2.0
//! How long a wire carries nothing: pings one by one, each by a program of its own, for a stream of them ends with its
//! interface.

use std::time::Duration;

use anyhow::{Context, Result};
use nsm_tests::kubectl::{Cluster, peer};

/// Pings from a container named `app`, and when each was answered.
pub(crate) struct Standstill<'a> {
    cluster: &'a Cluster,
    namespace: &'a str,
    pod: &'a str,
}

impl<'a> Standstill<'a> {
    /// Starts them, to the other end of the wire `nsm-1`, and waits for the first answer.
    pub(crate) fn start(cluster: &'a Cluster, namespace: &'a str, pod: &'a str) -> Result<Self> {
        let answered = "ping -c1 -W1 $peer >/dev/null 2>&1 && read time others </proc/uptime && echo $time";
        let line = format!(
            "peer=$({}); while :; do {answered}; sleep 0.01; done </dev/null >/tmp/answers 2>&1 & echo $! >/tmp/asker",
            peer("nsm-1")
        );
        cluster.shell(namespace, pod, &line)?;
        let this = Self {
            cluster,
            namespace,
            pod,
        };
        this.answers_again()?;
        Ok(this)
    }

    /// Waits for another answer, and ends them. Returns how long there was none, at the longest.
    pub(crate) fn stop(self) -> Result<Duration> {
        self.answers_again()?;
        self.end()?;
        let answers = self.answers()?;
        let longest = answers
            .windows(2)
            .map(|two| two[1] - two[0])
            .max_by(f64::total_cmp);
        let seconds = longest.context("there were not two answers")?;
        Ok(Duration::try_from_secs_f64(seconds)?)
    }

    fn answers_again(&self) -> Result<()> {
        let before = self.answers()?.len();
        let again = || Ok(self.answers()?.len() > before);
        self.cluster.until("a ping is answered again", again).map(drop)
    }

    /// When pings were answered, by the seconds for which the machine has been up.
    fn answers(&self) -> Result<Vec<f64>> {
        let all = self.cluster.shell(self.namespace, self.pod, "cat /tmp/answers")?;
        let times = all.lines().map(str::parse::<f64>);
        times.collect::<Result<_, _>>().with_context(|| all.clone())
    }

    fn end(&self) -> Result<()> {
        let kill = "kill $(cat /tmp/asker)";
        self.cluster.shell(self.namespace, self.pod, kill).map(drop)
    }
}

/// A test that fails leaves no load to those after it.
impl Drop for Standstill<'_> {
    fn drop(&mut self) {
        // Mostly they have ended, or the pod has.
        let _ended = self.end();
    }
}
