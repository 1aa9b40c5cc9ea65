//! The address of one RabbitMQ node, its password never shown.
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::AMQPUri;
use url::Url;

use super::wire::FRAME_BYTES_MAX;

/// One node: scheme, credentials, host, port and vhost. `Display` and `Debug` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerAddress(AMQPUri);

impl BrokerAddress {
    /// The address as lapin wants it, with our heartbeat and our bound of a frame.
    #[must_use]
    pub fn uri(&self, heartbeat: Duration) -> AMQPUri {
        let mut uri = self.0.clone();
        // Without a bound of ours the broker's `frame_max` would size our memory. A smaller one in the url stays.
        let asked = uri.query.frame_max.filter(|&asked| asked > 0);
        uri.query.frame_max = Some(asked.unwrap_or(FRAME_BYTES_MAX).min(FRAME_BYTES_MAX));
        uri.query.heartbeat = Some(u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX));
        uri
    }
}

impl FromStr for BrokerAddress {
    type Err = String;

    /// The error never repeats the text: it holds a password.
    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str =
            "wanted: amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, the vhost / written %2f";
        let url = Url::parse(text).map_err(|err| format!("is not a url ({err}); {WANTED}"))?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err(format!("does not begin with amqp:// or amqps://; {WANTED}"));
        }
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| format!("names no host; {WANTED}"))?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let mut uri = AMQPUri::from_str(text)
            .map_err(|_| format!("has a part that can't be read; {WANTED}"))?;
        uri.authority.host = host;
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(uri) = self;
        let authority = &uri.authority;
        let vhost = if uri.vhost == "/" { "%2f" } else { &uri.vhost };
        write!(
            f,
            "{}://{}:***@{}:{}/{vhost}",
            uri.scheme, authority.userinfo.username, authority.host, authority.port
        )
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_password() {
        for (text, shown) in [
            (
                "amqp://u:p%40ss@rabbit:5673/%2f",
                "amqp://u:***@rabbit:5673/%2f",
            ),
            ("amqp://u:pass@127.0.0.1", "amqp://u:***@127.0.0.1:5672/%2f"),
            ("amqp://u:pass@rabbit/", "amqp://u:***@rabbit:5672/%2f"),
            ("amqps://u:pass@[::1]/chat", "amqps://u:***@::1:5671/chat"),
        ] {
            let address: BrokerAddress = text.parse().unwrap();
            assert_eq!(
                (address.to_string(), format!("{address:?}")),
                (shown.into(), shown.into())
            );
        }
    }

    #[test]
    fn errors_never_repeat_the_password() {
        for text in [
            "amqp://u:hunter2@",
            "http://u:hunter2@host",
            "u:hunter2@host",
            "amqp://u:hunter2@h:99999",
            "amqp:hunter2",
        ] {
            let error = text.parse::<BrokerAddress>().unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
