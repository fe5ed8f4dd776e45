//! What a name, label, key or port may look like: the shared rules and the few that only strategies need. No pattern is
//! ever compiled.
//!
//! Follows `k8s.io/apimachinery/pkg/util/validation`.

pub use caravel_api::names::{
    Problems, config_key, dns_1035_label, dns_label, dns_subdomain, env_name, ip, label_value,
    path_segment, port_name, port_number, qualified_name, too_long,
};

const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
const CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// As [`dns_subdomain`], underscores allowed: search domains.
pub fn dns_subdomain_with_underscore(text: &str) -> Problems {
    let mut problems = Problems::new();
    if text.len() > 253 {
        problems.push(too_long(253));
    }
    let good = |part: &str| {
        let edge = |byte: Option<&u8>| {
            byte.is_some_and(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_'
            })
        };
        edge(part.as_bytes().first())
            && edge(part.as_bytes().last())
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
            })
    };
    if !text.split('.').all(good) {
        problems.push(SUBDOMAIN_UNDERSCORE.to_owned());
    }
    problems
}

/// The name of an HTTP header.
pub fn header_name(text: &str) -> Problems {
    let good = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good {
        Problems::new()
    } else {
        vec![HEADER.to_owned()]
    }
}

/// A user or group id.
pub fn unix_id(value: i64) -> Problems {
    if (0..=i64::from(i32::MAX)).contains(&value) {
        Problems::new()
    } else {
        vec![inclusive_range(0, i64::from(i32::MAX))]
    }
}

/// `10.0.0.0/8`.
pub fn cidr(text: &str) -> Problems {
    if text.parse::<ipnet::IpNet>().is_ok() {
        Problems::new()
    } else {
        vec![CIDR.to_owned()]
    }
}

/// How upstream says that a number must lie between two others.
pub fn inclusive_range(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad_values() {
        type Check = fn(&str) -> Problems;
        for (check, good, bad) in [
            (
                dns_subdomain_with_underscore as Check,
                vec!["a", "_tcp.a", "a_b.c"],
                vec!["", "a..b", "-a", "A"],
            ),
            (header_name, vec!["X-A"], vec!["", "a b", "a:b"]),
            (
                cidr,
                vec!["10.0.0.0/8", "fd00::/64"],
                vec!["", "10.0.0.0", "10.0.0.0/33"],
            ),
        ] {
            for text in good {
                assert_eq!(check(text), Problems::new(), "{text:?}");
            }
            for text in bad {
                assert!(!check(text).is_empty(), "{text:?}");
            }
        }
        assert!(unix_id(0).is_empty() && !unix_id(-1).is_empty() && !unix_id(1 << 31).is_empty());
    }
}
