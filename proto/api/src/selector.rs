//! Which objects are meant: label selectors, in both their forms, and field selectors.
//!
//! Follows `k8s.io/apimachinery/pkg/labels` and `pkg/fields`: `a in (x,y),!b`; an absent key satisfies `!=` and `notin`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::names;

/// Why a selector cannot be read; the message is what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSelector(pub String);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Equals,
    NotEquals,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: BTreeSet<String>,
}

impl Requirement {
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In | Operator::Equals => {
                value.is_some_and(|value| self.values.contains(value))
            }
            Operator::NotIn | Operator::NotEquals => {
                value.is_none_or(|value| !self.values.contains(value))
            }
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan => self.compare(value, |value, limit| value > limit),
            Operator::LessThan => self.compare(value, |value, limit| value < limit),
        }
    }

    fn compare(&self, value: Option<&String>, holds: fn(i64, i64) -> bool) -> bool {
        let limit = self.values.first().and_then(|limit| limit.parse().ok());
        let value = value.and_then(|value| value.parse().ok());
        matches!((value, limit), (Some(value), Some(limit)) if holds(value, limit))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || {
            self.values
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(",")
        };
        match self.operator {
            Operator::In => write!(f, "{} in ({})", self.key, values()),
            Operator::NotIn => write!(f, "{} notin ({})", self.key, values()),
            Operator::Equals => write!(f, "{}={}", self.key, values()),
            Operator::NotEquals => write!(f, "{}!={}", self.key, values()),
            Operator::Exists => f.write_str(&self.key),
            Operator::DoesNotExist => write!(f, "!{}", self.key),
            Operator::GreaterThan => write!(f, "{}>{}", self.key, values()),
            Operator::LessThan => write!(f, "{}<{}", self.key, values()),
        }
    }
}

/// All requirements together. The empty one selects everything; [`Selector::nothing`] selects nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn nothing() -> Self {
        Selector {
            requirements: Vec::new(),
            nothing: true,
        }
    }

    /// The query parameter `labelSelector`.
    pub fn parse(text: &str) -> Result<Self, BadSelector> {
        let mut requirements = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let name = rest.trim_start_matches('!').trim_start();
            if word(name).0.is_empty() && !rest.starts_with('!') {
                let wanted = if requirements.is_empty() {
                    "!, identifier, or 'end of string'"
                } else {
                    "identifier after ','"
                };
                return Err(unexpected(rest, wanted));
            }
            let (requirement, tail) = parse_one(rest)
                .map_err(|why| BadSelector(format!("unable to parse requirement: {why}")))?;
            requirements.push(requirement);
            rest = match tail.strip_prefix(',') {
                Some(next) if next.trim().is_empty() => {
                    return Err(unexpected("", "identifier after ','"));
                }
                Some(next) => next.trim_start(),
                None if tail.is_empty() => tail,
                None => return Err(unexpected(tail, "',' or 'end of string'")),
            };
        }
        requirements.sort_by(|a: &Requirement, b| a.key.cmp(&b.key));
        Ok(Selector {
            requirements,
            nothing: false,
        })
    }

    /// Labels that must be equal: a Service's selector, a nodeSelector.
    pub fn from_map(labels: &BTreeMap<String, String>) -> Self {
        let equal = |(key, value): (&String, &String)| Requirement {
            key: key.clone(),
            operator: Operator::Equals,
            values: BTreeSet::from([value.clone()]),
        };
        Selector {
            requirements: labels.iter().map(equal).collect(),
            nothing: false,
        }
    }

    /// The structured form. Empty selects everything; a missing one (`None`) nothing.
    pub fn from_label_selector(selector: Option<&LabelSelector>) -> Result<Self, BadSelector> {
        let Some(selector) = selector else {
            return Ok(Self::nothing());
        };
        let mut all = selector
            .match_labels
            .as_ref()
            .map_or_else(Selector::everything, Selector::from_map);
        for expression in selector.match_expressions.iter().flatten() {
            let values: BTreeSet<String> = expression.values.iter().flatten().cloned().collect();
            let operator = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In,
                ("NotIn", false) => Operator::NotIn,
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("In" | "NotIn", true) => {
                    return Err(BadSelector(
                        "for 'in', 'notin' operators, values set can't be empty".to_owned(),
                    ));
                }
                ("Exists" | "DoesNotExist", false) => {
                    return Err(BadSelector(
                        "values set must be empty for exists and does not exist".to_owned(),
                    ));
                }
                (other, _) => {
                    return Err(BadSelector(format!(
                        "{other:?} is not a valid label selector operator"
                    )));
                }
            };
            all.requirements.push(Requirement {
                key: expression.key.clone(),
                operator,
                values,
            });
        }
        all.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(all)
    }

    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        !self.nothing
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(labels))
    }

    /// Does it select everything?
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.requirements.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(requirement, f)?;
        }
        Ok(())
    }
}

/// What came instead of what was wanted: a word, or a sign.
fn unexpected(text: &str, wanted: &str) -> BadSelector {
    let (name, _) = word(text);
    let sign = text.chars().take_while(|c| "=!<>".contains(*c)).count();
    let found = match (name.is_empty(), sign) {
        (false, _) => name,
        (true, 0) => {
            text.split_at(text.chars().next().map_or(0, char::len_utf8))
                .0
        }
        (true, length) => &text[..length],
    };
    BadSelector(format!("found '{found}', expected: {wanted}"))
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let end = text
        .find(|c: char| c.is_whitespace() || "=!(),<>".contains(c))
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start())
}

fn parse_one(text: &str) -> Result<(Requirement, &str), String> {
    let (negated, text) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (key, rest) = word(text);
    if key.is_empty() {
        return Err(format!(
            "found '{}', expected: identifier",
            rest.chars().next().map(String::from).unwrap_or_default()
        ));
    }
    if let Some(problem) = names::qualified_name(key).into_iter().next() {
        return Err(format!("key: Invalid value: {key:?}: {problem}"));
    }
    let make = |operator, values: BTreeSet<String>| Requirement {
        key: key.to_owned(),
        operator,
        values,
    };
    if negated {
        return Ok((make(Operator::DoesNotExist, BTreeSet::new()), rest));
    }
    if rest.is_empty() || rest.starts_with(',') {
        return Ok((make(Operator::Exists, BTreeSet::new()), rest));
    }
    for (sign, operator) in [
        ("==", Operator::Equals),
        ("=", Operator::Equals),
        ("!=", Operator::NotEquals),
        (">", Operator::GreaterThan),
        ("<", Operator::LessThan),
    ] {
        let Some(tail) = rest.strip_prefix(sign) else {
            continue;
        };
        let (value, rest) = word(tail);
        check_value(key, value)?;
        if matches!(operator, Operator::GreaterThan | Operator::LessThan)
            && value.parse::<i64>().is_err()
        {
            return Err(format!(
                "values[0][{key}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ));
        }
        return Ok((make(operator, BTreeSet::from([value.to_owned()])), rest));
    }
    let (operator_text, rest) = word(rest);
    let operator = match operator_text {
        "in" => Operator::In,
        "notin" => Operator::NotIn,
        other => {
            return Err(format!(
                "found '{other}', expected: in, notin, =, ==, !=, gt, lt"
            ));
        }
    };
    let inside = rest
        .strip_prefix('(')
        .ok_or_else(|| format!("found '{rest}', expected: '('"))?;
    let (list, rest) = inside
        .split_once(')')
        .ok_or_else(|| "found '', expected: ',' or ')'".to_owned())?;
    let mut values = BTreeSet::new();
    for value in list.split(',').map(str::trim) {
        if value.contains(|c: char| c.is_whitespace() || "=!(<>".contains(c)) {
            return Err(format!("found '{value}', expected: ',' or ')'"));
        }
        check_value(key, value)?;
        values.insert(value.to_owned());
    }
    Ok((make(operator, values), rest.trim_start()))
}

fn check_value(key: &str, value: &str) -> Result<(), String> {
    match names::label_value(value).into_iter().next() {
        Some(problem) => Err(format!(
            "values[0][{key}]: Invalid value: {value:?}: {problem}"
        )),
        None => Ok(()),
    }
}

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    pub path: String,
    /// `=` and `==` are equal, `!=` is not.
    pub equal: bool,
    pub value: String,
}

/// The query parameter `fieldSelector`: `status.phase=Running,metadata.name!=x`; `\` escapes `\`, `,` and `=`.
pub fn parse_fields(text: &str) -> Result<Vec<FieldRequirement>, BadSelector> {
    let mut requirements = Vec::new();
    for term in split_unescaped(text) {
        if term.is_empty() {
            continue;
        }
        let at = term.char_indices().scan(false, |escaped, (at, c)| {
            let was = *escaped;
            *escaped = c == '\\' && !was;
            Some((at, c, was))
        });
        let sign = at
            .filter(|(_, c, escaped)| !escaped && matches!(c, '=' | '!'))
            .map(|(at, ..)| at)
            .find(|at| {
                let rest = &term[*at..];
                rest.starts_with('=') || rest.starts_with("!=")
            });
        let Some(at) = sign else {
            return Err(BadSelector(format!(
                "invalid selector: '{text}'; can't understand '{term}'"
            )));
        };
        let (path, rest) = term.split_at(at);
        let (equal, value) = if let Some(value) = rest.strip_prefix("!=") {
            (false, value)
        } else {
            (
                true,
                rest.strip_prefix("==")
                    .or_else(|| rest.strip_prefix('='))
                    .unwrap_or(rest),
            )
        };
        requirements.push(FieldRequirement {
            path: path.trim().to_owned(),
            equal,
            value: unescape(value)?,
        });
    }
    Ok(requirements)
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> Result<String, BadSelector> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let sequence: String = std::iter::once('\\').chain(other).collect();
                    return Err(BadSelector(format!(
                        "invalid field selector: invalid escape sequence: {sequence}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(BadSelector(format!(
                    "invalid field selector: unescaped character in value: {value}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn label_selectors_match_as_upstreams() {
        for (selector, on, matches) in [
            ("", "a=1", true),
            ("a=1", "a=1 b=2", true),
            ("a==1,b!=2", "a=1 b=2", false),
            ("a!=1", "", true),
            ("a in (1, 2)", "a=2", true),
            ("a notin (1,2)", "a=2", false),
            ("a notin (1)", "", true),
            ("a", "a=", true),
            ("!a", "a=", false),
            ("!a", "", true),
            ("a>5", "a=6", true),
            ("a<5", "a=x", false),
            ("a=", "a=", true),
            ("example.com/x in (y),!z", "example.com/x=y", true),
            (" a = 1 , b ", "a=1 b=", true),
        ] {
            let parsed = Selector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(on)), matches, "{selector} on {on}");
            assert_eq!(
                Selector::parse(&parsed.to_string()).unwrap(),
                parsed,
                "{selector}"
            );
        }
        for bad in [
            "a=1,",
            ",",
            "a b",
            "a in 1",
            "a in (1",
            "=1",
            "a=b=c",
            "-a=1",
            "a=-",
            "a>x",
            "!",
            "a in (b c)",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
        for (bad, why) in [
            (
                ",",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            (
                "===",
                "found '===', expected: !, identifier, or 'end of string'",
            ),
            ("a=b,", "found '', expected: identifier after ','"),
            ("a=b,=c", "found '=', expected: identifier after ','"),
            ("a=b c d", "found 'c', expected: ',' or 'end of string'"),
            (
                "a in 1",
                "unable to parse requirement: found '1', expected: '('",
            ),
        ] {
            assert_eq!(Selector::parse(bad).unwrap_err().0, why, "{bad}");
        }
        assert!(
            !Selector::from_label_selector(None)
                .unwrap()
                .matches(&labels("a=1"))
        );
        assert!(
            Selector::from_label_selector(Some(&LabelSelector::default()))
                .unwrap()
                .matches(&labels("a=1"))
        );
    }

    #[test]
    fn field_selectors_are_read_as_upstreams() {
        let of = |path: &str, equal, value: &str| FieldRequirement {
            path: path.to_owned(),
            equal,
            value: value.to_owned(),
        };
        assert_eq!(
            parse_fields("a.b=c,d!=e,f==").unwrap(),
            [of("a.b", true, "c"), of("d", false, "e"), of("f", true, "")]
        );
        assert_eq!(
            parse_fields(r"a=x\,y\=z").unwrap(),
            [of("a", true, "x,y=z")]
        );
        assert_eq!(parse_fields("").unwrap(), []);
        assert!(parse_fields("nonsense").is_err());
        assert!(parse_fields(r"a=\x").is_err());
    }
}
