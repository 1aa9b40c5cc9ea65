//! Reads users and groups from NDJSON: `{"user":"user15","groups":["a","b"]}`, one user a line, blank lines allowed.

use std::io;

use serde::Deserialize;

use super::store::{NameTooLong, Store};

/// The longest line, in bytes.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// A line of a seed that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {error}")]
pub struct SeedError {
    line: u64,
    error: SeedLineError,
}

/// What is wrong with the line.
#[derive(Debug, thiserror::Error)]
pub enum SeedLineError {
    /// The line is not of the form `{"user":"user15","groups":["a","b"]}`.
    #[error("not a user with groups: {0}")]
    Json(#[from] serde_json::Error),
    /// A name is too long.
    #[error(transparent)]
    NameTooLong(#[from] NameTooLong),
    /// The line is longer than what is read at once.
    #[error("longer than 1 MiB")]
    LineTooLong,
    /// The line could not be read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
}

/// Takes a seed in chunks of any size and holds no more than one line of it.
#[derive(Default)]
pub(super) struct Seeder {
    rest: Vec<u8>,
    lines: u64,
    users: u64,
}

impl Seeder {
    pub(super) fn push(&mut self, chunk: &[u8], store: &mut Store) -> Result<(), SeedError> {
        let mut pieces = chunk.split(|byte| *byte == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.rest.extend_from_slice(piece);
            self.end_line(store)?;
        }
        self.rest.extend_from_slice(last);
        if self.rest.len() > LINE_BYTES_MAX {
            return Err(self.error(SeedLineError::LineTooLong));
        }
        Ok(())
    }

    /// Takes the last line, which needs no line feed, and returns how many users there were.
    pub(super) fn finish(mut self, store: &mut Store) -> Result<u64, SeedError> {
        self.end_line(store)?;
        Ok(self.users)
    }

    /// An error of the line that is being read.
    pub(super) fn error(&self, error: SeedLineError) -> SeedError {
        SeedError {
            line: self.lines + 1,
            error,
        }
    }

    fn end_line(&mut self, store: &mut Store) -> Result<(), SeedError> {
        if !self.rest.trim_ascii().is_empty() {
            add_line(&self.rest, store).map_err(|error| self.error(error))?;
            self.users += 1;
        }
        self.rest.clear();
        self.lines += 1;
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    user: String,
    #[serde(default)]
    groups: Vec<String>,
}

fn add_line(line: &[u8], store: &mut Store) -> Result<(), SeedLineError> {
    let Line { user, groups } = serde_json::from_slice(line)?;
    Ok(store.add_user(&user, &groups)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: &str =
        "{\"user\":\"u\",\"groups\":[\"a\",\"b\"]}\n\n{\"user\":\"empty\"}\r\n{\"user\":\"last\"}";

    fn seed(text: &str, chunk_bytes: usize) -> (Store, Result<u64, SeedError>) {
        let (mut store, mut seeder) = (Store::default(), Seeder::default());
        for chunk in text.as_bytes().chunks(chunk_bytes) {
            if let Err(error) = seeder.push(chunk, &mut store) {
                return (store, Err(error));
            }
        }
        let users = seeder.finish(&mut store);
        (store, users)
    }

    #[test]
    fn chunks_may_end_anywhere() {
        for chunk_bytes in 1..SEED.len() {
            let (store, users) = seed(SEED, chunk_bytes);
            assert_eq!(users.unwrap(), 3);
            assert_eq!(store.groups("u").unwrap(), ["a", "b"]);
            assert!(store.groups("empty").unwrap().is_empty());
            assert!(store.groups("last").unwrap().is_empty());
        }
    }

    #[test]
    fn a_bad_line_is_named_and_those_before_it_count() {
        let (store, users) = seed("{\"user\":\"u\"}\n{}\n{\"user\":\"v\"}", 7);
        assert!(
            users
                .unwrap_err()
                .to_string()
                .starts_with("line 2: not a user with groups")
        );
        assert!(store.groups("u").is_some());
        assert!(store.groups("v").is_none());
    }

    #[test]
    fn long_names_and_long_lines_are_refused() {
        let line = format!("{{\"user\":\"u\",\"groups\":[\"{}\"]}}", "x".repeat(33));
        assert_eq!(
            seed(&line, 100).1.unwrap_err().to_string(),
            "line 1: a group name is longer than 32 bytes"
        );
        let line = " ".repeat(LINE_BYTES_MAX + 1);
        assert_eq!(
            seed(&line, 1 << 16).1.unwrap_err().to_string(),
            "line 1: longer than 1 MiB"
        );
    }
}
