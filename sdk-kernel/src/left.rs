// SPDX-License-Identifier: Apache-2.0
//! Where the device of a tunnel is that an earlier life left: for whoever made it, and has forgotten.
//!
//! **Cost**: a look into a map where nothing was left; else a few microseconds a process of the node.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;

use nsm_sdk::core::Result;
use nsm_sdk::dataplane::tunnel::{Former, Vxlan};
use nsm_sdk::dataplane::wireguard::{Towards, TunnelId};
use tokio::time::Instant;

use crate::asked::{Device, Face};
use crate::kernel::{Kernel, PATIENCE, ask};
use crate::netns::{Netns, NetnsId};
use crate::record::Place;
use crate::recover;
use crate::state::State;

/// A device that was left, in a namespace that lives as long as this.
#[derive(Debug)]
pub struct Left {
    netns: Arc<Netns>,
    name: String,
}

impl Left {
    /// A file from which the pod's namespace can be opened, as long as this lives.
    pub fn netns(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.netns.as_fd().as_raw_fd()).into()
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Kernel {
    /// The WireGuard device of `tunnel` that an earlier life of this program left and that nobody has asked for since.
    /// The kernel is not asked whether it is still there.
    ///
    /// Errors: `deadline`, `kernel`.
    pub async fn left(&self, tunnel: &TunnelId) -> Result<Option<Left>> {
        let Some((netns, name)) = find(&self.shared.state(), tunnel) else {
            return Ok(None);
        };
        let what = format!("find the pod of the tunnel {tunnel}");
        let found = ask(self.pool(), Instant::now() + PATIENCE, &what, move |_| {
            Ok(recover::find(&BTreeSet::from([netns])))
        });
        let netns = found.await?.remove(&netns);
        Ok(netns.map(|netns| Left { netns, name }))
    }
}

impl Former for Kernel {
    fn vxlan(&self, id: &TunnelId) -> Option<Vxlan> {
        left(&self.shared.state(), id, |place| match place.end.link.device {
            Device::Vxlan(vxlan) => Some(vxlan),
            Device::Veth | Device::WireGuard => None,
        })
    }
}

/// The namespace and the name of the WireGuard device that was left of `tunnel`.
fn find(state: &State, tunnel: &TunnelId) -> Option<(NetnsId, String)> {
    left(state, tunnel, |place| match place.end.link.device {
        Device::WireGuard => Some(place.key()),
        Device::Veth | Device::Vxlan(_) => None,
    })
}

/// What of `tunnel` was left and that nobody has asked for since, as `look` sees it.
fn left<T>(state: &State, tunnel: &TunnelId, look: impl Fn(&Place) -> Option<T>) -> Option<T> {
    let face = match tunnel.towards {
        Towards::Client => Face::Endpoint,
        Towards::Endpoint => Face::Client,
    };
    let alias = face.alias(&tunnel.connection);
    let mut orphans = state
        .of(&tunnel.connection)
        .filter(|record| record.orphan && record.asked.is_none());
    orphans.find_map(|record| match record.places() {
        [place] if place.end.link.alias == alias => look(place),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::end::End;
    use crate::record::Record;

    fn state(device: Device, orphan: bool) -> State {
        let mut state = State::default();
        let mut end = End::default();
        end.link.device = device;
        end.link.alias = "server-c".into();
        end.link.name = "nsm-1".into();
        state.put(Record {
            serial: 1,
            connection: "c".into(),
            ends: vec![Place {
                netns: NetnsId { device: 3, inode: 4 },
                index: 5,
                end,
            }],
            asked: None,
            settling: false,
            broken: true,
            orphan,
            joined: None,
        });
        state
    }

    fn tunnel(towards: Towards) -> TunnelId {
        let connection = "c".into();
        TunnelId { connection, towards }
    }

    #[test]
    fn only_a_wireguard_device_of_that_side_that_nobody_has_asked_for_is_left() {
        let found = find(&state(Device::WireGuard, true), &tunnel(Towards::Endpoint));
        assert_eq!(found, Some((NetnsId { device: 3, inode: 4 }, "nsm-1".into())));
        for (device, orphan, towards) in [
            (Device::WireGuard, true, Towards::Client),
            (Device::WireGuard, false, Towards::Endpoint),
            (Device::Veth, true, Towards::Endpoint),
        ] {
            assert_eq!(find(&state(device, orphan), &tunnel(towards)), None);
        }
    }
}
