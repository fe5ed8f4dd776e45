//! `/version`, `/livez`, `/readyz`, `/healthz`, `/metrics`: what a load balancer, a person and Prometheus ask first.

use crate::body::Body;
use crate::respond;
use crate::router::text;
use crate::server::ApiServer;
use crate::stack::Ask;
use caravel_api::ApiError;
use http::{Response, StatusCode};
use serde_json::json;

/// The Kubernetes version whose API is served.
const MAJOR: &str = "1";
const MINOR: &str = "37";

/// `/version`
pub(crate) fn version(ask: &Ask) -> Response<Body> {
    let platform = match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        "x86_64" => "linux/amd64",
        other => {
            return respond::document(
                StatusCode::OK,
                version_json(&format!("linux/{other}")),
                ask.accepted,
            );
        }
    };
    respond::document(StatusCode::OK, version_json(platform), ask.accepted)
}

fn version_json(platform: &str) -> bytes::Bytes {
    let document = json!({
        "major": MAJOR,
        "minor": MINOR,
        "gitVersion": format!("v{MAJOR}.{MINOR}.0+caravel-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none (Rust)",
        "compiler": "rustc",
        "platform": platform,
    });
    document.to_string().into()
}

/// One named check of `/readyz?verbose`.
type Check = (&'static str, fn(&ApiServer) -> Result<(), &'static str>);

const CHECKS: &[Check] = &[
    ("ping", |_| Ok(())),
    ("log", |_| Ok(())),
    ("store", |api| {
        if api.store.status().healthy {
            Ok(())
        } else {
            Err("the store has stopped after a disk error")
        }
    }),
];

/// What only readiness asks.
const READY: &[Check] = &[
    ("leader", |api| {
        if *api.store.contact().borrow() {
            Ok(())
        } else {
            Err("no leader with a majority of the servers is in touch")
        }
    }),
    ("shutdown", |api| {
        if api.ending.is_cancelled() {
            Err("process is shutting down")
        } else {
            Ok(())
        }
    }),
];

/// What `/readyz` would say.
pub(crate) fn is_ready(api: &ApiServer) -> bool {
    CHECKS
        .iter()
        .chain(READY)
        .all(|(_, check)| check(api).is_ok())
}

/// `/livez`, `/readyz`, `/healthz` and the single checks below them.
pub(crate) fn check(api: &ApiServer, ask: &Ask, path: &str) -> Result<Response<Body>, ApiError> {
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let kind = parts.next().unwrap_or_default();
    let only = parts.next();
    let checks = CHECKS
        .iter()
        .chain(if kind == "readyz" { READY } else { &[] });
    let excluded: Vec<&str> = ask.query.all("exclude").collect();
    let (mut lines, mut failed, mut found) = (String::new(), false, false);
    for (name, check) in checks.filter(|(name, _)| only.is_none_or(|only| only == *name)) {
        found = true;
        if excluded.contains(name) {
            lines.push_str(&format!("[+]{name} excluded: ok\n"));
            continue;
        }
        match check(api) {
            Ok(()) => lines.push_str(&format!("[+]{name} ok\n")),
            Err(why) => {
                failed = true;
                tracing::warn!(check = name, why, "health check failed");
                lines.push_str(&format!("[-]{name} failed: {why}\n"));
            }
        }
    }
    if !found {
        return Err(ApiError::no_such_resource());
    }
    if failed {
        return Ok(text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{lines}{kind} check failed\n"),
        ));
    }
    if ask.query.get("verbose").is_some() && only.is_none() {
        return Ok(text(
            StatusCode::OK,
            format!("{lines}{kind} check passed\n"),
        ));
    }
    Ok(text(StatusCode::OK, "ok"))
}

/// `/metrics`
pub(crate) fn metrics(api: &ApiServer) -> Result<Response<Body>, ApiError> {
    let text = api.registry.text().map_err(ApiError::internal)?;
    Ok(respond::plain(
        StatusCode::OK,
        caravel_exporter::TEXT,
        text.into(),
    ))
}
