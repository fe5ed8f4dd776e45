//! The rules of one kind: a handful of small functions, all with a sensible provided body.
//!
//! Follows `k8s.io/apiserver/pkg/registry/rest` (create, update and delete strategies). A strategy never reads
//! anything but its arguments.

use caravel_api::{FieldErrors, Kind};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Amount;

pub use crate::meta::NameRule;

/// How an object is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// At once (where no finalizer holds it).
    Immediate,
    /// It is marked, and goes when its owner is done or after this many seconds.
    After(i64),
}

/// The rules of one kind.
///
/// Order of use on create: `apply_defaults`, `prepare_create`, `validate`; on update: `apply_defaults`,
/// `prepare_update`, `validate_update`; on an update of the status: `apply_defaults`, `prepare_status`,
/// `validate_status`. Metadata is validated by [`Resource`](crate::Resource), not here.
pub trait Strategy: Kind {
    /// What `metadata.name` must be.
    const NAME: NameRule = NameRule::DnsSubdomain;

    /// Does this kind count changes of its specification in `metadata.generation`?
    const GENERATION: bool = false;

    /// Fields that a field selector may name beside `metadata.name` and `metadata.namespace`.
    const FIELDS: &'static [&'static str] = &[];

    /// Brings what decoding left in several forms into one (canonical quantities, zero = absent where upstream
    /// omits it), so that `==` is upstream's semantic equality.
    fn normalise(&mut self) {}

    /// The quantities of the object that its creator wrote: one that is none is refused where the object is decoded, as upstream's
    /// decoder does.
    fn amounts(&self) -> Vec<&Amount> {
        Vec::new()
    }

    fn apply_defaults(&mut self) {}

    /// Drops what a creator may not say (status), fills what the server says.
    fn prepare_create(&mut self) {}

    /// Puts back what a writer of the object itself may not change (status).
    fn prepare_update(&mut self, old: &Self) {
        let _ = old;
    }

    /// Puts back what a writer of the status may not change (everything else).
    fn prepare_status(&mut self, old: &Self) {
        let _ = old;
    }

    /// Did what the user wants change? Bumps the generation where the kind counts one.
    fn desired_changed(&self, old: &Self) -> bool {
        let _ = old;
        false
    }

    /// What is wrong with a new object.
    fn validate(&self) -> FieldErrors {
        FieldErrors::new()
    }

    /// What is wrong with this object in the place of `old`.
    fn validate_update(&self, old: &Self) -> FieldErrors {
        let _ = old;
        self.validate()
    }

    /// What is wrong with this object's status in the place of `old`'s.
    fn validate_status(&self, old: &Self) -> FieldErrors {
        let _ = old;
        FieldErrors::new()
    }

    /// What the writer should know although it is allowed; goes into `Warning` headers.
    fn warnings(&self, old: Option<&Self>) -> Vec<String> {
        let _ = old;
        Vec::new()
    }

    /// How this object goes when `requested` seconds of grace are asked for (`None`: the kind's default).
    fn grace(&self, requested: Option<i64>) -> Grace {
        let _ = requested;
        Grace::Immediate
    }

    /// Called when the deletion time is set on an object that stays for now.
    fn begin_deletion(&mut self) {}

    /// Is there something beside `metadata.finalizers` that keeps a deleted object in place?
    fn held(&self) -> bool {
        false
    }

    /// The value of a selectable field; `None` where the kind has no such selectable field.
    fn field(&self, path: &str) -> Option<String> {
        let _ = path;
        None
    }

    /// Is there a `status` subresource?
    fn has_status() -> bool {
        Self::row().subresource("status").is_some()
    }

    /// This object from the JSON that is stored (which is in the storage version).
    fn from_stored(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// The JSON to store, in the storage version.
    fn to_stored(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect(
            "Kubernetes types have string keys and no failing serialiser for times in range",
        )
    }
}
