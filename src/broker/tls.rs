//! TLS to the broker: which files, and what a failed handshake means.
use std::path::{Path, PathBuf};

use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};

use crate::text;

/// What a PEM file of certificates has to hold.
pub const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// What a PEM file of a key has to hold: `PRIVATE KEY`, `RSA PRIVATE KEY`, `EC PRIVATE KEY`.
pub const KEY: &str = "PRIVATE KEY-----";

/// The files of `amqp.tls.*`, in PEM. They are read at each connect, so that renewed ones need no restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// CAs that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate, its chain behind it.
    pub cert_file: Option<PathBuf>,
    /// The client's private key, not encrypted.
    pub key_file: Option<PathBuf>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file can't be read, or holds something else; never what is in it.
    pub fn load(&self) -> Result<OwnedTLSConfig, String> {
        let ca = self
            .ca_file
            .as_ref()
            .map(|path| pem(path, CERTIFICATE))
            .transpose()?;
        let identity = match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: pem(cert, CERTIFICATE)?.into_bytes(),
                key: pem(key, KEY)?.into_bytes(),
            }),
            _ => None,
        };
        Ok(OwnedTLSConfig {
            identity,
            cert_chain: ca,
        })
    }
}

/// Whether a text is PEM itself, put in the place of the path of its file.
#[must_use]
pub fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN ")
}

/// Reads one PEM file that has to hold `wanted`.
///
/// # Errors
/// Which file can't be read, or holds something else; never what is in it.
pub fn pem(path: &Path, wanted: &str) -> Result<String, String> {
    if is_pem(&path.to_string_lossy()) {
        return Err("is PEM itself; put it into a file and name that".to_owned());
    }
    // A byte order mark would hide the first block from the parser.
    let text = text::from_file(path)
        .map_err(|problem| format!("the file {} {problem}", path.display()))?;
    if text.contains(wanted) {
        Ok(text)
    } else {
        Err(format!(
            "the file {} holds no PEM block `{wanted}`",
            path.display()
        ))
    }
}

/// What a failed connection over TLS means, and what to do; nothing for errors that are clear by themselves.
#[must_use]
pub fn explained(error: &str) -> Option<&'static str> {
    let any = |words: &[&str]| words.iter().any(|word| error.contains(word));
    if any(&[
        "UnknownIssuer",
        "BadSignature",
        "unknown issuer",
        "CaUsedAsEndEntity",
    ]) {
        Some(
            "the broker's certificate is signed by no CA that this machine trusts: set amqp.tls.ca_file to the CA's certificate",
        )
    } else if any(&["NotValidForName", "not valid for name"]) {
        Some(
            "the broker's certificate is for another host name: write the name that stands in it into amqp.url",
        )
    } else if any(&["Expired", "expired", "NotValidYet"]) {
        Some("the broker's certificate is out of date: renew it, or mend the clock of this host")
    } else if any(&[
        "CertificateRequired",
        "certificate required",
        "HandshakeFailure",
        "BadCertificate",
    ]) {
        Some(
            "the broker wants a client certificate: set amqp.tls.cert_file and amqp.tls.key_file to one that it trusts",
        )
    } else if any(&["InvalidContentType", "corrupt message"]) {
        Some("the port does not speak TLS: use amqp://, or the broker's TLS port (usually 5671)")
    } else if any(&[
        "reset by peer",
        "Broken pipe",
        "closed the connection before",
        "close_notify",
    ]) {
        // It may have told why, and the reset overtook it.
        Some(
            "the node broke the connection off during or after the TLS handshake: most often it wants a client certificate \
             (amqp.tls.cert_file and amqp.tls.key_file), or does not trust the one it got; its own log says why",
        )
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshake_errors_are_explained() {
        for (error, word) in [
            ("invalid peer certificate: UnknownIssuer", "ca_file"),
            (
                "invalid peer certificate: certificate not valid for name \"localhost\"",
                "host name",
            ),
            ("received fatal alert: CertificateRequired", "cert_file"),
            ("Connection reset by peer (os error 104)", "cert_file"),
            (
                "received corrupt message of type InvalidContentType",
                "amqp://",
            ),
        ] {
            assert!(
                explained(error).is_some_and(|text| text.contains(word)),
                "{error}"
            );
        }
        assert_eq!(explained("connection refused"), None);
    }
}
