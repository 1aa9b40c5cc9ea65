//! Whether calls make sense at all: whose fault a bad answer is, when to suspend, when to go on.
//!
//! ```text
//!          unknown or account answer,
//!          window mostly transient            probe: healthy
//!   Open ───────────────────────────► Probing ────────────────► Open
//!                                        │ probe: anything else
//!                                        ▼
//!                                    Suspended ── probes at growing intervals; the first healthy one ──► Open
//!   any ── stop ──► Draining
//! ```
//! In every state but Open no call leaves: in Probing those that wait go on waiting for the probe's answer, in Suspended and
//! Draining they are turned back.
use std::sync::{Arc, Mutex as StdMutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::limiter::{Limiter, Place};
use super::window::Window;
use crate::broker::life::Life;
use crate::chat::client::ChatClient;
use crate::chat::probe::{AUTH_THROTTLED, Health, probe};
use crate::config;
use crate::domain::code::{Class, CodeTable, Verdict};
use crate::intervals::Intervals;
use crate::metrics::Metrics;

/// Asked again within a minute after [`AUTH_THROTTLED`], the API goes on refusing.
const AUTH_THROTTLED_PAUSE: Duration = Duration::from_mins(1);
/// While the last deletion that worked is not older, the account works for others: a doubtful answer asks the probe, but holds
/// nobody up.
const WORKED_LATELY: Duration = Duration::from_secs(5);
/// But for so many of them in a row: then it is not about one message any more.
const DOUBTS_MAX: u32 = 5;
/// How often a probe is made anew that is turned away because calls come too often.
const PROBE_THROTTLED_MAX: u32 = 4;
/// The pause before that: the API counts by the second.
const PROBE_THROTTLED_PAUSE: Duration = Duration::from_millis(500);

/// Whether calls may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Calls leave at the pace.
    Open,
    /// The probe is out: calls wait for its answer.
    Probing,
    /// Calls are turned back.
    Suspended,
    /// The daemon stops: calls are turned back.
    Draining,
}

/// Why the daemon is suspended, and the verdict that says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The account, or its configuration here, is at fault.
    Account(Verdict),
    /// The API can't be reached, or is too busy to answer.
    Unreachable(Verdict),
}

impl Reason {
    /// Why a probe says that calls make no sense; nothing if it is healthy.
    #[must_use]
    pub fn of(health: Health) -> Option<Self> {
        match health {
            Health::Healthy => None,
            Health::Faulty(verdict) => Some(Self::Account(verdict)),
            Health::Unreachable(verdict) => Some(Self::Unreachable(verdict)),
        }
    }

    /// The label of `convgroup_suspensions_total`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Account(_) => "account",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// The pause before the next probe, of which `next` is the next by plan.
    fn pause(&self, next: Duration) -> Duration {
        match self {
            Self::Account(verdict) if verdict.row.label == AUTH_THROTTLED => {
                next.max(AUTH_THROTTLED_PAUSE)
            }
            _ => next,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Account(verdict) => write!(f, "the account is at fault: {verdict}"),
            Self::Unreachable(verdict) if verdict.class() == Class::Throttled => {
                write!(f, "the API turns all calls away: {verdict}")
            }
            Self::Unreachable(verdict) => write!(f, "the API can't be reached: {verdict}"),
        }
    }
}

/// The gate, and all that opens and closes it.
#[derive(Debug)]
pub struct Suspension {
    gate: watch::Sender<Gate>,
    reason: StdMutex<Option<Reason>>,
    window: StdMutex<Window>,
    healthy_at: Mutex<Option<Instant>>,
    lately: StdMutex<Lately>,
    limiter: Arc<Limiter>,
    client: Arc<ChatClient>,
    codes: Arc<CodeTable>,
    settings: config::Suspend,
    metrics: Arc<Metrics>,
}

impl Suspension {
    /// The gate is open: the daemon finds out by its first calls whether that is right.
    #[must_use]
    pub fn new(
        settings: config::Suspend,
        limiter: Arc<Limiter>,
        client: Arc<ChatClient>,
        codes: Arc<CodeTable>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            gate: watch::Sender::new(Gate::Open),
            reason: StdMutex::new(None),
            window: StdMutex::new(Window::new(settings.window, settings.failure_ratio)),
            healthy_at: Mutex::new(None),
            lately: StdMutex::default(),
            limiter,
            client,
            codes,
            settings,
            metrics,
        }
    }

    /// The pace behind the gate.
    #[must_use]
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Waits for a call's turn. `false`: turned back, because the daemon is suspended or stops, or the message's session is
    /// over. Checked at the very moment of release.
    pub async fn turn(&self, life: &Life, place: Place) -> bool {
        let may_go = || *self.gate.borrow() == Gate::Open && life.is_on();
        // Most calls below the limit need not wait at all.
        if place == Place::Line && may_go() && self.limiter.turn_now() {
            self.metrics.rate_limit_wait_seconds.observe(0.0);
            return true;
        }
        let started = Instant::now();
        let mut gate = self.gate.subscribe();
        loop {
            let state = *gate.borrow_and_update();
            match state {
                Gate::Suspended | Gate::Draining => return false,
                Gate::Probing => {
                    tokio::select! {
                        _ = gate.changed() => continue,
                        () = life.over() => return false,
                    }
                }
                Gate::Open => {}
            }
            tokio::select! {
                biased;
                _ = gate.changed() => {}
                () = life.over() => return false,
                went = self.turn_from(place, may_go) => {
                    if went {
                        self.metrics.rate_limit_wait_seconds.observe(started.elapsed().as_secs_f64());
                        return true;
                    }
                    if !life.is_on() {
                        return false;
                    }
                }
            }
        }
    }

    async fn turn_from(&self, place: Place, may_go: impl Fn() -> bool) -> bool {
        match place {
            Place::Line => self.limiter.turn(may_go).await,
            Place::Head => self.limiter.turn_at_head(may_go).await,
        }
    }

    /// Completes when calls are turned back.
    pub async fn closed(&self) {
        let mut gate = self.gate.subscribe();
        let closed = gate
            .wait_for(|gate| matches!(gate, Gate::Suspended | Gate::Draining))
            .await;
        closed.map(drop).unwrap_or_default();
    }

    /// Completes when the daemon stops.
    pub async fn draining(&self) {
        let mut gate = self.gate.subscribe();
        let draining = gate.wait_for(|gate| *gate == Gate::Draining).await;
        draining.map(drop).unwrap_or_default();
    }

    /// Whether the daemon is suspended now.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.gate.borrow() == Gate::Suspended
    }

    /// Turns everything back from now on: the daemon stops.
    pub fn drain(&self) {
        self.gate.send_replace(Gate::Draining);
    }

    /// Takes in a finished call. A window of mostly transient ones asks the probe, and suspends unless it is healthy: a few
    /// messages that always fail must not stop the others.
    pub async fn observe(&self, verdict: &Verdict, called: Instant, life: &Life) {
        self.lately().observe(verdict.class());
        let tripped = self.window().observe(verdict.class());
        if tripped && self.ask(verdict, called, life, true).await {
            self.window().clear();
        }
    }

    /// Asks the probe whether the account is healthy, because the answer to a call made at `called` says that it may not be.
    /// One probe that was sent later than their calls speaks for all who ask. `false`: the daemon is suspended now, stops, or has
    /// lost its session, and with it the right to call.
    ///
    /// Calls wait for what it says if the answer names the account, or if there is no sign that others work: one doubtful message
    /// must not hold up everybody.
    pub async fn ask_probe(&self, verdict: &Verdict, called: Instant, life: &Life) -> bool {
        let suspect = matches!(verdict.class(), Class::Account | Class::Signature)
            || self.lately().is_suspect();
        self.ask(verdict, called, life, suspect).await
    }

    async fn ask(&self, verdict: &Verdict, called: Instant, life: &Life, suspect: bool) -> bool {
        // At once: another probe may be out.
        let probing = suspect.then(|| Probing::new(&self.gate));
        let mut healthy_at = self.healthy_at.lock().await;
        // From here on it ends before the lock does, and opens nobody else's gate.
        let _probing = probing;
        if matches!(*self.gate.borrow(), Gate::Suspended | Gate::Draining) {
            return false;
        }
        if healthy_at.is_some_and(|at| at > called) {
            return true;
        }
        if verdict.row.label == AUTH_THROTTLED {
            self.suspend(Reason::Account(verdict.clone()));
            return false;
        }
        if suspect {
            // The one before may have opened it.
            Probing::close(&self.gate);
        }
        let started = Instant::now();
        let Some(health) = self.probe(life).await else {
            return false;
        };
        if let Some(reason) = Reason::of(health) {
            self.suspend(reason);
            return false;
        }
        *healthy_at = Some(started);
        !self.is_suspended()
    }

    /// Why the daemon is suspended, in words.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.reason
            .lock()
            .expect("no panic while held")
            .as_ref()
            .map(ToString::to_string)
    }

    /// Probes at growing intervals until the account is healthy, then opens the gate. `told` hears the reason and the pause
    /// before each probe. Ends without that when the session is over.
    pub async fn recover(&self, life: &Life, mut told: impl FnMut(&Reason, Duration)) {
        let mut pauses = Intervals::probe(self.settings.probe_min, self.settings.probe_max);
        let started = Instant::now();
        loop {
            let Some(reason) = self.reason.lock().expect("no panic while held").clone() else {
                break;
            };
            let pause = reason.pause(pauses.next_pause());
            told(&reason, pause);
            tokio::time::sleep(pause).await;
            let Some(health) = self.probe(life).await else {
                return;
            };
            let Some(next) = Reason::of(health) else {
                break;
            };
            if next != reason {
                tracing::warn!(reason = %next, "still suspended, for another reason");
            }
            *self.reason.lock().expect("no panic while held") = Some(next);
        }
        *self.reason.lock().expect("no panic while held") = None;
        self.window().clear();
        tracing::info!(
            suspended_s = started.elapsed().as_secs(),
            "the probe is healthy: consuming goes on"
        );
        self.gate
            .send_if_modified(|gate| replace(gate, Gate::Suspended, Gate::Open));
    }

    /// `None`: the session is over, and no call may leave.
    async fn probe(&self, life: &Life) -> Option<Health> {
        // Past the line: those in it may be waiting for what the probe says.
        let draining = || *self.gate.borrow() == Gate::Draining;
        let turn = || self.limiter.turn_at_head(|| life.is_on() && !draining());
        let mut throttled = 0;
        loop {
            let health = probe(&self.client, &self.codes, turn).await?;
            self.metrics
                .probes_total
                .with_label_values(&[health.label()])
                .inc();
            match &health {
                Health::Unreachable(verdict) if verdict.class() == Class::Throttled => {}
                _ => return Some(health),
            }
            // Turned away, it says nothing about the account; others may have used up the limit of this second. Our own calls are
            // few now: the pace is cut once, for what was before.
            if throttled == 0 {
                self.limiter.slow_down();
            }
            if throttled == PROBE_THROTTLED_MAX {
                return Some(health);
            }
            throttled += 1;
            let mut gate = self.gate.subscribe();
            tokio::select! {
                () = tokio::time::sleep(PROBE_THROTTLED_PAUSE) => {}
                _ = gate.wait_for(|gate| *gate == Gate::Draining) => {}
                () = life.over() => {}
            }
        }
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.lately.lock().expect("no panic while held")
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().expect("no panic while held")
    }

    fn suspend(&self, reason: Reason) {
        let mut slot = self.reason.lock().expect("no panic while held");
        let closed = self.gate.send_if_modified(|gate| {
            replace(gate, Gate::Open, Gate::Suspended)
                || replace(gate, Gate::Probing, Gate::Suspended)
        });
        if closed {
            self.metrics
                .suspensions_total
                .with_label_values(&[reason.label()])
                .inc();
            tracing::warn!(
                reason = %reason,
                "suspended: no message is called for or dead-lettered until the probe is healthy; it is repeated until then"
            );
            *slot = Some(reason);
        }
    }
}

/// Whether others work, as far as the last answers tell.
#[derive(Debug, Default)]
struct Lately {
    /// When the last answer came that a group is deleted or gone.
    worked_at: Option<Instant>,
    /// Doubtful answers since then.
    doubts: u32,
}

impl Lately {
    fn observe(&mut self, class: Class) {
        match class {
            Class::Deleted | Class::Gone => {
                self.worked_at = Some(Instant::now());
                self.doubts = 0;
            }
            Class::Unknown => self.doubts = self.doubts.saturating_add(1),
            Class::Transient
            | Class::Throttled
            | Class::Rejected
            | Class::Signature
            | Class::Account => {}
        }
    }

    fn is_suspect(&self) -> bool {
        self.doubts >= DOUBTS_MAX || self.worked_at.is_none_or(|at| at.elapsed() > WORKED_LATELY)
    }
}

/// Keeps the gate at Probing; however the probe ends, it does not stay there.
struct Probing<'g>(&'g watch::Sender<Gate>);

impl<'g> Probing<'g> {
    fn new(gate: &'g watch::Sender<Gate>) -> Self {
        Self::close(gate);
        Self(gate)
    }

    fn close(gate: &watch::Sender<Gate>) {
        gate.send_if_modified(|gate| replace(gate, Gate::Open, Gate::Probing));
    }
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.0
            .send_if_modified(|gate| replace(gate, Gate::Probing, Gate::Open));
    }
}

fn replace(gate: &mut Gate, from: Gate, to: Gate) -> bool {
    let fits = *gate == from;
    if fits {
        *gate = to;
    }
    fits
}
