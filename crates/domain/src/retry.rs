//! What to do after one call: the next step for one name.
use super::code::Class;

/// So many throttled answers of one name in one delivery are followed by another call; the next one ends the name for now, so that
/// the message makes room for others. They cut the pace, so more of them mean that somebody else uses up the limit.
pub const THROTTLED_MAX: u32 = 8;

/// What has been tried for one name within one delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    /// Quick retries made.
    pub quick: u32,
    /// Throttled answers met.
    pub throttled: u32,
    /// Whether the call was repeated because a connection broke.
    pub repeated: bool,
    /// Whether a new `UserSig` was signed for it.
    pub resigned: bool,
}

/// What comes after a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The name has reached the end that its verdict says.
    End,
    /// Call again, at once, on a fresh connection: keep-alive connections die while they are idle.
    Repeat,
    /// Call again after the quick-retry pause.
    Retry,
    /// Cut the pace, then call again.
    SlowDown,
    /// Sign a new `UserSig`, then call again.
    SignAnew,
    /// Ask the probe whose fault it is.
    AskProbe,
}

/// Chooses the step. `reset` says that the connection broke under the call; `quick_max` is `retry.quick_attempts`.
#[must_use]
pub fn next_step(class: Class, reset: bool, tries: Tries, quick_max: u32) -> Step {
    match class {
        Class::Transient if reset && !tries.repeated => Step::Repeat,
        Class::Transient if tries.quick < quick_max => Step::Retry,
        Class::Throttled if tries.throttled < THROTTLED_MAX => Step::SlowDown,
        Class::Signature if !tries.resigned => Step::SignAnew,
        Class::Deleted | Class::Gone | Class::Rejected | Class::Transient | Class::Throttled => {
            Step::End
        }
        Class::Signature | Class::Account | Class::Unknown => Step::AskProbe,
    }
}

/// Whether a name is called for once more although the probe was asked: it is healthy, with another `UserSig` than the one that was
/// refused. So the key was rotated under the call, which was not the message's fault. It counts as [`Step::SignAnew`].
#[must_use]
pub const fn is_called_again(account_healthy: bool, usersig_changed: bool, tries: Tries) -> bool {
    account_healthy && usersig_changed && !tries.resigned
}

impl Tries {
    /// The tries after a step was taken.
    #[must_use]
    pub const fn after(mut self, step: Step) -> Self {
        match step {
            Step::Repeat => self.repeated = true,
            Step::Retry => self.quick += 1,
            Step::SlowDown => self.throttled += 1,
            Step::SignAnew => self.resigned = true,
            Step::End | Step::AskProbe => {}
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_steps() {
        use Class::*;
        let fresh = Tries::default();
        let tired = Tries {
            quick: 2,
            throttled: THROTTLED_MAX,
            repeated: true,
            resigned: true,
        };
        for (class, reset, tries, step) in [
            (Deleted, false, fresh, Step::End),
            (Gone, false, fresh, Step::End),
            (Rejected, false, fresh, Step::End),
            (Transient, false, fresh, Step::Retry),
            (Transient, true, fresh, Step::Repeat),
            (
                Transient,
                true,
                Tries {
                    repeated: true,
                    ..fresh
                },
                Step::Retry,
            ),
            (Transient, false, Tries { quick: 1, ..fresh }, Step::Retry),
            (Transient, false, tired, Step::End),
            (Transient, true, tired, Step::End),
            (Throttled, false, fresh, Step::SlowDown),
            (Throttled, false, tired, Step::End),
            (Signature, false, fresh, Step::SignAnew),
            (Signature, false, tired, Step::AskProbe),
            (Account, false, fresh, Step::AskProbe),
            (Unknown, false, fresh, Step::AskProbe),
        ] {
            assert_eq!(next_step(class, reset, tries, 2), step, "{class} {tries:?}");
        }
    }

    #[test]
    fn a_key_that_was_rotated_under_a_call_is_worth_another_one() {
        let fresh = Tries::default();
        let resigned = fresh.after(Step::SignAnew);
        for (healthy, changed, tries, again) in [
            (true, true, fresh, true),
            (true, true, resigned, false),
            (true, false, fresh, false),
            (false, true, fresh, false),
        ] {
            assert_eq!(
                is_called_again(healthy, changed, tries),
                again,
                "{healthy} {changed} {tries:?}"
            );
        }
    }

    /// Whatever the API answers, one name is called a bounded number of times in one delivery.
    #[test]
    fn every_run_of_answers_ends() {
        use Class::*;
        for class in [Transient, Throttled, Signature, Account] {
            for reset in [false, true] {
                let (mut tries, mut calls) = (Tries::default(), 1);
                loop {
                    match next_step(class, reset, tries, 2) {
                        Step::AskProbe if is_called_again(true, true, tries) => {
                            tries = tries.after(Step::SignAnew);
                        }
                        Step::End | Step::AskProbe => break,
                        step => tries = tries.after(step),
                    }
                    calls += 1;
                    assert!(calls < 20, "{class} goes on for ever");
                }
            }
        }
    }
}
