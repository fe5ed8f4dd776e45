//! `$(NAME)` in commands, arguments and values. Pure; upstream: third_party/forked/golang/expansion.

/// Replaces each `$(NAME)` that `value` knows; `$$` is a dollar; everything else stays as it is written.
pub(crate) fn expand(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'))
        {
            match value(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn as_upstream() {
        for (text, want) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)z", "x1y$(B)z"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$0 $1", "$0 $1"),
            ("$(E)", ""),
            ("ä$(A)ö", "ä1ö"),
        ] {
            let got = expand(text, |name| match name {
                "A" => Some("1".into()),
                "E" => Some(String::new()),
                _ => None,
            });
            assert_eq!(got, want, "{text}");
        }
    }
}
