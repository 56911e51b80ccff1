// SPDX-License-Identifier: Apache-2.0
//! Whether the thousandth wire between two pods comes as fast as the first.
//!
//! Wires stay until the end. Each has addresses of its own, and lies between the same two pods. Where IPv6 is on in
//! the pods, each link has a link-local address, and the kernel walks through all IPv6 routes of the namespace for
//! each link that comes up or changes: that is what grows. Needs root; makes its own namespaces.
//!
//! ```text
//! cargo run --release -p nsm-sdk-kernel --example many_wires [WIRES [WINDOW]]
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use nsm_sdk::core::Component;
use nsm_sdk::dataplane::{DataPlane, Interface, Payload, Policy, Route, Wire};
use nsm_sdk_kernel::{Config, Kernel};
use tokio::time::Instant;

type Done<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Done {
    let mut arguments = std::env::args().skip(1);
    let wires = arguments.next().map_or(Ok(1000), |text| text.parse())?;
    let window = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for (what, v6, policies, off) in [
        ("IPv4, IPv6 off", false, false, true),
        ("IPv4", false, false, false),
        ("IPv4 and IPv6", true, false, false),
        ("IPv4 with a policy", false, true, false),
    ] {
        let pods = [Pod::new(off)?, Pod::new(off)?];
        let make = |number| wire(&pods, number, v6, policies);
        let [connect, refresh, disconnect] = runtime.block_on(measure(wires, make))?;
        for (step, times) in [
            ("connect", connect),
            ("changed MTU", refresh),
            ("disconnect", disconnect),
        ] {
            let first = median(&times[..window.min(times.len())]);
            let last = median(&times[times.len().saturating_sub(window)..]);
            let ratio = last.as_secs_f64() / first.as_secs_f64();
            println!("{what:20} {step:12} first {first:>8.1?}   last {last:>8.1?}   {ratio:.2} ×");
        }
    }
    Ok(())
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[times.len() / 2]
}

/// A process in a network namespace of its own.
struct Pod(Child);

impl Pod {
    fn new(without_v6: bool) -> Done<Self> {
        let mut command = Command::new("unshare");
        let off = u32::from(without_v6);
        let line = format!("echo {off} > /proc/sys/net/ipv6/conf/default/disable_ipv6; echo ready; exec cat");
        command.args(["-n", "sh", "-c", &line]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        BufReader::new(output).read_line(&mut String::new())?;
        Ok(Self(child))
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Wire `number`: its ends' addresses follow each other.
fn wire(pods: &[Pod; 2], number: u32, v6: bool, policies: bool) -> Done<Wire> {
    let four = |last: u32| IpAddr::from(Ipv4Addr::from_bits(0xac10_0000 + 2 * number + last));
    let six = |last: u32| {
        IpAddr::from(Ipv6Addr::from_bits(
            (0x2001_0db8 << 96) + u128::from(2 * number + last),
        ))
    };
    let end = |pod: &Pod, own: u32, other: u32| -> Done<Interface> {
        let families: &[&dyn Fn(u32) -> IpAddr] = if v6 { &[&four, &six] } else { &[&four] };
        let mut interface = Interface {
            netns: pod.path(),
            name: format!("nsm-{number}"),
            ..Interface::default()
        };
        for ip in families {
            let prefix = IpNet::from(ip(other));
            interface.addresses.push(IpNet::from(ip(own)));
            interface.peers.push(ip(other));
            interface.routes.push(Route {
                prefix,
                via: None,
                link: true,
            });
        }
        if policies {
            let from = Some(IpNet::from(four(own)));
            interface.policies.push(Policy {
                from,
                ..Policy::default()
            });
        }
        Ok(interface)
    };
    Ok(Wire {
        connection: format!("connection-{number}"),
        payload: Payload::Ip,
        mtu: 9000,
        client: end(&pods[0], 0, 1)?,
        endpoint: end(&pods[1], 1, 0)?,
    })
}

/// The times of connect, of a change, and of disconnect.
async fn measure(wires: u32, make: impl Fn(u32) -> Done<Wire>) -> Done<[Vec<Duration>; 3]> {
    let journal = std::env::temp_dir().join(format!("nsm-many-{}", std::process::id()));
    let config = Config {
        journal: Some(journal.clone()),
        group: std::process::id(),
        ..Config::default()
    };
    let kernel = Kernel::start(&Component::new("many"), config).await?;
    let deadline = Instant::now() + Duration::from_secs(600);
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for number in 0..wires {
        let wire = make(number)?;
        let started = Instant::now();
        kernel.connect(&wire, None, deadline).await?;
        times[0].push(started.elapsed());
        let changed = Wire {
            mtu: 1500,
            ..wire.clone()
        };
        let started = Instant::now();
        kernel.connect(&changed, Some(&wire), deadline).await?;
        times[1].push(started.elapsed());
    }
    for number in 0..wires {
        let wire = make(number)?;
        let started = Instant::now();
        kernel.disconnect(&wire).await?;
        times[2].push(started.elapsed());
    }
    kernel.end().await;
    std::fs::remove_file(journal)?;
    Ok(times)
}
