// SPDX-License-Identifier: Apache-2.0
//! What a line carries, by `iperf3`: TCP, from the near pod to the far one.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::{Pod, Program, Start};
use tokio::process::Command;
use tokio::time::Instant;

/// How long a server may take until it listens.
const TO_LISTEN: Duration = Duration::from_secs(10);

/// What a server says when it does. It lets go of its port after each client.
const LISTENS: &str = "Server listening";

/// A server in a pod, which ends with this.
pub(crate) struct Server {
    program: Program,
    /// How many clients it has had.
    served: usize,
}

impl Server {
    /// Starts it.
    pub(crate) fn start(pod: &Pod, folder: &Path) -> Result<Self> {
        let what = Start {
            name: &format!("iperf3-{}", pod.name()),
            file: Path::new("iperf3"),
            pod: Some(pod),
            folder,
        };
        let program = Program::start(what, &["--server", "--forceflush"], &[])?;
        Ok(Self { program, served: 0 })
    }

    /// Gigabits a second from `pod` to `to`, which is an address of the server's pod.
    pub(crate) async fn gbit(
        &mut self,
        pod: &Pod,
        to: Ipv4Addr,
        streams: usize,
        seconds: usize,
    ) -> Result<f64> {
        let (until, served) = (Instant::now() + TO_LISTEN, self.served);
        let listens = async |server: &Program| {
            let times = server.printed().matches(LISTENS).count();
            (times > served).then_some(())
        };
        self.program.wait_for("it listened", until, listens).await?;
        self.served += 1;
        let places = places()?;
        let places = places.iter().flat_map(|places| ["--affinity", places]);
        let done = Command::from(pod.command("iperf3"))
            .args(["--json", "--client", &to.to_string()])
            .args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()])
            .args(places)
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot start iperf3")?;
        let said: serde_json::Value =
            serde_json::from_slice(&done.stdout).context("iperf3 printed no JSON")?;
        let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
        let bits = bits.with_context(|| format!("iperf3 failed: {}", said["error"]))?;
        Ok(bits / 1e9)
    }
}

/// The CPUs on which the ends run, if there are two: where the scheduler puts them would decide what they carry.
fn places() -> Result<Option<String>> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let mut cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let places = cpus.next().zip(cpus.next());
    Ok(places.map(|(client, server)| format!("{client},{server}")))
}
