//! Opens one session after the other, for as long as it takes.
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::life::Life;
use super::session::{ISOLATION, Session};
use crate::config::Amqp;
use crate::intervals::Intervals;
use crate::metrics::{Metrics, ROLES};

/// Between sessions while a message that can't be read is isolated: a thousand of them are over in a few minutes.
const ISOLATION_PAUSE: Duration = Duration::from_millis(20);

/// Rebuilds sessions with growing pauses, trying the nodes in turn.
#[derive(Debug)]
pub struct Supervisor {
    amqp: Amqp,
    metrics: Arc<Metrics>,
    pauses: Intervals,
    next_node: usize,
    sessions: u64,
    last: Option<Arc<Life>>,
    isolating: Option<Instant>,
    /// Whether copies may be published is asked once; during an alarm each question would cost a connection that the broker does
    /// not read any more, not even its end. A publish that is refused makes it a question again.
    asked: bool,
    /// What kept us from each node the last time.
    last_errors: HashMap<usize, String>,
}

impl Supervisor {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(amqp: Amqp, metrics: Arc<Metrics>) -> Self {
        Self {
            amqp,
            metrics,
            pauses: Intervals::reconnect(),
            next_node: 0,
            sessions: 0,
            last: None,
            isolating: None,
            asked: false,
            last_errors: HashMap::new(),
        }
    }

    /// Opens the next session, however long that takes. `told` hears why it is not there yet.
    ///
    /// A session that proved itself is followed at once, on the same node; one that did not (its node accepts connections and
    /// does no work) by growing pauses, on the next node.
    ///
    /// Safe to drop at any await: what was half open closes by itself.
    pub async fn session(&mut self, mut told: impl FnMut(String)) -> Session {
        let mut prefetch = self.amqp.prefetch;
        if let Some(last) = self.last.take() {
            self.isolate(&last);
            self.asked &= !last.met_refusal();
            let pause = if self.isolating.is_some() {
                prefetch = 1;
                ISOLATION_PAUSE
            } else {
                if last.was_of_use() {
                    self.pauses.reset();
                } else {
                    self.next_node += 1;
                }
                self.pauses.next_pause()
            };
            tokio::time::sleep(pause).await;
        }
        loop {
            let node = self.next_node % self.amqp.nodes.len();
            let address = &self.amqp.nodes[node];
            let metrics = Arc::clone(&self.metrics);
            match Session::open(address, &self.amqp, prefetch, !self.asked, metrics).await {
                Ok(session) => {
                    self.asked = true;
                    tracing::info!(amqp.node = %address, "connected to the broker");
                    if self.sessions > 0 {
                        for role in ROLES {
                            self.metrics
                                .amqp_reconnects_total
                                .with_label_values(&[role])
                                .inc();
                        }
                    }
                    self.sessions += 1;
                    self.last = Some(Arc::clone(session.life()));
                    self.last_errors.clear();
                    return session;
                }
                Err(err) => {
                    let pause = self.pauses.next_pause();
                    let error = err.to_string();
                    if self.last_errors.get(&node) == Some(&error) {
                        tracing::debug!(amqp.node = %address, error = %err, "no session with the broker yet");
                    } else {
                        tracing::warn!(
                            amqp.node = %address,
                            error = %err,
                            "no session with the broker; trying again until there is one"
                        );
                    }
                    told(format!("{address}: {error}"));
                    self.last_errors.insert(node, error);
                    self.next_node += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// A message that the client library can't read (a header name that is not UTF-8) ends the connection, and all that was
    /// delivered with it counts one delivery more. Nobody could settle it; the broker dead-letters it at its delivery limit.
    /// Until then messages are taken one at a time, so that its neighbours are not counted with it, and sessions follow each
    /// other quickly, so that it is soon over.
    fn isolate(&mut self, last: &Life) {
        if last.met_unreadable() {
            if self.isolating.is_none() {
                tracing::error!(
                    "the queue holds a message that can't be read (a header name or property that is not UTF-8): taking \
                     messages one at a time until the broker dead-letters it at its delivery limit"
                );
            }
            self.isolating = Some(Instant::now());
        } else if self
            .isolating
            .is_some_and(|since| since.elapsed() >= ISOLATION)
        {
            self.isolating = None;
        }
    }
}
