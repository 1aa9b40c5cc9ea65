//! Which replica works, as far as one can know it here. Pure.
//!
//! The main queue has a single active consumer. The broker tells nobody who that is; a consumer notices it by what is delivered to it.
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration};

/// As long as the alert for a deaf daemon waits.
const DEAF_AFTER: Duration = Duration::from_mins(2);

/// What is known here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    /// For how long a consumer is registered here; nothing while there is none.
    pub(super) consumes_for: Option<Duration>,
    /// How long ago a message was last delivered in this process.
    pub(super) last_delivery: Option<Duration>,
    /// Messages in hand.
    pub(super) in_hand: u32,
    /// Messages that wait in the main queue, as last asked.
    pub(super) waiting: u32,
}

/// What follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// There is no consumer here.
    Away,
    /// Messages come here, or did and none waits: a consumer that was given one stays the active one.
    Works { ago: Duration, none_waits: bool },
    /// None came to this consumer, and none waits.
    Idle { consumes_for: Duration },
    /// None came to this consumer yet, though some wait.
    Early { consumes_for: Duration },
    /// Some are in hand and others wait, and no more come.
    Full { in_hand: u32, silent_for: Duration },
    /// Messages wait, and none comes here.
    Elsewhere { silent_for: Duration },
}

impl Role {
    pub(super) fn of(signs: Signs) -> Self {
        let Some(consumes_for) = signs.consumes_for else {
            return Self::Away;
        };
        // What was delivered before was delivered to another consumer, and may still be in hand.
        let last_delivery = signs.last_delivery.filter(|ago| *ago <= consumes_for);
        let silent_for = last_delivery.unwrap_or(consumes_for);
        let none_waits = signs.waiting == 0;
        let in_hand = signs.in_hand;
        match last_delivery {
            _ if !none_waits && silent_for >= DEAF_AFTER => match in_hand {
                0 => Self::Elsewhere { silent_for },
                in_hand => Self::Full {
                    in_hand,
                    silent_for,
                },
            },
            Some(ago) => Self::Works { ago, none_waits },
            None if none_waits => Self::Idle { consumes_for },
            None => Self::Early { consumes_for },
        }
    }

    /// Messages wait and none comes here: right for a replica that stands by, an alarm for any other.
    pub(super) const fn may_be_deaf(self) -> bool {
        matches!(self, Self::Elsewhere { .. } | Self::Full { .. })
    }

    /// In a sentence.
    pub(super) fn in_words(self) -> String {
        let time = HumanDuration;
        match self {
            Self::Away => {
                "This replica takes no messages now: they go to another one, if there is one."
                    .to_owned()
            }
            Self::Works { ago, none_waits } => format!(
                "This replica works: the last message was delivered here {}{}.",
                if ago < Duration::from_secs(1) {
                    "just now".to_owned()
                } else {
                    format!("{} ago", time(ago))
                },
                if none_waits { ", and none waits" } else { "" }
            ),
            Self::Idle { consumes_for } => format!(
                "This replica stands by, or nothing has come yet; the broker does not tell which. None waits, and none was delivered here \
                 in the {} since it began to consume.",
                time(consumes_for)
            ),
            Self::Early { consumes_for } => format!(
                "It can't be told yet whether this replica works or stands by: messages wait, and none was delivered here in the {} since \
                 it began to consume.",
                time(consumes_for)
            ),
            Self::Full {
                in_hand,
                silent_for,
            } => format!(
                "This replica has {} in hand, and no more was delivered here for {} though messages wait: what is in hand does not move, \
                 or another replica works.",
                messages(in_hand),
                time(silent_for)
            ),
            Self::Elsewhere { silent_for } => format!(
                "This replica stands by and another one works, or none does: messages wait, and none was delivered here for {}.",
                time(silent_for)
            ),
        }
    }
}

fn messages(count: u32) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} message{s}", HumanCount(count.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_what_the_signs_allow_and_no_more() {
        let hours = Some(7200);
        for (name, consumes_for, last_delivery, in_hand, waiting, told) in [
            ("no consumer", None, Some(1), 3, 5, "takes no messages"),
            (
                "busy",
                hours,
                Some(1),
                9,
                5,
                "works: the last message was delivered here 1 second ago.",
            ),
            (
                "very busy",
                hours,
                Some(0),
                9,
                5,
                "delivered here just now.",
            ),
            (
                "idle after work",
                hours,
                Some(2400),
                0,
                0,
                "40 minutes ago, and none waits",
            ),
            (
                "nothing came",
                hours,
                None,
                0,
                0,
                "stands by, or nothing has come yet",
            ),
            (
                "the consumer before got one",
                Some(60),
                Some(61),
                0,
                0,
                "stands by, or nothing has come yet",
            ),
            (
                "the consumer before left one in hand",
                Some(60),
                Some(61),
                1,
                0,
                "stands by, or nothing has come yet",
            ),
            ("too early", Some(119), None, 0, 1, "can't be told yet"),
            (
                "too early after a reconnect",
                Some(5),
                Some(9000),
                0,
                1,
                "can't be told yet",
            ),
            (
                "stands by",
                hours,
                None,
                0,
                1,
                "another one works, or none does: messages wait, and none was delivered here for 2 hours",
            ),
            ("a pause", hours, Some(119), 0, 1, "works:"),
            (
                "deaf",
                hours,
                Some(120),
                0,
                1,
                "another one works, or none does: messages wait, and none was delivered here for 2 minutes",
            ),
            (
                "a full hand",
                hours,
                Some(300),
                256,
                1,
                "has 256 messages in hand, and no more was delivered here for 5 minutes",
            ),
        ] {
            let role = Role::of(Signs {
                consumes_for: consumes_for.map(Duration::from_secs),
                last_delivery: last_delivery.map(Duration::from_secs),
                in_hand,
                waiting,
            });
            let words = role.in_words();
            assert!(words.contains(told), "{name}: {words}");
            let alarms = ["stands by", "deaf", "a full hand"].contains(&name);
            assert_eq!(role.may_be_deaf(), alarms, "{name}");
        }
    }
}
