//! TLS, for the broker and for the API: whom it trusts, and what a failed handshake means.
//!
//! Not here: which files are used (`broker/tls.rs`), and who connects.
use std::error::Error;
use std::io;
use std::sync::{Arc, Once};
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::WantsClientCert;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ConfigBuilder, InvalidMessage,
    PeerIncompatible, RootCertStore,
};

/// Names of a certificate that are told; the others are counted.
const NAMES_MAX: usize = 4;
/// Longest name that is told, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// This machine trusts no CA at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this machine trusts no CA{told}: install the package ca-certificates, or set SSL_CERT_FILE to a file of CA certificates",
    told = problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default()
)]
pub struct NobodyTrusted {
    /// What kept its CAs from being read, in the library's words.
    pub problem: Option<String>,
}

/// The cryptography of this program.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(|| Arc::new(ring::default_provider()), Arc::clone)
}

fn builder() -> ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has the default versions")
}

/// TLS that trusts nobody, for addresses where none is used: it asks nothing of this machine.
#[must_use]
pub fn unused() -> ClientConfig {
    builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth()
}

/// TLS that trusts the CAs of this machine and `more`. The machine's are read now; what can't be read of them is left out.
///
/// # Errors
/// There is none at all, and why.
pub fn trusting(
    more: Vec<CertificateDer<'static>>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, NobodyTrusted> {
    let system = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(more);
    let (_, unreadable) = roots.add_parsable_certificates(system.certs);
    let problem = system.errors.first().map(ToString::to_string);
    if roots.is_empty() {
        return Err(NobodyTrusted { problem });
    }
    if unreadable > 0 || problem.is_some() {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| {
            tracing::warn!(
                problem = problem.unwrap_or_else(|| format!("{unreadable} can't be parsed")),
                "some CA certificates of this machine can't be read; the others are used"
            );
        });
    }
    Ok(builder().with_root_certificates(roots))
}

/// Who is at the other end, and what is configured for it: advice depends on both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// RabbitMQ.
    Broker {
        /// Whether `amqp.tls.ca_file` is set.
        ca_file: bool,
        /// Whether `amqp.tls.cert_file` and `key_file` are set.
        identity: bool,
    },
    /// The Chat API, or what stands in front of it.
    Api,
    /// A proxy on the way to it, spoken to over TLS itself.
    Proxy,
}

impl Peer {
    const fn whose(self) -> &'static str {
        match self {
            Self::Broker { .. } => "the broker's",
            Self::Api => "the API's",
            Self::Proxy => "the proxy's",
        }
    }
}

/// The error of TLS in a chain of errors, however it is wrapped.
#[must_use]
pub fn tls_error<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(tls) = err.downcast_ref() {
            return Some(tls);
        }
        // What an `io::Error` wraps is not its source.
        let wrapped = err.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|wrapped| tls_error(wrapped)) {
            return Some(tls);
        }
        next = err.source();
    }
    None
}

/// What a failed handshake means, and what to do; nothing where the error says all that is known.
#[must_use]
pub fn meaning(err: &rustls::Error, peer: Peer) -> Option<String> {
    match err {
        rustls::Error::InvalidCertificate(err) => certificate(err, peer),
        rustls::Error::AlertReceived(alert) => refusal(*alert, peer).map(str::to_owned),
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Some(match peer {
            Peer::Broker { .. } => {
                "the port does not speak TLS: use amqp://, or the broker's TLS port (usually 5671)"
            }
            Peer::Api => "the port does not speak TLS",
            Peer::Proxy => "the proxy does not speak TLS: write http:// before its address",
        }
        .to_owned()),
        rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => Some(old_version(peer).to_owned()),
        _ => None,
    }
}

const fn old_version(peer: Peer) -> &'static str {
    match peer {
        Peer::Broker { .. } => {
            "the broker speaks no TLS version from 1.2 on: allow tlsv1.2 or tlsv1.3 in its ssl_options.versions"
        }
        Peer::Api | Peer::Proxy => {
            "the server speaks no TLS version from 1.2 on: have it allow TLS 1.2 or 1.3"
        }
    }
}

/// What is wrong with the certificate that the server showed.
fn certificate(err: &CertificateError, peer: Peer) -> Option<String> {
    let whose = peer.whose();
    Some(match err {
        CertificateError::UnknownIssuer => unknown_issuer(peer).to_owned(),
        CertificateError::BadSignature => format!(
            "a certificate in {whose} chain was not signed by the trusted CA of that name: that CA has a new key, or another one \
             has the same name; {}",
            trust_it(peer)
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => names(expected, presented, peer),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "a certificate in {whose} chain is valid until {} only, and it is {} on this host: renew the certificate, or set the \
             clock of this host right",
            moment(*not_after),
            moment(*time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "a certificate in {whose} chain is valid from {} on, and it is {} on this host: set the clock of this host right, or \
             have the certificate issued anew",
            moment(*not_before),
            moment(*time)
        ),
        CertificateError::InvalidPurposeContext { .. } => format!(
            "{whose} certificate is not meant for a server: have one issued whose extended key usage holds serverAuth"
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "a certificate in {whose} chain is signed in a way that is not accepted (SHA-1 and MD5 are not): have it issued anew, \
             signed with SHA-256"
        ),
        CertificateError::Revoked => {
            format!("{whose} certificate is revoked: have a new one issued")
        }
        // The error of the library below, which is no dependency: its text is the name of its variant.
        CertificateError::Other(other) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => format!(
                "{whose} certificate is that of a CA (CA:TRUE), as self-signed ones often are, and no server may use one: have one \
                 issued with CA:FALSE; {}",
                trust_it(peer)
            ),
            "UnsupportedCertVersion" => format!(
                "{whose} certificate is of X.509 version 1: have one of version 3 issued, with the host name as subjectAltName"
            ),
            _ => return None,
        },
        _ => return None,
    })
}

/// How to have a CA trusted.
const fn trust_it(peer: Peer) -> &'static str {
    match peer {
        Peer::Broker { ca_file: false, .. } => "set amqp.tls.ca_file to the certificate of its CA",
        Peer::Broker { ca_file: true, .. } => "put the certificate of its CA into amqp.tls.ca_file",
        Peer::Api | Peer::Proxy => {
            "add the certificate of its CA to those of this machine, or set SSL_CERT_FILE to a file that holds it"
        }
    }
}

const fn unknown_issuer(peer: Peer) -> &'static str {
    match peer {
        Peer::Broker { ca_file: false, .. } => {
            "the broker's certificate is signed by no CA that this machine trusts: set amqp.tls.ca_file to the CA's certificate"
        }
        Peer::Broker { ca_file: true, .. } => {
            "the broker's certificate leads to no CA in amqp.tls.ca_file, nor to one that this machine trusts: put the CA that \
             signed it into that file; if it stands there, a CA between the two is missing, and the broker has to send its \
             certificate too (ssl_options.certfile holds the whole chain)"
        }
        Peer::Api => {
            "the API's certificate leads to no CA that this machine trusts: add its CA (or that of a proxy which opens TLS) to \
             those of this machine, or set SSL_CERT_FILE to a file that holds it; a CA in between has to be sent by the server"
        }
        Peer::Proxy => {
            "the proxy's certificate leads to no CA that this machine trusts: add its CA to those of this machine, or set \
             SSL_CERT_FILE to a file that holds it"
        }
    }
}

/// A certificate for other names than the one that was asked for.
fn names(expected: &ServerName<'_>, presented: &[String], peer: Peer) -> String {
    let (whose, expected) = (peer.whose(), expected.to_str());
    let kind = match expected.parse::<std::net::IpAddr>() {
        Ok(_) => "IP",
        Err(_) => "DNS",
    };
    if presented.is_empty() {
        return format!(
            "{whose} certificate has no subjectAltName, and the name in its subject (CN) does not count: have one issued with \
             {kind}:{expected} as subjectAltName"
        );
    }
    let key = match peer {
        Peer::Broker { .. } => "amqp.url",
        Peer::Api => "im.base_url",
        Peer::Proxy => "its variable",
    };
    let mut told: Vec<_> = presented
        .iter()
        .take(NAMES_MAX)
        .map(|name| bare(name))
        .collect();
    let more = presented.len() - told.len();
    let more_told = format!("{more} more");
    if more > 0 {
        told.push(&more_told);
    }
    format!(
        "{whose} certificate is for another host name: it holds {}, not {expected}; write one of those into {key}, or have one issued with \
         {kind}:{expected} as subjectAltName",
        told.join(", ")
    )
}

/// A name without what the library writes around it: `DnsName("a.example")`, `IpAddress(10.0.0.7)`.
fn bare(name: &str) -> &str {
    let inside = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    let bare = inside.unwrap_or(name).trim_matches('"');
    &bare[..bare.floor_char_boundary(NAME_BYTES_MAX)]
}

fn moment(time: UnixTime) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(time.as_secs())).to_string()
}

/// What the other end refused by an alert.
const fn refusal(alert: AlertDescription, peer: Peer) -> Option<&'static str> {
    use AlertDescription as Alert;
    match (alert, peer) {
        (Alert::ProtocolVersion, peer) => Some(old_version(peer)),
        (Alert::CertificateRequired, Peer::Broker { .. })
        | (
            Alert::BadCertificate,
            Peer::Broker {
                identity: false, ..
            },
        ) => Some(
            "the broker wants a client certificate: set amqp.tls.cert_file and amqp.tls.key_file to one that it trusts",
        ),
        (
            Alert::HandshakeFailure,
            Peer::Broker {
                identity: false, ..
            },
        ) => Some(
            "the broker broke the handshake off: most often it wants a client certificate (amqp.tls.cert_file and \
             amqp.tls.key_file), else the two have no cipher in common; its own log says which",
        ),
        (Alert::UnknownCA, Peer::Broker { identity: true, .. }) => Some(
            "the broker does not know the CA of the certificate in amqp.tls.cert_file: add that CA to its \
             ssl_options.cacertfile, or use a certificate of a CA that stands there",
        ),
        (Alert::CertificateExpired, Peer::Broker { identity: true, .. }) => Some(
            "the certificate in amqp.tls.cert_file is out of date, as the broker sees it: renew it",
        ),
        (
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown,
            Peer::Broker { identity: true, .. },
        ) => Some(
            "the broker does not accept the certificate in amqp.tls.cert_file; its own log says why",
        ),
        _ => None,
    }
}
