//! The bytes of a broker, before and behind the filter that stands in front of the client library.
use lapin::protocol::basic::parse_properties;
use lapin::protocol::parse_class;
use lapin::types::{AMQPValue, FieldTable};

use crate::wire::Filter;

const MARK: &str = "convgroup-unreadable-fuzz";
/// Bounds that are asked for: the least that AMQP allows, and ours.
const FRAMES_MAX: [u32; 2] = [4096, 131_072];
/// A frame beside its payload: kind, channel, size; and the end.
const EXTRA_BYTES: usize = 8;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// What the client library may see of headers: levels, and values on all of them.
const DEPTH_MAX: usize = 64;
const VALUES_MAX: usize = 1024;
/// A content header with fewer bytes breaks no bound: a level takes five.
const HARMLESS_BYTES: usize = 300;
/// `connection.start` and `connection.tune`: a table of the one may be emptied, the other may become a close.
const CHANGED: [&[u8]; 2] = [&[0, 10, 0, 10], &[0, 10, 0, 30]];

/// `data` is what a broker sends: the first byte says where it is cut into pieces.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn frames(data: &[u8]) {
    let Some((&cut, sent)) = data.split_first() else {
        return;
    };
    for frame_max in FRAMES_MAX {
        let (passed, failed) = filtered([sent], frame_max);
        let pieces = sent.chunks(usize::from(cut).max(1));
        let in_pieces = filtered(pieces, frame_max);
        let (before, behind) = (whole_frames(sent), whole_frames(&passed));
        assert_eq!(failed, in_pieces.1, "it matters how the bytes are cut");
        // How much of a frame that fails has passed depends on the pieces; the client library reads none of it.
        assert!(behind == whole_frames(&in_pieces.0));
        assert!(failed.is_some() || before.len() == behind.len());
        for (before, behind) in before.iter().zip(behind) {
            let bytes = behind.payload.len() + EXTRA_BYTES;
            assert!(bytes <= frame_max as usize, "{bytes} bytes");
            assert_eq!((before.kind, before.channel), (behind.kind, behind.channel));
            match behind.kind {
                METHOD => method(before.payload, behind.payload),
                HEADER => header(before.payload, behind.payload),
                _ => assert!(before.payload == behind.payload, "a body is changed"),
            }
        }
    }
}

/// What passes, and what ended it.
fn filtered<'p>(
    pieces: impl IntoIterator<Item = &'p [u8]>,
    frame_max: u32,
) -> (Vec<u8>, Option<String>) {
    let mut filter = Filter::new(MARK, frame_max);
    let mut passed = Vec::new();
    let mut failed = None;
    for piece in pieces {
        if let Err(err) = filter.feed(piece, &mut passed) {
            failed = failed.or(Some(err.to_string()));
        }
    }
    (passed, failed)
}

#[derive(PartialEq, Eq)]
struct Frame<'a> {
    kind: u8,
    channel: &'a [u8],
    payload: &'a [u8],
}

/// The frames at the beginning that are whole.
fn whole_frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some((&[kind, _, _, a, b, c, d], rest)) = bytes.split_first_chunk::<7>() {
        let size = u32::from_be_bytes([a, b, c, d]) as usize;
        let Some((payload, [0xCE, after @ ..])) = rest.split_at_checked(size) else {
            break;
        };
        frames.push(Frame {
            kind,
            channel: &bytes[1..3],
            payload,
        });
        bytes = after;
    }
    frames
}

/// The client library parses every method that passes; one that it could parse anyway passes as it came.
fn method(before: &[u8], behind: &[u8]) {
    let parses = |payload: &[u8]| parse_class(payload).is_ok_and(|(rest, _)| rest.is_empty());
    assert!(parses(behind), "{behind:?}");
    if parses(before) && !CHANGED.iter().any(|number| before.starts_with(number)) {
        assert_eq!(before, behind);
    }
}

/// The client library parses every message that passes; one that it could parse anyway, within the bounds, passes as it came.
/// The others say what was done to them.
fn header(before: &[u8], behind: &[u8]) {
    assert_eq!(before[..12], behind[..12], "the body has another size");
    let found = read(&behind[12..]).expect("the client library parses it");
    assert!(is_bounded(&found), "{found:?}");
    let marked = found.inner().contains_key(MARK);
    let dropped = found.inner().contains_key("convgroup-headers-dropped");
    match read(&before[12..]) {
        None => assert!(marked, "{found:?}"),
        Some(headers) => {
            let same = before == behind;
            assert!(!marked && (same || dropped), "{found:?}");
            assert!(!same || is_bounded(&headers), "{found:?}");
            // Of two headers with one name only the second is seen here, so the bounds say less than the bytes.
            assert!(same || before.len() > HARMLESS_BYTES, "{found:?}");
        }
    }
}

/// The headers, where the client library parses the properties.
fn read(properties: &[u8]) -> Option<FieldTable> {
    let (rest, properties) = parse_properties(properties).ok()?;
    let headers = properties.headers().clone().unwrap_or_default();
    rest.is_empty().then_some(headers)
}

fn is_bounded(headers: &FieldTable) -> bool {
    let (depth, values) = extent(headers.inner().values());
    depth < DEPTH_MAX && values <= VALUES_MAX
}

/// The levels inside of these values, and how many values there are on all of them.
fn extent<'v>(values: impl Iterator<Item = &'v AMQPValue>) -> (usize, usize) {
    values.fold((0, 0), |(deepest, count), value| {
        let (depth, inside) = match value {
            AMQPValue::FieldTable(table) => extent(table.inner().values()),
            AMQPValue::FieldArray(array) => extent(array.as_slice().iter()),
            _ => return (deepest, count + 1),
        };
        (deepest.max(depth + 1), count + 1 + inside)
    })
}
