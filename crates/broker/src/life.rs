//! Whether a session with the broker is still alive: the one thing that all who depend on it share.
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::events::{BrokerEvent, Observer};

/// A broker takes its messages back from a silent client after two to three heartbeats; a process that stood still for this
/// many stops calling before that.
const STALL_HEARTBEATS: f64 = 1.5;
/// A session that lived this long was of use, even if there was no message to prove it on.
const OF_USE_AFTER: Duration = Duration::from_secs(30);
/// How often the session looks at the clock to notice that the whole process stood still.
const PULSE_INTERVAL: Duration = Duration::from_millis(500);

/// Whether a session is still alive. Shared by all that depends on it.
#[derive(Debug)]
pub struct Life {
    over: CancellationToken,
    reason: OnceLock<String>,
    began: Instant,
    proved: AtomicBool,
    refused: AtomicBool,
    pulse: Mutex<Instant>,
    stall_max: Duration,
    observer: Observer,
}

impl Life {
    /// A session that begins now, with a heartbeat as agreed.
    pub(super) fn new(heartbeat: Duration, observer: Observer) -> Self {
        Self {
            over: CancellationToken::new(),
            reason: OnceLock::new(),
            began: Instant::now(),
            proved: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            pulse: Mutex::new(Instant::now()),
            stall_max: heartbeat.mul_f64(STALL_HEARTBEATS),
            observer,
        }
    }

    /// Ends the session; the first reason is the one that is told.
    pub fn end(&self, reason: impl Into<String>) {
        if self.reason.set(reason.into()).is_ok() {
            self.over.cancel();
            self.observer.tell(BrokerEvent::SessionEnded);
        }
    }

    /// Tells what happens to the session.
    pub(super) fn tell(&self, event: BrokerEvent) {
        self.observer.tell(event);
    }

    /// Says that a message was settled: this session is of use.
    pub fn prove(&self) {
        self.proved.store(true, Ordering::Relaxed);
    }

    /// Whether work was done on it, or it stood by for a while.
    pub(super) fn was_of_use(&self) -> bool {
        self.proved.load(Ordering::Relaxed) || self.began.elapsed() >= OF_USE_AFTER
    }

    /// Whether it ended because a copy could not be published, or the queue not be consumed.
    pub(super) fn met_refusal(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// Says that a copy could not be published, or the queue not be consumed.
    pub(super) fn note_refusal(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Whether a call may still be started for a message of this session.
    ///
    /// A process that stood still (stopped, frozen with its container, swapped out) for more than a heartbeat and a half can't know whether the
    /// broker gave its messages to somebody else: the session ends then, whoever notices first.
    #[must_use]
    pub fn is_on(&self) -> bool {
        if self.over.is_cancelled() {
            return false;
        }
        let stall = self.pulse.lock().expect("no panic while held").elapsed();
        if stall > self.stall_max {
            self.end(format!("the process stood still for {} s", stall.as_secs()));
            return false;
        }
        true
    }

    /// Completes when the session is over.
    pub fn over(&self) -> impl Future<Output = ()> + '_ {
        self.over.cancelled()
    }

    /// Why it is over.
    #[must_use]
    pub fn reason(&self) -> String {
        self.reason
            .get()
            .cloned()
            .unwrap_or_else(|| "closed".to_owned())
    }

    /// Looks at the clock for as long as the session lives. What came before, opening the session, took as long as the broker took:
    /// that was no standstill.
    pub(super) fn beat(self: Arc<Self>) -> impl Future<Output = ()> {
        self.pulse();
        async move {
            while self.is_on() {
                self.pulse();
                tokio::select! {
                    () = tokio::time::sleep(PULSE_INTERVAL) => {}
                    () = self.over() => {}
                }
            }
        }
    }

    fn pulse(&self) {
        *self.pulse.lock().expect("no panic while held") = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_that_took_long_to_open_did_not_stand_still() {
        let life = Arc::new(Life::new(Duration::from_secs(1), Observer::nobody()));
        *life.pulse.lock().unwrap() = Instant::now()
            .checked_sub(Duration::from_mins(1))
            .expect("the machine runs for longer than that");
        let _beat = Arc::clone(&life).beat();
        assert!(life.is_on(), "{}", life.reason());
    }
}
