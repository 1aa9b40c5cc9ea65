//! What the operator configured: layers read, every value checked, all mistakes reported at once.
//!
//! `config/default.toml` is embedded and is the defaults. To add a key: declare it in its section's file with bounds and whether
//! it may be shown, read it there into a field, and write it into `config/default.toml` (an optional one as a comment) and
//! `docs/configuration.md`.
mod all;
mod amqp;
mod amqp_tls;
mod events;
mod http;
mod im;
mod key;
mod layers;
mod log;
mod outcomes;
mod policy;
mod rate_limit;
mod reader;
mod retry;
mod shutdown;
mod suspend;
mod value;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

pub use all::KEYS;
pub use layers::{ConfigError, Mistake, Source, Text};
pub use log::Log;
use reader::Reader;
pub use retry::Retry;
pub use suspend::Suspend;

use convgroup_broker::settings::Amqp;
use convgroup_chat::settings::Im;
use convgroup_domain::code::CodeTable;
use convgroup_domain::message::AllGroups;

/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// All of it: what `run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker.
    pub amqp: Amqp,
    /// The API.
    pub im: Im,
    /// Whether events that mean all groups of a user are accepted.
    pub all_groups: AllGroups,
    /// Whether answers tell users and names as they are.
    pub include_ids: bool,
    /// Calls per second at most.
    pub calls_per_second: u32,
    /// The retry schedule.
    pub retry: Retry,
    /// Suspension.
    pub suspend: Suspend,
    /// The error table, overrides applied.
    pub codes: CodeTable,
    /// Where the admin server listens.
    pub http_listen: SocketAddr,
    /// Logs.
    pub log: Log,
    /// How long a stop may take.
    pub shutdown_grace: Duration,
}

/// The layers, merged and not yet checked. Each tool checks the sections it needs.
#[derive(Debug)]
pub struct Settings {
    values: layers::Values,
    mistakes: Vec<Mistake>,
}

impl Settings {
    /// Merges the embedded defaults, the file and the environment. Files that can't be read and unknown keys are kept as
    /// mistakes, and reported with all others.
    #[must_use]
    pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Self {
        Self::merged(file.map(layers::from_file), env)
    }

    fn merged(
        file: Option<Result<layers::Values, Mistake>>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Self {
        let mut settings = Self {
            values: layers::Values::new(),
            mistakes: Vec::new(),
        };
        settings.add(layers::from_toml(DEFAULT_TOML, |_| Source::Default));
        if let Some(file) = file {
            settings.add(file);
        }
        settings.add(Ok(layers::from_env(env)));
        settings
    }

    fn add(&mut self, layer: Result<layers::Values, Mistake>) {
        match layer {
            Err(mistake) => self.mistakes.push(mistake),
            Ok(values) => {
                for (key, (text, source)) in values {
                    if all::is_known(&key) {
                        self.values.insert(key, (text.trimmed(), source));
                    } else {
                        let problem = all::unknown(&key);
                        self.mistakes.push(Mistake {
                            key: all::nameable(key),
                            source,
                            problem,
                        });
                    }
                }
            }
        }
    }

    fn read<T>(&self, read: impl FnOnce(&mut Reader<'_>) -> T) -> Result<T, ConfigError> {
        let mut reader = Reader::new(&self.values, self.mistakes.clone());
        let value = read(&mut reader);
        reader.finish()?;
        Ok(value)
    }

    /// The whole configuration.
    ///
    /// # Errors
    /// Every mistake there is, in one error.
    pub fn config(&self) -> Result<Config, ConfigError> {
        self.read(|reader| {
            let retry = Retry::read(reader);
            Config {
                amqp: amqp::read(reader, &retry),
                all_groups: events::all_groups(reader),
                include_ids: outcomes::include_ids(reader),
                im: im::read(reader),
                calls_per_second: rate_limit::calls_per_second(reader),
                suspend: Suspend::read(reader),
                codes: policy::codes(reader),
                http_listen: http::listen(reader),
                log: Log::read(reader),
                shutdown_grace: shutdown::grace(reader),
                retry,
            }
        })
    }

    /// Only what concerns the broker: for tools that never call the API.
    ///
    /// # Errors
    /// Every mistake of those sections, and every unknown key.
    pub fn amqp(&self) -> Result<Amqp, ConfigError> {
        self.read(|reader| {
            let retry = Retry::read(reader);
            amqp::read(reader, &retry)
        })
    }

    /// Only the pace: calls per second at most.
    ///
    /// # Errors
    /// It is wrong; every unknown key.
    pub fn calls_per_second(&self) -> Result<u32, ConfigError> {
        self.read(rate_limit::calls_per_second)
    }

    /// Only what concerns the API.
    ///
    /// # Errors
    /// Every mistake of that section, and every unknown key.
    pub fn im(&self) -> Result<Im, ConfigError> {
        self.read(im::read)
    }

    /// Only the app: what ids are hashed with.
    ///
    /// # Errors
    /// It is not set, or wrong; every unknown key.
    pub fn sdk_app_id(&self) -> Result<u64, ConfigError> {
        self.read(im::sdk_app_id)
    }

    /// Only whether answers tell users and names as they are.
    ///
    /// # Errors
    /// It is wrong; every unknown key.
    pub fn include_ids(&self) -> Result<bool, ConfigError> {
        self.read(outcomes::include_ids)
    }

    /// Only the error table.
    ///
    /// # Errors
    /// Every mistake of the overrides, and every unknown key.
    pub fn codes(&self) -> Result<CodeTable, ConfigError> {
        self.read(policy::codes)
    }

    /// Every key in force in the order of `config/default.toml`, as `config` prints it: key, value (secrets hidden), source.
    #[must_use]
    pub fn resolved(&self) -> Vec<(String, String, Source)> {
        let wrong: Vec<String> = match self.config() {
            Ok(_) => Vec::new(),
            Err(ConfigError(mistakes)) => mistakes.into_iter().map(|mistake| mistake.key).collect(),
        };
        let mut resolved = Vec::new();
        for declaration in all::declarations() {
            let values = self.values.iter();
            for (key, (text, source)) in values.filter(|(key, _)| declaration.covers(key)) {
                let shown = declaration.shown(text, wrong.contains(key));
                resolved.push((key.clone(), shown, source.clone()));
            }
            if !declaration.is_family() && !self.values.contains_key(declaration.name) {
                let nothing = ("-".to_owned(), Source::Nowhere);
                resolved.push((declaration.name.to_owned(), nothing.0, nothing.1));
            }
        }
        resolved
    }
}

/// For [`crate::fuzzing`].
#[cfg(any(test, feature = "fuzzing"))]
impl Settings {
    /// As [`Self::load`] makes them of a file with this text.
    pub(crate) fn of_text(file: &str, env: impl IntoIterator<Item = (String, String)>) -> Self {
        let source = |line| Source::Line {
            path: "convgroup.toml".into(),
            line,
        };
        Self::merged(Some(layers::from_toml(file, source)), env)
    }

    /// What is written for a key, secrets included.
    pub(crate) fn written(&self, key: &str) -> Option<&Text> {
        self.values.get(key).map(|(text, _)| text)
    }
}

#[cfg(test)]
mod tests;
