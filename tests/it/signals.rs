//! What each signal does: a first one that asks for a stop drains, a second one ends at once, and those meant for something
//! else do not end it.
use std::process::Command;

use crate::world::{World, seconds};
use convgroup_testkit::{Daemon, DaemonConfig, PATIENCE, eventually, free_port};

/// Signals that ask for a stop, with their numbers.
const STOPS: [(&str, i32); 4] = [("HUP", 1), ("INT", 2), ("QUIT", 3), ("TERM", 15)];

async fn eventually_logs(daemon: &Daemon, what: &str) {
    eventually(&format!("{what:?} is logged"), PATIENCE, async || {
        let output = daemon.output();
        if output.contains(what) {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signal_that_asks_for_a_stop_drains_and_a_second_one_ends_at_once() {
    for (signal, number) in STOPS {
        let world = World::new().await;
        let mut daemon = world.daemon_in_a_call().await;
        daemon.signal(signal);
        eventually_logs(&daemon, "finishing the calls in flight").await;
        let (status, told) = daemon.http("/readyz").await;
        assert_eq!(status, 503, "SIG{signal}");
        assert!(told.starts_with("draining"), "SIG{signal}: {told}");
        assert!(daemon.output().contains(&format!("\"SIG{signal}\"")));
        // Hang-ups that come together are one; a later one is a second signal.
        eventually("a second signal ends it", seconds(10), async || {
            let is_running = daemon.is_running();
            if is_running {
                daemon.signal(signal);
            }
            !is_running
        })
        .await;
        daemon.exits_with(128 + number, seconds(5)).await;
        world
            .broker
            .eventually_depth(world.config.queue(), 1, PATIENCE)
            .await;
    }
}

/// A shell that loses its terminal sends SIGHUP to its jobs, and the kernel sends it again when the shell ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_that_is_told_twice_still_drains() {
    let world = World::new().await;
    let mut daemon = world.daemon().await;
    let pid = daemon.pid().to_string();
    let twice = [r#"kill -HUP "$0"; kill -HUP "$0"; kill -HUP "$0""#, &pid];
    let sent = Command::new("/bin/sh").arg("-c").args(twice).status();
    assert!(sent.unwrap().success());
    daemon.exits_with(0, seconds(10)).await;
}

/// Those that other programs use for "open your log file anew": nothing to do here, and no reason to end.
#[tokio::test(flavor = "multi_thread")]
async fn signals_with_another_meaning_are_told_and_change_nothing() {
    let world = World::new().await;
    world.user("user15", &["a"]);
    let mut daemon = world.daemon().await;
    for signal in ["USR1", "USR2"] {
        daemon.signal(signal);
        eventually_logs(&daemon, &format!("\"SIG{signal}\"")).await;
    }
    // The program's start has it ignored: nobody reads it, and nobody is told.
    daemon.signal("PIPE");
    world.works(PATIENCE).await;
    assert!(daemon.is_running());
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
}

/// `nohup` has SIGHUP ignored, so that the process outlives the terminal.
#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_under_nohup_changes_nothing() {
    let world = World::new().await;
    let program = env!("CARGO_BIN_EXE_convgroup-deleter");
    let mut daemon = world
        .config
        .clone()
        .program("/bin/sh")
        .args(&["-c", r#"trap '' HUP; exec "$0" run"#, program])
        .spawn();
    daemon.ready(PATIENCE).await;
    daemon.signal("HUP");
    world.works(PATIENCE).await;
    assert_eq!(daemon.http("/readyz").await.0, 200);
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
}

/// Before there is a broker: nothing is to be waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_a_broker_stops_at_once_whatever_asks_for_it() {
    for (signal, _) in STOPS {
        let broker = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
        let mut daemon = DaemonConfig::new(&broker, "http://127.0.0.1:9").spawn();
        daemon.eventually_status("/livez", 200, PATIENCE).await;
        daemon.signal(signal);
        daemon.exits_with(0, seconds(10)).await;
    }
}
