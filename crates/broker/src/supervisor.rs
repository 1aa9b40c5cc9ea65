//! Opens one session after the other, for as long as it takes.
use std::collections::HashMap;
use std::sync::Arc;

use super::events::{BrokerEvent, Observer};
use super::life::Life;
use super::session::{Ask, Session};
use crate::settings::Amqp;
use convgroup_host::intervals::Intervals;

/// Rebuilds sessions with growing pauses, trying the nodes in turn.
#[derive(Debug)]
pub struct Supervisor {
    amqp: Amqp,
    observer: Observer,
    pauses: Intervals,
    next_node: usize,
    sessions: u64,
    last: Option<Arc<Life>>,
    /// Whether copies may be published is asked once; during an alarm each question would cost a connection that the broker does
    /// not read any more, not even its end. A publish or a consumer that is refused makes it a question again.
    asked: bool,
    /// What kept us from each node the last time.
    last_errors: HashMap<usize, String>,
}

impl Supervisor {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(amqp: Amqp, observer: Observer) -> Self {
        Self {
            amqp,
            observer,
            pauses: Intervals::reconnect(),
            next_node: 0,
            sessions: 0,
            last: None,
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
        if let Some(last) = self.last.take() {
            self.asked &= !last.met_refusal();
            if last.was_of_use() {
                self.pauses.reset();
            } else {
                self.next_node += 1;
            }
            tokio::time::sleep(self.pauses.next_pause()).await;
        }
        loop {
            let node = self.next_node % self.amqp.nodes.len();
            let address = &self.amqp.nodes[node];
            let observer = self.observer.clone();
            let ask = match (self.asked, self.sessions) {
                (true, _) => Ask::Nothing,
                (false, 0) => Ask::Publish,
                (false, _) => Ask::Everything,
            };
            match Session::open(address, &self.amqp, ask, observer).await {
                Ok(session) => {
                    self.asked = true;
                    tracing::info!(amqp.node = %address, "connected to the broker");
                    if self.sessions > 0 {
                        self.observer.tell(BrokerEvent::SessionReplaced);
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
}
