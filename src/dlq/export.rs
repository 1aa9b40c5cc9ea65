//! `dlq export`: letters in a file, one JSON object per line.
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Selection, moment};
use crate::tool::{Exit, Failure, NewFile, count, say};
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

/// Writes a new file, which is there whole or not at all.
pub(super) fn write(selection: &Selection, file: &Path) -> Result<(), Failure> {
    let mut file = NewFile::create(file)?;
    for (letter, delivery) in &selection.meant {
        file.write(line(letter, &delivery.message).as_bytes())?;
    }
    file.keep()
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
