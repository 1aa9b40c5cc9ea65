//! Points at which a test can make the process die or the code panic. Without debug assertions they compile to nothing.
//!
//! `TEST_FAILPOINT=POINT=ACTION[:N]` acts when the point is reached for the Nth time (the first if N is not given): `panic`
//! panics, `panic_always` each time from then on, any other word kills the process.
//! `TEST_SHORTENED_MS=N` sets the two longest waits to N ms: how long a message is worked on, and how long one is held.
use std::time::Duration;

/// The steps on the way of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The call's turn has come; nothing has left.
    BeforeCall,
    /// The reply is there; nothing has been made of it.
    AfterCall,
    /// A delayed copy is confirmed; the original is not acked.
    AfterDelay,
    /// A dead letter is confirmed; the original is not acked.
    AfterDeadLetter,
    /// All copies are confirmed; the answer is not published.
    BeforeAnswer,
    /// The answer is confirmed; the original is not acked.
    AfterAnswer,
    /// Everything is done but the ack.
    BeforeAck,
    /// The ack is on its way.
    AfterAck,
}

impl Point {
    /// The name used in `TEST_FAILPOINT`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeCall => "before_call",
            Self::AfterCall => "after_call",
            Self::AfterDelay => "after_delay",
            Self::AfterDeadLetter => "after_dead_letter",
            Self::BeforeAnswer => "before_answer",
            Self::AfterAnswer => "after_answer",
            Self::BeforeAck => "before_ack",
            Self::AfterAck => "after_ack",
        }
    }
}

/// The wait as it is.
#[cfg(not(debug_assertions))]
#[inline]
#[must_use]
pub fn shortened(wait: Duration) -> Duration {
    wait
}

/// The wait as it is, or as short as the test wants it.
#[cfg(debug_assertions)]
#[must_use]
pub fn shortened(wait: Duration) -> Duration {
    let asked = std::env::var("TEST_SHORTENED_MS").ok();
    asked
        .and_then(|ms| ms.parse().ok())
        .map_or(wait, Duration::from_millis)
}

/// Says that a point is reached.
#[cfg(not(debug_assertions))]
#[inline]
pub fn reach(_: Point) {}

/// Says that a point is reached: dies by SIGKILL or panics there if the test asked for it.
#[cfg(debug_assertions)]
pub fn reach(point: Point) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static ASKED: OnceLock<Option<(String, String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);

    let asked = ASKED.get_or_init(|| {
        let text = std::env::var("TEST_FAILPOINT").ok()?;
        let (name, action) = text.split_once('=')?;
        let (action, count) = action.split_once(':').unwrap_or((action, "1"));
        Some((name.to_owned(), action.to_owned(), count.parse().ok()?))
    });
    let Some((name, action, count)) = asked else {
        return;
    };
    if name != point.name() || REACHED.fetch_add(1, Ordering::SeqCst) + 1 != *count {
        return;
    }
    match action.as_str() {
        "panic" => panic!("a test asked for it"),
        "panic_always" => {
            REACHED.fetch_sub(1, Ordering::SeqCst);
            panic!("a test asked for it");
        }
        _ => {
            let _ = std::process::Command::new("kill")
                .args(["-KILL", &std::process::id().to_string()])
                .status();
        }
    }
}
