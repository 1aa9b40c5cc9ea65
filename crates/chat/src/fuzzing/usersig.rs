//! UserSigs: what `usersig decode` and the sandbox take apart.
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::usersig::{Claims, VerifyError, decode, sign, verify};
use convgroup_domain::fuzzing::{SECRET, assert_silent, with_secret};

const KEY: &str = "a key made up for fuzzing";
const APP: u64 = 1_400_000_000;

/// `data` is a UserSig, what is packed in one, and whom one is signed for.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn usersig(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let packed = packed(data);
    for usersig in [&*text, &packed] {
        if let Ok(claims) = decode(usersig) {
            is_taken_for_what_it_is(usersig, &claims);
        }
    }
    for secret in [with_secret(data), with_secret(packed.as_bytes())] {
        match decode(&String::from_utf8_lossy(&secret)) {
            Ok(claims) => shows_no_signature(claims),
            Err(err) => assert_silent(&format!("{err} {err:?}")),
        }
    }
    what_is_signed_verifies(&text, data);
}

fn is_taken_for_what_it_is(usersig: &str, claims: &Claims) {
    let verified = verify(
        usersig,
        KEY,
        claims.sdk_app_id,
        &claims.identifier,
        claims.time_s,
    );
    if verified.is_ok() {
        // Only who has the key makes such a signature.
        let ours = sign(
            claims.sdk_app_id,
            KEY,
            &claims.identifier,
            claims.time_s,
            claims.expire_s,
        );
        assert_eq!(decode(&ours).map(|ours| ours.sig), Ok(claims.sig.clone()));
    }
    let late = claims.valid_until_s().checked_add(1);
    if let Some(late) = late {
        let verified = verify(usersig, KEY, claims.sdk_app_id, &claims.identifier, late);
        assert_eq!(verified, Err(VerifyError::Expired));
    }
    shows_no_signature(claims.clone());
}

fn shows_no_signature(claims: Claims) {
    let claims = Claims {
        sig: SECRET.to_owned(),
        ..claims
    };
    if !claims.identifier.contains(SECRET) && !claims.ver.contains(SECRET) {
        assert_silent(&format!("{claims:?}"));
    }
}

fn what_is_signed_verifies(user: &str, data: &[u8]) {
    let number = |at: usize| {
        let byte = |at: usize| data.get(at).copied().unwrap_or_default();
        u64::from_be_bytes([at, at + 1, at + 2, at + 3, at + 4, at + 5, at + 6, at + 7].map(byte))
    };
    let (time, lifetime) = (number(0), number(8));
    let usersig = sign(APP, KEY, user, time, lifetime);
    assert!(!usersig.contains(['+', '/', '=']), "not the API's alphabet");
    let claims = verify(&usersig, KEY, APP, user, time).expect("what is signed verifies");
    assert_eq!((claims.time_s, claims.expire_s), (time, lifetime));
    let stranger = verify(&usersig, "another key", APP, user, time);
    assert_eq!(stranger, Err(VerifyError::Signature));
}

/// The bytes in the envelope of a UserSig.
fn packed(json: &[u8]) -> String {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
    let packed = zlib.write_all(json).and_then(|()| zlib.finish());
    let base64 = STANDARD.encode(packed.expect("writing to memory does not fail"));
    base64.replace('+', "*").replace('/', "-").replace('=', "_")
}
