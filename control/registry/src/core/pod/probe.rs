//! What is wrong with probes, life-cycle hooks and what both run.
//!
//! Follows `validateProbe`, `validateHandler` and `validateLifecycle` of `pkg/apis/core/validation`.

use k8s_openapi::api::core::v1::{
    ExecAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::found::{At, Found, text};
use crate::names;

/// Which of a container's three probes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Liveness,
    Readiness,
    Startup,
}

pub fn validate(found: &mut Found, probe: &Probe, which: Which, grace: Option<i64>, at: &At) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref().map(|action| action.port),
        sleep: None,
    };
    handler.validate(found, grace, at);
    for (name, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        found.not_negative(&at.child(name), i64::from(value.unwrap_or(0)));
    }
    let grace_at = at.child("terminationGracePeriodSeconds");
    if let Some(seconds) = probe.termination_grace_period_seconds {
        if seconds <= 0 {
            found.invalid(&grace_at, seconds, "must be greater than 0");
        }
        if which == Which::Readiness {
            found.invalid(&grace_at, seconds, "must not be set for readinessProbes");
        }
    }
    let successes = probe.success_threshold.unwrap_or(0);
    if which != Which::Readiness && successes != 1 {
        found.invalid(&at.child("successThreshold"), successes, "must be 1");
    }
}

pub fn validate_lifecycle(found: &mut Found, lifecycle: &Lifecycle, grace: Option<i64>, at: &At) {
    for (name, handler) in [
        ("postStart", &lifecycle.post_start),
        ("preStop", &lifecycle.pre_stop),
    ] {
        if let Some(handler) = handler {
            let handler = Handler {
                exec: handler.exec.as_ref(),
                http_get: handler.http_get.as_ref(),
                tcp_socket: handler.tcp_socket.as_ref(),
                grpc: None,
                sleep: handler.sleep.as_ref(),
            };
            handler.validate(found, grace, &at.child(name));
        }
    }
}

/// What is run, by a probe or by a hook.
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<i32>,
    sleep: Option<&'a SleepAction>,
}

impl Handler<'_> {
    fn validate(&self, found: &mut Found, grace: Option<i64>, at: &At) {
        let mut named = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, there)| there.then_some(name));
        match named.next() {
            None => found.required(at, "must specify a handler type"),
            Some("exec") => {
                if self
                    .exec
                    .and_then(|action| action.command.as_ref())
                    .is_none_or(Vec::is_empty)
                {
                    found.required(&at.child("exec").child("command"), "");
                }
            }
            Some("httpGet") => self
                .http_get
                .into_iter()
                .for_each(|action| http_get(found, action, &at.child("httpGet"))),
            Some("tcpSocket") => {
                self.tcp_socket.into_iter().for_each(|action| {
                    port(found, &action.port, &at.child("tcpSocket").child("port"))
                });
            }
            Some("grpc") => {
                let port = self.grpc.unwrap_or_default();
                found.number_faults(
                    &at.child("grpc").child("port"),
                    i64::from(port),
                    names::port_number(port),
                );
            }
            Some(_) => {
                let seconds = self.sleep.map_or(0, |action| action.seconds);
                if let Some(grace) = grace
                    && !(0..=grace).contains(&seconds)
                {
                    let said = format!(
                        "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                    );
                    found.invalid(&at.child("sleep"), seconds, said);
                }
            }
        }
        for extra in named {
            found.forbidden(&at.child(extra), "may not specify more than 1 handler type");
        }
    }
}

fn http_get(found: &mut Found, action: &HTTPGetAction, at: &At) {
    if text(&action.path).is_none() {
        found.required(&at.child("path"), "");
    }
    port(found, &action.port, &at.child("port"));
    match action.scheme.as_deref() {
        Some("HTTP" | "HTTPS") => {}
        other => found.not_supported(
            &at.child("scheme"),
            other.unwrap_or_default(),
            &["HTTP", "HTTPS"],
        ),
    }
    for header in action.http_headers.iter().flatten() {
        found.faults(
            &at.child("httpHeaders"),
            &header.name,
            names::header_name(&header.name),
        );
    }
}

/// A port by number or by name.
pub fn port(found: &mut Found, port: &IntOrString, at: &At) {
    match port {
        IntOrString::Int(number) => {
            found.number_faults(at, i64::from(*number), names::port_number(*number))
        }
        IntOrString::String(name) => found.faults(at, name, names::port_name(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn probes() {
        for (which, given, want) in [
            (
                Which::Liveness,
                json!({"exec": {"command": ["x"]}, "successThreshold": 1}),
                "[]",
            ),
            (
                Which::Liveness,
                json!({"successThreshold": 1}),
                "p: Required value: must specify a handler type",
            ),
            (
                Which::Liveness,
                json!({"exec": {"command": ["x"]}, "successThreshold": 2}),
                "p.successThreshold: Invalid value: 2: must be 1",
            ),
            (
                Which::Readiness,
                json!({"exec": {"command": ["x"]}, "successThreshold": 2}),
                "[]",
            ),
            (
                Which::Readiness,
                json!({"exec": {}}),
                "p.exec.command: Required value",
            ),
            (
                Which::Readiness,
                json!({"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}),
                "p.tcpSocket: Forbidden: may not specify more than 1 handler type",
            ),
            (
                Which::Readiness,
                json!({"httpGet": {"path": "/", "port": 0, "scheme": "HTTP"}}),
                "p.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                Which::Readiness,
                json!({"httpGet": {"path": "/", "port": "web", "scheme": "FTP"}}),
                "p.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
            ),
            (
                Which::Readiness,
                json!({"tcpSocket": {"port": 80}, "periodSeconds": -1}),
                "p.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ),
        ] {
            let probe: Probe = serde_json::from_value(given.clone()).unwrap();
            let mut found = Found::new();
            validate(&mut found, &probe, which, Some(30), &At::Root.child("p"));
            assert_eq!(found.into_errors().message(), want, "{given}");
        }
    }
}
