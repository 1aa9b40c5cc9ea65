//! What the operator sets for the API.
use std::path::PathBuf;
use std::time::Duration;

use convgroup_domain::text::{self, Unseen};
use convgroup_host::files::{FileError, is_no_path, text_of};
use secrecy::SecretString;
use thiserror::Error;

use crate::endpoint::Endpoint;

/// The API: where, as whom, with which key.
#[derive(Clone, Debug)]
pub struct Im {
    /// Scheme, host and port.
    pub endpoint: Endpoint,
    /// The app.
    pub sdk_app_id: u64,
    /// The admin account that signs and calls.
    pub identifier: String,
    /// The app's key.
    pub secret: SecretSource,
    /// How long one call may take.
    pub timeout: Duration,
}

/// Where the secret key comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// Written in the configuration.
    Value(SecretString),
    /// In a file, read again when the API refuses a signature.
    File(PathBuf),
}

/// Why there is no key. It names the file, never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SecretError {
    /// What was given as a path can only be the key itself; it is not repeated.
    #[error("is no file; was the key itself put here?")]
    NoPath,
    /// The file can't be read.
    #[error("the file {} {error}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: FileError,
    },
    /// The file holds a character inside that can't be seen: it is more than a key.
    #[error("the file {} {unseen}", file.display())]
    Unseen {
        /// The file.
        file: PathBuf,
        /// The character.
        unseen: Unseen,
    },
    /// There is nothing in this file.
    #[error("the file {} is empty", .0.display())]
    Empty(PathBuf),
}

impl SecretSource {
    /// The key itself, white space and a byte order mark around it removed.
    ///
    /// # Errors
    /// A file that can't be read, is empty or holds more than a key.
    pub fn load(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Value(key) => Ok(key.clone()),
            Self::File(path) if is_no_path(path) => Err(SecretError::NoPath),
            Self::File(path) => {
                let file = || path.clone();
                let text = text_of(path).map_err(|error| SecretError::File {
                    file: file(),
                    error,
                })?;
                match text::clean(&text) {
                    Ok("") => Err(SecretError::Empty(file())),
                    Ok(key) => Ok(SecretString::from(key)),
                    Err(unseen) => Err(SecretError::Unseen {
                        file: file(),
                        unseen,
                    }),
                }
            }
        }
    }
}
