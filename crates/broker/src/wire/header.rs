//! The content header of a message: its properties, headers among them.
use std::fmt;
use std::str;

use super::table::{self, Extent, Fault, Field, short, take};
use super::{FRAME_BYTES_MAX, FRAME_EXTRA_BYTES, HEADERS_DROPPED, WireError};

/// Deepest nesting of headers that lapin is given, in levels. It parses by recursion, on a thread with the usual stack. What
/// the broker writes itself (`x-death`) has four.
pub(super) const DEPTH_MAX: usize = 64;
/// Most values in headers that lapin is given, nested ones included. A value is one byte of a frame or more, and some forty bytes
/// of memory or more.
pub(super) const VALUES_MAX: usize = 1024;
/// How many bytes the properties after the headers can have at most: eight texts, two numbers.
pub(super) const TAIL_BYTES: usize = 4096;
/// Longest value of a header that is rescued, in bytes.
const RESCUED_BYTES_MAX: usize = 512;
/// Longest `x-death` that is rescued, in bytes, and its levels and values.
const DEATHS_BYTES_MAX: usize = 4096;
const DEATHS_DEPTH_MAX: usize = 8;
const DEATHS_VALUES_MAX: usize = 256;
/// Bytes before the properties: class, weight, body size.
const FIXED_BYTES: usize = 12;
/// The bit that says that there are headers.
const HEADERS_PLACE: usize = 2;

/// What kind of property.
enum Kind {
    Short,
    Table,
    Fixed(usize),
}

/// All properties, in the order in which they come. Each has a bit in the flags, from the highest down.
const PROPERTIES: [(&str, Kind); 14] = [
    ("content_type", Kind::Short),
    ("content_encoding", Kind::Short),
    ("headers", Kind::Table),
    ("delivery_mode", Kind::Fixed(1)),
    ("priority", Kind::Fixed(1)),
    ("correlation_id", Kind::Short),
    ("reply_to", Kind::Short),
    ("expiration", Kind::Short),
    ("message_id", Kind::Short),
    ("timestamp", Kind::Fixed(8)),
    ("type", Kind::Short),
    ("user_id", Kind::Short),
    ("app_id", Kind::Short),
    ("cluster_id", Kind::Short),
];

/// The payload of a content header frame, as far as it is kept: all of it, or its beginning and its end.
pub(super) struct Content<'a> {
    pub(super) head: &'a [u8],
    /// The last bytes, at most [`TAIL_BYTES`]; only looked at where `head` is not all.
    pub(super) tail: &'a [u8],
    pub(super) total: usize,
}

/// Why lapin can't parse a message. The texts hold nothing of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    NotUtf8(&'static str),
    Headers(Fault),
    Cut,
    Trailing,
    TooLarge(usize),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8(name) => write!(f, "the property {name} is not UTF-8"),
            Self::Headers(fault) => fault.fmt(f),
            Self::Cut => f.write_str("its properties end too early"),
            Self::Trailing => f.write_str("bytes follow its last property"),
            Self::TooLarge(bytes) => {
                write!(
                    f,
                    "its properties have {bytes} bytes, more than a frame of {FRAME_BYTES_MAX}"
                )
            }
        }
    }
}

/// Properties, as far as they can be read.
struct Properties<'a> {
    /// The bytes of each, with the length where there is one; headers apart.
    kept: [Option<&'a [u8]>; PROPERTIES.len()],
    /// The fields of the headers, as far as they are there.
    fields: Option<&'a [u8]>,
    /// What the headers hold; none where lapin can't parse them.
    extent: Option<Extent>,
    problem: Option<Problem>,
}

/// What takes the place of a content header; `None` lets it pass.
///
/// What lapin can't parse, or is larger than any frame of ours, gets a header of the name `mark` that says why; properties that
/// can be read stay. Headers that are nested too deep, are too many, or would not fit a frame of `frame_bytes_max` are left out,
/// except for those of ours and of a trace.
///
/// # Errors
/// It ends before the size of its body.
pub(super) fn replacement(
    content: &Content<'_>,
    mark: &str,
    frame_bytes_max: usize,
) -> Result<Option<Vec<u8>>, WireError> {
    let Some((fixed, _)) = content.head.split_first_chunk::<FIXED_BYTES>() else {
        return Err(WireError::Header(content.total));
    };
    let properties = read(content);
    let fits = content.total + FRAME_EXTRA_BYTES <= frame_bytes_max;
    let harmless = properties
        .extent
        .is_some_and(|found| found.depth <= DEPTH_MAX && found.values <= VALUES_MAX);
    if properties.problem.is_none() && harmless && fits {
        return Ok(None);
    }
    let mut payload = fixed.to_vec();
    let room = frame_bytes_max - FRAME_EXTRA_BYTES;
    write(&mut payload, &properties, harmless && fits, mark, room);
    Ok(Some(payload))
}

fn read<'a>(content: &Content<'a>) -> Properties<'a> {
    let mut read = Properties {
        kept: [None; PROPERTIES.len()],
        fields: None,
        extent: Some(Extent::default()),
        problem: None,
    };
    if content.head.len() < content.total {
        read.problem = Some(Problem::TooLarge(content.total));
        read.extent = None;
    }
    let mut rest = &content.head[FIXED_BYTES..];
    let whole = read.properties(&mut rest, content);
    let problem = match whole {
        None => Some(Problem::Cut),
        Some(()) if !rest.is_empty() => Some(Problem::Trailing),
        Some(()) => None,
    };
    read.problem = read.problem.or(problem);
    read
}

impl<'a> Properties<'a> {
    /// Reads one after the other; `None` where they end too early.
    fn properties(&mut self, rest: &mut &'a [u8], content: &Content<'a>) -> Option<()> {
        let flags = take(rest, 2)?;
        let flags = u16::from_be_bytes([flags[0], flags[1]]);
        for (place, (name, kind)) in PROPERTIES.iter().enumerate() {
            if flags & bit(place) == 0 {
                continue;
            }
            let all = *rest;
            match kind {
                Kind::Table => {
                    self.headers(rest, content)?;
                    continue;
                }
                Kind::Fixed(length) => {
                    take(rest, *length)?;
                }
                Kind::Short => {
                    let text = short(rest)?;
                    if str::from_utf8(text).is_err() {
                        self.problem = self.problem.or(Some(Problem::NotUtf8(name)));
                        continue;
                    }
                }
            }
            self.kept[place] = Some(&all[..all.len() - rest.len()]);
        }
        Some(())
    }

    fn headers(&mut self, rest: &mut &'a [u8], content: &Content<'a>) -> Option<()> {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let begin = content.head.len() - after.len();
        let fields = &after[..length.min(after.len())];
        self.fields = Some(fields);
        if content.head.len() < content.total {
            // What follows the headers is in the tail, if it is there at all.
            let left = content.total.checked_sub(begin + length)?;
            *rest = &content.tail[content.tail.len().checked_sub(left)?..];
            return Some(());
        }
        match (table::walk(fields), after.get(length..)) {
            (Ok(extent), Some(after)) => {
                self.extent = Some(extent);
                *rest = after;
                Some(())
            }
            (Err(fault), Some(after)) => {
                self.extent = None;
                self.problem = self.problem.or(Some(Problem::Headers(fault)));
                *rest = after;
                Some(())
            }
            (_, None) => {
                self.extent = None;
                None
            }
        }
    }
}

/// The bit in the flags of the property at this place.
fn bit(place: usize) -> u16 {
    0x8000 >> place
}

/// Writes properties that lapin can parse, into `room` bytes.
fn write(
    payload: &mut Vec<u8>,
    properties: &Properties<'_>,
    keep_headers: bool,
    mark: &str,
    room: usize,
) {
    let others: usize = properties
        .kept
        .iter()
        .flatten()
        .map(|kept| kept.len())
        .sum();
    let room = room.saturating_sub(FIXED_BYTES + 2 + 4 + others);
    let marked = properties
        .problem
        .map(|problem| text_field(mark, &problem.to_string()))
        .unwrap_or_default();
    let fields = match properties.fields {
        Some(fields) if keep_headers && fields.len() + marked.len() <= room => fields.to_vec(),
        Some(fields) => rescued(fields, room.saturating_sub(marked.len())),
        None => Vec::new(),
    };
    let mut flags = 0;
    for (place, kept) in properties.kept.iter().enumerate() {
        if kept.is_some() || place == HEADERS_PLACE {
            flags |= bit(place);
        }
    }
    payload.extend(flags.to_be_bytes());
    for (place, kept) in properties.kept.iter().enumerate() {
        if place == HEADERS_PLACE {
            payload.extend(length(fields.len() + marked.len()));
            payload.extend(&fields);
            payload.extend(&marked);
        }
        payload.extend(kept.iter().copied().flatten());
    }
}

/// The headers that travel on where the others can't, and the one that says so, in `room` bytes.
fn rescued(fields: &[u8], room: usize) -> Vec<u8> {
    let dropped = [&short_text(HEADERS_DROPPED)[..], b"t\x01"].concat();
    let mut rescued = Vec::new();
    for field in table::fields(fields).filter(is_rescued) {
        if rescued.len() + field.bytes.len() + dropped.len() <= room {
            rescued.extend(field.bytes);
        }
    }
    rescued.extend(dropped);
    rescued
}

/// Ours, a trace's and the broker's own history, as far as they are small.
fn is_rescued(field: &Field<'_>) -> bool {
    match field.name {
        b"traceparent" | b"tracestate" => {
            field.kind == b'S' && field.value_bytes() <= RESCUED_BYTES_MAX
        }
        b"x-death" => {
            field.value_bytes() <= DEATHS_BYTES_MAX
                && field.extent().is_some_and(|found| {
                    found.depth <= DEATHS_DEPTH_MAX && found.values <= DEATHS_VALUES_MAX
                })
        }
        name => {
            name.starts_with(b"convgroup-")
                && str::from_utf8(name).is_ok()
                && !matches!(field.kind, b'A' | b'F')
                && field.value_bytes() <= RESCUED_BYTES_MAX
        }
    }
}

fn text_field(name: &str, text: &str) -> Vec<u8> {
    [
        &short_text(name)[..],
        b"S",
        &length(text.len()),
        text.as_bytes(),
    ]
    .concat()
}

/// A short string; cut where it would be none.
fn short_text(text: &str) -> Vec<u8> {
    let text = &text[..text.floor_char_boundary(usize::from(u8::MAX))];
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    [&[length][..], text.as_bytes()].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}
