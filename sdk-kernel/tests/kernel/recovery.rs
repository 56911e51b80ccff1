// SPDX-License-Identifier: Apache-2.0
//! From one life of the data plane to the next: cases 38–40 of the conformance list, as far as one node shows them.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use nsm_sdk::dataplane::Policy;
use nsm_sdk_kernel::Kernel;

use crate::tests;
use crate::world::{Pod, World, net, via};

tests![
    case_38_a_wire_is_adopted_as_it_is,
    case_38_a_wire_is_adopted_with_what_has_changed,
    case_39_what_nobody_asks_for_again_is_removed,
    case_40_a_pod_that_is_gone_leaves_nothing,
    a_close_after_a_restart_removes_the_wire,
    an_incompatible_wire_is_replaced,
    half_a_wire_goes_at_once,
    a_wire_that_was_to_be_removed_goes_at_once,
    rules_whose_interface_is_gone_go_too,
    a_wire_in_a_namespace_without_process_is_adopted_by_its_name,
    a_journal_that_was_cut_still_helps,
    one_journal_has_one_user,
    other_groups_are_left_alone,
];

/// What may have been left.
const KINDS: [&str; 3] = ["half-made", "half-removed", "unwanted"];

fn index(pod: &Pod, name: &str) -> u64 {
    pod.link(name).expect("there")["ifindex"]
        .as_u64()
        .expect("a number")
}

/// How much of this kind was removed that an earlier life had left.
fn removed(world: &World, kind: &str) -> u64 {
    let text = world.component.meters().text();
    let start = format!("nsm_leftovers_removed_total{{kind=\"{kind}\"}} ");
    let mut told = text.lines().filter_map(|line| line.strip_prefix(&start));
    told.next()
        .and_then(|told| told.parse().ok())
        .expect("it is told, also of none")
}

fn case_38_a_wire_is_adopted_as_it_is() {
    let mut world = World::new();
    let wire = world.dual("c38", "nsm-1");
    world.up(&wire);
    let journal = world.config.journal.clone();
    for journal in [journal, None] {
        world.config.journal = journal;
        let before = (
            index(&world.client, "nsm-1"),
            index(&world.endpoint, "nsm-1"),
            world.client.run("ip neigh"),
        );
        world.crash();
        assert!(
            world.client.ping("172.16.1.100"),
            "packets stop with the forwarder"
        );
        world.start();
        assert!(
            world.client.ping("172.16.1.100"),
            "packets stop with the next forwarder"
        );
        world.refresh(&wire, &wire);
        let after = (
            index(&world.client, "nsm-1"),
            index(&world.endpoint, "nsm-1"),
            world.client.run("ip neigh"),
        );
        assert_eq!(before, after);
        assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
    }
    world.down(&wire);
    world.wait_clean();
    for kind in KINDS {
        assert_eq!(removed(&world, kind), 0, "{kind}");
    }
}

fn case_38_a_wire_is_adopted_with_what_has_changed() {
    let mut world = World::new();
    let mut before = world.dual("c38b", "nsm-1");
    before.client.routes.push(via("10.0.0.0/8", "172.16.1.100"));
    before.client.policies = vec![Policy {
        from: Some(net("10.1.0.0/16")),
        ..Policy::default()
    }];
    world.up(&before);
    let old = index(&world.client, "nsm-1");
    world.crash();
    world.start();
    let mut wire = world.dual("c38b", "nsm-1");
    wire.mtu = 1400;
    wire.client.addresses[0] = net("172.16.1.109/32");
    wire.client.policies = vec![Policy {
        from: Some(net("10.2.0.0/16")),
        ..Policy::default()
    }];
    world.up(&wire);
    assert_eq!(index(&world.client, "nsm-1"), old);
    assert_eq!(
        world.client.addresses("nsm-1"),
        ["172.16.1.109/32", "2001:db8::2/128"]
    );
    assert_eq!(world.client.routes("route show dev nsm-1"), ["172.16.1.100"]);
    let rules = world.client.run("ip rule");
    assert!(
        rules.contains("from 10.2.0.0/16") && !rules.contains("from 10.1.0.0/16"),
        "{rules}"
    );
}

fn case_39_what_nobody_asks_for_again_is_removed() {
    let mut world = World::new();
    let (mut kept, mut forgotten) = (world.wire("c39a", "nsm-1"), world.wire("c39b", "nsm-2"));
    for wire in [&mut kept, &mut forgotten] {
        wire.client.policies = vec![Policy {
            from: Some(net("10.1.0.0/16")),
            ..Policy::default()
        }];
    }
    for (life, journal) in (0..).zip([world.config.journal.clone(), None]) {
        world.config.journal = journal;
        world.config.grace = Duration::from_secs(3600);
        world.up(&kept);
        world.up(&forgotten);
        world.crash();
        world.start();
        // Known, and not removed before its time.
        assert!(world.client.ping("172.16.1.100"));
        world.up(&kept);
        assert_eq!(removed(&world, "unwanted"), life);
        world.crash();
        world.config.grace = Duration::from_millis(300);
        world.start();
        world.up(&kept);
        world.wait("the forgotten one gone", || world.client.link("nsm-2").is_none());
        world.wait("its rules gone", || {
            world.client.run("ip rule").matches("10.1.0.0").count() == 1
        });
        assert!(world.client.ping("172.16.1.100"));
        assert!(world.client.link("nsm-1").is_some());
        assert_eq!(removed(&world, "unwanted"), life + 1);
    }
}

fn case_40_a_pod_that_is_gone_leaves_nothing() {
    let mut world = World::new();
    world.up(&world.wire("c40", "nsm-1"));
    drop(std::mem::replace(&mut world.client, Pod::new()));
    world.wait_clean();
    world.crash();
    world.config.grace = Duration::ZERO;
    world.start();
    let path = world.config.journal.clone().expect("a journal");
    world.wait("the journal without it", || {
        let text = std::fs::read_to_string(&path).expect("readable");
        text.lines().last().is_some_and(|line| line.contains("null"))
    });
    world.wait_clean();
    assert_eq!(removed(&world, "unwanted"), 1);
}

fn a_close_after_a_restart_removes_the_wire() {
    let mut world = World::new();
    let wire = world.wire("close", "nsm-1");
    for journal in [world.config.journal.clone(), None] {
        world.config.journal = journal;
        world.up(&wire);
        world.crash();
        world.start();
        world.down(&wire);
        world.wait_clean();
    }
}

fn an_incompatible_wire_is_replaced() {
    let mut world = World::new();
    let wire = world.wire("incompatible", "nsm-1");
    world.up(&wire);
    let other = Pod::new();
    world.crash();
    world.start();
    let mut moved = wire.clone();
    moved.endpoint.netns = other.path();
    world.up(&moved);
    assert!(world.client.ping("172.16.1.100"));
    assert!(other.link("nsm-1").is_some());
    world.wait("the old pod clean", || world.endpoint.is_clean());
}

fn half_a_wire_goes_at_once() {
    let mut world = World::new();
    let group = world.config.group;
    world.crash();
    // What a crash between the first and the second message leaves.
    world.client.run(&format!(
        "ip link add nsm-1 group {group} type veth peer name nsm-2"
    ));
    world.start();
    world.wait_clean();
    assert_eq!(KINDS.map(|kind| removed(&world, kind)), [1, 0, 0]);
}

fn a_wire_that_was_to_be_removed_goes_at_once() {
    let mut world = World::new();
    world.up(&world.wire("doomed", "nsm-1"));
    world.crash();
    // As a crash leaves it between this word and the kernel's.
    let path = world.config.journal.clone().expect("a journal");
    let text = std::fs::read_to_string(&path).expect("readable");
    std::fs::write(&path, text.replace("\"doomed\":false", "\"doomed\":true")).expect("writable");
    world.start();
    world.wait_clean();
    assert_eq!(KINDS.map(|kind| removed(&world, kind)), [0, 1, 0]);
}

fn rules_whose_interface_is_gone_go_too() {
    let mut world = World::new();
    let mut wire = world.wire("rules", "nsm-1");
    wire.client.policies = vec![Policy {
        from: Some(net("10.1.0.0/16")),
        ..Policy::default()
    }];
    world.up(&wire);
    world.crash();
    world.client.run("ip link del nsm-1");
    assert!(world.client.run("ip rule").contains("10.1.0.0"));
    world.start();
    world.up(&wire);
    assert_eq!(world.client.run("ip rule").matches("10.1.0.0").count(), 1);
    world.crash();
    world.client.run("ip link del nsm-1");
    world.config.grace = Duration::ZERO;
    world.start();
    world.wait_clean();
}

fn a_wire_in_a_namespace_without_process_is_adopted_by_its_name() {
    let mut world = World::new();
    let pod = std::mem::replace(&mut world.client, Pod::new());
    let open = std::fs::File::open(pod.path()).expect("a namespace");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open));
    let mut wire = world.wire("hidden", "nsm-1");
    wire.client.netns = path.into();
    world.up(&wire);
    let old = index(&world.endpoint, "nsm-1");
    drop(pod);
    world.crash();
    world.config.journal = None;
    world.start();
    world.up(&wire);
    assert_eq!(index(&world.endpoint, "nsm-1"), old);
    assert_eq!(world.endpoint.ip("link").as_array().expect("a list").len(), 2);
    world.down(&wire);
    world.wait("the endpoint clean", || world.endpoint.is_clean());
}

fn a_journal_that_was_cut_still_helps() {
    let mut world = World::new();
    let (one, two) = (world.wire("cut-1", "nsm-1"), world.wire("cut-2", "nsm-2"));
    world.up(&one);
    world.up(&two);
    world.crash();
    let path = world.config.journal.clone().expect("a journal");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut text = std::fs::read(&path).expect("readable");
    text.extend_from_slice(b"{\"serial\":77,\"wire\":{\"connec");
    std::fs::write(&path, &text).expect("writable");
    let old = [index(&world.client, "nsm-1"), index(&world.client, "nsm-2")];
    world.start();
    world.up(&one);
    world.up(&two);
    assert_eq!(
        [index(&world.client, "nsm-1"), index(&world.client, "nsm-2")],
        old
    );
    world.down(&one);
    world.down(&two);
    world.wait_clean();
}

fn one_journal_has_one_user() {
    let world = World::new();
    let second = world
        .runtime
        .block_on(Kernel::start(&world.component, world.config.clone()));
    let error = second.map(drop).expect_err("in use");
    assert_eq!(error.reason(), "journal");
    assert!(error.text().contains("another forwarder"), "{error}");
}

fn other_groups_are_left_alone() {
    let (one, mut other) = (World::new(), World::new());
    let wire = one.wire("ours", "nsm-1");
    one.up(&wire);
    other.crash();
    other.config.grace = Duration::ZERO;
    other.start();
    other.end();
    assert!(one.client.ping("172.16.1.100"));
}
