//! The HTTP proxy that calls go through, where the environment names one.
use std::fmt;

use hyper::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use url::Url;

/// Looked up for an API at `https://`, in this order; for `http://` it is [`FOR_HTTP`]. [`FOR_ALL`] comes last.
const FOR_HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const FOR_HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const FOR_ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
/// Hosts that are called directly.
const FOR_NONE: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// A variable of the environment names no proxy that can be used. What it holds is not repeated: it may be a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "environment {variable}: {why}; wanted: http://HOST:PORT or https://HOST:PORT, or nothing at all"
)]
pub struct ProxyError {
    /// The variable.
    pub variable: &'static str,
    /// What is wrong with it.
    pub why: NoProxy,
}

/// Why a text names no proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoProxy {
    /// It is no address, or one that the HTTP client would ignore.
    #[error("is no address of a proxy")]
    NoAddress,
    /// It is the address of a proxy that speaks SOCKS.
    #[error("names a SOCKS proxy, which this program can't use")]
    Socks,
}

/// A proxy. Its credentials are never shown.
#[derive(Clone)]
pub(crate) struct Proxy {
    url: SecretString,
    /// Host and port.
    address: String,
    /// The variable that names it.
    variable: &'static str,
    /// Whether it is spoken to over TLS itself.
    pub(super) secure: bool,
}

impl Proxy {
    /// The proxy for an API at `endpoint`, if there is one. A variable that is set to nothing names none.
    ///
    /// # Errors
    /// A variable that counts holds no address of a proxy; the text says which, and not what.
    pub(crate) fn for_endpoint(
        endpoint: &Url,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ProxyError> {
        let first = |names: [&'static str; 2]| {
            let set = names
                .into_iter()
                .find_map(|name| Some((name, variable(name)?)));
            set.filter(|(_, value)| !value.is_empty())
        };
        let own = if endpoint.scheme() == "https" {
            FOR_HTTPS
        } else {
            FOR_HTTP
        };
        let Some((name, value)) = first(own).or_else(|| first(FOR_ALL)) else {
            return Ok(None);
        };
        let direct = first(FOR_NONE).map(|(_, hosts)| hosts).unwrap_or_default();
        if !is_used("http://any", &direct, endpoint) {
            return Ok(None);
        }
        Self::parse(name, &value, endpoint).map(Some)
    }

    fn parse(variable: &'static str, value: &str, endpoint: &Url) -> Result<Self, ProxyError> {
        let wrong = |why| ProxyError { variable, why };
        let text = if value.contains("://") {
            value.to_owned()
        } else {
            format!("http://{value}")
        };
        let url = Url::parse(&text).map_err(|_| wrong(NoProxy::NoAddress))?;
        if url.scheme().starts_with("socks") {
            return Err(wrong(NoProxy::Socks));
        }
        let host = url
            .host_str()
            .filter(|_| matches!(url.scheme(), "http" | "https"));
        let (Some(host), Some(port)) = (host, url.port_or_known_default()) else {
            return Err(wrong(NoProxy::NoAddress));
        };
        // What the client can't read it ignores.
        if !is_used(url.as_str(), "", endpoint) {
            return Err(wrong(NoProxy::NoAddress));
        }
        Ok(Self {
            address: format!("{host}:{port}"),
            variable,
            secure: url.scheme() == "https",
            url: SecretString::from(String::from(url)),
        })
    }

    /// The same for reqwest.
    pub(super) fn rule(&self) -> Result<reqwest::Proxy, ProxyError> {
        // Its error would print the URL.
        reqwest::Proxy::all(self.url.expose_secret()).map_err(|_| ProxyError {
            variable: self.variable,
            why: NoProxy::NoAddress,
        })
    }
}

/// Whether the client would use this proxy, with these hosts called directly. Its own rule, so that there is one only.
fn is_used(proxy: &str, direct: &str, endpoint: &Url) -> bool {
    let matcher = Matcher::builder().all(proxy).no(direct).build();
    let endpoint: Result<Uri, _> = endpoint.as_str().parse();
    endpoint.is_ok_and(|endpoint| matcher.intercept(&endpoint).is_some())
}

/// Host, port and the variable: `proxy.example:3128 (HTTPS_PROXY)`.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.address, self.variable)
    }
}

/// As [`fmt::Display`]: its credentials are secrets.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is chosen for an endpoint in an environment, as it is shown.
    fn chosen(endpoint: &str, environment: &[(&str, &str)]) -> Result<Option<String>, ProxyError> {
        let endpoint = Url::parse(endpoint).unwrap();
        let variable = |name: &str| {
            let set = environment.iter().find(|(key, _)| *key == name);
            set.map(|(_, value)| (*value).to_owned())
        };
        let proxy = Proxy::for_endpoint(&endpoint, variable)?;
        Ok(proxy.map(|proxy| format!("{proxy}")))
    }

    #[test]
    fn the_variable_of_the_scheme_names_the_proxy() {
        const API: &str = "https://console.tim.qq.com";
        for (endpoint, environment, expected) in [
            (API, &[][..], None),
            (
                API,
                &[("HTTPS_PROXY", "http://p:3128")],
                Some("p:3128 (HTTPS_PROXY)"),
            ),
            (
                API,
                &[("https_proxy", "p:3128")],
                Some("p:3128 (https_proxy)"),
            ),
            (
                API,
                &[("HTTPS_PROXY", "https://p")],
                Some("p:443 (HTTPS_PROXY)"),
            ),
            (
                API,
                &[("HTTPS_PROXY", "http://p/ignored")],
                Some("p:80 (HTTPS_PROXY)"),
            ),
            (
                API,
                &[("all_proxy", "http://[::1]:3128")],
                Some("[::1]:3128 (all_proxy)"),
            ),
            (API, &[("HTTP_PROXY", "http://p:3128")], None),
            (API, &[("HTTP_PROXY", "nonsense://")], None),
            (API, &[("HTTPS_PROXY", ""), ("https_proxy", "p")], None),
            (
                API,
                &[("HTTPS_PROXY", "a"), ("ALL_PROXY", "b")],
                Some("a:80 (HTTPS_PROXY)"),
            ),
            (
                API,
                &[("HTTPS_PROXY", "p"), ("NO_PROXY", "x, .qq.com")],
                None,
            ),
            (API, &[("HTTPS_PROXY", "::"), ("no_proxy", "*")], None),
            (
                API,
                &[("HTTPS_PROXY", "p"), ("NO_PROXY", "other.com")],
                Some("p:80 (HTTPS_PROXY)"),
            ),
            (
                "http://10.0.0.7:8700",
                &[("HTTP_PROXY", "p:1")],
                Some("p:1 (HTTP_PROXY)"),
            ),
            (
                "http://10.0.0.7:8700",
                &[("HTTP_PROXY", "p:1"), ("NO_PROXY", "10.0.0.0/8")],
                None,
            ),
        ] {
            let found = chosen(endpoint, environment);
            assert_eq!(found, Ok(expected.map(str::to_owned)), "{environment:?}");
        }
    }

    #[test]
    fn nonsense_is_named_by_its_variable_and_not_repeated() {
        for value in [
            "http://",
            "::",
            "hunter2 hunter2",
            "http://u:hunter2@",
            "http://u:hunter2@p:99999",
            "ftp://u:hunter2@p",
            "socks5://u:hunter2@p:1080",
            "u:hunter2@p q",
        ] {
            let error = chosen("https://host", &[("HTTPS_PROXY", value)])
                .unwrap_err()
                .to_string();
            assert!(error.starts_with("environment HTTPS_PROXY: "), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        let endpoint = Url::parse("https://host").unwrap();
        let proxy = Proxy::for_endpoint(&endpoint, |_| Some("http://u:hunter2@p:1".to_owned()));
        // NO_PROXY says the same, and is about another host.
        let proxy = proxy.unwrap().unwrap();
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "p:1 (HTTPS_PROXY) p:1 (HTTPS_PROXY)"
        );
        assert!(proxy.rule().is_ok());
    }
}
