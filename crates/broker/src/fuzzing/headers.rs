//! Properties and headers of messages: what the daemon reads in them, and what its copies carry on.
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use convgroup_domain::fuzzing::{CODES, NOW_MS, assert_silent, with_secret};

use super::{message, on_the_wire, table_on_the_wire};
use crate::dead_letter::letter;
use crate::delivery::Message;
use crate::successor::{Copy, Extent, answer, copy, extents, redriven};
use convgroup_domain::all_groups::{Swept, decide_all};
use convgroup_domain::attempt::FAILURES_MAX;
use convgroup_domain::decide::{
    Decided, Decision, Destination, NameEnd, RetryLimits, Successor, decide, decide_malformed,
};
use convgroup_domain::encoding::Declared;
use convgroup_domain::message::{AllGroups, Decoded, Malformed, Target, decode_message};
use convgroup_domain::outcome::{Answer, OutcomeEvent, Told};
use convgroup_domain::reply::Reply;
use convgroup_domain::request::Request;

/// What brokers agree on: the least that AMQP allows, and what RabbitMQ proposes. In bytes.
const FRAMES_MAX: [u32; 2] = [4096, 131_072];
/// Longer than any name of a redrive, in bytes.
const RUN_BYTES_MAX: usize = 200;
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
    what_explains_a_body_repeats_nothing(&message);
    let request = request_of(&message);
    an_answer_carries_a_trace_and_nothing_else(&message, &request);
    for successor in successors(&message) {
        for frame_max in FRAMES_MAX {
            let first = copy(
                &message,
                &request,
                &successor,
                Extent::Whole,
                NOW_MS,
                frame_max,
            );
            assert!(first.is_some(), "there is no copy");
            for &extent in extents(&successor) {
                let copy = copy(&message, &request, &successor, extent, NOW_MS, frame_max);
                if let Some(copy) = copy {
                    is_what_was_decided(&message, &successor, extent, copy, frame_max);
                }
            }
        }
    }
    for frame_max in FRAMES_MAX {
        is_given_a_new_life(&message, frame_max);
    }
}

/// The event of a message, and what its envelope calls it.
fn decoded(message: &Message) -> Decoded {
    decode_message(&message.body, &message.declared(), AllGroups::Accepted)
}

fn request_of(message: &Message) -> Request {
    let Decoded {
        cloudevents_id,
        event,
    } = decoded(message);
    message.request(cloudevents_id.as_deref(), event.ok().as_ref())
}

fn is_given_a_new_life(message: &Message, frame_max: u32) {
    let again = Message {
        properties: redriven(message, "run-1", frame_max),
        ..message.clone()
    };
    carries_what_it_should(message, &again);
    does_no_harm(&again);
    fits(&again, frame_max);
    let told = letter(&again);
    assert_eq!((told.attempt, told.redrive_run.as_str()), (0, "run-1"));
    assert!(told.class.is_empty() && told.code.is_empty());
    let redrives = letter(message).redrives.clamp(0, i64::from(i32::MAX));
    assert_eq!(told.redrives, redrives + 1);
    let (before, mut after) = (request_of(message), request_of(&again));
    assert_eq!((&after.id, after.id_from), (&before.id, before.id_from));
    after.round = before.round;
    assert_eq!(after, before, "a name has another place");
}

/// What a stream takes for sure: long strings that are not long.
fn an_answer_carries_a_trace_and_nothing_else(message: &Message, request: &Request) {
    let told = Told {
        request,
        attempt: message.attempt(NOW_MS),
        published_ms: None,
        sdk_app_id: 1,
        now_ms: NOW_MS,
        ids: None,
    };
    let properties = answer(message, &OutcomeEvent::new(&Answer::malformed(), told));
    for (name, value) in properties.headers().iter().flat_map(FieldTable::inner) {
        let trace = matches!(name.as_str(), "traceparent" | "tracestate");
        let fits = matches!(value, AMQPValue::LongString(text) if text.as_bytes().len() <= 512);
        assert!(trace && fits, "{name} travels: {value:?}");
    }
}

fn is_what_was_decided(
    message: &Message,
    successor: &Successor,
    extent: Extent,
    copy: Copy<'_>,
    frame_max: u32,
) {
    let copy = Message {
        body: copy.body.into_owned(),
        properties: copy.properties,
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
    does_no_harm(&copy);
    carries_its_body(message, successor, extent, &copy);
    fits(&copy, frame_max);
    tells_its_history(&copy, successor);
    let (before, after) = (letter(message), letter(&copy));
    assert_eq!(after.redrives, before.redrives);
    if before.redrive_run.len() <= RUN_BYTES_MAX {
        assert_eq!(after.redrive_run, before.redrive_run);
    }
}

fn carries_its_body(message: &Message, successor: &Successor, extent: Extent, copy: &Message) {
    let event = decoded(message).event.ok();
    match (event.zip(successor.left.as_ref()), extent) {
        (_, Extent::Properties | Extent::Name) => {
            assert!(copy.body.is_empty());
            let bytes = i64::try_from(message.body.len()).expect("a body is no larger");
            let headers = copy.properties.headers().as_ref();
            let told = headers.and_then(|headers| headers.inner().get("convgroup-body-bytes"));
            assert_eq!(told, Some(&AMQPValue::LongLongInt(bytes)));
        }
        (Some((event, left)), _) => {
            let carried = decoded(copy).event.expect("a copy can be read");
            let said = (carried.user(), carried.target());
            assert_eq!(said, (event.user(), left.target()));
            assert_eq!(carried.not_after_ms(), event.not_after_ms());
            belongs_to_the_request(message, successor, copy);
        }
        (None, _) => assert!(copy.body == message.body, "a body is changed"),
    }
}

/// A copy is of the same request, and its names have the places that they had.
fn belongs_to_the_request(message: &Message, successor: &Successor, copy: &Message) {
    let (first, second) = (request_of(message), request_of(copy));
    assert_eq!((&first.id, first.id_from), (&second.id, second.id_from));
    assert_eq!(
        (first.round.min(1), first.groups),
        (second.round.min(1), second.groups)
    );
    for (at_hand, &place) in successor.places.iter().enumerate() {
        assert_eq!(
            second.place(at_hand),
            first.place(place),
            "a name has another place"
        );
    }
}

/// The words for a body that can't be read come from the program, whatever the properties say.
fn what_explains_a_body_repeats_nothing(message: &Message) {
    let text = |text: &Option<ShortString>| {
        let text = text.as_ref().map_or("", ShortString::as_str);
        String::from_utf8_lossy(&with_secret(text.as_bytes())).into_owned()
    };
    let properties = &message.properties;
    let content_type = text(properties.content_type());
    let content_encoding = text(properties.content_encoding());
    let kind = text(properties.kind());
    let declared = Declared {
        content_type: Some(&content_type),
        content_encoding: Some(&content_encoding),
        kind: Some(&kind),
        binary: message.declared().binary,
    };
    if let Err(malformed) = decode_message(&message.body, &declared, AllGroups::Accepted).event {
        assert_silent(&format!("{malformed} {malformed:?}"));
    }
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
    let mut decided = vec![decide_malformed(&Malformed::NotAnObject, attempt)];
    if let Ok(event) = decoded(message).event {
        if event.target() == Target::All {
            let swept = Swept::failed(answer(50004, "busy"));
            let limits = RetryLimits {
                attempts_max: FAILURES_MAX,
                tiers: 4,
            };
            decided.push(decide_all(&event, &swept, attempt, limits));
            return only_copies(decided);
        }
        let ends = |three: [NameEnd; 3]| -> Vec<NameEnd> {
            let names = event.names().len();
            three.into_iter().cycle().take(names).collect()
        };
        let failed = ends([
            answer(51011, "no such group"),
            answer(50004, &"é".repeat(200)),
            answer(0, ""),
        ]);
        let throttled = ends([answer(60007, ""), NameEnd::Interrupted, NameEnd::Expired]);
        for attempts_max in [1, FAILURES_MAX] {
            let limits = RetryLimits {
                attempts_max,
                tiers: 4,
            };
            decided.push(decide(&event, &failed, attempt, limits));
            decided.push(decide(&event, &throttled, attempt, limits));
        }
    }
    only_copies(decided)
}

fn only_copies(decided: Vec<Decided>) -> Vec<Successor> {
    let successors = |decided: Decided| match decided.decision {
        Decision::Ack(successors) => successors,
        Decision::HandBack => Vec::new(),
    };
    decided.into_iter().flat_map(successors).collect()
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

fn does_no_harm(copy: &Message) {
    let properties = &copy.properties;
    let harmful = (
        properties.expiration(),
        properties.user_id(),
        properties.priority(),
    );
    assert_eq!(harmful, (&None, &None, &None));
    let mode = *properties.delivery_mode();
    assert_eq!(mode, Some(2), "a copy has to be on the disk");
    let headers = properties.headers().iter().flat_map(FieldTable::inner);
    for (name, _) in headers {
        let harmful = ["CC", "BCC", "x-death", "x-delivery-count"];
        assert!(!harmful.contains(&name.as_str()), "{name} travels");
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
    // The frame's head and end, class, weight and size of the body.
    let frame = 8 + 12 + written.len() - copy.body.len();
    assert!(frame <= frame_max as usize, "a frame of {frame} bytes");
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
