//! What chooses: pure functions and the types they speak. No async, no clock, no randomness, no logging.
//!
//! Bytes become a command ([`message`]), a reply ([`reply`]) becomes a verdict ([`code`]), verdicts become a decision
//! ([`decide`]). Whether calls make sense at all is decided by the
//! [`gate`]. Names of queues are made in [`topology`] and nowhere else. What *does* these things lives outside.
pub mod all_groups;
pub mod attempt;
pub mod case;
pub mod cloudevent;
pub mod code;
pub mod dead_letter;
pub mod decide;
pub mod encoding;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod gate;
pub mod line;
pub mod manifest;
pub mod message;
pub mod moment;
pub mod nodes;
mod object;
pub mod outcome;
pub mod quote;
pub mod redrive;
pub mod reply;
pub mod request;
pub mod retry;
#[cfg(test)]
mod samples;
pub mod spacing;
pub mod text;
pub mod topology;
mod window;
