//! What has to hold of everything that reads what others wrote, whatever they wrote.
//!
//! Each function takes arbitrary bytes and panics where a promise is broken. libFuzzer makes up the bytes (`make fuzz`; the
//! targets in `fuzz/` only call these functions), and the tests below take them from `fuzz/seeds`. An input that broke a promise
//! is mended and then kept there, so that `cargo test` repeats it.
mod address;
mod config;
mod event;
mod frames;
mod headers;
mod letter;
mod reply;
mod usersig;

pub use address::address;
pub use config::config;
pub use event::event;
pub use frames::frames;
pub use headers::headers;
pub use letter::letter;
pub use reply::reply;
pub use usersig::usersig;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use lapin::protocol::basic::{gen_properties, parse_properties};
use lapin::types::FieldTable;
use lapin::types::generation::gen_field_table;

use crate::broker::delivery::Message;
use crate::domain::code::CodeTable;

/// The moment at which everything here happens, unix ms.
const NOW_MS: i64 = 1_700_000_000_000;

/// Stands for what must never be repeated. No text of the program holds it.
const SECRET: &str = "Qu1ntess3nce";

/// The error table as it is shipped.
static CODES: LazyLock<CodeTable> = LazyLock::new(|| CodeTable::new(&BTreeMap::new()));

/// Fails where a text repeats [`SECRET`].
#[track_caller]
fn assert_silent(text: &str) {
    assert!(
        !text.contains(SECRET),
        "it repeats what it must not: {text}"
    );
}

/// The input with [`SECRET`] put somewhere into it; the input decides where.
fn with_secret(data: &[u8]) -> Vec<u8> {
    let sum: usize = data.iter().map(|&byte| usize::from(byte)).sum();
    let (before, after) = data.split_at(sum % (data.len() + 1));
    [before, SECRET.as_bytes(), after].concat()
}

/// A message from the bytes that a broker sends of it: properties as on the wire, then the body. `None` where the client library
/// can't read the properties.
fn message(data: &[u8]) -> Option<Message> {
    let (body, properties) = parse_properties(data).ok()?;
    Some(Message {
        body: body.to_vec(),
        properties,
        redelivered: false,
        unreadable: None,
    })
}

/// The bytes of a message, as [`message`] reads them.
fn on_the_wire(message: &Message) -> Vec<u8> {
    let written = gen_properties(&message.properties)(Vec::new().into());
    let (mut bytes, _) = written.expect("properties can be written").into_inner();
    bytes.extend_from_slice(&message.body);
    bytes
}

/// The bytes of headers. They tell more apart than `==` does, for which a float that is no number does not equal itself.
fn table_on_the_wire(table: &FieldTable) -> Vec<u8> {
    let written = gen_field_table(table)(Vec::new().into());
    written.expect("headers can be written").into_inner().0
}

#[cfg(test)]
mod tests;
