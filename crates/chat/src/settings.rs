//! What the operator sets for the API.
use std::path::PathBuf;
use std::time::Duration;

use convgroup_domain::text;
use convgroup_host::files::{is_no_path, text_of};
use secrecy::SecretString;

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

impl SecretSource {
    /// The key itself, white space and a byte order mark around it removed.
    ///
    /// # Errors
    /// A file that can't be read, is empty or holds more than a key; the text says which and why, never what is in it. What can only be the key, put in
    /// the place of its file, is not repeated.
    pub fn load(&self) -> Result<SecretString, String> {
        match self {
            Self::Value(key) => Ok(key.clone()),
            Self::File(path) if is_no_path(path) => {
                Err("is no file; was the key itself put here?".to_owned())
            }
            Self::File(path) => text_of(path)
                .and_then(|text| match text::clean(&text)? {
                    "" => Err("is empty".to_owned()),
                    key => Ok(SecretString::from(key)),
                })
                .map_err(|problem| format!("the file {} {problem}", path.display())),
        }
    }
}
