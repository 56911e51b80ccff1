// SPDX-License-Identifier: Apache-2.0
//! What happens when descriptors run out. It runs in a process of its own, for the limit is the process's.

use std::process::Command;

use super::*;
use crate::transport::health;

/// Set in the process that has few descriptors.
const HERE: &str = "NSM_TEST_FEW_DESCRIPTORS";

#[tokio::test]
async fn accepting_pauses_when_descriptors_run_out_and_goes_on_afterwards() {
    if std::env::var_os(HERE).is_some() {
        return with_few_descriptors().await;
    }
    let test = "transport::tests::lack::accepting_pauses_when_descriptors_run_out_and_goes_on_afterwards";
    let child = Command::new("sh")
        .args(["-c", r#"ulimit -n 64 && exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(HERE, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}\n{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

async fn with_few_descriptors() {
    let machine = Machine::new();
    let (server, client) = (machine.program("server"), machine.program("client"));
    let url = server.serve(&machine.url("s"), naming("server")).await;
    let remote = dial(&client.pool(), &url).await;
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    taken.pop();
    let late = tokio::net::UnixStream::connect(machine.directory.path().join("s.sock"))
        .await
        .unwrap();
    assert_eq!(
        call(&remote, &client).await.id(),
        "server",
        "open connections go on"
    );
    drop((late, taken));
    health::check(&client.component, &client.identity, &url, "", soon())
        .await
        .unwrap();
}
