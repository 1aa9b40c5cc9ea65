//! The daemon: one loop that connects, consumes, suspends, and stops.
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use thiserror::Error;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::pace::limiter::Limiter;
use crate::pace::suspension::Suspension;
use crate::state::State;
use crate::status::Status;
use crate::telemetry::Ids;
use crate::traces::Traces;
use crate::worker::Worker;
use convgroup_broker::events::Observer;
use convgroup_broker::session::{Deliveries, Session};
use convgroup_broker::supervisor::Supervisor;
use convgroup_chat::client::{self, ChatClient};
use convgroup_chat::connects::OnConnect;
use convgroup_chat::settings::SecretError;
use convgroup_chat::signer::Signer;
use convgroup_domain::gate::Reason;

/// How often the loop turns at least.
const TURN: Duration = Duration::from_secs(1);
/// How long a new consumer waits for the messages of the one before. A call takes less, by default.
const FINISH_OLD_MAX: Duration = Duration::from_secs(10);

/// The assembled daemon.
#[derive(Debug)]
pub struct Daemon {
    worker: Arc<Worker>,
    suspension: Arc<Suspension>,
    supervisor: Supervisor,
    status: Arc<Status>,
    shutdown_grace: Duration,
}

/// Why the daemon can't be put together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SetupError {
    /// The secret key can't be read.
    #[error("{0}")]
    Secret(SecretError),
    /// The API can't be called.
    #[error("{0}")]
    Client(client::SetupError),
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything begun was finished.
    Clean,
    /// Calls were still in flight at the end of the grace; their messages come back.
    GraceOver,
}

/// Why consuming has to end.
enum ConsumeEnd {
    Stop,
    Lost,
    Suspended,
    /// An answer is held because nobody takes it, or not all do.
    Unheard,
}

/// Why a phase of a session ended.
enum PhaseEnd<'s> {
    /// The session with the broker is over.
    Lost,
    /// The phase is over: see which one comes next.
    Over,
    /// The daemon is to stop; the consumer, if there is one, is still to be cancelled.
    Stopped(Option<Deliveries<'s>>),
}

impl Daemon {
    /// Puts the parts together. Nothing is connected yet.
    ///
    /// # Errors
    /// The secret key can't be read, or TLS can't be set up.
    pub fn new(
        config: Config,
        metrics: Arc<Metrics>,
        status: Arc<Status>,
        traces: Option<Arc<Traces>>,
    ) -> Result<Self, SetupError> {
        let signer = {
            let status = Arc::clone(&status);
            let on_signed = move |expiry_s: u64| status.signed(expiry_s as f64);
            Signer::new(&config.im, Box::new(on_signed)).map_err(SetupError::Secret)?
        };
        let prefetch = usize::from(config.amqp.prefetch);
        let limiter = Arc::new(Limiter::new(config.calls_per_second, Arc::clone(&status)));
        let pace = Arc::clone(&limiter);
        let hears: OnConnect = Arc::new(move |connect| pace.connects(connect));
        let client = ChatClient::new(&config.im, signer, prefetch, &hears);
        let client = Arc::new(client.map_err(SetupError::Client)?);
        let codes = Arc::new(config.codes);
        let suspension = Arc::new(Suspension::new(
            config.suspend,
            limiter,
            Arc::clone(&client),
            Arc::clone(&codes),
            Arc::clone(&metrics),
            traces.clone(),
        ));
        let worker = Arc::new(Worker {
            client,
            codes,
            suspension: Arc::clone(&suspension),
            topology: config.amqp.topology.clone(),
            all_groups: config.all_groups,
            include_ids: config.include_ids,
            sdk_app_id: config.im.sdk_app_id,
            retry: config.retry,
            ids: Ids::new(config.log.reveal_ids, config.im.sdk_app_id),
            metrics,
            status: Arc::clone(&status),
            traces,
        });
        let observer = {
            let status = Arc::clone(&status);
            Observer::new(move |event| status.broker_event(event))
        };
        let supervisor = Supervisor::new(config.amqp, observer);
        Ok(Self {
            worker,
            suspension,
            supervisor,
            status,
            shutdown_grace: config.shutdown_grace,
        })
    }

    /// Runs until `stop`. Whatever happens to the broker or the API meanwhile, it goes on by itself.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        loop {
            let status = Arc::clone(&self.status);
            let on_failure = |reason| status.set(State::Disconnected { reason });
            let limiter = self.suspension.limiter();
            let session = tokio::select! {
                session = turning(&status, limiter, Box::pin(self.supervisor.session(on_failure))) => Arc::new(session),
                () = stop.cancelled() => {
                    self.status.set(State::Draining);
                    return Ended::Clean;
                }
            };
            let ended = Box::pin(self.work(&session, &stop)).await;
            if let Some(ended) = ended {
                session.close().await;
                return ended;
            }
            let reason = session.life().reason();
            tracing::warn!(
                reason,
                "the session with the broker is over: what was in hand comes back; connecting again"
            );
            self.status.set(State::Disconnected { reason });
            // Closing politely may wait for a broker that does not answer; nobody has to wait for that.
            tokio::spawn(async move { session.close().await });
        }
    }

    /// Consumes, suspends and resumes for as long as the session lives. `None`: it is over.
    async fn work(&self, session: &Arc<Session>, stop: &CancellationToken) -> Option<Ended> {
        let mut tasks = JoinSet::new();
        loop {
            let end = if self.suspension.is_suspended() {
                self.suspended(session, stop).await
            } else if let Some(reason) = session.answers.held() {
                self.unheard(reason, session, stop, &mut tasks).await
            } else {
                Box::pin(self.consume(session, stop, &mut tasks)).await
            };
            match end {
                PhaseEnd::Over => {}
                // What is in hand belongs to another consumer now; the calls in flight end by themselves.
                PhaseEnd::Lost => {
                    tasks.detach_all();
                    return None;
                }
                PhaseEnd::Stopped(deliveries) => {
                    return Some(Box::pin(self.drain(deliveries, tasks, session)).await);
                }
            }
        }
    }

    /// Probes until the API is healthy. Messages whose calls were in flight when it began are settled meanwhile.
    async fn suspended(&self, session: &Session, stop: &CancellationToken) -> PhaseEnd<'_> {
        let on_pause = |reason: &Reason, pause| {
            let (reason, next_probe) = (reason.to_string(), SystemTime::now() + pause);
            self.status.set(State::Suspended { reason, next_probe });
        };
        let limiter = self.suspension.limiter();
        tokio::select! {
            biased;
            () = stop.cancelled() => PhaseEnd::Stopped(None),
            () = session.life().over() => PhaseEnd::Lost,
            () = turning(&self.status, limiter, self.suspension.recover(session.life(), on_pause)) => PhaseEnd::Over,
        }
    }

    /// Waits until the answers that are held are taken. Their messages stay in hand, and are offered again meanwhile.
    async fn unheard(
        &self,
        reason: String,
        session: &Session,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> PhaseEnd<'static> {
        self.status.set(State::Unheard { reason });
        let mut tick = tokio::time::interval(TURN);
        let mut taken = std::pin::pin!(session.answers.are_taken());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return PhaseEnd::Stopped(None),
                () = session.life().over() => return PhaseEnd::Lost,
                () = &mut taken => return PhaseEnd::Over,
                _ = tick.tick() => turned(&self.status, self.suspension.limiter()),
                Some(done) = tasks.join_next() => self.worker.done(done, session.life()),
            }
        }
    }

    /// Consumes until something ends it.
    async fn consume<'s>(
        &self,
        session: &'s Arc<Session>,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> PhaseEnd<'s> {
        if let Some(end) = self.finish_old(session, stop, tasks).await {
            return end;
        }
        let mut deliveries = match session.consume(tasks.len()).await {
            Ok(deliveries) => deliveries,
            Err(err) => {
                session.life().end(err.to_string());
                return PhaseEnd::Lost;
            }
        };
        self.suspension.consumer_started();
        self.status.set(State::Consuming);
        let mut tick = tokio::time::interval(TURN);
        // Made once: the loop turns twice for each message.
        let mut ended = std::pin::pin!(self.ended(session, stop));
        loop {
            tokio::select! {
                biased;
                why = &mut ended => return match why {
                    ConsumeEnd::Stop => PhaseEnd::Stopped(Some(deliveries)),
                    ConsumeEnd::Lost => PhaseEnd::Lost,
                    ConsumeEnd::Suspended => {
                        let reason = self.suspension.reason().unwrap_or_default();
                        let next_probe = SystemTime::now();
                        let state = State::Suspended { reason, next_probe };
                        self.put_down(state, deliveries, session).await;
                        PhaseEnd::Over
                    }
                    ConsumeEnd::Unheard => {
                        let reason = session.answers.held().unwrap_or_default();
                        self.put_down(State::Unheard { reason }, deliveries, session).await;
                        PhaseEnd::Over
                    }
                },
                _ = tick.tick() => turned(&self.status, self.suspension.limiter()),
                Some(done) = tasks.join_next() => self.worker.done(done, session.life()),
                delivery = deliveries.next() => {
                    let Some(delivery) = delivery else { return PhaseEnd::Lost };
                    self.suspension.delivered();
                    // Boxed: it has kilobytes, and a task's state is moved several times.
                    let work = Arc::clone(&self.worker).work_on(delivery, Arc::clone(session));
                    tasks.spawn(Box::pin(work));
                }
            }
        }
    }

    /// Waits until the messages of the previous consumer are settled. Their calls were in flight when the daemon suspended, and the
    /// next consumer gets only the part of the prefetch that they leave free.
    ///
    /// A message whose copy the broker refuses can stay in hand for minutes. So this waits for [`FINISH_OLD_MAX`], and longer only
    /// while the old messages fill the whole prefetch.
    async fn finish_old(
        &self,
        session: &Session,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) -> Option<PhaseEnd<'static>> {
        let began = Instant::now();
        let mut tick = tokio::time::interval(TURN);
        let mut ended = std::pin::pin!(self.ended(session, stop));
        while !tasks.is_empty() {
            if began.elapsed() >= FINISH_OLD_MAX && tasks.len() < session.prefetch() {
                break;
            }
            tokio::select! {
                biased;
                why = &mut ended => return Some(match why {
                    ConsumeEnd::Stop => PhaseEnd::Stopped(None),
                    ConsumeEnd::Lost => PhaseEnd::Lost,
                    ConsumeEnd::Suspended | ConsumeEnd::Unheard => PhaseEnd::Over,
                }),
                _ = tick.tick() => turned(&self.status, self.suspension.limiter()),
                Some(done) = tasks.join_next() => self.worker.done(done, session.life()),
            }
        }
        None
    }

    /// Completes when consuming has to end.
    async fn ended(&self, session: &Session, stop: &CancellationToken) -> ConsumeEnd {
        tokio::select! {
            biased;
            () = stop.cancelled() => ConsumeEnd::Stop,
            () = session.life().over() => ConsumeEnd::Lost,
            () = self.suspension.closed() => ConsumeEnd::Suspended,
            () = session.answers.are_held() => ConsumeEnd::Unheard,
        }
    }

    /// Cancels the consumer because calls make no sense, or no answer can be given, and hands back what has not begun.
    async fn put_down(&self, state: State, deliveries: Deliveries<'_>, session: &Session) {
        self.status.set(state);
        let handing_back = self.hand_back(deliveries, session);
        turning(&self.status, self.suspension.limiter(), handing_back).await;
    }

    async fn hand_back(&self, deliveries: Deliveries<'_>, session: &Session) {
        for delivery in deliveries.cancel().await.unwrap_or_default() {
            self.worker.hand_back(delivery, session).await;
        }
    }

    /// Stops: cancels the consumer, hands back what has not begun, and finishes the calls in flight within the grace.
    async fn drain(
        &self,
        deliveries: Option<Deliveries<'_>>,
        mut tasks: JoinSet<()>,
        session: &Session,
    ) -> Ended {
        self.status.set(State::Draining);
        self.suspension.stop();
        tracing::info!("stopping: no new messages; finishing the calls in flight");
        let finished = async {
            if let Some(deliveries) = deliveries {
                self.hand_back(deliveries, session).await;
            }
            while tasks.join_next().await.is_some() {}
        };
        let finished = turning(&self.status, self.suspension.limiter(), finished);
        let finished = tokio::time::timeout(self.shutdown_grace, finished).await;
        if finished.is_ok() || tasks.is_empty() {
            Ended::Clean
        } else {
            Ended::GraceOver
        }
    }
}

/// Awaits something that is bounded in itself while the loop turns.
async fn turning<T>(status: &Status, limiter: &Limiter, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        match tokio::time::timeout(TURN, &mut future).await {
            Ok(value) => return value,
            Err(_) => turned(status, limiter),
        }
    }
}

/// What the loop does every second, whatever it waits for: it says that it turns, and shows a pace of now.
fn turned(status: &Status, limiter: &Limiter) {
    status.turned();
    limiter.show_pace();
}
