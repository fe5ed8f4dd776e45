//! Image names, normalised as docker does: `nginx:1.7.9` is `docker.io/library/nginx:1.7.9`.
//!
//! Upstream: github.com/distribution/reference. Never talks to a registry.

use std::fmt;

/// A normalised reference: registry, repository, and a tag or a digest (or both; the digest decides).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:<64 hex digits>`.
    pub digest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name \"{name}\": {why}")]
pub struct InvalidReference {
    pub name: String,
    pub why: &'static str,
}

impl Reference {
    /// Longest reference that is accepted, in bytes.
    pub const MAX: usize = 1024;

    pub fn parse(name: &str) -> Result<Self, InvalidReference> {
        let invalid = |why| InvalidReference {
            name: name.to_owned(),
            why,
        };
        if name.is_empty() || name.len() > Self::MAX {
            return Err(invalid("invalid reference format"));
        }
        let (rest, digest) = match name.split_once('@') {
            Some((rest, digest)) => {
                if !is_digest(digest) {
                    return Err(invalid(
                        "invalid reference format: digest must be sha256 and 64 hexadecimal digits",
                    ));
                }
                (rest, Some(digest.to_owned()))
            }
            None => (name, None),
        };
        // A colon after the last slash separates the tag; one before it belongs to the registry's port.
        let (path, tag) = match rest.rfind(':').filter(|at| !rest[*at..].contains('/')) {
            Some(at) => (&rest[..at], Some(rest[at + 1..].to_owned())),
            None => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("invalid reference format: invalid tag"));
        }
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.chars().any(char::is_uppercase) =>
            {
                (first, rest)
            }
            _ => ("docker.io", path),
        };
        let registry = if registry == "index.docker.io" {
            "docker.io"
        } else {
            registry
        };
        let repository = if registry == "docker.io" && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if repository.chars().any(|c| c.is_ascii_uppercase()) {
            return Err(invalid(
                "invalid reference format: repository name must be lowercase",
            ));
        }
        if !is_registry(registry) || !repository.split('/').all(is_component) {
            return Err(invalid("invalid reference format"));
        }
        let tag = if tag.is_none() && digest.is_none() {
            Some("latest".to_owned())
        } else {
            tag
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }

    /// `registry/repository`, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `registry/repository@digest`.
    pub fn at(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Whether `text` is `sha256:` and 64 lower-case hexadecimal digits, the only digests that are accepted.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

fn is_tag(tag: &str) -> bool {
    let mut bytes = tag.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && tag.len() <= 128
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    part.bytes().next().is_some_and(alphanumeric)
        && part.bytes().last().is_some_and(alphanumeric)
        && part
            .bytes()
            .all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'))
        && !part.contains("..")
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let name = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let address = host.starts_with('[')
        && host.ends_with(']')
        && host[1..host.len() - 1]
            .parse::<std::net::Ipv6Addr>()
            .is_ok();
    (address || host.split('.').all(name)) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, want) in [
            ("nginx", "docker.io/library/nginx:latest".to_owned()),
            ("nginx:1.7.9", "docker.io/library/nginx:1.7.9".to_owned()),
            ("docker.io/nginx:1", "docker.io/library/nginx:1".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            (
                "kubeguide/redis-master",
                "docker.io/kubeguide/redis-master:latest".to_owned(),
            ),
            ("localhost/x:1", "localhost/x:1".to_owned()),
            ("localhost:5000/x", "localhost:5000/x:latest".to_owned()),
            (
                "10.0.0.1:5000/a/b/c:v1.2",
                "10.0.0.1:5000/a/b/c:v1.2".to_owned(),
            ),
            (
                "registry.invalid/nginx:1.91",
                "registry.invalid/nginx:1.91".to_owned(),
            ),
            (
                &format!("nginx@{digest}"),
                format!("docker.io/library/nginx@{digest}"),
            ),
            (
                &format!("nginx:1@{digest}"),
                format!("docker.io/library/nginx:1@{digest}"),
            ),
            ("[::1]:5000/x", "[::1]:5000/x:latest".to_owned()),
        ] {
            assert_eq!(
                Reference::parse(name).map(|r| r.to_string()),
                Ok(want),
                "{name}"
            );
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for name in [
            "",
            "Nginx",
            "a//b",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a b",
            "../x",
            "a/../b",
            "-x/..",
            "x:1:2",
            "localhost:99999/x",
            "http://x/y",
        ] {
            assert!(Reference::parse(name).is_err(), "{name}");
        }
    }
}
