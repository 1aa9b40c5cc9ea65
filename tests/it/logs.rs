//! Logs go to a stderr that others hold the far end of: whatever they do with it, the work goes on.
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, ErrorKind, PipeReader, PipeWriter, Write, pipe};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex};

use im_sandbox::{Fault, Rule};
use serde_json::Value;

use crate::world::{World, eventually_settled, seconds};
use convgroup_testkit::{Daemon, Metrics, PATIENCE, eventually};

const DROPPED: &str = "convgroup_log_lines_dropped_total";
/// `O_NONBLOCK` of Linux.
const O_NONBLOCK: i32 = 0o4000;

/// A pipe with no room for a single byte.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fill(&writer);
    (reader, writer)
}

/// Fills a pipe through a descriptor of its own: a flag set on the daemon's would change what its writes do.
fn fill(writer: &PipeWriter) {
    let mut filler = OpenOptions::new()
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
        .unwrap();
    for piece in [&[b'\n'; 4096][..], b"\n"] {
        loop {
            match filler.write(piece) {
                Ok(_) => {}
                Err(err) if err.kind() == ErrorKind::WouldBlock => break,
                Err(err) => panic!("{err}"),
            }
        }
    }
}

/// So many broken events: each makes a line.
async fn broken_events(world: &World, count: usize) {
    let bodies = vec!["no event".to_owned(); count];
    world
        .broker
        .publish_many(world.config.exchange(), "delete", &bodies)
        .await;
}

/// Lets the daemon say more than is kept for a stderr that takes nothing.
async fn drops_lines(world: &World, daemon: &Daemon) {
    eventually("lines are dropped", PATIENCE, async || {
        broken_events(world, 200).await;
        let dropped = daemon.metrics().await.value(DROPPED, &[]);
        if dropped > 0.0 { Ok(()) } else { Err(dropped) }
    })
    .await;
}

/// The lines that the daemon wrote, which must be whole JSON objects.
fn objects(text: &str) -> Vec<Value> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line:?}")))
        .collect()
}

fn messages(objects: &[Value]) -> Vec<&str> {
    let told = objects.iter().map(|object| object["message"].as_str());
    told.map(Option::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_pipe_that_nobody_reads_holds_up_nothing() {
    let world = World::new().await;
    let users = world_with_backlog(&world, 200).await;
    let (_nobody_reads, stderr) = full_pipe();
    let mut daemon = world.config.spawn_logging_to(stderr);
    daemon.ready(PATIENCE).await;
    world.eventually_deleted(&users, PATIENCE).await;
    // 200 lines are more than are kept; should lines ever be shorter, more of them are.
    drops_lines(&world, &daemon).await;
    assert_eq!(daemon.http("/livez").await.0, 200);
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
}

/// Declares what is needed, and publishes an event for each of so many users.
async fn world_with_backlog(world: &World, count: usize) -> Vec<String> {
    world.declare().await;
    world.backlog(count).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_daemon_whose_log_nobody_reads() {
    let world = World::new().await;
    let (_nobody_reads, stderr) = full_pipe();
    world.user("user15", &["a"]);
    world.fault(Fault::Hang);
    let mut daemon = world.config.spawn_logging_to(stderr);
    daemon.ready(PATIENCE).await;
    world.publish("user15", &["a"]).await;
    world
        .counted(PATIENCE, |counters| counters.calls >= 1)
        .await;
    daemon.signal("TERM");
    daemon.eventually_status("/readyz", 503, PATIENCE).await;
    daemon.signal("TERM");
    daemon.exits_with(143, seconds(5)).await;
}

/// What was dropped is told as soon as the pipe moves, not with the next line: that may come hours later.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_pipe_that_moves_again_gets_whole_lines_and_the_number_of_those_dropped() {
    let world = World::new().await;
    let (reader, stderr) = full_pipe();
    let mut daemon = world.config.spawn_logging_to(stderr);
    daemon.ready(PATIENCE).await;
    drops_lines(&world, &daemon).await;
    world.settled(&daemon).await;
    let read = Arc::new(Mutex::new(String::new()));
    let reading = std::thread::spawn({
        let read = Arc::clone(&read);
        move || {
            for line in BufReader::new(reader).lines() {
                *read.lock().unwrap() += &(line.unwrap() + "\n");
            }
        }
    });
    eventually("it is told", PATIENCE, async || {
        let told = "log lines were dropped because stderr did not take them";
        read.lock().unwrap().contains(told)
    })
    .await;
    let dropped = daemon.metrics().await.value(DROPPED, &[]);
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    reading.join().unwrap();
    let text = read.lock().unwrap().clone();
    let objects = objects(&text);
    let told = objects.iter().map(|object| &object["log.lines_dropped"]);
    let told: Vec<Option<u64>> = told.map(Value::as_u64).collect();
    assert_eq!(told.iter().flatten().sum::<u64>(), dropped as u64, "{text}");
    let told = told.iter().position(Option::is_some).expect("told");
    let messages = messages(&objects);
    for kept in ["starting", "settled"] {
        assert!(messages[..told].contains(&kept), "no {kept} in {text}");
    }
    let last = messages.last();
    assert_eq!(last, Some(&"stopped; everything begun was finished"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_reader_that_dies_is_no_reason_to_end() {
    let world = World::new().await;
    let users = world_with_backlog(&world, 20).await;
    let (reader, stderr) = pipe().unwrap();
    drop(reader);
    let mut daemon = world.config.spawn_logging_to(stderr);
    daemon.ready(PATIENCE).await;
    world.eventually_deleted(&users, PATIENCE).await;
    broken_events(&world, 20).await;
    daemon
        .eventually_metrics("lines are dropped", PATIENCE, |metrics| {
            metrics.value(DROPPED, &[]) >= 20.0
        })
        .await;
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
}

/// A shell or a supervisor that shares stderr may have made it non-blocking.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_pipe_that_does_not_block_loses_nothing_while_it_is_read() {
    let world = World::new().await;
    let (reader, writer) = pipe().unwrap();
    let stderr = OpenOptions::new()
        .write(true)
        .custom_flags(O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", writer.as_raw_fd()))
        .unwrap();
    fill(&writer);
    drop(writer);
    let mut daemon = world.config.spawn_logging_to(stderr);
    daemon.ready(PATIENCE).await;
    broken_events(&world, 50).await;
    eventually("all are settled", PATIENCE, async || {
        let depth = world.broker.depth(&world.config.dead_queue()).await;
        if depth == 50 { Ok(()) } else { Err(depth) }
    })
    .await;
    let read = std::thread::spawn(move || std::io::read_to_string(reader).unwrap());
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    let text = read.join().unwrap();
    let objects = objects(&text);
    let settled = messages(&objects)
        .into_iter()
        .filter(|message| *message == "settled");
    assert_eq!(settled.count(), 50, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_stderr_changes_nothing() {
    let world = World::new().await;
    let users = world_with_backlog(&world, 20).await;
    let program = env!("CARGO_BIN_EXE_convgroup-deleter");
    let closed = ["-c", r#"exec "$0" run >&- 2>&-"#, program];
    let mut daemon = world
        .config
        .clone()
        .program("/bin/sh")
        .args(&closed)
        .spawn();
    daemon.ready(PATIENCE).await;
    world.eventually_deleted(&users, PATIENCE).await;
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_log_holds_up_nothing() {
    let world = World::new().await;
    let users = world_with_backlog(&world, 20).await;
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut daemon = world.config.spawn_logging_to(full);
    daemon.ready(PATIENCE).await;
    world.eventually_deleted(&users, PATIENCE).await;
    let counts = |metrics: &Metrics| metrics.value(DROPPED, &[]) >= 20.0;
    daemon
        .eventually_metrics("lines are dropped", PATIENCE, counts)
        .await;
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
}

/// What a tool says on the way is for who listens; nobody does, and its work is no less.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_whose_stderr_has_lost_its_reader_goes_on() {
    let world = World::new().await;
    world.user("user15", &["a"]);
    let once = Rule::new(Fault::code(51011)).times(1);
    world.sandbox.add_fault(once);
    let daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    let dead = world.config.dead_queue();
    world.broker.eventually_depth(&dead, 1, PATIENCE).await;
    let (reader, stderr) = pipe().unwrap();
    drop(reader);
    let tool = world.tool_config(&["dlq", "redrive", "--settle", "500ms"]);
    let mut tool = tool.spawn_logging_to(stderr);
    tool.exits_with(0, PATIENCE).await;
    eventually_settled(&daemon, "deleted", 1).await;
}
