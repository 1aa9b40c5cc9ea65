//! What came back from the API, as data: a reply is never an `Err`.

/// The result of one call. Made by the chat client, read by [`super::code::CodeTable::classify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A reply with status 200 whose body carries an `ErrorCode`.
    Answer {
        /// `ErrorCode`; 0 means deleted.
        code: i64,
        /// `ErrorInfo`, or nothing where the API sent none. Free text: it may name users and groups.
        info: String,
    },
    /// An HTTP status of 400 or above; the body is not read.
    HttpStatus(u16),
    /// Nothing complete arrived within `im.timeout`.
    Timeout,
    /// No connection, and why not, in a few words: name not resolved, refused, TLS failed. For people; no class depends on it.
    Connect(String),
    /// The connection broke before the reply was complete.
    Reset,
    /// A reply that is not the expected JSON, is longer than the bound, redirects, or has another status below 400.
    BadBody,
}
