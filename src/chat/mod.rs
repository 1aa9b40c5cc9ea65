//! The Chat API, seen from the client: addresses, signatures, calls.
pub mod usersig;
