//! `[rate_limit]`.
use super::key::{Key, keys};
use super::reader::Reader;
use super::value::number;

keys! {
    CALLS_PER_SECOND: Key<u32> = Key::shown("rate_limit.calls_per_second", |text| {
        number(text, 1..=100_000)
    });
}

pub(super) fn calls_per_second(reader: &mut Reader<'_>) -> u32 {
    reader.value(&CALLS_PER_SECOND)
}
