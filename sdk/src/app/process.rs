// SPDX-License-Identifier: Apache-2.0
//! What the system counts of this process.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::Component;

/// How much of something there is now.
pub(super) struct Gauge {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) value: f64,
}

/// What there is of a program that began at `began`.
pub(super) fn gauges(component: &Component, began: SystemTime) -> Vec<Gauge> {
    let since = began.duration_since(UNIX_EPOCH).unwrap_or_default();
    let all = [
        (
            "process_start_time_seconds",
            "When the program began, since 1970.",
            Some(since.as_secs_f64()),
        ),
        ("nsm_tasks", "Tasks that run.", Some(component.tasks() as f64)),
        (
            "process_resident_memory_bytes",
            "Memory that is resident.",
            resident_kib().map(|kib| kib * 1024.0),
        ),
        ("process_open_fds", "Files that are open.", open_files()),
    ];
    let known = all.into_iter();
    known
        .filter_map(|(name, help, value)| {
            Some(Gauge {
                name,
                help,
                value: value?,
            })
        })
        .collect()
}

fn open_files() -> Option<f64> {
    let files = std::fs::read_dir("/proc/self/fd").ok()?;
    Some(files.count() as f64)
}

fn resident_kib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").trim().parse().ok()
}
