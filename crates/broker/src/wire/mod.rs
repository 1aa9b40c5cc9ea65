//! A filter between the broker's bytes and the client library.
//!
//! lapin gives up a connection over one message that it can't parse, parses nested headers by recursion, and makes of each
//! header value some forty bytes of memory. Messages are written by anybody, so the bytes pass here first: [`Filter`] looks at
//! each frame and replaces what would harm lapin. [`stream`] puts it into a connection; [`header`] checks the properties of a
//! message, [`method`] the texts in methods, [`table`] walks through headers. Nothing here waits, reads a clock or logs.
mod filter;
mod header;
mod method;
pub(super) mod stream;
mod table;
#[cfg(test)]
mod tests;

use thiserror::Error;

pub(crate) use filter::Filter;

/// Largest frame that we agree to, in bytes, frame head and end included; a broker may agree to less. It is RabbitMQ's own
/// default. lapin makes two buffers of 32 such frames for each connection, so a broker must not choose it.
pub(super) const FRAME_BYTES_MAX: u32 = 128 * 1024;
/// Smallest frame bound that AMQP allows, in bytes.
pub(super) const FRAME_BYTES_MIN: u32 = 4096;
/// Smallest frame bound that lapin agrees to after having asked for a larger one, in bytes. To agree to less it has to ask for less.
const LAPINS_BYTES_MIN: u32 = lapin::protocol::constants::FRAME_MIN_SIZE;
/// Bytes of a frame beside its payload: kind, channel, size; and the end.
const FRAME_EXTRA_BYTES: usize = 8;
/// Set to `true` on a message whose foreign headers were left out.
pub(super) const HEADERS_DROPPED: &str = "convgroup-headers-dropped";

/// Bytes of a broker that no healthy broker sends. The connection can't go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum WireError {
    /// More than was agreed.
    #[error(
        "the broker sent a {kind} frame of {bytes} bytes, more than the {max} agreed; the connection is given up: is this a RabbitMQ?"
    )]
    TooLarge {
        /// What kind of frame.
        kind: &'static str,
        /// Its size by its head.
        bytes: u64,
        /// What was agreed, or what such a frame can have at most.
        max: u32,
    },
    /// No frame begins with this byte.
    #[error(
        "the broker sent a frame of the unknown kind {0}; the connection is given up: is this a RabbitMQ?"
    )]
    Kind(u8),
    /// The byte after a frame is not the one that ends frames.
    #[error(
        "the broker sent a {0} frame without its end; the connection is given up: does something change bytes on the way?"
    )]
    End(&'static str),
    /// A content header that ends before the size of its body.
    #[error(
        "the broker sent a content header of {0} bytes, too few; the connection is given up: is this a RabbitMQ?"
    )]
    Header(usize),
    /// A method that no broker sends, or whose arguments are not what AMQP says.
    #[error(
        "the broker sent the method {0}.{1}, which is unknown or has arguments that can't be read; the connection is given up: is this a RabbitMQ?"
    )]
    Method(u16, u16),
}
