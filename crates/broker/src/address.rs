//! The address of one RabbitMQ node, its password never shown.
//!
//! Read strictly: what could be read in two ways is refused. A lenient reader takes `amqp://guest:/rest-of-a-password@host` for a
//! host `guest` and a vhost, and a vhost is shown.
use std::fmt::{self, Write};
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};

use super::wire::FRAME_BYTES_MIN;
use convgroup_domain::text;
use thiserror::Error;

/// Longest vhost, in bytes: AMQP's short string.
const VHOST_BYTES_MAX: usize = 255;
/// Longest host name, in bytes (RFC 1035).
const HOST_BYTES_MAX: usize = 253;
const WANTED: &str =
    "wanted: amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, the vhost / written %2f";

/// One node: scheme, credentials, host, port and vhost. `Display` and `Debug` leave the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerAddress(AMQPUri);

impl BrokerAddress {
    /// The address as lapin wants it, with our heartbeat and our bound of a frame, in bytes.
    #[must_use]
    pub fn uri(&self, heartbeat: Duration, frame_bytes_max: u32) -> AMQPUri {
        let mut uri = self.0.clone();
        // Without a bound of ours the broker's `frame_max` would size our memory. A smaller one in the url stays.
        let asked = uri.query.frame_max.filter(|&asked| asked > 0);
        uri.query.frame_max = Some(asked.unwrap_or(frame_bytes_max).min(frame_bytes_max));
        uri.query.heartbeat = Some(u16::try_from(heartbeat.as_secs()).unwrap_or(u16::MAX));
        uri
    }

    /// Who logs in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.0.authority.userinfo.username
    }

    /// The host, as it was given.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.authority.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.authority.port
    }

    /// The vhost, decoded.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.0.vhost
    }
}

/// Why a text is no address of a broker: what is wrong with it, never the text itself, which holds a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}; {WANTED}")]
pub struct AddressError(String);

impl FromStr for BrokerAddress {
    type Err = AddressError;

    /// The error never repeats the text, which holds a password; of a character that has to be percent-encoded it names that.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        parsed(text).map(Self).map_err(AddressError)
    }
}

fn parsed(text: &str) -> Result<AMQPUri, String> {
    let text = text::clean(text).map_err(|unseen| unseen.to_string())?;
    let (scheme, rest) = match text.split_once("://") {
        Some(("amqp", rest)) => (AMQPScheme::AMQP, rest),
        Some(("amqps", rest)) => (AMQPScheme::AMQPS, rest),
        _ => return Err("does not begin with amqp:// or amqps://".to_owned()),
    };
    let parts = Parts::of(rest)?;
    let userinfo = parts
        .userinfo
        .map_or(Ok(AMQPUserInfo::default()), userinfo)?;
    let (host, port) = host_and_port(parts.host)?;
    let port = port.unwrap_or_else(|| scheme.default_port());
    Ok(AMQPUri {
        scheme,
        authority: AMQPAuthority {
            userinfo,
            host,
            port,
        },
        vhost: vhost(parts.vhost)?,
        query: query(parts.query)?,
    })
}

/// What stands between the delimiters, not decoded.
struct Parts<'t> {
    userinfo: Option<&'t str>,
    host: &'t str,
    vhost: &'t str,
    query: &'t str,
}

impl<'t> Parts<'t> {
    /// Cuts at the delimiters; each may stand in one place only.
    fn of(rest: &'t str) -> Result<Self, String> {
        if rest.contains('#') {
            return Err(encode('#'));
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, tail) = rest.split_at(end);
        if tail.contains('@') && !authority.contains('@') {
            // The `@` may end the password, and the delimiter before it be a part of that.
            return Err(encode(if tail.starts_with('/') { '/' } else { '?' }));
        }
        if rest.matches('@').count() > 1 {
            return Err(encode('@'));
        }
        let (userinfo, host) = match authority.split_once('@') {
            Some((userinfo, host)) => (Some(userinfo), host),
            None => (None, authority),
        };
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let vhost = path.strip_prefix('/').unwrap_or(path);
        if vhost.contains('/') {
            return Err(encode('/'));
        }
        if query.contains(['?', '/']) {
            return Err(encode('?'));
        }
        Ok(Self {
            userinfo,
            host,
            vhost,
            query,
        })
    }
}

/// The address has a delimiter too many.
fn encode(char: char) -> String {
    let escape = u32::from(char);
    format!(
        "can be read in more than one way: in a user name, password or vhost write `{char}` as %{escape:02x}"
    )
}

fn userinfo(text: &str) -> Result<AMQPUserInfo, String> {
    let Some((username, password)) = text.split_once(':') else {
        return Err("names a user and no password".to_owned());
    };
    if password.contains(':') {
        return Err(encode(':'));
    }
    let (username, password) = (decoded(username)?, decoded(password)?);
    if username.is_empty() || password.is_empty() {
        return Err("has an empty user name or password".to_owned());
    }
    if username.contains(':') {
        return Err(
            "has a user name with a `:` in it; the one between user and password is not written %3a"
                .to_owned(),
        );
    }
    Ok(AMQPUserInfo { username, password })
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest
                .split_once(']')
                .filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok())
                .ok_or("has a `[` that begins no IPv6 address like [::1]")?;
            let port = match rest.strip_prefix(':') {
                None if !rest.is_empty() => {
                    return Err("has more than a port behind the `]`".to_owned());
                }
                port => port,
            };
            (host, port)
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("names no host".to_owned());
    }
    let in_name = |char: char| char.is_ascii_alphanumeric() || "-._:".contains(char);
    if host.len() > HOST_BYTES_MAX || !host.chars().all(in_name) {
        return Err("has a host that is no name and no IP address".to_owned());
    }
    let port =
        port.map(|port| number(port, &1).ok_or("has a port that is no number from 1 to 65535"));
    Ok((host.to_owned(), port.transpose()?))
}

fn vhost(text: &str) -> Result<String, String> {
    let vhost = decoded(text)?;
    match vhost.len() {
        0 => Ok("/".to_owned()),
        1..=VHOST_BYTES_MAX => Ok(vhost),
        _ => Err(format!("has a vhost of more than {VHOST_BYTES_MAX} bytes")),
    }
}

fn query(text: &str) -> Result<AMQPQueryString, String> {
    let mut query = AMQPQueryString::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let fresh = match key {
            "frame_max" => query
                .frame_max
                .replace(read(key, value, &FRAME_BYTES_MIN)?)
                .is_none(),
            "channel_max" => query.channel_max.replace(read(key, value, &1)?).is_none(),
            "connection_timeout" => query
                .connection_timeout
                .replace(read(key, value, &1)?)
                .is_none(),
            "auth_mechanism" => {
                let mechanism = value.parse().map_err(|_| unreadable(key))?;
                query.auth_mechanism.replace(mechanism).is_none()
            }
            "heartbeat" => return Err("sets `heartbeat`; the key amqp.heartbeat does".to_owned()),
            _ => {
                return Err(
                    "has a query key that is none of frame_max channel_max connection_timeout auth_mechanism"
                        .to_owned(),
                );
            }
        };
        if !fresh {
            return Err(format!("sets `{key}` twice"));
        }
    }
    Ok(query)
}

fn read<N: FromStr + PartialOrd>(key: &str, value: &str, least: &N) -> Result<N, String> {
    number(value, least).ok_or_else(|| unreadable(key))
}

fn unreadable(key: &str) -> String {
    format!("has a value of `{key}` that can't be read")
}

/// Digits only: `parse` would take a sign as well.
fn number<N: FromStr + PartialOrd>(text: &str, least: &N) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| digits && number >= least)
}

/// Decodes the escapes of one part, once. All but letters, digits and `-._~!$&'()*+,;=` has to be escaped (RFC 3986).
fn decoded(part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.chars();
    while let Some(char) = rest.next() {
        let byte = match char {
            '%' => {
                let byte = rest.as_str().get(..2).and_then(escaped);
                rest.nth(1);
                byte.ok_or("has a `%` that begins no escape like %2f: write `%` itself as %25")?
            }
            char if char.is_ascii_alphanumeric() || "-._~!$&'()*+,;=".contains(char) => char as u8,
            char if char.is_ascii() => {
                return Err(format!("holds a `{char}`: write it as %{:02x}", char as u8));
            }
            _ => {
                return Err(
                    "holds a character outside ASCII: percent-encode it in UTF-8".to_owned(),
                );
            }
        };
        bytes.push(byte);
    }
    let decoded =
        String::from_utf8(bytes).map_err(|_| "has escapes that are not UTF-8".to_owned())?;
    match decoded.chars().find(|&char| text::is_unseen(char)) {
        Some(char) => Err(format!("has an escape for {}; remove it", text::name(char))),
        None => Ok(decoded),
    }
}

/// The byte that two hex digits spell.
fn escaped(digits: &str) -> Option<u8> {
    let hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u8::from_str_radix(digits, 16).ok().filter(|_| hex)
}

/// The part of an address that spells this text.
fn encoded(text: &str) -> String {
    let mut part = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            part.push(char::from(byte));
        } else {
            let _ = write!(part, "%{byte:02x}");
        }
    }
    part
}

impl fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AMQPAuthority { host, port, .. } = &self.0.authority;
        let (user, vhost) = (encoded(self.user()), encoded(self.vhost()));
        let host = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.clone()
        };
        write!(f, "{}://{user}:***@{host}:{port}/{vhost}", self.0.scheme)
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::wire::FRAME_BYTES_MAX;
    use super::*;

    #[test]
    fn addresses_are_shown_without_their_password() {
        for (text, shown) in [
            (
                "amqp://u:p%40ss@rabbit:5673/%2f",
                "amqp://u:***@rabbit:5673/%2f",
            ),
            ("amqp://u:pass@127.0.0.1", "amqp://u:***@127.0.0.1:5672/%2f"),
            ("amqp://rabbit", "amqp://guest:***@rabbit:5672/%2f"),
            ("amqp://u:pass@rabbit/", "amqp://u:***@rabbit:5672/%2f"),
            ("amqps://u:pass@[::1]/chat", "amqps://u:***@[::1]:5671/chat"),
            ("amqp://u:p@h/a%2fb", "amqp://u:***@h:5672/a%2fb"),
            (
                "amqp://me%40home:p@h/%c3%a9",
                "amqp://me%40home:***@h:5672/%c3%a9",
            ),
            (
                "amqp://u:p@h/v?frame_max=8192&channel_max=20",
                "amqp://u:***@h:5672/v",
            ),
            ("\u{feff}amqp://u:p@h/v\n", "amqp://u:***@h:5672/v"),
        ] {
            let address: BrokerAddress = text.parse().unwrap();
            assert_eq!(
                (address.to_string(), format!("{address:?}")),
                (shown.into(), shown.into())
            );
        }
    }

    #[test]
    fn parts_are_decoded_once() {
        let address: BrokerAddress = "amqp://u:%2540%2fS3cr3t!$&'()*+,;=@h/%252f"
            .parse()
            .unwrap();
        assert_eq!(
            address.0.authority.userinfo.password,
            "%40/S3cr3t!$&'()*+,;="
        );
        assert_eq!(address.vhost(), "%2f");
        let address: BrokerAddress =
            "amqps://u:p@h?auth_mechanism=external&connection_timeout=5000"
                .parse()
                .unwrap();
        let query = address.uri(Duration::from_secs(10), FRAME_BYTES_MAX).query;
        assert_eq!(
            (query.connection_timeout, query.heartbeat),
            (Some(5000), Some(10))
        );
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused_and_not_repeated() {
        for (text, named) in [
            ("amqp://guest:/S3cr3t@host/chat", "write `/` as %2f"),
            ("amqp://guest:12/S3cr3t@host/%2f", "write `/` as %2f"),
            ("amqp://guest:12?S3cr3t@host/%2f", "write `?` as %3f"),
            ("amqp://guest:12#S3cr3t@host/%2f", "write `#` as %23"),
            ("amqp://u:p@host/v#S3cr3t", "write `#` as %23"),
            ("amqp://u:12@S3cr3t@host/v", "write `@` as %40"),
            ("amqp://u:p@host/S3cr3t@v", "write `@` as %40"),
            ("amqp://u:p@host/v?S3cr3t@v", "write `@` as %40"),
            ("amqp://u:12:S3cr3t@host/v", "write `:` as %3a"),
            ("amqp://u:p@host/v/S3cr3t", "write `/` as %2f"),
            ("amqp://u:p@host/v//", "write `/` as %2f"),
            (
                "amqp://u:p@host/v?frame_max=4096?S3cr3t",
                "write `?` as %3f",
            ),
            ("amqp://u:[S3cr3t@host/v", "write it as %5b"),
            ("amqp://u:S3cr3t]@host/v", "write it as %5d"),
            ("amqp://u:S3cr3t\\@host/v", "write it as %5c"),
            ("amqp://u:S3cr3t x@host/v", "write it as %20"),
            ("amqp://u:p@host/S3cr3t x", "write it as %20"),
            ("amqp://u:S3cr3t%@host/v", "write `%` itself as %25"),
            ("amqp://u:S3cr3t%4@host/v", "write `%` itself as %25"),
            ("amqp://u:S3cr3t%+4@host/v", "write `%` itself as %25"),
            ("amqp://u:S3cr3t%zz@host/v", "write `%` itself as %25"),
            ("amqp://u:S3cr3té@host/v", "outside ASCII"),
            ("amqp://u:S3cr3t%ff@host/v", "not UTF-8"),
            ("amqp://u:S3cr3t%0a@host/v", "a line feed"),
            ("amqp://u:S3cr3t\n@host/v", "a line feed"),
            ("amqp://u:S3cr3t%00@host/v", "U+0000"),
            ("amqp://S3cr3t@host/v", "no password"),
            ("amqp://S3cr3t:@host/v", "empty"),
            ("amqp://:S3cr3t@host/v", "empty"),
            ("amqp://@host/v", "no password"),
            ("amqp://u%3aS3cr3t@host/v", "no password"),
            ("amqp://u%3aS3cr3t:p@host/v", "%3a"),
            ("amqp://u:p@host/v?password=S3cr3t", "query key"),
            ("amqp://u:p@host/v?S3cr3t", "query key"),
            ("amqp://u:p@host/v?heartbeat=5", "amqp.heartbeat"),
            ("amqp://u:p@host/v?frame_max=S3cr3t", "`frame_max`"),
            ("amqp://u:p@host/v?frame_max=1", "`frame_max`"),
            (
                "amqp://u:p@host/v?auth_mechanism=S3cr3t",
                "`auth_mechanism`",
            ),
            ("amqp://u:p@host/v?channel_max=1&channel_max=2", "twice"),
            ("amqp://u:S3cr3t@", "no host"),
            ("amqp://u:S3cr3t@:5672", "no host"),
            ("amqp://u:S3cr3t", "port"),
            ("amqp://u:p@S3cr3t!x/v", "host"),
            ("amqp://u:p@[S3cr3t]/v", "IPv6"),
            ("amqp://u:p@[::1]S3cr3t/v", "behind the `]`"),
            ("amqp://u:S3cr3t@h:99999", "port"),
            ("amqp://u:S3cr3t@h:+5672", "port"),
            ("amqp://u:S3cr3t@h:0", "port"),
            ("amqp://u:S3cr3t@h:/v", "port"),
            ("http://u:S3cr3t@host", "amqp://"),
            ("AMQP://u:S3cr3t@host", "amqp://"),
            ("u:S3cr3t@host", "amqp://"),
            ("amqp:S3cr3t", "amqp://"),
            ("", "amqp://"),
        ] {
            let error = text.parse::<BrokerAddress>().expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
            assert!(!error.contains("S3cr3t"), "{error}");
        }
    }

    proptest! {
        /// Whatever is put between `amqp://` and a host is the user's or the password's, or refused.
        #[test]
        fn a_password_is_never_shown(password in "[ -~]{0,12}", more in "[ -~]{0,6}") {
            let text = format!("amqp://guest:{password}S3cr3t{more}@host/v");
            match text.parse::<BrokerAddress>() {
                Ok(address) => prop_assert_eq!(address.to_string(), "amqp://guest:***@host:5672/v"),
                Err(error) => prop_assert!(!error.to_string().contains("S3cr3t")),
            }
        }

        #[test]
        fn every_password_can_be_written(password in "[^\\p{C}\\p{Zl}\\p{Zp}]{1,20}") {
            let text = format!("amqp://guest:{}@host", encoded(&password));
            let address: BrokerAddress = text.parse().unwrap();
            prop_assert_eq!(&address.0.authority.userinfo.password, &password);
        }
    }
}
