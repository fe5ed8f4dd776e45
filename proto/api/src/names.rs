//! Which names are allowed, and upstream's words for what is wrong with one.
//!
//! Follows `k8s.io/apimachinery/pkg/util/validation`. Every function returns the list of problems; empty means valid.

const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const C_IDENTIFIER: &str = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";

pub type Problems = Vec<String>;

pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn check(text: &str, max: usize, valid: bool, message: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > max {
        problems.push(too_long(max));
    }
    if !valid {
        problems.push(message.to_owned());
    }
    problems
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if lower(*first) && lower(*last))
        && bytes.iter().all(|byte| lower(*byte) || *byte == b'-')
}

fn is_qualified_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(first), Some(last)) if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

/// Names of namespaces, containers, volumes.
pub fn dns_label(text: &str) -> Problems {
    check(text, LABEL_MAX, is_label(text), LABEL)
}

/// Names of most objects.
pub fn dns_subdomain(text: &str) -> Problems {
    check(
        text,
        SUBDOMAIN_MAX,
        text.split('.').all(is_label),
        SUBDOMAIN,
    )
}

/// Names of Services.
pub fn dns_1035_label(text: &str) -> Problems {
    check(
        text,
        LABEL_MAX,
        is_label(text) && text.as_bytes()[0].is_ascii_lowercase(),
        LABEL_1035,
    )
}

/// Keys of labels and annotations, names of resources and finalizers: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Problems {
    let mut problems = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>().as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(
                    dns_subdomain(prefix)
                        .into_iter()
                        .map(|problem| format!("prefix part {problem}")),
                );
            }
            *name
        }
        _ => {
            return vec![format!(
                "a qualified name {QUALIFIED} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX {
        problems.push(format!("name part {}", too_long(LABEL_MAX)));
    }
    if !is_qualified_part(name) {
        problems.push(format!("name part {QUALIFIED}"));
    }
    problems
}

pub fn label_value(text: &str) -> Problems {
    check(
        text,
        LABEL_MAX,
        text.is_empty() || is_qualified_part(text),
        LABEL_VALUE,
    )
}

/// Keys of ConfigMaps and Secrets; they become file names.
pub fn config_key(text: &str) -> Problems {
    let valid = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let mut problems = check(text, SUBDOMAIN_MAX, valid, CONFIG_KEY);
    if text == "." {
        problems.push("must not be '.'".to_owned());
    } else if text == ".." {
        problems.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        problems.push("must not start with '..'".to_owned());
    }
    problems
}

/// Names of environment variables, as relaxed upstream: any printable ASCII but `=`.
pub fn env_name(text: &str) -> Problems {
    let valid = !text.is_empty()
        && text
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    check(text, usize::MAX, valid, ENV_NAME)
}

pub fn c_identifier(text: &str) -> Problems {
    let valid = !text.is_empty()
        && !text.as_bytes()[0].is_ascii_digit()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    check(text, usize::MAX, valid, C_IDENTIFIER)
}

/// Names that only have to fit into a URL: RBAC's.
pub fn path_segment(text: &str) -> Problems {
    match text {
        "." => vec!["may not be '.'".to_owned()],
        ".." => vec!["may not be '..'".to_owned()],
        _ => ['/', '%']
            .iter()
            .filter(|c| text.contains(**c))
            .map(|c| format!("may not contain '{c}'"))
            .collect(),
    }
}

/// Names of ports (IANA service names).
pub fn port_name(text: &str) -> Problems {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push(too_long(15));
    }
    if !text.bytes().all(|byte| lower(byte) || byte == b'-') || text.is_empty() {
        problems.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.bytes().any(|byte| byte.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

pub fn port_number(port: i32) -> Problems {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// IPv4 or IPv6 address.
pub fn ip(text: &str) -> Problems {
    if text.parse::<std::net::IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_judged_as_upstreams() {
        let long = "a".repeat(64);
        for (check, good, bad) in [
            (
                dns_label as fn(&str) -> Problems,
                vec!["a", "a-1", "1a"],
                vec!["", "-a", "a-", "A", "a.b", long.as_str()],
            ),
            (
                dns_subdomain,
                vec!["a.b", "a-1.2b"],
                vec!["", "a..b", ".a", "a_b", "a.-b"],
            ),
            (dns_1035_label, vec!["a1"], vec!["1a", "", "A"]),
            (
                qualified_name,
                vec!["a", "A.b_c", "example.com/A"],
                vec!["", "a/b/c", "/a", "a/", "-a", "Ex/a", long.as_str()],
            ),
            (
                label_value,
                vec!["", "a", "A_b.c"],
                vec!["-", "a b", long.as_str()],
            ),
            (
                config_key,
                vec!["a", ".a", "A_b"],
                vec!["", ".", "..", "..a", "a/b"],
            ),
            (env_name, vec!["a", "1.b-C d"], vec!["", "a=b", "é"]),
            (
                path_segment,
                vec!["system:x", ""],
                vec![".", "..", "a/b", "a%b"],
            ),
            (
                port_name,
                vec!["http", "a-1"],
                vec!["", "1", "a--b", "-a", "HTTP", "a-very-long-port-name"],
            ),
        ] {
            for name in good {
                assert_eq!(check(name), Problems::new(), "{name}");
            }
            for name in bad {
                assert!(!check(name).is_empty(), "{name}");
            }
        }
    }
}
