//! `dlq export`: letters in a file, one JSON object per line.
use std::fs::OpenOptions;
use std::io::{BufWriter, IntoInnerError, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Desk, moment};
use crate::broker::delivery::Message;
use crate::broker::letter::properties;
use crate::cli::{Exit, Failure, count, say};
use crate::domain::letter::Letter;

pub(super) fn export(desk: &Desk, file: &Path) -> Result<Exit, Failure> {
    if file == Path::new("-") {
        let lines: Vec<String> = desk
            .meant
            .iter()
            .map(|(letter, delivery)| line(letter, &delivery.message))
            .collect();
        say(&lines.concat())?;
    } else {
        write(desk, file)?;
        say(&format!(
            "{} written to {}\n",
            count(desk.meant.len(), "letter"),
            file.display()
        ))?;
    }
    Ok(Exit::Done)
}

/// Writes a new file, which only its owner may read, and makes sure that it is on the disk before anything else happens.
pub(super) fn write(desk: &Desk, file: &Path) -> Result<(), Failure> {
    let write = || -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut out = BufWriter::new(options.open(file)?);
        for (letter, delivery) in &desk.meant {
            out.write_all(line(letter, &delivery.message).as_bytes())?;
        }
        out.into_inner()
            .map_err(IntoInnerError::into_error)?
            .sync_all()?;
        Ok(())
    };
    write()
        .with_context(|| {
            format!(
                "{} can't be written (an existing file is not overwritten)",
                file.display()
            )
        })
        .map_err(|err| Failure::new(Exit::Other, anyhow!(err)))
}

/// A letter, whole: a body that is no UTF-8 is in base64.
pub(crate) fn line(letter: &Letter, message: &Message) -> String {
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
