//! The Chat API, seen from the client: the only room that names reqwest (but for `check --ready`, which asks a running daemon).
//!
//! A call never fails: it ends in a [`convgroup_domain::reply::Reply`]. The `UserSig` travels in the URL, so no URL, and no
//! error that could print one, leaves this room.
mod answer;
pub mod client;
pub mod connects;
pub mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod probe;
pub mod proxy;
pub mod ready;
pub mod settings;
pub mod signer;
pub mod usersig;
