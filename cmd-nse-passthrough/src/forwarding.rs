// SPDX-License-Identifier: Apache-2.0
//! Lets the kernel of our pod pass packets on from one interface to another.

use std::io::ErrorKind;
use std::path::Path;

use nsm_sdk::app::Failure;
use tracing::info;

/// Where Linux keeps whether it does (ip-sysctl), of each family; the second is not there on a kernel without IPv6.
const SWITCHES: [&str; 2] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// Switches forwarding on where it is off, for all interfaces that are there or come later.
///
/// Errors: a switch that is off and that we may not turn.
pub(crate) fn enable() -> Result<(), Failure> {
    enable_in(Path::new("/proc/sys/net"))
}

fn enable_in(folder: &Path) -> Result<(), Failure> {
    for name in SWITCHES {
        let switch = folder.join(name);
        match std::fs::read_to_string(&switch) {
            Ok(state) if state.trim() != "0" => continue,
            Err(error) if error.kind() == ErrorKind::NotFound && name.starts_with("ipv6") => continue,
            _ => {}
        }
        std::fs::write(&switch, "1").map_err(|error| {
            let (path, sysctl) = (switch.display(), name.replace('/', "."));
            Failure::Settings(format!(
                "the pod passes no packets on, since {path} cannot be set: {error}; set the sysctl net.{sysctl}=1 for \
                 the pod, or run privileged"
            ))
        })?;
        info!(switch = name, "forwarding is switched on");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_switched_on_and_nothing_else_is_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("ipv4")).unwrap();
        std::fs::write(path("ipv4/ip_forward"), "0\n").unwrap();
        enable_in(folder.path()).expect("a kernel without IPv6 forwards IPv4");
        assert_eq!(std::fs::read_to_string(path("ipv4/ip_forward")).unwrap(), "1");
        std::fs::create_dir_all(path("ipv6/conf/all")).unwrap();
        std::fs::write(path("ipv6/conf/all/forwarding"), "2\n").unwrap();
        enable_in(folder.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(path("ipv6/conf/all/forwarding")).unwrap(),
            "2\n"
        );
    }

    #[test]
    fn a_switch_that_cannot_be_set_is_named_with_its_remedy() {
        let error = enable_in(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/ipv4/ip_forward"), "{error}");
        assert!(error.contains("net.ipv4.ip_forward=1"), "{error}");
    }
}
