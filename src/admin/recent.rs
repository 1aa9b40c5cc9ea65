//! What happened in the last minutes: counters compared with what they were then.
//!
//! The counters are those of the metrics block. What happens is counted there once; a second count of our own could differ.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::metrics::Metrics;
use convgroup_domain::code::{Class, CodeTable};
use convgroup_domain::decide::Outcome;
use convgroup_domain::reply::CallKind;

/// How often the counters are noted.
const EVERY: Duration = Duration::from_secs(10);
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

/// The notes.
#[derive(Debug)]
pub(super) struct Recent {
    metrics: Arc<Metrics>,
    answers: Vec<Answer>,
    notes: Mutex<VecDeque<Note>>,
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
    at: Instant,
    answers: Vec<u64>,
    settled: Vec<u64>,
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
    pub(super) fn new(metrics: Arc<Metrics>, codes: &CodeTable) -> Self {
        let recent = Self {
            metrics,
            answers: answers(codes),
            notes: Mutex::default(),
        };
        recent.lock().push_back(recent.note(Instant::now()));
        recent
    }

    /// Takes notes for ever.
    pub(super) async fn keep(&self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = self.note(Instant::now());
            remember(&mut self.lock(), now);
        }
    }

    /// From the oldest note until now.
    pub(super) fn lately(&self) -> Lately {
        let notes = self.lock();
        let now = self.note(Instant::now());
        let then = notes.front().expect("there is a note from the start");
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

    fn note(&self, at: Instant) -> Note {
        let calls = &self.metrics.api_requests_total;
        let settled = &self.metrics.messages_settled_total;
        Note {
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
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Note>> {
        self.notes.lock().expect("no panic while held")
    }
}

/// Adds a note and forgets those beyond the reach, but for the youngest of them: from it on the whole reach is known.
fn remember(notes: &mut VecDeque<Note>, now: Note) {
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

    fn recent() -> Recent {
        let codes = CodeTable::new(&BTreeMap::new());
        Recent::new(Arc::new(Metrics::new(&codes)), &codes)
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
        let lately = recent.lately();
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
        let start = recent.lock()[0].at;
        let mut notes = std::mem::take(&mut *recent.lock());
        for tick in 1..=100 {
            remember(&mut notes, recent.note(start + EVERY * tick));
        }
        let (first, last) = (notes.front().unwrap().at, notes.back().unwrap().at);
        assert_eq!(last - first, REACH);
        assert_eq!(notes.len(), 31);
    }

    /// A process that was frozen for an hour still has a note to compare with.
    #[test]
    fn a_gap_is_told_as_it_is() {
        let recent = recent();
        let start = recent.lock()[0].at;
        let mut notes = std::mem::take(&mut *recent.lock());
        let hour = Duration::from_hours(1);
        remember(&mut notes, recent.note(start + hour));
        assert_eq!(notes.back().unwrap().at - notes.front().unwrap().at, hour);
        remember(&mut notes, recent.note(start + hour + REACH));
        assert_eq!(notes.back().unwrap().at - notes.front().unwrap().at, REACH);
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
