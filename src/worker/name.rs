//! One name: calls until it has reached an end.
use std::time::Duration;

use super::Worker;
use crate::pace::limiter::Place;
use convgroup_broker::life::Life;
use convgroup_chat::client::{Call, Via};
use convgroup_domain::code::{Class, Verdict};
use convgroup_domain::decide::NameEnd;
use convgroup_domain::reply::Reply;
use convgroup_domain::retry::{Step, Tries, is_called_again, next_step};
use convgroup_host::clock::unix_seconds;
use convgroup_host::failpoint::{self, Point};
use convgroup_host::intervals::Intervals;

impl Worker {
    /// Calls until the name is deleted, gone, rejected, has failed for this delivery, or is interrupted. The number of calls is
    /// bounded whatever the API answers (see [`convgroup_domain::retry`]).
    pub(super) async fn delete_one(&self, user: &str, group: &str, life: &Life) -> NameEnd {
        let mut tries = Tries::default();
        let mut pauses = Intervals::quick_retry();
        let mut via = Via::Pooled;
        loop {
            let place = if tries.resigned {
                Place::Head
            } else {
                Place::Line
            };
            if !self.suspension.admit(life, place).await {
                return NameEnd::Interrupted;
            }
            failpoint::reach(Point::BeforeCall);
            let call = self.client.delete(user, group, via).await;
            failpoint::reach(Point::AfterCall);
            let reset = call.reply == Reply::Reset;
            let (usersig, called) = (call.usersig.clone(), call.started);
            let verdict = self.verdict_of(call, life).await;
            let step = next_step(verdict.class(), reset, tries, self.retry.quick_attempts);
            tries = tries.after(step);
            via = Via::Pooled;
            match step {
                Step::End => return NameEnd::of(verdict),
                Step::Repeat => via = Via::Fresh,
                Step::Retry => {
                    if !self.pause(pauses.next_pause(), life).await {
                        return NameEnd::Interrupted;
                    }
                }
                Step::SlowDown => self.suspension.limiter().slow_down(),
                Step::SignAnew => self.client.signer.renew(&usersig),
                Step::AskProbe => {
                    let healthy = self.suspension.ask_probe(&verdict, called, life).await;
                    let changed = self.client.signer.current() != usersig;
                    if !is_called_again(healthy, changed, tries) {
                        return NameEnd::after_probe(verdict, healthy);
                    }
                    tries = tries.after(Step::SignAnew);
                }
            }
        }
    }

    async fn verdict_of(&self, call: Call, life: &Life) -> Verdict {
        let called = call.started;
        let verdict = self.codes.classify(call.reply);
        let class = verdict.class();
        self.metrics
            .api_requests_total
            .with_label_values(&[&*verdict.row.label, class.label()])
            .inc();
        self.metrics
            .api_request_duration_seconds
            .with_label_values(&[class.label()])
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
