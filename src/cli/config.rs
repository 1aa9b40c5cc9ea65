//! `config`: the configuration in force, with sources.
use super::{Exit, Failure};
use crate::config::Settings;

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
    for (key, value, source) in resolved {
        println!("{key:width$}  {value:values$}  {source}");
    }
    settings.config()?;
    Ok(Exit::Done)
}
