//! What happens to one delivery: decode, call, decide, settle, report.
mod all_groups;
mod call;
mod report;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::MutexGuard;
use tokio::task::JoinError;

use crate::config::Retry;
use crate::metrics::{Metrics, Redelivered};
use crate::pace::suspension::Suspension;
use crate::status::{InHand, Status};
use crate::telemetry::Ids;
use crate::traces::{self, Traces};
use convgroup_broker::delivery::{Delivery, Message, Receipt};
use convgroup_broker::life::Life;
use convgroup_broker::refusal::Refusal;
use convgroup_broker::session::Session;
use convgroup_broker::settle::{Held, Listener, Op, Published, SettleError, Settlement, settle};
use convgroup_chat::client::ChatClient;
use convgroup_domain::all_groups::{Swept, decide_all};
use convgroup_domain::attempt::Attempt;
use convgroup_domain::code::{CodeTable, Verdict};
use convgroup_domain::decide::{Decided, Decision, NameEnd, RetryLimits, decide, decide_malformed};
use convgroup_domain::message::{
    AllGroups, Decoded, DeleteGroups, Malformed, Target, decode_message,
};
use convgroup_domain::outcome::{Answer, OutcomeEvent, Told};
use convgroup_domain::request::Request;
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
    /// Whether events that mean all groups of a user are accepted.
    pub all_groups: AllGroups,
    /// Whether answers tell users and names as they are.
    pub include_ids: bool,
    /// The app at the API.
    pub sdk_app_id: u64,
    /// The retry schedule.
    pub retry: Retry,
    /// How ids are logged.
    pub ids: Ids,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Is told what is in hand and what succeeded.
    pub status: Arc<Status>,
    /// Makes spans, where somebody collects them.
    pub traces: Option<Arc<Traces>>,
}

/// What goes with the work on one delivery.
#[derive(Clone, Copy, Debug)]
struct Work<'w> {
    clock: &'w Clock,
    life: &'w Life,
    /// Its span, where traces are made.
    span: Option<&'w traces::Delivery<'w>>,
}

impl<'w> Work<'w> {
    /// What log lines name its trace by, while a span is recorded.
    fn trace_id(self) -> Option<&'w str> {
        self.span?.trace_id()
    }

    fn ended(self, end: traces::End<'_>) {
        if let Some(span) = self.span {
            span.end(end);
        }
    }
}

/// A message that was worked on: its command as far as it could be read, the request that it belongs to, the history it came with, and
/// what is to be done with it.
#[derive(Debug)]
struct Processed {
    event: Result<DeleteGroups, Malformed>,
    request: Request,
    attempt: Attempt,
    decided: Decided,
    /// Names of groups that were found, of an event that means all of them.
    found: Vec<String>,
    /// What the requester is told; nothing where requests are not answered, or no name ended.
    outcome: Option<OutcomeEvent>,
}

impl Worker {
    /// Takes one delivery to its end. Whatever happens in between, the delivery is settled or, where the session is over, comes
    /// back by itself.
    pub async fn work_on(self: Arc<Self>, delivery: Delivery, session: Arc<Session>) {
        let clock = Clock::start();
        let Delivery { message, receipt } = delivery;
        let _in_hand = self.received(&message, &clock);
        let _first = self.turn(&session).await;
        let traces = self.traces.as_ref();
        let span = traces.map(|traces| traces.delivery(&message, session.node()));
        let work = Work {
            clock: &clock,
            life: session.life(),
            span: span.as_ref(),
        };
        let processed = self.process(&message, work).await;
        self.finish(&message, receipt, processed, work, &session)
            .await;
    }

    /// Waits until it makes sense to work on a message: see [`Answers::turn`](convgroup_broker::answers::Answers::turn). A stop, or the
    /// end of the session, is no reason to wait any more: no call leaves then.
    async fn turn<'s>(&self, session: &'s Session) -> Option<MutexGuard<'s, ()>> {
        tokio::select! {
            biased;
            first = session.answers.turn() => first,
            () = session.life().over() => None,
            () = self.suspension.draining() => None,
        }
    }

    /// Hands back a delivery on which no work was begun.
    pub async fn hand_back(&self, delivery: Delivery, session: &Session) {
        let clock = Clock::start();
        let Delivery { message, receipt } = delivery;
        let _in_hand = self.received(&message, &clock);
        let mut processed = self.read(&message, &clock);
        processed.decided = Decided::hand_back(processed.attempt);
        let work = Work {
            clock: &clock,
            life: session.life(),
            span: None,
        };
        self.finish(&message, receipt, processed, work, session)
            .await;
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

    /// Reads the message. Of an event that can't be read this is the decision, too; any other is handed back unless it is worked on.
    fn read(&self, message: &Message, clock: &Clock) -> Processed {
        let attempt = message.attempt(clock.start_ms());
        let Decoded {
            cloudevents_id,
            event,
        } = match &message.unreadable {
            Some(reason) => Decoded {
                cloudevents_id: None,
                event: Err(Malformed::Unreadable(reason.clone())),
            },
            None => decode_message(&message.body, &message.declared(), self.all_groups),
        };
        let request = message.request(cloudevents_id.as_deref(), event.as_ref().ok());
        let decided = match &event {
            Ok(_) => Decided::hand_back(attempt),
            Err(malformed) => decide_malformed(malformed, attempt),
        };
        Processed {
            event,
            request,
            attempt,
            decided,
            found: Vec::new(),
            outcome: None,
        }
    }

    async fn process(&self, message: &Message, work: Work<'_>) -> Processed {
        let mut processed = self.read(message, work.clock);
        let limits = RetryLimits {
            attempts_max: self.retry.max_attempts,
            tiers: self.topology.tiers.len(),
        };
        let attempt = processed.attempt;
        let answer = match &processed.event {
            Err(_) => Some(Answer::malformed()),
            Ok(event) => match event.target() {
                Target::Named(names) => {
                    let ends = self.delete_names(event, names, work).await;
                    let ends = self.excused(ends, attempt, limits, work.life).await;
                    processed.decided = decide(event, &ends, attempt, limits);
                    Answer::of(&ends, &processed.decided)
                }
                Target::All => {
                    let (found, swept) = self.delete_all_groups(event, work).await;
                    let swept = self.excused(swept, attempt, limits, work.life).await;
                    processed.decided = decide_all(event, &swept, attempt, limits);
                    processed.found = found;
                    Answer::of_all(&swept, &processed.decided)
                }
            },
        };
        if self.topology.outcomes.is_some() {
            processed.outcome =
                answer.map(|answer| self.outcome(&answer, message, &processed, work.clock));
        }
        processed
    }

    fn outcome(
        &self,
        answer: &Answer,
        message: &Message,
        processed: &Processed,
        clock: &Clock,
    ) -> OutcomeEvent {
        let event = processed.event.as_ref().ok().filter(|_| self.include_ids);
        let ids = event.map(|event| match event.target() {
            Target::Named(names) => (event.user(), names),
            Target::All => (event.user(), processed.found.as_slice()),
        });
        OutcomeEvent::new(
            answer,
            Told {
                request: &processed.request,
                attempt: processed.attempt,
                published_ms: message.timestamp_ms(clock.start_ms()),
                sdk_app_id: self.sdk_app_id,
                now_ms: clock.now_ms(),
                ids,
            },
        )
    }

    /// Deletes the names of an event. A panic is this program's fault, but the message must not be stuck with it: it counts as a
    /// failure, so that it ends in the dead letters after a bounded number of tries, and its neighbours are unharmed.
    async fn delete_names(
        &self,
        event: &DeleteGroups,
        names: &[String],
        work: Work<'_>,
    ) -> Vec<NameEnd> {
        let ends = AssertUnwindSafe(self.delete_each(event, names, work));
        ends.catch_unwind()
            .await
            .unwrap_or_else(|_| vec![self.panicked(); names.len()])
    }

    fn panicked(&self) -> NameEnd {
        self.metrics.panics_total.inc();
        NameEnd::Failed(self.codes.panic())
    }

    /// Deletes the names one after the other. The first that is interrupted ends the row, and so does [`IN_HAND_MAX`].
    async fn delete_each(
        &self,
        event: &DeleteGroups,
        names: &[String],
        work: Work<'_>,
    ) -> Vec<NameEnd> {
        let mut ends = Vec::with_capacity(names.len());
        for name in names {
            let end = match ends.last() {
                Some(NameEnd::Interrupted) => NameEnd::Interrupted,
                Some(_) if is_in_hand_for_long(work.clock) => NameEnd::Interrupted,
                _ => self.delete_one(event, name, work).await,
            };
            ends.push(end);
        }
        ends
    }

    /// Takes back passing failures that were not the message's doing: those met while the API turns out to be unreachable. The
    /// last failure before a dead letter is worth a probe of its own: few messages in a long outage never fill the window.
    async fn excused<E: Ends>(
        &self,
        ends: E,
        attempt: Attempt,
        limits: RetryLimits,
        life: &Life,
    ) -> E {
        let Some(verdict) = ends.passing_failure() else {
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
        if excused { ends.excused() } else { ends }
    }

    async fn finish(
        &self,
        message: &Message,
        receipt: Receipt,
        mut processed: Processed,
        work: Work<'_>,
        session: &Session,
    ) {
        if !session.life().is_on() {
            work.ended(traces::End::Lost);
            tracing::debug!(
                message.id = message.id(),
                trace.id = work.trace_id(),
                "the session with the broker ended under this message: it comes back by itself"
            );
            return;
        }
        if let Some(span) = work.span
            && processed.decided.decision != Decision::HandBack
        {
            span.begin();
        }
        let settled = self.settle(message, receipt, &mut processed, work, session);
        match settled.await {
            Ok(()) => {
                work.ended(traces::End::Settled(&processed.decided.summary));
                if processed.outcome.is_some() {
                    session.answers.heard();
                }
                session.life().prove();
                self.settled(message, &processed, work.clock, work.trace_id());
            }
            Err(err) => {
                work.ended(traces::End::Unsettled(err.op));
                self.count_failure(err.op);
                tracing::warn!(
                    message.id = message.id(),
                    trace.id = work.trace_id(),
                    op = err.op.label(),
                    error = %err.cause,
                    "could not settle a message: it comes back by itself, what was deleted is then already gone"
                );
            }
        }
    }

    /// Settles the message. While the broker refuses its copy in every form, or nobody takes its answer, it is held: it keeps its place
    /// in the prefetch and is offered again at growing pauses. It is handed back when the daemon stops, and before the broker would take
    /// it back.
    async fn settle(
        &self,
        message: &Message,
        mut receipt: Receipt,
        processed: &mut Processed,
        work: Work<'_>,
        session: &Session,
    ) -> Result<(), SettleError> {
        let (mut confirmed, mut held_since) = (0, None);
        let mut pauses = Intervals::refused();
        let mut unheard = None;
        loop {
            let published = |published: Published<'_>| {
                if let Some(span) = work.span {
                    span.published(published, processed.outcome.as_ref());
                }
            };
            let settlement = Settlement {
                message,
                request: &processed.request,
                decision: &processed.decided.decision,
                outcome: processed.outcome.as_ref(),
                confirmed,
                again: held_since.is_some(),
                listener: work.trace_id().map(|_| Listener(&published)),
                trace_id: work.trace_id(),
                // A copy says when it is offered, by the wall clock: it can have been held for long.
                now_ms: unix_ms(),
            };
            let settled = settle(settlement, receipt, &self.topology, &session.publisher);
            let Some(held) = settled.await? else {
                return Ok(());
            };
            self.count_failure(held.op);
            let since = *held_since.get_or_insert_with(|| {
                report_held(message, &held, work.trace_id());
                if let Refusal::Unheard { .. } = held.refusal {
                    pauses = Intervals::reconnect();
                }
                Instant::now()
            });
            if held.refusal.concerns_all_answers() {
                unheard = Some(session.answers.hold(held.refusal.to_string()));
            }
            (receipt, confirmed) = (held.receipt, held.confirmed);
            if since.elapsed() >= failpoint::shortened(HELD_MAX)
                || !self.wait_held(pauses.next_pause(), session.life()).await
            {
                processed.decided = Decided::hand_back(processed.attempt);
                processed.outcome = None;
            } else if unheard.is_none() {
                // The broker reads its limits when a channel is opened.
                let renewed = session.publisher.renew().await;
                renewed.map_err(|cause| SettleError { op: held.op, cause })?;
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

/// Whether a message has been worked on for so long that its next name has to wait for another delivery.
fn is_in_hand_for_long(clock: &Clock) -> bool {
    clock.elapsed() >= failpoint::shortened(IN_HAND_MAX)
}

fn report_held(message: &Message, held: &Held, trace_id: Option<&str>) {
    let (id, error) = (message.id(), &held.refusal);
    if held.refusal.concerns_all_answers() {
        tracing::error!(
            message.id = id,
            trace.id = trace_id,
            error = %error,
            "an answer can't be given: its message stays in hand, and nothing more is consumed until it can"
        );
    } else if held.op == Op::Answer {
        tracing::error!(
            message.id = id,
            trace.id = trace_id,
            error = %error,
            "the broker refuses the answer to this message: it stays in hand and is offered again, others go on. Raise the broker's limit \
             that the error names"
        );
    } else {
        tracing::error!(
            message.id = id,
            trace.id = trace_id,
            op = held.op.label(),
            error = %error,
            "the broker refuses every copy of this message: it stays in hand and is offered again, others go on. Raise the broker's \
             limit that the error names, or remove the message from the main queue"
        );
    }
}

/// How the names of a message ended, whichever way they were called for.
trait Ends {
    /// The first failure that passes by itself.
    fn passing_failure(&self) -> Option<&Verdict>;

    /// The same, seen from a daemon that has found the API unreachable meanwhile.
    fn excused(self) -> Self;
}

impl Ends for Vec<NameEnd> {
    fn passing_failure(&self) -> Option<&Verdict> {
        self.iter().find_map(NameEnd::passing_failure)
    }

    fn excused(self) -> Self {
        self.into_iter().map(NameEnd::excused).collect()
    }
}

impl Ends for Swept {
    fn passing_failure(&self) -> Option<&Verdict> {
        self.all_ends().find_map(NameEnd::passing_failure)
    }

    fn excused(self) -> Self {
        Swept::excused(self)
    }
}
