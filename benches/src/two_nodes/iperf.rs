// SPDX-License-Identifier: Apache-2.0
//! What a line carries, by `iperf3`: TCP, from the near pod to the far one.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nsm::mesh::{Pod, Program, Start};
use tokio::process::Command;
use tokio::time::Instant;

/// How long a server may take to start.
const TO_START: Duration = Duration::from_secs(10);

/// Starts a server in `pod`, which serves until it is dropped.
pub(crate) async fn serve(pod: &Pod, folder: &Path) -> Result<Program> {
    let name = format!("iperf3-{}", pod.name());
    let what = Start {
        name: &name,
        file: Path::new("iperf3"),
        pod: Some(pod),
        folder,
    };
    let mut server = Program::start(what, &["--server", "--forceflush"], &[])?;
    let listens = async |server: &Program| server.printed().contains("listening").then_some(());
    server
        .wait_for("it listened", Instant::now() + TO_START, listens)
        .await?;
    Ok(server)
}

/// Gigabits a second from `pod` to the server that has the address `to`.
pub(crate) async fn gbit(pod: &Pod, to: Ipv4Addr, streams: usize, seconds: usize) -> Result<f64> {
    let done = Command::from(pod.command("iperf3"))
        .args(["--json", "--client", &to.to_string()])
        .args(["--parallel", &streams.to_string(), "--time", &seconds.to_string()])
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot start iperf3")?;
    let said: serde_json::Value = serde_json::from_slice(&done.stdout).context("iperf3 printed no JSON")?;
    let bits = said["end"]["sum_received"]["bits_per_second"].as_f64();
    let bits = bits.with_context(|| format!("iperf3 failed: {}", said["error"]))?;
    Ok(bits / 1e9)
}
