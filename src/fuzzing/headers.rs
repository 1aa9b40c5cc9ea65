//! Properties and headers of messages: what the daemon reads in them, and what its copies carry on.
use lapin::BasicProperties;
use lapin::types::{FieldTable, ShortString};

use super::{CODES, NOW_MS, message, on_the_wire, table_on_the_wire};
use crate::broker::delivery::Message;
use crate::broker::letter::letter;
use crate::broker::successor::{Extent, copy, extents, redriven};
use crate::domain::attempt::FAILURES_MAX;
use crate::domain::decide::{
    Decision, Destination, Limits, NameEnd, Successor, decide, decide_malformed,
};
use crate::domain::message::Malformed;
use crate::domain::reply::Reply;

/// What brokers agree on: the least that AMQP allows, and what RabbitMQ proposes. In bytes.
const FRAMES_MAX: [u32; 2] = [4096, 131_072];
/// A day: how far clocks may differ.
const CLOCK_SKEW_MAX_MS: i64 = 86_400_000;

/// `data` is the properties of a message as they are on the wire, then its body.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn headers(data: &[u8]) {
    let Some(message) = message(data) else {
        return;
    };
    what_is_read_is_plausible(&message);
    for successor in successors(&message) {
        for frame_max in FRAMES_MAX {
            assert!(
                copies(&message, &successor, frame_max) > 0,
                "there is always one copy"
            );
        }
    }
    let again = Message {
        properties: redriven(&message, "run-1"),
        ..message.clone()
    };
    carries_what_it_should(&message, &again);
    let told = letter(&again);
    assert_eq!((told.attempt, told.redrive_run.as_str()), (0, "run-1"));
    assert!(told.redrives >= 1 && told.class.is_empty() && told.code.is_empty());
}

/// Checks each copy that is offered; returns how many there are.
fn copies(message: &Message, successor: &Successor, frame_max: u32) -> usize {
    let mut count = 0;
    for &extent in extents(successor) {
        let Some(copy) = copy(message, successor, extent, NOW_MS, frame_max) else {
            continue;
        };
        let copy = Message {
            properties: copy.properties,
            body: copy.body.into_owned(),
            ..message.clone()
        };
        if extent == Extent::Whole {
            carries_what_it_should(message, &copy);
        }
        let names = |message: &Message| {
            let properties = &message.properties;
            let ids = (properties.message_id(), properties.correlation_id());
            format!("{ids:?} {:?}", properties.timestamp())
        };
        assert_eq!(names(&copy), names(message));
        fits(&copy, frame_max);
        tells_its_history(&copy, successor);
        count += 1;
    }
    count
}

fn what_is_read_is_plausible(message: &Message) {
    assert!(message.id().len() <= 128);
    let attempt = message.attempt(NOW_MS);
    assert!(attempt.failures <= FAILURES_MAX);
    for moment in [attempt.first_seen_ms, message.published_ms(NOW_MS)] {
        assert!(
            (1..=NOW_MS + CLOCK_SKEW_MAX_MS).contains(&moment),
            "{moment}"
        );
    }
}

/// All kinds of copies: malformed, rejected, delayed and counted, delayed and not counted, exhausted.
fn successors(message: &Message) -> Vec<Successor> {
    let attempt = message.attempt(NOW_MS);
    let answer = |code, info: &str| {
        let info = info.to_owned();
        NameEnd::of(CODES.classify(Reply::Answer { code, info }))
    };
    let names = ["a", "b", "c"].map(str::to_owned);
    let failed = [
        answer(51011, "no such group"),
        answer(50004, &"é".repeat(200)),
        NameEnd::Deleted,
    ];
    let mut decisions = vec![decide_malformed(&Malformed::NotAnObject, attempt)];
    for attempts_max in [1, FAILURES_MAX] {
        let limits = Limits {
            attempts_max,
            tiers: 4,
        };
        decisions.push(decide(&names, &failed, attempt, limits));
        let throttled = [answer(60007, ""), NameEnd::Interrupted, NameEnd::Gone];
        decisions.push(decide(&names, &throttled, attempt, limits));
    }
    let successors = |decision| match decision {
        Decision::Ack(successors) => successors,
        Decision::HandBack => Vec::new(),
    };
    decisions.into_iter().flat_map(successors).collect()
}

fn carries_what_it_should(message: &Message, copy: &Message) {
    let (old, new) = (&message.properties, &copy.properties);
    let kept = |properties: &BasicProperties| {
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            properties.message_id(),
            properties.correlation_id(),
            properties.timestamp(),
            properties.content_type(),
            properties.content_encoding(),
            properties.kind(),
            properties.reply_to(),
            properties.app_id()
        )
    };
    assert_eq!(kept(new), kept(old));
    let harmful = (new.expiration(), new.user_id(), new.priority());
    assert_eq!(harmful, (&None, &None, &None));
    assert_eq!(
        *new.delivery_mode(),
        Some(2),
        "a copy has to be on the disk"
    );
    let headers = new.headers().as_ref().expect("a copy has headers of ours");
    let names = || headers.inner().keys().map(ShortString::as_str);
    for name in ["CC", "BCC", "x-death", "x-delivery-count"] {
        assert!(!names().any(|carried| carried == name), "{name} travels");
    }
    let dropped = names().any(|name| name == "convgroup-headers-dropped");
    for (name, value) in old.headers().iter().flat_map(FieldTable::inner) {
        let ours = name.as_str().starts_with("convgroup-");
        let brokers = name.as_str().starts_with("x-") || matches!(name.as_str(), "CC" | "BCC");
        if !dropped && !ours && !brokers {
            let carried = headers.inner().get(name);
            assert_eq!(format!("{carried:?}"), format!("{:?}", Some(value)));
        }
    }
}

/// The bound of the contract, on the bytes that go out; and what goes out can be read.
fn fits(copy: &Message, frame_max: u32) {
    let headers = copy.properties.headers().as_ref();
    let bytes = table_on_the_wire(headers.expect("a copy has headers of ours"));
    assert!(
        bytes.len() <= frame_max as usize / 2,
        "{} bytes",
        bytes.len()
    );
    let written = on_the_wire(copy);
    let header = written.len() - copy.body.len();
    // Its envelope, class, weight and size of the body are not in it.
    assert!(header + 20 <= frame_max as usize, "{header} bytes");
    let read = self::message(&written).expect("a copy can be read");
    assert!(on_the_wire(&read) == written, "a copy changes on its way");
}

/// The next daemon reads in the copy what this one decided; so do the tools.
fn tells_its_history(copy: &Message, successor: &Successor) {
    let told = letter(copy);
    assert_eq!(told.attempt, i64::from(successor.attempt.failures));
    assert_eq!(told.info, successor.info);
    assert_eq!(told.class, successor.class().unwrap_or_default());
    match successor.to {
        Destination::Tier(_) => assert_eq!(copy.attempt(NOW_MS), successor.attempt),
        Destination::Dead(cause) => {
            assert_eq!(
                (told.cause.as_str(), told.failed_at_ms),
                (cause.label(), Some(NOW_MS))
            );
        }
    }
}
