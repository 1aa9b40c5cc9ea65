//! Reads declared keys and gathers mistakes instead of stopping at the first.
use std::collections::BTreeMap;

use super::key::{Declaration, Family, Key, List};
use super::layers::{ConfigError, Mistake, Source, Text, Values};
use super::value::Problem;
use convgroup_domain::text;

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

    fn text(&self, key: &Declaration) -> Option<&'a Text> {
        self.values.get(key.name).map(|(text, _)| text)
    }

    pub(super) fn is_set(&self, key: &impl AsRef<Declaration>) -> bool {
        self.text(key.as_ref()).is_some()
    }

    /// Whether one of the texts of a key is such.
    pub(super) fn holds(&self, key: &impl AsRef<Declaration>, such: impl Fn(&str) -> bool) -> bool {
        let text = self.text(key.as_ref());
        text.is_some_and(|text| text.as_written().iter().any(|text| such(text)))
    }

    /// Records a mistake about a key.
    pub(super) fn wrong(&mut self, key: &impl AsRef<Declaration>, problem: impl Into<Problem>) {
        self.record(key.as_ref().name, problem.into());
    }

    fn record(&mut self, key: &str, problem: Problem) {
        let source = self
            .values
            .get(key)
            .map_or(Source::Nowhere, |(_, source)| source.clone());
        self.mistakes.push(Mistake {
            key: key.to_owned(),
            source,
            problem: problem.into_text(),
        });
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, Problem>,
    ) -> Option<T> {
        let result = match self.values.get(key) {
            None => Err("is missing".into()),
            Some((Text::Many(_), _)) => Err("is a list; one value is needed".into()),
            Some((Text::One(text), _)) => text::clean(text).map_err(Problem::from).and_then(parse),
        };
        result.map_err(|problem| self.record(key, problem)).ok()
    }

    /// A value, or `None` with the mistake recorded. A key that is not set is a mistake.
    pub(super) fn optional<T>(&mut self, key: &Key<T>) -> Option<T> {
        self.parsed(key.as_ref().name, key.parse)
    }

    /// A value, or the default of its type with the mistake recorded.
    pub(super) fn value<T: Default>(&mut self, key: &Key<T>) -> T {
        self.optional(key).unwrap_or_default()
    }

    /// A list; every wrong item is a mistake of its own.
    pub(super) fn list<T>(&mut self, key: &List<T>) -> Vec<T> {
        let Some(text) = self.text(key.as_ref()) else {
            self.wrong(key, "is missing");
            return Vec::new();
        };
        let texts = text.list();
        if !key.count.contains(&texts.len()) {
            let (from, to) = (key.count.start(), key.count.end());
            self.wrong(
                key,
                format!("has {} items; allowed: {from} to {to}", texts.len()),
            );
        }
        let mut items = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let clean = text::clean(text).map_err(Problem::from);
            match clean.and_then(|text| key.parse(text)) {
                Ok(item) => items.push(item),
                Err(problem) if texts.len() == 1 => self.wrong(key, problem),
                Err(problem) => {
                    let item = index + 1;
                    self.wrong(key, format!("item {item}: {}", problem.into_text()));
                }
            }
        }
        items
    }

    /// All values of a family, by the part of the key behind its name. Wrong ones are left out, with the mistake recorded.
    pub(super) fn family<T>(&mut self, family: &Family<T>) -> BTreeMap<String, T> {
        let values = self.values;
        let members = values
            .keys()
            .filter_map(|key| Some((key, family.as_ref().below(key)?)));
        members
            .filter_map(|(key, member)| {
                let value = self.parsed(key, |text| (family.parse)(member, text))?;
                Some((member.to_owned(), value))
            })
            .collect()
    }
}
