//! A settled message, counted and logged: the one log line it gets.
use super::{Processed, Worker};
use convgroup_broker::delivery::Message;
use convgroup_domain::code::Verdict;
use convgroup_domain::decide::{Outcome, Summary};
use convgroup_domain::message::Target;
use convgroup_host::clock::Clock;

impl Worker {
    pub(super) fn settled(
        &self,
        message: &Message,
        processed: &Processed,
        clock: &Clock,
        trace_id: Option<&str>,
    ) {
        let published_ms = message.published_ms(clock.start_ms());
        let age_ms = clock.now_ms().saturating_sub(published_ms).max(0);
        self.count(processed, age_ms);
        self.log(message, processed, age_ms, trace_id);
    }

    fn count(&self, processed: &Processed, age_ms: i64) {
        let (metrics, summary) = (&self.metrics, &processed.decided.summary);
        let outcome = summary.outcome.label();
        metrics
            .messages_settled_total
            .with_label_values(&[outcome])
            .inc();
        metrics
            .message_age_seconds
            .with_label_values(&[outcome])
            .observe(age_ms as f64 / 1000.0);
        let names = |outcome: Outcome, count: usize| {
            metrics
                .groups_total
                .with_label_values(&[outcome.label()])
                .inc_by(count as u64);
        };
        names(Outcome::Deleted, summary.deleted);
        names(Outcome::Gone, summary.gone);
        for letter in &summary.letters {
            metrics
                .dead_letters_total
                .with_label_values(&[letter.cause.label(), letter.class])
                .inc();
            names(Outcome::DeadLettered, letter.names);
        }
        if let Some(told) = &processed.outcome {
            metrics
                .outcomes_total
                .with_label_values(&[told.data.status.label()])
                .inc();
        }
    }

    /// Info when odd, debug when normal. The API's own text is not in it: it may name users and groups.
    fn log(&self, message: &Message, processed: &Processed, age_ms: i64, trace_id: Option<&str>) {
        let Summary {
            outcome,
            failures,
            ref verdict,
            ..
        } = processed.decided.summary;
        let normal = matches!(outcome, Outcome::Deleted | Outcome::Gone);
        // Hashing ids costs more than all the rest: not for a line that nobody wants.
        if normal && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let verdict = verdict.as_ref();
        let code = verdict.map_or("", |verdict| verdict.code.as_str());
        let class = verdict.map_or("", |verdict| verdict.class().reported().label());
        // What the code does not say: what kept the call from connecting.
        let answer = verdict.map(Verdict::answer).unwrap_or_default();
        let meaning = verdict.map_or("", |verdict| verdict.row.meaning.as_str());
        let (user, groups, count, malformed) = match &processed.event {
            Ok(event) => {
                let names = match event.target() {
                    Target::Named(names) => names,
                    Target::All => &processed.found,
                };
                (
                    self.ids.show(event.user()),
                    self.ids.show_all(names),
                    names.len(),
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
                    trace.id = trace_id,
                    message.redelivered = message.redelivered,
                    message.age_ms = age_ms,
                    attempt = failures,
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
