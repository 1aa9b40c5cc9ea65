//! Kinds of values that several sections read. No error repeats the text: it may be a secret in the wrong place.
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What is wrong with a value, and what is allowed, in words that follow the key. They never repeat the value. It is made from a
/// text, or from the error of whatever reads the value, such as an address.
pub(super) struct Problem(String);

impl<E: fmt::Display> From<E> for Problem {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl Problem {
    /// The words.
    pub(super) fn into_text(self) -> String {
        self.0
    }
}

/// A whole number.
pub(super) fn number<T: TryFrom<u64>>(
    text: &str,
    allowed: RangeInclusive<u64>,
) -> Result<T, Problem> {
    let (from, to) = allowed.into_inner();
    text.parse::<u64>()
        .ok()
        .filter(|number| (from..=to).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("is not a whole number from {from} to {to}").into())
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, Problem> {
    text.parse().map_err(|_| "is not true or false".into())
}

/// A duration like `10s`.
pub(super) fn duration(text: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, Problem> {
    let (from, to) = allowed.into_inner();
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| (from..=to).contains(duration))
        .ok_or_else(|| {
            let [from, to] = [from, to].map(humantime::format_duration);
            format!("is not a duration from {from} to {to}").into()
        })
}

/// What is wrong with an address in the place of a name.
pub(super) const NO_NAME: &str = "is an address; a name is needed";
