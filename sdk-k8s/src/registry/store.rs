// SPDX-License-Identifier: Apache-2.0
//! The objects of one kind in the API server: one request a method.

use std::sync::Arc;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use kube::Api;
use kube::api::{ApiResource, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::DynamicObject;
use nsm_sdk::core::{Component, Entry as _, Error};
use serde_json::{Value, json};

use super::api_server::{ApiServer, Refusal};
use super::cache::{Known, Wrong};
use super::kind::Kind;
use super::object::{Key, Object, Version};
use crate::resources::{ACCEPTED, Condition, Status};

/// Who we are to the API server where it tracks who owns which field.
const FIELD_MANAGER: &str = "nsm-registry";

/// See the [module](self).
pub(super) struct Store<A: Kind> {
    pub(super) api: ApiServer,
    home: Arc<str>,
    resource: ApiResource,
    kind: std::marker::PhantomData<fn(A)>,
}

type Answer<T> = Result<T, Refusal>;

impl<A: Kind> Store<A> {
    /// `home` is the namespace in which the registry writes.
    pub(super) fn new(api: &ApiServer, home: &Arc<str>) -> Self {
        Self {
            api: api.clone(),
            home: Arc::clone(home),
            resource: ApiResource::erase::<A::Resource>(&()),
            kind: std::marker::PhantomData,
        }
    }

    /// The objects of every namespace.
    pub(super) fn everywhere(&self) -> Api<DynamicObject> {
        Api::all_with(self.api.client(), &self.resource)
    }

    fn of(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.api.client(), namespace, &self.resource)
    }

    fn read(&self, object: DynamicObject) -> Object<A> {
        Object::read(object, &self.home)
    }

    /// Makes an object.
    pub(super) async fn create(&self, entry: A::Entry) -> Answer<Object<A>> {
        let name = entry.name().to_string();
        let what = format!("register {name:?}");
        let mut object = DynamicObject::new(&name, &self.resource).within(&self.home);
        object.data = json!({ "spec": spec::<A>(entry)? });
        let (api, params) = (self.of(&self.home), PostParams::default());
        let made = self.api.ask(&what, api.create(&params, &object)).await?;
        Ok(self.read(made))
    }

    /// Replaces what an object registers, if it is still what we know.
    pub(super) async fn replace(&self, known: &Known<A>, entry: A::Entry) -> Answer<Object<A>> {
        let what = format!("register {:?}", entry.name());
        let version = Value::from(known.version.as_str());
        // A wrong version is a conflict; adding what is there replaces it.
        let patch = json_patch::Patch(vec![
            PatchOperation::Replace(ReplaceOperation {
                path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
                value: version,
            }),
            PatchOperation::Add(AddOperation {
                path: PointerBuf::from_tokens(["spec"]),
                value: spec::<A>(entry)?,
            }),
        ]);
        let (api, params) = (self.of(&known.key.namespace), PatchParams::default());
        let patch = Patch::Json::<()>(patch);
        let changed = self
            .api
            .ask(&what, api.patch(&known.key.name, &params, &patch))
            .await?;
        Ok(self.read(changed))
    }

    /// The object of this key as it is now.
    pub(super) async fn get(&self, key: &Key) -> Answer<Object<A>> {
        let api = self.of(&key.namespace);
        let what = format!("look at {:?}", &*key.name);
        let found = self.api.ask(&what, api.get(&key.name)).await?;
        Ok(self.read(found))
    }

    /// Deletes this life of an object; with a version, only if that is still its state. Answers the object when
    /// something delays its end.
    pub(super) async fn delete(
        &self,
        key: &Key,
        uid: &str,
        version: Option<&Version>,
    ) -> Answer<Option<Object<A>>> {
        let api = self.of(&key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_string()),
                resource_version: version.map(|version| version.as_str().to_string()),
            }),
            ..DeleteParams::default()
        };
        let what = format!("unregister {:?}", &*key.name);
        let answer = self.api.ask(&what, api.delete(&key.name, &params)).await?;
        Ok(answer.left().map(|object| self.read(object)))
    }

    /// Writes into an object's status what there is to tell, if the object is still what it is about.
    pub(super) async fn tell(&self, component: &Component, wrong: &Wrong) -> Answer<Object<A>> {
        let now = k8s_openapi::jiff::Timestamp::try_from(component.now());
        let condition = Condition {
            r#type: ACCEPTED.to_string(),
            status: if wrong.told.is_accepted { "True" } else { "False" }.to_string(),
            reason: wrong.told.reason.clone(),
            message: wrong.message.clone(),
            last_transition_time: format!("{:.0}", now.unwrap_or_default()),
            observed_generation: wrong.told.generation,
        };
        let status = Status {
            conditions: vec![condition],
            ..Status::default()
        };
        let patch = Patch::Apply(json!({
            "apiVersion": self.resource.api_version,
            "kind": self.resource.kind,
            "metadata": { "name": &*wrong.key.name, "resourceVersion": wrong.version.as_str() },
            "status": status,
        }));
        let what = format!("write the status of {:?}", &*wrong.key.name);
        let (api, params) = (
            self.of(&wrong.key.namespace),
            PatchParams::apply(FIELD_MANAGER).force(),
        );
        let told = self
            .api
            .ask(&what, api.patch_status(&wrong.key.name, &params, &patch))
            .await?;
        Ok(self.read(told))
    }

    /// Writes into an object's status how many endpoints there are.
    pub(super) async fn count(&self, key: &Key, count: i64) -> Answer<Object<A>> {
        let patch = Patch::Merge(json!({ "status": { "endpoints": count } }));
        let what = format!("write the status of {:?}", &*key.name);
        let (api, params) = (self.of(&key.namespace), PatchParams::default());
        let told = self
            .api
            .ask(&what, api.patch_status(&key.name, &params, &patch))
            .await?;
        Ok(self.read(told))
    }

    /// What it means that there is no such object when one is made.
    pub(super) fn nowhere(&self) -> Error {
        let text = format!(
            "cannot write into the namespace {:?}: it, or the definition of {}.{}, is not there",
            &*self.home, self.resource.plural, self.resource.group
        );
        Error::unavailable("no-namespace", text)
    }
}

fn spec<A: Kind>(entry: A::Entry) -> Answer<Value> {
    let bad = |error: serde_json::Error| Refusal::Refused(Error::internal("bad-spec", error.to_string()));
    A::spec(entry).map_err(bad)
}
