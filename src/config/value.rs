//! Kinds of values that several sections read. No error repeats the text: it may be a secret in the wrong place.
use std::ops::RangeInclusive;
use std::time::Duration;

/// A whole number.
pub(super) fn number<T: TryFrom<u64>>(
    text: &str,
    allowed: RangeInclusive<u64>,
) -> Result<T, String> {
    let (from, to) = allowed.into_inner();
    text.parse::<u64>()
        .ok()
        .filter(|number| (from..=to).contains(number))
        .and_then(|number| T::try_from(number).ok())
        .ok_or_else(|| format!("is not a whole number from {from} to {to}"))
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "is not true or false".to_owned())
}

/// A duration like `10s`.
pub(super) fn duration(text: &str, allowed: RangeInclusive<Duration>) -> Result<Duration, String> {
    let (from, to) = allowed.into_inner();
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| (from..=to).contains(duration))
        .ok_or_else(|| {
            let [from, to] = [from, to].map(humantime::format_duration);
            format!("is not a duration from {from} to {to}")
        })
}

/// What is wrong with an address in the place of a name.
pub(super) const NO_NAME: &str = "is an address; a name is needed";
