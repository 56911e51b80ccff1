// SPDX-License-Identifier: Apache-2.0
//! Keeps what is registered as objects of Kubernetes, answers queries from what it knows of them and tells watchers
//! what changes.
//!
//! **Guarantees**: a query asks nobody. What was registered or unregistered here is found, or not, at once, and at
//! other replicas as soon as the API server tells them. An object is changed only from the state that was judged; when
//! somebody else has changed it meanwhile, the change is made on top of theirs, unless it has changed hands: then the
//! call fails with `conflict`, and is judged anew when it is made again. A registration that changes nothing but times
//! is written only when too little is left of the [lease](super). Services that people have written are neither
//! overwritten nor deleted.
//! **Placement**: last; behind `begin` and, for endpoints, `expire`.
//! **Reads / writes**: [`Expired`] and [`Judged`] from [`Ctx::call`]; the time of the first registration.
//! **On failure**: nothing is stored that was not before. While the API server cannot be reached, what would have to
//! be written fails with `api-server-unreachable`.
//! **On close**: the object is deleted; an unknown one is fine. One that has expired here is deleted only if it is as
//! this replica left it.
//! **Cost**: a look-up takes a lock and a map; a registration one request to the API server, or none.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use nsm_sdk::core::{Component, Ctx, Element, Entry as _, Error, Found, Message as _, Next, Result};
use nsm_sdk::registry::authorize::Judged;
use nsm_sdk::registry::expire::Expired;
use tokio::sync::watch;
use tracing::debug;

use super::api_server::{ApiServer, Refusal, conflict};
use super::cache::{Cache, Known};
use super::kind::Kind;
use super::object::{Object, Version};
use super::store::Store;
use super::{conditions, expiry, follow};

/// How often a change is tried that others cross.
const TRIES: usize = 5;

/// What is written of the time that an endpoint asks for: the time, and this many times it on top.
const SLACK: u32 = 2;

/// See the [module](self). Clones are the same store.
pub struct Etcd<A: Kind> {
    pub(super) store: Arc<Store<A>>,
    pub(super) cache: Cache<A>,
    is_synced: watch::Receiver<bool>,
}

impl<A: Kind> Clone for Etcd<A> {
    fn clone(&self) -> Self {
        Self {
            store: Arc::clone(&self.store),
            cache: self.cache.clone(),
            is_synced: self.is_synced.clone(),
        }
    }
}

/// The state in which this replica left the object of a registration.
struct Written(Version);

/// Whether the call is done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// What it was about has changed meanwhile, and is known now.
    Again,
}

impl<A: Kind> Etcd<A> {
    /// Starts to follow the objects of every namespace in tasks of `component`. `home` is the namespace in which the
    /// registry writes, `period` how long an endpoint is kept that is due while the API server cannot be reached.
    pub fn start(component: &Component, api: &ApiServer, home: &str, period: Duration) -> Self {
        let cache = Cache::new(home);
        let store = Arc::new(Store::new(api, cache.home()));
        let (synced, is_synced) = watch::channel(false);
        let run = || (component.clone(), Arc::clone(&store), cache.clone());
        let (one, two, three) = (run(), run(), run());
        component.spawn_detached("follow", follow::follow(one.0, one.1, one.2, synced));
        component.spawn_detached("expiry", expiry::expire(two.0, two.1, two.2, period));
        component.spawn_detached("conditions", conditions::tell(three.0, three.1, three.2));
        Self {
            store,
            cache,
            is_synced,
        }
    }

    /// Waits until everything is known.
    pub async fn synced(&self) {
        let mut is_synced = self.is_synced.clone();
        // Whoever would say so goes with the component, which is what ends this wait then.
        drop(is_synced.wait_for(|is_synced| *is_synced).await);
    }

    async fn put(&self, ctx: &Ctx, message: &mut A::Message) -> Result<Step> {
        let name = message.id().to_string();
        if let Some(found) = self.cache.found(&name).filter(|found| found.is_of_people) {
            debug!(
                name,
                namespace = &*found.key.namespace,
                "people have written it; it stays as it is"
            );
            return Ok(Step::Done);
        }
        match self.cache.own(&name) {
            None => self.create(ctx, message).await,
            Some(known) => self.replace(ctx, message, &known).await,
        }
    }

    async fn create(&self, ctx: &Ctx, message: &A::Message) -> Result<Step> {
        match self.store.create(leased::<A>(ctx, &message.entry)).await {
            Ok(object) => {
                self.wrote(ctx, object);
                Ok(Step::Done)
            }
            Err(Refusal::Conflict) => self.look_again(ctx, message, None).await,
            Err(refusal) => Err(refusal.into_error(|| self.store.nowhere())),
        }
    }

    async fn replace(&self, ctx: &Ctx, message: &mut A::Message, known: &Known<A>) -> Result<Step> {
        is_as_judged(ctx, message, known)?;
        if known.is_going || known.is_of_people {
            let why = if known.is_going {
                "is being deleted"
            } else {
                "is another service"
            };
            let (name, object) = (message.id(), &known.key.name);
            let text = format!("cannot register {name:?}: the object {object:?} {why}");
            return Err(Error::new(tonic::Code::Aborted, "object-in-the-way", text));
        }
        let stored = known.entry.as_deref().filter(|_| !known.is_over);
        let is_same = stored.is_some_and(|stored| A::essence(stored) == A::essence(&message.entry));
        if let Some(stored) =
            stored.filter(|stored| stored.path_ids().first() == message.entry.path_ids().first())
        {
            A::keep_first(stored, &mut message.entry);
        }
        if is_same && is_covered::<A>(ctx, known, &message.entry) {
            return Ok(Step::Done);
        }
        match self.store.replace(known, leased::<A>(ctx, &message.entry)).await {
            Ok(object) => {
                self.wrote(ctx, object);
                Ok(Step::Done)
            }
            Err(Refusal::Unreachable(_)) if is_same => {
                if let Some(until) = A::expires(&message.entry) {
                    self.cache.keep(&known.key, &known.version, until);
                }
                Ok(Step::Done)
            }
            Err(Refusal::Missing) => {
                self.cache.was_deleted(&known.key, &known.uid);
                Ok(Step::Again)
            }
            Err(Refusal::Conflict) => self.look_again(ctx, message, known.owner.as_deref()).await,
            Err(refusal) => Err(refusal.into_error(|| self.store.nowhere())),
        }
    }

    fn wrote(&self, ctx: &Ctx, object: Object<A>) {
        ctx.store().insert(Written(object.version.clone()));
        self.cache.is_now(object);
    }

    /// Gets to know the object that is in the way. Errors: `conflict`, when it is neither the caller's nor that of
    /// `judged`, whose it was when the call was judged.
    async fn look_again(&self, ctx: &Ctx, message: &A::Message, judged: Option<&str>) -> Result<Step> {
        let key = self
            .cache
            .own(message.id())
            .map_or_else(|| self.cache.key(message.id()), |known| known.key);
        let object = match self.store.get(&key).await {
            Ok(object) => object,
            Err(Refusal::Missing) => {
                if let Some(known) = self.cache.own(message.id()) {
                    self.cache.was_deleted(&known.key, &known.uid);
                }
                return Ok(Step::Again);
            }
            Err(refusal) => return Err(refusal.into_error(|| self.store.nowhere())),
        };
        let caller = message.entry.path_ids().first().map(String::as_str);
        let owner = object
            .owner()
            .filter(|owner| Some(*owner) != caller && Some(*owner) != judged);
        let is_over = object
            .entry
            .as_ref()
            .is_ok_and(|entry| A::expires(entry).is_some_and(|end| end <= ctx.component().now()));
        let changed_hands = owner.filter(|_| !is_over).is_some();
        self.cache.is_now(object);
        if changed_hands {
            return Err(conflict());
        }
        Ok(Step::Again)
    }

    async fn remove(&self, ctx: &Ctx, message: &A::Message) -> Result<Step> {
        let name = message.id();
        let Some(known) = self.cache.own(name) else {
            if ctx.call().has::<Expired>() {
                return Ok(Step::Done);
            }
            // Another replica may have registered it just now.
            return match self.store.get(&self.cache.key(name)).await {
                Err(Refusal::Missing) => Ok(Step::Done),
                Err(refusal) => Err(refusal.into_error(|| self.store.nowhere())),
                Ok(_) => self.look_again(ctx, message, None).await,
            };
        };
        let version = match ctx.call().has::<Expired>() {
            true => Some(&known.version),
            false => None,
        };
        let is_ours = || ctx.store().with(|Written(version)| *version == known.version);
        if version.is_some() && is_ours() != Some(true) {
            debug!(name, "it is renewed elsewhere; it stays");
            return Ok(Step::Done);
        }
        if known.is_of_people || known.is_going {
            return Ok(Step::Done);
        }
        if version.is_none() {
            is_as_judged(ctx, message, &known)?;
        }
        match self.store.delete(&known.key, &known.uid, version).await {
            Ok(Some(object)) => self.cache.is_now(object),
            Ok(None) | Err(Refusal::Missing) => self.cache.was_deleted(&known.key, &known.uid),
            Err(Refusal::Conflict) if version.is_some() => debug!(name, "it was renewed meanwhile; it stays"),
            Err(Refusal::Conflict) => return self.look_again(ctx, message, known.owner.as_deref()).await,
            Err(refusal) => return Err(refusal.into_error(|| self.store.nowhere())),
        }
        Ok(Step::Done)
    }
}

/// Errors: `conflict`, when what is known is neither the caller's nor that of the owner by whom the call was judged: the
/// watch may have told of another one since.
fn is_as_judged<A: Kind>(ctx: &Ctx, message: &A::Message, known: &Known<A>) -> Result<()> {
    let Some(Judged(judged)) = ctx.call().get() else {
        return Ok(());
    };
    let owner = known.owner.as_ref().filter(|_| !known.is_over);
    let is_known = owner.is_none() || owner == judged.as_ref() || owner == message.entry.path_ids().first();
    is_known.then_some(()).ok_or_else(conflict)
}

/// What is written of a registration: the entry, for longer than it asks for.
fn leased<A: Kind>(ctx: &Ctx, entry: &A::Entry) -> A::Entry {
    let mut entry = entry.clone();
    if let Some(asked) = A::expires(&entry) {
        let slack = ctx.component().until(asked).saturating_mul(SLACK);
        let leased = asked.checked_add(slack).unwrap_or(asked);
        A::set_expiration(&mut entry, Some(leased.into()));
    }
    entry
}

/// Whether what is stored is enough for a registration that changes nothing but times: the object is as this replica
/// left it, so others see by it that this one is visited, and is registered for as long as is asked.
fn is_covered<A: Kind>(ctx: &Ctx, known: &Known<A>, entry: &A::Entry) -> bool {
    let Some(asked) = A::expires(entry) else {
        return true;
    };
    let is_ours = ctx.store().with(|Written(version)| *version == known.version);
    is_ours == Some(true) && known.stored.is_some_and(|stored| stored >= asked)
}

#[async_trait]
impl<A: Kind> Element<A> for Etcd<A> {
    fn name(&self) -> &'static str {
        "etcd"
    }

    async fn request(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        next.request(ctx, message).await?;
        let write = async {
            for _ in 0..TRIES {
                if self.put(ctx, message).await? == Step::Done {
                    return Ok(());
                }
            }
            Err(conflict())
        };
        ctx.bounded("write to the API server", write).await
    }

    async fn close(&self, ctx: &Ctx, message: &mut A::Message, next: Next<'_, A>) -> Result<()> {
        let delete = async {
            for _ in 0..TRIES {
                if self.remove(ctx, message).await? == Step::Done {
                    return Ok(());
                }
            }
            Err(conflict())
        };
        let deleted = ctx.bounded("write to the API server", delete).await;
        next.close(ctx, message).await.and(deleted)
    }

    async fn find(&self, ctx: &Ctx, query: A::Query, next: Next<'_, A>) -> Result<Found<A>> {
        let rest = next.find(ctx, query.clone()).await?;
        let (_, watch) = A::asked(query.clone());
        let own = self.cache.answer(ctx.component(), query)?;
        if watch {
            return Ok(Box::pin(stream::select(own, rest)));
        }
        Ok(Box::pin(own.chain(rest)))
    }
}

#[cfg(test)]
mod tests;
