//! `dlq export` and `dlq purge`: letters in a file, one JSON object per line.
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Desk, moment};
use crate::broker::delivery::Delivery;
use crate::cli::{Exit, Failure, say};
use crate::domain::letter::Letter;

pub(super) fn export(desk: &Desk, file: &Path) -> Result<Exit, Failure> {
    if file == Path::new("-") {
        let lines: Vec<String> = desk
            .meant
            .iter()
            .map(|(letter, delivery)| line(letter, delivery))
            .collect();
        say(&lines.concat())?;
    } else {
        write(desk, file)?;
        say(&format!(
            "{} letters written to {}\n",
            desk.meant.len(),
            file.display()
        ))?;
    }
    Ok(Exit::Done)
}

pub(super) async fn purge(
    desk: &mut Desk,
    yes: bool,
    file: Option<PathBuf>,
    no_export: bool,
) -> Result<Exit, Failure> {
    let count = desk.meant.len();
    if !yes {
        say(&format!(
            "{count} letters would be removed; --yes removes them\n"
        ))?;
        return Ok(Exit::Done);
    }
    if !no_export && count > 0 {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now())
            .to_string()
            .replace(':', "");
        let file = file.unwrap_or_else(|| PathBuf::from(format!("dead-letters-{now}.ndjson")));
        write(desk, &file)?;
        say(&format!("{count} letters written to {}\n", file.display()))?;
    }
    let mut removed = 0;
    for (_, delivery) in std::mem::take(&mut desk.meant) {
        desk.letters.remove(delivery).await?;
        removed += 1;
    }
    say(&format!("{removed} letters removed\n"))?;
    Ok(Exit::Done)
}

/// Writes a new file, and makes sure that it is on the disk before anything else happens.
fn write(desk: &Desk, file: &Path) -> Result<(), Failure> {
    let write = || -> anyhow::Result<()> {
        let mut out = OpenOptions::new().write(true).create_new(true).open(file)?;
        for (letter, delivery) in &desk.meant {
            out.write_all(line(letter, delivery).as_bytes())?;
        }
        out.sync_all()?;
        Ok(())
    };
    write()
        .with_context(|| format!("{} can't be written; nothing was removed", file.display()))
        .map_err(|err| Failure::new(Exit::Other, anyhow!(err)))
}

/// A letter, whole: a body that is no UTF-8 is in base64.
fn line(letter: &Letter, delivery: &Delivery) -> String {
    let body = &delivery.message.body;
    let (key, body) = match std::str::from_utf8(body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", STANDARD.encode(body)),
    };
    let mut object = json!({
        "message_id": letter.message_id, "cause": letter.cause, "class": letter.class, "code": letter.code,
        "info": letter.info, "attempt": letter.attempt, "redrives": letter.redrives,
        "failed_at": moment(letter.failed_at_ms),
    });
    object[key] = body.into();
    format!("{object}\n")
}
