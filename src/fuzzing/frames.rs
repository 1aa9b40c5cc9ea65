//! The bytes of a broker, as they pass to the client library.
use lapin::protocol::basic::parse_properties;

use crate::broker::wire::Filter;

const MARK: &str = "convgroup-unreadable-fuzz";
/// Bounds that are asked for: the least that AMQP allows, and ours.
const FRAMES_MAX: [u32; 2] = [4096, 131_072];
/// A frame beside its payload: kind, channel, size; and the end.
const EXTRA_BYTES: usize = 8;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// `data` is what a broker sends: the first byte says where it is cut into pieces.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn frames(data: &[u8]) {
    let Some((&cut, sent)) = data.split_first() else {
        return;
    };
    for frame_max in FRAMES_MAX {
        let (whole, failed) = filtered([sent], frame_max);
        let pieces = sent.chunks(usize::from(cut).max(1));
        assert_eq!(filtered(pieces, frame_max), (whole.clone(), failed));
        passes_what_the_client_library_reads(&whole, frame_max as usize);
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
    // How much of a frame that fails has passed depends on the pieces; the client library reads none of it.
    whole_frames(&mut passed);
    (passed, failed)
}

/// Cuts off a frame that is not whole.
fn whole_frames(bytes: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(frame) = frame(&bytes[at..]) {
        at += frame.len();
    }
    bytes.truncate(at);
}

/// The first frame, if it is whole.
fn frame(bytes: &[u8]) -> Option<&[u8]> {
    let size: [u8; 4] = bytes.get(3..7)?.try_into().ok()?;
    let end = u32::from_be_bytes(size) as usize + EXTRA_BYTES;
    bytes.get(..end)
}

fn passes_what_the_client_library_reads(passed: &[u8], frame_max: usize) {
    let mut at = 0;
    while let Some(frame) = frame(&passed[at..]) {
        at += frame.len();
        assert!(frame.len() <= frame_max, "{} bytes", frame.len());
        let payload = &frame[7..frame.len() - 1];
        match frame[0] {
            HEADER => {
                let read = parse_properties(&payload[12..]);
                assert!(read.is_ok_and(|(rest, _)| rest.is_empty()));
            }
            BODY => {}
            _ => assert_eq!(frame[frame.len() - 1], 0xCE),
        }
    }
}
