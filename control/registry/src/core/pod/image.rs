//! The tag of an image reference, as far as defaults need it.
//!
//! Follows `pkg/util/parsers`: no tag and no digest means `latest`.

/// Is this reference the moving `latest` (said or implied)?
pub fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    // A colon before the last slash belongs to a registry's port.
    let name = image.rsplit_once('/').map_or(image, |(_, name)| name);
    name.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (image, want) in [
            ("nginx", true),
            ("nginx:latest", true),
            ("nginx:1.9", false),
            ("host:5000/nginx", true),
            ("host:5000/a/nginx:2", false),
            ("nginx@sha256:00", false),
            ("nginx:latest@sha256:00", false),
        ] {
            assert_eq!(is_latest(image), want, "{image}");
        }
    }
}
