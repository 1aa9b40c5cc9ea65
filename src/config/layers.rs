//! Layers of settings: a value, and where it was written. Knows nothing of what the keys mean.
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use toml::de::{DeTable, DeValue};

use super::all;
use convgroup_domain::text::{self, readable};
use convgroup_host::files;

/// Prefix of the environment variables that set keys.
pub(super) const ENV_PREFIX: &str = "CONVGROUP_";

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The embedded `config/default.toml`.
    Default,
    /// A file, as it was given: the whole of it.
    File(Arc<str>),
    /// A line of a file.
    Line {
        /// The file, as it was given.
        path: Arc<str>,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// Nowhere: the key is missing.
    Nowhere,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => f.write_str(&readable(path)),
            Self::Line { path, line } => write!(f, "{}:{line}", readable(path)),
            Self::Env(name) => write!(f, "environment {}", readable(name)),
            Self::Nowhere => f.write_str("not set"),
        }
    }
}

/// A value as it was written: one text, or a list of texts. What it means is the reader's business. It may be a secret, so that
/// `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum Text {
    /// A scalar; in a place for a list, comma-separated.
    One(String),
    /// A list.
    Many(Vec<String>),
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Text {
    /// The texts, a scalar split at its commas.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        match self {
            Self::One(text) => text
                .split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect(),
            Self::Many(texts) => texts.clone(),
        }
    }

    /// The same without white space and byte order marks around each text.
    pub(super) fn trimmed(self) -> Self {
        let trimmed = |text: String| text::trimmed(&text).to_owned();
        match self {
            Self::One(text) => Self::One(trimmed(text)),
            Self::Many(texts) => Self::Many(texts.into_iter().map(trimmed).collect()),
        }
    }

    /// The texts as they were written, those that are `hidden` replaced.
    pub(super) fn all_but(&self, hidden: impl Fn(&str) -> bool, replacement: &str) -> Vec<String> {
        let shown = |text: &String| {
            if hidden(text) {
                replacement.to_owned()
            } else {
                text.clone()
            }
        };
        self.as_written().iter().map(shown).collect()
    }

    /// The texts, no scalar split.
    pub(super) fn as_written(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts.as_slice(),
        }
    }
}

/// One mistake: key, source, what is wrong and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The key, dotted; empty where a whole file can't be read.
    pub key: String,
    /// Where it stands.
    pub source: Source,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.source, self.problem)
        } else {
            write!(f, "{} ({}): {}", self.key, self.source, self.problem)
        }
    }
}

/// Every mistake of a configuration, a line each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the configuration has {} mistake{}:\n{}", .0.len(), if .0.len() == 1 { "" } else { "s" }, lines(.0))]
pub struct ConfigError(pub Vec<Mistake>);

fn lines(mistakes: &[Mistake]) -> String {
    let lines: Vec<String> = mistakes
        .iter()
        .map(|mistake| format!("  {mistake}"))
        .collect();
    lines.join("\n")
}

/// Merged settings: dotted key → value and source.
pub(super) type Values = BTreeMap<String, (Text, Source)>;

/// Flattens a TOML text. `source_of` turns a line into a source.
///
/// # Errors
/// One [`Mistake`] for a text that is no TOML.
pub(super) fn from_toml(
    text: &str,
    source_of: impl Fn(usize) -> Source,
) -> Result<Values, Mistake> {
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = DeTable::parse(text).map_err(|err| Mistake {
        key: String::new(),
        source: source_of(err.span().map_or(1, |span| line_of(span.start))),
        problem: format!("not TOML: {}", err.message()),
    })?;
    let mut values = Values::new();
    flatten(table.get_ref(), "", &mut |key, text, offset| {
        values.insert(key, (text, source_of(line_of(offset))));
    });
    Ok(values)
}

fn flatten(table: &DeTable<'_>, prefix: &str, found: &mut impl FnMut(String, Text, usize)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.get_ref().to_string()
        } else {
            format!("{prefix}.{}", key.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) => flatten(inner, &path, found),
            DeValue::Array(items) => {
                let texts = items.iter().map(|item| scalar(item.get_ref())).collect();
                found(path, Text::Many(texts), key.span().start);
            }
            value => found(path, Text::One(scalar(value)), key.span().start),
        }
    }
}

fn scalar(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(moment) => moment.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => "a nested list or table".to_owned(),
    }
}

/// Reads a file.
///
/// # Errors
/// One [`Mistake`] for a file that can't be read or is no TOML.
pub(super) fn from_file(path: &Path) -> Result<Values, Mistake> {
    let name: Arc<str> = path.display().to_string().into();
    let text = files::text_of(path).map_err(|error| Mistake {
        key: String::new(),
        source: Source::File(Arc::clone(&name)),
        problem: error.to_string(),
    })?;
    from_toml(&text, |line| Source::Line {
        path: Arc::clone(&name),
        line,
    })
}

/// Collects the `CONVGROUP_…` variables. One with nothing in it is not set: charts and compose files pass such for values that
/// nobody gave. Others are not looked at, nor those that Kubernetes sets for a Service whose name begins with `convgroup`
/// (`CONVGROUP_DELETER_SERVICE_HOST`, `CONVGROUP_DELETER_PORT_9464_TCP` …).
pub(super) fn from_env(env: impl IntoIterator<Item = (String, String)>) -> Values {
    let of_kubernetes =
        |name: &str| !name.contains("__") && (name.contains("_SERVICE_") || name.contains("_PORT"));
    env.into_iter()
        .filter(|(name, _)| !of_kubernetes(name))
        .filter_map(|(name, value)| {
            let key = name
                .strip_prefix(ENV_PREFIX)?
                .to_lowercase()
                .replace("__", ".");
            if text::trimmed(&value).is_empty() && !all::may_be_empty(&key) {
                return None;
            }
            Some((key, (Text::One(value), Source::Env(nameable(name)))))
        })
        .collect()
}

/// A variable as an error may name it: a name may hold anything, also what a terminal obeys.
fn nameable(name: String) -> String {
    if name.bytes().all(|byte| byte.is_ascii_graphic()) {
        name
    } else {
        format!("{ENV_PREFIX}… (its name holds more than letters, digits and `_`)")
    }
}
