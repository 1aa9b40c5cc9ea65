//! Logs: who may write, in which form, and what never gets in.
use std::fmt::Write as _;
use std::panic;

use sha2::{Digest, Sha256};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::Log;

/// Starts logging to stderr, and makes a panic a log line.
///
/// Libraries are heard from `warn` on and no lower, whatever `log.level` says: below that they write what they send. A panic's
/// own text is left out, because it can quote what the program worked on.
pub fn start(log: Log) {
    let libraries = LevelFilter::from_level(log.level.min(Level::WARN));
    let targets = Targets::new()
        .with_default(libraries)
        .with_target("convgroup_deleter", log.level)
        // Says each loss of a connection in three lines of its own; ours says it in one, with what it means.
        .with_target("lapin", LevelFilter::OFF);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = if log.json {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        layer.with_ansi(false).boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .init();
    panic::set_hook(Box::new(|info| {
        let at = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(
            panic.at = at,
            "a bug: the program panicked; its text is left out because it may quote ids"
        );
    }));
}

/// How user ids and group names are written into logs.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    reveal: bool,
    app: u64,
}

/// Hex digits of a hash in a log line: enough to find a user's lines, too few to be an id.
const HASH_DIGITS: usize = 12;
/// Most group names (or hashes) in one log line.
const NAMED_MAX: usize = 10;

impl Ids {
    /// `reveal` as configured; hashes differ between apps.
    #[must_use]
    pub const fn new(reveal: bool, app: u64) -> Self {
        Self { reveal, app }
    }

    /// Whether ids are shown as they are.
    #[must_use]
    pub const fn reveals(&self) -> bool {
        self.reveal
    }

    /// The id as it may be logged: itself if allowed, else the first digits of the SHA-256 of `APP:ID`.
    #[must_use]
    pub fn show(&self, id: &str) -> String {
        if self.reveal {
            return id.to_owned();
        }
        let digest = Sha256::digest(format!("{}:{id}", self.app));
        digest
            .iter()
            .take(HASH_DIGITS / 2)
            .fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// Several ids, comma-separated, the first ten of them.
    #[must_use]
    pub fn show_all(&self, ids: &[String]) -> String {
        let shown: Vec<String> = ids.iter().take(NAMED_MAX).map(|id| self.show(id)).collect();
        let more = if ids.len() > NAMED_MAX { ",…" } else { "" };
        shown.join(",") + more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hashed_unless_revealed() {
        // printf '%s' '1400000000:user15' | sha256sum | cut -c1-12
        assert_eq!(
            Ids::new(false, 1_400_000_000).show("user15"),
            "80da5ed65dca"
        );
        assert_eq!(Ids::new(true, 1_400_000_000).show("user15"), "user15");
    }
}
