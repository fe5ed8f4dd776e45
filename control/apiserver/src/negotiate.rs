//! Which form a response takes and which form a body has: the `Accept` and `Content-Type` headers.
//! Upstream: apiserver/pkg/endpoints/handlers/negotiation. Protobuf is not sent yet; a client that
//! accepts nothing else gets 406. Bodies may come in it.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE};

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// `application/json`.
    #[default]
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`, for request bodies only.
    Protobuf,
}

/// What shape an object or a list is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Shape {
    /// The object itself.
    #[default]
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`.
    Metadata,
    /// `meta.k8s.io/v1 PartialObjectMetadataList`.
    MetadataList,
    /// `apidiscovery.k8s.io/v2 APIGroupDiscoveryList`.
    Discovery,
    /// The same in `v2beta1`, for older clients.
    DiscoveryBeta,
}

/// The chosen response form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Bytes.
    pub encoding: Encoding,
    /// Shape.
    pub shape: Shape,
    /// Indented JSON was asked for.
    pub pretty: bool,
}

/// One clause of an `Accept` header.
struct Clause<'a> {
    media: &'a str,
    r#as: &'a str,
    version: &'a str,
    group: &'a str,
    quality: u16,
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut found: Vec<Clause<'_>> = header
        .split(',')
        .take(64)
        .filter_map(|part| {
            let mut fields = part.split(';').map(str::trim);
            let media = fields.next().filter(|media| !media.is_empty())?;
            let mut clause = Clause {
                media,
                r#as: "",
                version: "",
                group: "",
                quality: 1000,
            };
            for field in fields {
                match field.split_once('=') {
                    Some(("as", value)) => clause.r#as = value,
                    Some(("v", value)) => clause.version = value,
                    Some(("g", value)) => clause.group = value,
                    Some(("q", value)) => {
                        let value: f32 = value.parse().unwrap_or(0.0);
                        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                        let quality = (value.clamp(0.0, 1.0) * 1000.0) as u16;
                        clause.quality = quality;
                    }
                    _ => {}
                }
            }
            Some(clause)
        })
        .collect();
    found.sort_by_key(|clause| std::cmp::Reverse(clause.quality));
    found
}

/// Chooses the response form; `None` is 406.
#[must_use]
pub fn accept(headers: &HeaderMap, pretty: bool) -> Option<Accepted> {
    let header = headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("*/*");
    if header.trim().is_empty() {
        return Some(Accepted {
            pretty,
            ..Accepted::default()
        });
    }
    clauses(header)
        .into_iter()
        .filter(|clause| clause.quality > 0)
        .find_map(|clause| {
            let encoding = match clause.media {
                "application/json" | "*/*" | "application/*" | "text/html" => Encoding::Json,
                "application/yaml" | "application/x-yaml" | "text/yaml" => Encoding::Yaml,
                _ => return None,
            };
            let shape = match (clause.r#as, clause.group, clause.version) {
                ("", _, _) => Shape::Object,
                ("Table", "meta.k8s.io", "v1" | "v1beta1") => Shape::Table,
                ("PartialObjectMetadata", "meta.k8s.io", "v1" | "v1beta1") => Shape::Metadata,
                ("PartialObjectMetadataList", "meta.k8s.io", "v1" | "v1beta1") => {
                    Shape::MetadataList
                }
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2") => Shape::Discovery,
                ("APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2beta1") => Shape::DiscoveryBeta,
                _ => return None,
            };
            Some(Accepted {
                encoding,
                shape,
                pretty,
            })
        })
}

/// The form of a request body; `Err` is the media type that is not understood (415). No header means JSON.
///
/// # Errors
/// The media type, when it is none of these.
pub fn body_encoding(headers: &HeaderMap) -> Result<Encoding, String> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(Encoding::Json);
    };
    let value = value.to_str().unwrap_or("?");
    match value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "application/json" => Ok(Encoding::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Encoding::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
        other => Err(other.to_owned()),
    }
}

/// Whether the client takes gzip.
#[must_use]
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            clauses(value)
                .iter()
                .any(|clause| clause.media.eq_ignore_ascii_case("gzip") && clause.quality > 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts() {
        for (header, want) in [
            ("", Some((Encoding::Json, Shape::Object))),
            ("*/*", Some((Encoding::Json, Shape::Object))),
            ("application/yaml", Some((Encoding::Yaml, Shape::Object))),
            ("application/vnd.kubernetes.protobuf", None),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some((Encoding::Json, Shape::Object)),
            ),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
                Some((Encoding::Json, Shape::Table)),
            ),
            (
                "application/json;as=Unknown;v=v1;g=meta.k8s.io,application/json",
                Some((Encoding::Json, Shape::Object)),
            ),
            (
                "application/json;q=0.5, application/yaml;q=0.9",
                Some((Encoding::Yaml, Shape::Object)),
            ),
            ("text/plain", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, header.parse().unwrap());
            assert_eq!(
                accept(&headers, false).map(|it| (it.encoding, it.shape)),
                want,
                "{header}"
            );
        }
    }
}
