//! Ctrl-C and SIGTERM, for tools that have something to say at their end.
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears both from its making on; without it either ends the process at once.
#[derive(Debug)]
pub(crate) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// Begins to hear.
    ///
    /// # Errors
    /// The handlers can't be installed.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for either, and says its number. Safe to drop at any await.
    pub(crate) async fn heard(&mut self) -> i32 {
        let heard = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        heard.as_raw_value()
    }

    /// From here on the next one ends the process at once, as it ends any other.
    pub(crate) fn let_end(mut self) {
        tokio::spawn(async move { std::process::exit(128 + self.heard().await) });
    }
}
