//! The only package that names reqwest.
//!
#![doc = include_str!("../README.md")]
mod answer;
pub mod client;
pub mod collector;
pub mod connects;
pub mod endpoint;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod page;
pub mod probe;
mod proxy;
pub mod ready;
pub mod settings;
pub mod signer;
pub mod usersig;
