//! What came back from the API, as data: a reply is never an `Err`.

/// The result of one call. Made by the chat client, read by [`super::code::CodeTable::classify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A reply with status 200 whose body carries an `ErrorCode`.
    Answer {
        /// `ErrorCode`; 0 means deleted, or listed.
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

impl Reply {
    /// The HTTP status that came back, if one did.
    #[must_use]
    pub const fn http_status(&self) -> Option<u16> {
        match self {
            Self::Answer { .. } | Self::BadBody(_) => Some(200),
            Self::HttpStatus(status) => Some(*status),
            Self::Timeout | Self::Connect(_) | Self::Reset => None,
        }
    }
}

/// What a call does: the label `call` of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// It deletes a group.
    Delete,
    /// It lists groups.
    List,
}

impl CallKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Delete, Self::List];

    /// The name used in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_where_one_came_back() {
        let answer = Reply::Answer {
            code: 51009,
            info: String::new(),
        };
        for (reply, status) in [
            (answer, Some(200)),
            (Reply::BadBody("no JSON"), Some(200)),
            (Reply::HttpStatus(503), Some(503)),
            (Reply::Timeout, None),
            (Reply::Connect("refused".to_owned()), None),
            (Reply::Reset, None),
        ] {
            assert_eq!(reply.http_status(), status, "{reply:?}");
        }
    }

    #[test]
    fn each_kind_of_call_has_the_contracts_name() {
        assert_eq!(CallKind::ALL.map(CallKind::label), ["delete", "list"]);
    }
}
