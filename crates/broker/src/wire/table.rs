//! A walk through a table of headers, without recursion: what lapin's parser accepts, and how much it would make of it.
use std::fmt;
use std::str;

/// What a table holds, all levels together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Levels, the table itself included.
    pub(super) depth: usize,
    /// Values, those inside of others included.
    pub(super) values: usize,
}

/// Why lapin can't parse a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NameNotUtf8,
    UnknownType(u8),
    Cut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameNotUtf8 => f.write_str("a header name is not UTF-8"),
            Self::UnknownType(kind) => {
                write!(f, "a header value has the unknown type 0x{kind:02x}")
            }
            Self::Cut => f.write_str("a header is longer than what holds it"),
        }
    }
}

/// What a value's type says about its length.
enum Shape {
    /// So many bytes.
    Fixed(usize),
    /// Four bytes of length, then so many.
    Long,
    /// Likewise, and what is inside are values, with names where `true`.
    Container(bool),
}

/// The types that lapin knows: RabbitMQ's, not those of the specification.
fn shape(kind: u8) -> Option<Shape> {
    Some(match kind {
        b'V' => Shape::Fixed(0),
        b't' | b'b' | b'B' => Shape::Fixed(1),
        b's' | b'U' | b'u' => Shape::Fixed(2),
        b'I' | b'i' | b'f' => Shape::Fixed(4),
        b'D' => Shape::Fixed(5),
        b'L' | b'l' | b'd' | b'T' => Shape::Fixed(8),
        b'S' | b'x' => Shape::Long,
        b'A' => Shape::Container(false),
        b'F' => Shape::Container(true),
        _ => return None,
    })
}

/// Walks through the fields of a table (what follows its length), at most once over each byte.
///
/// # Errors
/// The first reason why lapin can't parse it; where there is none, it can.
pub(super) fn walk(fields: &[u8]) -> Result<Extent, Fault> {
    walk_inside(fields, true)
}

fn walk_inside(bytes: &[u8], named: bool) -> Result<Extent, Fault> {
    let mut extent = Extent {
        depth: 1,
        values: 0,
    };
    // Where each open container ends, and whether its values have names.
    let mut open = vec![(bytes.len(), named)];
    let mut at = 0;
    while let Some(&(end, named)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        extent.values += 1;
        let mut rest = &bytes[at..end];
        if named {
            let name = short(&mut rest).ok_or(Fault::Cut)?;
            str::from_utf8(name).map_err(|_| Fault::NameNotUtf8)?;
        }
        let (_, shape) = next_shape(&mut rest)?;
        match shape {
            Shape::Fixed(length) => {
                take(&mut rest, length).ok_or(Fault::Cut)?;
            }
            Shape::Long => {
                long(&mut rest).ok_or(Fault::Cut)?;
            }
            Shape::Container(named) => {
                let inside = end - rest.len() + 4;
                let length = long(&mut rest).ok_or(Fault::Cut)?.len();
                open.push((inside + length, named));
                extent.depth = extent.depth.max(open.len());
                at = inside;
                continue;
            }
        }
        at = end - rest.len();
    }
    Ok(extent)
}

fn next_shape(rest: &mut &[u8]) -> Result<(u8, Shape), Fault> {
    let kind = take(rest, 1).ok_or(Fault::Cut)?[0];
    let shape = shape(kind).ok_or(Fault::UnknownType(kind))?;
    Ok((kind, shape))
}

/// One field of a table.
pub(super) struct Field<'a> {
    pub(super) name: &'a [u8],
    /// The value's type.
    pub(super) kind: u8,
    /// Name, type and value, as they came.
    pub(super) bytes: &'a [u8],
    /// The value without its type and length.
    value: &'a [u8],
}

impl Field<'_> {
    /// What a table or an array holds; nothing for other values, and none where lapin can't parse it.
    pub(super) fn extent(&self) -> Option<Extent> {
        match self.kind {
            b'A' => walk_inside(self.value, false).ok(),
            b'F' => walk_inside(self.value, true).ok(),
            _ => Some(Extent::default()),
        }
    }

    /// Bytes of the value, without its type and length.
    pub(super) fn value_bytes(&self) -> usize {
        self.value.len()
    }
}

/// The fields of a table, up to the first that is cut or of an unknown type. Neither names nor what is inside of values was
/// looked at.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = Field<'_>> {
    std::iter::from_fn(move || {
        let all = rest;
        let name = short(&mut rest)?;
        let (kind, shape) = next_shape(&mut rest).ok()?;
        let value = match shape {
            Shape::Fixed(length) => take(&mut rest, length)?,
            Shape::Long | Shape::Container(_) => long(&mut rest)?,
        };
        let bytes = &all[..all.len() - rest.len()];
        Some(Field {
            name,
            kind,
            bytes,
            value,
        })
    })
}

/// Takes so many bytes off the front.
pub(super) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

/// Takes a short string off the front: a byte of length, then so many.
pub(super) fn short<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(*rest.first()?);
    let (text, left) = rest[1..].split_at_checked(length)?;
    *rest = left;
    Some(text)
}

/// Takes a long string, or a table's or array's inside, off the front: four bytes of length, then so many.
pub(super) fn long<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, left) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (text, left) = left.split_at_checked(length)?;
    *rest = left;
    Some(text)
}
