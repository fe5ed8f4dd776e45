//! Probes of one container attempt: when each is asked, and what a row of answers means.
//!
//! `Tally` decides (pure); `watch` asks and reports changes. Follows pkg/kubelet/prober (worker.go), defaults included.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use tokio::sync::{mpsc, watch};

use crate::events::Kind as EventKind;
use crate::handler;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Startup,
    Readiness,
    Liveness,
}

impl Which {
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup_probe.as_ref(),
            Self::Readiness => container.readiness_probe.as_ref(),
            Self::Liveness => container.liveness_probe.as_ref(),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a probe of a container has come to say.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    pub id: String,
    pub which: Which,
    pub healthy: bool,
}

/// Counts answers in a row until they count.
#[derive(Debug)]
pub(crate) struct Tally {
    success: u32,
    failure: u32,
    last: Option<bool>,
    run: u32,
}

impl Tally {
    pub fn new(probe: &Probe) -> Self {
        let or = |value: Option<i32>, default: u32| {
            value
                .and_then(|v| u32::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default)
        };
        Self {
            success: or(probe.success_threshold, 1),
            failure: or(probe.failure_threshold, 3),
            last: None,
            run: 0,
        }
    }

    /// The verdict, once enough answers agree; again with each that still does.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) {
            self.run.saturating_add(1)
        } else {
            1
        };
        self.last = Some(success);
        (self.run >= if success { self.success } else { self.failure }).then_some(success)
    }
}

pub(crate) struct Watched {
    pub world: Arc<World>,
    pub pod: Arc<Pod>,
    pub container: Container,
    pub id: String,
    pub ip: Option<IpAddr>,
    pub which: Which,
    /// Readiness and liveness wait for the startup probe.
    pub started: watch::Receiver<bool>,
    pub verdicts: mpsc::Sender<Verdict>,
}

/// Probes until it is aborted or the actor is gone.
pub(crate) async fn watch(mut watched: Watched) {
    let Some(probe) = watched.which.of(&watched.container).cloned() else {
        return;
    };
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(
            value
                .and_then(|v| u64::try_from(v).ok())
                .filter(|v| *v > 0)
                .unwrap_or(default),
        )
    };
    let period = seconds(probe.period_seconds, 10);
    let timeout = seconds(probe.timeout_seconds, 1);
    if let Some(delay) = probe
        .initial_delay_seconds
        .and_then(|v| u64::try_from(v).ok())
        .filter(|v| *v > 0)
    {
        tokio::time::sleep(Duration::from_secs(delay)).await;
    }
    if watched.which != Which::Startup
        && watched.started.wait_for(|started| *started).await.is_err()
    {
        return;
    }
    let mut tally = Tally::new(&probe);
    let mut told = None;
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let answer = ask(&watched, &probe, timeout).await;
        if let Err(message) = &answer {
            let title = watched.which.title();
            watched.world.events.container(
                &watched.pod,
                &watched.container.name,
                EventKind::Warning,
                "Unhealthy",
                format!("{title} probe failed: {message}"),
            );
        }
        let Some(healthy) = tally.count(answer.is_ok()) else {
            continue;
        };
        if told == Some(healthy) {
            continue;
        }
        told = Some(healthy);
        let verdict = Verdict {
            id: watched.id.clone(),
            which: watched.which,
            healthy,
        };
        if watched.verdicts.send(verdict).await.is_err()
            || (watched.which == Which::Startup && healthy)
        {
            return;
        }
    }
}

async fn ask(watched: &Watched, probe: &Probe, timeout: Duration) -> Result<(), String> {
    let container = &watched.container;
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        return match watched
            .world
            .runtime
            .exec_sync(&watched.id, command, timeout, handler::OUTPUT)
            .await
        {
            Ok(out) if out.code == 0 => Ok(()),
            Ok(out) => Err(String::from_utf8_lossy(&out.output).into_owned()),
            Err(caravel_runtime::RuntimeError::Timeout(_)) => Err(format!(
                "command timed out: \"{shown}\" timed out after {}s",
                timeout.as_secs()
            )),
            Err(error) => Err(error.to_string()),
        };
    }
    if let Some(get) = &probe.http_get {
        let (code, _) = handler::http_get(container, watched.ip, get, timeout).await?;
        return if (200..400).contains(&code) {
            Ok(())
        } else {
            Err(format!("HTTP probe failed with statuscode: {code}"))
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        return handler::connect(
            container,
            tcp.host.as_deref(),
            watched.ip,
            &tcp.port,
            timeout,
        )
        .await
        .map(drop);
    }
    if let Some(grpc) = &probe.grpc {
        return crate::grpc_health::check(container, watched.ip, grpc, timeout).await;
    }
    Err("missing probe handler".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_a_row() {
        let probe = Probe {
            success_threshold: Some(2),
            failure_threshold: Some(3),
            ..Probe::default()
        };
        let mut tally = Tally::new(&probe);
        let verdicts: String = "++-+--+---++"
            .chars()
            .map(|c| match tally.count(c == '+') {
                None => '.',
                Some(true) => 'R',
                Some(false) => 'F',
            })
            .collect();
        assert_eq!(verdicts, ".R.......F.R");
    }
}
