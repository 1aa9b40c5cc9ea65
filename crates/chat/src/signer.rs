//! Signs the `UserSig`, keeps it, and renews it in time.
use std::fmt;
use std::sync::{Arc, Mutex};

use secrecy::{ExposeSecret, SecretString};

use super::usersig;
use crate::settings::{Im, SecretError, SecretSource};
use convgroup_host::clock::unix_s;
use convgroup_host::limits::explained;

/// How long a signature is valid: the API's documentation advises not less than 24 hours.
pub const LIFETIME_S: u64 = 24 * 60 * 60;
/// A signature is renewed when this share of its life is over, in percent.
const RENEW_AT_PERCENT: u64 = 80;

/// A signature in use. It is a credential: neither `Debug` nor anything else shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct UserSig(Arc<str>);

impl UserSig {
    /// The text, for the URL only.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserSig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserSig(hidden)")
    }
}

/// Is told when the signature that was just made expires, in unix seconds.
pub type OnSigned = Box<dyn Fn(u64) + Send + Sync>;

/// Signs for one admin account of one app.
pub struct Signer {
    sdk_app_id: u64,
    identifier: String,
    source: SecretSource,
    signed: Mutex<Signed>,
    on_signed: OnSigned,
}

struct Signed {
    key: SecretString,
    usersig: UserSig,
    renew_at_s: u64,
}

impl Signer {
    /// Reads the key and signs for the first time.
    ///
    /// # Errors
    /// The key can't be read.
    pub fn new(im: &Im, on_signed: OnSigned) -> Result<Self, SecretError> {
        let key = im.secret.load()?;
        let signer = Self {
            sdk_app_id: im.sdk_app_id,
            identifier: im.identifier.clone(),
            source: im.secret.clone(),
            signed: Mutex::new(Signed {
                key,
                usersig: UserSig("".into()),
                renew_at_s: 0,
            }),
            on_signed,
        };
        signer.current();
        Ok(signer)
    }

    /// The signature to use now; signs a new one when its time has come.
    pub fn current(&self) -> UserSig {
        let mut signed = self.signed.lock().expect("no panic while held");
        let now_s = unix_s();
        if now_s >= signed.renew_at_s {
            self.sign(&mut signed, now_s);
        }
        signed.usersig.clone()
    }

    /// Signs anew because the API refused `refused`, with the key as it stands in its file now. Once for all calls that used
    /// the same signature.
    pub fn renew(&self, refused: &UserSig) {
        let mut signed = self.signed.lock().expect("no panic while held");
        if signed.usersig != *refused {
            return;
        }
        match self.source.load() {
            Ok(key) => signed.key = key,
            Err(problem) => {
                tracing::warn!(
                    problem = explained(problem.to_string()),
                    "the secret key can't be read again; signing with the one in use"
                );
            }
        }
        self.sign(&mut signed, unix_s());
    }

    fn sign(&self, signed: &mut Signed, now_s: u64) {
        let key = signed.key.expose_secret();
        let usersig = usersig::sign(self.sdk_app_id, key, &self.identifier, now_s, LIFETIME_S);
        signed.usersig = UserSig(usersig.into());
        signed.renew_at_s = now_s + LIFETIME_S * RENEW_AT_PERCENT / 100;
        (self.on_signed)(now_s + LIFETIME_S);
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer")
            .field("sdk_app_id", &self.sdk_app_id)
            .field("identifier", &self.identifier)
            .finish_non_exhaustive()
    }
}
