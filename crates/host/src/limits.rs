//! Limits of the machine that this process has run into: how they look in an error, and which one to raise.
//!
//! The system names none of them: a thread that may not be started is "Resource temporarily unavailable", and libraries panic on it.
use std::any::Any;

/// A limit that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Of file descriptors, this process's own.
    Files,
    /// Of file descriptors, the machine's.
    MachineFiles,
    /// Of memory.
    Memory,
    /// Of threads, or of the address space for their stacks.
    Threads,
}

impl Limit {
    /// By its error number on Linux, when it comes from opening, connecting or starting a thread.
    #[must_use]
    pub const fn of_code(os_error: i32) -> Option<Self> {
        match os_error {
            11 => Some(Self::Threads),
            12 => Some(Self::Memory),
            23 => Some(Self::MachineFiles),
            24 => Some(Self::Files),
            _ => None,
        }
    }

    /// By the text of an error, or of a panic that quotes one.
    pub fn in_text(text: &str) -> Option<Self> {
        let mut codes = ["(os error ", "Os { code: "]
            .into_iter()
            .flat_map(|before| {
                text.match_indices(before).filter_map(move |(at, _)| {
                    let rest = &text[at + before.len()..];
                    let end = rest.find(|char: char| !char.is_ascii_digit())?;
                    rest[..end].parse().ok()
                })
            });
        codes.find_map(Self::of_code)
    }

    /// What it means and what to do, in a line.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Files => {
                "this process has no file descriptors left: raise LimitNOFILE= or `ulimit -n`"
            }
            Self::MachineFiles => "this machine has no file descriptors left: raise fs.file-max",
            Self::Memory => {
                "no memory left: raise MemoryMax= or the container's limit; LimitAS= and `ulimit -v` have to be unlimited"
            }
            Self::Threads => {
                "no thread can be started: raise TasksMax=, the container's pids limit or `ulimit -u`; LimitAS= and `ulimit -v` have to be unlimited"
            }
        }
    }
}

/// What to do about the limit that an error's text tells of; nothing where it tells of none, or says that already.
#[must_use]
pub fn advice(text: &str) -> Option<&'static str> {
    let advice = Limit::in_text(text)?.advice();
    (!text.contains(advice)).then_some(advice)
}

/// An error's text, with what to do where it tells of a limit.
#[must_use]
pub fn explained(text: String) -> String {
    match advice(&text) {
        Some(advice) => format!("{text}: {advice}"),
        None => text,
    }
}

/// The limit that a panic is about.
pub fn limit_in_panic(payload: &(dyn Any + Send)) -> Option<Limit> {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied());
    text.and_then(Limit::in_text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_known_by_the_words_of_libraries() {
        for (text, limit) in [
            (
                "OS can't spawn worker thread: Resource temporarily unavailable (os error 11)",
                Some(Limit::Threads),
            ),
            (
                "failed to spawn thread: Os { code: 11, kind: WouldBlock, message: \"Resource temporarily unavailable\" }",
                Some(Limit::Threads),
            ),
            (
                "failed to create UnixStream: Os { code: 24, kind: Uncategorized, message: \"Too many open files\" }",
                Some(Limit::Files),
            ),
            (
                "connecting: Too many open files (os error 24)",
                Some(Limit::Files),
            ),
            (
                "Too many open files in system (os error 23)",
                Some(Limit::MachineFiles),
            ),
            ("Cannot allocate memory (os error 12)", Some(Limit::Memory)),
            ("Connection refused (os error 111)", None),
            ("called `Option::unwrap()` on a `None` value", None),
            ("(os error ", None),
            ("", None),
        ] {
            assert_eq!(Limit::in_text(text), limit, "{text}");
        }
    }

    #[test]
    fn the_advice_is_given_once() {
        let told = explained("reading: Too many open files (os error 24)".to_owned());
        assert!(told.starts_with("reading: Too many open files (os error 24): this process"));
        assert_eq!(explained(told.clone()), told);
        assert_eq!(explained("refused".to_owned()), "refused");
    }
}
