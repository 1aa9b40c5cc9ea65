//! Limits of the machine that are used up: told as what they are, with which one to raise, and gone on from when it is raised.
use std::fs;
use std::process::Command;

use crate::world::{World, eventually_settled, seconds};
use convgroup_testkit::{Daemon, DaemonConfig, PATIENCE, eventually, free_port};

/// Stacks of 1 GiB, set from outside, so that the same address space has room for as many threads in every build.
const STACK_BYTES: u64 = 1 << 30;

/// The daemon under a limit that the shell sets, with few threads.
fn limited(config: DaemonConfig, ulimit: &str) -> DaemonConfig {
    let script = format!(r#"ulimit {ulimit}; exec "$0" run"#);
    config
        .set("RUST_MIN_STACK", STACK_BYTES)
        .set("MALLOC_ARENA_MAX", 1)
        .set("TOKIO_WORKER_THREADS", 1)
        .program("/bin/sh")
        .args(&["-c", &script, env!("CARGO_BIN_EXE_convgroup-deleter")])
}

/// Settings of a daemon whose broker's name has to be looked up, and is not there.
fn alone() -> DaemonConfig {
    let broker = format!("amqp://guest:guest@localhost:{}/%2f", free_port());
    DaemonConfig::new(&broker, "http://127.0.0.1:9")
}

/// Changes a limit of a running process.
fn set_limit(daemon: &Daemon, limit: &str) {
    let pid = daemon.pid().to_string();
    let set = Command::new("prlimit")
        .args(["--pid", &pid, limit])
        .status();
    assert!(set.expect("prlimit is part of util-linux").success());
}

/// Each limit of descriptors up to the first that lets the daemon start: the runtime's poll, its signals, the listener.
/// How many that takes differs between machines.
#[tokio::test(flavor = "multi_thread")]
async fn too_few_descriptors_to_start_with_are_named() {
    let mut refused = 0;
    for files in 4.. {
        let ulimit = format!("-n {files}");
        let mut daemon = limited(alone(), &ulimit).spawn();
        eventually("it ends or starts", PATIENCE, async || {
            !daemon.is_running() || has_started(&daemon)
        })
        .await;
        if daemon.is_running() {
            break;
        }
        assert_names_the_limit(daemon, &ulimit, "LimitNOFILE=").await;
        refused += 1;
    }
    assert!((5..50).contains(&refused), "{refused} limits were too low");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_threads_to_start_with_are_named() {
    let ulimit = "-v 600000";
    let daemon = limited(alone(), ulimit).spawn();
    assert_names_the_limit(daemon, ulimit, "TasksMax=").await;
}

/// It listens by then, and has what it needs to look for its broker.
fn has_started(daemon: &Daemon) -> bool {
    daemon.output().contains(r#""message":"starting""#)
}

async fn assert_names_the_limit(daemon: Daemon, ulimit: &str, limit: &str) {
    let (code, told) = daemon.finished(PATIENCE).await;
    assert_eq!(code, 1, "{ulimit}: {told}");
    assert!(told.contains(limit), "{ulimit}: {told}");
    for wrong in ["panicked", "a bug", "another instance"] {
        assert!(!told.contains(wrong), "{ulimit}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_thread_for_a_look_up_of_the_broker_is_told_and_gone_on_from() {
    let world = World::new().await;
    let by_name = world
        .config
        .get("CONVGROUP_AMQP__URL")
        .replace("127.0.0.1", "localhost");
    let config = world.config.clone().set("CONVGROUP_AMQP__URL", by_name);
    let mut daemon = limited(config, "-S -v 1600000").spawn();
    eventually("the limit is told", PATIENCE, async || {
        assert!(daemon.is_running(), "{}", daemon.output());
        let page = daemon.try_http("/readyz").await;
        let (status, told) = page.map_err(|err| err.to_string())?;
        let is_told = status == 503 && told.contains("TasksMax=");
        if is_told { Ok(()) } else { Err(told) }
    })
    .await;
    assert!(!daemon.output().contains("a bug"), "{}", daemon.output());
    set_limit(&daemon, "--as=unlimited:unlimited");
    daemon.ready(PATIENCE).await;
}

/// Not the event's fault: nothing counts against it.
#[tokio::test(flavor = "multi_thread")]
async fn no_thread_for_a_look_up_of_the_api_is_an_api_that_is_away() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1);
    world.user("user15", &["a"]);
    let by_name = format!("http://localhost:{}", world.sandbox.addr().port());
    let config = world.config.clone().set("CONVGROUP_IM__BASE_URL", by_name);
    let mut daemon = limited(config, "-S -v unlimited").spawn();
    daemon.ready(PATIENCE).await;
    only_the_worker_is_left(&daemon).await;
    set_limit(
        &daemon,
        &format!(
            "--as={}:unlimited",
            address_space(&daemon) + STACK_BYTES / 4
        ),
    );
    world.publish("user15", &["a"]).await;
    let told = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(told.contains("TasksMax="), "{told}");
    assert!(!daemon.output().contains("a bug"), "{}", daemon.output());
    assert_eq!(
        daemon.metrics().await.value("convgroup_panics_total", &[]),
        0.0
    );
    set_limit(&daemon, "--as=unlimited:unlimited");
    eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(world.broker.depth(&world.config.dead_queue()).await, 0);
}

/// The address space in use, in bytes.
fn address_space(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.trim().parse::<u64>().unwrap() * 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn no_descriptor_for_a_call_or_a_health_check_is_told_and_gone_on_from() {
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    world.user("user15", &["a"]);
    let mut daemon = world.daemon().await;
    // The connection of the last health check closes a moment after its answer.
    eventually("no descriptor is left", PATIENCE, async || {
        set_limit(
            &daemon,
            &format!("--nofile={}:20000", next_descriptor(&daemon)),
        );
        daemon.try_http("/livez").await.is_err()
    })
    .await;
    world.publish("user15", &["a"]).await;
    eventually("both are told", seconds(60), async || {
        let output = daemon.output();
        let told = |what: &str| {
            let mut lines = output.lines().filter(|line| line.contains("LimitNOFILE="));
            lines.any(|line| line.contains(what))
        };
        let both = told("can't be accepted") && told("suspended");
        if both { Ok(()) } else { Err(output.clone()) }
    })
    .await;
    assert!(daemon.is_running());
    set_limit(&daemon, "--nofile=20000:20000");
    eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(world.broker.depth(&world.config.dead_queue()).await, 0);
}

/// The descriptor that would be opened next: as a limit it leaves none.
fn next_descriptor(daemon: &Daemon) -> usize {
    // Links to sockets lead nowhere: they are looked at, not followed.
    let is_free = |number: &usize| {
        fs::symlink_metadata(format!("/proc/{}/fd/{number}", daemon.pid())).is_err()
    };
    (0..1024).find(is_free).unwrap()
}

/// Threads that the runtime keeps for what may block end when they had nothing to do for ten seconds.
async fn only_the_worker_is_left(daemon: &Daemon) {
    let folder = format!("/proc/{}/task", daemon.pid());
    eventually("idle threads are gone", PATIENCE, async || {
        let tasks = fs::read_dir(&folder).unwrap();
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        let count = names
            .filter(|name| name.starts_with("tokio-rt-worker"))
            .count();
        if count == 1 { Ok(()) } else { Err(count) }
    })
    .await;
}
