//! Logs: who may write, in which form, and what never gets in.
use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{panic, thread};

use prometheus::IntCounter;
use sha2::{Digest, Sha256};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::Log;
use crate::log_lines::{LogLines, Missing, Writer};
use convgroup_domain::text::hex;
use convgroup_host::limits::{Limit, limit_in_panic};

/// How long the end of the process waits for lines to be written: a pipe that nobody reads must not hold up a stop.
const FLUSH_PATIENCE: Duration = Duration::from_millis(500);
/// For the thread that writes, in bytes. It needs little.
const STACK_BYTES: usize = 1024 * 1024;

/// How the names of our crates begin, and with them the targets of what they log.
const OURS: &str = "convgroup_";

/// The lines of this process, once [`start`] was called.
static LINES: OnceLock<Arc<LogLines>> = OnceLock::new();

/// Starts logging to stderr, and makes a panic a log line. Nobody who logs waits for stderr; `dropped` counts the lines that it
/// did not take.
///
/// Libraries are heard from `warn` on and no lower, whatever `log.level` says: below that they write what they send. A panic's
/// own text is left out, because it can quote what the program worked on; one about a limit of the machine is told as that.
///
/// # Errors
/// The thread that writes can't be started.
pub fn start(log: Log, dropped: IntCounter) -> io::Result<()> {
    let lines = Arc::clone(LINES.get_or_init(|| Arc::new(LogLines::new(dropped))));
    let writer = Writer::new(Arc::clone(&lines), io::stderr(), gap_line);
    thread::Builder::new()
        .name("log".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(|| writer.run())?;
    let libraries = LevelFilter::from_level(log.level.min(Level::WARN));
    let targets = Targets::new()
        .with_default(libraries)
        .with_target(OURS, log.level)
        // Says each loss of a connection in three lines of its own; ours says it in one, with what it means.
        .with_target("lapin", LevelFilter::OFF);
    // The library's word about its own failures would go to stderr past the queue.
    let layer = fmt::layer()
        .log_internal_errors(false)
        .with_writer(Queue(lines));
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
        let text = limit_in_panic(info.payload()).map_or(
            "a bug: the program panicked; its text is left out because it may quote ids",
            Limit::advice,
        );
        tracing::error!(panic.at = at, "{text}");
    }));
    Ok(())
}

/// Waits until what was logged is written, but not for long: for the end of the process.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush(FLUSH_PATIENCE);
    }
}

/// Writes a line to stderr that is no log line: why the program ends, or what a tool has to say. Behind what was logged, if
/// anything was; else at once. A stderr that does not take it is no error.
pub fn say(text: &str) {
    let line = format!("{text}\n");
    match LINES.get() {
        Some(lines) => lines.push(line.as_bytes()),
        None => drop(io::stderr().write_all(line.as_bytes())),
    }
}

thread_local! {
    /// Where lines of this thread go instead of the queue.
    static ASIDE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The line about lines that are missing, in the form of all others; empty where the level leaves it out. For the thread that
/// writes: it must not queue lines behind those it is about.
fn gap_line(missing: &Missing) -> Vec<u8> {
    ASIDE.set(Some(Vec::new()));
    let error = missing.refused.as_ref().map(tracing::field::display);
    tracing::warn!(
        log.lines_dropped = missing.lines,
        error,
        "{} log lines were dropped because stderr did not take them; the work went on, convgroup_log_lines_dropped_total counts them",
        missing.lines
    );
    ASIDE.take().unwrap_or_default()
}

/// Hands lines to the queue.
struct Queue(Arc<LogLines>);

impl<'q> MakeWriter<'q> for Queue {
    type Writer = QueueEnd<'q>;

    fn make_writer(&'q self) -> QueueEnd<'q> {
        QueueEnd(&self.0)
    }
}

/// Takes one line, which comes whole.
struct QueueEnd<'q>(&'q LogLines);

impl Write for QueueEnd<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A thread that ends has none any more.
        let is_aside = ASIDE.try_with(|aside| {
            let mut aside = aside.borrow_mut();
            aside.as_mut().map(|aside| aside.extend_from_slice(line))
        });
        if !matches!(is_aside, Ok(Some(()))) {
            self.0.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
        hex(&digest[..HASH_DIGITS / 2])
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
