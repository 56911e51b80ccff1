// SPDX-License-Identifier: Apache-2.0
//! A JSON patch (RFC 6902) that grows with the changes of a document.
//!
//! **Guarantees**: a change that changes nothing adds nothing; each operation applies to the document as the ones
//! before have left it; what others have in the same list or map stays.

use serde_json::{Map, Value, json};

/// A document, and how it came to be what it is.
#[derive(Debug)]
pub(crate) struct Patch {
    document: Value,
    operations: Vec<Value>,
}

impl Patch {
    /// No change to `document` yet.
    pub(crate) fn of(document: Value) -> Self {
        Self {
            document,
            operations: Vec::new(),
        }
    }

    /// The document as it is by now.
    pub(crate) fn document(&self) -> &Value {
        &self.document
    }

    /// The changes.
    pub(crate) fn into_operations(self) -> Vec<Value> {
        self.operations
    }

    /// What is at `path`; nothing where it is `null`.
    pub(crate) fn get(&self, path: &[&str]) -> Option<&Value> {
        at(&self.document, path)
    }

    /// Sets what is at `path`, and makes the maps that lead there.
    pub(crate) fn put(&mut self, path: &[&str], value: Value) {
        if self.get(path) == Some(&value) {
            return;
        }
        let known = (0..path.len())
            .rev()
            .find(|length| self.get(&path[..*length]).is_some())
            .unwrap_or_default();
        let (place, inner) = path.split_at((known + 1).min(path.len()));
        let value = inner.iter().rev().fold(value, |value, key| {
            Value::Object(Map::from_iter([((*key).to_string(), value)]))
        });
        let Some((key, parent)) = place.split_last() else {
            return;
        };
        let Some(map) = at_mut(&mut self.document, parent).and_then(Value::as_object_mut) else {
            return;
        };
        map.insert((*key).to_string(), value.clone());
        self.record(json!({ "op": "add", "path": pointer(place), "value": value }));
    }

    /// Takes away what is at `path`.
    pub(crate) fn remove(&mut self, path: &[&str]) {
        let Some((key, parent)) = path.split_last() else {
            return;
        };
        let map = at_mut(&mut self.document, parent).and_then(Value::as_object_mut);
        if map.and_then(|map| map.remove(*key)).is_some() {
            self.record(json!({ "op": "remove", "path": pointer(path) }));
        }
    }

    /// Puts `values` before all others of the list at `path`.
    pub(crate) fn prepend(&mut self, path: &[&str], values: Vec<Value>) {
        self.insert(path, values, false);
    }

    /// Puts `values` behind all others of the list at `path`.
    pub(crate) fn append(&mut self, path: &[&str], values: Vec<Value>) {
        self.insert(path, values, true);
    }

    fn insert(&mut self, path: &[&str], values: Vec<Value>, is_behind: bool) {
        if values.is_empty() {
            return;
        }
        let Some(list) = at_mut(&mut self.document, path).and_then(Value::as_array_mut) else {
            return self.put(path, Value::Array(values));
        };
        let first = if is_behind { list.len() } else { 0 };
        list.splice(first..first, values.iter().cloned());
        for (number, value) in values.into_iter().enumerate() {
            let place = format!("{}/{}", pointer(path), first + number);
            self.record(json!({ "op": "add", "path": place, "value": value }));
        }
    }

    fn record(&mut self, operation: Value) {
        self.operations.push(operation);
    }
}

/// What is at `path` of `document`, where lists have numbers for keys; nothing where it is `null`.
pub(crate) fn at<'a>(document: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let found = path.iter().try_fold(document, |value, key| match value {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        _ => value.get(*key),
    })?;
    (!found.is_null()).then_some(found)
}

/// The text at `path` of `document`.
pub(crate) fn text<'a>(document: &'a Value, path: &[&str]) -> Option<&'a str> {
    at(document, path)?.as_str()
}

/// The items of the list at `path` of `document`.
pub(crate) fn items<'a>(document: &'a Value, path: &[&str]) -> &'a [Value] {
    at(document, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn at_mut<'a>(document: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(document, |value, key| match value {
        Value::Array(list) => list.get_mut(key.parse::<usize>().ok()?),
        _ => value.get_mut(*key),
    })
}

/// RFC 6901.
fn pointer(path: &[&str]) -> String {
    let escaped = |key: &&str| format!("/{}", key.replace('~', "~0").replace('/', "~1"));
    path.iter().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The patch, applied to what it was made for, is the document.
    fn operations(before: &Value, patch: Patch) -> Vec<Value> {
        let (mut document, wanted) = (before.clone(), patch.document().clone());
        let operations = patch.into_operations();
        let applied: json_patch::Patch = serde_json::from_value(json!(operations)).expect("a patch");
        json_patch::patch(&mut document, &applied).expect("it applies");
        assert_eq!(document, wanted);
        operations
    }

    #[test]
    fn maps_on_the_way_are_made_once() {
        let before = json!({ "metadata": { "name": "a" }, "spec": null });
        let mut patch = Patch::of(before.clone());
        patch.put(&["metadata", "labels", "a/b~c"], json!("x"));
        patch.put(&["metadata", "labels", "d"], json!("y"));
        patch.put(&["metadata", "name"], json!("a"));
        patch.put(&["spec", "deep", "deeper"], json!(1));
        assert_eq!(
            operations(&before, patch),
            [
                json!({ "op": "add", "path": "/metadata/labels", "value": { "a/b~c": "x" } }),
                json!({ "op": "add", "path": "/metadata/labels/d", "value": "y" }),
                json!({ "op": "add", "path": "/spec", "value": { "deep": { "deeper": 1 } } }),
            ]
        );
    }

    #[test]
    fn lists_keep_what_is_in_them() {
        let before = json!({ "list": ["b"] });
        let mut patch = Patch::of(before.clone());
        patch.prepend(&["list"], vec![json!("1"), json!("2")]);
        patch.append(&["list"], vec![json!("c")]);
        patch.append(&["new"], vec![json!("n")]);
        patch.append(&["none"], vec![]);
        assert_eq!(
            patch.document(),
            &json!({ "list": ["1", "2", "b", "c"], "new": ["n"] })
        );
        assert_eq!(operations(&before, patch).len(), 4);
    }

    #[test]
    fn only_what_is_there_is_removed() {
        let before = json!({ "metadata": { "annotations": { "a/b": "x", "c": "y" } } });
        let mut patch = Patch::of(before.clone());
        patch.remove(&["metadata", "annotations", "a/b"]);
        patch.remove(&["metadata", "annotations", "a/b"]);
        patch.remove(&["metadata", "labels", "a"]);
        assert_eq!(
            operations(&before, patch),
            [json!({ "op": "remove", "path": "/metadata/annotations/a~1b" })]
        );
    }
}
