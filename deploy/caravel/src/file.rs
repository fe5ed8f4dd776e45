//! The configuration file, read as flags: a key is a flag's name, a list a repeated flag, a boolean its presence.
//!
//! Precedence: flags, then the environment, then the file. Pure but for the reader it is given; the usual checks of
//! flags then hold for the file too. A key that no command knows is an error; one for another command is not.

use clap::{ArgAction, Command};
use serde_yaml_ng::Value;
use std::ffi::OsString;

#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("read the configuration {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("the configuration {path} is no YAML mapping: {why}")]
    Yaml { path: String, why: String },
    #[error(
        "the configuration {path} has an unknown key {key:?}{hint}; keys are the names of flags, see `caravel server --help` and `caravel node --help`"
    )]
    Unknown {
        path: String,
        key: String,
        hint: String,
    },
    #[error("the configuration {path}: {key} cannot be {found}; {expected} is expected")]
    Value {
        path: String,
        key: String,
        found: &'static str,
        expected: &'static str,
    },
}

const DEFAULT: &str = "/etc/caravel/config.yaml";
const DAEMONS: [&str; 3] = ["server", "node", "up"];

type Reader<'a> = &'a dyn Fn(&str) -> std::io::Result<String>;

/// `args` (with the program's name first), with the file's settings put in where no flag or variable says otherwise.
pub fn merge(
    args: Vec<OsString>,
    cli: &Command,
    env: &dyn Fn(&str) -> bool,
    read: Reader<'_>,
) -> Result<Vec<OsString>, FileError> {
    let words: Vec<&str> = args
        .iter()
        .map(|a| a.to_str().unwrap_or_default())
        .collect();
    let Some(at) = words.iter().position(|w| DAEMONS.contains(w)) else {
        return Ok(args);
    };
    let Some(daemon) = cli.find_subcommand(words[at]) else {
        return Ok(args);
    };
    let given = |flag: &str| {
        words.iter().any(|w| {
            *w == flag
                || w.strip_prefix(flag)
                    .is_some_and(|rest| rest.starts_with('='))
        })
    };
    let named = words.iter().enumerate().find_map(|(i, w)| {
        w.strip_prefix("--config=").or_else(|| {
            (*w == "--config")
                .then(|| words.get(i + 1).copied())
                .flatten()
        })
    });
    let from_env = std::env::var("CARAVEL_CONFIG")
        .ok()
        .filter(|_| named.is_none() && env("CARAVEL_CONFIG"));
    let path = named.map(str::to_owned).or(from_env.clone());
    let asked_for = path.is_some();
    let path = path.unwrap_or_else(|| DEFAULT.to_owned());
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !asked_for => {
            return Ok(args);
        }
        Err(source) => return Err(FileError::Read { path, source }),
    };
    let parsed: Value = serde_yaml_ng::from_str(&text).map_err(|e| FileError::Yaml {
        path: path.clone(),
        why: e.to_string(),
    })?;
    let map = match parsed {
        Value::Null => return Ok(args),
        Value::Mapping(map) => map,
        _ => {
            return Err(FileError::Yaml {
                path,
                why: "expected lines of KEY: VALUE".into(),
            });
        }
    };
    let mut extra: Vec<OsString> = Vec::new();
    for (key, value) in &map {
        let key = key.as_str().unwrap_or_default();
        let flags = |command: &Command| {
            command
                .get_arguments()
                .find(|a| a.get_long() == Some(key))
                .cloned()
        };
        let Some(arg) = flags(daemon)
            .or_else(|| flags(cli))
            .filter(|_| key != "config")
        else {
            let elsewhere = DAEMONS
                .iter()
                .filter_map(|d| cli.find_subcommand(d))
                .any(|c| flags(c).is_some());
            if elsewhere {
                continue;
            }
            return Err(FileError::Unknown {
                hint: hint(cli, key),
                path,
                key: key.to_owned(),
            });
        };
        let flag = format!("--{key}");
        if given(&flag) || arg.get_env().and_then(|v| v.to_str()).is_some_and(env) {
            continue;
        }
        let wrong = |found, expected| FileError::Value {
            path: path.clone(),
            key: key.to_owned(),
            found,
            expected,
        };
        let switch = matches!(arg.get_action(), ArgAction::SetTrue);
        match value {
            Value::Bool(true) if switch => extra.push(flag.into()),
            Value::Bool(false) if switch => {}
            _ if switch => return Err(wrong("a value", "true or false")),
            Value::Sequence(items) if matches!(arg.get_action(), ArgAction::Append) => {
                for item in items {
                    extra.push(
                        format!(
                            "{flag}={}",
                            scalar(item).ok_or_else(|| wrong(
                                "a nested list or mapping",
                                "a list of texts"
                            ))?
                        )
                        .into(),
                    );
                }
            }
            Value::Sequence(_) => return Err(wrong("a list", "one value")),
            Value::Null => {}
            other => extra.push(
                format!(
                    "{flag}={}",
                    scalar(other).ok_or_else(|| wrong("a mapping", "one value"))?
                )
                .into(),
            ),
        }
    }
    let mut merged = args;
    merged.splice(at + 1..at + 1, extra);
    Ok(merged)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The nearest key, if one is near.
fn hint(cli: &Command, key: &str) -> String {
    let all = DAEMONS
        .iter()
        .filter_map(|d| cli.find_subcommand(d))
        .flat_map(|c| {
            c.get_arguments()
                .filter_map(|a| a.get_long())
                .map(str::to_owned)
        });
    let near = all.map(|name| (distance(&name, key), name)).min();
    near.filter(|(d, _)| *d <= 3)
        .map(|(_, name)| format!(" (did you mean {name:?}?)"))
        .unwrap_or_default()
}

fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != *y))
                .min(row[j] + 1)
                .min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn merged(args: &str, env: &[&str], text: &str) -> Result<String, String> {
        let args = std::iter::once("caravel")
            .chain(args.split_whitespace())
            .map(OsString::from)
            .collect();
        let read = |path: &str| {
            if path == "gone" || text.is_empty() {
                Err(std::io::ErrorKind::NotFound.into())
            } else {
                Ok(text.to_owned())
            }
        };
        let all = merge(
            args,
            &crate::cli::Cli::command(),
            &|name| env.contains(&name),
            &read,
        )
        .map_err(|e| e.to_string())?;
        Ok(all
            .iter()
            .skip(1)
            .map(|a| a.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" "))
    }

    #[test]
    fn the_file_gives_what_flags_and_environment_do_not() {
        let cases = [
            ("server", "", "server"),
            ("version", "junk: 1", "version"),
            (
                "server",
                "https-listen-port: 7443\ntls-san: [a, b]\nlog-json: true\n",
                "server --https-listen-port=7443 --tls-san=a --tls-san=b --log-json",
            ),
            (
                "server --https-listen-port=1",
                "https-listen-port: 7443",
                "server --https-listen-port=1",
            ),
            ("server", "node-ip: 10.0.0.1", "server"),
            (
                "node",
                "node-ip: 10.0.0.1\nserver: https://a:1",
                "node --node-ip=10.0.0.1 --server=https://a:1",
            ),
        ];
        for (args, text, expected) in cases {
            assert_eq!(
                merged(args, &[], text).as_deref(),
                Ok(expected),
                "{args} {text}"
            );
        }
        assert_eq!(
            merged(
                "server",
                &["CARAVEL_HTTPS_LISTEN_PORT"],
                "https-listen-port: 1"
            )
            .as_deref(),
            Ok("server")
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (args, text, part) in [
            (
                "server",
                "tls-sans: a",
                "unknown key \"tls-sans\" (did you mean \"tls-san\"?)",
            ),
            ("server", "- a", "no YAML mapping"),
            ("server", "name: [a]", "name cannot be a list"),
            ("server", "log-json: 7", "true or false"),
            ("server --config gone", "x", "read the configuration gone"),
        ] {
            let error = merged(args, &[], text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
