//! What the tests of several rooms write: verdicts, histories and ends of names, in short.
use std::collections::BTreeMap;

use super::attempt::Attempt;
use super::code::{Class, CodeTable, Verdict};
use super::decide::{NameEnd, RetryLimits};
use super::reply::Reply;

/// The third counted failure is the last, and there are two tiers.
pub(super) const LIMITS: RetryLimits = RetryLimits {
    attempts_max: 3,
    tiers: 2,
};

/// The table as it is shipped, but for 50001, which an operator has called gone.
fn table() -> CodeTable {
    CodeTable::new(&BTreeMap::from([("50001".to_owned(), Class::Gone)]))
}

/// The verdict on an answer with this code.
pub(super) fn verdict(code: i64) -> Verdict {
    let info = "text of the API".to_owned();
    table().classify(Reply::Answer { code, info })
}

/// The verdict on groups that come again.
pub(super) fn recreated() -> Verdict {
    table().groups_recreated()
}

/// A history of so many counted failures.
pub(super) fn attempt(failures: u32) -> Attempt {
    Attempt {
        failures,
        first_seen_ms: 7,
    }
}

/// `d`eleted, `g`one, `G`one because an operator says so, `r`ejected, `R`ejected by another code, `f`ailed, `t`hrottled,
/// `i`nterrupted, `e`xpired; `u`, `U`: failed by one and by another code that the table does not list.
pub(super) fn end(word: char) -> NameEnd {
    match word {
        'd' => NameEnd::Deleted(verdict(0)),
        'g' => NameEnd::Gone(verdict(51009)),
        'G' => NameEnd::Gone(verdict(50001)),
        'r' => NameEnd::Rejected(verdict(51011)),
        'R' => NameEnd::Rejected(verdict(51006)),
        'f' => NameEnd::Failed(verdict(50004)),
        'u' => NameEnd::Failed(verdict(99_998)),
        'U' => NameEnd::Failed(verdict(99_999)),
        't' => NameEnd::Throttled(verdict(60007)),
        'i' => NameEnd::Interrupted,
        'e' => NameEnd::Expired,
        other => panic!("no such word: {other}"),
    }
}
