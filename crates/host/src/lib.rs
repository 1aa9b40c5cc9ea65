//! What the machine gives: time, pauses, files, trusted CAs, limits.
//!
//! The rooms at the two ends ([the API](../convgroup_chat/index.html) and [the broker](../convgroup_broker/index.html)) and the
//! program share these. They can't live in [`convgroup_domain`], which is pure, and the two ends do not know of each other.
pub mod clock;
pub mod failpoint;
pub mod files;
pub mod intervals;
pub mod limits;
pub mod trust;
