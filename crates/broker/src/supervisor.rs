//! Opens one session after the other, for as long as it takes.
use std::sync::Arc;

use convgroup_domain::nodes::{Ended, News, Nodes, Pauses};
use convgroup_host::intervals::Intervals;

use super::events::{BrokerEvent, Observer};
use super::life::Life;
use super::session::Session;
use super::settings::Amqp;

/// Rebuilds sessions with growing pauses, trying the nodes in turn. Which node, which pause and what is asked first is chosen by
/// [`Nodes`].
#[derive(Debug)]
pub struct Supervisor {
    amqp: Amqp,
    observer: Observer,
    nodes: Nodes,
    pauses: Intervals,
    last: Option<Arc<Life>>,
}

impl Supervisor {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(amqp: Amqp, observer: Observer) -> Self {
        Self {
            nodes: Nodes::new(amqp.nodes.len()),
            amqp,
            observer,
            pauses: Intervals::reconnect(),
            last: None,
        }
    }

    /// Opens the next session, however long that takes. `on_failure` hears why it is not there yet.
    ///
    /// Safe to drop at any await: what was half open closes by itself.
    pub async fn session(&mut self, mut on_failure: impl FnMut(String)) -> Session {
        if let Some(last) = self.last.take() {
            let ended = if last.was_of_use() {
                Ended::OfUse
            } else {
                Ended::Useless
            };
            if self.nodes.ended(ended, last.met_refusal()) == Pauses::StartAgain {
                self.pauses.reset();
            }
            tokio::time::sleep(self.pauses.next_pause()).await;
        }
        loop {
            let address = &self.amqp.nodes[self.nodes.current()];
            let ask = self.nodes.ask();
            let error = match Session::open(address, &self.amqp, ask, self.observer.clone()).await {
                Ok(session) => {
                    tracing::info!(amqp.node = %address, "connected to the broker");
                    if self.nodes.opened() > 0 {
                        self.observer.tell(BrokerEvent::SessionReplaced);
                    }
                    self.last = Some(Arc::clone(session.life()));
                    return session;
                }
                Err(err) => err.to_string(),
            };
            match self.nodes.failed(&error) {
                News::New => tracing::warn!(
                    amqp.node = %address,
                    error = %error,
                    "no session with the broker; trying again until there is one"
                ),
                News::Same => {
                    tracing::debug!(amqp.node = %address, error = %error, "no session with the broker yet");
                }
            }
            on_failure(format!("{address}: {error}"));
            tokio::time::sleep(self.pauses.next_pause()).await;
        }
    }
}
