//! `config`: the configuration in force, with sources.
use crate::config::Settings;
use crate::tool::{Exit, Failure, say};

pub(super) fn config(settings: &Settings) -> Result<Exit, Failure> {
    let resolved = settings.resolved();
    let width = resolved
        .iter()
        .map(|(key, _, _)| key.len())
        .max()
        .unwrap_or(0);
    let values = resolved
        .iter()
        .map(|(_, value, _)| value.chars().count())
        .max()
        .unwrap_or(0)
        .min(48);
    let lines = resolved
        .into_iter()
        .map(|(key, value, source)| format!("{key:width$}  {value:values$}  {source}\n"));
    say(&lines.collect::<String>())?;
    settings.config()?;
    Ok(Exit::Done)
}
