//! Nothing outlives the test process: not after a panic, not after kill -9.
//!
//! A small shell in its own process group reads a pipe that only the test process holds open. It is told which process
//! groups and directories exist; when the pipe closes, the test process is gone, and the shell kills the groups and
//! removes the directories. `Drop` does the same earlier where it runs; statics are never dropped, this always works.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

const SCRIPT: &str = r#"
trap '' INT TERM HUP
groups=
while read -r verb what; do
    case $verb in
        group) groups="$groups $what" ;;
        dir) set -- "$@" "$what" ;;
        forget)
            kept=
            for group in $groups; do [ "$group" = "$what" ] || kept="$kept $group"; done
            groups=$kept ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
for group in $groups; do
    tries=0
    while kill -s 0 -- "-$group" 2>/dev/null && [ "$tries" -lt 100 ]; do
        sleep 0.05
        tries=$((tries + 1))
    done
done
[ $# -eq 0 ] || rm -rf -- "$@"
"#;

#[expect(
    clippy::zombie_processes,
    reason = "it outlives this process, that is its purpose"
)]
static PIPE: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "reaper"])
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("/bin/sh starts");
    Mutex::new(shell.stdin.take().expect("its stdin is a pipe"))
});

/// Kill this process group when the test process is gone.
pub fn group(leader: u32) {
    tell("group", &leader.to_string());
}

/// The group is gone already.
pub fn forget(leader: u32) {
    tell("forget", &leader.to_string());
}

/// Remove this directory when the test process is gone.
pub fn directory(path: &Path) {
    tell("dir", &path.display().to_string());
}

fn tell(verb: &str, what: &str) {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    pipe.write_all(format!("{verb} {what}\n").as_bytes())
        .expect("the reaper lives as long as this process");
}

/// Sends `signal` ("TERM", "KILL", "STOP", …) to a process; says whether there was one to take it.
pub fn signal(signal: &str, pid: u32) -> bool {
    kill(signal, &pid.to_string())
}

/// The same for a whole process group.
pub fn signal_group(signal: &str, leader: u32) -> bool {
    kill(signal, &format!("-{leader}"))
}

/// By the shell's own `kill`: it is always there, and this crate forbids the unsafe call.
fn kill(signal: &str, target: &str) -> bool {
    Command::new("/bin/sh")
        .args(["-c", r#"kill -s "$1" -- "$2""#, "kill", signal, target])
        .stderr(Stdio::null())
        .status()
        .expect("/bin/sh starts")
        .success()
}
