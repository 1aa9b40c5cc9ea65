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
    /// Any other HTTP status than 200; its body is not looked at.
    HttpStatus(u16),
    /// Nothing complete arrived within `im.timeout`.
    Timeout,
    /// No connection, and why not, in a few words: name not resolved, refused, TLS failed. For people; no class depends on it.
    Connect(String),
    /// The connection broke before the reply was complete.
    Reset,
    /// A reply with status 200 that is no answer, and why, in a few words that repeat none of it. For people; no class depends on it.
    BadBody(&'static str),
}
