//! Waiting for a condition with a bounded patience.
//!
//! Tests do not sleep: one that does is either slow or flaky. The only pauses are in the polling loops of this package.

use std::fmt::Debug;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

const POLL_PAUSE: Duration = Duration::from_millis(20);

/// What a condition may answer: `Option`, `Result` (its error is shown as the last state) or `bool`.
pub trait Outcome {
    /// What the wait returns once the condition holds.
    type Value;

    /// The value, or the state that is not the one waited for.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl<T> Outcome for Option<T> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "None".into())
    }
}

impl<T, S: Debug> Outcome for Result<T, S> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

impl Outcome for bool {
    type Value = ();

    fn outcome(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(|| "false".into())
    }
}

/// Polls `condition` until it holds; panics with `what`, the caller's line and the last state when `patience` ends.
///
/// A condition that hangs is given up at the end of the patience as well.
#[track_caller]
pub fn eventually<O: Outcome, F: AsyncFnMut() -> O>(
    what: &str,
    patience: Duration,
    mut condition: F,
) -> impl Future<Output = O::Value> + use<O, F> {
    let caller = Location::caller();
    let what = what.to_owned();
    async move {
        let deadline = Instant::now() + patience;
        let mut last = String::from("no answer from the first look yet");
        loop {
            let Ok(look) = timeout_at(deadline, condition()).await else {
                panic!(
                    "{caller}: not within {patience:?}: {what}; a look hung, the one before: {last}"
                );
            };
            match look.outcome() {
                Ok(value) => return value,
                Err(state) => last = state,
            }
            assert!(
                Instant::now() < deadline,
                "{caller}: not within {patience:?}: {what}; last state: {last}"
            );
            sleep(POLL_PAUSE).await;
        }
    }
}
