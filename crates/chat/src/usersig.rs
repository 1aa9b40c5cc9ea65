//! Signing, decoding and verifying `UserSig` (`TLSSigAPIv2`).
//!
//! A UserSig is a small JSON object, zlib-compressed and written in base64 with `*-_` in the place of `+/=`.
//! It is a credential: nothing here puts it, or the secret key, into an error or a `Debug` text.
//! When to sign anew is not decided here.
//!
//! ```
//! use convgroup_chat::usersig::{self, VerifyError};
//!
//! let (app, key, admin) = (1_400_000_000, "a key made up for tests", "administrator");
//! let (issued_at_s, lifetime_s) = (1_700_000_000, 24 * 60 * 60);
//! let usersig = usersig::sign(app, key, admin, issued_at_s, lifetime_s);
//!
//! // The API verifies it like this.
//! let claims = usersig::verify(&usersig, key, app, admin, issued_at_s + 60)?;
//! assert_eq!(claims.valid_until_s(), issued_at_s + lifetime_s);
//!
//! let refused = |key, now_s| usersig::verify(&usersig, key, app, admin, now_s).unwrap_err();
//! assert_eq!(refused("another key", issued_at_s), VerifyError::Signature);
//! assert_eq!(refused(key, claims.valid_until_s() + 1), VerifyError::Expired);
//! # Ok::<(), VerifyError>(())
//! ```

use std::fmt::{self, Write as _};
use std::io::{Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// The largest UserSig that is looked at, in bytes, both as text and inflated; a real one has about 200.
const USERSIG_BYTES_MAX: usize = 64 * 1024;

/// Signs a UserSig for `identifier`, valid from `issued_at_s` (Unix seconds) for `lifetime_s` seconds.
///
/// The key is the secret's text as it stands in the console, not the bytes its hex digits spell.
#[must_use]
pub fn sign(
    sdk_app_id: u64,
    secret_key: &str,
    identifier: &str,
    issued_at_s: u64,
    lifetime_s: u64,
) -> String {
    let text = string_to_sign(sdk_app_id, identifier, issued_at_s, lifetime_s);
    let claims = Claims {
        ver: "2.0".to_owned(),
        identifier: identifier.to_owned(),
        sdk_app_id,
        time_s: issued_at_s,
        expire_s: lifetime_s,
        userbuf: None,
        sig: STANDARD.encode(keyed(secret_key, &text).finalize().into_bytes()),
    };
    encode(&claims)
}

/// The text whose HMAC-SHA256 is the signature: four lines, each ended by a line feed.
#[must_use]
pub fn string_to_sign(
    sdk_app_id: u64,
    identifier: &str,
    issued_at_s: u64,
    lifetime_s: u64,
) -> String {
    format!(
        "TLS.identifier:{identifier}\nTLS.sdkappid:{sdk_app_id}\nTLS.time:{issued_at_s}\nTLS.expire:{lifetime_s}\n"
    )
}

/// What a UserSig says, not yet verified.
///
/// `Debug` leaves the signature out, since a UserSig could be put together again from it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The version of the scheme, `"2.0"`.
    #[serde(rename = "TLS.ver")]
    pub ver: String,
    /// The account this UserSig is for.
    #[serde(rename = "TLS.identifier")]
    pub identifier: String,
    /// The app this UserSig is for.
    #[serde(rename = "TLS.sdkappid")]
    pub sdk_app_id: u64,
    /// When it was signed, in Unix seconds.
    #[serde(rename = "TLS.time")]
    pub time_s: u64,
    /// How long it is valid, in seconds from `time_s`.
    #[serde(rename = "TLS.expire")]
    pub expire_s: u64,
    /// Rights to enter a room, in standard base64, where the signer added some; they are signed with the rest.
    #[serde(rename = "TLS.userbuf", skip_serializing_if = "Option::is_none")]
    pub userbuf: Option<String>,
    /// The signature in standard base64.
    #[serde(rename = "TLS.sig")]
    pub sig: String,
}

impl Claims {
    /// The last Unix second in which the UserSig is valid.
    #[must_use]
    pub fn valid_until_s(&self) -> u64 {
        self.time_s.saturating_add(self.expire_s)
    }

    /// Whether the signature was made with `secret_key`; compares in constant time.
    #[must_use]
    pub fn is_signed_with(&self, secret_key: &str) -> bool {
        let mut text = string_to_sign(
            self.sdk_app_id,
            &self.identifier,
            self.time_s,
            self.expire_s,
        );
        if let Some(userbuf) = &self.userbuf {
            let _ = writeln!(text, "TLS.userbuf:{userbuf}");
        }
        STANDARD
            .decode(&self.sig)
            .is_ok_and(|sig| keyed(secret_key, &text).verify_slice(&sig).is_ok())
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("ver", &self.ver)
            .field("identifier", &self.identifier)
            .field("sdk_app_id", &self.sdk_app_id)
            .field("time_s", &self.time_s)
            .field("expire_s", &self.expire_s)
            .field("userbuf", &self.userbuf)
            .finish_non_exhaustive()
    }
}

/// Why a text is no UserSig.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text holds something other than the alphabet, or its padding is wrong.
    #[error("the usersig is not base64 in its own alphabet")]
    Base64,
    /// The bytes are no complete zlib stream.
    #[error("the usersig does not inflate")]
    Inflate,
    /// The text, or what it inflates to, is larger than 64 KiB.
    #[error("the usersig is larger than 64 KiB")]
    TooLarge,
    /// The inflated bytes are no JSON object with the `TLS.*` fields.
    #[error("the usersig does not hold the expected json")]
    Json,
}

/// Takes a UserSig apart without verifying it.
///
/// # Errors
/// [`DecodeError`] names the layer that did not open; any input is safe, and memory is bounded.
pub fn decode(usersig: &str) -> Result<Claims, DecodeError> {
    if usersig.len() > USERSIG_BYTES_MAX {
        return Err(DecodeError::TooLarge);
    }
    let base64: Vec<u8> = usersig.bytes().map(to_standard).collect();
    let packed = STANDARD.decode(base64).map_err(|_| DecodeError::Base64)?;
    let mut json = Vec::new();
    ZlibDecoder::new(packed.as_slice())
        .take(USERSIG_BYTES_MAX as u64 + 1)
        .read_to_end(&mut json)
        .map_err(|_| DecodeError::Inflate)?;
    if json.len() > USERSIG_BYTES_MAX {
        return Err(DecodeError::TooLarge);
    }
    serde_json::from_slice(&json).map_err(|_| DecodeError::Json)
}

/// Why a UserSig is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// It could not be taken apart.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// It is for another app.
    #[error("the usersig is for another sdkappid")]
    SdkAppId,
    /// It is for another account.
    #[error("the usersig is for another identifier")]
    Identifier,
    /// Its lifetime has passed.
    #[error("the usersig has expired")]
    Expired,
    /// It was signed with another key, or changed after it was signed.
    #[error("the signature does not match the secret key")]
    Signature,
}

/// Decodes a UserSig and verifies app, account, lifetime at `now_s` (Unix seconds) and signature, in this order.
///
/// # Errors
/// [`VerifyError`] names the first thing that does not hold.
pub fn verify(
    usersig: &str,
    secret_key: &str,
    sdk_app_id: u64,
    identifier: &str,
    now_s: u64,
) -> Result<Claims, VerifyError> {
    let claims = decode(usersig)?;
    if claims.sdk_app_id != sdk_app_id {
        return Err(VerifyError::SdkAppId);
    }
    if claims.identifier != identifier {
        return Err(VerifyError::Identifier);
    }
    if now_s > claims.valid_until_s() {
        return Err(VerifyError::Expired);
    }
    if !claims.is_signed_with(secret_key) {
        return Err(VerifyError::Signature);
    }
    Ok(claims)
}

fn keyed(secret_key: &str, text: &str) -> Hmac<Sha256> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(secret_key.as_bytes())
        .expect("HMAC takes a key of any length");
    hmac.update(text.as_bytes());
    hmac
}

fn encode(claims: &Claims) -> String {
    let json = serde_json::to_vec(claims).expect("strings and numbers always become JSON");
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    let packed = zlib
        .write_all(&json)
        .and_then(|()| zlib.finish())
        .expect("writing to memory does not fail");
    STANDARD.encode(packed).chars().map(from_standard).collect()
}

fn from_standard(standard: char) -> char {
    match standard {
        '+' => '*',
        '/' => '-',
        '=' => '_',
        other => other,
    }
}

fn to_standard(written: u8) -> u8 {
    match written {
        b'*' => b'+',
        b'-' => b'/',
        b'_' => b'=',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    const KEY: &str = "a key made up for tests";

    /// Made by the two official packages; see the file's own notes.
    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../tests/usersig-vectors.json")).unwrap()
    }

    fn text<'a>(object: &'a Value, field: &str) -> &'a str {
        object[field]
            .as_str()
            .unwrap_or_else(|| panic!("{field} is a string in {object}"))
    }

    fn number(object: &Value, field: &str) -> u64 {
        object[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field} is a number in {object}"))
    }

    fn zlib_base64(json: &[u8]) -> String {
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(json).unwrap();
        STANDARD
            .encode(zlib.finish().unwrap())
            .chars()
            .map(from_standard)
            .collect()
    }

    #[test]
    fn signatures_equal_those_of_the_official_packages() {
        let vectors = vectors();
        for vector in vectors["vectors"].as_array().unwrap() {
            let (name, key, user) = (
                text(vector, "name"),
                text(vector, "secret_key"),
                text(vector, "userid"),
            );
            let (app, time, expire) = (
                number(vector, "sdkappid"),
                number(vector, "time"),
                number(vector, "expire"),
            );

            let signed = string_to_sign(app, user, time, expire);
            assert_eq!(signed, text(vector, "string_to_sign"), "{name}");
            let hmac = keyed(key, &signed).finalize().into_bytes();
            let hex = hmac
                .iter()
                .fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
            assert_eq!(hex, text(vector, "hmac_sha256_hex"), "{name}");

            let claims = decode(&sign(app, key, user, time, expire)).unwrap();
            assert_eq!(
                serde_json::to_value(claims).unwrap(),
                vector["json"],
                "{name}"
            );
        }
    }

    #[test]
    fn usersigs_of_the_official_packages_decode_and_verify() {
        let vectors = vectors();
        for vector in vectors["vectors"].as_array().unwrap() {
            for package in ["usersig_npm_1_0_2", "usersig_pypi_1_1"] {
                let usersig = text(vector, package);
                let claims = decode(usersig).unwrap();
                assert_eq!(
                    serde_json::to_value(&claims).unwrap(),
                    vector["json"],
                    "{package} {vector}"
                );
                assert_eq!(claims.valid_until_s(), number(vector, "expires_at"));
                let verified = verify(
                    usersig,
                    text(vector, "secret_key"),
                    number(vector, "sdkappid"),
                    text(vector, "userid"),
                    number(vector, "expires_at"),
                );
                assert_eq!(verified, Ok(claims));
            }
        }
    }

    #[test]
    fn verdicts_equal_those_of_the_official_verifier() {
        let vectors = vectors();
        for case in vectors["verify_cases"].as_array().unwrap() {
            let verified = verify(
                text(case, "usersig"),
                text(case, "secret_key"),
                number(case, "sdkappid"),
                text(case, "userid"),
                number(case, "now"),
            );
            let verdict = match verified {
                Ok(_) => "ok",
                Err(VerifyError::Undecodable(_)) => "undecodable",
                Err(VerifyError::SdkAppId) => "sdkappid_not_match",
                Err(VerifyError::Identifier) => "identifier_not_match",
                Err(VerifyError::Expired) => "expired",
                Err(VerifyError::Signature) => "sig_not_match",
            };
            assert_eq!(verdict, text(case, "expect"), "{case}");
        }
    }

    /// The signature was derived by hand, as the official packages do with a userbuf:
    /// `printf 'TLS.identifier:admin\nTLS.sdkappid:1400000000\nTLS.time:1700000000\nTLS.expire:86400\nTLS.userbuf:%s\n'
    /// AAAFYWRtaW4= | openssl dgst -sha256 -hmac 'a key made up for tests' -binary | base64`.
    #[test]
    fn a_userbuf_is_signed_with_the_rest() {
        const SIG: &str = "3e00PjGv+6AyZxUOzLh0TgAS0oReWuC3418QwHwiySg=";
        let json = serde_json::json!({
            "TLS.ver": "2.0", "TLS.identifier": "admin", "TLS.sdkappid": 1_400_000_000, "TLS.time": 1_700_000_000,
            "TLS.expire": 86_400, "TLS.userbuf": "AAAFYWRtaW4=", "TLS.sig": SIG,
        });
        let packed = |json: &Value| zlib_base64(json.to_string().as_bytes());
        let verified =
            |json: &Value| verify(&packed(json), KEY, 1_400_000_000, "admin", 1_700_000_000);
        let claims = verified(&json).unwrap();
        assert_eq!(claims.userbuf.as_deref(), Some("AAAFYWRtaW4="));
        assert_eq!(serde_json::to_value(claims).unwrap(), json);
        for changed in [Value::from("AAAFYWRtaW5="), Value::Null] {
            let mut json = json.clone();
            json["TLS.userbuf"] = changed;
            assert_eq!(verified(&json), Err(VerifyError::Signature));
        }
    }

    #[test]
    fn each_layer_that_does_not_open_has_its_own_error() {
        assert_eq!(decode("not base64!"), Err(DecodeError::Base64));
        assert_eq!(decode("AAAA"), Err(DecodeError::Inflate));
        assert_eq!(decode(&zlib_base64(b"{}")), Err(DecodeError::Json));
        assert_eq!(
            decode(&"A".repeat(USERSIG_BYTES_MAX + 1)),
            Err(DecodeError::TooLarge)
        );
    }

    #[test]
    fn a_zip_bomb_stops_at_the_limit() {
        let bomb = zlib_base64(&vec![b' '; 8 * 1024 * 1024]);
        assert!(
            bomb.len() < USERSIG_BYTES_MAX,
            "the text alone is within the limit"
        );
        assert_eq!(decode(&bomb), Err(DecodeError::TooLarge));
    }

    #[test]
    fn debug_leaves_the_signature_out() {
        let claims = decode(&sign(1, KEY, "admin", 1, 1)).unwrap();
        assert!(!format!("{claims:?}").contains(&claims.sig));
    }

    proptest! {
        #[test]
        fn what_is_signed_verifies(app: u64, user: String, time: u32, lifetime: u32) {
            let usersig = sign(app, KEY, &user, time.into(), lifetime.into());
            prop_assert!(!usersig.contains(['+', '/', '=']));
            let claims = verify(&usersig, KEY, app, &user, time.into()).unwrap();
            prop_assert_eq!(claims.expire_s, u64::from(lifetime));
            prop_assert_eq!(verify(&usersig, "another key", app, &user, time.into()), Err(VerifyError::Signature));
        }

        #[test]
        fn garbage_never_panics(garbage: String) {
            prop_assert!(decode(&garbage).is_err());
        }

        #[test]
        fn garbage_inside_the_envelope_never_panics(garbage: Vec<u8>) {
            prop_assert!(decode(&zlib_base64(&garbage)).is_err());
        }

        #[test]
        fn a_changed_usersig_never_panics(at in 0_usize..100, byte in b' '..b'~') {
            let mut usersig = sign(1, KEY, "admin", 1, 1).into_bytes();
            usersig[at] = byte;
            let _ = decode(std::str::from_utf8(&usersig).unwrap());
        }
    }
}
