// SPDX-License-Identifier: Apache-2.0
//! Which tunnels are being removed without anybody waiting, and who has to wait for them.
//!
//! **Guarantees**: whoever makes a tunnel after one was dismissed that is in its way makes it when that one is gone. There
//! are as many entries as there were tunnels at most.

use std::collections::HashMap;

use tokio::sync::watch;

use crate::netns::NetnsId;

/// What only one device can have: a namespace and a name.
pub(crate) type Place = (NetnsId, String);

#[derive(Clone, Debug)]
struct Entry {
    id: String,
    /// Unknown while the tunnel is being made.
    place: Option<Place>,
}

#[derive(Default)]
struct Entries {
    last: u64,
    all: HashMap<u64, Entry>,
}

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Leaving(watch::Sender<Entries>);

impl Leaving {
    /// Notes that the tunnel `id` is to go. Returns the number of the note.
    pub(crate) fn begin(&self, id: &str, place: Option<Place>) -> u64 {
        let mut number = 0;
        self.0.send_modify(|entries| {
            entries.last = entries.last.wrapping_add(1);
            number = entries.last;
            let id = id.to_owned();
            entries.all.insert(number, Entry { id, place });
        });
        number
    }

    /// Notes where the tunnel turned out to be.
    pub(crate) fn found(&self, number: u64, place: Place) {
        self.0.send_modify(|entries| {
            if let Some(entry) = entries.all.get_mut(&number) {
                entry.place = Some(place);
            }
        });
    }

    /// Notes that the tunnel is gone.
    pub(crate) fn end(&self, number: u64) {
        self.0.send_modify(|entries| drop(entries.all.remove(&number)));
    }

    /// Waits until nothing is in the way of the tunnel `id` at `place`.
    pub(crate) async fn clear(&self, id: &str, place: &Place) {
        let is_in_the_way = |entry: &Entry| entry.id == id || entry.place.as_ref() == Some(place);
        let is_clear = |entries: &Entries| !entries.all.values().any(is_in_the_way);
        // It ends with an error only when this does, which nobody can wait for then.
        let _ = self.0.subscribe().wait_for(is_clear).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn place(name: &str) -> Place {
        (NetnsId::nowhere(), name.into())
    }

    #[tokio::test]
    async fn only_what_has_the_same_id_or_place_waits() {
        let leaving = Leaving::default();
        let first = leaving.begin("a", Some(place("nsm-1")));
        leaving.clear("b", &place("nsm-2")).await;
        for (id, name) in [("a", "nsm-2"), ("b", "nsm-1")] {
            let to = place(name);
            assert!(leaving.clear(id, &to).now_or_never().is_none());
        }
        leaving.end(first);
        leaving.clear("a", &place("nsm-1")).await;
    }

    #[tokio::test]
    async fn a_place_that_is_found_later_is_waited_for_too() {
        let leaving = Leaving::default();
        let first = leaving.begin("a", None);
        leaving.clear("b", &place("nsm-1")).await;
        leaving.found(first, place("nsm-1"));
        let to = place("nsm-1");
        let mut waiting = Box::pin(leaving.clear("b", &to));
        assert!(waiting.as_mut().now_or_never().is_none());
        leaving.end(first);
        waiting.await;
    }
}
