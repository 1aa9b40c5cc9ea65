//! `dlq export`: letters in a file, one JSON object per line.
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, IntoInnerError, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Selection, moment};
use crate::tool::{Exit, Failure, count, say};
use convgroup_broker::dead_letter::properties;
use convgroup_broker::delivery::Message;
use convgroup_domain::dead_letter::DeadLetter;

pub(super) fn export(selection: &Selection, file: &Path) -> Result<Exit, Failure> {
    if file == Path::new("-") {
        let lines: Vec<String> = selection
            .meant
            .iter()
            .map(|(letter, delivery)| line(letter, &delivery.message))
            .collect();
        say(&lines.concat())?;
    } else {
        write(selection, file)?;
        say(&format!(
            "{} written to {}\n",
            count(selection.meant.len(), "letter"),
            file.display()
        ))?;
    }
    Ok(Exit::Done)
}

/// Writes a new file, which only its owner may read, and makes sure that it is on the disk before anything else happens. The file
/// is there whole or not at all.
pub(super) fn write(selection: &Selection, file: &Path) -> Result<(), Failure> {
    let lines = selection
        .meant
        .iter()
        .map(|(letter, delivery)| line(letter, &delivery.message));
    write_whole(file, lines).map_err(|err| {
        let what = if err.kind() == ErrorKind::AlreadyExists {
            "is there already (an existing file is not overwritten)"
        } else {
            "can't be written; nothing of it was left behind"
        };
        let err = anyhow::Error::new(err).context(format!("{} {what}", file.display()));
        Failure::new(Exit::Other, err)
    })
}

/// Writes the lines to a temporary file in the same folder, and gives it its name when all of it is on the disk.
fn write_whole(file: &Path, lines: impl Iterator<Item = String>) -> io::Result<()> {
    if file.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let folder = match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let temporary =
        Temporary(folder.join(format!(".dlq-export-{:016x}.tmp", rand::random::<u64>())));
    let mut out = BufWriter::new(create_new(&temporary.0)?);
    for line in lines {
        out.write_all(line.as_bytes())?;
    }
    out.into_inner()
        .map_err(IntoInnerError::into_error)?
        .sync_all()?;
    // Made first, so that the renaming replaces nobody's file: a name can be taken meanwhile.
    create_new(file)?;
    fs::rename(&temporary.0, file)
        .and_then(|()| sync_folder(folder))
        .inspect_err(|_| drop(fs::remove_file(file)))
}

/// A new file that only its owner may read.
fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Makes sure that a new name in the folder is on the disk. Some file systems can't, and say so; a folder that may not be read
/// can't be asked.
fn sync_folder(folder: &Path) -> io::Result<()> {
    let Ok(folder) = File::open(folder) else {
        return Ok(());
    };
    match folder.sync_all() {
        Err(err) if matches!(err.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => {
            Ok(())
        }
        synced => synced,
    }
}

/// A temporary file. It is removed when this is dropped, unless it has got another name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// A letter, whole: a body that is no UTF-8 is in base64.
pub(crate) fn line(letter: &DeadLetter, message: &Message) -> String {
    let body = &message.body;
    let (key, body) = match std::str::from_utf8(body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", STANDARD.encode(body)),
    };
    let mut object = json!({
        "message_id": letter.message_id, "cause": letter.cause, "class": letter.class, "code": letter.code,
        "info": letter.info, "attempt": letter.attempt, "redrives": letter.redrives,
        "failed_at": moment(letter.failed_at_ms), "properties": properties(message),
    });
    object[key] = body.into();
    format!("{object}\n")
}
