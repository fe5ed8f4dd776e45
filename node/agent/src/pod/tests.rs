//! Stories of pods: what was seen, and what is planned and said. Times are seconds after the first.

use caravel_runtime::{ContainerState, Exit, Started};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::observed::{Attempt, Condemned, ImageState, Observed, Probes, Stage, StartFailure};
use super::plan::{Step, plan};
use super::status::status;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
    )
    .unwrap()
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "main", "image": "a:1"}]}))
}

fn deleted(mut pod: Pod, grace: i64) -> Pod {
    pod.metadata.deletion_timestamp = Some(caravel_api::time::time(at(0)));
    pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod
}

fn attempt(restart: u32, streak: u32, state: ContainerState) -> Attempt {
    Attempt {
        id: format!("id{restart}"),
        restart,
        streak,
        image: "a:1".into(),
        image_id: "sha".into(),
        asked: "a:1".into(),
        state,
        message: None,
        seen: at(0),
        start_failed: false,
    }
}

fn running(restart: u32) -> Attempt {
    attempt(
        restart,
        0,
        ContainerState::Running(Started {
            pid: 1,
            start_time: 1,
            started_at: at(0),
        }),
    )
}

fn ended(restart: u32, streak: u32, code: i32, from: i64, to: i64) -> Attempt {
    attempt(
        restart,
        streak,
        ContainerState::Exited(Exit {
            code,
            signal: None,
            oom: code == 137,
            started_at: at(from),
            finished_at: at(to),
        }),
    )
}

/// Everything is made; the image is here.
fn ready() -> Observed {
    let mut seen = Observed {
        sandbox: Stage::Ready(()),
        volumes: Stage::Ready(()),
        written: true,
        ip: "10.42.0.2".parse().ok(),
        ..Observed::default()
    };
    for name in ["main", "init", "side"] {
        seen.images.insert(name.into(), ImageState::Present);
    }
    seen
}

fn with(mut seen: Observed, name: &str, attempts: Vec<Attempt>) -> Observed {
    for attempt in attempts.iter().filter(|a| a.running()) {
        seen.probes.insert(
            attempt.id.clone(),
            Probes {
                hooked: true,
                started: true,
                ready: true,
            },
        );
    }
    seen.attempts.insert(name.into(), attempts);
    seen
}

fn shown(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::CreateSandbox => "sandbox".into(),
        Step::SetUpVolumes => "volumes".into(),
        Step::GetImage {
            container, policy, ..
        } => format!("image {container} {policy:?}"),
        Step::Start {
            container,
            restart,
            streak,
        } => format!("start {container} {restart}/{streak}"),
        Step::Stop {
            id, grace, message, ..
        } => format!("stop {id} {grace}s ({message})"),
        Step::Remove { id, .. } => format!("remove {id}"),
        Step::BackingOff { container, .. } => format!("backing off {container}"),
        Step::CleanUp => "clean up".into(),
        Step::DeleteObject => "delete".into(),
        Step::Again(when) => format!("again at {}", when.duration_since(at(0)).as_secs()),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn plans() {
    let init = || {
        pod(
            json!({"restartPolicy": "Always", "initContainers": [{"name": "init", "image": "a:1"}], "containers": [{"name": "main", "image": "a:1"}]}),
        )
    };
    let sidecar = || {
        pod(
            json!({"initContainers": [{"name": "side", "image": "a:1", "restartPolicy": "Always"}], "containers": [{"name": "main", "image": "a:1"}]}),
        )
    };
    let never_init = || {
        pod(
            json!({"restartPolicy": "Never", "initContainers": [{"name": "init", "image": "a:1"}], "containers": [{"name": "main", "image": "a:1"}]}),
        )
    };
    let late = || {
        let mut pod = pod(
            json!({"activeDeadlineSeconds": 5, "containers": [{"name": "main", "image": "a:1"}]}),
        );
        pod.status = Some(
            serde_json::from_value(json!({"startTime": caravel_api::time::time(at(0))})).unwrap(),
        );
        pod
    };
    let changed = || pod(json!({"containers": [{"name": "main", "image": "b:2"}]}));
    let failed_pull = |again| {
        let mut seen = ready();
        seen.images.insert(
            "main".into(),
            ImageState::Failed {
                reason: "ErrImagePull",
                message: "x".into(),
                failures: 1,
                again: at(again),
            },
        );
        seen
    };
    let stopping = {
        let mut seen = with(ready(), "main", vec![running(0)]);
        seen.stopping.insert("id0".into(), at(30));
        seen
    };
    let condemned = {
        let mut seen = with(ready(), "main", vec![running(0)]);
        seen.condemned.insert(
            "id0".into(),
            Condemned {
                message: "unhealthy".into(),
                grace: Some(7),
            },
        );
        seen
    };
    let misconfigured = {
        let mut seen = ready();
        seen.failures.insert(
            "main".into(),
            StartFailure {
                reason: "CreateContainerConfigError",
                message: "x".into(),
                failures: 1,
                again: at(10),
            },
        );
        seen
    };
    for (story, pod, seen, now, want) in [
        (
            "a new pod",
            one("Always"),
            Observed::default(),
            0,
            "sandbox, volumes, image main IfNotPresent",
        ),
        (
            "all under way",
            one("Always"),
            Observed {
                sandbox: Stage::Making,
                volumes: Stage::Making,
                images: [("main".to_owned(), ImageState::Pulling)].into(),
                ..Observed::default()
            },
            0,
            "",
        ),
        ("all there", one("Always"), ready(), 0, "start main 0/0"),
        (
            "starting",
            one("Always"),
            Observed {
                starting: ["main".to_owned()].into(),
                ..ready()
            },
            0,
            "",
        ),
        (
            "running",
            one("Always"),
            with(ready(), "main", vec![running(0)]),
            0,
            "",
        ),
        (
            "the first restart is at once",
            one("Always"),
            with(ready(), "main", vec![ended(0, 0, 1, 0, 1)]),
            1,
            "start main 1/1",
        ),
        (
            "the second waits",
            one("Always"),
            with(ready(), "main", vec![ended(1, 1, 1, 0, 1)]),
            5,
            "backing off main, again at 11",
        ),
        (
            "and comes",
            one("Always"),
            with(ready(), "main", vec![ended(1, 1, 1, 0, 1)]),
            11,
            "start main 2/2",
        ),
        (
            "a long run is forgiven",
            one("Always"),
            with(ready(), "main", vec![ended(7, 7, 1, 0, 700)]),
            700,
            "start main 8/1",
        ),
        (
            "success under OnFailure",
            one("OnFailure"),
            with(ready(), "main", vec![ended(0, 0, 0, 0, 1)]),
            1,
            "clean up",
        ),
        (
            "failure under OnFailure",
            one("OnFailure"),
            with(ready(), "main", vec![ended(0, 0, 2, 0, 1)]),
            1,
            "start main 1/1",
        ),
        (
            "failure under Never",
            one("Never"),
            with(ready(), "main", vec![ended(0, 0, 2, 0, 1)]),
            1,
            "clean up",
        ),
        (
            "the end is told first",
            one("Never"),
            Observed {
                written: false,
                ..with(ready(), "main", vec![ended(0, 0, 2, 0, 1)])
            },
            1,
            "",
        ),
        (
            "old attempts go",
            one("Always"),
            with(
                ready(),
                "main",
                vec![ended(0, 0, 1, 0, 1), ended(1, 1, 1, 2, 3), running(2)],
            ),
            20,
            "remove id0",
        ),
        (
            "a pull waits",
            one("Always"),
            failed_pull(10),
            5,
            "again at 10",
        ),
        (
            "and is tried again",
            one("Always"),
            failed_pull(10),
            10,
            "image main IfNotPresent",
        ),
        (
            "a missing configmap waits",
            one("Always"),
            misconfigured,
            5,
            "again at 10",
        ),
        ("init first", init(), ready(), 0, "start init 0/0"),
        (
            "init running",
            init(),
            with(ready(), "init", vec![running(0)]),
            0,
            "",
        ),
        (
            "init done",
            init(),
            with(ready(), "init", vec![ended(0, 0, 0, 0, 1)]),
            1,
            "start main 0/0",
        ),
        (
            "init failed",
            init(),
            with(ready(), "init", vec![ended(0, 0, 1, 0, 1)]),
            1,
            "start init 1/1",
        ),
        (
            "init failed for good",
            never_init(),
            with(ready(), "init", vec![ended(0, 0, 1, 0, 1)]),
            1,
            "clean up",
        ),
        (
            "a sidecar stays",
            sidecar(),
            with(ready(), "side", vec![running(0)]),
            1,
            "start main 0/0",
        ),
        (
            "a changed image",
            changed(),
            with(ready(), "main", vec![running(0)]),
            0,
            "stop id0 30s (Container main definition changed, will be restarted)",
        ),
        (
            "an unhealthy container",
            one("Always"),
            condemned,
            0,
            "stop id0 7s (unhealthy)",
        ),
        ("being stopped", deleted(one("Always"), 30), stopping, 0, ""),
        (
            "deleted",
            deleted(one("Always"), 12),
            with(ready(), "main", vec![running(0)]),
            0,
            "stop id0 12s (Stopping container main)",
        ),
        (
            "deleted and ended",
            deleted(one("Always"), 12),
            with(ready(), "main", vec![ended(0, 0, 0, 0, 1)]),
            2,
            "clean up",
        ),
        (
            "deleted and clean",
            deleted(one("Always"), 12),
            Observed {
                cleaning: true,
                cleaned: true,
                ..with(ready(), "main", vec![ended(0, 0, 0, 0, 1)])
            },
            2,
            "delete",
        ),
        (
            "deleted before it began",
            deleted(one("Always"), 0),
            Observed {
                written: true,
                ..Observed::default()
            },
            0,
            "clean up",
        ),
        (
            "gone without a word",
            one("Always"),
            Observed {
                gone: true,
                ..with(ready(), "main", vec![running(0)])
            },
            0,
            "stop id0 30s (Stopping container main)",
        ),
        (
            "over its deadline",
            late(),
            with(ready(), "main", vec![running(0)]),
            6,
            "stop id0 30s (Stopping container main)",
        ),
        (
            "before its deadline",
            late(),
            with(ready(), "main", vec![running(0)]),
            2,
            "again at 5",
        ),
    ] {
        assert_eq!(shown(&plan(&pod, &seen, at(now))), want, "{story}");
    }
}

/// `phase | state of each container | last state | restarts | ready | conditions that are not true`
fn told(pod: &Pod, seen: &Observed, now: i64) -> String {
    let status = status(pod, seen, None, at(now));
    let container = |s: &k8s_openapi::api::core::v1::ContainerStatus| {
        let of = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| match state {
            Some(s) => match (&s.waiting, &s.running, &s.terminated) {
                (Some(w), ..) => format!(
                    "{}{}",
                    w.reason.clone().unwrap_or_default(),
                    w.message
                        .as_ref()
                        .map(|m| format!("({m})"))
                        .unwrap_or_default()
                ),
                (_, Some(_), _) => "Running".into(),
                (.., Some(t)) => {
                    format!("{}:{}", t.reason.clone().unwrap_or_default(), t.exit_code)
                }
                _ => "-".into(),
            },
            None => "-".into(),
        };
        format!(
            "{} {} last {} x{}{}",
            s.name,
            of(&s.state),
            of(&s.last_state),
            s.restart_count,
            if s.ready { " ready" } else { "" }
        )
    };
    let containers: Vec<_> = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .map(container)
        .collect();
    let conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|c| c.status != "True")
        .map(|c| {
            format!(
                "{} {} {}",
                c.type_,
                c.reason.clone().unwrap_or_default(),
                c.message.clone().unwrap_or_default()
            )
            .trim()
            .to_owned()
        })
        .collect();
    format!(
        "{} | {} | {}",
        status.phase.unwrap_or_default(),
        containers.join("; "),
        conditions.join("; ")
    )
}

#[test]
fn statuses() {
    let init = || {
        pod(
            json!({"initContainers": [{"name": "init", "image": "a:1"}], "containers": [{"name": "main", "image": "a:1"}]}),
        )
    };
    let failed_pull = {
        let mut seen = ready();
        seen.images.insert(
            "main".into(),
            ImageState::Failed {
                reason: "ErrImagePull",
                message: "refused".into(),
                failures: 1,
                again: at(10),
            },
        );
        seen
    };
    let unready = {
        let mut seen = with(ready(), "main", vec![running(0)]);
        seen.probes.insert(
            "id0".into(),
            Probes {
                hooked: true,
                started: true,
                ready: false,
            },
        );
        seen
    };
    let not = "Ready ContainersNotReady containers with unready status: [main]; ContainersReady ContainersNotReady containers with unready status: [main]";
    for (story, pod, seen, now, want) in [
        ("new", one("Always"), Observed::default(), 0, format!("Pending | main ContainerCreating last - x0 | PodReadyToStartContainers; {not}")),
        ("running", one("Always"), with(ready(), "main", vec![running(0)]), 0, "Running | main Running last - x0 ready | ".into()),
        ("unready", one("Always"), unready, 0, format!("Running | main Running last - x0 | {not}")),
        ("waiting for init", init(), with(ready(), "init", vec![running(0)]), 0, format!("Pending | init Running last - x0; main PodInitializing last - x0 | Initialized ContainersNotInitialized containers with incomplete status: [init]; {not}")),
        ("after init", init(), with(with(ready(), "init", vec![ended(0, 0, 0, 0, 1)]), "main", vec![running(0)]), 2, "Running | init Completed:0 last - x0 ready; main Running last - x0 ready | ".into()),
        ("a failed pull", one("Always"), failed_pull.clone(), 1, format!("Pending | main ErrImagePull(refused) last - x0 | {not}")),
        ("later", one("Always"), failed_pull, 4, format!("Pending | main ImagePullBackOff(Back-off pulling image \"a:1\": ErrImagePull: refused) last - x0 | {not}")),
        ("crashed once", one("Always"), with(ready(), "main", vec![ended(0, 0, 5, 0, 1)]), 1, format!("Running | main Error:5 last - x0 | {not}")),
        ("backing off", one("Always"), with(ready(), "main", vec![ended(0, 0, 5, 0, 1), ended(1, 1, 5, 2, 3)]), 4, format!("Running | main CrashLoopBackOff(back-off 10s restarting failed container=main pod=p_n(u)) last Error:5 x1 | {not}")),
        ("restarted", one("Always"), with(ready(), "main", vec![ended(0, 0, 137, 0, 1), running(1)]), 4, "Running | main Running last OOMKilled:137 x1 ready | ".into()),
        ("succeeded", one("Never"), with(ready(), "main", vec![ended(0, 0, 0, 0, 1)]), 4, "Succeeded | main Completed:0 last - x0 | Ready PodCompleted; ContainersReady PodCompleted".into()),
        ("failed", one("Never"), with(ready(), "main", vec![ended(0, 0, 3, 0, 1)]), 4, "Failed | main Error:3 last - x0 | Ready PodFailed; ContainersReady PodFailed".into()),
    ] {
        assert_eq!(told(&pod, &seen, now), want, "{story}");
    }
}

#[test]
fn times_of_transitions_are_kept() {
    let pod = one("Always");
    let first = status(&pod, &Observed::default(), None, at(0));
    let second = status(
        &pod,
        &with(ready(), "main", vec![running(0)]),
        Some(&first),
        at(5),
    );
    let time = |status: &k8s_openapi::api::core::v1::PodStatus, kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind)
            .unwrap()
            .last_transition_time
            .clone()
            .unwrap()
            .0
    };
    assert_eq!(time(&second, "Initialized"), at(0));
    assert_eq!(time(&second, "Ready"), at(5));
    assert_eq!(second.start_time, first.start_time);
}
