//! `[http]`.
use std::net::{Ipv4Addr, SocketAddr};

use super::key::{Key, keys};
use super::reader::Reader;

keys! {
    LISTEN: Key<SocketAddr> = Key::shown("http.listen", |text| {
        text.parse().map_err(|_| "is not an address like 127.0.0.1:9464".into())
    });
}

pub(super) fn listen(reader: &mut Reader<'_>) -> SocketAddr {
    let placeholder = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    reader.optional(&LISTEN).unwrap_or(placeholder)
}
