//! `dlq purge`: letters removed for good, after they were written to a file.
use std::path::PathBuf;

use super::{Selection, export, moment};
use crate::tool::{Exit, Failure, count, say};
use convgroup_host::clock::unix_ms;

pub(super) async fn purge(
    selection: &mut Selection,
    yes: bool,
    file: Option<PathBuf>,
    no_export: bool,
) -> Result<Exit, Failure> {
    let total = selection.meant.len();
    if !yes {
        say(&format!(
            "{} would be removed; --yes removes them\n",
            count(total, "letter")
        ))?;
        return Ok(Exit::Done);
    }
    if !no_export && total > 0 {
        let now = moment(Some(unix_ms())).replace(':', "");
        let file = file.unwrap_or_else(|| {
            let number: u16 = rand::random();
            PathBuf::from(format!("dead-letters-{now}-{number:04x}.ndjson"))
        });
        export::write(selection, &file)
            .map_err(|failure| failure.context("nothing was removed".to_owned()))?;
        say(&format!(
            "{} written to {}\n",
            count(total, "letter"),
            file.display()
        ))?;
    }
    for (done, (_, delivery)) in std::mem::take(&mut selection.meant).into_iter().enumerate() {
        let removed = selection.letters.remove(delivery).await;
        removed.map_err(|err| {
            Failure::from(err).context(format!(
                "stopped after {done} of {}, the last few of which may come back; the others are still there",
                count(total, "letter")
            ))
        })?;
    }
    let back = selection.letters.make_sure().await?;
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
