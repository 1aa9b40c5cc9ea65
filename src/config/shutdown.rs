//! `shutdown_grace`.
use std::time::Duration;

use super::key::{Key, keys};
use super::reader::Reader;
use super::value::duration;

keys! {
    GRACE: Key<Duration> = Key::shown("shutdown_grace", |text| {
        duration(text, Duration::ZERO..=Duration::from_mins(10))
    });
}

pub(super) fn grace(reader: &mut Reader<'_>) -> Duration {
    reader.value(&GRACE)
}
