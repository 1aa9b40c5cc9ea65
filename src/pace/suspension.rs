//! The shell around the [`Gate`]: makes the probes, waits, logs and counts. It decides nothing.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::limiter::{Limiter, Place};
use crate::config;
use crate::metrics::Metrics;
use crate::traces::Traces;
use convgroup_broker::life::Life;
use convgroup_chat::client::ChatClient;
use convgroup_chat::probe::probe;
use convgroup_domain::code::{CodeTable, Verdict};
use convgroup_domain::gate::{Doubt, Effect, Event, Gate, GateState, Reason, Settings, Ticket};
use convgroup_host::intervals::Intervals;

/// The pause before a probe is made again that was turned away: the API counts by the second.
const PROBE_RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What one who asks is to do.
enum Turn {
    /// Make the probe.
    Probe {
        /// After [`PROBE_RETRY_PAUSE`].
        retry: bool,
    },
    /// Nothing more: whether the account is healthy.
    Answered(bool),
}

/// The gate and those who wait for what it says.
#[derive(Debug)]
struct Inner {
    gate: Gate,
    askers: HashMap<Ticket, mpsc::UnboundedSender<Turn>>,
    last_ticket: u64,
    suspended_at: Option<Instant>,
}

/// Says whether calls make sense, and when the next one may leave.
#[derive(Debug)]
pub struct Suspension {
    inner: Mutex<Inner>,
    state: watch::Sender<GateState>,
    limiter: Arc<Limiter>,
    client: Arc<ChatClient>,
    codes: Arc<CodeTable>,
    settings: config::Suspend,
    metrics: Arc<Metrics>,
    traces: Option<Arc<Traces>>,
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
        traces: Option<Arc<Traces>>,
    ) -> Self {
        let gate = Gate::new(Settings {
            window: settings.window,
            failure_ratio: settings.failure_ratio,
        });
        Self {
            state: watch::Sender::new(gate.state()),
            inner: Mutex::new(Inner {
                gate,
                askers: HashMap::new(),
                last_ticket: 0,
                suspended_at: None,
            }),
            limiter,
            client,
            codes,
            settings,
            metrics,
            traces,
        }
    }

    /// The pace behind the gate.
    #[must_use]
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Waits for a call's turn. `false`: turned back, because the daemon is suspended or stops, or the message's session is
    /// over. Checked at the very moment of release.
    pub async fn admit(&self, life: &Life, place: Place) -> bool {
        let may_go = || *self.state.borrow() == GateState::Open && life.is_on();
        // Most calls below the limit need not wait at all.
        if place == Place::Line && may_go() && self.limiter.try_take() {
            self.metrics.rate_limit_wait_seconds.observe(0.0);
            return true;
        }
        let started = Instant::now();
        let mut state = self.state.subscribe();
        loop {
            let now = *state.borrow_and_update();
            match now {
                GateState::Suspended | GateState::Draining => return false,
                GateState::Probing => {
                    tokio::select! {
                        _ = state.changed() => continue,
                        () = life.over() => return false,
                    }
                }
                GateState::Open => {}
            }
            tokio::select! {
                biased;
                _ = state.changed() => {}
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
            Place::Line => self.limiter.wait_in_line(may_go).await,
            Place::Head => self.limiter.wait_at_head(may_go).await,
        }
    }

    /// Completes when calls are turned back.
    pub async fn closed(&self) {
        self.reached(|state| matches!(state, GateState::Suspended | GateState::Draining))
            .await;
    }

    /// Completes when the daemon stops.
    pub async fn draining(&self) {
        self.reached(|state| state == GateState::Draining).await;
    }

    async fn reached(&self, wanted: impl Fn(GateState) -> bool) {
        // The sender lives as long as this: the wait can't fail.
        let _ = self
            .state
            .subscribe()
            .wait_for(|state| wanted(*state))
            .await;
    }

    /// Whether the daemon is suspended now.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        *self.state.borrow() == GateState::Suspended
    }

    /// Why the daemon is suspended, in words.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.lock().gate.reason().map(ToString::to_string)
    }

    /// Turns everything back from now on: the daemon stops.
    pub fn stop(&self) {
        self.on(Event::Stop);
    }

    /// Says that a consumer was registered at the broker.
    pub fn consumer_started(&self) {
        self.on(Event::ConsumerStarted);
    }

    /// Says that a message was delivered.
    pub fn delivered(&self) {
        self.on(Event::Delivered);
    }

    /// Takes in a finished call, made at `called`. Where it makes the window of last calls mostly transient, this waits for the
    /// probe.
    pub async fn observe(&self, verdict: &Verdict, called: Instant, life: &Life) {
        let asks = self.on(Event::Answered(verdict.class()));
        if asks == [Effect::AskForWindow] {
            self.ask(verdict, called, Doubt::Window, life).await;
        }
    }

    /// Asks whether the account is healthy, because the answer to a call made at `called` says that it may not be. `false`: the
    /// daemon is suspended now, stops, or has lost its session, and with it the right to call.
    pub async fn ask_probe(&self, verdict: &Verdict, called: Instant, life: &Life) -> bool {
        self.ask(verdict, called, Doubt::Message, life).await
    }

    async fn ask(&self, verdict: &Verdict, called: Instant, doubt: Doubt, life: &Life) -> bool {
        let (asker, mut turns) = Asker::new(self);
        self.on(Event::Asked {
            ticket: asker.ticket,
            verdict: verdict.clone(),
            called,
            doubt,
        });
        loop {
            match turns.recv().await {
                Some(Turn::Answered(healthy)) => return healthy,
                Some(Turn::Probe { retry }) => {
                    let answered = self.probe(retry, life).await;
                    self.on(answered);
                }
                None => return false,
            }
        }
    }

    /// Probes at growing pauses until the account is healthy, for as long as the session lives. `on_pause` is called with the reason
    /// and the pause before each probe.
    pub async fn recover(&self, life: &Life, mut on_pause: impl FnMut(&Reason, Duration)) {
        let mut pauses = Intervals::probe(self.settings.probe_min, self.settings.probe_max);
        let mut effects = self.on(Event::Recovering);
        loop {
            effects = match effects.pop() {
                Some(Effect::Pause { reason, at_least }) => {
                    let pause = pauses.next_pause().max(at_least);
                    on_pause(&reason, pause);
                    tokio::time::sleep(pause).await;
                    self.on(Event::PauseOver)
                }
                Some(Effect::Probe { retry, .. }) => {
                    let answered = self.probe(retry, life).await;
                    self.on(answered)
                }
                _ => return,
            };
        }
    }

    /// Makes one probe. It goes past the line: calls in it may be waiting for what it says.
    async fn probe(&self, retry: bool, life: &Life) -> Event {
        if retry {
            tokio::select! {
                () = tokio::time::sleep(PROBE_RETRY_PAUSE) => {}
                () = self.draining() => {}
                () = life.over() => {}
            }
        }
        let may_go = || life.is_on() && *self.state.borrow() != GateState::Draining;
        let admitted = || self.limiter.wait_at_head(may_go);
        let on_call = |made, verdict: &Verdict| {
            if let Some(traces) = &self.traces {
                traces.probed(made, verdict);
            }
        };
        match probe(&self.client, &self.codes, admitted, on_call).await {
            None => Event::ProbeLost,
            Some(health) => {
                self.metrics
                    .probes_total
                    .with_label_values(&[health.label()])
                    .inc();
                Event::Probed(health)
            }
        }
    }

    /// Hands an event to the gate and carries out what it says; returns what is left to the caller.
    fn on(&self, event: Event) -> Vec<Effect> {
        let mut inner = self.lock();
        let mut left = Vec::new();
        for effect in inner.gate.on(event, Instant::now()) {
            match effect {
                Effect::Answer { ticket, healthy } => {
                    if let Some(asker) = inner.askers.remove(&ticket) {
                        let _ = asker.send(Turn::Answered(healthy));
                    }
                }
                Effect::Probe {
                    ticket: Some(ticket),
                    retry,
                } => {
                    if let Some(asker) = inner.askers.get(&ticket) {
                        let _ = asker.send(Turn::Probe { retry });
                    }
                }
                Effect::SlowDown => self.limiter.slow_down(),
                Effect::Hold(pause) => self.limiter.hold(pause),
                Effect::Suspended(reason) => {
                    inner.suspended_at = Some(Instant::now());
                    self.suspended(&reason);
                }
                Effect::StillSuspended(reason) => {
                    tracing::warn!(reason = %reason, "still suspended, for another reason");
                }
                Effect::Resumed => {
                    let since = inner.suspended_at.take();
                    let suspended_s = since.map_or(0, |since| since.elapsed().as_secs());
                    tracing::info!(suspended_s, "the probe is healthy: consuming goes on");
                }
                Effect::AskForWindow
                | Effect::Pause { .. }
                | Effect::Probe { ticket: None, .. } => {
                    left.push(effect);
                }
            }
        }
        // Under the lock, so that states are published in their order.
        let state = inner.gate.state();
        self.state
            .send_if_modified(|published| std::mem::replace(published, state) != state);
        left
    }

    fn suspended(&self, reason: &Reason) {
        self.metrics
            .suspensions_total
            .with_label_values(&[reason.label()])
            .inc();
        tracing::warn!(
            reason = %reason,
            "suspended: no message is called for or dead-lettered until the probe is healthy; it is repeated until then"
        );
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while held")
    }
}

/// One who asks. Dropped, for whatever reason, it leaves: a task that panics or is aborted never keeps the gate closed.
struct Asker<'s> {
    suspension: &'s Suspension,
    ticket: Ticket,
}

impl<'s> Asker<'s> {
    fn new(suspension: &'s Suspension) -> (Self, mpsc::UnboundedReceiver<Turn>) {
        let (sender, turns) = mpsc::unbounded_channel();
        let mut inner = suspension.lock();
        inner.last_ticket += 1;
        let ticket = Ticket(inner.last_ticket);
        inner.askers.insert(ticket, sender);
        drop(inner);
        (Self { suspension, ticket }, turns)
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.suspension.lock().askers.remove(&self.ticket);
        self.suspension.on(Event::Left(self.ticket));
    }
}
