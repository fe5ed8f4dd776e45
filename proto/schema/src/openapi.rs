//! The OpenAPI documents, made on demand from the same types as everything else, and kept once made.
//!
//! Good for `kubectl explain`, `diff`, `apply` and `create --validate`; they are not the place for documentation of ours.
//! All of v3 is made at the first request for any of it, since the index carries every document's hash.
//! Upstream: `k8s.io/kube-openapi/pkg/handler{,3}`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use caravel_api::kinds::{self, KINDS, Row};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha512};

use definitions::{Dialect, Source};

mod definitions;
mod gnostic;
mod paths;
mod v2;

#[cfg(test)]
mod tests;

/// The API version that the types are from.
const VERSION: &str = "v1.37.0";

/// One document and the hash of its content (upper-case SHA-512 hex, unquoted).
#[derive(Clone, Debug)]
pub struct Document {
    pub body: Bytes,
    pub etag: String,
}

impl Document {
    fn new(body: Vec<u8>) -> Document {
        let etag = hex::encode_upper(Sha512::digest(&body));
        Document {
            body: body.into(),
            etag,
        }
    }
}

struct V3 {
    index: Document,
    /// By `api/v1`, `apis/apps/v1`.
    documents: BTreeMap<String, Document>,
}

fn v3() -> &'static V3 {
    static V3: OnceLock<V3> = OnceLock::new();
    V3.get_or_init(|| {
        let source = Source::read();
        let mut documents = BTreeMap::new();
        for (group, version, rows) in group_versions() {
            let document = json!({
                "openapi": "3.0.0",
                "info": {"title": "Kubernetes", "version": VERSION},
                "paths": paths::paths(group, version, &rows, &|definition| source.knows(definition)),
                "components": {"schemas": source.definitions(&rows, &subresource_definitions(&rows), Dialect::V3)},
            });
            let path = paths::root(group, version).trim_start_matches('/').to_owned();
            documents.insert(path, Document::new(document.to_string().into_bytes()));
        }
        let index: Map<String, Value> = documents
            .iter()
            .map(|(path, document)| {
                (path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={}", document.etag)}))
            })
            .collect();
        V3 { index: Document::new(json!({"paths": index}).to_string().into_bytes()), documents }
    })
}

/// `/openapi/v3`: every group version with the address of its document, hash included.
pub fn v3_index() -> Document {
    v3().index.clone()
}

/// `/openapi/v3/<path>` (`api/v1`, `apis/apps/v1`), if there is such a group version. A `?hash=` that is not the
/// document's etag is answered with a redirect to the one that is.
pub fn v3_document(path: &str) -> Option<Document> {
    v3().documents.get(path).cloned()
}

/// What old and new clients accept to get v2 as protobuf.
pub const V2_PROTOBUF_ACCEPTED: &[&str] = &[
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];
/// What the answer calls it: `@` is no legal part of a media type, and clients refuse it.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/openapi/v2` as JSON, or as protobuf for who accepts one of [`V2_PROTOBUF_ACCEPTED`].
pub fn v2_document(protobuf: bool) -> Document {
    static JSON: OnceLock<Document> = OnceLock::new();
    static PROTOBUF: OnceLock<Document> = OnceLock::new();
    let made = || v2::document(&Source::read());
    if protobuf {
        PROTOBUF
            .get_or_init(|| Document::new(gnostic::encode(&made())))
            .clone()
    } else {
        JSON.get_or_init(|| Document::new(made().to_string().into_bytes()))
            .clone()
    }
}

/// The rows of each group version.
fn group_versions() -> Vec<(&'static str, &'static str, Vec<&'static Row>)> {
    kinds::group_versions()
        .into_iter()
        .map(|(group, version)| {
            (
                group,
                version,
                KINDS
                    .iter()
                    .filter(|row| row.group == group && row.version == version)
                    .collect(),
            )
        })
        .collect()
}

/// What the rows' subresources send and receive.
fn subresource_definitions(rows: &[&Row]) -> Vec<String> {
    let kinds = rows
        .iter()
        .flat_map(|row| row.subresources)
        .map(|sub| sub.kind);
    kinds
        .map(|(group, version, kind)| definitions::definition_of(group, version, kind))
        .collect()
}
