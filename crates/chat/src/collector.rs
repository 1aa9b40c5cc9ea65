//! The HTTP client for the collector of traces. It is not the API, but it is called with the same care: whom it trusts, through which
//! proxy, and no redirects, because they would carry the headers that it asks for to another host.
use std::time::Duration;

use reqwest::blocking::Client;
use reqwest::redirect;
use url::Url;

use super::client::SetupError;
use super::proxy::Proxy;
use convgroup_host::trust;

/// A client for the collector at `url`. It blocks, and is to be made and used outside of a runtime.
///
/// # Errors
/// This machine trusts nobody, though TLS is spoken; or the environment names a proxy by nonsense.
pub fn client(url: &Url, timeout: Duration) -> Result<Client, SetupError> {
    let variable = |name: &str| std::env::var_os(name).map(|it| it.to_string_lossy().into_owned());
    let proxy = Proxy::for_endpoint(url, variable).map_err(SetupError::Proxy)?;
    let is_secure = url.scheme() == "https" || proxy.as_ref().is_some_and(|proxy| proxy.secure);
    let tls = if is_secure {
        let trusting = trust::trusting(Vec::new()).map_err(|error| SetupError::NobodyTrusted {
            route: "the collector of traces".to_owned(),
            error,
        })?;
        trusting.with_no_client_auth()
    } else {
        trust::unused()
    };
    let mut client = Client::builder().no_proxy();
    if let Some(proxy) = &proxy {
        client = client.proxy(proxy.rule().map_err(SetupError::Proxy)?);
    }
    client
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("convgroup-deleter/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(redirect::Policy::none())
        .referer(false)
        .http1_only()
        .build()
        .map_err(|err| SetupError::Http(err.without_url().to_string()))
}
