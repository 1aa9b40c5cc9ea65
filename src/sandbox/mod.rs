//! A stand-in for the Chat API.
