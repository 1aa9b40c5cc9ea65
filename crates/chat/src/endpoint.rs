//! Where the Chat API is.
use thiserror::Error;
use url::Url;

use convgroup_domain::text::is_unseen;

/// The data centres and their hosts (Tencent Cloud Chat, server API documentation).
pub const REGIONS: [(&str, &str); 7] = [
    ("china", "console.tim.qq.com"),
    ("singapore", "adminapisgp.im.qcloud.com"),
    ("seoul", "adminapikr.im.qcloud.com"),
    ("tokyo", "adminapijpn.im.qcloud.com"),
    ("frankfurt", "adminapiger.im.qcloud.com"),
    ("silicon_valley", "adminapiusa.im.qcloud.com"),
    ("jakarta", "adminapiidn.im.qcloud.com"),
];

const WANTED: &str = "wanted: https://HOST or http://HOST:PORT";

/// Why a text is no address of the API. It does not repeat the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EndpointError {
    /// It could be read in two ways, or holds a password.
    #[error("holds credentials, white space or a `\\`; {WANTED}")]
    Ambiguous,
    /// It is no URL.
    #[error("is not a url ({0}); {WANTED}")]
    NoUrl(url::ParseError),
    /// It is a URL of another scheme, or names no host.
    #[error("is not an http address; {WANTED}")]
    NoHttp,
    /// It has a part behind the path.
    #[error("holds a query or a fragment; {WANTED}")]
    QueryOrFragment,
}

/// Scheme, host and port, without a slash at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// The endpoint of a region, if there is one of that name.
    #[must_use]
    pub fn from_region(region: &str) -> Option<Self> {
        let (_, host) = REGIONS.iter().find(|(name, _)| *name == region)?;
        Some(Self(format!("https://{host}")))
    }

    /// Any other address; a path before the API's own is kept.
    ///
    /// # Errors
    /// What is wrong with the text, and what is wanted.
    pub fn from_base_url(text: &str) -> Result<Self, EndpointError> {
        // What could be read in two ways holds a password: https://user:12/rest@host.
        if text.contains(['@', '\\'])
            || text
                .chars()
                .any(|char| char.is_whitespace() || is_unseen(char))
        {
            return Err(EndpointError::Ambiguous);
        }
        let url = Url::parse(text).map_err(EndpointError::NoUrl)?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(EndpointError::NoHttp);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(EndpointError::QueryOrFragment);
        }
        Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
    }

    /// The address as text, for building urls and for people.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Host and port as they were given, for a page that anybody may see: a gateway's path may be a secret.
    #[must_use]
    pub fn authority(&self) -> &str {
        let rest = self.0.split_once("://").map_or(&*self.0, |(_, rest)| rest);
        rest.split('/').next().unwrap_or(rest)
    }
}

impl Endpoint {
    /// Scheme, host and port as they were given, without the path: a gateway's may be a secret.
    #[must_use]
    pub fn origin(&self) -> &str {
        let authority = self.authority();
        let begin = self.0.find("://").map_or(0, |at| at + "://".len());
        &self.0[..begin + authority.len()]
    }

    /// The host, and the port that is called.
    #[must_use]
    pub fn host_and_port(&self) -> (String, u16) {
        let url = Url::parse(&self.0).ok();
        let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
        let port = url.as_ref().and_then(Url::port_or_known_default);
        (host.to_owned(), port.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_of_an_address_leaves_its_path_out() {
        for (url, origin, host, port) in [
            (
                "http://127.0.0.1:8700/",
                "http://127.0.0.1:8700",
                "127.0.0.1",
                8700,
            ),
            (
                "https://gateway.example.com/token-1/chat",
                "https://gateway.example.com",
                "gateway.example.com",
                443,
            ),
            ("https://[::1]:8443/a", "https://[::1]:8443", "[::1]", 8443),
        ] {
            let endpoint = Endpoint::from_base_url(url).unwrap();
            assert_eq!(endpoint.origin(), origin);
            assert_eq!(endpoint.host_and_port(), (host.to_owned(), port));
        }
    }

    #[test]
    fn the_authority_is_host_and_port_only() {
        for (url, authority) in [
            ("http://127.0.0.1:8700/", "127.0.0.1:8700"),
            (
                "https://gateway.example.com/token-1/chat",
                "gateway.example.com",
            ),
            ("https://[::1]:8443/a", "[::1]:8443"),
        ] {
            let endpoint = Endpoint::from_base_url(url).unwrap();
            assert_eq!(endpoint.authority(), authority);
        }
        let region = Endpoint::from_region("singapore").unwrap();
        assert_eq!(region.authority(), "adminapisgp.im.qcloud.com");
    }

    #[test]
    fn base_urls_are_checked() {
        let good = Endpoint::from_base_url("http://127.0.0.1:8700/").unwrap();
        assert_eq!(good.as_str(), "http://127.0.0.1:8700");
        for bad in [
            "",
            "ftp://host",
            "host:80",
            "https://u:p@host",
            "https://u@host",
            "https://u:12/p@host",
            "https://u:12\\p",
            "https://ho\nst",
            "https://host/a b",
            "https://host/#a",
            "https://host/?a=b",
        ] {
            assert!(Endpoint::from_base_url(bad).is_err(), "{bad}");
        }
    }
}
