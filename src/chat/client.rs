//! One call: `POST /v4/recentcontact/del_contact_group` for one user and one group.
use std::error::Error;
use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use reqwest::{Client, Response, StatusCode, redirect};
use serde::{Deserialize, Serialize};
use url::Url;

use super::connects::{Connects, Hears};
use super::signer::{Signer, UserSig};
use crate::config::Im;
use crate::domain::reply::Reply;
use crate::machine::{Limit, limit_in_panic};

const PATH: &str = "/v4/recentcontact/del_contact_group";
/// How long an idle connection is kept (contract): shorter than what middle boxes and the API's front end grant.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Longest reply that is read, in bytes; a real one has about 200.
const REPLY_BYTES_MAX: usize = 64 * 1024;
/// Longest text about a connection that did not come about, in bytes.
const CAUSE_BYTES_MAX: usize = 160;

/// Which connection a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// A kept-alive one, if there is one.
    Pooled,
    /// A new one: the pooled one before may have died while it was idle.
    Fresh,
}

/// A finished call.
#[derive(Debug)]
pub struct Call {
    /// What came back.
    pub reply: Reply,
    /// When it was sent.
    pub started: Instant,
    /// From sending to the complete reply.
    pub took: Duration,
    /// The signature it carried.
    pub usersig: UserSig,
}

/// Calls the API. Cheap to share by reference; holds the connection pool.
#[derive(Debug)]
pub struct ChatClient {
    pooled: Client,
    fresh: Client,
    url: Url,
    /// Signs the calls.
    pub signer: Signer,
    identifier: String,
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "From_Account")]
    user: &'a str,
    #[serde(rename = "GroupName")]
    groups: [&'a str; 1],
}

/// Only `ErrorCode` is required; `ErrorInfo` may be missing, or anything.
#[derive(Deserialize)]
struct ReplyBody {
    #[serde(rename = "ErrorCode")]
    code: i64,
    #[serde(rename = "ErrorInfo", default)]
    info: serde_json::Value,
}

impl ChatClient {
    /// `connections_max` idle connections are kept at most: as many as there can be calls in flight. `hears` is told of
    /// each that is made.
    ///
    /// # Errors
    /// The TLS set-up failed.
    pub fn new(
        im: &Im,
        signer: Signer,
        connections_max: usize,
        hears: &Hears,
    ) -> Result<Self, String> {
        let builder = |idle_max| {
            Client::builder()
                .user_agent(concat!("convgroup-deleter/", env!("CARGO_PKG_VERSION")))
                .timeout(im.timeout)
                .connect_timeout(im.timeout)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle_max)
                .redirect(redirect::Policy::none())
                .referer(false)
                .http1_only()
                .connector_layer(Connects(Arc::clone(hears)))
                .build()
                .map_err(|err| format!("the HTTP client can't be set up: {}", err.without_url()))
        };
        let mut url = Url::parse(&format!("{}{PATH}", im.endpoint.as_str()))
            .map_err(|err| format!("the API's address is no url: {err}"))?;
        url.query_pairs_mut()
            .append_pair("sdkappid", &im.sdk_app_id.to_string())
            .append_pair("identifier", &im.identifier);
        Ok(Self {
            pooled: builder(connections_max)?,
            fresh: builder(0)?,
            url,
            signer,
            identifier: im.identifier.clone(),
        })
    }

    /// The admin account in whose name calls are made.
    #[must_use]
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// Deletes one group of one user. Takes at most `im.timeout`.
    pub async fn delete(&self, user: &str, group: &str, connection: Connection) -> Call {
        let usersig = self.signer.current();
        let mut url = self.url.clone();
        url.query_pairs_mut()
            .append_pair("usersig", usersig.expose())
            .append_pair("random", &rand::random::<u32>().to_string())
            .append_pair("contenttype", "json");
        let body = serde_json::to_vec(&Body {
            user,
            groups: [group],
        })
        .expect("strings always serialize");
        let client = match connection {
            Connection::Pooled => &self.pooled,
            Connection::Fresh => &self.fresh,
        };
        let started = Instant::now();
        let request = client
            .post(url)
            .header("content-type", "application/json")
            .body(body);
        // The API's name is looked up on a thread of its own; where none can be started, the libraries panic.
        let sent = AssertUnwindSafe(request.send()).catch_unwind().await;
        let reply = match sent {
            Ok(Ok(response)) => read(response, &usersig).await,
            Ok(Err(err)) => fault(err),
            Err(panicked) => match limit_in_panic(&*panicked) {
                Some(limit) => Reply::Connect(limit.advice().to_owned()),
                None => resume_unwind(panicked),
            },
        };
        Call {
            reply,
            started,
            took: started.elapsed(),
            usersig,
        }
    }
}

async fn read(mut response: Response, usersig: &UserSig) -> Reply {
    match response.status() {
        status if status.is_client_error() || status.is_server_error() => {
            // Read to its end, the connection can be used again; what it says is of no use.
            let mut left = REPLY_BYTES_MAX;
            while let Ok(Some(chunk)) = response.chunk().await
                && chunk.len() < left
            {
                left -= chunk.len();
            }
            return Reply::HttpStatus(status.as_u16());
        }
        StatusCode::OK => {}
        _ => return Reply::BadBody,
    }
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > REPLY_BYTES_MAX => return Reply::BadBody,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(err) => return fault(err),
        }
    }
    answer(&body, usersig.expose())
}

/// What the body of a reply with status 200 says; its text without the signature.
pub(crate) fn answer(body: &[u8], usersig: &str) -> Reply {
    match serde_json::from_slice::<ReplyBody>(body) {
        Ok(ReplyBody { code, info }) => Reply::Answer {
            code,
            info: without(usersig, info.as_str().unwrap_or_default()),
        },
        Err(_) => Reply::BadBody,
    }
}

/// The API's text without the signature: it may repeat the URL, and goes into headers.
fn without(usersig: &str, info: &str) -> String {
    // Good answers have no text, and searching one for something that long costs more than parsing the answer.
    if info.is_empty() {
        return String::new();
    }
    info.replace(&format!("usersig={usersig}"), "…")
        .replace(usersig, "…")
}

/// What kept a reply from arriving. The error itself goes no further: it may print the URL.
fn fault(err: reqwest::Error) -> Reply {
    let err = err.without_url();
    let reply = if err.is_timeout() {
        Reply::Timeout
    } else if err.is_connect() {
        Reply::Connect(unconnected(&err))
    } else {
        Reply::Reset
    };
    tracing::trace!(fault = ?reply, "a call ended without a reply");
    reply
}

/// Why there is no connection, in at most [`CAUSE_BYTES_MAX`] bytes: what failed, and the words of the innermost error.
fn unconnected(err: &(dyn Error + 'static)) -> String {
    let (mut innermost, mut what) = (err, stage(err));
    while let Some(source) = innermost.source() {
        innermost = source;
        what = what.or_else(|| stage(source));
    }
    let what = what.unwrap_or("no connection");
    let innermost = innermost.to_string();
    // Nothing below the request knows its URL; if one ever does, it is not told.
    if innermost.contains("://") || innermost.contains("usersig") {
        return what.to_owned();
    }
    let hint = if innermost.contains("InvalidContentType") {
        ": the port does not speak TLS"
    } else {
        ""
    };
    let mut text = format!("{what}{hint} ({innermost})").replace(char::is_control, " ");
    text.truncate(text.floor_char_boundary(CAUSE_BYTES_MAX));
    text
}

/// What one error of the chain says about where connecting failed.
fn stage(err: &(dyn Error + 'static)) -> Option<&'static str> {
    if err.is::<rustls::Error>() {
        return Some("TLS failed");
    }
    if err.to_string() == "dns error" {
        return Some("name not resolved");
    }
    let io = err.downcast_ref::<io::Error>()?;
    if let Some(limit) = io.raw_os_error().and_then(Limit::of_code) {
        return Some(limit.advice());
    }
    match (io.kind(), io.get_ref()) {
        (io::ErrorKind::ConnectionRefused, _) => Some("refused"),
        (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _) => {
            Some("unreachable")
        }
        // What it wraps is not its source.
        (_, Some(wrapped)) => stage(wrapped),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    /// An error with a text and what caused it.
    #[derive(Debug)]
    struct Because(&'static str, Option<Box<dyn Error + 'static>>);

    impl fmt::Display for Because {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Because {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref()
        }
    }

    #[test]
    fn the_cause_is_the_innermost_and_its_stage() {
        let tls =
            |err: rustls::Error| io::Error::other(io::Error::new(io::ErrorKind::InvalidData, err));
        let lookup =
            || io::Error::other("failed to lookup address information: Name or service not known");
        let unreadable = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let cases: [(Box<dyn Error>, &str); 8] = [
            (
                Box::new(io::Error::from_raw_os_error(24)),
                "this process has no file descriptors left: raise LimitNOFILE= or `ulimit -n` (Too many open files (os error 24))",
            ),
            (
                Box::new(Because("dns error", Some(Box::new(lookup())))),
                "name not resolved (failed to lookup address information: Name or service not known)",
            ),
            (
                Box::new(io::Error::from_raw_os_error(111)),
                "refused (Connection refused (os error 111))",
            ),
            (
                Box::new(tls(unreadable)),
                "TLS failed: the port does not speak TLS (received corrupt message of type InvalidContentType)",
            ),
            (
                Box::new(tls(untrusted)),
                "TLS failed (invalid peer certificate: UnknownIssuer)",
            ),
            (Box::new(io::Error::other("a\nb")), "no connection (a b)"),
            (
                Box::new(io::Error::other("in https://host/v4?usersig=x")),
                "no connection",
            ),
            (
                Box::new(io::Error::other("in /v4?usersig=x")),
                "no connection",
            ),
        ];
        for (cause, told) in cases {
            let outer = Because("client error (Connect)", Some(cause));
            let outer = Because("error sending request", Some(Box::new(outer)));
            assert_eq!(unconnected(&outer), told);
        }
        let long = io::Error::other("é".repeat(500));
        assert!(unconnected(&long).len() <= CAUSE_BYTES_MAX);
    }
}
