// SPDX-License-Identifier: Apache-2.0
//! A process that runs as long as it holds the lock of its file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nsm_sdk::networkservice::supply::Started;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::time::{sleep, timeout};

/// How often is looked at a process that is not our child.
const LOOK: Duration = Duration::from_millis(100);

/// How long a process may take to end that was told to.
const TO_END: Duration = Duration::from_secs(5);

/// See the [module](self).
pub(super) struct Process {
    /// Our child; nothing for one that an earlier supplier, or another one, has started.
    child: Option<Child>,
    path: PathBuf,
    pid: i32,
    ended: Option<String>,
}

impl Process {
    /// One that was just started.
    pub(super) fn ours(child: Child, path: &Path, pid: i32) -> Self {
        Self {
            child: Some(child),
            path: path.into(),
            pid,
            ended: None,
        }
    }

    /// One that runs already.
    pub(super) fn theirs(path: &Path, pid: i32) -> Self {
        Self {
            child: None,
            path: path.into(),
            pid,
            ended: None,
        }
    }

    /// Waits until it has ended; answers how.
    async fn end(&mut self) -> String {
        if let Some(child) = self.child.as_mut() {
            return match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("nobody knows how: {error}"),
            };
        }
        while is_held(&self.path) {
            sleep(LOOK).await;
        }
        "it was started by another supplier, or an earlier one, and nobody knows how it ended".into()
    }

    /// Sends a signal to it and all that it has started, unless its number may be somebody else's already.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.ended.is_none() && is_held(&self.path)) {
            let _it_may_have_ended = kill_process_group(pid, signal);
        }
    }
}

/// Whether somebody holds the lock of a file.
fn is_held(path: &Path) -> bool {
    let _nobody_else = super::LOCKS.lock();
    let Ok(file) = File::open(path) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

#[async_trait]
impl Started for Process {
    fn name(&self) -> String {
        match self.pid {
            0 => "the endpoint's process".into(),
            pid => format!("process {pid}"),
        }
    }

    fn is_fresh(&self) -> bool {
        self.child.is_some()
    }

    fn state(&self) -> String {
        self.ended.clone().unwrap_or_else(|| "running".into())
    }

    async fn changed(&mut self) {
        match self.ended {
            Some(_) => std::future::pending().await,
            None => self.ended = Some(self.end().await),
        }
    }

    fn ended(&self) -> Option<String> {
        self.ended.clone()
    }

    async fn stop(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            self.signal(signal);
            if let Ok(ended) = timeout(TO_END, self.end()).await {
                self.ended = Some(ended);
                return;
            }
        }
    }
}
