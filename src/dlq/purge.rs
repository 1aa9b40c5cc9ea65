//! `dlq purge`: letters removed for good, after they were written to a file.
use std::path::PathBuf;

use super::{Selection, export, moment};
use crate::config::{ConfigError, Settings};
use crate::tool::{Exit, Failure, count, say};
use convgroup_broker::delivery::Message;
use convgroup_broker::settings::Amqp;
use convgroup_domain::message::{AllGroups, decode_message};
use convgroup_domain::outcome::{Answer, OutcomeEvent, Told};
use convgroup_host::clock::unix_ms;

/// Answers the requests of letters that are removed.
pub(super) struct Purger {
    sdk_app_id: u64,
    include_ids: bool,
}

impl Purger {
    /// Nothing where requests are not answered.
    pub(super) fn new(amqp: &Amqp, settings: &Settings) -> Result<Option<Self>, ConfigError> {
        if amqp.topology.outcomes.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            sdk_app_id: settings.sdk_app_id()?,
            include_ids: settings.include_ids()?,
        }))
    }

    fn outcome(&self, letter: &Message) -> OutcomeEvent {
        let decoded = decode_message(&letter.body, &letter.declared(), AllGroups::Accepted);
        let event = decoded.event.as_ref().ok();
        let request = letter.request(decoded.cloudevents_id.as_deref(), event);
        let now_ms = unix_ms();
        let ids = event.filter(|_| self.include_ids);
        OutcomeEvent::new(
            &Answer::purged(event),
            Told {
                request: &request,
                attempt: letter.attempt(now_ms),
                published_ms: letter.timestamp_ms(now_ms),
                sdk_app_id: self.sdk_app_id,
                now_ms,
                ids: ids.map(|event| (event.user(), event.names())),
            },
        )
    }
}

pub(super) async fn purge(
    selection: &mut Selection,
    purger: Option<Purger>,
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
        let removed = async {
            if let Some(purger) = &purger {
                let outcome = purger.outcome(&delivery.message);
                selection
                    .letters
                    .answer(&delivery.message, &outcome)
                    .await?;
            }
            selection.letters.remove(delivery).await
        };
        removed.await.map_err(|err| {
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
