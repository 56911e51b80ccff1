// SPDX-License-Identifier: Apache-2.0
//! What is to be removed, and the threads that do it.
//!
//! **Guarantees**: what is doomed goes, without anybody waiting for it: rules first, then the interface, and with it
//! its other end, addresses, routes and neighbours. Names and routing tables are given back afterwards. What is in a
//! namespace that is gone is gone.
//! **On close**: the threads end when nothing is left to remove.
//! **Cost**: the kernel waits 12–20 ms for a removal, and as long for many at once: what is doomed in one namespace
//! goes together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use nsm_sdk::core::Result;
use rustix::io::Errno;

use crate::end::Rule;
use crate::netlink::{Netlink, Request};
use crate::netns::{Netns, NetnsId};
use crate::plan::Change;
use crate::record::{Place, Record};
use crate::shared::Shared;
use crate::station::{Station, thread};
use crate::{recover, veth};

/// How many threads remove. Each may wait for the kernel while the others work.
const THREADS: usize = 4;

/// One end that is to go.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) place: Place,
    /// Its namespace, if somebody has it open.
    pub(crate) netns: Option<Arc<Netns>>,
    /// Where its namespace was found last.
    pub(crate) path: Option<PathBuf>,
}

/// A wire that is to go.
#[derive(Debug)]
pub(crate) struct Doomed {
    /// The record's number, unless there never was a record.
    pub(crate) serial: Option<u64>,
    pub(crate) ends: Vec<Remains>,
}

impl Doomed {
    /// All of `record`. Opens the namespaces now, if they are still what they were: their paths may soon be others'.
    pub(crate) fn of(record: &Record) -> Self {
        let asked = record.asked.as_ref();
        let ends = record.places().iter().enumerate().map(|(at, place)| {
            let path = asked.and_then(|asked| Some(asked.ends.get(at)?.1.netns.clone()));
            let netns = path.as_deref().and_then(|path| Netns::open(path).ok());
            let netns = netns.filter(|netns| netns.id() == place.netns).map(Arc::new);
            Remains {
                place: place.clone(),
                netns,
                path,
            }
        });
        Self {
            serial: Some(record.serial),
            ends: ends.collect(),
        }
    }

    pub(crate) fn is_in(&self, netns: NetnsId) -> bool {
        self.ends.iter().any(|end| end.place.netns == netns)
    }
}

/// Starts the threads, which belong in `home`. Each holds a clone of `alive` until it ends.
pub(crate) fn start<A: Clone + Send + 'static>(
    shared: &Arc<Shared>,
    home: &Arc<Netns>,
    alive: &A,
) -> Result<()> {
    (0..THREADS).try_for_each(|_| spawn(shared.clone(), home.clone(), alive.clone()))
}

#[allow(
    clippy::only_used_in_recursion,
    reason = "that the thread holds it tells that the thread lives"
)]
fn spawn<A: Clone + Send + 'static>(shared: Arc<Shared>, home: Arc<Netns>, alive: A) -> Result<()> {
    thread(move || {
        let mut station = match Station::new(home) {
            Ok(station) => station,
            Err(error) => return tracing::error!(%error, "a kernel thread cannot start"),
        };
        while !station.is_lost() {
            let Some((netns, mut together)) = shared.reaper.next() else {
                return;
            };
            remove(&mut station, netns, &mut together, shared.doomed_group());
            shared.buried(&together);
            shared.announce();
        }
        if let Err(error) = spawn(shared, station.home().clone(), alive) {
            tracing::error!(%error, "a kernel thread cannot be replaced");
        }
    })
}

/// Removes what is `together` in the namespace `netns`.
fn remove(station: &mut Station, netns: NetnsId, together: &mut [Doomed], group: u32) {
    let open = open(together);
    rules(station, &open, together);
    let left = links(station, &open, netns, together, group);
    // What is not there any more, or where that namespace is gone, may still be reached by its other end.
    for doomed in together.iter().filter(|doomed| left.contains(&key(doomed))) {
        for end in doomed.ends.iter().filter(|end| end.place.netns != netns) {
            links(
                station,
                &open,
                end.place.netns,
                std::slice::from_ref(doomed),
                group,
            );
        }
    }
}

/// What tells one from the other.
fn key(doomed: &Doomed) -> u32 {
    doomed.ends.first().map_or(0, |end| end.place.index)
}

type Spaces = HashMap<NetnsId, Arc<Netns>>;

/// Opens every namespace that something is to be removed from, wherever it can be found.
fn open(together: &mut [Doomed]) -> Spaces {
    let mut open = Spaces::new();
    let mut missing = BTreeSet::new();
    for end in together.iter_mut().flat_map(|doomed| &mut doomed.ends) {
        let id = end.place.netns;
        if open.contains_key(&id) {
            continue;
        }
        let by_path = || {
            Netns::open(end.path.as_deref()?)
                .ok()
                .filter(|netns| netns.id() == id)
                .map(Arc::new)
        };
        match end.netns.take().or_else(by_path) {
            Some(netns) => drop(open.insert(id, netns)),
            None => drop(missing.insert(id)),
        }
    }
    missing.retain(|id| !open.contains_key(id));
    let is_reachable = |doomed: &Doomed| doomed.ends.iter().any(|end| open.contains_key(&end.place.netns));
    let has_rules = |doomed: &Doomed| {
        let mut lost = doomed
            .ends
            .iter()
            .filter(|end| missing.contains(&end.place.netns));
        lost.any(|end| !end.place.end.rules.is_empty())
    };
    if together
        .iter()
        .any(|doomed| !is_reachable(doomed) || has_rules(doomed))
    {
        open.extend(recover::find(&missing));
    }
    open
}

/// Removes the rules that lead to routing tables of ours; the tables empty themselves with the interface.
fn rules(station: &mut Station, open: &Spaces, together: &[Doomed]) {
    let mut by_netns: BTreeMap<NetnsId, Vec<&Rule>> = BTreeMap::new();
    for end in together.iter().flat_map(|doomed| &doomed.ends) {
        by_netns
            .entry(end.place.netns)
            .or_default()
            .extend(&end.place.end.rules);
    }
    for (id, rules) in by_netns.into_iter().filter(|(_, rules)| !rules.is_empty()) {
        let Some(mut socket) = open.get(&id).and_then(|netns| socket(station, netns)) else {
            continue;
        };
        let changes: Vec<_> = rules.into_iter().cloned().map(Change::RemoveRule).collect();
        let requests = changes.iter().map(|change| change.request(0)).collect();
        let Ok(answers) = socket.batch(requests) else {
            continue;
        };
        for (change, answer) in changes.iter().zip(answers) {
            if let Err(refusal) = &answer
                && !change.is_done(refusal.errno)
            {
                tracing::warn!(%refusal, %change, netns = %id, "a rule stays behind");
            }
        }
    }
}

/// Removes the interfaces of `together` that are in `netns`. Returns those that were not found there.
fn links(
    station: &mut Station,
    open: &Spaces,
    netns: NetnsId,
    together: &[Doomed],
    group: u32,
) -> BTreeSet<u32> {
    let mut missing: BTreeSet<u32> = together.iter().map(key).collect();
    let Some(mut socket) = open.get(&netns).and_then(|netns| socket(station, netns)) else {
        return missing;
    };
    let here = together.iter().filter_map(|doomed| {
        let end = doomed.ends.iter().find(|end| end.place.netns == netns)?;
        Some((end.place.index, key(doomed)))
    });
    let here: Vec<(u32, u32)> = here.collect();
    let requests: Vec<Request> = if let [(index, _)] = here[..] {
        vec![veth::remove(index)]
    } else {
        let marks = here.iter().map(|(index, _)| veth::regroup(*index, group));
        marks.chain([veth::remove_group(group)]).collect()
    };
    let answers = match socket.batch(requests) {
        Ok(answers) => answers,
        Err(error) => {
            tracing::error!(%error, %netns, "interfaces stay behind");
            return missing;
        }
    };
    let keys = here.iter().map(|(_, key)| Some(*key)).chain([None]);
    for (key, answer) in keys.zip(answers) {
        match (key, answer) {
            (Some(key), Ok(_)) => drop(missing.remove(&key)),
            // With the last of its interfaces a group is gone too.
            (_, Err(refusal)) if refusal.errno == Errno::NODEV => {}
            (_, Err(refusal)) => tracing::error!(%refusal, %netns, "an interface stays behind"),
            (None, Ok(_)) => {}
        }
    }
    missing
}

fn socket(station: &mut Station, netns: &Netns) -> Option<Netlink> {
    station
        .socket(netns)
        .inspect_err(|error| tracing::error!(%error, "cannot clean up"))
        .ok()
}
