//! TLS to the broker: which files, and what a failed connection means.
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, InconsistentKeys, RootCertStore};

use thiserror::Error;

use convgroup_host::trust::{self, NobodyTrusted, Peer};

/// The first line of a PEM block of a certificate.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// The end of the first line of a PEM block of a key: `PRIVATE KEY`, `RSA PRIVATE KEY`, `EC PRIVATE KEY`.
const KEY: &str = "PRIVATE KEY-----";
/// What stands in a key that is encrypted, in the new form and in the old one.
const ENCRYPTED: [&str; 2] = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];

/// Why TLS to the broker can't be set up. It names files, never what is in them.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TlsError {
    /// What was given as a path is PEM, perhaps a key.
    #[error("is PEM itself; put it into a file and name that")]
    PemItself,
    /// A file can't be read.
    #[error("the file {} can't be read: {error}", file.display())]
    FileUnreadable {
        /// The file.
        file: PathBuf,
        /// Why, in the system's words.
        error: String,
    },
    /// A file does not hold what it should.
    #[error("the file {} holds no PEM block `{wanted}`{form}", file.display())]
    NoBlock {
        /// The file.
        file: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What it seems to hold instead.
        form: Form,
    },
    /// A certificate can't be read, in this file.
    #[error("the certificate in the file {} can't be read; is the file whole?", .0.display())]
    CertificateUnreadable(PathBuf),
    /// The key in this file can't be read.
    #[error("the key in the file {} can't be read; is the file whole?", .0.display())]
    KeyUnreadable(PathBuf),
    /// The key in this file is encrypted.
    #[error(
        "the key in the file {shown} is encrypted, and nobody is there to type its password: write it decrypted \
         (`openssl pkey -in {shown} -out …`) into a file that only this program's user may read",
        shown = .0.display()
    )]
    KeyEncrypted(PathBuf),
    /// The key in this file is of a kind that can't be used.
    #[error(
        "the key in the file {} is of no kind that can be used: wanted is RSA of 2048 bits or more, ECDSA P-256 or P-384, \
         or Ed25519",
        .0.display()
    )]
    KeyKind(PathBuf),
    /// Certificate and key are of different pairs.
    #[error(
        "the key in the file {} does not belong to the first certificate in the file {}: name the key it was issued for, or put \
         the client's own certificate first",
        key.display(),
        cert.display()
    )]
    KeyMismatch {
        /// The file with the certificate.
        cert: PathBuf,
        /// The file with the key.
        key: PathBuf,
    },
    /// There is no CA at all.
    #[error("{0}, or set amqp.tls.ca_file to the broker's")]
    NobodyTrusted(NobodyTrusted),
}

/// What a file that holds no PEM seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// DER, not written as text.
    Der,
    /// Text in UTF-16.
    Utf16,
    /// Anything else.
    Unknown,
}

/// What to do about it.
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Der => "; it is DER: convert it (`openssl … -inform der`)",
            Self::Utf16 => "; it is UTF-16: save it as ASCII",
            Self::Unknown => "",
        })
    }
}

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
    /// Reads the files, and whom this machine trusts.
    ///
    /// # Errors
    /// Which file can't be used and why, never what is in it; or that nobody is trusted.
    pub fn load(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let cas = self.ca_file.as_deref().map(cas).transpose()?;
        let trusting = trust::trusting(cas.unwrap_or_default()).map_err(TlsError::NobodyTrusted)?;
        let (Some(cert), Some(key)) = (&self.cert_file, &self.key_file) else {
            return Ok(Arc::new(trusting.with_no_client_auth()));
        };
        let chain = certificates(cert)?;
        let config = trusting.with_client_auth_cert(chain, key_of(key)?);
        config.map(Arc::new).map_err(|err| unfit(&err, cert, key))
    }

    /// Who is at the other end, for advice.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer::Broker {
            ca_file: self.ca_file.is_some(),
            identity: self.cert_file.is_some(),
        }
    }
}

/// The CAs in a file. One that can't be read is left out as long as another can.
///
/// # Errors
/// The file can't be read, or holds no certificate that can.
pub fn cas(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = pem(path, CERTIFICATE)?;
    let blocks = CertificateDer::pem_slice_iter(&pem);
    let readable = |ca: &CertificateDer<'static>| RootCertStore::empty().add(ca.clone()).is_ok();
    let cas: Vec<_> = blocks.flatten().filter(readable).collect();
    if cas.is_empty() {
        return Err(TlsError::CertificateUnreadable(path.into()));
    }
    Ok(cas)
}

/// The certificates in a file: the client's own first, its chain behind it.
///
/// # Errors
/// The file can't be read, or holds anything in a certificate's place that can't.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = pem(path, CERTIFICATE)?;
    let blocks: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    blocks.map_err(|_| TlsError::CertificateUnreadable(path.into()))
}

/// The key in a file.
///
/// # Errors
/// The file can't be read, is encrypted, or holds no key that can be used; never what is in it.
pub fn key_of(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = pem(path, KEY)?;
    if ENCRYPTED.iter().any(|mark| holds(&pem, mark)) {
        return Err(TlsError::KeyEncrypted(path.into()));
    }
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::KeyUnreadable(path.into()))?;
    let known = trust::provider()
        .key_provider
        .load_private_key(key.clone_key());
    known
        .map(|_| key)
        .map_err(|_| TlsError::KeyKind(path.into()))
}

/// Whether a certificate and a key, both readable, belong together.
///
/// # Errors
/// They do not, or the certificate can't be read.
pub fn belong_together(cert: &Path, key: &Path) -> Result<(), TlsError> {
    let (chain, key_der) = (certificates(cert)?, key_of(key)?);
    let certified = CertifiedKey::from_der(chain, key_der, &trust::provider());
    certified.map(drop).map_err(|err| unfit(&err, cert, key))
}

fn unfit(err: &rustls::Error, cert: &Path, key: &Path) -> TlsError {
    match err {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::KeyMismatch {
            cert: cert.into(),
            key: key.into(),
        },
        _ => TlsError::CertificateUnreadable(cert.into()),
    }
}

/// Reads one PEM file that has to hold `wanted`. What stands before the first block does not matter, a byte order mark included.
fn pem(path: &Path, wanted: &'static str) -> Result<Vec<u8>, TlsError> {
    const BOM: &[u8] = "\u{feff}".as_bytes();
    if convgroup_domain::text::is_pem(&path.to_string_lossy()) {
        return Err(TlsError::PemItself);
    }
    let mut pem = std::fs::read(path).map_err(|err| TlsError::FileUnreadable {
        file: path.into(),
        error: err.to_string(),
    })?;
    if pem.starts_with(BOM) {
        pem.drain(..BOM.len());
    }
    if holds(&pem, wanted) {
        return Ok(pem);
    }
    Err(TlsError::NoBlock {
        file: path.into(),
        wanted,
        form: match pem.as_slice() {
            [0x30, 0x80..=0xff, ..] => Form::Der,
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Form::Utf16,
            _ => Form::Unknown,
        },
    })
}

fn holds(pem: &[u8], mark: &str) -> bool {
    pem.windows(mark.len()).any(|part| part == mark.as_bytes())
}

/// What it means that a connection over TLS failed, where that is known.
pub(super) fn meaning(err: &(dyn std::error::Error + 'static), peer: Peer) -> Option<String> {
    match trust::tls_error(err) {
        Some(tls) => trust::meaning(tls, peer),
        None if is_broken_off(err) => Some(broken_off(peer).to_owned()),
        None => None,
    }
}

/// What it means that a node ends a connection over TLS without a word: it may have said why, and the reset overtook it.
pub(super) const fn broken_off(peer: Peer) -> &'static str {
    match peer {
        Peer::Broker {
            identity: false, ..
        } => {
            "the node broke the connection off during or after the TLS handshake: most often it wants a client certificate \
             (amqp.tls.cert_file and amqp.tls.key_file); its own log says why"
        }
        Peer::Broker { .. } | Peer::Api | Peer::Proxy => {
            "the node broke the connection off during or after the TLS handshake: most often it does not trust the client \
             certificate in amqp.tls.cert_file; its own log says why"
        }
    }
}

/// Whether the connection ended without a word.
pub(super) fn is_broken_off(err: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(err);
    while let Some(err) = next {
        let kind = err.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(
            kind,
            Some(
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        ) {
            return true;
        }
        next = err.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/certificates");

    fn file(name: &str) -> PathBuf {
        Path::new(FILES).join(name)
    }

    fn read(name: &str) -> Vec<u8> {
        std::fs::read(file(name)).unwrap()
    }

    /// A file with these bytes, for as long as it lives.
    fn holding(bytes: &[u8]) -> tempfile::TempPath {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file.into_temp_path()
    }

    #[track_caller]
    fn refused<T>(found: Result<T, TlsError>, word: &str) {
        let problem = found.err().map(|problem| problem.to_string());
        let problem = problem.unwrap_or_else(|| panic!("no word of `{word}`"));
        assert!(problem.contains(word), "{problem}");
        assert!(!problem.contains("MII"), "{problem}");
    }

    #[test]
    fn cas_are_read_beside_what_is_broken() {
        const BAD_BASE64: &[u8] = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        const NO_DER: &[u8] = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let ca = read("ca.pem");
        let crlf = String::from_utf8(ca.clone()).unwrap().replace('\n', "\r\n");
        for (what, bytes) in [
            ("alone", ca.clone()),
            ("bad base64 before it", [BAD_BASE64, &ca].concat()),
            ("no DER before it", [NO_DER, &ca].concat()),
            ("both behind it", [&ca, BAD_BASE64, NO_DER].concat()),
            ("a byte order mark", [b"\xef\xbb\xbf", &*ca].concat()),
            ("a comment in Latin-1", [b"# Z\xfcrich\n", &*ca].concat()),
            ("lines that end as on Windows", crlf.into_bytes()),
        ] {
            let cas = cas(&holding(&bytes));
            assert_eq!(cas.map(|cas| cas.len()), Ok(1), "{what}");
        }
        for bytes in [BAD_BASE64, NO_DER, &ca[..ca.len() / 2]] {
            refused(cas(&holding(bytes)), "can't be read; is the file whole?");
        }
        refused(cas(&file("leaf.der")), "it is DER");
        refused(cas(&file("leaf.key")), "holds no PEM block");
        refused(cas(&holding(b"\xff\xfe-\0")), "it is UTF-16");
        refused(cas(&file("nowhere")), "nowhere can't be read: No such file");
    }

    #[test]
    fn keys_are_read_in_every_form() {
        let pkcs8 = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let sec1 = read("leaf.key");
        for (what, path) in [
            ("SEC1", file("leaf.key")),
            ("PKCS#1", file("pkcs1.key")),
            ("PKCS#8", holding(pkcs8.as_bytes()).keep().unwrap()),
            (
                "a byte order mark",
                holding(&[b"\xef\xbb\xbf", &*sec1].concat()).keep().unwrap(),
            ),
        ] {
            assert!(key_of(&path).is_ok(), "{what}");
            if !path.starts_with(FILES) {
                std::fs::remove_file(path).unwrap();
            }
        }
        for encrypted in ["encrypted.key", "encrypted-old.key"] {
            refused(key_of(&file(encrypted)), "is encrypted");
        }
        refused(key_of(&file("p521.key")), "of no kind that can be used");
        refused(key_of(&file("leaf.pem")), "holds no PEM block");
        refused(
            key_of(&holding(&sec1[..sec1.len() / 2])),
            "is the file whole?",
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_named() {
        let together = |cert, key| belong_together(&file(cert), &file(key));
        assert_eq!(together("leaf.pem", "leaf.key"), Ok(()));
        assert_eq!(together("rsa.pem", "pkcs1.key"), Ok(()));
        refused(
            together("leaf.pem", "pkcs1.key"),
            "does not belong to the first certificate",
        );
    }
}
