//! A settled message, counted and logged: the one log line it gets.
use super::{Judged, Worker};
use convgroup_broker::delivery::Message;
use convgroup_domain::code::Verdict;
use convgroup_domain::decide::{Decision, Destination, MALFORMED, NameEnd, Outcome, Successor};
use convgroup_host::clock::unix_ms;

impl Worker {
    pub(super) fn settled(&self, message: &Message, judged: &Judged) {
        let outcome = judged.decision.outcome(&judged.ends);
        let now_ms = unix_ms();
        let age_ms = now_ms.saturating_sub(message.published_ms(now_ms)).max(0);
        self.count(judged, outcome, age_ms);
        self.log(message, judged, outcome, age_ms);
    }

    fn count(&self, judged: &Judged, outcome: Outcome, age_ms: i64) {
        let metrics = &self.metrics;
        metrics
            .messages_settled_total
            .with_label_values(&[outcome.label()])
            .inc();
        metrics
            .message_age_seconds
            .with_label_values(&[outcome.label()])
            .observe(age_ms as f64 / 1000.0);
        let Decision::Ack(successors) = &judged.decision else {
            return;
        };
        let names = |outcome: Outcome, count: usize| {
            metrics
                .groups_total
                .with_label_values(&[outcome.label()])
                .inc_by(count as u64);
        };
        let ended = |wanted: &NameEnd| judged.ends.iter().filter(|end| *end == wanted).count();
        names(Outcome::Deleted, ended(&NameEnd::Deleted));
        names(Outcome::Gone, ended(&NameEnd::Gone));
        for successor in successors {
            if let Destination::Dead(cause) = successor.to {
                let class = successor.class().unwrap_or(MALFORMED);
                metrics
                    .dead_letters_total
                    .with_label_values(&[cause.label(), class])
                    .inc();
                names(Outcome::DeadLettered, names_in(successor, judged));
            }
        }
    }

    /// Info when odd, debug when normal. The API's own text is not in it: it may name users and groups.
    fn log(&self, message: &Message, judged: &Judged, outcome: Outcome, age_ms: i64) {
        let normal = matches!(outcome, Outcome::Deleted | Outcome::Gone);
        // Hashing ids costs more than all the rest: not for a line that nobody wants.
        if normal && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let verdict = verdict(judged);
        let code = verdict.map_or("", |verdict| verdict.code.as_str());
        let class = verdict.map_or("", |verdict| verdict.class().reported().label());
        // What the code does not say: what kept the call from connecting.
        let answer = verdict.map(Verdict::answer).unwrap_or_default();
        let meaning = verdict.map_or("", |verdict| verdict.row.meaning.as_str());
        let attempt = attempt(message, judged);
        let (user, groups, count, malformed) = match &judged.event {
            Ok(event) => {
                let groups = self.ids.show_all(event.groups());
                (
                    self.ids.show(event.user()),
                    groups,
                    event.groups().len(),
                    String::new(),
                )
            }
            Err(malformed) => (String::new(), String::new(), 0, malformed.to_string()),
        };
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    outcome = outcome.label(),
                    message.id = message.id(),
                    message.redelivered = message.redelivered,
                    message.age_ms = age_ms,
                    attempt,
                    user.hash = user,
                    group.hash = groups,
                    group.count = count,
                    error.code = code,
                    error.class = class,
                    error.answer = answer,
                    error.meaning = meaning,
                    error.malformed = malformed,
                    "settled"
                )
            };
        }
        if normal {
            line!(debug);
        } else {
            line!(info);
        }
    }
}

/// How many names a successor carries; an event that can't be read counts as none.
fn names_in(successor: &Successor, judged: &Judged) -> usize {
    match (&successor.groups, &judged.event) {
        (Some(groups), _) => groups.len(),
        (None, Ok(event)) => event.groups().len(),
        (None, Err(_)) => 0,
    }
}

/// Counted failures so far, this delivery's included: what the headers of the copies say.
fn attempt(message: &Message, judged: &Judged) -> u32 {
    let copies = match &judged.decision {
        Decision::Ack(successors) => successors.as_slice(),
        Decision::HandBack => &[],
    };
    let last = copies
        .iter()
        .map(|successor| successor.attempt.failures)
        .max();
    last.unwrap_or_else(|| message.attempt(unix_ms()).failures)
}

/// The verdict that a log line tells: the first successor's.
fn verdict(judged: &Judged) -> Option<&Verdict> {
    match &judged.decision {
        Decision::Ack(successors) => successors
            .iter()
            .find_map(|successor| successor.verdict.as_ref()),
        Decision::HandBack => None,
    }
}
