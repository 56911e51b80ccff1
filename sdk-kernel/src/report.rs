// SPDX-License-Identifier: Apache-2.0
//! What a report of the kernel means for our wires.

use std::net::IpAddr;

use netlink_packet_core::NlasIterator;
use tokio::sync::broadcast;

use crate::answer::Message;
use crate::netns::NetnsId;
use crate::observe::Seen;
use crate::record::Record;
use crate::state::State;

/// The kinds of reports, from `linux/rtnetlink.h`.
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_DELNSID: u16 = 89;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// A namespace has ended, and everything in it.
pub(crate) fn end(netns: NetnsId, state: &mut State, lost: &broadcast::Sender<String>) {
    state.forget(netns);
    for record in state.all() {
        if record.places().iter().any(|place| place.netns == netns) {
            lose(record, lost);
        }
    }
}

/// The wire of `record` is gone, or half of it.
fn lose(record: &mut Record, lost: &broadcast::Sender<String>) {
    record.broken = true;
    let _ = lost.send(record.connection.clone());
}

/// An interface has come, changed or gone.
pub(crate) fn link(message: &Message<'_>, state: &mut State, lost: &broadcast::Sender<String>) {
    let index = message
        .body
        .get(4..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u32::from_ne_bytes(*bytes));
    let Some(record) = index.and_then(|index| state.by_index(index)) else {
        return;
    };
    if message.kind == RTM_DELLINK {
        return lose(record, lost);
    }
    if record.settling || record.broken {
        return;
    }
    let seen = Seen::parse(message.body);
    let is_ours = |seen: &Seen| {
        let mut places = record.places().iter();
        seen.up && places.any(|place| place.index == seen.index && place.end.link.name == seen.name)
    };
    record.broken = !seen.as_ref().is_some_and(is_ours);
}

/// An address has gone.
pub(crate) fn address(body: &[u8], state: &mut State) {
    let Some([_, _, _, _, i0, i1, i2, i3]) = body.first_chunk() else {
        return;
    };
    let index = u32::from_ne_bytes([*i0, *i1, *i2, *i3]);
    let Some(record) = state.by_index(index).filter(|record| !record.settling) else {
        return;
    };
    let attributes = NlasIterator::new(body.get(8..).unwrap_or_default()).flatten();
    for attribute in attributes.filter(|attribute| matches!(attribute.kind(), IFA_ADDRESS | IFA_LOCAL)) {
        let value = attribute.value();
        let four = <[u8; 4]>::try_from(value).map(IpAddr::from);
        let Ok(ip) = four.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)) else {
            continue;
        };
        let mut places = record.places().iter().filter(|place| place.index == index);
        let is_missed = places.any(|place| place.end.addresses.iter().any(|address| address.addr() == ip));
        drop(places);
        record.broken |= is_missed;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::answer::Messages;

    proptest! {
        #[test]
        fn any_report_is_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let (mut state, lost) = (State::default(), broadcast::Sender::new(1));
            for message in Messages(&bytes) {
                link(&message, &mut state, &lost);
                address(message.body, &mut state);
            }
            address(&bytes, &mut state);
        }
    }
}
