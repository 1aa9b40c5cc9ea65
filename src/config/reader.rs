//! Reads single keys and gathers mistakes instead of stopping at the first.
use std::ops::RangeInclusive;
use std::time::Duration;

use super::layers::{ConfigError, Mistake, Source, Text, Values};
use crate::text;

/// Reads checked values out of merged layers. Where a value is wrong the mistake is kept and a placeholder returned;
/// [`Reader::finish`] then refuses the whole, so that no placeholder is ever used.
///
/// No mistake repeats a value: it may be a secret that was put in the wrong place. Key and source say where it stands.
pub(super) struct Reader<'a> {
    values: &'a Values,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(values: &'a Values, mistakes: Vec<Mistake>) -> Self {
        Self { values, mistakes }
    }

    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(self.mistakes))
        }
    }

    pub(super) fn is_set(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether one of the texts of a key is such.
    pub(super) fn holds(&self, key: &str, such: impl Fn(&str) -> bool) -> bool {
        let text = self.values.get(key);
        text.is_some_and(|(text, _)| text.as_written().iter().any(|text| such(text)))
    }

    pub(super) fn keys_below(&self, prefix: &str) -> Vec<String> {
        self.values
            .keys()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Records a mistake about a key.
    pub(super) fn wrong(&mut self, key: &str, problem: &str) {
        let source = self
            .values
            .get(key)
            .map_or(Source::Nowhere, |(_, source)| source.clone());
        self.mistakes.push(Mistake {
            key: key.to_owned(),
            source,
            problem: problem.to_owned(),
        });
    }

    /// A value, or `None` with the mistake recorded.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let result = match self.values.get(key) {
            None => Err("is missing".to_owned()),
            Some((Text::Many(_), _)) => Err("is a list; one value is needed".to_owned()),
            Some((Text::One(text), _)) => text::clean(text).and_then(parse),
        };
        result.map_err(|problem| self.wrong(key, &problem)).ok()
    }

    pub(super) fn checked<T: Default>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.optional(key, parse).unwrap_or_default()
    }

    pub(super) fn parsed<T: Placeholder>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        self.optional(key, |text| {
            parse(text).ok_or_else(|| format!("is not {allowed}"))
        })
        .unwrap_or_else(T::placeholder)
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(
        &mut self,
        key: &str,
        allowed: RangeInclusive<u64>,
    ) -> T {
        self.optional(key, |text| {
            text.parse::<u64>()
                .ok()
                .filter(|number| allowed.contains(number))
                .and_then(|number| T::try_from(number).ok())
                .ok_or_else(|| {
                    let (from, to) = (allowed.start(), allowed.end());
                    format!("is not a whole number from {from} to {to}")
                })
        })
        .unwrap_or_default()
    }

    pub(super) fn flag(&mut self, key: &str) -> bool {
        self.parsed(key, "true or false", |text| text.parse().ok())
    }

    pub(super) fn duration(&mut self, key: &str, allowed: RangeInclusive<Duration>) -> Duration {
        self.checked(key, |text| duration(text, &allowed))
    }

    /// A list; every wrong item is a mistake of its own.
    pub(super) fn list<T>(
        &mut self,
        key: &str,
        allowed: RangeInclusive<usize>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some((text, _)) = self.values.get(key) else {
            self.wrong(key, "is missing");
            return Vec::new();
        };
        let texts = text.list();
        if !allowed.contains(&texts.len()) {
            let (from, to) = (allowed.start(), allowed.end());
            self.wrong(
                key,
                &format!("has {} items; allowed: {from} to {to}", texts.len()),
            );
        }
        let mut items = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            match text::clean(text).and_then(&parse) {
                Ok(item) => items.push(item),
                Err(problem) if texts.len() == 1 => self.wrong(key, &problem),
                Err(problem) => self.wrong(key, &format!("item {}: {problem}", index + 1)),
            }
        }
        items
    }
}

/// Reads a duration like `10s`.
pub(super) fn duration(text: &str, allowed: &RangeInclusive<Duration>) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .ok()
        .filter(|duration| allowed.contains(duration))
        .ok_or_else(|| {
            let [from, to] =
                [allowed.start(), allowed.end()].map(|&d| humantime::format_duration(d));
            format!("is not a duration from {from} to {to}")
        })
}

/// What stands in for a value that could not be read until [`Reader::finish`] refuses it.
pub(super) trait Placeholder {
    fn placeholder() -> Self;
}

impl Placeholder for bool {
    fn placeholder() -> Self {
        false
    }
}

impl Placeholder for f64 {
    fn placeholder() -> Self {
        1.0
    }
}

impl Placeholder for std::net::SocketAddr {
    fn placeholder() -> Self {
        Self::from(([127, 0, 0, 1], 0))
    }
}
