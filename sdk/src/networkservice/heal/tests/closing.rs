// SPDX-License-Identifier: Apache-2.0
//! Closes while the control plane is broken.

use super::*;

async fn closes_at_once(mesh: &Mesh, message: Request) {
    let began = Instant::now();
    mesh.close(message).await;
    assert!(
        began.elapsed() < Duration::from_millis(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn who_was_started_anew_learns_of_a_connection_that_is_to_be_closed() {
    let mesh = mesh(true);
    let message = mesh.connect().await;
    mesh.probe.answer(refuse);
    mesh.restart_hop().await;
    mesh.probe.arrived(2).await;
    mesh.probe.answer(answer);
    closes_at_once(&mesh, message).await;
    assert_eq!(mesh.seen(), "!++-", "refused, made known, closed");
}

#[tokio::test(start_paused = true)]
async fn a_close_waits_for_who_is_started_anew() {
    let mesh = mesh(true);
    let message = mesh.connect().await;
    let hop = mesh.hop.lock().clone();
    hop.end().await;
    tokio::join!(mesh.close(message), async {
        // Waits between tries grow: of the later ones none may be left.
        tokio::time::sleep(TO_PART / 10).await;
        mesh.restart_hop().await;
    });
    assert_eq!(mesh.seen(), "!+-");
}

#[tokio::test(start_paused = true)]
async fn a_close_does_not_wait_for_what_no_waiting_mends() {
    let mesh = mesh(true);
    let message = mesh.connect().await;
    mesh.probe
        .answer(|_| Err(told(Error::unavailable(LOST, "there is another"))));
    mesh.restart_hop().await;
    mesh.probe.arrived(2).await;
    closes_at_once(&mesh, message).await;
}
