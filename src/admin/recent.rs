//! What happened lately: counters compared with what they were then. The last five minutes are known by code, the last hour by class.
//!
//! The counters are those of the metrics block. What happens is counted there once; a second count of our own could differ.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use prometheus::HistogramVec;
use prometheus::core::Collector;
use prometheus::proto::{Bucket, MetricFamily};
use tokio::time::MissedTickBehavior;

use super::hour::{
    AGE_BUCKETS, Buckets, EVERY, Hour, LATENCY_BUCKETS, SAMPLES_MAX, Sample, remember,
};
use crate::metrics::Metrics;
use crate::status::Status;
use convgroup_broker::events::Depths;
use convgroup_domain::code::{Class, CodeTable};
use convgroup_domain::decide::Outcome;
use convgroup_domain::reply::CallKind;

/// How far back "lately" reaches.
const REACH: Duration = Duration::from_mins(5);

/// All outcomes, the wanted ones first.
const OUTCOMES: [Outcome; 5] = [
    Outcome::Deleted,
    Outcome::Gone,
    Outcome::Delayed,
    Outcome::Returned,
    Outcome::DeadLettered,
];

/// The one who looks at the counters, and what was seen.
#[derive(Debug)]
pub(super) struct Recent {
    metrics: Arc<Metrics>,
    status: Arc<Status>,
    answers: Vec<Answer>,
    latency_bounds: [f64; LATENCY_BUCKETS],
    age_bounds: [f64; AGE_BUCKETS],
    seen: Mutex<Seen>,
}

/// What was seen: the counters themselves for [`REACH`], and what lay between two looks for an hour.
#[derive(Debug)]
struct Seen {
    notes: VecDeque<Note>,
    samples: VecDeque<Sample>,
}

/// A kind of answer of the API: one label pair of `convgroup_api_requests_total`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The label `code`.
    pub(super) label: String,
    /// The label `class`.
    pub(super) class: Class,
    /// What it means, in the words of the error table.
    pub(super) meaning: String,
}

/// The counters at a moment, in the order of [`Recent::answers`] and [`OUTCOMES`].
#[derive(Clone, Debug)]
struct Note {
    /// Counted from the start.
    number: u64,
    at: Instant,
    answers: Vec<u64>,
    settled: Vec<u64>,
    latency: Counts<LATENCY_BUCKETS>,
    age: Counts<AGE_BUCKETS>,
    depths: Option<Depths>,
}

/// A histogram at a moment: the entries up to each finite bound, and all.
#[derive(Clone, Copy, Debug)]
struct Counts<const N: usize> {
    up_to: [u64; N],
    all: u64,
}

/// What happened lately.
#[derive(Clone, Debug)]
pub(super) struct Lately {
    /// How far back it reaches; less than five minutes in a young process.
    pub(super) span: Duration,
    /// The answers that came, the most frequent first, each with its number.
    pub(super) answers: Vec<(Answer, u64)>,
    /// Messages by outcome, in the order of [`OUTCOMES`]: lately, and since the start.
    pub(super) settled: Vec<(Outcome, u64, u64)>,
}

impl Lately {
    /// All calls that were answered, probes not included.
    pub(super) fn calls(&self) -> u64 {
        self.answers.iter().map(|(_, count)| count).sum()
    }
}

impl Recent {
    /// Begins with a first note.
    pub(super) fn new(metrics: Arc<Metrics>, status: Arc<Status>, codes: &CodeTable) -> Self {
        let recent = Self {
            latency_bounds: bounds(&metrics.api_request_duration_seconds),
            age_bounds: bounds(&metrics.message_age_seconds),
            metrics,
            status,
            answers: answers(codes),
            seen: Mutex::new(Seen {
                notes: VecDeque::new(),
                samples: VecDeque::with_capacity(SAMPLES_MAX),
            }),
        };
        let first = recent.note(0, Instant::now());
        recent.lock().notes.push_back(first);
        recent
    }

    /// Takes notes for ever.
    pub(super) async fn keep(&self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once, and the first note is there.
        tick.tick().await;
        loop {
            tick.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        let mut seen = self.lock();
        let now = self.note(seen.newest().number + 1, Instant::now());
        let sample = self.between(seen.newest(), &now);
        remember(&mut seen.samples, sample);
        keep_reach(&mut seen.notes, now);
    }

    /// From the oldest note until now, and the last hour.
    pub(super) fn shown(&self, now_unix: f64) -> (Lately, Hour) {
        let seen = self.lock();
        let now = self.note(seen.newest().number + 1, Instant::now());
        let mut samples: Vec<Sample> = seen.samples.iter().copied().collect();
        samples.push(self.between(seen.newest(), &now));
        let hour = Hour {
            samples,
            now: now.at,
            now_unix,
            latency_bounds: self.latency_bounds,
            age_bounds: self.age_bounds,
        };
        (self.lately(&seen, &now), hour)
    }

    fn lately(&self, seen: &Seen, now: &Note) -> Lately {
        let then = seen.notes.front().expect("there is a note from the start");
        let mut answers: Vec<(Answer, u64)> = self
            .answers
            .iter()
            .zip(now.answers.iter().zip(&then.answers))
            .map(|(answer, (now, then))| (answer.clone(), now - then))
            .filter(|(_, count)| *count > 0)
            .collect();
        answers.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let settled = OUTCOMES
            .into_iter()
            .zip(now.settled.iter().zip(&then.settled))
            .map(|(outcome, (now, then))| (outcome, now - then, *now))
            .collect();
        Lately {
            span: now.at - then.at,
            answers,
            settled,
        }
    }

    fn between(&self, then: &Note, now: &Note) -> Sample {
        let mut calls = [0; Class::ALL.len()];
        let counts = now.answers.iter().zip(&then.answers);
        for (answer, (now, then)) in self.answers.iter().zip(counts) {
            let of_class = Class::ALL.iter().position(|class| *class == answer.class);
            let sum: &mut u32 = &mut calls[of_class.expect("all classes are in ALL")];
            *sum = sum.saturating_add(difference(*now, *then));
        }
        Sample {
            number: then.number,
            at: now.at,
            span: now.at.duration_since(then.at),
            calls,
            latency: now.latency.since(&then.latency),
            age: now.age.since(&then.age),
            depths: now.depths,
        }
    }

    fn note(&self, number: u64, at: Instant) -> Note {
        let calls = &self.metrics.api_requests_total;
        let settled = &self.metrics.messages_settled_total;
        let broker = self.status.model().broker;
        Note {
            number,
            at,
            answers: self
                .answers
                .iter()
                .map(|answer| {
                    let of = |call: CallKind| {
                        let labels = [&*answer.label, answer.class.label(), call.label()];
                        calls.with_label_values(&labels).get()
                    };
                    CallKind::ALL.into_iter().map(of).sum()
                })
                .collect(),
            settled: OUTCOMES
                .into_iter()
                .map(|outcome| settled.with_label_values(&[outcome.label()]).get())
                .collect(),
            latency: counts(&self.metrics.api_request_duration_seconds),
            age: counts(&self.metrics.message_age_seconds),
            depths: broker.depths.filter(|_| broker.is_connected),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while held")
    }
}

impl Seen {
    fn newest(&self) -> &Note {
        self.notes.back().expect("there is a note from the start")
    }
}

impl<const N: usize> Counts<N> {
    /// The entries of each bucket that came since.
    fn since(&self, then: &Self) -> Buckets<N> {
        let mut below = (0, 0);
        let mut within = [0; N];
        for (count, up_to) in within.iter_mut().zip(self.up_to.iter().zip(then.up_to)) {
            let (now, then) = (*up_to.0, up_to.1);
            *count = difference(now - below.0, then - below.1);
            below = (now, then);
        }
        Buckets {
            within,
            above: difference(self.all - below.0, then.all - below.1),
        }
    }
}

/// All series of a histogram together.
fn counts<const N: usize>(histogram: &HistogramVec) -> Counts<N> {
    let mut counts = Counts {
        up_to: [0; N],
        all: 0,
    };
    for family in histogram.collect() {
        for metric in family.get_metric() {
            let series = metric.get_histogram();
            counts.all += series.get_sample_count();
            for (sum, bucket) in counts.up_to.iter_mut().zip(series.get_bucket()) {
                *sum += bucket.cumulative_count();
            }
        }
    }
    counts
}

/// The finite bounds of a histogram, the lowest first.
fn bounds<const N: usize>(histogram: &HistogramVec) -> [f64; N] {
    let families = histogram.collect();
    let series = families.iter().flat_map(MetricFamily::get_metric);
    let buckets = series.map(|metric| metric.get_histogram().get_bucket());
    let bounds: Vec<f64> = buckets.take(1).flatten().map(Bucket::upper_bound).collect();
    bounds
        .try_into()
        .expect("as many as the metrics block has, and all label pairs exist from the start")
}

/// So many between two looks fit into 32 bits.
fn difference(now: u64, then: u64) -> u32 {
    u32::try_from(now.saturating_sub(then)).unwrap_or(u32::MAX)
}

/// Adds a note and forgets those beyond the reach, but for the youngest of them: from it on the whole reach is known.
fn keep_reach(notes: &mut VecDeque<Note>, now: Note) {
    let reached = |note: &Note| now.at.duration_since(note.at) >= REACH;
    while notes.get(1).is_some_and(reached) {
        notes.pop_front();
    }
    notes.push_back(now);
}

/// All pairs of code and class of `convgroup_api_requests_total`. Rows of the table that share a pair are told in one.
fn answers(codes: &CodeTable) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for row in codes.answers() {
        let told = |answer: &Answer| answer.label == row.label && answer.class == row.class;
        if !answers.iter().any(told) {
            answers.push(Answer {
                label: row.label.clone(),
                class: row.class,
                meaning: codes.meaning(&row.label, row.class),
            });
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use convgroup_broker::events::BrokerEvent;

    fn recent() -> Recent {
        let codes = CodeTable::new(&BTreeMap::new());
        let metrics = Arc::new(Metrics::new(&codes));
        let status = Arc::new(Status::new(Arc::clone(&metrics), false));
        Recent::new(metrics, status, &codes)
    }

    fn called(recent: &Recent, label: &str, class: Class, times: u64) {
        let calls = &recent.metrics.api_requests_total;
        calls
            .with_label_values(&[label, class.label(), CallKind::Delete.label()])
            .inc_by(times);
    }

    #[test]
    fn answers_are_counted_since_the_oldest_note_the_most_frequent_first() {
        let recent = recent();
        called(&recent, "51009", Class::Gone, 2);
        called(&recent, "0", Class::Deleted, 7);
        let (lately, _) = recent.shown(0.0);
        let told: Vec<_> = lately
            .answers
            .iter()
            .map(|(answer, count)| (&*answer.label, *count))
            .collect();
        assert_eq!(told, [("0", 7), ("51009", 2)]);
        assert_eq!(lately.calls(), 9);
    }

    #[test]
    fn five_minutes_are_remembered_and_no_more() {
        let recent = recent();
        let mut notes = std::mem::take(&mut recent.lock().notes);
        let start = notes[0].at;
        for tick in 1..=100 {
            keep_reach(&mut notes, recent.note(tick.into(), start + EVERY * tick));
        }
        let (first, last) = (notes.front().unwrap().at, notes.back().unwrap().at);
        assert_eq!(last - first, REACH);
        assert_eq!(notes.len(), 31);
    }

    /// A process that was frozen for an hour still has a note to compare with.
    #[test]
    fn a_gap_is_told_as_it_is() {
        let recent = recent();
        let mut notes = std::mem::take(&mut recent.lock().notes);
        let start = notes[0].at;
        let hour = Duration::from_hours(1);
        keep_reach(&mut notes, recent.note(1, start + hour));
        assert_eq!(notes.back().unwrap().at - notes.front().unwrap().at, hour);
        keep_reach(&mut notes, recent.note(1, start + hour + REACH));
        assert_eq!(notes.back().unwrap().at - notes.front().unwrap().at, REACH);
    }

    #[test]
    fn a_sample_is_what_lies_between_two_looks() {
        let recent = recent();
        let metrics = &recent.metrics;
        let took = |class: Class, call: CallKind, seconds: f64| {
            let histogram = &metrics.api_request_duration_seconds;
            let labels = [class.label(), call.label()];
            histogram.with_label_values(&labels).observe(seconds);
        };
        let settled = |outcome: Outcome, age: f64| {
            let histogram = &metrics.message_age_seconds;
            histogram.with_label_values(&[outcome.label()]).observe(age);
        };
        called(&recent, "0", Class::Deleted, 5);
        took(Class::Deleted, CallKind::Delete, 0.02);
        settled(Outcome::Deleted, 2.0);
        recent.look();
        called(&recent, "0", Class::Deleted, 7);
        called(&recent, "50004", Class::Transient, 1);
        called(&recent, "timeout", Class::Transient, 2);
        took(Class::Deleted, CallKind::Delete, 0.02);
        took(Class::Transient, CallKind::List, 3.0);
        took(Class::Transient, CallKind::Delete, 60.0);
        settled(Outcome::Returned, 1_000_000.0);
        let depths = Depths {
            main: 1,
            retry: 2,
            dead: 3,
        };
        for event in [BrokerEvent::SessionBegan, BrokerEvent::Depths(depths)] {
            recent.status.broker_event(event);
        }
        let hour = recent.shown(0.0).1;
        let [first, second] = hour.samples[..] else {
            panic!("{hour:?}")
        };
        assert_eq!((first.calls[0], first.depths), (5, None));
        assert_eq!(first.latency.within.iter().sum::<u32>(), 1);
        assert_eq!((first.age.within[5], first.age.above), (1, 0));
        // In the order of Class::ALL.
        assert_eq!(second.calls, [7, 0, 3, 0, 0, 0, 0, 0]);
        let mut within = [0; LATENCY_BUCKETS];
        (within[4], within[11]) = (1, 1);
        assert_eq!((second.latency.within, second.latency.above), (within, 1));
        assert_eq!((second.age.within, second.age.above), ([0; AGE_BUCKETS], 1));
        assert_eq!(second.depths, Some(depths));
        // What is left of a session that is over is not of now.
        recent.status.broker_event(BrokerEvent::SessionEnded);
        assert_eq!(recent.shown(0.0).1.samples[1].depths, None);
    }

    /// The bound that docs/operating.md tells.
    #[test]
    fn what_is_remembered_takes_at_most_120_kibibytes() {
        let recent = recent();
        let mut seen = recent.lock();
        let start = seen.newest().at;
        for tick in 1..=2000 {
            let now = recent.note(tick.into(), start + EVERY * tick);
            let sample = recent.between(seen.newest(), &now);
            remember(&mut seen.samples, sample);
            keep_reach(&mut seen.notes, now);
        }
        assert_eq!((seen.notes.len(), seen.samples.len()), (31, SAMPLES_MAX));
        let note = &seen.notes[0];
        let counters = 8 * (note.answers.capacity() + note.settled.capacity());
        let bytes = seen.notes.capacity() * (size_of::<Note>() + counters)
            + seen.samples.capacity() * size_of::<Sample>();
        assert!(bytes <= 120 * 1024, "{bytes}");
    }

    #[test]
    fn every_outcome_is_told() {
        assert_eq!(BTreeSet::from(OUTCOMES), BTreeSet::from(Outcome::ALL));
    }

    #[test]
    fn each_series_is_told_once() {
        let recent = recent();
        let pairs: BTreeSet<_> = recent
            .answers
            .iter()
            .map(|answer| (answer.label.clone(), answer.class))
            .collect();
        assert_eq!(pairs.len(), recent.answers.len());
        let account = recent
            .answers
            .iter()
            .find(|answer| answer.label == "http_4xx" && answer.class == Class::Account)
            .unwrap();
        assert!(account.meaning.contains("401") && account.meaning.contains("404"));
    }
}
