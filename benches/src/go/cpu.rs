// SPDX-License-Identifier: Apache-2.0
//! The CPU time of the programs of a mesh.

use std::time::Duration;

use anyhow::{Context, Result};

use super::mesh::Mesh;

/// The unit of times in `/proc`, `USER_HZ` of the kernel's interface.
const TICK: Duration = Duration::from_millis(10);

/// How long programs must do nothing until they are taken for quiet, and how often that is looked for at most.
const QUIET: Duration = Duration::from_millis(30);
const LOOKS: usize = 100;

/// Waits until the programs of all meshes have done what was left of the turn before, as events and garbage.
pub(super) async fn quiet(meshes: &[&Mesh]) -> Result<()> {
    let all = || meshes.iter().map(|mesh| spent(mesh)).sum::<Result<Duration>>();
    let mut before = all()?;
    for _ in 0..LOOKS {
        tokio::time::sleep(QUIET).await;
        let now = all()?;
        if now == before {
            break;
        }
        before = now;
    }
    Ok(())
}

/// The time that the programs of a mesh have had a CPU, as users and in the kernel.
pub(super) fn spent(mesh: &Mesh) -> Result<Duration> {
    let mut ticks = 0;
    for program in mesh.programs() {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.pid()))?;
        ticks += ticks_of(&stat).with_context(|| format!("no times of {} in /proc", program.name()))?;
    }
    Ok(TICK * ticks)
}

/// The ticks in a process' `stat`: `utime` and `stime`, the twelfth and thirteenth word after its name.
fn ticks_of(stat: &str) -> Option<u32> {
    let (_, words) = stat.rsplit_once(')')?;
    let mut times = words.split_whitespace().skip(11).take(2);
    Some(times.next()?.parse::<u32>().ok()? + times.next()?.parse::<u32>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_a_name_with_spaces_and_brackets() {
        let stat = "7 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 250 30 11 12";
        assert_eq!(ticks_of(stat), Some(280));
        assert_eq!(ticks_of("7 (a) S 1 2"), None);
    }
}
