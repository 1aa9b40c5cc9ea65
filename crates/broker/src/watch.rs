//! Watching a session from aside.
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use lapin::{Channel, Event};
use tokio::sync::watch;

use super::connect::Role;
use super::events::{BrokerEvent, Depths};
use super::fault::Fault;
use super::life::Life;
use super::refusal::{breaks_connection, closes_a_channel};
use super::{BrokerError, declare};
use crate::settings::Amqp;

/// How often the queues' depths are asked; it is also how often the broker has to prove that it still answers.
const DEPTH_INTERVAL: Duration = Duration::from_secs(5);

/// Watches the connection that consumes: what ends it, or one of its channels, ends the session.
pub(super) async fn consuming(events: impl Stream<Item = Event>, role: Role, life: Arc<Life>) {
    watched(events, role, life, |_| Meaning::End, |_| {}).await;
}

/// Watches a connection that publishes: what blocks it is told to the publisher. A channel that is closed is the publisher's
/// affair, and so is a connection that the broker closes because of one message; anything else ends the session.
pub(super) async fn publishing(
    events: impl Stream<Item = Event>,
    role: Role,
    life: Arc<Life>,
    blocking: watch::Sender<bool>,
) {
    let meaning = |fault: &Fault| {
        if closes_a_channel(fault) {
            Meaning::GoOn
        } else if breaks_connection(fault) {
            Meaning::Replaced
        } else {
            Meaning::End
        }
    };
    watched(events, role, life, meaning, |blocked| {
        blocking.send_replace(blocked);
    })
    .await;
}

/// What an error on a connection means for the session.
enum Meaning {
    /// Nothing: a channel was closed.
    GoOn,
    /// The connection is over and will be replaced.
    Replaced,
    /// The session is over.
    End,
}

async fn watched(
    events: impl Stream<Item = Event>,
    role: Role,
    life: Arc<Life>,
    meaning: impl Fn(&Fault) -> Meaning,
    blocking: impl Fn(bool),
) {
    let mut events = pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            () = life.over() => return,
            event = events.next() => event,
        };
        match event {
            Some(Event::ConnectionBlocked(reason)) => {
                tracing::warn!(
                    amqp.role = role.label(),
                    reason,
                    "the broker blocks publishing (an alarm is on): deletions go on; delays, dead letters and answers wait"
                );
                life.tell(BrokerEvent::Blocked(true));
                blocking(true);
            }
            Some(Event::ConnectionUnblocked) => {
                tracing::info!(amqp.role = role.label(), "the broker takes publishes again");
                life.tell(BrokerEvent::Blocked(false));
                blocking(false);
            }
            Some(Event::Error(err)) => match meaning(&Fault::of(&err)) {
                Meaning::GoOn => {}
                Meaning::Replaced => return,
                Meaning::End => {
                    life.end(format!("the {} connection failed: {err}", role.label()));
                }
            },
            Some(_) => {}
            None => life.end(format!("the {} connection is gone", role.label())),
        }
    }
}

/// Asks for the depths of the queues, tells them, and ends the session when the broker does not answer, or when answers have no place
/// any more.
pub(super) async fn depths(channel: Channel, amqp: Amqp, life: Arc<Life>) {
    let mut places_seen = SystemTime::now();
    while life.is_on() {
        match ask_depths(&channel, &amqp).await {
            Ok(depths) => life.tell(BrokerEvent::Depths(depths)),
            Err(err) => life.end(err.to_string()),
        }
        match declare::answers_have_a_place(&channel, &amqp.topology).await {
            Ok(()) => {
                places_seen = SystemTime::now();
                if amqp.topology.outcomes.is_some() {
                    life.tell(BrokerEvent::AnswersHaveAPlace);
                }
            }
            Err(err) => {
                // The refusal closes the channel, and whoever watches the connection may have ended the session for that.
                if let BrokerError::Topology(_) = err {
                    tracing::warn!(
                        error = %err,
                        seen_last = moment(places_seen),
                        missed_at = moment(SystemTime::now()),
                        "answers have lost their place at the broker; what was answered between these moments went to whoever else was \
                         bound. Nothing is consumed until it is there again"
                    );
                }
                life.end(err.to_string());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(DEPTH_INTERVAL) => {}
            () = life.over() => {}
        }
    }
}

fn moment(at: SystemTime) -> String {
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    convgroup_domain::moment::format_ms(ms)
}

async fn ask_depths(channel: &Channel, amqp: &Amqp) -> Result<Depths, BrokerError> {
    let topology = &amqp.topology;
    Ok(Depths {
        main: declare::depth(channel, &topology.main.name).await?,
        retry: declare::delayed(channel, topology).await?,
        dead: declare::depth(channel, &topology.dead.name).await?,
    })
}
