//! `[log]`: how logs are written.
use tracing::Level;

use super::key::{Key, keys};
use super::reader::Reader;
use super::value::flag;

keys! {
    FORMAT: Key<bool> = Key::shown("log.format", |text| match text {
        "json" => Ok(true),
        "text" => Ok(false),
        _ => Err("is not json or text".into()),
    });
    LEVEL: Key<Level> = Key::shown("log.level", |text| match text {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err("is not one of error warn info debug trace".into()),
    });
    REVEAL_IDS: Key<bool> = Key::shown("log.reveal_ids", flag);
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// The level for this program; its libraries never log below `warn`.
    pub level: Level,
    /// Write user ids and group names as they are.
    pub reveal_ids: bool,
}

impl Log {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            json: reader.value(&FORMAT),
            level: reader.optional(&LEVEL).unwrap_or(Level::INFO),
            reveal_ids: reader.value(&REVEAL_IDS),
        }
    }
}
