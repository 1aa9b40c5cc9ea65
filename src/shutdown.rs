//! Signals: the first that asks for a stop drains, the second ends the process at once.
//!
//! They are heard by a thread of their own, with a runtime of its own: whatever the other threads wait for, a second signal ends
//! the process.
use std::time::{Duration, Instant};
use std::{fs, io, thread};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;

use crate::telemetry;

/// A SIGHUP that comes this soon after the first signal belongs to it. A shell that loses its terminal sends one to its jobs and
/// the kernel sends another when the shell ends; systemd can send one right after SIGTERM.
const HANG_UP_MAX: Duration = Duration::from_millis(200);
/// For the thread that hears signals, in bytes. It needs little.
const STACK_BYTES: usize = 1024 * 1024;

/// The signals that are heard. SIGPIPE is ignored from the start; all others do what they do to any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Hangup,
    Interrupt,
    Quit,
    Terminate,
    User1,
    User2,
}

impl Heard {
    const ALL: [Self; 6] = [
        Self::Hangup,
        Self::Interrupt,
        Self::Quit,
        Self::Terminate,
        Self::User1,
        Self::User2,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
        }
    }

    fn kind(self) -> SignalKind {
        match self {
            Self::Hangup => SignalKind::hangup(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Quit => SignalKind::quit(),
            Self::Terminate => SignalKind::terminate(),
            Self::User1 => SignalKind::user_defined1(),
            Self::User2 => SignalKind::user_defined2(),
        }
    }

    /// What it means, so long after the first that asked for a stop, if there was one.
    fn meaning(self, since_first: Option<Duration>) -> Meaning {
        match (self, since_first) {
            (Self::User1 | Self::User2, _) => Meaning::Nothing,
            (_, None) => Meaning::Stop,
            (Self::Hangup, Some(since)) if since <= HANG_UP_MAX => Meaning::SameStop,
            (Self::Hangup | Self::Interrupt | Self::Quit | Self::Terminate, Some(_)) => {
                Meaning::EndAtOnce
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Stop when the work in hand is done.
    Stop,
    /// The same request once more.
    SameStop,
    /// End now, with 128 + the signal's number.
    EndAtOnce,
    /// Only a word in the log.
    Nothing,
}

/// Installs the handlers for SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2. The returned token is cancelled by the first
/// signal that asks for a stop. A SIGHUP that is ignored already, as `nohup` has it, stays so.
///
/// # Errors
/// The handlers can't be installed, or the thread that hears the signals can't be started.
pub fn on_signals() -> io::Result<CancellationToken> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let (heard, signals) = unbounded_channel();
    let entered = runtime.enter();
    let ignores_hangup = ignores(&status(), Heard::Hangup);
    for which in Heard::ALL {
        if which == Heard::Hangup && ignores_hangup {
            continue;
        }
        let mut signal = signal(which.kind())?;
        let heard = heard.clone();
        runtime.spawn(async move {
            while signal.recv().await.is_some() && heard.send(which).is_ok() {}
        });
    }
    drop(entered);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || runtime.block_on(hear(signals, stopping)))?;
    Ok(stop)
}

/// Does what the signals mean, for as long as the process lives.
async fn hear(mut signals: UnboundedReceiver<Heard>, stopping: CancellationToken) {
    let mut first: Option<Instant> = None;
    while let Some(which) = signals.recv().await {
        let signal = which.name();
        match which.meaning(first.map(|first| first.elapsed())) {
            Meaning::Stop => {
                first = Some(Instant::now());
                tracing::info!(
                    signal,
                    "asked to stop; a second signal ends the process at once"
                );
                stopping.cancel();
            }
            Meaning::SameStop => tracing::debug!(signal, "asked to stop, by the same hang-up"),
            Meaning::Nothing => tracing::info!(
                signal,
                "this signal means nothing here: there is no log file to open anew and no configuration to read again"
            ),
            Meaning::EndAtOnce => {
                tracing::warn!(
                    signal,
                    "asked to stop again: ending at once, what is in hand comes back"
                );
                telemetry::flush();
                std::process::exit(128 + which.kind().as_raw_value());
            }
        }
    }
}

/// What the kernel says of this process; empty where it says nothing.
fn status() -> String {
    fs::read_to_string("/proc/self/status").unwrap_or_default()
}

/// Whether a process with this `/proc/PID/status` ignores a signal.
fn ignores(status: &str, which: Heard) -> bool {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (which.kind().as_raw_value() - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stops_the_second_ends_and_a_hang_up_may_come_twice() {
        let soon = Some(HANG_UP_MAX);
        let later = Some(HANG_UP_MAX + Duration::from_millis(1));
        for (which, first, second_soon, second_later) in [
            (
                Heard::Hangup,
                Meaning::Stop,
                Meaning::SameStop,
                Meaning::EndAtOnce,
            ),
            (
                Heard::Interrupt,
                Meaning::Stop,
                Meaning::EndAtOnce,
                Meaning::EndAtOnce,
            ),
            (
                Heard::Quit,
                Meaning::Stop,
                Meaning::EndAtOnce,
                Meaning::EndAtOnce,
            ),
            (
                Heard::Terminate,
                Meaning::Stop,
                Meaning::EndAtOnce,
                Meaning::EndAtOnce,
            ),
            (
                Heard::User1,
                Meaning::Nothing,
                Meaning::Nothing,
                Meaning::Nothing,
            ),
            (
                Heard::User2,
                Meaning::Nothing,
                Meaning::Nothing,
                Meaning::Nothing,
            ),
        ] {
            assert_eq!(which.meaning(None), first, "{which:?}");
            assert_eq!(which.meaning(soon), second_soon, "{which:?}");
            assert_eq!(which.meaning(later), second_later, "{which:?}");
        }
    }

    #[test]
    fn an_ignored_signal_is_read_from_the_status() {
        for (status, ignored) in [
            ("Name:\tx\nSigIgn:\t0000000000001000\n", false),
            ("Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n", true),
            ("SigIgn:\tnonsense\n", false),
            ("", false),
        ] {
            assert_eq!(ignores(status, Heard::Hangup), ignored, "{status:?}");
        }
    }
}
