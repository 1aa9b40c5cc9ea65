//! What the operator configured: layers read, every value checked, all mistakes reported at once.
//!
//! `config/default.toml` is embedded and is the defaults. To add a key: write it there with its bounds (an optional one as a
//! comment), name it in [`KEYS`], give it a field in its section's struct, read it in that section's `read`.
mod layers;
mod reader;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

pub use layers::{ConfigError, Mistake, Source, Text};
use reader::Reader;

use crate::broker::address::BrokerAddress;
use crate::broker::tls::{self, TlsFiles};
use crate::chat::endpoint::{Endpoint, REGIONS};
use crate::domain::attempt::FAILURES_MAX;
use crate::domain::code::{Class, CodeTable};
use crate::domain::topology::{Topology, delay_label};
use crate::text;

/// The embedded defaults.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Every key, in the order of `config/default.toml`. `policy.overrides` stands for all keys below it.
pub const KEYS: [&str; 30] = [
    "shutdown_grace",
    "amqp.url",
    "amqp.queue",
    "amqp.exchange",
    "amqp.prefetch",
    "amqp.declare",
    "amqp.heartbeat",
    "amqp.tls.ca_file",
    "amqp.tls.cert_file",
    "amqp.tls.key_file",
    "im.region",
    "im.base_url",
    "im.sdk_app_id",
    "im.identifier",
    "im.secret_key",
    "im.secret_key_file",
    "im.timeout",
    "rate_limit.calls_per_second",
    "retry.quick_attempts",
    "retry.tiers",
    "retry.max_attempts",
    "suspend.window",
    "suspend.failure_ratio",
    "suspend.probe_min",
    "suspend.probe_max",
    "policy.overrides",
    "http.listen",
    "log.format",
    "log.level",
    "log.reveal_ids",
];
const OVERRIDES: &str = "policy.overrides.";

/// Longest queue or exchange name, in bytes. AMQP allows 255; the delay queues append to it.
const NAME_BYTES_MAX: usize = 200;
/// What is wrong with an address in the place of a name.
const NO_NAME: &str = "is an address; a name is needed";
/// Bound of `retry.tiers`: each tier is a queue.
const TIERS: RangeInclusive<usize> = 1..=10;

/// The broker: where, and what it is to hold.
#[derive(Clone, Debug)]
pub struct Amqp {
    /// The nodes, tried in turn; never empty. Both connections use the same list.
    pub nodes: Vec<BrokerAddress>,
    /// Messages in hand at most.
    pub prefetch: u16,
    /// Whether to declare exchange and queues, or only to verify them.
    pub declare: bool,
    /// The AMQP heartbeat.
    pub heartbeat: Duration,
    /// What `amqps://` needs besides the system's CAs.
    pub tls: TlsFiles,
    /// Names and arguments of everything at the broker.
    pub topology: Topology,
}

/// The API: where, as whom, with which key.
#[derive(Clone, Debug)]
pub struct Im {
    /// Scheme, host and port.
    pub endpoint: Endpoint,
    /// The app.
    pub sdk_app_id: u64,
    /// The admin account that signs and calls.
    pub identifier: String,
    /// The app's key.
    pub secret: SecretSource,
    /// How long one call may take.
    pub timeout: Duration,
}

/// Where the secret key comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// Written in the configuration.
    Value(SecretString),
    /// In a file, read again when the API refuses a signature.
    File(PathBuf),
}

impl SecretSource {
    /// The key itself, white space and a byte order mark around it removed.
    ///
    /// # Errors
    /// A file that can't be read, is empty or holds more than a key; the text says which and why, never what is in it. What can only be the key, put in
    /// the place of its file, is not repeated.
    pub fn load(&self) -> Result<SecretString, String> {
        match self {
            Self::Value(key) => Ok(key.clone()),
            Self::File(path) if is_no_path(path) => {
                Err("is no file; was the key itself put here?".to_owned())
            }
            Self::File(path) => text::from_file(path)
                .and_then(|text| match text::clean(&text)? {
                    "" => Err("is empty".to_owned()),
                    key => Ok(SecretString::from(key)),
                })
                .map_err(|problem| format!("the file {} {problem}", path.display())),
        }
    }
}

/// The retry schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Quick retries of one call in place.
    pub quick_attempts: u32,
    /// The delay tiers.
    pub tiers: Vec<Duration>,
    /// The counted failure with this number is the last.
    pub max_attempts: u32,
}

/// When to suspend, and how often to ask whether it is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suspend {
    /// How many last calls are looked at.
    pub window: usize,
    /// The share of transient ones that suspends.
    pub failure_ratio: f64,
    /// First pause between probes.
    pub probe_min: Duration,
    /// Longest pause between probes.
    pub probe_max: Duration,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// The level for this program; its libraries never log below `warn`.
    pub level: tracing::Level,
    /// Write user ids and group names as they are.
    pub reveal_ids: bool,
}

/// All of it: what `run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker.
    pub amqp: Amqp,
    /// The API.
    pub im: Im,
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
                    if known(&key) {
                        self.values.insert(key, (text.trimmed(), source));
                    } else {
                        let problem = unknown_key(&key);
                        self.mistakes.push(Mistake {
                            key: nameable(key),
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
                amqp: Amqp::read(reader, &retry),
                im: Im::read(reader),
                calls_per_second: reader.number("rate_limit.calls_per_second", 1..=100_000),
                suspend: Suspend::read(reader),
                codes: codes(reader),
                http_listen: reader.parsed(
                    "http.listen",
                    "an address like 127.0.0.1:9464",
                    |text| text.parse().ok(),
                ),
                log: Log::read(reader),
                shutdown_grace: reader
                    .duration("shutdown_grace", Duration::ZERO..=Duration::from_mins(10)),
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
            Amqp::read(reader, &retry)
        })
    }

    /// Only what concerns the API.
    ///
    /// # Errors
    /// Every mistake of that section, and every unknown key.
    pub fn im(&self) -> Result<Im, ConfigError> {
        self.read(Im::read)
    }

    /// Only the app: what ids are hashed with.
    ///
    /// # Errors
    /// It is not set, or wrong; every unknown key.
    pub fn sdk_app_id(&self) -> Result<u64, ConfigError> {
        self.read(sdk_app_id)
    }

    /// Only the error table.
    ///
    /// # Errors
    /// Every mistake of the overrides, and every unknown key.
    pub fn codes(&self) -> Result<CodeTable, ConfigError> {
        self.read(codes)
    }

    /// Every key in force, as `config` prints it: key, value (secrets hidden), source.
    #[must_use]
    pub fn resolved(&self) -> Vec<(String, String, Source)> {
        let wrong: Vec<String> = match self.config() {
            Ok(_) => Vec::new(),
            Err(ConfigError(mistakes)) => mistakes.into_iter().map(|mistake| mistake.key).collect(),
        };
        let overrides = self.values.keys().filter(|key| key.starts_with(OVERRIDES));
        let keys = KEYS
            .iter()
            .map(|key| (*key).to_owned())
            .filter(|key| key != "policy.overrides");
        keys.chain(overrides.cloned())
            .map(|key| match self.values.get(&key) {
                None => (key, "-".to_owned(), Source::Nowhere),
                Some((text, source)) => {
                    let shown = shown(&key, text, wrong.contains(&key));
                    (key, shown, source.clone())
                }
            })
            .collect()
    }
}

/// For [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
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

fn known(key: &str) -> bool {
    (KEYS.contains(&key) && key != "policy.overrides")
        || key
            .strip_prefix(OVERRIDES)
            .is_some_and(|code| !code.is_empty() && !code.contains('.') && is_word(code))
}

/// Longest key that an error names, in bytes.
const KEY_BYTES_MAX: usize = 64;

/// Whether an error may name a key that nobody knows: what is no word may be an address with a password in the wrong place.
fn is_word(key: &str) -> bool {
    let in_word = |char: char| char.is_ascii_alphanumeric() || "._-+ ".contains(char);
    key.len() <= KEY_BYTES_MAX && key.chars().all(in_word)
}

/// A key that nobody knows, as an error may name it.
fn nameable(key: String) -> String {
    if is_word(&key) {
        key
    } else {
        "(a key that is no word)".to_owned()
    }
}

/// What is wrong with an override of something else.
const NO_CODE: &str = "is no code; `convgroup-deleter explain` lists them";

fn unknown_key(key: &str) -> String {
    if key.starts_with(OVERRIDES) {
        return NO_CODE.to_owned();
    }
    let nearest = KEYS
        .iter()
        .map(|known| (strsim::jaro_winkler(known, key), known))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((likeness, known)) if likeness > 0.85 => {
            format!("no such key; did you mean `{known}`?")
        }
        _ => "no such key; `convgroup-deleter config` lists all of them".to_owned(),
    }
}

/// Whether what was given as a path looks like no path and leads to no file: it may be a secret, put in the place of its file.
fn is_no_path(path: &Path) -> bool {
    let text = path.to_string_lossy();
    is_url(&text) || (!text.is_empty() && !text.contains('/') && !path.exists())
}

/// Whether a text is an address, which may hold a password and stands in the wrong place.
fn is_url(text: &str) -> bool {
    text.contains("://")
}

/// A value as it may be shown. One that is `wrong` may be a secret in the wrong place.
fn shown(key: &str, text: &Text, wrong: bool) -> String {
    let texts = match key {
        "im.secret_key" => return "(hidden)".to_owned(),
        "im.secret_key_file" => text.all_but(|path| is_no_path(Path::new(path)), "(not a file)"),
        "amqp.tls.ca_file" | "amqp.tls.cert_file" | "amqp.tls.key_file" => {
            let no_path = |text: &str| tls::is_pem(text) || is_no_path(Path::new(text));
            text.all_but(no_path, "(not a path)")
        }
        // One that is refused may hold credentials.
        "im.base_url" => text
            .list()
            .iter()
            .map(|url| {
                Endpoint::from_base_url(url)
                    .map_or("(not an http address)".to_owned(), |_| url.clone())
            })
            .collect(),
        // All or none: a comma in a password makes two addresses of one, and the first may look right.
        "amqp.url" => text
            .list()
            .iter()
            .map(|url| {
                url.parse()
                    .map(|address: BrokerAddress| address.to_string())
            })
            .collect::<Result<_, _>>()
            .unwrap_or_else(|_| vec!["(not an AMQP url)".to_owned()]),
        _ if wrong => return "(not valid)".to_owned(),
        _ => text.all_but(|_| false, ""),
    };
    texts.join(",")
}

impl Amqp {
    fn read(reader: &mut Reader<'_>, retry: &Retry) -> Self {
        let name = |reader: &mut Reader<'_>, key| {
            reader.checked(key, |text| match text.len() {
                0 => Err("is empty; a name is needed".to_owned()),
                1..=NAME_BYTES_MAX if text.starts_with("amq.") => {
                    Err("starts with `amq.`, which RabbitMQ keeps for itself".to_owned())
                }
                1..=NAME_BYTES_MAX if is_url(text) => Err(NO_NAME.to_owned()),
                1..=NAME_BYTES_MAX => Ok(text.to_owned()),
                more => Err(format!("has {more} bytes; allowed: {NAME_BYTES_MAX}")),
            })
        };
        let (exchange, queue) = (name(reader, "amqp.exchange"), name(reader, "amqp.queue"));
        let nodes = reader.list("amqp.url", 1..=32, str::parse::<BrokerAddress>);
        Self {
            nodes,
            prefetch: reader.number("amqp.prefetch", 1..=2000),
            declare: reader.flag("amqp.declare"),
            heartbeat: Self::read_heartbeat(reader),
            tls: Self::read_tls(reader),
            topology: Topology::new(&exchange, &queue, &retry.tiers),
        }
    }
}

impl Amqp {
    fn read_tls(reader: &mut Reader<'_>) -> TlsFiles {
        let mut file = |key: &str, check: fn(&Path) -> Result<(), String>| {
            if !reader.is_set(key) {
                return None;
            }
            if reader.holds(key, tls::is_pem) {
                reader.wrong(key, "is PEM itself; put it into a file and name that");
                return None;
            }
            reader.optional(key, |text| {
                let path = PathBuf::from(text);
                if is_no_path(&path) {
                    return Err("is no file; was its content put here?".to_owned());
                }
                check(&path).map(|()| path)
            })
        };
        let files = TlsFiles {
            ca_file: file("amqp.tls.ca_file", |path| tls::cas(path).map(drop)),
            cert_file: file("amqp.tls.cert_file", |path| {
                tls::certificates(path).map(drop)
            }),
            key_file: file("amqp.tls.key_file", |path| tls::key_of(path).map(drop)),
        };
        if let (Some(cert), Some(key)) = (&files.cert_file, &files.key_file)
            && let Err(problem) = tls::belong_together(cert, key)
        {
            reader.wrong("amqp.tls.key_file", &problem);
        }
        let [cert, key] = ["amqp.tls.cert_file", "amqp.tls.key_file"].map(|key| reader.is_set(key));
        if cert != key {
            let (set, missing) = if cert {
                ("cert_file", "key_file")
            } else {
                ("key_file", "cert_file")
            };
            reader.wrong(
                &format!("amqp.tls.{missing}"),
                &format!("is missing beside amqp.tls.{set}"),
            );
        }
        files
    }

    /// AMQP counts heartbeats in whole seconds.
    fn read_heartbeat(reader: &mut Reader<'_>) -> Duration {
        let heartbeat = reader.duration(
            "amqp.heartbeat",
            Duration::from_secs(1)..=Duration::from_mins(1),
        );
        if heartbeat.subsec_nanos() != 0 {
            reader.wrong("amqp.heartbeat", "is not a whole number of seconds");
        }
        heartbeat
    }
}

fn sdk_app_id(reader: &mut Reader<'_>) -> u64 {
    reader.number("im.sdk_app_id", 1..=u64::from(u32::MAX))
}

impl Im {
    fn read(reader: &mut Reader<'_>) -> Self {
        let endpoint = if reader.is_set("im.base_url") {
            reader.checked("im.base_url", Endpoint::from_base_url)
        } else {
            reader.checked("im.region", |region| {
                Endpoint::from_region(region).ok_or_else(|| {
                    let all: Vec<&str> = REGIONS.iter().map(|(name, _)| *name).collect();
                    format!("is no region; allowed: {}", all.join(" "))
                })
            })
        };
        Self {
            endpoint,
            sdk_app_id: sdk_app_id(reader),
            identifier: reader.checked("im.identifier", |text| match text {
                "" => Err("is empty; the name of an app admin is needed".to_owned()),
                text if is_url(text) => Err(NO_NAME.to_owned()),
                text => Ok(text.to_owned()),
            }),
            secret: Self::read_secret(reader),
            timeout: reader.duration(
                "im.timeout",
                Duration::from_millis(100)..=Duration::from_mins(1),
            ),
        }
    }

    fn read_secret(reader: &mut Reader<'_>) -> SecretSource {
        let fallback = SecretSource::Value(SecretString::from(""));
        match (
            reader.is_set("im.secret_key"),
            reader.is_set("im.secret_key_file"),
        ) {
            (true, true) => {
                reader.wrong(
                    "im.secret_key_file",
                    "is set beside im.secret_key; set only one of them",
                );
                fallback
            }
            (false, false) => {
                reader.wrong("im.secret_key", "is missing; set it, or im.secret_key_file");
                fallback
            }
            (true, false) => reader
                .optional("im.secret_key", |text| match text.trim() {
                    "" => Err("is empty; the secret key of the app is needed".to_owned()),
                    key => Ok(SecretSource::Value(SecretString::from(key))),
                })
                .unwrap_or(fallback),
            (false, true) => reader
                .optional("im.secret_key_file", |text| {
                    let source = SecretSource::File(PathBuf::from(text));
                    source.load().map(|_| source)
                })
                .unwrap_or(fallback),
        }
    }
}

impl Retry {
    fn read(reader: &mut Reader<'_>) -> Self {
        let tiers = reader.list("retry.tiers", TIERS, |text| {
            reader::duration(
                text,
                &(Duration::from_millis(100)..=Duration::from_hours(168)),
            )
        });
        let mut labels: Vec<String> = tiers.iter().map(|&tier| delay_label(tier)).collect();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() < tiers.len() {
            reader.wrong(
                "retry.tiers",
                "names a duration twice; each tier is a queue of its own",
            );
        }
        Self {
            quick_attempts: reader.number("retry.quick_attempts", 0..=10),
            tiers,
            max_attempts: reader.number("retry.max_attempts", 1..=u64::from(FAILURES_MAX)),
        }
    }
}

impl Suspend {
    fn read(reader: &mut Reader<'_>) -> Self {
        let pauses = Duration::from_millis(100)..=Duration::from_hours(1);
        let suspend = Self {
            window: reader.number("suspend.window", 1..=10_000),
            failure_ratio: reader.parsed(
                "suspend.failure_ratio",
                "a number from 0.1 to 1",
                |text| {
                    text.parse()
                        .ok()
                        .filter(|ratio| (0.1..=1.0).contains(ratio))
                },
            ),
            probe_min: reader.duration("suspend.probe_min", pauses.clone()),
            probe_max: reader.duration("suspend.probe_max", pauses),
        };
        if suspend.probe_min > suspend.probe_max {
            reader.wrong("suspend.probe_min", "is longer than suspend.probe_max");
        }
        suspend
    }
}

impl Log {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            json: reader.parsed("log.format", "json or text", |text| match text {
                "json" => Some(true),
                "text" => Some(false),
                _ => None,
            }),
            level: reader
                .optional("log.level", |text| match text {
                    "error" | "warn" | "info" | "debug" | "trace" => {
                        text.parse().map_err(|_| "is no level".to_owned())
                    }
                    _ => Err("is not one of error warn info debug trace".to_owned()),
                })
                .unwrap_or(tracing::Level::INFO),
            reveal_ids: reader.flag("log.reveal_ids"),
        }
    }
}

/// The error table with the overrides. Only the class of a failure can be changed, and never into `deleted`: a deletion that
/// nobody saw must not be counted as one.
fn codes(reader: &mut Reader<'_>) -> CodeTable {
    let shipped = CodeTable::new(&BTreeMap::new());
    let mut overrides = BTreeMap::new();
    for key in reader.keys_below(OVERRIDES) {
        let code = key[OVERRIDES.len()..].to_owned();
        let class = reader.optional(&key, |text| {
            match shipped.spelling(&code) {
                Some(spelling) if spelling == code => {}
                Some(spelling) => return Err(format!("is no code; write it as {spelling}")),
                None => return Err(NO_CODE.to_owned()),
            }
            if code == "0" || code == crate::domain::code::PANIC {
                return Err("can't be overridden".to_owned());
            }
            let allowed = || {
                Class::ALL
                    .into_iter()
                    .filter(|&class| class != Class::Deleted)
            };
            let named = allowed().find(|class| class.label() == text);
            named.ok_or_else(|| {
                let labels: Vec<_> = allowed().map(Class::label).collect();
                format!("is not one of {}", labels.join(" "))
            })
        });
        if let Some(class) = class {
            overrides.insert(code, class);
        }
    }
    CodeTable::new(&overrides)
}

#[cfg(test)]
mod tests;
