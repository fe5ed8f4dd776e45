//! Runs the real runtime against the real kernel, from a root file system with busybox in it:
//! `shimtest <rootfs> <scratch directory>`. Needs root. Prints one line per check, fails on the first
//! that is not as it should be. The same program is its own shim and exec helper.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caravel_runtime::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn main() {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(word) if word == "shim" => shim::main(args),
        Some(word) if word == "exec-helper" => exec_helper::main(args),
        Some(rootfs) => {
            let scratch = PathBuf::from(args.next().expect("a scratch directory"));
            let only = args.next().map(|word| word.to_string_lossy().into_owned());
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(run(Path::new(&rootfs), &scratch, only.as_deref()));
        }
        None => panic!("usage: shimtest <rootfs> <scratch directory>"),
    }
}

fn check(what: &str, ok: bool, seen: impl std::fmt::Debug) {
    println!("{} {what}: {seen:?}", if ok { "ok  " } else { "FAIL" });
    assert!(ok, "{what}");
}

struct World {
    shims: Arc<Shims>,
    rootfs: PathBuf,
    logs: PathBuf,
}

impl World {
    fn container(&self, id: &str, script: &str) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            pod_uid: "pod1".into(),
            lower: vec![self.rootfs.clone()],
            args: vec!["sh".into(), "-c".into(), script.into()],
            log: LogSpec {
                path: Some(self.logs.join(format!("{id}.log"))),
                ..LogSpec::default()
            },
            ..ContainerSpec::default()
        }
    }

    async fn end(&self, id: &str) -> Exit {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match self.shims.state(id).await.expect("state") {
                ContainerState::Exited(exit) => return exit,
                state => assert!(Instant::now() < deadline, "{id} is {state:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn log(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.logs.join(format!("{id}.log"))).unwrap_or_default();
        text.lines()
            .map(|line| line.split_once(' ').map(|x| x.1).unwrap_or(line))
            .collect::<Vec<_>>()
            .join("|")
    }

    async fn sh(&self, id: &str, script: &str) -> (i32, String) {
        let args = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
        let out = self
            .shims
            .exec_sync(id, args, Duration::from_secs(10), 1 << 16)
            .await
            .expect("exec");
        (
            out.code,
            String::from_utf8_lossy(&out.output).trim_end().to_owned(),
        )
    }
}

async fn run(rootfs: &Path, scratch: &Path, only: Option<&str>) {
    let config = ShimsConfig {
        program: std::env::current_exe().expect("own path"),
        run: scratch.join("run"),
        data: scratch.join("data"),
        cgroup_parent: "/caravel-shimtest".into(),
    };
    let shims = Shims::open(config.clone()).await.expect("open");
    for container in shims.list().await.expect("list") {
        shims.remove(container.id()).await.expect("remove");
    }
    for sandbox in shims.sandboxes().await.expect("sandboxes") {
        shims
            .remove_sandbox(&sandbox.spec.pod_uid)
            .await
            .expect("remove");
    }
    let world = World {
        shims: shims.clone(),
        rootfs: rootfs.to_owned(),
        logs: scratch.join("logs"),
    };
    let _ = std::fs::remove_dir_all(&world.logs);
    let spec = SandboxSpec {
        pod_uid: "pod1".into(),
        hostname: "host-a".into(),
        ..SandboxSpec::default()
    };
    let begin = Instant::now();
    let sandbox = shims.create_sandbox(spec.clone()).await.expect("sandbox");
    check("sandbox", sandbox.netns.is_some(), begin.elapsed());
    check(
        "sandbox again",
        shims.create_sandbox(spec).await.expect("sandbox") == sandbox,
        (),
    );

    let wanted = |name: &str| only.is_none_or(|only| only == name);
    if wanted("basic") {
        basic(&world).await;
    }
    if wanted("errors") {
        errors(&world).await;
    }
    if wanted("limits") {
        limits(&world).await;
    }
    if wanted("exec") {
        exec(&world).await;
    }
    if wanted("attach") {
        attach(&world).await;
    }
    if wanted("adopt") {
        adopt(&world, config).await;
    }
    if wanted("shared") {
        shared(&world).await;
    }
    for container in shims.list().await.expect("list") {
        shims.remove(container.id()).await.expect("remove");
    }
    shims.remove_sandbox("pod1").await.expect("remove sandbox");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    let left: Vec<&str> = mounts
        .lines()
        .filter(|line| line.contains(&*scratch.to_string_lossy()))
        .collect();
    check("no mounts left", left.is_empty(), left);
    let group = Path::new("/sys/fs/cgroup/memory/caravel-shimtest/kubepods/besteffort/podpod1");
    check("no group left", !group.exists(), ());
}

async fn basic(world: &World) {
    let mut exits = world.shims.exits();
    let mut spec = world.container(
        "basic",
        "echo hello; echo oops >&2; hostname; pwd; id; echo $A $HOSTNAME; cat /data/f; echo $0; exit 3",
    );
    std::fs::create_dir_all(&world.logs).expect("logs");
    std::fs::write(world.logs.join("f"), "mounted\n").expect("file");
    spec.mounts = vec![Mount::bind(world.logs.join("f"), "/data/f", true)];
    spec.env = vec![("A".into(), "b c".into())];
    spec.cwd = Some("/srv/work".into());
    let begin = Instant::now();
    let started = world.shims.start(spec).await.expect("start");
    check("start", started.pid > 0, begin.elapsed());
    let exit = world.end("basic").await;
    check("exit code", exit.code == 3 && !exit.oom, &exit);
    let hint = tokio::time::timeout(Duration::from_secs(5), exits.recv()).await;
    check(
        "exit hint",
        hint.as_ref()
            .is_ok_and(|h| h.as_ref().is_ok_and(|h| h.id == "basic")),
        hint,
    );
    let log = world.log("basic");
    for part in [
        "stdout F hello",
        "stderr F oops",
        "F host-a",
        "F /srv/work",
        "F uid=0(root)",
        "F b c host-a",
        "F mounted",
    ] {
        check(part, log.contains(part), &log);
    }
    world.shims.remove("basic").await.expect("remove");
    check(
        "removed",
        matches!(
            world.shims.state("basic").await,
            Err(RuntimeError::NoContainer(_))
        ),
        (),
    );
}

async fn errors(world: &World) {
    let mut spec = world.container("bad", "");
    spec.args = vec!["nosuchprogram".into()];
    let error = world
        .shims
        .start(spec.clone())
        .await
        .expect_err("no such program")
        .to_string();
    check(
        "wrong command",
        error.contains("exec: \"nosuchprogram\": executable file not found in $PATH"),
        &error,
    );
    spec.user.image = "nobodyknows".into();
    let error = world
        .shims
        .start(spec.clone())
        .await
        .expect_err("no such user")
        .to_string();
    check(
        "wrong user",
        error.contains("unable to find user nobodyknows"),
        &error,
    );
    check(
        "nothing left",
        world.shims.list().await.expect("list").is_empty(),
        (),
    );
    let mut spec = world.container("user", "id; cat /proc/self/status | grep -i -e cap -e nonew; touch /x; echo $HOME; cat /proc/kcore; mount -t tmpfs x /mnt; grep -e SigIgn -e SigBlk /proc/self/status");
    spec.user.uid = Some(1000);
    spec.user.supplemental = vec![2000];
    spec.security.no_new_privileges = true;
    spec.security.seccomp = Seccomp::RuntimeDefault;
    spec.security.read_only_root = true;
    spec.oom_score_adj = Some(1000);
    world.shims.start(spec).await.expect("start");
    world.end("user").await;
    let log = world.log("user");
    for part in [
        "uid=1000 gid=0(root) groups=0(root),2000",
        "Read-only file system",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        check(part, log.contains(part), &log);
    }
    let ignored = log
        .split("SigIgn:\t")
        .nth(1)
        .and_then(|rest| u64::from_str_radix(&rest[..16], 16).ok());
    // SIGPIPE is 13. (libc itself ignores two internal ones, the shell SIGQUIT.)
    let clean = ignored.is_some_and(|mask| mask & (1 << 12) == 0)
        && log.contains("SigBlk:\t0000000000000000");
    check("signals are as new", clean, &log);
    world.shims.remove("user").await.expect("remove");
}

async fn limits(world: &World) {
    let mut spec = world.container("limit", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes; cat /sys/fs/cgroup/cpuacct/cpuacct.usage; cat /sys/fs/cgroup/pids/pids.max; echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes; tail /dev/zero");
    spec.resources.memory_limit = Some(32 << 20);
    spec.resources.pids = Some(50);
    spec.resources.cpu_quota = Some(50_000);
    world.shims.start(spec).await.expect("start");
    let exit = world.end("limit").await;
    let log = world.log("limit");
    check(
        "own limit",
        log.contains("F 33554432") && log.contains("F 50") && log.contains("Read-only"),
        &log,
    );
    check("oom", exit.oom && exit.code == 137, exit);
    let spec = world.container("stat", "exec sleep 1000");
    world.shims.start(spec).await.expect("start");
    let stats = world.shims.stats("stat").await.expect("stats");
    check(
        "stats",
        stats.pids == 1 && stats.memory_usage > 0 && stats.cpu_nanos > 0,
        &stats,
    );
    world.shims.signal("stat", 9).await.expect("signal");
    check("killed", world.end("stat").await.code == 137, ());
}

async fn exec(world: &World) {
    let mut spec = world.container("exec", "trap 'exit 7' TERM; while true; do sleep 0.1; done");
    spec.env = vec![("A".into(), "1".into())];
    world.shims.start(spec).await.expect("start");
    let begin = Instant::now();
    let out = world.sh("exec", "echo out $A; echo err >&2; exit 42").await;
    check(
        "exec",
        out == (42, "out 1\nerr".into()),
        (&out, begin.elapsed()),
    );
    let exec = ExecSpec {
        args: vec!["cat".into()],
        stdin: true,
        stdout: true,
        ..ExecSpec::default()
    };
    let mut session = world.shims.exec("exec", exec).await.expect("exec");
    let mut stdin = session.stdin.take().expect("stdin");
    stdin.write_all(b"through").await.expect("write");
    drop(stdin);
    let mut text = String::new();
    session
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut text)
        .await
        .expect("read");
    check(
        "stdin",
        text == "through" && session.exit.await.expect("exit") == 0,
        text,
    );
    let exec = ExecSpec {
        args: vec!["sh".into(), "-c".into(), "tty; stty size; exit 5".into()],
        tty: true,
        stdin: true,
        size: Some(Size {
            width: 90,
            height: 33,
        }),
        ..ExecSpec::default()
    };
    let mut session = world.shims.exec("exec", exec).await.expect("exec");
    let mut text = String::new();
    session
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut text)
        .await
        .expect("read");
    let code = session.exit.await.expect("exit");
    check(
        "terminal",
        text.contains("/dev/pts/") && text.contains("33 90") && code == 5,
        (&text, code),
    );
    let error = world
        .shims
        .exec(
            "exec",
            ExecSpec {
                args: vec!["nosuch".into()],
                ..ExecSpec::default()
            },
        )
        .await;
    check(
        "wrong command",
        error
            .as_ref()
            .is_err_and(|e| e.to_string().contains("not found in $PATH")),
        error.err(),
    );
    let late = world
        .shims
        .exec_sync(
            "exec",
            vec!["sleep".into(), "1000".into()],
            Duration::from_millis(300),
            10,
        )
        .await;
    check("timeout", matches!(late, Err(RuntimeError::Timeout(_))), ());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let (_, ps) = world.sh("exec", "ps").await;
        if !ps.contains("sleep 1000") {
            break;
        }
        assert!(Instant::now() < deadline, "{ps}");
    }
    world.shims.signal("exec", 15).await.expect("signal");
    check("TERM", world.end("exec").await.code == 7, ());
    let error = world
        .shims
        .exec(
            "exec",
            ExecSpec {
                args: vec!["true".into()],
                ..ExecSpec::default()
            },
        )
        .await;
    check(
        "ended",
        matches!(error, Err(RuntimeError::NotRunning(_))),
        error.err(),
    );
}

async fn attach(world: &World) {
    let mut spec = world.container(
        "attach",
        "while read x; do echo got $x; [ $x = end ] && exit 4; done; echo eof",
    );
    spec.stdin = true;
    world.shims.start(spec).await.expect("start");
    let mut session = world.shims.attach("attach", true).await.expect("attach");
    let mut stdin = session.stdin.take().expect("stdin");
    stdin.write_all(b"one\nend\n").await.expect("write");
    let mut text = String::new();
    session
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut text)
        .await
        .expect("read");
    check("attach", text == "got one\ngot end\n", &text);
    check("attach's exit", session.exit.await.expect("exit") == 4, ());
    let mut spec = world.container("tty", "exec sh");
    (spec.stdin, spec.tty) = (true, true);
    world.shims.start(spec).await.expect("start");
    let mut session = world.shims.attach("tty", true).await.expect("attach");
    session
        .resize
        .as_ref()
        .expect("resize")
        .send(Size {
            width: 77,
            height: 11,
        })
        .await
        .expect("resize");
    session
        .stdin
        .as_mut()
        .expect("stdin")
        .write_all(b"echo a$((6*7)); stty size; exit\n")
        .await
        .expect("write");
    let mut text = String::new();
    session
        .stdout
        .take()
        .expect("stdout")
        .read_to_string(&mut text)
        .await
        .expect("read");
    check(
        "terminal",
        text.contains("a42") && text.contains("11 77"),
        &text,
    );
}

async fn adopt(world: &World, config: ShimsConfig) {
    let mut spec = world.container("adopt", "while true; do echo tick; sleep 0.05; done");
    spec.labels.insert("name".into(), "x".into());
    let started = world.shims.start(spec.clone()).await.expect("start");
    // A second daemon over the same directories, as after a restart.
    let second = Shims::open(config).await.expect("open");
    let mut exits = second.exits();
    let list = second.list().await.expect("list");
    let found = list.iter().find(|c| c.id() == "adopt").expect("adopted");
    check(
        "adopted",
        found.spec == spec && found.state == ContainerState::Running(started),
        &found.state,
    );
    let shim = std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).expect("stat");
    let shim = shim
        .rsplit(')')
        .next()
        .and_then(|s| s.split(' ').nth(2))
        .expect("ppid")
        .to_owned();
    let status = std::fs::read_to_string(format!("/proc/{shim}/status")).expect("status");
    let memory: Vec<&str> = status
        .lines()
        .filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon") || l.starts_with("Threads"))
        .collect();
    check("shim is small", status.contains("Threads:\t1"), memory);
    second.signal("adopt", 9).await.expect("signal");
    let hint = tokio::time::timeout(Duration::from_secs(5), exits.recv()).await;
    check("hint after adoption", hint.is_ok(), hint);
    check("exit", world.end("adopt").await.code == 137, ());
    // A shim killed: its container goes too, and nobody takes it for running.
    let spec = world.container("lost", "exec sleep 1000");
    let started = second.start(spec).await.expect("start");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).expect("stat");
    let shim: i32 = stat
        .rsplit(')')
        .next()
        .and_then(|s| s.split(' ').nth(2))
        .expect("ppid")
        .parse()
        .expect("pid");
    let _ = std::process::Command::new("kill")
        .args(["-9", &shim.to_string()])
        .status();
    let deadline = Instant::now() + Duration::from_secs(5);
    while second.state("lost").await.expect("state") != ContainerState::Lost {
        assert!(
            Instant::now() < deadline,
            "a container without its shim is lost"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", started.pid)).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            break check("killed with its shim", true, stat);
        }
        assert!(Instant::now() < deadline, "killed with its shim: {stat}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    second.remove("lost").await.expect("remove");
}

async fn shared(world: &World) {
    let spec = SandboxSpec {
        pod_uid: "pod2".into(),
        hostname: "b".into(),
        share_pid: true,
        qos: Qos::Burstable,
        sysctls: [(
            "net.ipv4.ip_unprivileged_port_start".to_owned(),
            "80".to_owned(),
        )]
        .into(),
        ..SandboxSpec::default()
    };
    let sandbox = world.shims.create_sandbox(spec).await.expect("sandbox");
    check("pause", sandbox.pause.is_some(), sandbox.pause);
    let mut spec = world.container("a", "sleep 1000 & exec sleep 2000");
    spec.pod_uid = "pod2".into();
    world.shims.start(spec.clone()).await.expect("start");
    (spec.id, spec.args) = ("b".into(), vec!["sleep".into(), "3000".into()]);
    world.shims.start(spec).await.expect("start");
    let (_, ps) = world.sh("b", "ps; cat /proc/1/cmdline; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; cat /sys/fs/cgroup/pids/cgroup.procs").await;
    check(
        "shared processes",
        ps.contains("sleep 2000") && ps.contains("pause") && ps.contains("80"),
        &ps,
    );
    world.shims.signal("a", 9).await.expect("signal");
    world.end("a").await;
    let (_, ps) = world.sh("b", "ps").await;
    check(
        "all of a container ends",
        !ps.contains("sleep 1000") && ps.contains("sleep 3000"),
        &ps,
    );
    let was = sandbox.pause.expect("pause").pid;
    let _ = std::process::Command::new("kill")
        .args(["-9", &was.to_string()])
        .status();
    world.end("b").await;
    world.shims.remove("b").await.expect("remove");
    let mut spec = world.container("b", "exec sleep 3000");
    spec.pod_uid = "pod2".into();
    world
        .shims
        .start(spec)
        .await
        .expect("start after the pause process died");
    let (_, ps) = world.sh("b", "ps").await;
    check(
        "a new pause process",
        ps.contains("pause") && ps.contains("sleep 3000"),
        &ps,
    );
    for id in ["a", "b"] {
        world.shims.remove(id).await.expect("remove");
    }
    world.shims.remove_sandbox("pod2").await.expect("remove");
}
