//! A runtime in memory, for the daemon's tests and for simulations. Containers run until `finish`
//! ends them or they are killed; exec answers what the test has arranged.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::cgroup::pod_group;
use crate::runtime::{ExecOutput, Runtime, RuntimeError, Session};
use crate::spec::{ContainerSpec, ExecSpec, Resources, SandboxSpec};
use crate::state::{Container, ContainerExit, ContainerState, Exit, Sandbox, Started, Stats};

type Answer = Box<dyn Fn(&str, &[String]) -> ExecOutput + Send + Sync>;

pub struct Fake {
    state: Mutex<State>,
    exits: broadcast::Sender<ContainerExit>,
    answer: Mutex<Answer>,
}

#[derive(Default)]
struct State {
    sandboxes: BTreeMap<String, Sandbox>,
    containers: BTreeMap<String, Container>,
    next_pid: i32,
    /// Refuse the next start with this sentence.
    refuse: Option<String>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            state: Mutex::default(),
            exits: broadcast::channel(1024).0,
            answer: Mutex::new(Box::new(|_, _| ExecOutput {
                code: 0,
                output: Vec::new(),
            })),
        }
    }
}

impl Fake {
    /// Ends a container by itself.
    pub fn finish(&self, id: &str, code: i32, oom: bool) {
        self.end(id, code, None, oom);
    }

    pub fn refuse_next_start(&self, message: &str) {
        self.state.lock().refuse = Some(message.to_owned());
    }

    pub fn answer_exec(
        &self,
        answer: impl Fn(&str, &[String]) -> ExecOutput + Send + Sync + 'static,
    ) {
        *self.answer.lock() = Box::new(answer);
    }

    fn end(&self, id: &str, code: i32, signal: Option<i32>, oom: bool) {
        let mut state = self.state.lock();
        let Some(container) = state.containers.get_mut(id) else {
            return;
        };
        let ContainerState::Running(started) = container.state else {
            return;
        };
        container.state = ContainerState::Exited(Exit {
            code,
            signal,
            oom,
            started_at: started.started_at,
            finished_at: Timestamp::now(),
        });
        let _ = self.exits.send(ContainerExit {
            id: id.to_owned(),
            pod_uid: container.spec.pod_uid.clone(),
        });
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        let mut state = self.state.lock();
        let path = |name: &str| Some(format!("/fake/{}/{name}", spec.pod_uid).into());
        let sandbox = Sandbox {
            netns: if spec.host_network { None } else { path("net") },
            uts: if spec.host_network { None } else { path("uts") },
            ipc: if spec.host_ipc { None } else { path("ipc") },
            pid: None,
            pause: None,
            shm: path("shm"),
            cgroup: pod_group("/fake", spec.qos, &spec.pod_uid),
            created_at: Timestamp::now(),
            spec: spec.clone(),
        };
        Ok(state
            .sandboxes
            .entry(spec.pod_uid.clone())
            .or_insert(sandbox)
            .clone())
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        if state
            .containers
            .values()
            .any(|container| container.spec.pod_uid == pod_uid)
        {
            return Err(RuntimeError::Refused(format!(
                "sandbox of pod {pod_uid} still has containers"
            )));
        }
        state.sandboxes.remove(pod_uid);
        Ok(())
    }

    async fn sandboxes(&self) -> Result<Vec<Sandbox>, RuntimeError> {
        Ok(self.state.lock().sandboxes.values().cloned().collect())
    }

    async fn start(&self, spec: ContainerSpec) -> Result<Started, RuntimeError> {
        let mut state = self.state.lock();
        if !state.sandboxes.contains_key(&spec.pod_uid) {
            return Err(RuntimeError::NoSandbox(spec.pod_uid));
        }
        if state.containers.contains_key(&spec.id) {
            return Err(RuntimeError::Exists(spec.id));
        }
        if let Some(message) = state.refuse.take() {
            return Err(RuntimeError::Start {
                id: spec.id,
                message,
            });
        }
        state.next_pid += 1;
        let started = Started {
            pid: state.next_pid,
            start_time: 1,
            started_at: Timestamp::now(),
        };
        let id = spec.id.clone();
        state.containers.insert(
            id,
            Container {
                spec,
                state: ContainerState::Running(started),
            },
        );
        Ok(started)
    }

    async fn state(&self, id: &str) -> Result<ContainerState, RuntimeError> {
        let state = self.state.lock();
        let container = state
            .containers
            .get(id)
            .ok_or_else(|| RuntimeError::NoContainer(id.to_owned()))?;
        Ok(container.state.clone())
    }

    async fn list(&self) -> Result<Vec<Container>, RuntimeError> {
        Ok(self.state.lock().containers.values().cloned().collect())
    }

    async fn signal(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        self.state(id).await?;
        self.end(id, 128 + signal, Some(signal), false);
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.end(id, 137, Some(9), false);
        self.state.lock().containers.remove(id);
        Ok(())
    }

    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<Session, RuntimeError> {
        if !self.state(id).await?.is_running() {
            return Err(RuntimeError::NotRunning(id.to_owned()));
        }
        let said = (self.answer.lock())(id, &spec.args);
        Ok(Session {
            stdin: spec
                .stdin
                .then(|| Box::new(tokio::io::sink()) as crate::runtime::Input),
            stdout: Some(Box::new(std::io::Cursor::new(said.output))),
            stderr: None,
            resize: None,
            exit: Box::pin(std::future::ready(Ok(said.code))),
        })
    }

    async fn attach(&self, id: &str, _stdin: bool) -> Result<Session, RuntimeError> {
        self.exec(id, ExecSpec::default()).await
    }

    async fn stats(&self, id: &str) -> Result<Stats, RuntimeError> {
        self.state(id).await.map(|_| Stats::default())
    }

    async fn pod_stats(&self, pod_uid: &str) -> Result<Stats, RuntimeError> {
        let known = self.state.lock().sandboxes.contains_key(pod_uid);
        known
            .then(Stats::default)
            .ok_or_else(|| RuntimeError::NoSandbox(pod_uid.to_owned()))
    }

    async fn update(&self, id: &str, resources: Resources) -> Result<(), RuntimeError> {
        let mut state = self.state.lock();
        let container = state
            .containers
            .get_mut(id)
            .ok_or_else(|| RuntimeError::NoContainer(id.to_owned()))?;
        container.spec.resources = resources;
        Ok(())
    }

    fn exits(&self) -> broadcast::Receiver<ContainerExit> {
        self.exits.subscribe()
    }
}
