// SPDX-License-Identifier: Apache-2.0
//! Finds what an earlier life of this program left behind: by the journal, and by looking into every namespace.
//!
//! **Guarantees**: what was half made or half removed is removed at once, or, where only its looks say that it is half
//! made, when it still looks so a second later: a program with the same mark may be at work on it. What was whole is
//! kept, untouched, until its connection is asked for again or the time of grace is over: packets flow on while we are
//! away.
//! **Cost**: a few microseconds a process and a named namespace of the node, and one dump of links a namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use nsm_sdk::core::{Error, Result};
use rustix::io::Errno;
use tonic::Code;

use crate::asked::Device;
use crate::doomed::Remains;
use crate::journal::Entry;
use crate::leftover::Leftover;
use crate::netns::{Netns, NetnsId, identify};
use crate::observe::{self, Seen, Which};
use crate::record::{Place, Record};
use crate::shared::Shared;
use crate::station::Station;
use crate::veth;

/// How many processes are looked at.
const MAX_PROCESSES: usize = 1 << 17;

/// Whether we may do, and the kernel can do, what we are here for.
///
/// Errors: `not-privileged`, `no-veth`.
pub(crate) fn check(home: Arc<Netns>) -> Result<()> {
    let mut station = Station::new(home).map_err(|error| {
        Error::new(
            Code::FailedPrecondition,
            "not-privileged",
            format!(
                "{}: the kernel data plane needs CAP_SYS_ADMIN and CAP_NET_ADMIN",
                error.text()
            ),
        )
    })?;
    match veth::execute(&mut station, veth::probe())? {
        Err(refusal) if refusal.errno == Errno::ADDRNOTAVAIL => Ok(()),
        Err(refusal) if refusal.errno == Errno::PERM => Err(Error::new(
            Code::FailedPrecondition,
            "not-privileged",
            "the kernel data plane needs CAP_NET_ADMIN in its network namespace: run privileged",
        )),
        answer => Err(Error::new(
            Code::FailedPrecondition,
            "no-veth",
            format!("this kernel cannot make veth pairs ({answer:?}): load the module veth"),
        )),
    }
}

/// Every namespace that a process of the node is in, that has a name, or that this process has open, by one path that
/// leads to it: what we have been given to work with keeps a namespace in being whose processes have ended.
fn spaces() -> BTreeMap<NetnsId, PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let is_process = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    };
    let entries = entries.flatten().take(MAX_PROCESSES).filter(is_process);
    let processes = entries.map(|entry| entry.path().join("ns/net"));
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let own = fs::read_dir("/proc/self/fd").into_iter().flatten();
    let own = own.flatten().map(|entry| entry.path());
    let mut spaces = BTreeMap::new();
    for path in processes.chain(mounted(&mounts).take(MAX_PROCESSES)).chain(own) {
        if let Ok(id) = identify(&path) {
            spaces.entry(id).or_insert(path);
        }
    }
    spaces
}

/// The names that `ip netns` and container runtimes give to namespaces, of what `/proc/PID/mountinfo` has (proc(5)).
fn mounted(mounts: &str) -> impl Iterator<Item = PathBuf> + '_ {
    mounts.lines().filter_map(|line| {
        let (root, name) = line.split(' ').nth(3).zip(line.split(' ').nth(4))?;
        // A name with a space in it is written in another way; nobody gives one.
        (root.starts_with("net:[") && !name.contains('\\')).then(|| name.into())
    })
}

/// Opens those of the wanted namespaces that can be found.
pub(crate) fn find(wanted: &BTreeSet<NetnsId>) -> HashMap<NetnsId, Arc<Netns>> {
    let found = spaces().into_iter().filter(|(id, _)| wanted.contains(id));
    let open = found.filter_map(|(id, path)| Some((id, Arc::new(Netns::open(&path).ok()?))));
    open.filter(|(id, netns)| *id == netns.id()).collect()
}

/// What is left of an earlier life in one namespace.
pub(crate) struct Left {
    seen: Seen,
    place: Place,
    path: PathBuf,
}

impl Left {
    /// Whether it is like an interface that has been made and not configured.
    fn is_half(&self) -> bool {
        self.seen.alias.is_empty()
    }

    fn remains(self) -> Remains {
        Remains {
            place: self.place,
            netns: None,
            path: Some(self.path),
        }
    }
}

/// Takes over what an earlier life has left. Returns what looks half made.
pub(crate) fn recover(station: &mut Station, shared: &Shared) -> Vec<Left> {
    let mut left = look(station, shared);
    let mut known = HashSet::new();
    for (serial, entry) in shared.entries() {
        shared.state().continue_after(serial);
        for place in &entry.ends {
            known.insert((place.netns, place.index));
        }
        remember(shared, serial, entry);
    }
    left.retain(|left| !known.contains(&(left.place.netns, left.place.index)));
    let (removed, rest): (Vec<Left>, Vec<Left>) = left
        .into_iter()
        .partition(|left| left.seen.group == shared.doomed_group());
    for left in removed {
        shared.collected(Leftover::HalfRemoved);
        shared.doom_remains(vec![left.remains()]);
    }
    let (halves, rest) = rest.into_iter().partition(Left::is_half);
    pair(shared, rest);
    halves
}

/// Removes those of `halves` that are still no more than that.
pub(crate) fn finish(station: &mut Station, shared: &Shared, halves: Vec<Left>) {
    for left in halves {
        let mut look = || -> Result<bool> {
            let id = left.place.netns;
            let netns = Netns::open(&left.path)?;
            let mut socket = station.socket(&netns)?;
            let seen = observe::link(&mut socket, &Which::Index(left.seen.index))
                .map_err(|error| veth::broken(&id, &error))?;
            let is_half = |seen: Seen| seen.group == shared.group() && seen.alias.is_empty();
            Ok(netns.id() == id && seen.is_some_and(is_half))
        };
        // Whoever asked for its name meanwhile has had it removed.
        if look().unwrap_or(false) && shared.state().by_index(left.seen.index).is_none() {
            shared.collected(Leftover::HalfMade);
            shared.doom_remains(vec![left.remains()]);
        }
    }
}

/// Everything in any namespace that has our mark.
fn look(station: &mut Station, shared: &Shared) -> Vec<Left> {
    let ours = [shared.group(), shared.doomed_group()];
    let mut left = Vec::new();
    for (id, path) in spaces() {
        let look = |station: &mut Station| -> Result<Vec<Left>> {
            let mut socket = station.socket(&Netns::open(&path)?)?;
            let broken = |error| veth::broken(&id, &error);
            let links = observe::links(&mut socket).map_err(broken)?;
            let mut left = Vec::new();
            for seen in links.into_iter().filter(|seen| ours.contains(&seen.group)) {
                // One that goes while we look is none.
                if let Some(place) = observe::place(&mut socket, id, &seen).map_err(broken)? {
                    let path = path.clone();
                    left.push(Left { seen, place, path });
                }
            }
            Ok(left)
        };
        match look(station) {
            Ok(links) => left.extend(links),
            // It may have ended just now.
            Err(error) => tracing::debug!(%error, netns = %id, "not looked into"),
        }
    }
    left
}

/// Takes over a wire that the journal tells of.
fn remember(shared: &Shared, serial: u64, entry: Entry) {
    let over = match (entry.doomed, entry.complete) {
        (true, _) => Some(Leftover::HalfRemoved),
        (false, false) => Some(Leftover::HalfMade),
        (false, true) => None,
    };
    let record = Record {
        serial,
        connection: entry.connection,
        ends: entry.ends,
        asked: None,
        settling: false,
        broken: true,
        orphan: true,
        joined: None,
    };
    shared.note(record);
    if let Some(over) = over {
        shared.collected(over);
        shared.doom(serial);
    }
}

/// Takes over a wire that nobody has a record of.
fn note(shared: &Shared, connection: &str, ends: Vec<Place>) {
    let serial = shared.state().serial();
    shared.note(Record {
        serial,
        connection: connection.to_string(),
        ends,
        asked: None,
        settling: false,
        broken: true,
        orphan: true,
        joined: None,
    });
}

/// Takes over the wires whose both ends are there, and the ends whose other is not.
fn pair(shared: &Shared, left: Vec<Left>) {
    let by_index: HashMap<u32, &Left> = left.iter().map(|left| (left.seen.index, left)).collect();
    let mut paired = HashSet::new();
    for single in left.iter().filter(|left| left.seen.device != Device::Veth) {
        let alias = &single.seen.alias;
        let connection = alias.strip_prefix("server-").or(alias.strip_prefix("client-"));
        if let Some(connection) = connection {
            paired.insert(single.seen.index);
            note(shared, connection, vec![single.place.clone()]);
        }
    }
    for client in &left {
        let Some(connection) = client.seen.alias.strip_prefix("server-") else {
            continue;
        };
        let is_other = |other: &&&Left| {
            other.seen.alias.strip_prefix("client-") == Some(connection)
                && other.seen.peer == client.seen.index
        };
        let Some(endpoint) = by_index.get(&client.seen.peer).filter(is_other) else {
            continue;
        };
        paired.extend([client.seen.index, endpoint.seen.index]);
        note(
            shared,
            connection,
            vec![client.place.clone(), endpoint.place.clone()],
        );
    }
    let single = left.into_iter().filter(|left| !paired.contains(&left.seen.index));
    single.for_each(|left| shared.state().stray(left.remains()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_have_a_name_are_found_among_the_mounts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/root rw\n\
                      40 22 0:4 net:[4026532281] /run/netns/a rw shared:5 - nsfs nsfs rw\n\
                      41 22 0:4 mnt:[4026532282] /run/b rw - nsfs nsfs rw\n\
                      42 22 0:4 net:[4026532283] /run/netns/c\\040d rw - nsfs nsfs rw\nnonsense\n";
        let names: Vec<PathBuf> = mounted(mounts).collect();
        assert_eq!(names, [PathBuf::from("/run/netns/a")]);
    }
}
