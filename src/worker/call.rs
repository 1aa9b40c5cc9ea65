//! Calls for one name, or for one page of a list, until there is an end.
use std::time::Duration;

use super::{Work, Worker};
use crate::pace::limiter::Place;
use convgroup_broker::life::Life;
use convgroup_chat::client::{Call, Listed, Via};
use convgroup_chat::page::{Page, PageAsked};
use convgroup_domain::code::{Class, Verdict};
use convgroup_domain::decide::NameEnd;
use convgroup_domain::message::DeleteGroups;
use convgroup_domain::reply::{CallKind, Reply};
use convgroup_domain::retry::{Step, Tries, is_called_again, next_step};
use convgroup_host::clock::{unix_ms, unix_seconds};
use convgroup_host::failpoint::{self, Point};
use convgroup_host::intervals::Intervals;

/// What is asked of the API.
#[derive(Clone, Copy)]
enum Ask<'a> {
    Delete(&'a str),
    List(PageAsked),
}

impl Ask<'_> {
    const fn kind(self) -> CallKind {
        match self {
            Self::Delete(_) => CallKind::Delete,
            Self::List(_) => CallKind::List,
        }
    }
}

impl Worker {
    /// Calls until the name is deleted, gone, rejected, has failed for this delivery, has expired, or is interrupted.
    pub(super) async fn delete_one(
        &self,
        event: &DeleteGroups,
        name: &str,
        work: Work<'_>,
    ) -> NameEnd {
        self.called(event, Ask::Delete(name), work).await.0
    }

    /// Calls until a page of the list of the user's groups is there, or the list has another end.
    pub(super) async fn list_page(
        &self,
        event: &DeleteGroups,
        asked: PageAsked,
        work: Work<'_>,
    ) -> Result<Page, NameEnd> {
        let (end, page) = self.called(event, Ask::List(asked), work).await;
        page.ok_or(end)
    }

    /// The number of calls is bounded whatever the API answers (see [`convgroup_domain::retry`]). None is made after the moment that
    /// the event allows: it is looked at when the call's turn has come, because the line may be long.
    async fn called(
        &self,
        event: &DeleteGroups,
        ask: Ask<'_>,
        work: Work<'_>,
    ) -> (NameEnd, Option<Page>) {
        let life = work.life;
        let mut tries = Tries::default();
        let mut resends = 0;
        let mut pauses = Intervals::quick_retry();
        let mut via = Via::Pooled;
        let is_expired = || event.not_after_ms().is_some() && event.is_expired(unix_ms());
        let ended = |end| (end, None);
        loop {
            if is_expired() {
                return ended(NameEnd::Expired);
            }
            let place = if tries.resigned {
                Place::Head
            } else {
                Place::Line
            };
            if !self.suspension.admit(life, place).await {
                return ended(NameEnd::Interrupted);
            }
            if is_expired() {
                return ended(NameEnd::Expired);
            }
            if let Some(span) = work.span {
                span.begin();
            }
            failpoint::reach(Point::BeforeCall);
            let Listed { call, page } = self.call(event.user(), ask, via).await;
            failpoint::reach(Point::AfterCall);
            let reset = call.reply == Reply::Reset;
            let (usersig, called) = (call.usersig.clone(), call.started);
            let made = call.made();
            let verdict = self.verdict_of(call, ask.kind(), life).await;
            if let Some(span) = work.span {
                span.called(made, &verdict, ask.kind(), resends);
            }
            resends += 1;
            let step = next_step(verdict.class(), reset, tries, self.retry.quick_attempts);
            tries = tries.after(step);
            via = Via::Pooled;
            match step {
                Step::End => return (NameEnd::of(verdict), page),
                Step::Repeat => via = Via::Fresh,
                Step::Retry => {
                    if !self.pause(pauses.next_pause(), life).await {
                        return ended(NameEnd::Interrupted);
                    }
                }
                Step::SlowDown => self.suspension.limiter().slow_down(),
                Step::SignAnew => self.client.signer.renew(&usersig),
                Step::AskProbe => {
                    let healthy = self.suspension.ask_probe(&verdict, called, life).await;
                    let changed = self.client.signer.current() != usersig;
                    if !is_called_again(healthy, changed, tries) {
                        return ended(NameEnd::after_probe(verdict, healthy));
                    }
                    tries = tries.after(Step::SignAnew);
                }
            }
        }
    }

    async fn call(&self, user: &str, ask: Ask<'_>, via: Via) -> Listed {
        match ask {
            Ask::Delete(group) => Listed {
                call: self.client.delete(user, group, via).await,
                page: None,
            },
            Ask::List(asked) => self.client.list(user, asked, via).await,
        }
    }

    async fn verdict_of(&self, call: Call, kind: CallKind, life: &Life) -> Verdict {
        let called = call.started;
        let verdict = self.codes.classify(call.reply);
        let class = verdict.class();
        self.metrics
            .api_requests_total
            .with_label_values(&[&*verdict.row.label, class.label(), kind.label()])
            .inc();
        self.metrics
            .api_request_duration_seconds
            .with_label_values(&[class.label(), kind.label()])
            .observe(call.took.as_secs_f64());
        if matches!(class, Class::Deleted | Class::Gone) {
            self.status.succeeded(unix_seconds());
        }
        self.suspension.observe(&verdict, called, life).await;
        verdict
    }

    /// Waits before a quick retry; `false` when it makes no sense any more.
    async fn pause(&self, pause: Duration, life: &Life) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = life.over() => false,
            () = self.suspension.closed() => false,
        }
    }
}
