//! The texts in methods: where one is not UTF-8, lapin could not parse the frame.
//!
//! RabbitMQ passes exchanges and routing keys on as they were published, and cuts the text of a refusal at 255 bytes, also in
//! the middle of a character.
use std::str;

use super::header::{DEPTH_MAX, VALUES_MAX};
use super::table::{self, long, short, take};

/// One argument, or several of a known length.
#[derive(Clone, Copy)]
enum Argument {
    Fixed(usize),
    /// A text of at most 255 bytes; has to be UTF-8.
    Short,
    /// Bytes with a length.
    Long,
    /// Named values.
    Table,
}

use Argument::{Fixed, Long, Short, Table};

/// The methods of a broker that hold texts, by class and method.
const WITH_TEXTS: &[((u16, u16), &[Argument])] = &[
    // connection: start, secure, open-ok, close, blocked
    ((10, 10), &[Fixed(2), Table, Long, Long]),
    ((10, 20), &[Long]),
    ((10, 41), &[Short]),
    ((10, 50), &[Fixed(2), Short, Fixed(4)]),
    ((10, 60), &[Short]),
    // channel: open-ok, close
    ((20, 11), &[Long]),
    ((20, 40), &[Fixed(2), Short, Fixed(4)]),
    // queue: declare-ok
    ((50, 11), &[Short, Fixed(8)]),
    // basic: consume-ok, cancel, cancel-ok, return, deliver, get-ok
    ((60, 21), &[Short]),
    ((60, 30), &[Short, Fixed(1)]),
    ((60, 31), &[Short]),
    ((60, 50), &[Fixed(2), Short, Short, Short]),
    ((60, 60), &[Short, Fixed(9), Short, Short]),
    ((60, 71), &[Fixed(9), Short, Short, Fixed(4)]),
];
/// Longest method without texts, in bytes: numbers only. What is longer is a client's method, with room for tables.
const NUMBERS_BYTES_MAX: usize = 64;
/// Takes the place of each byte that is not UTF-8: the text keeps its length.
const REPLACEMENT: u8 = b'?';

/// `connection.tune`: what the broker offers.
pub(super) const TUNE: (u16, u16) = (10, 30);

/// `connection.close`, as a broker would send it: the frame bound has to be asked for anew.
pub(super) fn close_for_smaller_frames() -> Vec<u8> {
    const FORCED: u16 = 320;
    const TEXT: &[u8] = b"a smaller frame_max has to be asked for";
    let length = u8::try_from(TEXT.len()).unwrap_or_default();
    let (class, number) = TUNE;
    [
        &[0, 10, 0, 50][..],
        &FORCED.to_be_bytes(),
        &[length],
        TEXT,
        &class.to_be_bytes(),
        &number.to_be_bytes(),
    ]
    .concat()
}

/// Class and method, the first four bytes of the payload.
pub(super) fn number(payload: &[u8]) -> Option<(u16, u16)> {
    let (number, _) = payload.split_first_chunk::<4>()?;
    let [c, d, m, n] = *number;
    Some((u16::from_be_bytes([c, d]), u16::from_be_bytes([m, n])))
}

/// Mends a method, in place: each byte in a short string that is not UTF-8 is replaced, and a table that would harm lapin is
/// emptied. `None`: the arguments are not what AMQP says.
pub(super) fn mend(payload: &mut Vec<u8>) -> Option<()> {
    let number = number(payload)?;
    let Some((_, arguments)) = WITH_TEXTS.iter().find(|(known, _)| *known == number) else {
        return (payload.len() <= NUMBERS_BYTES_MAX).then_some(());
    };
    let mut at = 4;
    for argument in *arguments {
        let mut rest = &payload[at..];
        match argument {
            Fixed(length) => {
                take(&mut rest, *length)?;
            }
            Long => {
                long(&mut rest)?;
            }
            Short => {
                let text = short(&mut rest)?;
                if str::from_utf8(text).is_err() {
                    let (from, to) = (at + 1, at + 1 + text.len());
                    replace(&mut payload[from..to]);
                    at = to;
                    continue;
                }
            }
            Table => {
                let fields = long(&mut rest)?;
                if !table::walk(fields)
                    .is_ok_and(|found| found.depth <= DEPTH_MAX && found.values <= VALUES_MAX)
                {
                    payload.splice(at..at + 4 + fields.len(), [0; 4]);
                    at += 4;
                    continue;
                }
            }
        }
        at = payload.len() - rest.len();
    }
    (at == payload.len()).then_some(())
}

/// Replaces each byte that is not part of a character.
fn replace(text: &mut [u8]) {
    let mut at = 0;
    let mut wrong = Vec::new();
    for chunk in text.utf8_chunks() {
        at += chunk.valid().len();
        wrong.push(at..at + chunk.invalid().len());
        at += chunk.invalid().len();
    }
    for bytes in wrong {
        text[bytes].fill(REPLACEMENT);
    }
}
