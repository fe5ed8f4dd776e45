//! What a name, label, key or port may look like, in upstream's words. Hand-written matchers: no pattern is ever
//! compiled, and a valid value allocates nothing.
//!
//! Follows `k8s.io/apimachinery/pkg/util/validation` and `pkg/api/validation/name`.

/// What is wrong with a value; empty when nothing is.
pub type Faults = Vec<String>;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const SUBDOMAIN_UNDERSCORE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const QUALIFIED_FORM: &str = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
const ENV_NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

fn max_length(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Is it made of `inner`, and does it begin and end with `edge`?
fn bounded(value: &str, edge: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    match value.as_bytes() {
        [] => false,
        [one] => edge(*one),
        [first, middle @ .., last] => edge(*first) && edge(*last) && middle.iter().all(|byte| inner(*byte)),
    }
}

fn is_label(value: &str) -> bool {
    bounded(value, lower, |byte| lower(byte) || byte == b'-')
}

/// An RFC 1123 label: `my-name`, at most 63 bytes.
pub fn dns_label(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 63 {
        faults.push(max_length(63));
    }
    if !is_label(value) {
        if value.split('.').all(is_label) {
            faults.push("must not contain dots".to_owned());
        } else {
            faults.push(LABEL.to_owned());
        }
    }
    faults
}

/// An RFC 1123 subdomain: labels with dots between, at most 253 bytes.
pub fn dns_subdomain(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 253 {
        faults.push(max_length(253));
    }
    if !value.split('.').all(is_label) {
        faults.push(SUBDOMAIN.to_owned());
    }
    faults
}

/// As [`dns_subdomain`], underscores allowed inside labels.
pub fn dns_subdomain_with_underscore(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 253 {
        faults.push(max_length(253));
    }
    if !value.split('.').all(|part| bounded(part, |byte| lower(byte) || byte == b'_', |byte| lower(byte) || byte == b'-' || byte == b'_')) {
        faults.push(SUBDOMAIN_UNDERSCORE.to_owned());
    }
    faults
}

/// A DNS label that begins with a letter: names of Services.
pub fn dns_1035_label(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 63 {
        faults.push(max_length(63));
    }
    if !(is_label(value) && value.as_bytes()[0].is_ascii_lowercase()) {
        faults.push(LABEL_1035.to_owned());
    }
    faults
}

/// What may stand between two slashes of a URL: names of RBAC objects.
pub fn path_segment(value: &str) -> Faults {
    match value {
        "." => return vec!["may not be '.'".to_owned()],
        ".." => return vec!["may not be '..'".to_owned()],
        _ => {}
    }
    ['/', '%'].iter().filter(|bad| value.contains(**bad)).map(|bad| format!("may not contain '{bad}'")).collect()
}

/// `[prefix/]name`: label keys, annotation keys, finalizers, resources.
pub fn qualified_name(value: &str) -> Faults {
    let mut faults = Faults::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => return vec![QUALIFIED_FORM.to_owned()],
        Some((prefix, name)) => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(dns_subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            }
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        faults.push(format!("name part {}", max_length(63)));
    }
    if !is_qualified_part(name) {
        faults.push(QUALIFIED.to_owned());
    }
    faults
}

fn is_qualified_part(value: &str) -> bool {
    bounded(value, |byte| byte.is_ascii_alphanumeric(), |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// What a label may be set to.
pub fn label_value(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 63 {
        faults.push(max_length(63));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        faults.push(LABEL_VALUE.to_owned());
    }
    faults
}

/// A key of a ConfigMap or Secret, which is also a file name.
pub fn config_key(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 253 {
        faults.push(max_length(253));
    }
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')) {
        faults.push(CONFIG_KEY.to_owned());
    }
    match value {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// An environment variable's name, by the relaxed rule that is upstream's default since 1.34.
pub fn env_name(value: &str) -> Faults {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=') { Faults::new() } else { vec![ENV_NAME.to_owned()] }
}

/// An IANA service name: names of container ports.
pub fn port_name(value: &str) -> Faults {
    let mut faults = Faults::new();
    if value.len() > 15 {
        faults.push("must be no more than 15 bytes".to_owned());
    }
    if !value.bytes().all(|byte| lower(byte) || byte == b'-') || value.is_empty() {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.bytes().any(|byte| byte.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// A TCP, UDP or SCTP port.
pub fn port_number(value: i32) -> Faults {
    if (1..=65535).contains(&value) { Faults::new() } else { vec![inclusive_range(1, 65535)] }
}

/// The name of an HTTP header.
pub fn header_name(value: &str) -> Faults {
    let good = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if good { Faults::new() } else { vec![HEADER.to_owned()] }
}

/// A user or group id.
pub fn unix_id(value: i64) -> Faults {
    if (0..=i64::from(i32::MAX)).contains(&value) { Faults::new() } else { vec![inclusive_range(0, i64::from(i32::MAX))] }
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
        type Check = fn(&str) -> Faults;
        for (check, good, bad) in [
            (dns_label as Check, vec!["a", "a-b", "0", "a0"], vec!["", "-a", "a-", "A", "a.b", "a_b"]),
            (dns_subdomain, vec!["a", "a.b", "a-b.c0"], vec!["", ".", "a.", "a..b", "A", "a_b", "-"]),
            (dns_1035_label, vec!["a", "a-1"], vec!["", "1a", "a.b", "A", "a-"]),
            (path_segment, vec!["system:node", "a b"], vec![".", "..", "a/b", "a%b"]),
            (qualified_name, vec!["a", "A_b.c", "example.com/x"], vec!["", "/", "a/", "/a", "a/b/c", "a b", "X.com/a", "-a"]),
            (label_value, vec!["", "a", "A_b.c", "1"], vec!["-", "a b", "a/b", "_"]),
            (config_key, vec!["a", "A.b_c-d", "..a"].into_iter().take(2).collect(), vec!["", ".", "..", "..a", "a b", "a/b"]),
            (env_name, vec!["A", "a.b", "1-x", "a b"], vec!["", "a=b", "\u{e9}"]),
            (port_name, vec!["http", "h2c", "a-b"], vec!["", "80", "a--b", "-a", "HTTP", "aaaaaaaaaaaaaaaa"]),
            (header_name, vec!["X-A"], vec!["", "a b", "a:b"]),
        ] {
            for value in good {
                assert_eq!(check(value), Faults::new(), "{value:?}");
            }
            for value in bad {
                assert!(!check(value).is_empty(), "{value:?}");
            }
        }
        assert_eq!(dns_label("a.b"), vec!["must not contain dots"]);
        assert_eq!(dns_label(&"a".repeat(64)), vec!["must be no more than 63 bytes"]);
        assert_eq!(port_number(0), vec!["must be between 1 and 65535, inclusive"]);
    }
}
