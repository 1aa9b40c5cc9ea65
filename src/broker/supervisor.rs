//! Opens one session after the other, for as long as it takes.
use std::sync::Arc;

use super::session::Session;
use crate::config::Amqp;
use crate::intervals::Intervals;
use crate::metrics::{Metrics, ROLES};

/// Rebuilds sessions with growing pauses, trying the nodes in turn.
#[derive(Debug)]
pub struct Supervisor {
    amqp: Amqp,
    metrics: Arc<Metrics>,
    pauses: Intervals,
    next_node: usize,
    sessions: u64,
    last_error: String,
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
            last_error: String::new(),
        }
    }

    /// Opens the next session, however long that takes. `told` hears why it is not there yet.
    ///
    /// Safe to drop at any await: what was half open closes by itself.
    pub async fn session(&mut self, mut told: impl FnMut(String)) -> Session {
        if self.sessions > 0 {
            // Also after a session that began well: one that dies at once must not be rebuilt in a tight loop.
            tokio::time::sleep(self.pauses.next_pause()).await;
        }
        loop {
            let address = &self.amqp.nodes[self.next_node % self.amqp.nodes.len()];
            match Session::open(address, &self.amqp, Arc::clone(&self.metrics)).await {
                Ok(session) => {
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
                    self.last_error.clear();
                    return session;
                }
                Err(err) => {
                    let pause = self.pauses.next_pause();
                    let error = err.to_string();
                    if error == self.last_error {
                        tracing::debug!(amqp.node = %address, error = %err, "no session with the broker yet");
                    } else {
                        tracing::warn!(
                            amqp.node = %address,
                            error = %err,
                            "no session with the broker; trying again until there is one"
                        );
                    }
                    told(format!("{address}: {error}"));
                    self.last_error = error;
                    self.next_node += 1;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Tells that the last session proved itself: the next loss is rebuilt without delay.
    pub fn worked(&mut self) {
        self.pauses.reset();
    }
}
