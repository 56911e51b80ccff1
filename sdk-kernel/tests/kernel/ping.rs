// SPDX-License-Identifier: Apache-2.0
//! Pings that tell whether wires live, in the namespace of the tests.

use std::process::Command;
use std::time::Duration;

use nsm_api::connection::{Connection, Mechanism};
use nsm_api::mechanism::key;
use nsm_sdk::networkservice::heal::{Liveness, Pulse};
use nsm_sdk_kernel::Ping;

crate::tests![
    ping_who_answers_lives_in_both_families,
    ping_one_answer_is_enough,
    ping_silence_is_told_in_time,
    ping_without_our_address_the_wire_is_gone,
    ping_an_interface_that_is_down_is_gone_whatever_else_leads_there,
    ping_only_the_interface_of_the_wire_counts,
    ping_what_is_no_interface_is_unknown,
];

const LOOPBACK: (&str, &str) = ("127.0.0.1/32", "127.0.0.2/32");
const LOOPBACK_6: (&str, &str) = ("::1/128", "::1/128");

fn run(line: &str) {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().expect("a program"));
    let output = command.args(words).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() || text.contains("File exists"),
        "{line}: {text}"
    );
}

/// A namespace whose loopback is up, and in which everybody may ping.
fn prepare() {
    run("ip link set lo up");
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").expect("our own namespace");
}

fn look(kind: &str, pairs: &[(&str, &str)]) -> Pulse {
    look_through("", kind, pairs)
}

fn look_through(interface: &str, kind: &str, pairs: &[(&str, &str)]) -> Pulse {
    let mut mechanism = Mechanism::new("LOCAL", kind);
    if !interface.is_empty() {
        mechanism.set_parameter(key::INTERFACE_NAME, interface);
    }
    let mut connection = Connection {
        mechanism: Some(mechanism),
        ..Default::default()
    };
    let ip = connection.ip_context_mut();
    for (ours, theirs) in pairs {
        ip.src_ip_addrs.push(ours.to_string());
        ip.dst_ip_addrs.push(theirs.to_string());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let pulse = async { Ping.pulse(&connection, Duration::from_millis(200)).await };
    runtime.expect("a runtime").block_on(pulse)
}

fn ping_who_answers_lives_in_both_families() {
    prepare();
    assert_eq!(look("KERNEL", &[LOOPBACK]), Pulse::Alive);
    assert_eq!(look("KERNEL", &[LOOPBACK_6]), Pulse::Alive);
}

fn ping_one_answer_is_enough() {
    prepare();
    let absent = ("203.0.113.1/32", "203.0.113.2/32");
    assert_eq!(look("KERNEL", &[absent, LOOPBACK]), Pulse::Alive);
    assert_eq!(look("KERNEL", &[LOOPBACK_6, absent]), Pulse::Alive);
}

fn ping_silence_is_told_in_time() {
    prepare();
    run("ip link add ping-silent type veth peer name ping-nobody");
    run("ip link set ping-nobody up");
    run("ip link set ping-silent up");
    run("ip addr add 192.0.2.1/24 dev ping-silent");
    let began = tokio::time::Instant::now();
    assert_eq!(look("KERNEL", &[("192.0.2.1/24", "192.0.2.2/24")]), Pulse::Silent);
    assert!(
        began.elapsed() >= Duration::from_millis(190),
        "{:?}",
        began.elapsed()
    );
    run("ip link del ping-silent");
}

fn ping_without_our_address_the_wire_is_gone() {
    prepare();
    assert_eq!(
        look("KERNEL", &[("203.0.113.1/32", "203.0.113.2/32")]),
        Pulse::Gone
    );
    assert_eq!(
        look("KERNEL", &[("2001:db8::1/128", "2001:db8::2/128")]),
        Pulse::Gone
    );
}

fn ping_an_interface_that_is_down_is_gone_whatever_else_leads_there() {
    prepare();
    run("ip link add ping-down type veth peer name ping-there");
    run("ip link add ping-other type veth peer name ping-network");
    for name in ["ping-there", "ping-down", "ping-other", "ping-network"] {
        run(&format!("ip link set {name} up"));
    }
    // As in a pod: another interface leads everywhere.
    run("ip addr add 198.51.100.1/24 dev ping-other");
    run("ip route add default via 198.51.100.2");
    run("ip addr add 192.0.2.5/32 dev ping-down");
    run("ip route add 192.0.2.6/32 dev ping-down");
    let pair = [("192.0.2.5/32", "192.0.2.6/32")];
    assert_eq!(look_through("ping-down", "KERNEL", &pair), Pulse::Silent);
    run("ip link set ping-down down");
    assert_eq!(look_through("ping-down", "KERNEL", &pair), Pulse::Gone);
    assert_eq!(look_through("ping-absent", "KERNEL", &pair), Pulse::Gone);
    run("ip link del ping-down");
    run("ip link del ping-other");
}

fn ping_only_the_interface_of_the_wire_counts() {
    prepare();
    run("ip link add ping-alone type veth peer name ping-end");
    run("ip link set ping-end up");
    run("ip link set ping-alone up");
    run("ip addr add 198.51.100.21/32 dev lo");
    run("ip addr add 198.51.100.22/32 dev lo");
    let pair = [("198.51.100.21/32", "198.51.100.22/32")];
    assert_eq!(look("KERNEL", &pair), Pulse::Alive);
    assert_eq!(look_through("ping-alone", "KERNEL", &pair), Pulse::Silent);
    run("ip addr flush dev lo scope global");
    run("ip link del ping-alone");
}

fn ping_what_is_no_interface_is_unknown() {
    prepare();
    assert_eq!(look("MEMIF", &[LOOPBACK]), Pulse::Unknown);
    assert_eq!(look("KERNEL", &[]), Pulse::Unknown);
    assert_eq!(look("KERNEL", &[("127.0.0.1/32", "::1/128")]), Pulse::Unknown);
}
