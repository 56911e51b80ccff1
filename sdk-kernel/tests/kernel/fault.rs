// SPDX-License-Identifier: Apache-2.0
//! What goes wrong, and what is left afterwards: cases 43 and 44 of the conformance list.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use nsm_sdk::dataplane::{DataPlane, Policy};
use tokio::time::Instant;

use crate::role;
use crate::tests;
use crate::world::{PATIENCE, Pod, World, net, via};

tests![
    case_43_a_refused_mac_address_leaves_nothing,
    case_43_a_refused_setting_leaves_nothing,
    case_43_a_refused_change_leaves_what_was_there,
    case_44_a_deadline_in_the_middle_leaves_nothing,
    a_deadline_that_has_passed_makes_nothing,
    a_call_that_was_given_up_leaves_nothing,
    a_pod_that_dies_meanwhile_is_no_harm,
    what_is_not_a_namespace_is_refused,
    a_pod_that_is_gone_is_said_to_be,
    calls_of_one_connection_take_turns,
    removals_of_one_wire_at_once_all_succeed,
    any_uses_of_one_connection_at_once_do_no_harm,
    an_interface_that_the_pod_removes_meanwhile_is_made_again,
    an_end_waits_for_removals,
    what_is_asked_for_has_bounds,
    case_69_without_privilege_it_says_so_at_the_start,
];

fn case_43_a_refused_mac_address_leaves_nothing() {
    let world = World::new();
    let mut wire = world.wire("c43", "nsm-1");
    wire.endpoint.mac = Some([1, 0, 0, 0, 0, 1]);
    let error = world.connect(&wire, None).expect_err("a group's address");
    assert_eq!(error.reason(), "kernel");
    assert!(
        error.text().contains("nsm-1") && error.text().contains("cannot make the pair"),
        "{error}"
    );
    assert!(world.client.is_clean() && world.endpoint.is_clean());
    wire.endpoint.mac = None;
    world.up(&wire);
}

fn case_43_a_refused_setting_leaves_nothing() {
    let world = World::new();
    let mut wire = world.dual("c43b", "nsm-1");
    wire.client.policies = vec![Policy {
        from: Some(net("10.1.0.0/16")),
        ..Policy::default()
    }];
    // Refused when the pair and the endpoint are there already.
    wire.client.addresses.push(net("ff02::5/128"));
    let error = world
        .connect(&wire, None)
        .expect_err("no address for an interface");
    assert_eq!(error.reason(), "kernel");
    assert!(error.text().contains("nsm-1"), "{error}");
    assert!(world.client.is_clean() && world.endpoint.is_clean());
}

fn case_43_a_refused_change_leaves_what_was_there() {
    let world = World::new();
    let mut before = world.dual("c43c", "nsm-1");
    before.client.policies = vec![Policy {
        from: Some(net("10.1.0.0/16")),
        ..Policy::default()
    }];
    world.up(&before);
    let picture = || {
        let mut shown = world.client.addresses("nsm-1");
        shown.sort();
        (
            shown,
            world.client.routes("route show table all dev nsm-1"),
            world.client.routes("rule"),
        )
    };
    let was = picture();
    let mut wire = before.clone();
    wire.client.addresses = vec![net("172.16.1.109/32"), net("ff02::5/128")];
    wire.client.routes = vec![via("10.0.0.0/8", "172.16.1.100")];
    wire.client.policies = vec![Policy {
        from: Some(net("10.2.0.0/16")),
        ..Policy::default()
    }];
    let error = world
        .connect(&wire, Some(&before))
        .expect_err("no address for an interface");
    assert_eq!(error.reason(), "kernel");
    assert_eq!(picture(), was);
    assert!(world.client.ping("172.16.1.100") && world.client.ping("2001:db8::1"));
    world.refresh(&before, &before);
    world.down(&before);
    world.wait_clean();
}

fn case_44_a_deadline_in_the_middle_leaves_nothing() {
    let world = World::new();
    let (mut late, mut made) = (0, 0);
    for step in 0..60 {
        let wire = world.dual("c44", "nsm-1");
        let deadline = Instant::now() + Duration::from_micros(50 * step);
        match world
            .runtime
            .block_on(world.kernel().connect(&wire, None, deadline))
        {
            Ok(()) => {
                made += 1;
                world.down(&wire);
            }
            Err(error) => {
                late += 1;
                assert_eq!(error.reason(), "deadline", "{error}");
            }
        }
        world.wait_clean();
    }
    assert!(late > 0, "{late} late, {made} made");
}

fn a_deadline_that_has_passed_makes_nothing() {
    let world = World::new();
    let sent = world.kernel().requests();
    let wire = world.wire("passed", "nsm-1");
    let error = world
        .runtime
        .block_on(world.kernel().connect(&wire, None, Instant::now()))
        .expect_err("late");
    assert_eq!(error.reason(), "deadline");
    assert!(world.client.is_clean() && world.endpoint.is_clean());
    assert!(world.kernel().requests() >= sent);
}

fn a_call_that_was_given_up_leaves_nothing() {
    let world = World::new();
    for step in 0..60 {
        let wire = world.dual(&format!("dropped-{step}"), "nsm-1");
        let given_up = world.runtime.block_on(async {
            let call = world.kernel().connect(&wire, None, Instant::now() + PATIENCE);
            tokio::time::timeout(Duration::from_micros(20 * step), call).await
        });
        if let Ok(done) = given_up {
            done.expect("connects");
            world.down(&wire);
        }
        world.wait_clean();
    }
    // Nothing is left in its books either.
    let wire = world.dual("afterwards", "nsm-1");
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
}

fn a_pod_that_dies_meanwhile_is_no_harm() {
    let world = World::new();
    for _ in 0..20 {
        let pod = Pod::new();
        let mut wire = world.wire("dies", "nsm-1");
        wire.client.netns = pod.path();
        let done = world.runtime.block_on(async {
            let call = world.kernel().connect(&wire, None, Instant::now() + PATIENCE);
            let death = tokio::task::spawn_blocking(move || drop(pod));
            let (done, _) = tokio::join!(call, death);
            done
        });
        if let Err(error) = done {
            assert!(["netns-gone", "kernel"].contains(&error.reason()), "{error}");
        }
        world.down(&wire);
        world.wait("the endpoint clean", || world.endpoint.is_clean());
    }
}

fn what_is_not_a_namespace_is_refused() {
    let world = World::new();
    for path in ["/etc/passwd", "/proc/self/ns/mnt", "/dev/null"] {
        let mut wire = world.wire("file", "nsm-1");
        wire.endpoint.netns = path.into();
        let error = world.connect(&wire, None).expect_err("not a namespace");
        assert_eq!(error.reason(), "not-a-netns");
        assert!(error.text().contains(path), "{error}");
        world.down(&wire);
    }
    assert!(world.client.is_clean());
}

fn a_pod_that_is_gone_is_said_to_be() {
    let world = World::new();
    let mut wire = world.wire("gone", "nsm-1");
    wire.client.netns = "/proc/self/fd/99999".into();
    let error = world.connect(&wire, None).expect_err("nothing there");
    assert_eq!(error.reason(), "netns-gone");
    world.down(&wire);
}

fn calls_of_one_connection_take_turns() {
    let world = World::new();
    let wire = world.dual("turns", "nsm-1");
    world.runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        let connects = (0..10).map(|_| world.kernel().connect(&wire, None, deadline));
        for done in futures::future::join_all(connects).await {
            done.expect("connects");
        }
        let (up, down) = tokio::join!(
            world.kernel().connect(&wire, None, deadline),
            world.kernel().disconnect(&wire)
        );
        up.expect("connects");
        down.expect("disconnects");
    });
    world.down(&wire);
    world.wait_clean();
}

fn removals_of_one_wire_at_once_all_succeed() {
    let world = World::new();
    for step in 0..40 {
        let wire = world.dual("removals", "nsm-1");
        world.up(&wire);
        world.runtime.block_on(async {
            let removals = (0..1 + step % 8).map(|_| world.kernel().disconnect(&wire));
            for done in futures::future::join_all(removals).await {
                done.expect("disconnects");
            }
        });
    }
    world.wait_clean();
}

fn any_uses_of_one_connection_at_once_do_no_harm() {
    let world = World::new();
    let wire = world.dual("uses", "nsm-1");
    let other = world.dual("uses", "nsm-2");
    for step in 0..60_u64 {
        let use_it = async |step: u64| {
            let wire = if step % 7 == 3 { &other } else { &wire };
            let soon = Instant::now() + Duration::from_micros(step * 97 % 3000);
            let late = Instant::now() + PATIENCE;
            match step % 4 {
                0 => world.kernel().disconnect(wire).await,
                1 => world.kernel().connect(wire, None, soon).await,
                2 => world.kernel().connect(wire, Some(wire), late).await,
                _ => {
                    let call = world.kernel().connect(wire, None, late);
                    let given_up = tokio::time::timeout_at(soon, call).await;
                    given_up.unwrap_or(Ok(()))
                }
            }
        };
        world.runtime.block_on(async {
            let uses = (0..6).map(|use_| use_it(step * 5 + use_ * 3));
            for done in futures::future::join_all(uses).await {
                if let Err(error) = done {
                    assert_eq!(error.reason(), "deadline", "{error}");
                }
            }
        });
    }
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
    world.down(&wire);
    world.down(&other);
    world.wait_clean();
}

fn an_interface_that_the_pod_removes_meanwhile_is_made_again() {
    let world = World::new();
    let mut vandal = world
        .client
        .command("sh")
        .args(["-c", "yes link del nsm-1 | ip -force -batch - 2> /dev/null"])
        .process_group(0)
        .spawn()
        .expect("starts");
    let group = rustix::process::Pid::from_child(&vandal);
    for step in 0..60 {
        let wire = world.dual(&format!("vandal-{}", step % 3), "nsm-1");
        if let Err(error) = world.connect(&wire, None) {
            assert_eq!(error.reason(), "interface-gone", "{error}");
            assert!(error.text().contains("nsm-1"), "{error}");
        }
        if step % 5 == 0 {
            world.down(&wire);
        }
    }
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).expect("ours");
    vandal.wait().expect("it was started");
    let wire = world.dual("vandal-0", "nsm-1");
    world.up(&wire);
    assert!(world.client.ping("172.16.1.100"));
    for step in 0..3 {
        world.down(&world.dual(&format!("vandal-{step}"), "nsm-1"));
    }
    world.wait_clean();
}

fn an_end_waits_for_removals() {
    let mut world = World::new();
    let wires: Vec<_> = (0..10)
        .map(|i| world.wire(&format!("end-{i}"), &format!("nsm-{i}")))
        .collect();
    wires.iter().for_each(|wire| world.up(wire));
    let kept = world.wire("kept", "nsm-kept");
    world.up(&kept);
    wires.iter().for_each(|wire| world.down(wire));
    world.end();
    assert_eq!(world.client.ip("link").as_array().expect("a list").len(), 2);
    assert!(world.client.link("nsm-kept").is_some());
}

fn what_is_asked_for_has_bounds() {
    let world = World::new();
    let mut wire = world.wire("many", "nsm-1");
    wire.client.policies = vec![Policy::default(); 5000];
    assert_eq!(
        world.connect(&wire, None).expect_err("too many").reason(),
        "too-many-items"
    );
    for id in [String::new(), "x".repeat(241), "a\nb".into()] {
        let error = world.connect(&world.wire(&id, "nsm-1"), None).expect_err("no id");
        assert_eq!(error.reason(), "bad-connection-id");
    }
    assert!(world.client.is_clean());
}

fn case_69_without_privilege_it_says_so_at_the_start() {
    for (without, wanted) in [
        ("-all", "not-privileged: "),
        ("-sys_admin", "not-privileged: "),
        ("-net_admin", "not-privileged: "),
        ("-chown", "started"),
    ] {
        let wrapper = ["setpriv", "--bounding-set", without, "--inh-caps=-all"];
        let output = role::command("start", &wrapper).output().expect("setpriv starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.starts_with(wanted),
            "without {without}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(text.contains("CAP_") || text.starts_with("started"), "{text}");
    }
}
