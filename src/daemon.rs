//! The daemon: one loop that connects, consumes, suspends, and stops.
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::session::Session;
use crate::broker::supervisor::Supervisor;
use crate::chat::client::ChatClient;
use crate::chat::signer::Signer;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::pace::HANDOVER_PAUSE;
use crate::pace::limiter::Limiter;
use crate::pace::suspension::Suspension;
use crate::status::{State, Status};
use crate::telemetry::Ids;
use crate::worker::Worker;

/// How often the loop says that it turns.
const TURN: Duration = Duration::from_secs(1);

/// The assembled daemon.
#[derive(Debug)]
pub struct Daemon {
    worker: Arc<Worker>,
    suspension: Arc<Suspension>,
    supervisor: Supervisor,
    status: Arc<Status>,
    shutdown_grace: Duration,
}

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything begun was finished.
    Clean,
    /// Calls were still in flight at the end of the grace; their messages come back.
    GraceOver,
}

/// Why a consumer stopped.
enum Turn {
    Lost,
    Suspended,
    Stopped(Ended),
}

impl Daemon {
    /// Puts the parts together. Nothing is connected yet.
    ///
    /// # Errors
    /// The secret key can't be read, or TLS can't be set up.
    pub fn new(config: Config, metrics: Arc<Metrics>, status: Arc<Status>) -> Result<Self, String> {
        let signer = Signer::new(&config.im, Some(Arc::clone(&metrics)))?;
        let prefetch = usize::from(config.amqp.prefetch);
        let client = Arc::new(ChatClient::new(&config.im, signer, prefetch)?);
        let codes = Arc::new(config.codes);
        let suspension = Arc::new(Suspension::new(
            config.suspend,
            Limiter::new(config.calls_per_second, Arc::clone(&metrics)),
            Arc::clone(&client),
            Arc::clone(&codes),
            Arc::clone(&metrics),
        ));
        let worker = Arc::new(Worker {
            client,
            codes,
            suspension: Arc::clone(&suspension),
            topology: config.amqp.topology.clone(),
            retry: config.retry,
            ids: Ids::new(config.log.reveal_ids, config.im.sdk_app_id),
            metrics: Arc::clone(&metrics),
        });
        let supervisor = Supervisor::new(config.amqp, metrics);
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
            let told = |reason| status.set(State::Disconnected { reason });
            let session = tokio::select! {
                session = turning(&status, self.supervisor.session(told)) => Arc::new(session),
                () = stop.cancelled() => {
                    self.status.set(State::Draining);
                    return Ended::Clean;
                }
            };
            let ended = self.work(&session, &stop).await;
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
    async fn work(&mut self, session: &Arc<Session>, stop: &CancellationToken) -> Option<Ended> {
        loop {
            if self.suspension.is_suspended() {
                let status = Arc::clone(&self.status);
                let told = |reason: &crate::pace::suspension::Reason, pause| {
                    let (reason, next_probe) = (reason.to_string(), SystemTime::now() + pause);
                    status.set(State::Suspended { reason, next_probe });
                };
                tokio::select! {
                    () = turning(&status, self.suspension.recover(told)) => {}
                    () = session.life().over() => return None,
                    () = stop.cancelled() => {
                        self.status.set(State::Draining);
                        return Some(Ended::Clean);
                    }
                }
            }
            match self.consume(session, stop).await {
                Turn::Lost => return None,
                Turn::Suspended => {}
                Turn::Stopped(ended) => return Some(ended),
            }
        }
    }

    async fn consume(&mut self, session: &Arc<Session>, stop: &CancellationToken) -> Turn {
        let mut deliveries = match session.consume().await {
            Ok(deliveries) => deliveries,
            Err(err) => {
                session.life().end(err.to_string());
                return Turn::Lost;
            }
        };
        self.status.set(State::Consuming);
        let mut tasks = JoinSet::new();
        let mut tick = tokio::time::interval(TURN);
        let mut first = true;
        let turn = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break Turn::Stopped(Ended::Clean),
                () = session.life().over() => break Turn::Lost,
                () = self.suspension.closed() => break Turn::Suspended,
                _ = tick.tick() => self.status.turned(),
                Some(_) = tasks.join_next() => {}
                delivery = deliveries.next() => match delivery {
                    None => break Turn::Lost,
                    Some(delivery) => {
                        if first {
                            self.suspension.limiter().hold(HANDOVER_PAUSE).await;
                            self.supervisor.worked();
                            first = false;
                        }
                        tasks.spawn(Arc::clone(&self.worker).work_on(delivery, Arc::clone(session)));
                    }
                },
            }
        };
        match turn {
            // What is in hand belongs to another consumer now; the calls in flight end by themselves.
            Turn::Lost => tasks.detach_all(),
            Turn::Suspended => return self.put_down(deliveries, tasks, session).await,
            Turn::Stopped(_) => {
                self.status.set(State::Draining);
                self.suspension.drain();
                tracing::info!(
                    in_flight = tasks.len(),
                    "stopping: no new messages; finishing the calls in flight"
                );
                let drained = self.put_down(deliveries, tasks, session);
                return match tokio::time::timeout(self.shutdown_grace, drained).await {
                    Ok(_) => Turn::Stopped(Ended::Clean),
                    Err(_) => Turn::Stopped(Ended::GraceOver),
                };
            }
        }
        turn
    }

    /// Cancels the consumer, hands back what has not begun and waits for what has.
    async fn put_down(
        &self,
        deliveries: crate::broker::session::Deliveries<'_>,
        mut tasks: JoinSet<()>,
        session: &Session,
    ) -> Turn {
        let unbegun = turning(&self.status, deliveries.cancel())
            .await
            .unwrap_or_default();
        for delivery in unbegun {
            self.worker.hand_back(delivery, session).await;
        }
        turning(&self.status, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
        if session.life().is_on() {
            Turn::Suspended
        } else {
            Turn::Lost
        }
    }
}

/// Awaits something that is bounded in itself while the loop says that it turns.
async fn turning<T>(status: &Status, future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    loop {
        match tokio::time::timeout(TURN, &mut future).await {
            Ok(value) => return value,
            Err(_) => status.turned(),
        }
    }
}
