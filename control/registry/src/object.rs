//! An object of some kind, behind one interface: what the verbs need to know of it.
//!
//! It never decides anything: rules live in strategies. Fields are as in `k8s.io/api`.

use std::any::Any;

use caravel_api::Row;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::strategy::Strategy;

/// A decoded object of any kind.
pub trait Object: Any + Send + Sync {
    fn row(&self) -> &'static Row;
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// JSON with `apiVersion` and `kind`, in this object's own version.
    fn to_vec(&self) -> Vec<u8>;
    fn to_value(&self) -> Value;
    fn clone_object(&self) -> Box<dyn Object>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl dyn Object {
    /// This object as its Rust type, where it is of that kind.
    pub fn typed<K: 'static>(&self) -> Option<&K> {
        self.as_any().downcast_ref()
    }

    /// As [`typed`](Self::typed), to change it.
    pub fn typed_mut<K: 'static>(&mut self) -> Option<&mut K> {
        self.as_any_mut().downcast_mut()
    }
}

impl<K: Strategy> Object for K {
    fn row(&self) -> &'static Row {
        K::row()
    }

    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }

    fn to_vec(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect(
            "Kubernetes types have string keys and no failing serialiser for times in range",
        )
    }

    fn to_value(&self) -> Value {
        serde_json::to_value(self).expect(
            "Kubernetes types have string keys and no failing serialiser for times in range",
        )
    }

    fn clone_object(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
