//! Takes out of a text what looks like a secret. Pure.
//!
//! A last net: what holds secrets (Secrets, ConfigMaps, pods' specs) is never put into a bundle to begin with.

/// What stands in its place.
const TAKEN: &str = "<redacted>";
/// Words after which a value follows that nobody else may know.
const BEFORE: &[&str] = &[
    "authorization: bearer ",
    "token=",
    "token: ",
    "--token ",
    "password=",
    "password: ",
    "secret=",
];

/// `text` without private keys, join tokens, bearer tokens and what follows words like `password=`.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.split_inclusive('\n') {
        if line.contains("-----BEGIN") && line.contains("PRIVATE KEY") {
            in_key = !line.contains("-----END");
            out.push_str(TAKEN);
            out.push('\n');
        } else if in_key {
            in_key = !line.contains("-----END");
        } else {
            out.push_str(&in_line(line));
        }
    }
    out
}

fn in_line(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    while at < line.len() {
        let rest = &lower[at..];
        if let Some(word) = BEFORE.iter().find(|word| rest.starts_with(**word)) {
            out.push_str(&line[at..at + word.len()]);
            at += word.len();
            let value = value_length(&line[at..]);
            if value > 0 {
                out.push_str(TAKEN);
            }
            at += value;
            continue;
        }
        let begins = at == 0 || !line.as_bytes()[at - 1].is_ascii_alphanumeric();
        let length = value_length(&line[at..]);
        if begins && is_token(&line[at..at + length]) {
            out.push_str(TAKEN);
            at += length;
            continue;
        }
        let Some(character) = line[at..].chars().next() else {
            break;
        };
        out.push(character);
        at += character.len_utf8();
    }
    out
}

fn value_length(text: &str) -> usize {
    let ends = |character: char| character.is_whitespace() || "\"',;)]}<".contains(character);
    text.find(ends).unwrap_or(text.len())
}

/// A JSON web token, or a token to join with.
fn is_token(word: &str) -> bool {
    (word.starts_with("eyJ") && word.matches('.').count() == 2)
        || (word.starts_with("K10") && word.contains("::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_taken_out_and_the_rest_stays() {
        for (text, expected) in [
            (
                "nothing to hide: 1 token of gratitude\n",
                "nothing to hide: 1 token of gratitude\n",
            ),
            ("a --token K10ab::cd:ef b", "a --token <redacted> b"),
            ("joined with K10ab12::id:secret.", "joined with <redacted>"),
            (
                "Authorization: Bearer abc.def",
                "Authorization: Bearer <redacted>",
            ),
            ("\"x\":\"eyJhbGci.eyJzdWIi.c2ln\",", "\"x\":\"<redacted>\","),
            ("PASSWORD=hunter2 next", "PASSWORD=<redacted> next"),
            ("größe token=ü x", "größe token=<redacted> x"),
            (
                "a\n-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\nb\n",
                "a\n<redacted>\nb\n",
            ),
            (
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
            ),
        ] {
            assert_eq!(redact(text), expected);
        }
    }
}
