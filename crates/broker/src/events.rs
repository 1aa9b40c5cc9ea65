//! What happens at the broker, as data. The program turns it into metrics and status; this room knows of neither.
use std::fmt;
use std::sync::Arc;

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerEvent {
    /// A session began: both connections are there.
    SessionBegan,
    /// The session that began is not the first.
    SessionReplaced,
    /// The session is over, and with it any block.
    SessionEnded,
    /// Another connection took the place of the one that published. Whether that is blocked, too, is told again.
    PublisherReplaced,
    /// The broker takes no publishes (an alarm is on): `true`; or takes them again.
    Blocked(bool),
    /// Exchange and ledger for answers are there.
    AnswersHaveAPlace,
    /// So many messages are ready in the queues.
    Depths(Depths),
}

/// Messages that are ready, by kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depths {
    /// In the main queue.
    pub main: u32,
    /// In all delay queues together.
    pub retry: u32,
    /// In the dead-letter queue.
    pub dead: u32,
}

/// Who is told of events.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(BrokerEvent) + Send + Sync>);

impl Observer {
    /// Calls `observe` for each event, on the task where it happens: it must not block.
    pub fn new(observe: impl Fn(BrokerEvent) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    /// Nobody: for tools.
    #[must_use]
    pub fn nobody() -> Self {
        Self::new(|_| {})
    }

    pub(crate) fn tell(&self, event: BrokerEvent) {
        (self.0)(event);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
