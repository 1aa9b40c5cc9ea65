//! `[im]`: the API: where, as whom, with which key.
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

use super::key::{Key, keys};
use super::layers::Text;
use super::reader::Reader;
use convgroup_domain::text::is_url;

use super::value::{NO_NAME, duration, number};
use convgroup_chat::endpoint::{Endpoint, REGIONS};
use convgroup_chat::settings::{Im, SecretSource};
use convgroup_host::files::is_no_path;

keys! {
    REGION: Key<Endpoint> = Key::shown("im.region", |region| {
        Endpoint::from_region(region).ok_or_else(|| {
            let all: Vec<&str> = REGIONS.iter().map(|(name, _)| *name).collect();
            format!("is no region; allowed: {}", all.join(" ")).into()
        })
    });
    BASE_URL: Key<Endpoint> = Key::shown_as("im.base_url", addresses, |text| {
        Ok(Endpoint::from_base_url(text)?)
    });
    SDK_APP_ID: Key<u64> = Key::shown("im.sdk_app_id", |text| number(text, 1..=u64::from(u32::MAX)));
    IDENTIFIER: Key<String> = Key::shown("im.identifier", |text| match text {
        "" => Err("is empty; the name of an app admin is needed".into()),
        text if is_url(text) => Err(NO_NAME.into()),
        text => Ok(text.to_owned()),
    });
    SECRET_KEY: Key<SecretString> = Key::hidden("im.secret_key", |text| match text.trim() {
        "" => Err("is empty; the secret key of the app is needed".into()),
        key => Ok(SecretString::from(key)),
    });
    SECRET_KEY_FILE: Key<SecretSource> = Key::shown_as("im.secret_key_file", files, |text| {
        let source = SecretSource::File(PathBuf::from(text));
        source.load()?;
        Ok(source)
    });
    TIMEOUT: Key<Duration> = Key::shown("im.timeout", |text| {
        duration(text, Duration::from_millis(100)..=Duration::from_mins(1))
    });
}

pub(super) fn read(reader: &mut Reader<'_>) -> Im {
    let endpoint = if reader.is_set(&BASE_URL) {
        reader.value(&BASE_URL)
    } else {
        reader.value(&REGION)
    };
    Im {
        endpoint,
        sdk_app_id: sdk_app_id(reader),
        identifier: reader.value(&IDENTIFIER),
        secret: secret(reader),
        timeout: reader.value(&TIMEOUT),
    }
}

pub(super) fn sdk_app_id(reader: &mut Reader<'_>) -> u64 {
    reader.value(&SDK_APP_ID)
}

fn secret(reader: &mut Reader<'_>) -> SecretSource {
    let source = match (reader.is_set(&SECRET_KEY), reader.is_set(&SECRET_KEY_FILE)) {
        (true, true) => {
            let problem = format!("is set beside {SECRET_KEY}; set only one of them");
            reader.wrong(&SECRET_KEY_FILE, problem);
            None
        }
        (false, false) => {
            let problem = format!("is missing; set it, or {SECRET_KEY_FILE}");
            reader.wrong(&SECRET_KEY, problem);
            None
        }
        (true, false) => reader.optional(&SECRET_KEY).map(SecretSource::Value),
        (false, true) => reader.optional(&SECRET_KEY_FILE),
    };
    source.unwrap_or_else(|| SecretSource::Value(SecretString::from("")))
}

/// The addresses; one that is refused may hold credentials.
fn addresses(text: &Text) -> Vec<String> {
    let refused = |url: &str| Endpoint::from_base_url(url).is_err();
    Text::Many(text.list()).all_but(refused, "(not an http address)")
}

/// The paths, without a key that was put in the place of one.
fn files(text: &Text) -> Vec<String> {
    text.all_but(|path| is_no_path(Path::new(path)), "(not a file)")
}
