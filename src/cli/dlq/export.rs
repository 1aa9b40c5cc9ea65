//! `dlq export` and `dlq purge`: letters in a file, one JSON object per line.
use std::fs::OpenOptions;
use std::io::{BufWriter, IntoInnerError, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::{Desk, moment};
use crate::broker::delivery::Delivery;
use crate::broker::letter::properties;
use crate::cli::{Exit, Failure, count, say};
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
            "{} written to {}\n",
            count(desk.meant.len(), "letter"),
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
    let total = desk.meant.len();
    if !yes {
        say(&format!(
            "{} would be removed; --yes removes them\n",
            count(total, "letter")
        ))?;
        return Ok(Exit::Done);
    }
    if !no_export && total > 0 {
        let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now())
            .to_string()
            .replace(':', "");
        let file = file.unwrap_or_else(|| {
            let number: u16 = rand::random();
            PathBuf::from(format!("dead-letters-{now}-{number:04x}.ndjson"))
        });
        write(desk, &file).map_err(|failure| Failure {
            error: failure.error.context("nothing was removed"),
            ..failure
        })?;
        say(&format!(
            "{} written to {}\n",
            count(total, "letter"),
            file.display()
        ))?;
    }
    for (done, (_, delivery)) in std::mem::take(&mut desk.meant).into_iter().enumerate() {
        let removed = desk.letters.remove(delivery).await;
        removed.with_context(|| format!("after {done} of {}", count(total, "letter")))?;
    }
    let back = desk.letters.make_sure().await?;
    say(&format!(
        "{} removed\n",
        count(total.saturating_sub(back as usize), "letter")
    ))?;
    if back > 0 {
        say(&format!(
            "{} came back each time and could not be removed; try again\n",
            count(back as usize, "letter")
        ))?;
        return Ok(Exit::Other);
    }
    Ok(Exit::Done)
}

/// Writes a new file, which only its owner may read, and makes sure that it is on the disk before anything else happens.
fn write(desk: &Desk, file: &Path) -> Result<(), Failure> {
    let write = || -> anyhow::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut out = BufWriter::new(options.open(file)?);
        for (letter, delivery) in &desk.meant {
            out.write_all(line(letter, delivery).as_bytes())?;
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
fn line(letter: &Letter, delivery: &Delivery) -> String {
    let body = &delivery.message.body;
    let (key, body) = match std::str::from_utf8(body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", STANDARD.encode(body)),
    };
    let mut object = json!({
        "message_id": letter.message_id, "cause": letter.cause, "class": letter.class, "code": letter.code,
        "info": letter.info, "attempt": letter.attempt, "redrives": letter.redrives,
        "failed_at": moment(letter.failed_at_ms), "properties": properties(&delivery.message),
    });
    object[key] = body.into();
    format!("{object}\n")
}
