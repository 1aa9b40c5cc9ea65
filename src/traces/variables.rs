//! The standard variables of OpenTelemetry that this program goes by: read once, at the start.
//!
//! No error repeats a value: an endpoint may hold credentials, and headers are made of them.
use std::time::Duration;

use thiserror::Error;
use url::Url;

use convgroup_chat::client::SetupError;
use convgroup_domain::text;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOLS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
const TIMEOUTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
];
const COMPRESSIONS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
];
const DISABLED: &str = "OTEL_SDK_DISABLED";
const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";

/// Below an endpoint that is not for traces alone.
const PATH: &str = "/v1/traces";
const TIMEOUT: Duration = Duration::from_secs(10);
/// No collector is waited for longer, whatever the variable says.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Spans that wait at most. One takes about a kilobyte.
const QUEUE_SPANS: usize = 2048;
const QUEUE_SPANS_MAX: usize = 65_536;
/// Samplers that the library knows.
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Why no traces can be sent.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TracesError {
    /// A variable is wrong.
    #[error("environment {variable}: {why}")]
    Variable {
        /// Which.
        variable: &'static str,
        /// What is wrong with it, and what is wanted.
        why: &'static str,
    },
    /// This machine lets no HTTP client be set up.
    #[error("{0}")]
    Client(SetupError),
    /// The library refuses, in its words.
    #[error("traces can't be set up: {0}")]
    Setup(String),
}

/// What the variables say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variables {
    /// Where spans are sent.
    pub(super) endpoint: Url,
    /// How long one export may take.
    pub(super) timeout: Duration,
    /// How many spans may wait.
    pub(super) queue_spans: usize,
    /// Variables that have a value this program can't follow, and what it does instead.
    pub(super) ignored: Vec<String>,
}

/// A variable of this process.
pub(super) fn of_process(variable: &'static str) -> Result<Option<String>, TracesError> {
    let Some(value) = std::env::var_os(variable) else {
        return Ok(None);
    };
    match value.into_string() {
        Ok(value) => Ok(Some(value)),
        Err(_) => Err(wrong(variable, "is not UTF-8")),
    }
}

const fn wrong(variable: &'static str, why: &'static str) -> TracesError {
    TracesError::Variable { variable, why }
}

impl Variables {
    /// Reads them; `None`: no traces are wanted. Then none of the others is looked at.
    pub(super) fn read(
        variable: impl Fn(&'static str) -> Result<Option<String>, TracesError>,
    ) -> Result<Option<Self>, TracesError> {
        let get = |name| -> Result<Option<String>, TracesError> {
            let value = variable(name)?.map(|value| text::trimmed(&value).to_owned());
            Ok(value.filter(|value| !value.is_empty()))
        };
        // The first of them that is set counts.
        let first = |names: [&'static str; 2]| -> Result<_, TracesError> {
            for name in names {
                if let Some(value) = get(name)? {
                    return Ok(Some((name, value)));
                }
            }
            Ok(None)
        };
        let Some((name, value)) = first([TRACES_ENDPOINT, ENDPOINT])? else {
            return Ok(None);
        };
        let disabled = get(DISABLED)?.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        match get(EXPORTER)?.as_deref() {
            _ if disabled => return Ok(None),
            Some("none") => return Ok(None),
            None | Some("otlp") => {}
            Some(_) => return Err(wrong(EXPORTER, "traces are exported by otlp only, or none")),
        }
        if let Some((name, value)) = first(PROTOCOLS)?
            && value != "http/protobuf"
        {
            return Err(wrong(
                name,
                "traces are sent over http/protobuf only: set it to that or leave it out, and give the collector's port for HTTP, \
                 usually 4318",
            ));
        }
        let mut ignored = Vec::new();
        let timeout = number(first(TIMEOUTS)?, &mut ignored);
        let queue = number(get(QUEUE)?.map(|value| (QUEUE, value)), &mut ignored);
        let queue = queue.and_then(|queue| usize::try_from(queue).ok());
        if let Some((name, value)) = first(COMPRESSIONS)?
            && value != "none"
        {
            ignored.push(format!(
                "environment {name}: traces are sent as they are, this program compresses none"
            ));
        }
        ignored.extend(sampler(get(SAMPLER)?, get(SAMPLER_ARG)?));
        Ok(Some(Self {
            endpoint: endpoint(name, &value)?,
            timeout: timeout.map_or(TIMEOUT, |ms| Duration::from_millis(ms).min(TIMEOUT_MAX)),
            queue_spans: queue.unwrap_or(QUEUE_SPANS).min(QUEUE_SPANS_MAX),
            ignored,
        }))
    }

    /// Where spans are sent, for a log line: host and port. A path or a user may be a secret.
    pub(super) fn shown(&self) -> String {
        let host = self.endpoint.host_str().unwrap_or_default();
        let port = self.endpoint.port_or_known_default().unwrap_or_default();
        format!("{host}:{port}")
    }
}

/// The address that one of the variables names: the one for traces alone as it is, else with the path below it.
fn endpoint(name: &'static str, value: &str) -> Result<Url, TracesError> {
    let no_address = wrong(
        name,
        "is no address of a collector; wanted: http://HOST:4318 or https://HOST",
    );
    let mut url = Url::parse(value).map_err(|_| no_address.clone())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(no_address);
    }
    url.set_fragment(None);
    if name == ENDPOINT {
        let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    Ok(url)
}

/// A whole number from 1 on; anything else is not followed.
fn number(set: Option<(&'static str, String)>, ignored: &mut Vec<String>) -> Option<u64> {
    let (name, value) = set?;
    let number = value.parse().ok().filter(|&number| number > 0);
    if number.is_none() {
        ignored.push(format!(
            "environment {name}: is no whole number from 1 on; the default is used"
        ));
    }
    number
}

/// What the library will not follow of the sampler: it would not say so.
fn sampler(name: Option<String>, arg: Option<String>) -> Option<String> {
    let name = name?;
    if !SAMPLERS.contains(&&*name) {
        return Some(format!(
            "environment {SAMPLER}: is none of {}; parentbased_always_on is used",
            SAMPLERS.join(" ")
        ));
    }
    let ratio = arg.and_then(|arg| arg.parse::<f64>().ok());
    let is_ratio = ratio.is_some_and(|ratio| (0.0..=1.0).contains(&ratio));
    (name.ends_with("traceidratio") && !is_ratio)
        .then(|| format!("environment {SAMPLER_ARG}: is no number from 0 to 1; 1 is used"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Option<Variables>, TracesError> {
        Variables::read(|name| {
            let found = set.iter().find(|(key, _)| *key == name);
            Ok(found.map(|(_, value)| (*value).to_owned()))
        })
    }

    #[test]
    fn without_an_endpoint_nothing_is_sent() {
        let endpoint = (ENDPOINT, "http://collector:4318");
        for set in [
            &[][..],
            &[(ENDPOINT, " ")],
            // Nobody looks at the rest then.
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")],
            &[endpoint, (DISABLED, "TRUE")],
            &[endpoint, (EXPORTER, "none")],
        ] {
            assert_eq!(read(set), Ok(None), "{set:?}");
        }
    }

    #[test]
    fn the_endpoint_for_traces_is_taken_as_it_is() {
        for (set, address, shown) in [
            (
                &[(ENDPOINT, "http://collector:4318")][..],
                "http://collector:4318/v1/traces",
                "collector:4318",
            ),
            (
                &[(ENDPOINT, "https://collector/otlp/")],
                "https://collector/otlp/v1/traces",
                "collector:443",
            ),
            (
                &[
                    (ENDPOINT, "http://other"),
                    (TRACES_ENDPOINT, "http://u:p@collector:1/in"),
                ],
                "http://u:p@collector:1/in",
                "collector:1",
            ),
        ] {
            let variables = read(set).unwrap().unwrap();
            assert_eq!(variables.endpoint.as_str(), address);
            assert_eq!(variables.shown(), shown);
            assert_eq!(variables.timeout, TIMEOUT);
            assert!(variables.ignored.is_empty());
        }
    }

    #[test]
    fn what_cant_be_done_is_said_by_name_and_never_by_value() {
        let endpoint = (ENDPOINT, "http://collector");
        for (set, name) in [
            (&[(ENDPOINT, "secret-1")][..], ENDPOINT),
            (&[(ENDPOINT, "grpc://secret-1")], ENDPOINT),
            (&[(TRACES_ENDPOINT, "secret-1:4317")], TRACES_ENDPOINT),
            (&[endpoint, (PROTOCOLS[1], "secret-1")], PROTOCOLS[1]),
            (&[endpoint, (PROTOCOLS[0], "grpc")], PROTOCOLS[0]),
            (&[endpoint, (EXPORTER, "secret-1")], EXPORTER),
        ] {
            let told = read(set).unwrap_err().to_string();
            assert!(told.starts_with(&format!("environment {name}: ")), "{told}");
            assert!(!told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn what_is_not_followed_is_said() {
        for (name, value, arg) in [
            (SAMPLER, "sometimes", ""),
            (SAMPLER, "traceidratio", "2"),
            (SAMPLER, "parentbased_traceidratio", ""),
            (QUEUE, "many", ""),
            (TIMEOUTS[0], "10s", ""),
            (COMPRESSIONS[1], "gzip", ""),
        ] {
            let set = [(ENDPOINT, "http://c"), (name, value), (SAMPLER_ARG, arg)];
            let ignored = read(&set).unwrap().unwrap().ignored;
            assert_eq!(ignored.len(), 1, "{name}={value}: {ignored:?}");
        }
        let set = [
            (ENDPOINT, "http://c"),
            (SAMPLER, "traceidratio"),
            (SAMPLER_ARG, "0.5"),
            (TIMEOUTS[1], "3600000"),
            (QUEUE, "1000000"),
        ];
        let variables = read(&set).unwrap().unwrap();
        assert!(variables.ignored.is_empty());
        assert_eq!(variables.timeout, TIMEOUT_MAX);
        assert_eq!(variables.queue_spans, QUEUE_SPANS_MAX);
    }
}
