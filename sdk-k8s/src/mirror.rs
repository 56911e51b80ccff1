// SPDX-License-Identifier: Apache-2.0
//! Follows the objects of one kind and keeps of each what its reader needs.
//!
//! A watch that ends is opened again where it ended; when the API server does not remember that far back, everything is
//! listed anew, and what is known stays until that is done. So nobody who looks sees less than there was because of an
//! outage.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use nsm_sdk::core::{Backoff, Component, Task};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, error, warn};

use crate::client::is_outage;
use crate::reach::Reach;

/// How many objects are kept.
pub const MAX_OBJECTS: usize = 65_536;

/// How long a watch stays open, seconds: one that is silent because the way is cut is noticed 5 s later.
const WATCH: u32 = 45;

/// How many objects one answer lists: nodes are large.
const PAGE: u32 = 100;

/// How long is waited after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The objects of one kind, followed until this is dropped.
#[derive(Debug)]
pub struct Mirror<V> {
    now: watch::Receiver<Known<V>>,
    _task: Task,
}

/// What is known of the objects.
#[derive(Clone, Debug)]
pub struct Known<V> {
    /// How much it is worth.
    pub state: State,
    /// What is kept of each, by `namespace/name`, or `name` where there is no namespace.
    pub objects: BTreeMap<String, V>,
}

/// How much is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The API server has not told everything yet.
    Waiting,
    /// Everything, as of the last time the API server was reached.
    Synced,
    /// The API server does not have this kind, or does not let us see it.
    Refused,
}

impl<V: Clone + Send + Sync + 'static> Mirror<V> {
    /// Follows the objects of `api` that `selects`. `read` answers what is kept of an object, given what was kept of
    /// it before; nothing for one that does not matter. `reach` says when the API server cannot be reached.
    pub fn start<K, R>(component: &Component, reach: &Reach, api: Api<K>, selects: Config, read: R) -> Self
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        R: FnMut(&K, Option<V>) -> Option<V> + Send + 'static,
    {
        let (told, now) = watch::channel(Known {
            state: State::Waiting,
            objects: BTreeMap::new(),
        });
        let follower = Follower {
            component: component.clone(),
            reach: reach.clone(),
            told,
            listed: None,
            read,
        };
        let task = follower.follow(api, selects.timeout(WATCH).page_size(PAGE));
        Self {
            now,
            _task: component.spawn("mirror", task),
        }
    }

    /// What is known now. To be let go before anything is awaited.
    pub fn now(&self) -> watch::Ref<'_, Known<V>> {
        self.now.borrow()
    }

    /// Waits until the API server has told everything, or that it does not tell.
    pub async fn known(&self) {
        let mut now = self.now.clone();
        // It ends with us.
        let _known = now.wait_for(|known| known.state != State::Waiting).await;
    }

    /// What is known now, and whatever comes after.
    pub fn follow(&self) -> watch::Receiver<Known<V>> {
        self.now.clone()
    }
}

struct Follower<V, R> {
    component: Component,
    reach: Reach,
    told: watch::Sender<Known<V>>,
    /// What was listed so far, while everything is listed anew.
    listed: Option<BTreeMap<String, V>>,
    read: R,
}

impl<V: Clone, R> Follower<V, R> {
    async fn follow<K>(mut self, api: Api<K>, selects: Config)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
        R: FnMut(&K, Option<V>) -> Option<V>,
    {
        let mut events = pin!(watcher(api, selects));
        let mut backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let mut failed = Instant::now();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    // That a list begins is no word of the API server yet.
                    if !matches!(event, Event::Init) {
                        self.reach.answers();
                    }
                    self.take(event);
                }
                Err(error) => {
                    if failed.elapsed() > 2 * LONGEST_WAIT {
                        backoff.reset();
                    }
                    self.report(&K::plural(&()), &error);
                    sleep(backoff.next(&self.component)).await;
                    failed = Instant::now();
                }
            }
        }
    }

    fn take<K>(&mut self, event: Event<K>)
    where
        K: Resource<DynamicType = ()>,
        R: FnMut(&K, Option<V>) -> Option<V>,
    {
        match event {
            Event::Init => self.listed = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let key = key(&object);
                let before = self.told.borrow().objects.get(&key).cloned();
                let kept = (self.read)(&object, before);
                if let (Some(listed), Some(kept)) = (self.listed.as_mut(), kept) {
                    keep(listed, key, kept);
                }
            }
            Event::InitDone => {
                let objects = self.listed.take().unwrap_or_default();
                let state = State::Synced;
                self.told.send_replace(Known { state, objects });
            }
            Event::Apply(object) => {
                let (key, read) = (key(&object), &mut self.read);
                self.told.send_modify(|known| {
                    if let Some(kept) = read(&object, known.objects.remove(&key)) {
                        keep(&mut known.objects, key, kept);
                    }
                });
            }
            Event::Delete(object) => {
                let key = key(&object);
                self.told
                    .send_if_modified(|known| known.objects.remove(&key).is_some());
            }
        }
    }

    fn report(&mut self, kind: &str, error: &watcher::Error) {
        use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
        match error {
            InitialListFailed(cause) | WatchStartFailed(cause) | WatchFailed(cause) if is_outage(cause) => {
                debug!(kind, %error, "cannot follow the objects");
                self.reach.is_silent(cause);
            }
            InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 404) => {
                self.refuse(kind, &status.message);
            }
            // It remembers too little, or is busy: it is asked again.
            WatchError(status) if status.code == 410 => debug!(kind, %error, "listing everything anew"),
            InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status))
                if matches!(status.code, 410 | 429) =>
            {
                debug!(kind, %error, "cannot follow the objects yet");
            }
            error => error!(kind, %error, "cannot follow the objects"),
        }
    }

    fn refuse(&mut self, kind: &str, why: &str) {
        let is_new = self
            .told
            .send_if_modified(|known| std::mem::replace(&mut known.state, State::Refused) != State::Refused);
        if is_new {
            warn!(kind, why, "the API server does not show these objects to us");
        }
    }
}

fn keep<V>(objects: &mut BTreeMap<String, V>, key: String, kept: V) {
    if objects.len() >= MAX_OBJECTS {
        return warn!(object = key, "ignored: there are {MAX_OBJECTS} already");
    }
    objects.insert(key, kept);
}

fn key<K: Resource>(object: &K) -> String {
    let name = object.name_any();
    match object.namespace() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    }
}
