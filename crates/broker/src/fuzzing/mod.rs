//! What has to hold of addresses, frames and headers, whoever wrote them: see [`convgroup_domain::fuzzing`].
mod address;
mod frames;
mod headers;

pub use address::address;
pub use frames::frames;
pub use headers::headers;

use lapin::protocol::basic::{gen_properties, parse_properties};
use lapin::types::generation::gen_field_table;
pub use lapin::types::{AMQPValue, FieldTable};

use crate::delivery::Message;

/// A message from the bytes that a broker sends of it: properties as on the wire, then the body. `None` where the client library
/// can't read the properties.
#[must_use]
pub fn message(data: &[u8]) -> Option<Message> {
    let (body, properties) = parse_properties(data).ok()?;
    Some(Message {
        body: body.to_vec(),
        properties,
        exchange: "".into(),
        routing_key: "".into(),
        delivery_tag: 0,
        redelivered: false,
        unreadable: None,
    })
}

/// The bytes of a message, as [`message`] reads them.
#[must_use]
pub fn on_the_wire(message: &Message) -> Vec<u8> {
    let written = gen_properties(&message.properties)(Vec::new().into());
    let (mut bytes, _) = written.expect("properties can be written").into_inner();
    bytes.extend_from_slice(&message.body);
    bytes
}

/// The bytes of headers. They tell more apart than `==` does, for which a float that is no number does not equal itself.
#[must_use]
pub fn table_on_the_wire(table: &FieldTable) -> Vec<u8> {
    let written = gen_field_table(table)(Vec::new().into());
    written.expect("headers can be written").into_inner().0
}

#[cfg(test)]
mod tests {
    use convgroup_domain::fuzzing::check;

    #[test]
    fn address() {
        check("address", super::address);
    }

    #[test]
    fn frames() {
        check("frames", super::frames);
    }

    #[test]
    fn headers() {
        check("headers", super::headers);
    }
}
