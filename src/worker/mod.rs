//! What happens to one delivery: decode, call, decide, settle, report.
mod name;
mod report;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::task::JoinError;

use crate::config::Retry;
use crate::metrics::{Metrics, Redelivered};
use crate::pace::suspension::Suspension;
use crate::status::{InHand, Status};
use crate::telemetry::Ids;
use convgroup_broker::delivery::{Delivery, Message, Receipt};
use convgroup_broker::life::Life;
use convgroup_broker::session::Session;
use convgroup_broker::settle::{Op, SettleError, settle};
use convgroup_chat::client::ChatClient;
use convgroup_domain::attempt::Attempt;
use convgroup_domain::code::CodeTable;
use convgroup_domain::decide::{Decided, NameEnd, RetryLimits, decide, decide_malformed};
use convgroup_domain::message::{DeleteGroups, Malformed, decode_declared};
use convgroup_domain::topology::Topology;
use convgroup_host::clock::{Clock, unix_ms};
use convgroup_host::failpoint;
use convgroup_host::intervals::Intervals;

/// How long a message of several names is worked on; the names left then travel on in an uncounted copy. RabbitMQ takes back
/// what is in hand for longer than its `consumer_timeout` (30 minutes), undone: at a pace cut far enough, messages of many names
/// would never end.
const IN_HAND_MAX: Duration = Duration::from_mins(10);

/// How long a message is held whose copy the broker refuses. With [`IN_HAND_MAX`] before it, it stays below RabbitMQ's
/// `consumer_timeout` of 30 minutes.
const HELD_MAX: Duration = Duration::from_mins(15);

/// Works on deliveries. One for the process, shared by all tasks.
#[derive(Debug)]
pub struct Worker {
    /// Makes the calls.
    pub client: Arc<ChatClient>,
    /// Judges the replies.
    pub codes: Arc<CodeTable>,
    /// Says whether and when a call may leave.
    pub suspension: Arc<Suspension>,
    /// Names the queues.
    pub topology: Topology,
    /// The retry schedule.
    pub retry: Retry,
    /// How ids are logged.
    pub ids: Ids,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Is told what is in hand and what succeeded.
    pub status: Arc<Status>,
}

/// A message that was worked on: its command as far as it could be read, the history it came with, and what is to be done with it.
#[derive(Debug)]
struct Processed {
    event: Result<DeleteGroups, Malformed>,
    attempt: Attempt,
    decided: Decided,
}

/// Reads the event, where its message could be read at all.
fn read(message: &Message) -> Result<DeleteGroups, Malformed> {
    match &message.unreadable {
        Some(reason) => Err(Malformed::Unreadable(reason.clone())),
        None => decode_declared(&message.body, message.declared()),
    }
}

impl Worker {
    /// Takes one delivery to its end. Whatever happens in between, the delivery is settled or, where the session is over, comes
    /// back by itself.
    pub async fn work_on(self: Arc<Self>, delivery: Delivery, session: Arc<Session>) {
        let clock = Clock::start();
        let _in_hand = self.received(&delivery.message, &clock);
        let processed = self
            .process(&delivery.message, &clock, session.life())
            .await;
        self.finish(delivery, processed, &clock, &session).await;
    }

    /// Hands back a delivery on which no work was begun.
    pub async fn hand_back(&self, delivery: Delivery, session: &Session) {
        let clock = Clock::start();
        let _in_hand = self.received(&delivery.message, &clock);
        let attempt = delivery.message.attempt(clock.start_ms());
        let processed = Processed {
            event: read(&delivery.message),
            attempt,
            decided: Decided::hand_back(attempt),
        };
        self.finish(delivery, processed, &clock, session).await;
    }

    /// Takes note of how a task of [`Self::work_on`] ended. One that panicked outside the calls left its message unsettled:
    /// only the end of the session gives it back.
    pub fn done(&self, task: Result<(), JoinError>, life: &Life) {
        if task.is_err_and(|err| err.is_panic()) {
            self.metrics.panics_total.inc();
            life.end("a bug: settling a message panicked; all messages in hand are given back");
        }
    }

    fn received(&self, message: &Message, clock: &Clock) -> InHand<'_> {
        self.metrics
            .messages_received_total
            .with_label_values(&[Redelivered(message.redelivered).label()])
            .inc();
        self.status.delivered(clock.start_seconds())
    }

    async fn process(&self, message: &Message, clock: &Clock, life: &Life) -> Processed {
        let attempt = message.attempt(clock.start_ms());
        let event = match read(message) {
            Ok(event) => event,
            Err(malformed) => {
                let decided = decide_malformed(&malformed, attempt);
                return Processed {
                    event: Err(malformed),
                    attempt,
                    decided,
                };
            }
        };
        // A panic is this program's fault, but the message must not be stuck with it: it counts as a failure, so that it ends
        // in the dead letters after a bounded number of tries, and its neighbours are unharmed.
        let names = AssertUnwindSafe(self.delete_all(&event, clock, life))
            .catch_unwind()
            .await;
        let ends = names.unwrap_or_else(|_| {
            self.metrics.panics_total.inc();
            vec![NameEnd::Failed(self.codes.panic()); event.groups().len()]
        });
        let limits = RetryLimits {
            attempts_max: self.retry.max_attempts,
            tiers: self.topology.tiers.len(),
        };
        let ends = self.excused(ends, attempt, limits, life).await;
        let decided = decide(&event, &ends, attempt, limits);
        Processed {
            event: Ok(event),
            attempt,
            decided,
        }
    }

    /// Deletes the names one after the other. The first that is interrupted ends the row, and so does [`IN_HAND_MAX`].
    async fn delete_all(&self, event: &DeleteGroups, clock: &Clock, life: &Life) -> Vec<NameEnd> {
        let in_hand_max = failpoint::shortened(IN_HAND_MAX);
        let mut ends = Vec::with_capacity(event.groups().len());
        for group in event.groups() {
            let end = match ends.last() {
                Some(NameEnd::Interrupted) => NameEnd::Interrupted,
                Some(_) if clock.elapsed() >= in_hand_max => NameEnd::Interrupted,
                _ => self.delete_one(event.user(), group, life).await,
            };
            ends.push(end);
        }
        ends
    }

    /// Takes back passing failures that were not the message's doing: those met while the API turns out to be unreachable. The
    /// last failure before a dead letter is worth a probe of its own: few messages in a long outage never fill the window.
    async fn excused(
        &self,
        ends: Vec<NameEnd>,
        attempt: Attempt,
        limits: RetryLimits,
        life: &Life,
    ) -> Vec<NameEnd> {
        let Some(verdict) = ends.iter().find_map(NameEnd::passing_failure) else {
            return ends;
        };
        // A daemon that stops does not probe any more: then nobody knows, and nobody dies of it.
        let dying = limits.is_last(attempt);
        let excused = self.suspension.is_suspended()
            || dying
                && !self
                    .suspension
                    .ask_probe(verdict, Instant::now(), life)
                    .await;
        if excused {
            return ends.into_iter().map(NameEnd::excused).collect();
        }
        ends
    }

    async fn finish(
        &self,
        delivery: Delivery,
        mut processed: Processed,
        clock: &Clock,
        session: &Session,
    ) {
        let Delivery { message, receipt } = delivery;
        if !session.life().is_on() {
            tracing::debug!(
                message.id = message.id(),
                "the session with the broker ended under this message: it comes back by itself"
            );
            return;
        }
        let settled = self.settle(&message, receipt, &mut processed, session);
        match settled.await {
            Ok(()) => {
                session.life().prove();
                self.settled(&message, &processed, clock);
            }
            Err(err) => {
                self.count_failure(err.op);
                tracing::warn!(
                    message.id = message.id(),
                    op = err.op.label(),
                    error = %err.cause,
                    "could not settle a message: it comes back by itself, what was deleted is then already gone"
                );
            }
        }
    }

    /// Settles the message. While the broker refuses its copy in every form, it is held: it keeps its place in the prefetch and is
    /// offered again at growing pauses. It is handed back when the daemon stops, and before the broker would take it back.
    async fn settle(
        &self,
        message: &Message,
        mut receipt: Receipt,
        processed: &mut Processed,
        session: &Session,
    ) -> Result<(), SettleError> {
        let (mut confirmed, mut held_since) = (None, None);
        let mut pauses = Intervals::refused();
        loop {
            let settled = settle(
                message,
                receipt,
                &processed.decided.decision,
                confirmed,
                &self.topology,
                &session.publisher,
                // A copy says when it is offered, by the wall clock: it can have been held for long.
                unix_ms(),
            );
            let Some(held) = settled.await? else {
                return Ok(());
            };
            (receipt, confirmed) = (held.receipt, Some(held.confirmed));
            self.count_failure(Op::Publish);
            let since = *held_since.get_or_insert_with(|| {
                tracing::error!(
                    message.id = message.id(),
                    error = %held.refusal,
                    "the broker refuses every copy of this message: it stays in hand and is offered again, others go on. Raise \
                     the broker's limit that the error names, or remove the message from the main queue"
                );
                Instant::now()
            });
            if since.elapsed() >= failpoint::shortened(HELD_MAX)
                || !self.wait_held(pauses.next_pause(), session.life()).await
            {
                processed.decided = Decided::hand_back(processed.attempt);
            }
        }
    }

    fn count_failure(&self, op: Op) {
        self.metrics
            .settle_failures_total
            .with_label_values(&[op.label()])
            .inc();
    }

    /// Waits before a refused copy is offered again; `false` when the daemon stops.
    async fn wait_held(&self, pause: Duration, life: &Life) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = life.over() => true,
            () = self.suspension.draining() => false,
        }
    }
}
