//! Whether answers reach somebody, as far as one session knows.
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard, watch};

/// How long messages wait for the first one to be answered. Where the API fails there is no answer for a while, and the daemon has to
/// meet these failures to notice. An answer that comes back is offered again for some seconds before it is held.
const FIRST_ALONE_MAX: Duration = Duration::from_secs(10);

/// What a session knows of its answers.
///
/// Nobody can ask a broker whether a queue is bound to an exchange: an answer that comes back tells it. So where the session has not
/// bound the ledger itself, the first message is worked on alone, and while an answer is held the daemon does not consume.
#[derive(Debug)]
pub struct Answers {
    /// Whether an answer was confirmed, or there is no doubt that it will be.
    are_heard: AtomicBool,
    first: Mutex<()>,
    held: watch::Sender<Held>,
}

/// Answers that nobody takes.
#[derive(Clone, Debug, Default)]
struct Held {
    count: usize,
    /// Why, in words.
    reason: String,
}

impl Answers {
    /// `in_doubt`: nobody knows yet whether a queue is bound.
    pub(super) fn new(in_doubt: bool) -> Self {
        Self {
            are_heard: AtomicBool::new(!in_doubt),
            first: Mutex::new(()),
            held: watch::Sender::new(Held::default()),
        }
    }

    /// Waits until it makes sense to work on a message: at once, but for all that come before the first answer. The first of them gets
    /// a guard that it keeps until it is settled; the others wait for it. That wait has a bound, unless the answer of the first is held.
    pub async fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        loop {
            if self.are_heard.load(Ordering::Relaxed) {
                return None;
            }
            match tokio::time::timeout(FIRST_ALONE_MAX, self.first.lock()).await {
                Ok(first) => {
                    return Some(first).filter(|_| !self.are_heard.load(Ordering::Relaxed));
                }
                Err(_) if self.held().is_some() => self.are_taken().await,
                Err(_) => return None,
            }
        }
    }

    /// An answer was confirmed.
    pub fn heard(&self) {
        self.are_heard.store(true, Ordering::Relaxed);
    }

    /// An answer is held because nobody takes it, for as long as the guard lives.
    pub fn hold(&self, reason: String) -> HeldAnswer<'_> {
        self.are_heard.store(false, Ordering::Relaxed);
        self.held.send_modify(|held| {
            held.count += 1;
            held.reason = reason;
        });
        HeldAnswer(self)
    }

    /// Why answers are held now, in words; nothing where none is.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        let held = self.held.borrow();
        (held.count > 0).then(|| held.reason.clone())
    }

    /// Completes when an answer is held.
    pub async fn are_held(&self) {
        // The sender lives as long as this: the wait can't fail.
        let _ = self.held.subscribe().wait_for(|held| held.count > 0).await;
    }

    /// Completes when no answer is held.
    pub async fn are_taken(&self) {
        let _ = self.held.subscribe().wait_for(|held| held.count == 0).await;
    }
}

/// An answer that is held.
#[derive(Debug)]
#[must_use = "it counts for as long as it lives"]
pub struct HeldAnswer<'a>(&'a Answers);

impl Drop for HeldAnswer<'_> {
    fn drop(&mut self) {
        self.0.held.send_modify(|held| held.count -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_alone_until_an_answer_is_heard() {
        let answers = Answers::new(true);
        let first = answers.turn().await;
        assert!(first.is_some());
        let second = answers.turn();
        let mut second = std::pin::pin!(second);
        assert!((&mut second).now_or_never().is_none());
        answers.heard();
        drop(first);
        assert!(second.await.is_none());
        assert!(answers.turn().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_the_others_follow_within_a_bound() {
        let answers = Answers::new(true);
        let _first = answers.turn().await;
        let began = Instant::now();
        assert!(answers.turn().await.is_none());
        assert!(began.elapsed() < FIRST_ALONE_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_answer_is_held_nobody_follows() {
        let answers = Answers::new(true);
        let first = answers.turn().await;
        let held = answers.hold("why".to_owned());
        let second = tokio::time::timeout(10 * FIRST_ALONE_MAX, answers.turn());
        assert!(second.await.is_err());
        let second = answers.turn();
        answers.heard();
        drop((held, first));
        assert!(second.await.is_none());
    }

    #[tokio::test]
    async fn nobody_waits_where_there_is_no_doubt() {
        let answers = Answers::new(false);
        assert!(answers.turn().await.is_none());
    }

    #[tokio::test]
    async fn answers_are_held_until_the_last_is_taken() {
        let answers = Answers::new(false);
        assert!(answers.are_held().now_or_never().is_none());
        let (one, two) = (answers.hold("a".to_owned()), answers.hold("b".to_owned()));
        answers.are_held().await;
        assert_eq!(answers.held().as_deref(), Some("b"));
        drop(one);
        assert!(answers.are_taken().now_or_never().is_none());
        drop(two);
        answers.are_taken().await;
        assert_eq!(answers.held(), None);
        // What was in doubt once is in doubt again.
        assert!(answers.turn().await.is_some());
    }
}
