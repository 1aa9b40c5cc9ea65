//! The calls: `POST /v4/recentcontact/del_contact_group` for one user and one group, and
//! `POST /v4/recentcontact/get_contact_group` for a page of one user's groups.
use std::error::Error;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures_util::FutureExt;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use reqwest::{Client, Response, StatusCode, redirect};
use rustls::ClientConfig;
use serde::Serialize;
use thiserror::Error as ThisError;
use url::Url;

use super::answer::{self, Answer};
use super::connects::{ConnectLayer, OnConnect};
use super::endpoint::Endpoint;
use super::page::{self, Page, PageAsked};
use super::proxy::{Proxy, ProxyError};
use super::signer::{Signer, UserSig};
use crate::settings::Im;
use convgroup_domain::reply::{CallKind, Reply};
use convgroup_host::limits::{Limit, limit_in_panic};
use convgroup_host::trust::{self, NobodyTrusted, Peer};

const DELETE_PATH: &str = "/v4/recentcontact/del_contact_group";
const LIST_PATH: &str = "/v4/recentcontact/get_contact_group";
/// How long an idle connection is kept (contract): shorter than what middle boxes and the API's front end grant.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// Longest reply to a deletion that is read, in bytes; a real one has about 200.
const DELETE_REPLY_BYTES_MAX: usize = 64 * 1024;
/// Longest reply to a list that is read, in bytes. It carries conversations of some hundred bytes each, and the API does not say
/// how many there are on a page: this is room for ten thousand. Memory grows with what arrives.
const LIST_REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Why a body that is compressed is no answer.
const ENCODED: &str = "its Content-Encoding was not asked for";
/// Longest text about a connection that did not come about, in bytes.
const CAUSE_BYTES_MAX: usize = 480;

/// Which connection a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
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

/// When a call was made, and the HTTP status of its reply: what a trace tells of it beside the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// When it was sent.
    pub started: Instant,
    /// From sending to the complete reply.
    pub took: Duration,
    /// The HTTP status, if one came back.
    pub http_status: Option<u16>,
}

impl Call {
    /// When it was made, and the status.
    #[must_use]
    pub const fn made(&self) -> Made {
        Made {
            started: self.started,
            took: self.took,
            http_status: self.reply.http_status(),
        }
    }
}

/// The path that a kind of call has at the API.
#[must_use]
pub const fn path(kind: CallKind) -> &'static str {
    match kind {
        CallKind::Delete => DELETE_PATH,
        CallKind::List => LIST_PATH,
    }
}

/// A finished list of one page.
#[derive(Debug)]
pub struct Listed {
    /// The call. Its reply is an answer with code 0 exactly when there is a page; a page that can't be relied on is a
    /// [`Reply::BadBody`].
    pub call: Call,
    /// What the page says.
    pub page: Option<Page>,
}

/// Why no call can be made.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
pub enum SetupError {
    /// The address of the API is no URL.
    #[error("the API's address is no url: {0}")]
    Url(url::ParseError),
    /// The environment names a proxy by something that is none.
    #[error("{0}")]
    Proxy(ProxyError),
    /// TLS is spoken, and this machine trusts no CA.
    #[error("{route} is called over TLS, and {error}")]
    NobodyTrusted {
        /// Scheme, host and port of the API, and the proxy.
        route: String,
        /// What is missing.
        error: NobodyTrusted,
    },
    /// The HTTP library refuses the settings, in its words.
    #[error("the HTTP client can't be set up: {0}")]
    Http(String),
}

/// Calls the API. Cheap to share by reference; holds the connection pool.
#[derive(Debug)]
pub struct ChatClient {
    pooled: Client,
    fresh: Client,
    delete_url: Url,
    list_url: Url,
    route: Route,
    /// Signs the calls.
    pub signer: Signer,
    identifier: String,
}

/// The way calls take, for people.
#[derive(Debug)]
struct Route {
    /// Scheme, host and port of the API.
    endpoint: String,
    proxy: Option<Proxy>,
}

impl Route {
    /// Reads the environment.
    ///
    /// # Errors
    /// It names a proxy by something that is no address of one.
    fn to(endpoint: &Endpoint, url: &Url) -> Result<Self, ProxyError> {
        let variable =
            |name: &str| std::env::var_os(name).map(|it| it.to_string_lossy().into_owned());
        Ok(Self {
            endpoint: endpoint.as_str().to_owned(),
            proxy: Proxy::for_endpoint(url, variable)?,
        })
    }

    /// Whether TLS is spoken on it, with whomever.
    fn is_secure(&self) -> bool {
        self.endpoint.starts_with("https://") || self.proxy.as_ref().is_some_and(|it| it.secure)
    }

    /// TLS for it. Where none is spoken, nothing is asked of this machine.
    ///
    /// # Errors
    /// This machine trusts nobody.
    fn tls(&self) -> Result<ClientConfig, SetupError> {
        let mut tls = if self.is_secure() {
            let trusting = trust::trusting(Vec::new());
            trusting
                .map_err(|error| SetupError::NobodyTrusted {
                    route: self.to_string(),
                    error,
                })?
                .with_no_client_auth()
        } else {
            trust::unused()
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(tls)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.endpoint)?;
        match &self.proxy {
            Some(proxy) => write!(f, " through the proxy {proxy}"),
            None => Ok(()),
        }
    }
}

#[derive(Serialize)]
struct DeleteBody<'a> {
    #[serde(rename = "From_Account")]
    user: &'a str,
    #[serde(rename = "GroupName")]
    groups: [&'a str; 1],
}

#[derive(Serialize)]
struct ListBody<'a> {
    #[serde(rename = "From_Account")]
    user: &'a str,
    #[serde(rename = "StartIndex")]
    start_index: u64,
}

/// A call that was made, and the body that came back, if one did.
struct Exchange {
    received: Result<Received, Reply>,
    started: Instant,
    took: Duration,
    usersig: UserSig,
}

/// The body of a reply with status 200.
struct Received {
    body: Vec<u8>,
    /// Whether this is all of it, or only its beginning.
    all: bool,
    is_encoded: bool,
}

impl ChatClient {
    /// `connections_max` idle connections are kept at most: as many as there can be calls in flight. `on_connect` is told of
    /// each that is made.
    ///
    /// # Errors
    /// This machine trusts nobody, though TLS is spoken; or the environment names a proxy by nonsense.
    pub fn new(
        im: &Im,
        signer: Signer,
        connections_max: usize,
        on_connect: &OnConnect,
    ) -> Result<Self, SetupError> {
        let (delete_url, list_url) = (url(im, DELETE_PATH)?, url(im, LIST_PATH)?);
        let route = Route::to(&im.endpoint, &delete_url).map_err(SetupError::Proxy)?;
        if let Some(proxy) = &route.proxy {
            tracing::info!(im.proxy = %proxy, "calls to the API go through a proxy");
        }
        let tls = route.tls()?;
        let builder = |idle_max| {
            // What the library would take from the environment is taken here, and checked.
            let mut client = Client::builder().no_proxy();
            if let Some(proxy) = &route.proxy {
                client = client.proxy(proxy.rule().map_err(SetupError::Proxy)?);
            }
            client
                .tls_backend_preconfigured(tls.clone())
                .user_agent(concat!("convgroup-deleter/", env!("CARGO_PKG_VERSION")))
                .timeout(im.timeout)
                .connect_timeout(im.timeout)
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(idle_max)
                .redirect(redirect::Policy::none())
                .referer(false)
                .http1_only()
                .connector_layer(ConnectLayer(Arc::clone(on_connect)))
                .build()
                .map_err(|err| SetupError::Http(err.without_url().to_string()))
        };
        Ok(Self {
            pooled: builder(connections_max)?,
            fresh: builder(0)?,
            delete_url,
            list_url,
            route,
            signer,
            identifier: im.identifier.clone(),
        })
    }

    /// The admin account in whose name calls are made.
    #[must_use]
    pub fn identifier(&self) -> &str {
        &self.identifier
    }

    /// Where calls go, and through which proxy: `https://host through the proxy 10.0.0.1:3128 (HTTPS_PROXY)`.
    #[must_use]
    pub fn route(&self) -> impl fmt::Display {
        &self.route
    }

    /// Deletes one group of one user. Takes at most `im.timeout`.
    pub async fn delete(&self, user: &str, group: &str, via: Via) -> Call {
        let groups = [group];
        let body = json(&DeleteBody { user, groups });
        let exchange = self.call(&self.delete_url, body, DELETE_REPLY_BYTES_MAX, via);
        exchange
            .await
            .read(|body, all, usersig| (said(body, all, usersig), ()))
            .0
    }

    /// Asks for one page of the groups of one user. Takes at most `im.timeout`.
    ///
    /// The whole list begins with [`PageAsked::FIRST`] and goes on with [`PageAsked::followed_by`] while [`Page::next`] says so.
    pub async fn list(&self, user: &str, asked: PageAsked, via: Via) -> Listed {
        let start_index = asked.start_index;
        let body = json(&ListBody { user, start_index });
        let exchange = self.call(&self.list_url, body, LIST_REPLY_BYTES_MAX, via);
        let read = |body: &[u8], all, usersig: &str| listed(body, all, usersig, asked);
        let (call, page) = exchange.await.read(read);
        Listed { call, page }
    }

    /// Makes one call and receives at most `bytes_max` of its reply.
    async fn call(&self, url: &Url, body: Vec<u8>, bytes_max: usize, via: Via) -> Exchange {
        let usersig = self.signer.current();
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("usersig", usersig.expose())
            .append_pair("random", &rand::random::<u32>().to_string())
            .append_pair("contenttype", "json");
        let client = match via {
            Via::Pooled => &self.pooled,
            Via::Fresh => &self.fresh,
        };
        let started = Instant::now();
        let request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            // Without it HTTP lets a server compress as it likes.
            .header(ACCEPT_ENCODING, "identity")
            .body(body);
        // The API's name is looked up on a thread of its own; where none can be started, the libraries panic.
        let sent = AssertUnwindSafe(request.send()).catch_unwind().await;
        let received = match sent {
            Ok(Ok(response)) => receive(response, bytes_max, &self.route).await,
            Ok(Err(err)) => Err(fault(err, &self.route)),
            Err(panicked) => match limit_in_panic(&*panicked) {
                Some(limit) => Err(Reply::Connect(limit.advice().to_owned())),
                None => resume_unwind(panicked),
            },
        };
        Exchange {
            received,
            started,
            took: started.elapsed(),
            usersig,
        }
    }
}

impl Exchange {
    /// The call as it ended. `read` says what a body means, given whether it is all there, and the signature that is not to be
    /// repeated; where none came, there is nothing beside the reply.
    fn read<T: Default>(self, read: impl FnOnce(&[u8], bool, &str) -> (Reply, T)) -> (Call, T) {
        let (reply, more) = match self.received {
            Err(reply) => (reply, T::default()),
            Ok(received) => match read(&received.body, received.all, self.usersig.expose()) {
                (Reply::BadBody(_), more) if received.is_encoded => (Reply::BadBody(ENCODED), more),
                said => said,
            },
        };
        let call = Call {
            reply,
            started: self.started,
            took: self.took,
            usersig: self.usersig,
        };
        (call, more)
    }
}

/// The URL of a call, up to what each call has of its own.
fn url(im: &Im, path: &str) -> Result<Url, SetupError> {
    let url = Url::parse(&format!("{}{path}", im.endpoint.as_str()));
    let mut url = url.map_err(SetupError::Url)?;
    url.query_pairs_mut()
        .append_pair("sdkappid", &im.sdk_app_id.to_string())
        .append_pair("identifier", &im.identifier);
    Ok(url)
}

fn json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and numbers always serialize")
}

/// The body of a reply with status 200, of which at most `bytes_max` are read.
///
/// # Errors
/// There is none: it has another status, or broke off.
async fn receive(
    mut response: Response,
    bytes_max: usize,
    route: &Route,
) -> Result<Received, Reply> {
    let status = response.status();
    let (mut body, mut all) = (Vec::new(), true);
    loop {
        match response.chunk().await {
            // A status says enough, whether its body comes or not. One that is read to its end leaves the connection usable.
            Err(_) | Ok(None) if status != StatusCode::OK => break,
            Err(err) => return Err(fault(err, route)),
            Ok(None) => break,
            Ok(Some(chunk)) => {
                let left = bytes_max - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(left)]);
                all = chunk.len() <= left;
            }
        }
        if !all {
            break;
        }
    }
    if status != StatusCode::OK {
        return Err(Reply::HttpStatus(status.as_u16()));
    }
    Ok(Received {
        body,
        all,
        is_encoded: is_encoded(&response),
    })
}

/// What the body of a reply with status 200 says, of which `all` was read or only the beginning; its text without the signature.
pub(crate) fn said(body: &[u8], all: bool, usersig: &str) -> Reply {
    match answer::read(body, all) {
        Ok(Answer { code, info }) => Reply::Answer {
            code,
            info: without(usersig, &info),
        },
        Err(why) => Reply::BadBody(why),
    }
}

/// What the body of a reply to a list says, as [`said`] does, and the page that was asked for. There is a page exactly when the
/// reply is an answer with code 0.
pub(crate) fn listed(
    body: &[u8],
    all: bool,
    usersig: &str,
    asked: PageAsked,
) -> (Reply, Option<Page>) {
    let (Answer { code, info }, text) = match answer::read_with_text(body, all) {
        Ok(answer) => answer,
        Err(why) => return (Reply::BadBody(why), None),
    };
    let info = without(usersig, &info);
    let reply = Reply::Answer { code, info };
    if code != 0 {
        return (reply, None);
    }
    match page::read(&text, asked) {
        Ok(page) => (reply, Some(page)),
        Err(why) => (Reply::BadBody(why), None),
    }
}

/// Whether the body is compressed, or otherwise not as it is.
fn is_encoded(response: &Response) -> bool {
    let encoding = response.headers().get(CONTENT_ENCODING);
    encoding.is_some_and(|encoding| encoding != "identity")
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
fn fault(err: reqwest::Error, route: &Route) -> Reply {
    let err = err.without_url();
    let reply = if err.is_timeout() {
        Reply::Timeout
    } else if err.is_connect() {
        Reply::Connect(unconnected(&err, route))
    } else {
        Reply::Reset
    };
    tracing::trace!(fault = ?reply, "a call ended without a reply");
    reply
}

/// What an error of the chain says when the proxy itself could not be reached.
const NO_TUNNEL: &str = "tunnel error: failed to create underlying connection";

/// Why there is no connection, in at most [`CAUSE_BYTES_MAX`] bytes: by which proxy, what failed, what it means, and the words of
/// the innermost error.
fn unconnected(err: &(dyn Error + 'static), route: &Route) -> String {
    let (mut innermost, mut what) = (err, stage(err));
    let mut at_proxy = !route.endpoint.starts_with("https://");
    while let Some(source) = innermost.source() {
        innermost = source;
        what = what.or_else(|| stage(source));
        at_proxy |= source.to_string() == NO_TUNNEL;
    }
    let mut text = match &route.proxy {
        Some(proxy) => format!("through the proxy {proxy}: "),
        None => String::new(),
    };
    text += what.unwrap_or("no connection");
    let innermost_text = innermost.to_string();
    // Nothing below the request knows its URL; if one ever does, it is not told.
    if !innermost_text.contains("://") && !innermost_text.contains("usersig") {
        let peer = if at_proxy { Peer::Proxy } else { Peer::Api };
        let meaning = trust::tls_error(err).and_then(|tls| trust::meaning(tls, peer));
        if let Some(meaning) = meaning {
            text = format!("{text}: {meaning}");
        }
        text = format!("{text} ({innermost_text})");
    }
    let mut text = text.replace(char::is_control, " ");
    text.truncate(text.floor_char_boundary(CAUSE_BYTES_MAX));
    text
}

/// What one error of the chain says about where connecting failed.
fn stage(err: &(dyn Error + 'static)) -> Option<&'static str> {
    if err.is::<rustls::Error>() {
        return Some("TLS failed");
    }
    match err.to_string().as_str() {
        "dns error" => return Some("name not resolved"),
        "tunnel error: proxy authorization required" => {
            return Some(
                "it wants a user and a password, or others: http://USER:PASSWORD@HOST:PORT",
            );
        }
        "tunnel error: unsuccessful" => return Some("it does not connect to the API"),
        _ => {}
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
    use super::*;

    #[test]
    fn a_list_has_a_page_exactly_when_its_code_is_0() {
        const PAGE: &str = r#""GroupItem":[{"GroupName":"a"}],"CompleteFlag":1"#;
        let answer = |code, info: &str| Reply::Answer {
            code,
            info: info.to_owned(),
        };
        for (body, all, expected) in [
            (
                format!(r#"{{{PAGE},"ErrorCode":0}}"#),
                true,
                Some(answer(0, "")),
            ),
            // A failure needs no page, and repeats no signature.
            (
                r#"{"ErrorCode":50001,"ErrorInfo":"at ?usersig=SIG&x"}"#.to_owned(),
                true,
                Some(answer(50001, "at ?…&x")),
            ),
            (
                format!(r#"{{{PAGE},"ErrorCode":"60007"}}"#),
                true,
                Some(answer(60007, "")),
            ),
            (r#"{"ErrorCode":0}"#.to_owned(), true, None),
            (
                format!(r#"{{{PAGE},"ErrorCode":0,"ActionStatus":"FAIL"}}"#),
                true,
                None,
            ),
            (format!(r#"{{{PAGE},"ErrorCode":0}}{{}}"#), true, None),
            (format!(r#"{{{PAGE},"ErrorCode":0}}"#), false, None),
            (format!("{{{PAGE}}}"), true, None),
            (String::new(), true, None),
        ] {
            let (reply, page) = listed(body.as_bytes(), all, "SIG", PageAsked::FIRST);
            let is_success = matches!(reply, Reply::Answer { code: 0, .. });
            assert_eq!(page.is_some(), is_success, "{body}");
            match expected {
                Some(expected) => assert_eq!(reply, expected, "{body}"),
                None => assert!(matches!(reply, Reply::BadBody(_)), "{body}: {reply:?}"),
            }
        }
    }

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
        let route = Route {
            endpoint: "https://host".to_owned(),
            proxy: None,
        };
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
                "TLS failed: the API's certificate leads to no CA that this machine trusts: add its CA (or that of a proxy which \
                 opens TLS) to those of this machine, or set SSL_CERT_FILE to a file that holds it; a CA in between has to be \
                 sent by the server (invalid peer certificate: UnknownIssuer)",
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
            assert_eq!(unconnected(&outer, &route), told);
        }
        let long = io::Error::other("é".repeat(500));
        assert!(unconnected(&long, &route).len() <= CAUSE_BYTES_MAX);
    }
}
