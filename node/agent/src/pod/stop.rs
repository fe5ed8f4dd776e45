//! Stops one container: preStop hook, its stop signal, the grace period, SIGKILL.
//!
//! The deadline may move nearer while this runs (a second, harsher delete). Follows killContainer of
//! pkg/kubelet/kuberuntime.

use std::sync::Arc;
use std::time::Duration;

use caravel_runtime::{ContainerState, RuntimeError};
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::events::Kind;
use crate::handler;
use crate::world::World;

/// The least that a container gets between SIGTERM and SIGKILL after its hook has used the time up.
const LEAST: Duration = Duration::from_secs(2);
/// Between two looks at a container that was told to end; its end is also hinted at.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) struct Order {
    pub pod: Arc<Pod>,
    pub container: Option<Container>,
    pub id: String,
    pub signal: i32,
    pub ip: Option<std::net::IpAddr>,
}

pub(crate) async fn stop(
    world: &World,
    order: Order,
    mut deadline: watch::Receiver<Instant>,
) -> Result<(), RuntimeError> {
    let mut exits = world.runtime.exits();
    let begun = Instant::now();
    let hook = order
        .container
        .as_ref()
        .and_then(|c| c.lifecycle.as_ref())
        .and_then(|l| l.pre_stop.as_ref());
    if let (Some(hook), Some(container)) = (hook, &order.container)
        && *deadline.borrow() > begun
    {
        let run = handler::run(world, &order.id, container, order.ip, hook);
        tokio::pin!(run);
        loop {
            let until = *deadline.borrow_and_update();
            tokio::select! {
                result = &mut run => {
                    if let Err(message) = result {
                        world.events.container(&order.pod, &container.name, Kind::Warning, "FailedPreStopHook", format!("PreStopHook failed: {message}"));
                    }
                    break;
                }
                () = tokio::time::sleep_until(until) => break,
                changed = deadline.changed() => if changed.is_err() { break },
            }
        }
    }
    let hooked = hook.is_some();
    if *deadline.borrow() > begun {
        world.runtime.signal(&order.id, order.signal).await?;
    }
    let least = if hooked {
        Instant::now() + LEAST
    } else {
        begun
    };
    loop {
        if !world
            .runtime
            .state(&order.id)
            .await
            .is_ok_and(|s| s.is_running())
        {
            return Ok(());
        }
        let given = *deadline.borrow_and_update();
        let until = given.max(least.min(given + LEAST));
        if Instant::now() >= until {
            break;
        }
        tokio::select! {
            _ = exits.recv() => {}
            () = tokio::time::sleep_until(until.min(Instant::now() + LOOK)) => {}
            _ = deadline.changed() => {}
        }
    }
    world.runtime.signal(&order.id, libc::SIGKILL).await?;
    let end = Instant::now() + Duration::from_secs(30);
    while matches!(
        world.runtime.state(&order.id).await,
        Ok(ContainerState::Running(_) | ContainerState::Creating)
    ) {
        if Instant::now() > end {
            return Err(RuntimeError::Refused(format!(
                "container {} did not end after SIGKILL",
                order.id
            )));
        }
        tokio::select! {
            _ = exits.recv() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// `SIGQUIT`, `QUIT`, `3`, `SIGRTMIN+3`: as images and Pods write a stop signal. SIGTERM where it says nothing.
pub(crate) fn signal_number(text: &str) -> i32 {
    if let Ok(number) = text.parse::<i32>() {
        return number;
    }
    let name = if text.starts_with("SIG") {
        text.to_owned()
    } else {
        format!("SIG{text}")
    };
    if let Some(offset) = name
        .strip_prefix("SIGRTMIN+")
        .and_then(|n| n.parse::<i32>().ok())
    {
        return 34 + offset;
    }
    name.parse::<nix::sys::signal::Signal>()
        .map_or(libc::SIGTERM, |s| s as i32)
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals() {
        for (text, want) in [
            ("", 15),
            ("SIGQUIT", 3),
            ("QUIT", 3),
            ("9", 9),
            ("SIGRTMIN+3", 37),
            ("NONSENSE", 15),
        ] {
            assert_eq!(signal_number(text), want, "{text}");
        }
    }
}
