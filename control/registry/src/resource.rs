//! A kind behind one interface: what the verbs, written once, call.
//!
//! Adds to a kind's [`Strategy`] what holds for all kinds: metadata rules, generation, decoding. Follows
//! `k8s.io/apiserver/pkg/registry/rest/{create,update,delete}.go`.

use std::marker::PhantomData;

use caravel_api::{FieldErrors, Row};
use serde_json::Value;

use crate::decode::{self, DecodeError};
use crate::meta;
use crate::object::Object;
use crate::strategy::{Grace, Strategy};

/// The rules of one kind over objects whose type the caller does not know. Every `&dyn Object` given must be of
/// this resource's kind (as its own `decode` makes them); anything else panics.
#[allow(clippy::wrong_self_convention)]
pub trait Resource: Send + Sync {
    fn row(&self) -> &'static Row;
    /// From a request's JSON body in this row's version. Normalised, not defaulted.
    fn decode(&self, body: &[u8]) -> Result<Box<dyn Object>, DecodeError>;
    /// As [`decode`](Self::decode), from a value (a patch's result).
    fn from_value(&self, value: Value) -> Result<Box<dyn Object>, DecodeError>;
    /// From stored JSON, which is in the storage version. Normalised.
    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, DecodeError>;
    /// The JSON to store, in the storage version.
    fn encode_stored(&self, object: &dyn Object) -> Vec<u8>;
    fn apply_defaults(&self, object: &mut dyn Object);
    fn prepare_create(&self, object: &mut dyn Object);
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object);
    fn prepare_status(&self, new: &mut dyn Object, old: &dyn Object);
    fn validate(&self, object: &dyn Object) -> FieldErrors;
    fn validate_update(&self, new: &dyn Object, old: &dyn Object) -> FieldErrors;
    fn validate_status(&self, new: &dyn Object, old: &dyn Object) -> FieldErrors;
    /// What is wrong with the metadata alone: for subresources whose own rules are elsewhere.
    fn validate_meta_update(&self, new: &dyn Object, old: &dyn Object) -> FieldErrors;
    fn warnings(&self, new: &dyn Object, old: Option<&dyn Object>) -> Vec<String>;
    fn grace(&self, object: &dyn Object, requested: Option<i64>) -> Grace;
    /// Called when the deletion time is set on an object that stays for now.
    fn begin_deletion(&self, object: &mut dyn Object);
    /// Does anything (a finalizer) keep this object in place once it is deleted?
    fn held(&self, object: &dyn Object) -> bool;
    /// The value of a selectable field; `None`: the field cannot be selected by.
    fn field(&self, object: &dyn Object, path: &str) -> Option<String>;
    /// Can objects be selected by this field?
    fn selectable(&self, path: &str) -> bool;
    fn has_status(&self) -> bool;
    /// Are these two equal in all but `resourceVersion` and `managedFields`' times? Then an update changes nothing.
    fn same(&self, a: &dyn Object, b: &dyn Object) -> bool;
}

/// The [`Resource`] of a kind that has a Rust type.
pub struct Typed<K>(PhantomData<fn() -> K>);

impl<K> Typed<K> {
    pub const NEW: Self = Typed(PhantomData);
}

fn of<K: Strategy>(object: &dyn Object) -> &K {
    object
        .typed()
        .expect("a resource is called with objects of its own kind")
}

fn of_mut<K: Strategy>(object: &mut dyn Object) -> &mut K {
    object
        .typed_mut()
        .expect("a resource is called with objects of its own kind")
}

impl<K: Strategy> Resource for Typed<K> {
    fn row(&self) -> &'static Row {
        K::row()
    }

    fn decode(&self, body: &[u8]) -> Result<Box<dyn Object>, DecodeError> {
        Ok(Box::new(decode::body::<K>(body)?))
    }

    fn from_value(&self, value: Value) -> Result<Box<dyn Object>, DecodeError> {
        Ok(Box::new(decode::value::<K>(value)?))
    }

    fn decode_stored(&self, json: &[u8]) -> Result<Box<dyn Object>, DecodeError> {
        let mut object = K::from_stored(json).map_err(|cause| DecodeError::stored::<K>(&cause))?;
        object.normalise();
        Ok(Box::new(object))
    }

    fn encode_stored(&self, object: &dyn Object) -> Vec<u8> {
        of::<K>(object).to_stored()
    }

    fn apply_defaults(&self, object: &mut dyn Object) {
        of_mut::<K>(object).apply_defaults();
    }

    fn prepare_create(&self, object: &mut dyn Object) {
        let object = of_mut::<K>(object);
        let meta = object.metadata_mut();
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        meta.self_link = None;
        meta.generation = K::GENERATION.then_some(1);
        object.prepare_create();
    }

    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object) {
        let (new, old) = (of_mut::<K>(new), of::<K>(old));
        meta::carry(new.metadata_mut(), old.metadata());
        new.prepare_update(old);
        if K::GENERATION && new.desired_changed(old) {
            new.metadata_mut().generation = Some(old.metadata().generation.unwrap_or(0) + 1);
        }
    }

    fn prepare_status(&self, new: &mut dyn Object, old: &dyn Object) {
        let (new, old) = (of_mut::<K>(new), of::<K>(old));
        meta::carry(new.metadata_mut(), old.metadata());
        new.prepare_status(old);
    }

    fn validate(&self, object: &dyn Object) -> FieldErrors {
        let object = of::<K>(object);
        let mut errors = meta::validate(object.metadata(), K::NAME, K::row().is_namespaced());
        errors.extend(object.validate());
        errors
    }

    fn validate_update(&self, new: &dyn Object, old: &dyn Object) -> FieldErrors {
        let (new, old) = (of::<K>(new), of::<K>(old));
        let mut errors = meta::validate_update(new.metadata(), old.metadata());
        errors.extend(new.validate_update(old));
        errors
    }

    fn validate_status(&self, new: &dyn Object, old: &dyn Object) -> FieldErrors {
        let (new, old) = (of::<K>(new), of::<K>(old));
        let mut errors = meta::validate_update(new.metadata(), old.metadata());
        errors.extend(new.validate_status(old));
        errors
    }

    fn validate_meta_update(&self, new: &dyn Object, old: &dyn Object) -> FieldErrors {
        meta::validate_update(new.meta(), old.meta())
    }

    fn warnings(&self, new: &dyn Object, old: Option<&dyn Object>) -> Vec<String> {
        of::<K>(new).warnings(old.map(of::<K>))
    }

    fn grace(&self, object: &dyn Object, requested: Option<i64>) -> Grace {
        of::<K>(object).grace(requested)
    }

    fn begin_deletion(&self, object: &mut dyn Object) {
        of_mut::<K>(object).begin_deletion();
    }

    fn held(&self, object: &dyn Object) -> bool {
        object
            .meta()
            .finalizers
            .as_ref()
            .is_some_and(|finalizers| !finalizers.is_empty())
            || of::<K>(object).held()
    }

    fn field(&self, object: &dyn Object, path: &str) -> Option<String> {
        match path {
            "metadata.name" => Some(object.meta().name.clone().unwrap_or_default()),
            "metadata.namespace" if K::row().is_namespaced() => {
                Some(object.meta().namespace.clone().unwrap_or_default())
            }
            _ => of::<K>(object).field(path),
        }
    }

    fn selectable(&self, path: &str) -> bool {
        match path {
            "metadata.name" => true,
            "metadata.namespace" => K::row().is_namespaced(),
            _ => K::FIELDS.contains(&path),
        }
    }

    fn has_status(&self) -> bool {
        K::has_status()
    }

    fn same(&self, a: &dyn Object, b: &dyn Object) -> bool {
        let (a, b) = (of::<K>(a), of::<K>(b));
        if !meta::same(a.metadata(), b.metadata()) {
            return false;
        }
        let mut a = a.clone();
        *a.metadata_mut() = b.metadata().clone();
        a == *b
    }
}
