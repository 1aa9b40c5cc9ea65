//! Asks a running daemon whether it is ready, as a health check of a container does.
use std::fmt::Write;
use std::time::Duration;

use convgroup_host::trust::{self, NobodyTrusted};
use reqwest::{Client, StatusCode, Url};
use thiserror::Error;

/// How long the daemon may take to answer: less than the usual timeout of a container's health check.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What the daemon said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is ready.
    Ready,
    /// It is not: its status line and its words.
    NotReady(String),
}

/// Why it could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AskError {
    /// The address is none that can be asked.
    #[error("--ready wants a url like http://127.0.0.1:9464/readyz: {0}")]
    Url(String),
    /// This machine trusts nobody, and the address wants TLS.
    #[error("{0}")]
    Trust(NobodyTrusted),
    /// This machine lets no HTTP client be set up.
    #[error("the HTTP client can't be set up: {0}")]
    Http(String),
    /// Nobody answered.
    #[error("{0}")]
    Unreachable(String),
}

/// Asks the daemon at `url`.
///
/// # Errors
/// See [`AskError`].
pub async fn ask(url: &str) -> Result<Readiness, AskError> {
    if url.contains('@') {
        return Err(AskError::Url("it must not hold credentials".to_owned()));
    }
    let url = Url::parse(url).map_err(|err| AskError::Url(err.to_string()))?;
    // A machine without CAs can still be asked without TLS.
    let tls = if url.scheme() == "https" {
        let trusting = trust::trusting(Vec::new()).map_err(AskError::Trust)?;
        trusting.with_no_client_auth()
    } else {
        trust::unused()
    };
    let client = Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        .tls_backend_preconfigured(tls)
        .build()
        .map_err(|err| AskError::Http(chain(&err)))?;
    match client.get(url).send().await {
        Ok(reply) if reply.status() == StatusCode::OK => Ok(Readiness::Ready),
        Ok(reply) => {
            let status = reply.status();
            let text = reply.text().await.unwrap_or_default();
            Ok(Readiness::NotReady(format!("{status}: {}", text.trim())))
        }
        Err(err) if err.is_builder() => Err(AskError::Url(chain(&err))),
        Err(err) => Err(AskError::Unreachable(chain(&err))),
    }
}

/// An error and all that caused it.
fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let _ = write!(text, ": {err}");
        cause = err.source();
    }
    text
}
