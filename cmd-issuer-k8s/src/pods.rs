// SPDX-License-Identifier: Apache-2.0
//! Tells which pod a process belongs to, by what the kernel and the kubelet have written down on this node.
//!
//! The kernel names the control group of a process, whose path has the uid of its pod in it, however groups are managed.
//! The kubelet names the folder of a pod's logs `NAMESPACE_NAME_UID`, before it starts the pod. Both belong to root
//! alone. No API server is asked, so identities are served while it is away, and no right to read pods is needed.

use std::fs;
use std::path::{Path, PathBuf};

use nsm_sdk::core::{Error, Result};

/// The pods of this node.
#[derive(Clone, Debug)]
pub(crate) struct Pods {
    logs: PathBuf,
}

impl Pods {
    /// Those whose logs are in the folder `logs`.
    pub(crate) fn of(logs: &Path) -> Self {
        Self { logs: logs.into() }
    }

    /// The path of the identity of a process: `/ns/NAMESPACE/pod/NAME`.
    ///
    /// Errors: `unknown-caller`.
    pub(crate) fn identify(&self, process: i32) -> Result<String> {
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))
            .map_err(|error| unknown(format!("process {process} has no control group: {error}")))?;
        let uid = uid(&groups).ok_or_else(|| {
            unknown(format!(
                "process {process} is in no pod of this node; its control groups are {groups:?}"
            ))
        })?;
        let (namespace, name) = self.named(&uid)?;
        Ok(format!("/ns/{namespace}/pod/{name}"))
    }

    /// The namespace and the name of the pod with this uid.
    fn named(&self, uid: &str) -> Result<(String, String)> {
        let at = |error: std::io::Error| unknown(format!("{} cannot be read: {error}", self.logs.display()));
        let entries = fs::read_dir(&self.logs).map_err(at)?.flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut found: Vec<_> = names.filter_map(|name| pod_of(&name, uid)).collect();
        match (found.pop(), found.is_empty()) {
            (Some(pod), true) => Ok(pod),
            (Some(_), false) => Err(unknown(format!("{} has two pods {uid}", self.logs.display()))),
            (None, _) => Err(unknown(format!("{} has no pod {uid}", self.logs.display()))),
        }
    }
}

fn unknown(text: String) -> Error {
    Error::denied("unknown-caller", text)
}

/// The namespace and the name in the name of a folder of logs, if its pod has this uid. Neither can have a `_`.
fn pod_of(folder: &str, uid: &str) -> Option<(String, String)> {
    let mut parts = folder.split('_');
    let (namespace, name) = (parts.next()?, parts.next()?);
    let is_it = parts.next() == Some(uid) && parts.next().is_none();
    is_it.then(|| (namespace.to_string(), name.to_string()))
}

/// The uid of a pod in the paths of control groups, as `/proc/PID/cgroup` tells them: `…/podUID/…` as the kubelet names
/// groups itself, `…-podUID.slice/…` with `_` for `-` as it asks systemd to.
fn uid(groups: &str) -> Option<String> {
    let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let mut uids = paths.flat_map(|path| path.split('/').filter_map(uid_of));
    let first = uids.next()?;
    uids.all(|uid| uid == first).then_some(first)
}

fn uid_of(group: &str) -> Option<String> {
    let uid = match group.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => group.strip_prefix("pod")?.to_string(),
    };
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b5e0e5b-5b3c-4a52-8bcd-6a6d3a6f8f10";

    #[test]
    fn finds_the_pod_in_every_kind_of_control_group() {
        let kubelet = format!("9:memory:/kubepods/burstable/pod{UID}/3f1c\n0::/");
        let nested = format!("5:cpu:/tests/node1/kubepods/besteffort/pod{UID}/3f1c");
        let slice = UID.replace('-', "_");
        let systemd = format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-3f1c.scope"
        );
        let relative = format!("0::/../../pod{UID}/3f1c");
        for groups in [kubelet, nested, systemd, relative] {
            assert_eq!(uid(&groups).as_deref(), Some(UID), "{groups}");
        }
        let of_a_file = "1:cpu:/kubepods/pod0123456789abcdef0123456789abcdef/3f1c";
        assert_eq!(
            uid(of_a_file).as_deref(),
            Some("0123456789abcdef0123456789abcdef")
        );
    }

    #[test]
    fn what_is_no_pod_has_none() {
        let two = format!("1:cpu:/pod{UID}\n2:memory:/pod{}", UID.replace('0', "1"));
        for groups in [
            "",
            "0::/",
            "0::/user.slice/user-podman.slice/x",
            "0::/podfoo/x",
            two.as_str(),
        ] {
            assert_eq!(uid(groups), None, "{groups}");
        }
    }

    #[test]
    fn names_come_from_the_folders_of_logs() {
        let logs = tempfile::tempdir().expect("a folder");
        let pods = Pods::of(logs.path());
        assert_eq!(pods.named(UID).expect_err("none").reason(), "unknown-caller");
        for folder in [
            format!("default_nsc-1_{UID}"),
            format!("x_y_{UID}_z"),
            format!("x_{UID}"),
            "other".into(),
        ] {
            fs::create_dir(logs.path().join(folder)).expect("it is ours");
        }
        assert_eq!(
            pods.named(UID).expect("known"),
            ("default".into(), "nsc-1".into())
        );
        fs::create_dir(logs.path().join(format!("evil_nsc-2_{UID}"))).expect("it is ours");
        assert_eq!(pods.named(UID).expect_err("two").reason(), "unknown-caller");
    }

    #[test]
    fn a_process_outside_of_pods_gets_no_identity() {
        let us = i32::try_from(std::process::id()).expect("a number of a process");
        let error = Pods::of(Path::new("/nowhere"))
            .identify(us)
            .expect_err("we are in none");
        assert_eq!(error.reason(), "unknown-caller");
    }
}
