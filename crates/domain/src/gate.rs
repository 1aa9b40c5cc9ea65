//! The gate: whether calls make sense at all, whose fault a bad answer is, when to suspend and when to go on.
//!
//! ```text
//!          a doubt that needs an answer first       probe: healthy
//!   Open ─────────────────────────────────► Probing ──────────────► Open
//!                                              │ probe: anything else
//!                                              ▼
//!                                          Suspended ── probes at growing pauses; the first healthy one ──► Open
//!   any ── stop ──► Draining (final)
//! ```
//! In every state but Open no call leaves. In Probing those that wait go on waiting for the probe's answer, in Suspended and
//! Draining they are turned back.
//!
//! Pure: [`Gate::on`] takes an event and the time, and returns what is to be done. The async shell around it makes the probes,
//! waits, logs and counts; it decides nothing.
//!
//! ```
//! # use std::time::Instant;
//! # use convgroup_domain::code::{Class, CodeTable};
//! # use convgroup_domain::gate::{Effect, Event, Gate, GateState, Health, Doubt, Settings, Ticket};
//! # use convgroup_domain::reply::Reply;
//! let codes = CodeTable::new(&std::collections::BTreeMap::new());
//! let expired = codes.classify(Reply::Answer { code: 60020, info: String::new() });
//! let mut gate = Gate::new(Settings { window: 20, failure_ratio: 0.8 });
//! let now = Instant::now();
//! // A message is answered "the plan expired": its worker asks whose fault that is.
//! let asked = Event::Asked { ticket: Ticket(1), verdict: expired.clone(), called: now, doubt: Doubt::Message };
//! assert_eq!(gate.on(asked, now), [Effect::Probe { ticket: Some(Ticket(1)), retry: false }]);
//! assert_eq!(gate.state(), GateState::Probing);
//! // The probe is answered the same: the account is at fault, for everybody.
//! gate.on(Event::Probed(Health::Faulty(expired)), now);
//! assert_eq!(gate.state(), GateState::Suspended);
//! ```
use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::code::{Class, Verdict};
use super::window::Window;

/// "Deleted", "does not exist", "not imported as a user": whatever class an operator gives these codes, they prove health.
const HEALTHY: [&str; 3] = ["0", "51009", "50001"];
/// The API counts failed signature checks and refuses all further ones for a minute.
pub const AUTH_THROTTLED: &str = "70050";
/// Asked again within a minute after [`AUTH_THROTTLED`], the API goes on refusing.
const AUTH_THROTTLED_PAUSE: Duration = Duration::from_mins(1);
/// While the last deletion that worked is not older, the account works for others: a doubtful answer asks the probe, but holds
/// nobody up.
const WORKED_LATELY: Duration = Duration::from_secs(5);
/// But for so many of them in a row: then it is not about one message any more.
const DOUBTS_MAX: u32 = 5;
/// How often a probe is made anew that is turned away because calls come too often.
const PROBE_THROTTLED_MAX: u32 = 4;
/// How long a new consumer waits between its first delivery and its first call: the calls of the one before are out of the
/// sliding second then, so that a hand-over can't double the rate (contract).
pub const HANDOVER_PAUSE: Duration = Duration::from_secs(1);

/// Whether calls may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateState {
    /// Calls leave at the pace.
    Open,
    /// A probe is out whose answer calls wait for.
    Probing,
    /// Calls are turned back.
    Suspended,
    /// The daemon stops: calls are turned back.
    Draining,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Calls work.
    Healthy,
    /// The API answers, and refuses: the account, or its configuration here, is at fault.
    Faulty(Verdict),
    /// The API can't be reached, or is too busy to say.
    Unreachable(Verdict),
}

impl Health {
    /// The names used as label of `convgroup_probes_total`.
    pub const LABELS: [&str; 3] = ["healthy", "faulty", "unreachable"];

    /// The name used as label of `convgroup_probes_total`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Healthy => Self::LABELS[0],
            Self::Faulty(_) => Self::LABELS[1],
            Self::Unreachable(_) => Self::LABELS[2],
        }
    }

    /// Judges a probe's verdict.
    #[must_use]
    pub fn of(verdict: Verdict) -> Self {
        if HEALTHY.contains(&verdict.row.label.as_str()) {
            return Self::Healthy;
        }
        match verdict.class() {
            Class::Transient | Class::Throttled => Self::Unreachable(verdict),
            Class::Deleted
            | Class::Gone
            | Class::Rejected
            | Class::Signature
            | Class::Account
            | Class::Unknown => Self::Faulty(verdict),
        }
    }

    /// Whether it was turned away because calls come too often. It says nothing about the account then.
    fn is_throttled(&self) -> bool {
        matches!(self, Self::Unreachable(verdict) if verdict.class() == Class::Throttled)
    }
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
    /// The names used as label of `convgroup_suspensions_total`.
    pub const LABELS: [&str; 2] = ["account", "unreachable"];

    /// Why a probe says that calls make no sense; nothing if it is healthy.
    #[must_use]
    pub fn of(health: Health) -> Option<Self> {
        match health {
            Health::Healthy => None,
            Health::Faulty(verdict) => Some(Self::Account(verdict)),
            Health::Unreachable(verdict) => Some(Self::Unreachable(verdict)),
        }
    }

    /// The name used as label of `convgroup_suspensions_total`.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Account(_) => Self::LABELS[0],
            Self::Unreachable(_) => Self::LABELS[1],
        }
    }

    /// The shortest pause before the next probe.
    fn pause_min(&self) -> Duration {
        match self {
            Self::Account(verdict) if verdict.row.label == AUTH_THROTTLED => AUTH_THROTTLED_PAUSE,
            _ => Duration::ZERO,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(verdict) => write!(f, "the account is at fault: {verdict}"),
            Self::Unreachable(verdict) if verdict.class() == Class::Throttled => {
                write!(f, "the API turns all calls away: {verdict}")
            }
            Self::Unreachable(verdict) => write!(f, "the API can't be reached: {verdict}"),
        }
    }
}

/// Names one who asks, until it is answered or leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Why somebody asks for the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The answer to one message's call.
    Message,
    /// The last calls were mostly transient.
    Window,
}

/// What happens to the gate.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A call for a message was answered.
    Answered(Class),
    /// Somebody asks whether the account is healthy, because of the answer to a call made at `called`.
    Asked {
        /// Who.
        ticket: Ticket,
        /// The answer.
        verdict: Verdict,
        /// When the call was sent: a healthy probe that was sent later speaks for it.
        called: Instant,
        /// Why.
        doubt: Doubt,
    },
    /// Somebody does not wait for an answer any more; where its probe is out, that will not be answered.
    Left(Ticket),
    /// The probe was answered.
    Probed(Health),
    /// The probe could not leave: the session with the broker is over, or the daemon stops.
    ProbeLost,
    /// The daemon is suspended and begins to look for the end of it, in this session with the broker.
    Recovering,
    /// The pause before the next probe is over.
    PauseOver,
    /// A consumer was registered at the broker.
    ConsumerStarted,
    /// A message was delivered.
    Delivered,
    /// The daemon stops.
    Stop,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask on behalf of the window ([`Doubt::Window`]).
    AskForWindow,
    /// Make a probe. `ticket`: who asked for it; nobody while recovering. `retry`: after a short pause, because the one before was
    /// turned away.
    Probe {
        /// Who asked for it.
        ticket: Option<Ticket>,
        /// Whether to pause before.
        retry: bool,
    },
    /// Answer one who asked: whether the account is healthy.
    Answer {
        /// Whom.
        ticket: Ticket,
        /// Whether calls work.
        healthy: bool,
    },
    /// Cut the pace.
    SlowDown,
    /// No call leaves for so long.
    Hold(Duration),
    /// The daemon is suspended from now on.
    Suspended(Reason),
    /// It is still suspended, for another reason than before.
    StillSuspended(Reason),
    /// Pause before the next probe, by the growing schedule and at least for this long.
    Pause {
        /// Why it is suspended.
        reason: Reason,
        /// The shortest pause.
        at_least: Duration,
    },
    /// Calls leave again.
    Resumed,
}

/// When to suspend for an API that fails in passing (`suspend.window`, `suspend.failure_ratio`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How many of the last calls are looked at.
    pub window: usize,
    /// The share of transient ones that asks for the probe.
    pub failure_ratio: f64,
}

/// One who asks.
#[derive(Clone, Debug)]
struct Asker {
    ticket: Ticket,
    verdict: Verdict,
    called: Instant,
    doubt: Doubt,
    /// Whether calls wait for the answer.
    closes: bool,
}

/// The probe that is out.
#[derive(Clone, Copy, Debug)]
struct Probe {
    /// When it was asked for: it speaks for calls that were made before.
    since: Instant,
    /// How often it was turned away.
    throttled: u32,
}

/// The gate, and all that opens and closes it.
#[derive(Debug)]
pub struct Gate {
    phase: Phase,
    window: Window,
    recent: Recent,
    /// When the last healthy probe was asked for.
    healthy_since: Option<Instant>,
    /// Who asks, in order. The first one's probe is out, if one is.
    askers: VecDeque<Asker>,
    probe: Option<Probe>,
    /// A consumer was started and has got nothing yet.
    is_new_consumer: bool,
}

/// Whether the daemon works; Open and Probing are told apart by who asks.
#[derive(Debug)]
enum Phase {
    Working,
    Suspended(Reason),
    Draining,
}

impl Gate {
    /// The gate is open: the daemon finds out by its first calls whether that is right.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            phase: Phase::Working,
            window: Window::new(settings.window, settings.failure_ratio),
            recent: Recent::default(),
            healthy_since: None,
            askers: VecDeque::new(),
            probe: None,
            is_new_consumer: false,
        }
    }

    /// Whether calls may leave now.
    #[must_use]
    pub fn state(&self) -> GateState {
        match self.phase {
            Phase::Draining => GateState::Draining,
            Phase::Suspended(_) => GateState::Suspended,
            Phase::Working if self.askers.iter().any(|asker| asker.closes) => GateState::Probing,
            Phase::Working => GateState::Open,
        }
    }

    /// Why the daemon is suspended.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match &self.phase {
            Phase::Suspended(reason) => Some(reason),
            Phase::Working | Phase::Draining => None,
        }
    }

    /// Takes in an event; says what is to be done, in order.
    pub fn on(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Answered(class) => self.answered(class, now),
            Event::Asked {
                ticket,
                verdict,
                called,
                doubt,
            } => {
                let closes = doubt == Doubt::Window
                    || matches!(verdict.class(), Class::Account | Class::Signature)
                    || self.recent.is_suspect(now);
                self.asked(
                    Asker {
                        ticket,
                        verdict,
                        called,
                        doubt,
                        closes,
                    },
                    now,
                )
            }
            Event::Left(ticket) => self.left(ticket, now),
            Event::Probed(health) => self.probed(health, now),
            Event::ProbeLost => self.probe_lost(now),
            Event::Recovering => self.recovering(),
            Event::PauseOver => self.pause_over(now),
            Event::ConsumerStarted => {
                self.is_new_consumer = true;
                Vec::new()
            }
            Event::Delivered => {
                let first = std::mem::take(&mut self.is_new_consumer);
                first
                    .then_some(Effect::Hold(HANDOVER_PAUSE))
                    .into_iter()
                    .collect()
            }
            Event::Stop => {
                self.phase = Phase::Draining;
                Vec::new()
            }
        }
    }

    /// A window of mostly transient answers asks for the probe: a few messages that always fail must not stop the others.
    fn answered(&mut self, class: Class, now: Instant) -> Vec<Effect> {
        self.recent.observe(class, now);
        let tripped = self.window.observe(class);
        tripped
            .then_some(Effect::AskForWindow)
            .into_iter()
            .collect()
    }

    fn asked(&mut self, asker: Asker, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Suspended(_) | Phase::Draining => vec![unhealthy(asker.ticket)],
            Phase::Working => {
                self.askers.push_back(asker);
                self.next_probe(now)
            }
        }
    }

    /// Where no probe is out: answers those for whom the last healthy probe speaks, and makes the next one's.
    fn next_probe(&mut self, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        while self.probe.is_none()
            && let Some(asker) = self.askers.front()
        {
            let ticket = asker.ticket;
            if matches!(self.phase, Phase::Draining) {
                self.askers.pop_front();
                effects.push(unhealthy(ticket));
            } else if self.healthy_since.is_some_and(|since| since > asker.called) {
                effects.push(self.healthy());
            } else if asker.verdict.row.label == AUTH_THROTTLED {
                let reason = Reason::Account(asker.verdict.clone());
                effects.extend(self.suspend(reason));
            } else {
                self.probe = Some(Probe {
                    since: now,
                    throttled: 0,
                });
                effects.push(Effect::Probe {
                    ticket: Some(ticket),
                    retry: false,
                });
            }
        }
        effects
    }

    /// The first who asks is told that calls work.
    fn healthy(&mut self) -> Effect {
        let asker = self.askers.pop_front().expect("the caller has seen one");
        if asker.doubt == Doubt::Window {
            self.window.clear();
        }
        Effect::Answer {
            ticket: asker.ticket,
            healthy: true,
        }
    }

    /// Suspends, unless the daemon stops; all who ask are told.
    fn suspend(&mut self, reason: Reason) -> Vec<Effect> {
        let mut effects = Vec::new();
        if matches!(self.phase, Phase::Working) {
            self.phase = Phase::Suspended(reason.clone());
            effects.push(Effect::Suspended(reason));
        }
        effects.extend(self.askers.drain(..).map(|asker| unhealthy(asker.ticket)));
        effects
    }

    fn left(&mut self, ticket: Ticket, now: Instant) -> Vec<Effect> {
        let Some(index) = self.askers.iter().position(|asker| asker.ticket == ticket) else {
            return Vec::new();
        };
        self.askers.remove(index);
        if index == 0 {
            self.probe = None;
        }
        self.next_probe(now)
    }

    fn probed(&mut self, health: Health, now: Instant) -> Vec<Effect> {
        let Some(mut probe) = self.probe.take() else {
            return Vec::new();
        };
        if health.is_throttled() && probe.throttled < PROBE_THROTTLED_MAX {
            // Turned away, it says nothing about the account; others may have used up the limit of this second. Our own calls are few
            // now: the pace is cut once, for what was before.
            let cut = (probe.throttled == 0).then_some(Effect::SlowDown);
            probe.throttled += 1;
            self.probe = Some(probe);
            let again = Effect::Probe {
                ticket: self.askers.front().map(|asker| asker.ticket),
                retry: true,
            };
            return cut.into_iter().chain([again]).collect();
        }
        match (&self.phase, Reason::of(health)) {
            (Phase::Suspended(_), reason) => self.recovered(reason),
            (Phase::Working | Phase::Draining, Some(reason)) => self.suspend(reason),
            (Phase::Working | Phase::Draining, None) => {
                if self.askers.is_empty() {
                    return Vec::new();
                }
                self.healthy_since = Some(probe.since);
                let mut effects = vec![self.healthy()];
                effects.extend(self.next_probe(now));
                effects
            }
        }
    }

    /// A probe of a suspended daemon was answered: `None` is healthy.
    fn recovered(&mut self, reason: Option<Reason>) -> Vec<Effect> {
        let Some(reason) = reason else {
            self.phase = Phase::Working;
            self.window.clear();
            return vec![Effect::Resumed];
        };
        let differs = self.reason() != Some(&reason);
        self.phase = Phase::Suspended(reason.clone());
        let news = differs.then(|| Effect::StillSuspended(reason.clone()));
        news.into_iter().chain([pause(reason)]).collect()
    }

    fn probe_lost(&mut self, now: Instant) -> Vec<Effect> {
        if self.probe.take().is_none() {
            return Vec::new();
        }
        let Some(asker) = self.askers.pop_front() else {
            return Vec::new();
        };
        let mut effects = vec![unhealthy(asker.ticket)];
        effects.extend(self.next_probe(now));
        effects
    }

    fn recovering(&mut self) -> Vec<Effect> {
        match &self.phase {
            Phase::Suspended(reason) => {
                // One that was out in the session before will not be answered.
                self.probe = None;
                vec![pause(reason.clone())]
            }
            Phase::Working | Phase::Draining => Vec::new(),
        }
    }

    fn pause_over(&mut self, now: Instant) -> Vec<Effect> {
        match self.phase {
            Phase::Suspended(_) if self.probe.is_none() => {
                self.probe = Some(Probe {
                    since: now,
                    throttled: 0,
                });
                vec![Effect::Probe {
                    ticket: None,
                    retry: false,
                }]
            }
            Phase::Suspended(_) | Phase::Working | Phase::Draining => Vec::new(),
        }
    }
}

fn unhealthy(ticket: Ticket) -> Effect {
    Effect::Answer {
        ticket,
        healthy: false,
    }
}

fn pause(reason: Reason) -> Effect {
    Effect::Pause {
        at_least: reason.pause_min(),
        reason,
    }
}

/// Whether others work, as far as the last answers tell.
#[derive(Debug, Default)]
struct Recent {
    /// When the last answer came that a group is deleted or gone.
    worked_at: Option<Instant>,
    /// Doubtful answers since then.
    doubts: u32,
}

impl Recent {
    fn observe(&mut self, class: Class, now: Instant) {
        match class {
            Class::Deleted | Class::Gone => {
                self.worked_at = Some(now);
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

    fn is_suspect(&self, now: Instant) -> bool {
        let worked = |at: Instant| now.saturating_duration_since(at) <= WORKED_LATELY;
        self.doubts >= DOUBTS_MAX || !self.worked_at.is_some_and(worked)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;

    use expect_test::expect_file;
    use proptest::prelude::*;

    use super::super::code::CodeTable;
    use super::super::reply::Reply;
    use super::*;

    const SETTINGS: Settings = Settings {
        window: 5,
        failure_ratio: 0.8,
    };

    fn verdict(code: i64) -> Verdict {
        let info = String::new();
        CodeTable::new(&BTreeMap::new()).classify(Reply::Answer { code, info })
    }

    fn asked(ticket: u64, code: i64, called: Instant) -> Event {
        Event::Asked {
            ticket: Ticket(ticket),
            verdict: verdict(code),
            called,
            doubt: Doubt::Message,
        }
    }

    fn faulty() -> Event {
        Event::Probed(Health::Faulty(verdict(60020)))
    }

    fn throttled() -> Event {
        Event::Probed(Health::Unreachable(verdict(60007)))
    }

    /// A gate in this state, as a daemon gets there.
    fn gate(state: &str, now: Instant) -> Gate {
        let mut gate = Gate::new(SETTINGS);
        match state {
            "Open" => {}
            "Open, others work, probe out" => {
                gate.on(Event::Answered(Class::Deleted), now);
                gate.on(asked(1, 70107, now), now);
            }
            "Probing" => {
                gate.on(asked(1, 60020, now), now);
            }
            "Probing, 3 in line" => {
                gate.on(asked(1, 60020, now), now);
                gate.on(asked(3, 60020, now), now);
            }
            "Suspended" => {
                gate.on(asked(1, 60020, now), now);
                gate.on(faulty(), now);
            }
            "Suspended, probe out" => {
                gate.on(asked(1, 60020, now), now);
                gate.on(faulty(), now);
                gate.on(Event::Recovering, now);
                gate.on(Event::PauseOver, now);
            }
            "Draining" => {
                gate.on(Event::Stop, now);
            }
            "Draining, probe out" => {
                gate.on(asked(1, 60020, now), now);
                gate.on(Event::Stop, now);
            }
            "Draining, probe out, 3 in line" => {
                gate.on(asked(1, 60020, now), now);
                gate.on(asked(3, 60020, now), now);
                gate.on(Event::Stop, now);
            }
            _ => panic!("no such state: {state}"),
        }
        gate
    }

    fn shown(effect: &Effect) -> String {
        let by = |ticket: &Option<Ticket>| {
            ticket.map_or("recovery".to_owned(), |ticket| ticket.0.to_string())
        };
        match effect {
            Effect::AskForWindow => "ask for the window".to_owned(),
            Effect::Probe {
                ticket,
                retry: false,
            } => format!("probe for {}", by(ticket)),
            Effect::Probe {
                ticket,
                retry: true,
            } => format!("probe again for {}", by(ticket)),
            Effect::Answer { ticket, healthy } => format!("{} hears {healthy}", ticket.0),
            Effect::SlowDown => "slow down".to_owned(),
            Effect::Hold(pause) => format!("hold {pause:?}"),
            Effect::Suspended(reason) => format!("suspended ({})", reason.label()),
            Effect::StillSuspended(reason) => format!("still suspended ({})", reason.label()),
            Effect::Pause { at_least, .. } => format!("pause at least {at_least:?}"),
            Effect::Resumed => "resumed".to_owned(),
        }
    }

    /// Every state and every event.
    #[test]
    fn every_pair_of_state_and_event() {
        let states = [
            "Open",
            "Open, others work, probe out",
            "Probing",
            "Probing, 3 in line",
            "Suspended",
            "Suspended, probe out",
            "Draining",
            "Draining, probe out",
            "Draining, probe out, 3 in line",
        ];
        let start = Instant::now();
        let now = start + Duration::from_secs(1);
        let mut table = String::new();
        for state in states {
            writeln!(table, "{state}").unwrap();
            let window = Event::Asked {
                ticket: Ticket(2),
                verdict: verdict(50004),
                called: now,
                doubt: Doubt::Window,
            };
            for (name, event) in [
                ("answered deleted", Event::Answered(Class::Deleted)),
                ("answered transient", Event::Answered(Class::Transient)),
                ("2 asks: unknown", asked(2, 70107, now)),
                ("2 asks: account", asked(2, 60020, now)),
                ("2 asks: 70050", asked(2, 70050, now)),
                ("2 asks: window", window),
                ("1 leaves", Event::Left(Ticket(1))),
                ("probe healthy", Event::Probed(Health::Healthy)),
                ("probe faulty", faulty()),
                ("probe 70050", Event::Probed(Health::Faulty(verdict(70050)))),
                (
                    "probe unreachable",
                    Event::Probed(Health::Unreachable(verdict(50004))),
                ),
                ("probe throttled", throttled()),
                ("probe lost", Event::ProbeLost),
                ("recovering", Event::Recovering),
                ("pause over", Event::PauseOver),
                ("consumer started", Event::ConsumerStarted),
                ("delivered", Event::Delivered),
                ("stop", Event::Stop),
            ] {
                let mut gate = gate(state, start);
                let effects = gate.on(event, now);
                let effects: Vec<String> = effects.iter().map(shown).collect();
                let effects = effects.join(", ");
                writeln!(table, "  {name:<18} {:<9?} {effects}", gate.state()).unwrap();
            }
        }
        let lines: Vec<&str> = table.lines().map(str::trim_end).collect();
        expect_file!["../snapshots/gate.txt"].assert_eq(&(lines.join("\n") + "\n"));
    }

    #[test]
    fn a_new_consumers_first_delivery_holds_the_pace_once() {
        let (mut gate, now) = (Gate::new(SETTINGS), Instant::now());
        gate.on(Event::ConsumerStarted, now);
        assert_eq!(
            gate.on(Event::Delivered, now),
            [Effect::Hold(HANDOVER_PAUSE)]
        );
        assert_eq!(gate.on(Event::Delivered, now), []);
        gate.on(Event::ConsumerStarted, now);
        assert_eq!(
            gate.on(Event::Delivered, now),
            [Effect::Hold(HANDOVER_PAUSE)]
        );
    }

    #[test]
    fn one_healthy_probe_speaks_for_all_calls_before_it() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut gate = Gate::new(SETTINGS);
        gate.on(asked(1, 60020, at(0)), at(1));
        assert_eq!(gate.on(asked(2, 60020, at(0)), at(2)), []);
        // A call that was sent after the probe was asked for.
        assert_eq!(gate.on(asked(3, 60020, at(2)), at(3)), []);
        let answer = |ticket| Effect::Answer {
            ticket: Ticket(ticket),
            healthy: true,
        };
        let next = Effect::Probe {
            ticket: Some(Ticket(3)),
            retry: false,
        };
        let effects = gate.on(Event::Probed(Health::Healthy), at(4));
        assert_eq!(effects, [answer(1), answer(2), next]);
        assert_eq!(gate.state(), GateState::Probing);
        assert_eq!(gate.on(Event::Probed(Health::Healthy), at(5)), [answer(3)]);
        assert_eq!(gate.state(), GateState::Open);
    }

    /// What was answered before the suspension says nothing about the time after it.
    #[test]
    fn a_daemon_that_resumes_begins_with_an_empty_window() {
        let (mut gate, now) = (Gate::new(SETTINGS), Instant::now());
        let transient = || Event::Answered(Class::Transient);
        for _ in 1..SETTINGS.window {
            gate.on(transient(), now);
        }
        gate.on(asked(1, 60020, now), now);
        gate.on(faulty(), now);
        gate.on(Event::Recovering, now);
        gate.on(Event::PauseOver, now);
        let resumed = gate.on(Event::Probed(Health::Healthy), now);
        assert_eq!(resumed, [Effect::Resumed]);
        assert_eq!(gate.on(transient(), now), []);
    }

    /// The probe of the session before is never answered.
    #[test]
    fn a_new_session_makes_a_probe_of_its_own() {
        let now = Instant::now();
        let mut gate = gate("Suspended, probe out", now);
        gate.on(Event::Recovering, now);
        let probe = Effect::Probe {
            ticket: None,
            retry: false,
        };
        assert_eq!(gate.on(Event::PauseOver, now), [probe]);
    }

    #[test]
    fn the_fifth_throttled_probe_suspends_and_the_pace_is_cut_once() {
        let (mut gate, now) = (Gate::new(SETTINGS), Instant::now());
        gate.on(asked(1, 60020, now), now);
        let again = Effect::Probe {
            ticket: Some(Ticket(1)),
            retry: true,
        };
        assert_eq!(gate.on(throttled(), now), [Effect::SlowDown, again.clone()]);
        for _ in 2..=PROBE_THROTTLED_MAX {
            assert_eq!(gate.on(throttled(), now), std::slice::from_ref(&again));
            assert_eq!(gate.state(), GateState::Probing);
        }
        gate.on(throttled(), now);
        assert_eq!(gate.state(), GateState::Suspended);
    }

    #[test]
    fn a_doubtful_answer_closes_the_gate_only_where_nobody_else_works() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        for (worked, doubts, asked_at, state) in [
            (false, 0, 0, GateState::Probing),
            (true, 0, 5, GateState::Open),
            (true, 0, 6, GateState::Probing),
            (true, DOUBTS_MAX - 1, 1, GateState::Open),
            (true, DOUBTS_MAX, 1, GateState::Probing),
        ] {
            let mut gate = Gate::new(SETTINGS);
            if worked {
                gate.on(Event::Answered(Class::Deleted), at(0));
            }
            for _ in 0..doubts {
                gate.on(Event::Answered(Class::Unknown), at(0));
            }
            gate.on(asked(1, 70107, at(asked_at)), at(asked_at));
            assert_eq!(gate.state(), state, "{worked} {doubts} {asked_at}");
        }
    }

    #[test]
    fn a_healthy_answer_for_the_window_empties_it() {
        let (mut gate, now) = (Gate::new(SETTINGS), Instant::now());
        let transient = || Event::Answered(Class::Transient);
        for _ in 1..SETTINGS.window {
            assert_eq!(gate.on(transient(), now), []);
        }
        assert_eq!(gate.on(transient(), now), [Effect::AskForWindow]);
        gate.on(
            Event::Asked {
                ticket: Ticket(1),
                verdict: verdict(50004),
                called: now,
                doubt: Doubt::Window,
            },
            now,
        );
        for _ in 1..SETTINGS.window {
            gate.on(transient(), now);
        }
        gate.on(Event::Probed(Health::Healthy), now);
        assert_eq!(gate.on(transient(), now), []);
    }

    #[test]
    fn answers_of_the_probe_are_judged() {
        let codes = CodeTable::new(&BTreeMap::from([("51011".to_owned(), Class::Gone)]));
        for (code, label) in [
            (0, "healthy"),
            (51009, "healthy"),
            (50001, "healthy"),
            (50004, "unreachable"),
            (60007, "unreachable"),
            (70001, "faulty"),
            (70009, "faulty"),
            (60020, "faulty"),
            (50002, "faulty"),
            (12345, "faulty"),
        ] {
            let info = String::new();
            let verdict = codes.classify(Reply::Answer { code, info });
            assert_eq!(Health::of(verdict).label(), label, "{code}");
        }
    }

    #[test]
    fn a_reason_says_what_is_at_fault() {
        let codes = CodeTable::new(&BTreeMap::new());
        let health = |code| {
            let info = String::new();
            Health::of(codes.classify(Reply::Answer { code, info }))
        };
        for (code, expected) in [
            (70001, Some(("account", "the account is at fault: 70001"))),
            (
                60007,
                Some(("unreachable", "the API turns all calls away: 60007")),
            ),
            (
                50004,
                Some(("unreachable", "the API can't be reached: 50004")),
            ),
            (51009, None),
        ] {
            let reason = Reason::of(health(code));
            let told = reason.map(|reason| (reason.label(), reason.to_string()));
            match (told, expected) {
                (None, None) => {}
                (Some((label, text)), Some((expected, begins))) => {
                    assert_eq!(label, expected);
                    assert!(text.starts_with(begins), "{text}");
                }
                (told, expected) => panic!("{code}: {told:?}, not {expected:?}"),
            }
        }
    }

    /// What a random history consists of; what is answered is answered by the shell of the test.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask(i64),
        Answered(Class),
        Probe(i64),
        Lose,
        Leave(u64),
        Recover,
        PauseOver,
        Stop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop_oneof![Just(60020), Just(70107), Just(70001), Just(70050), Just(50004)].prop_map(Step::Ask),
            3 => prop_oneof![Just(Class::Deleted), Just(Class::Transient), Just(Class::Unknown)].prop_map(Step::Answered),
            5 => prop_oneof![Just(51009), Just(60020), Just(50004), Just(60007), Just(70050)].prop_map(Step::Probe),
            1 => Just(Step::Lose),
            1 => (0_u64..30).prop_map(Step::Leave),
            2 => Just(Step::Recover),
            2 => Just(Step::PauseOver),
            1 => Just(Step::Stop),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: one probe at a time; everybody who asks is answered once, or leaves; Probing ends when
        /// the probe does; one throttled probe never suspends; 70050 waits for a minute; Draining is final.
        #[test]
        fn invariants_hold_in_every_history(steps in proptest::collection::vec(step(), 0..80)) {
            let mut gate = Gate::new(SETTINGS);
            let mut now = Instant::now();
            let mut waiting: Vec<Ticket> = Vec::new();
            let (mut tickets, mut out, mut drained, mut throttled) = (0, false, false, 0);
            for step in steps {
                now += Duration::from_millis(700);
                let before = gate.state();
                let event = match step {
                    Step::Ask(code) => {
                        tickets += 1;
                        waiting.push(Ticket(tickets));
                        asked(tickets, code, now)
                    }
                    Step::Answered(class) => Event::Answered(class),
                    Step::Probe(code) if out => {
                        out = false;
                        Event::Probed(Health::of(verdict(code)))
                    }
                    Step::Lose if out => {
                        out = false;
                        Event::ProbeLost
                    }
                    // Nothing is out that could be answered.
                    Step::Probe(_) | Step::Lose => continue,
                    Step::Leave(ticket) => {
                        // Who leaves takes its probe along.
                        if waiting.first() == Some(&Ticket(ticket)) && before != GateState::Suspended {
                            out = false;
                        }
                        waiting.retain(|&asker| asker != Ticket(ticket));
                        Event::Left(Ticket(ticket))
                    }
                    Step::Recover => {
                        if before == GateState::Suspended {
                            out = false;
                        }
                        Event::Recovering
                    }
                    Step::PauseOver => Event::PauseOver,
                    Step::Stop => {
                        drained = true;
                        Event::Stop
                    }
                };
                let is_throttled = matches!(&event, Event::Probed(health) if health.is_throttled());
                throttled = if is_throttled { throttled + 1 } else if matches!(event, Event::Probed(_)) { 0 } else { throttled };
                for effect in gate.on(event, now) {
                    match effect {
                        Effect::Probe { ticket, .. } => {
                            prop_assert!(!out, "one probe at a time");
                            prop_assert_eq!(ticket, waiting.first().copied());
                            out = true;
                        }
                        Effect::Answer { ticket, .. } => {
                            let index = waiting.iter().position(|&asker| asker == ticket);
                            prop_assert!(index.is_some(), "once, and only who asks");
                            waiting.retain(|&asker| asker != ticket);
                        }
                        Effect::Suspended(_) => {
                            prop_assert!(!is_throttled || throttled > PROBE_THROTTLED_MAX);
                            prop_assert!(!drained);
                        }
                        Effect::Pause { reason, at_least } => {
                            let wanted = matches!(&reason, Reason::Account(verdict) if verdict.row.label == AUTH_THROTTLED);
                            prop_assert_eq!(at_least >= AUTH_THROTTLED_PAUSE, wanted);
                        }
                        _ => {}
                    }
                }
                let state = gate.state();
                prop_assert!(!drained || state == GateState::Draining, "Draining is final");
                prop_assert!(state != GateState::Probing || out, "Probing waits for a probe that is out");
                prop_assert!(state != GateState::Open || waiting.is_empty() || out, "who asks waits for a probe that is out");
                prop_assert!(state != GateState::Suspended || waiting.is_empty(), "nobody waits while suspended");
            }
        }
    }
}
