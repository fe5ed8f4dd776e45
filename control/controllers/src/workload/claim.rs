//! Who belongs to whom: adopts what a selector matches and nobody controls, lets go what it no longer matches.
//!
//! Follows `pkg/controller/controller_ref_manager.go`. Never touches what another controller owns.

use std::sync::Arc;

use caravel_api::{Kind, Meta, Selector};
use caravel_store::{Snapshot, Undecodable};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::action::Action;

/// What an owner has, and what must first be done about the rest.
pub struct Claimed<K> {
    pub mine: Vec<Arc<K>>,
    /// Adoptions and releases. The plan is these alone when there are any; the next look sees their result.
    pub actions: Vec<Action>,
}

pub fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
}

/// The reference by which `owner` controls an object.
pub fn controller_reference<O: Kind>(owner: &O) -> OwnerReference {
    let metadata = owner.metadata();
    OwnerReference {
        api_version: O::row().api_version(),
        kind: O::row().kind.to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Objects of kind `K` that `owner` has or might take: nobody else's, judged without decoding the rest.
pub fn candidates<K: Kind>(
    cluster: &Snapshot,
    namespace: &str,
    owner: &str,
    selector: &Selector,
) -> Result<Vec<Arc<K>>, Undecodable> {
    let concerns = |meta: &Meta| match meta.controller() {
        Some(controller) => controller.uid == owner,
        None => selector.matches(&meta.labels),
    };
    cluster
        .list(&K::row().prefix(Some(namespace)))
        .filter(|entry| concerns(&entry.meta))
        .map(|entry| entry.decode::<K>())
        .collect()
}

/// `adoptable` says which of the ownerless ones may be taken.
pub fn claim<K: Kind, O: Kind>(
    candidates: impl IntoIterator<Item = Arc<K>>,
    owner: &O,
    selector: &Selector,
    adoptable: fn(&K) -> bool,
) -> Claimed<K> {
    let uid = owner.metadata().uid.as_deref().unwrap_or_default();
    let owner_lives = owner.metadata().deletion_timestamp.is_none();
    let mut claimed = Claimed {
        mine: Vec::new(),
        actions: Vec::new(),
    };
    for object in candidates {
        let metadata = object.metadata();
        let matches = selector.matches(metadata.labels.as_ref().unwrap_or(&Default::default()));
        match controller_of(metadata) {
            Some(controller) if controller.uid != uid => {}
            Some(_) if matches => claimed.mine.push(object),
            Some(_) if owner_lives => {
                let mut released = (*object).clone();
                if let Some(owners) = &mut released.metadata_mut().owner_references {
                    owners.retain(|owner| owner.uid != uid);
                }
                claimed.actions.push(Action::update(&released));
            }
            None if matches
                && owner_lives
                && metadata.deletion_timestamp.is_none()
                && adoptable(&object) =>
            {
                let mut adopted = (*object).clone();
                adopted
                    .metadata_mut()
                    .owner_references
                    .get_or_insert_default()
                    .push(controller_reference(owner));
                claimed.actions.push(Action::update(&adopted));
            }
            _ => {}
        }
    }
    claimed
}
