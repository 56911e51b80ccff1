// SPDX-License-Identifier: Apache-2.0
//! The kernel settings of a pod that a wire needs, in the namespace of the calling thread.
//!
//! **Guarantees**: a setting that is right already is not written, so a read-only `/proc/sys` hurts only who needs a
//! change.
//! **Cost**: 5 µs to look at one; writing one may take the kernel's global lock.

use std::fs;
use std::io;

use nsm_sdk::core::{Error, Result};
use rustix::io::Errno;

/// Everybody: the greatest group id that the kernel takes here.
const ALL_GROUPS: u32 = i32::MAX as u32;

/// Lets interface `name` have IPv6 addresses, or not. A kernel without IPv6 has no such setting, which is no error here.
pub(crate) fn allow_v6(name: &str, allowed: bool) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    match set(&path, if allowed { "0" } else { "1" }) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|error| refused(&path, &error)),
    }
}

/// Lets interface `name` route loopback addresses, or not.
pub(crate) fn route_localnet(name: &str, allowed: bool) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{name}/route_localnet");
    set(&path, if allowed { "1" } else { "0" }).map_err(|error| refused(&path, &error))
}

/// Lets every process of the namespace send ICMP echo requests without privilege: liveness checks need it. In a user
/// namespace that maps fewer groups it lets those.
pub(crate) fn allow_ping() -> Result<()> {
    let path = "/proc/sys/net/ipv4/ping_group_range";
    let all = set(path, &format!("0\t{ALL_GROUPS}"));
    let done = match all {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            let last = fs::read_to_string("/proc/self/gid_map").map(|map| last_group(&map));
            last.and_then(|last| set(path, &format!("0\t{last}")))
        }
        done => done,
    };
    done.map_err(|error| refused(path, &error))
}

/// Whether the namespace drops packets that come in by another way than answers would go out: policy routes then lose
/// packets on any interface, whatever its own setting.
pub(crate) fn is_strict() -> bool {
    let all = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter");
    all.is_ok_and(|all| all.trim_end() == "1")
}

/// The last group of the unbroken range from 0 on that a user namespace maps.
fn last_group(map: &str) -> u32 {
    let mut ranges: Vec<(u32, u32)> = map
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace();
            let first = numbers.next()?.parse().ok()?;
            Some((first, numbers.nth(1)?.parse().ok()?))
        })
        .collect();
    ranges.sort_unstable();
    let mut end = 0_u32;
    for (first, count) in ranges {
        if first != end {
            break;
        }
        end = end.saturating_add(count);
    }
    end.saturating_sub(1).min(ALL_GROUPS)
}

fn set(path: &str, value: &str) -> io::Result<()> {
    if fs::read_to_string(path)?.trim_end() == value {
        return Ok(());
    }
    fs::write(path, value)
}

fn refused(path: &str, error: &io::Error) -> Error {
    Error::internal(
        "kernel",
        format!("cannot set {path}: {error}; is /proc/sys writable?"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_group_is_the_end_of_the_range_from_zero() {
        assert_eq!(last_group("         0       1000          1\n"), 0);
        assert_eq!(last_group("0 0 4294967295\n"), ALL_GROUPS);
        assert_eq!(last_group("1 100000 65535\n0 1000 1\n"), 65535);
        assert_eq!(last_group("0 0 10\n20 20 10\n"), 9);
        assert_eq!(last_group("what?"), 0);
    }
}
