//! Whether calls make sense at all: whose fault a bad answer is, when to suspend, when to go on.
//!
//! ```text
//!            unknown/account answer            probe: healthy
//!   Open ──────────────────────────► Probing ────────────────► Open
//!     │ window mostly transient         │ probe: anything else
//!     └──────────────► Suspended ◄──────┘
//!                          └── probes at growing intervals; the first healthy one ──► Open
//!   any ── stop ──► Draining
//! ```
//! In every state but Open no call leaves; in Suspended and Draining the calls that wait are turned back.
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};

use super::limiter::Limiter;
use super::window::Window;
use crate::broker::session::Life;
use crate::chat::client::ChatClient;
use crate::chat::probe::{Health, probe};
use crate::config;
use crate::domain::code::{Class, CodeTable, Verdict};
use crate::intervals::Intervals;
use crate::metrics::Metrics;

/// How long a healthy probe speaks for the answers that come in next: a flood of unknown answers costs one probe a second.
const PROBE_FRESH: Duration = Duration::from_secs(1);
/// The API counts failed signature checks; asked again within a minute it goes on refusing.
const AUTH_THROTTLED: &str = "70050";
const AUTH_THROTTLED_PAUSE: Duration = Duration::from_secs(60);

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

/// Why the daemon is suspended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The label of `convgroup_suspensions_total`.
    pub label: &'static str,
    /// The verdict that says it.
    pub verdict: Verdict,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let row = &self.verdict.row;
        let what = if self.label == "account" {
            "the account is at fault"
        } else {
            "the API can't be reached"
        };
        write!(f, "{what}: {} ({}). {}", row.label, row.meaning, row.advice)
    }
}

/// The gate, and all that opens and closes it.
#[derive(Debug)]
pub struct Suspension {
    gate: watch::Sender<Gate>,
    reason: StdMutex<Option<Reason>>,
    window: StdMutex<Window>,
    checked: Mutex<Option<Instant>>,
    limiter: Limiter,
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
        limiter: Limiter,
        client: Arc<ChatClient>,
        codes: Arc<CodeTable>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            gate: watch::Sender::new(Gate::Open),
            reason: StdMutex::new(None),
            window: StdMutex::new(Window::new(settings.window, settings.failure_ratio)),
            checked: Mutex::new(None),
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
    pub async fn turn(&self, life: &Life) -> bool {
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
            let may_go = || *self.gate.borrow() == Gate::Open && life.is_on();
            tokio::select! {
                biased;
                _ = gate.changed() => {}
                () = life.over() => return false,
                went = self.limiter.turn(may_go) => {
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

    /// Completes when calls are turned back.
    pub async fn closed(&self) {
        let mut gate = self.gate.subscribe();
        let closed = gate
            .wait_for(|gate| matches!(gate, Gate::Suspended | Gate::Draining))
            .await;
        closed.map(drop).unwrap_or_default();
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

    /// Takes in the class of a finished call; a window of mostly transient ones suspends.
    pub fn observe(&self, verdict: &Verdict) {
        let tripped = self
            .window
            .lock()
            .expect("no panic while held")
            .observe(verdict.class());
        if tripped {
            self.suspend(Reason {
                label: "unreachable",
                verdict: verdict.clone(),
            });
        }
    }

    /// Asks the probe whether the account is healthy, because a call got an answer that can't be the message's fault alone.
    /// Many ask at once; one probe answers all of them. Not healthy means: suspended.
    pub async fn account_is_healthy(&self) -> bool {
        let mut checked = self.checked.lock().await;
        if matches!(*self.gate.borrow(), Gate::Suspended | Gate::Draining) {
            return false;
        }
        if checked.is_some_and(|at| at.elapsed() < PROBE_FRESH) {
            return true;
        }
        self.gate
            .send_if_modified(|gate| replace(gate, Gate::Open, Gate::Probing));
        match self.probe().await {
            Health::Healthy => {
                *checked = Some(Instant::now());
                self.gate
                    .send_if_modified(|gate| replace(gate, Gate::Probing, Gate::Open));
                true
            }
            Health::Faulty(verdict) => {
                self.suspend(Reason {
                    label: "account",
                    verdict,
                });
                false
            }
            Health::Unreachable(verdict) => {
                self.suspend(Reason {
                    label: "unreachable",
                    verdict,
                });
                false
            }
        }
    }

    /// Probes at growing intervals until the account is healthy, then opens the gate. `told` hears the reason and the pause
    /// before each probe.
    pub async fn recover(&self, mut told: impl FnMut(&Reason, Duration)) {
        let mut pauses = Intervals::probe(self.settings.probe_min, self.settings.probe_max);
        let started = Instant::now();
        loop {
            let Some(reason) = self.reason.lock().expect("no panic while held").clone() else {
                break;
            };
            let mut pause = pauses.next_pause();
            if reason.verdict.row.label == AUTH_THROTTLED {
                pause = pause.max(AUTH_THROTTLED_PAUSE);
            }
            told(&reason, pause);
            tokio::time::sleep(pause).await;
            let (label, verdict) = match self.probe().await {
                Health::Healthy => break,
                Health::Faulty(verdict) => ("account", verdict),
                Health::Unreachable(verdict) => ("unreachable", verdict),
            };
            let next = Reason { label, verdict };
            if next != reason {
                tracing::warn!(reason = %next, "still suspended, for another reason");
            }
            *self.reason.lock().expect("no panic while held") = Some(next);
        }
        *self.reason.lock().expect("no panic while held") = None;
        self.window.lock().expect("no panic while held").clear();
        tracing::info!(
            suspended_s = started.elapsed().as_secs(),
            "the probe is healthy: consuming goes on"
        );
        self.gate
            .send_if_modified(|gate| replace(gate, Gate::Suspended, Gate::Open));
    }

    async fn probe(&self) -> Health {
        let turn = || async {
            self.limiter.turn(|| true).await;
        };
        let health = probe(&self.client, &self.codes, turn).await;
        self.metrics
            .probes_total
            .with_label_values(&[health.label()])
            .inc();
        if let Health::Unreachable(verdict) = &health
            && verdict.class() == Class::Throttled
        {
            self.limiter.slow_down().await;
        }
        health
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
                .with_label_values(&[reason.label])
                .inc();
            tracing::warn!(
                reason = %reason,
                "suspended: no message is called for or dead-lettered until the probe is healthy; it is repeated until then"
            );
            *slot = Some(reason);
        }
    }
}

fn replace(gate: &mut Gate, from: Gate, to: Gate) -> bool {
    let fits = *gate == from;
    if fits {
        *gate = to;
    }
    fits
}
