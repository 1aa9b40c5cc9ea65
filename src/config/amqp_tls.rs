//! `[amqp.tls]`: the files for `amqps://`.
use std::path::{Path, PathBuf};

use super::key::{Key, keys};
use super::layers::Text;
use super::reader::Reader;
use super::value::Problem;
use convgroup_broker::tls::{self, TlsError, TlsFiles};
use convgroup_host::files::is_no_path;

keys! {
    CA_FILE: Key<PathBuf> = Key::shown_as("amqp.tls.ca_file", paths, |text| {
        file(text, |path| tls::cas(path).map(drop))
    });
    CERT_FILE: Key<PathBuf> = Key::shown_as("amqp.tls.cert_file", paths, |text| {
        file(text, |path| tls::certificates(path).map(drop))
    });
    KEY_FILE: Key<PathBuf> = Key::shown_as("amqp.tls.key_file", paths, |text| {
        file(text, |path| tls::key_of(path).map(drop))
    });
}

pub(super) fn files(reader: &mut Reader<'_>) -> TlsFiles {
    let files = TlsFiles {
        ca_file: path(reader, &CA_FILE),
        cert_file: path(reader, &CERT_FILE),
        key_file: path(reader, &KEY_FILE),
    };
    if let (Some(cert), Some(key)) = (&files.cert_file, &files.key_file)
        && let Err(problem) = tls::belong_together(cert, key)
    {
        reader.wrong(&KEY_FILE, problem);
    }
    match (reader.is_set(&CERT_FILE), reader.is_set(&KEY_FILE)) {
        (true, false) => reader.wrong(&KEY_FILE, format!("is missing beside {CERT_FILE}")),
        (false, true) => reader.wrong(&CERT_FILE, format!("is missing beside {KEY_FILE}")),
        _ => {}
    }
    files
}

/// The path, if one is set.
fn path(reader: &mut Reader<'_>, key: &Key<PathBuf>) -> Option<PathBuf> {
    if !reader.is_set(key) {
        return None;
    }
    // Before it is read: PEM holds line feeds, and the mistake would speak of those.
    if reader.holds(key, convgroup_domain::text::is_pem) {
        reader.wrong(key, "is PEM itself; put it into a file and name that");
        return None;
    }
    reader.optional(key)
}

/// Reads the path of a file that holds what it should.
fn file(text: &str, check: fn(&Path) -> Result<(), TlsError>) -> Result<PathBuf, Problem> {
    let path = PathBuf::from(text);
    if is_no_path(&path) {
        return Err("is no file; was its content put here?".into());
    }
    check(&path)?;
    Ok(path)
}

/// The paths, without what was put in the place of one.
fn paths(text: &Text) -> Vec<String> {
    text.all_but(|path| is_no_path(Path::new(path)), "(not a path)")
}
