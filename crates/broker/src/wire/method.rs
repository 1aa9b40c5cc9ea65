//! Methods: what a broker sends, and the texts in them. Where one is not UTF-8, lapin could not parse the frame.
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

/// The methods that a broker sends, by class and method. lapin ends a connection over any other.
const KNOWN: &[((u16, u16), &[Argument])] = &[
    // connection: start, secure, tune, open-ok, close, close-ok, blocked, unblocked, update-secret-ok
    ((10, 10), &[Fixed(2), Table, Long, Long]),
    ((10, 20), &[Long]),
    ((10, 30), &[Fixed(8)]),
    ((10, 41), &[Short]),
    ((10, 50), &[Fixed(2), Short, Fixed(4)]),
    ((10, 51), &[]),
    ((10, 60), &[Short]),
    ((10, 61), &[]),
    ((10, 71), &[]),
    // channel: open-ok, flow, flow-ok, close, close-ok
    ((20, 11), &[Long]),
    ((20, 20), &[Fixed(1)]),
    ((20, 21), &[Fixed(1)]),
    ((20, 40), &[Fixed(2), Short, Fixed(4)]),
    ((20, 41), &[]),
    // access: request-ok
    ((30, 11), &[Fixed(2)]),
    // exchange: declare-ok, delete-ok, bind-ok, unbind-ok
    ((40, 11), &[]),
    ((40, 21), &[]),
    ((40, 31), &[]),
    ((40, 51), &[]),
    // queue: declare-ok, bind-ok, purge-ok, delete-ok, unbind-ok
    ((50, 11), &[Short, Fixed(8)]),
    ((50, 21), &[]),
    ((50, 31), &[Fixed(4)]),
    ((50, 41), &[Fixed(4)]),
    ((50, 51), &[]),
    // basic: qos-ok, consume-ok, cancel, cancel-ok, return, deliver, get-ok, get-empty, ack, recover-ok, nack
    ((60, 11), &[]),
    ((60, 21), &[Short]),
    ((60, 30), &[Short, Fixed(1)]),
    ((60, 31), &[Short]),
    ((60, 50), &[Fixed(2), Short, Short, Short]),
    ((60, 60), &[Short, Fixed(9), Short, Short]),
    ((60, 71), &[Fixed(9), Short, Short, Fixed(4)]),
    ((60, 72), &[Short]),
    ((60, 80), &[Fixed(9)]),
    ((60, 111), &[]),
    ((60, 120), &[Fixed(9)]),
    // confirm: select-ok
    ((85, 11), &[]),
    // tx: select-ok, commit-ok, rollback-ok
    ((90, 11), &[]),
    ((90, 21), &[]),
    ((90, 31), &[]),
];
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
/// emptied. `None`: no broker sends such a method, or its arguments are not what AMQP says.
pub(super) fn mend(payload: &mut Vec<u8>) -> Option<()> {
    let number = number(payload)?;
    let (_, arguments) = KNOWN.iter().find(|(known, _)| *known == number)?;
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

#[cfg(test)]
mod tests {
    use lapin::protocol::parse_class;

    use super::*;

    #[test]
    fn every_known_method_passes_and_is_one_that_lapin_parses() {
        for ((class, method), arguments) in KNOWN {
            let mut payload = [class.to_be_bytes(), method.to_be_bytes()].concat();
            for argument in *arguments {
                let empty = match argument {
                    Fixed(length) => *length,
                    Short => 1,
                    Long | Table => 4,
                };
                payload.extend(vec![0; empty]);
            }
            let came = payload.clone();
            assert_eq!(mend(&mut payload), Some(()), "{class}.{method}");
            assert_eq!(payload, came);
            let parsed = parse_class(&payload[..]);
            assert!(
                parsed.is_ok_and(|(rest, _)| rest.is_empty()),
                "{class}.{method}"
            );
            payload.push(0);
            assert_eq!(
                mend(&mut payload),
                None,
                "{class}.{method} with a byte more"
            );
        }
    }
}
