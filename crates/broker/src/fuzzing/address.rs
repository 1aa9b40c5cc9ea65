//! Addresses of brokers: a person writes them, and they hold a password.
use crate::address::BrokerAddress;
use convgroup_domain::fuzzing::{SECRET, assert_silent};

/// `data` is the parts of an address, a line each: what stands before the user, the user, the password, what stands behind it.
/// The secret is put behind the first letter of the password.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(address) = text.trim_end().parse::<BrokerAddress>() {
        shown_and_read_again_it_is_the_same(&address);
    }
    if text.contains(SECRET) {
        return;
    }
    let parts: Vec<&str> = text.splitn(4, '\n').collect();
    let &[scheme, user, password, rest] = parts.as_slice() else {
        return;
    };
    // What stands behind a `:` of the user, or before a delimiter there, is no part of the password.
    if user.contains(['/', '@', '?', '#', ':', ' ']) {
        return;
    }
    let (head, tail) = password.split_at(password.chars().next().map_or(0, char::len_utf8));
    let address = format!("{scheme}://{user}:{head}{SECRET}{tail}@{rest}");
    match address.parse::<BrokerAddress>() {
        Err(problem) => assert_silent(&problem.to_string()),
        Ok(address) => {
            assert_silent(&format!("{address} {address:?}"));
            shown_and_read_again_it_is_the_same(&address);
        }
    }
}

fn shown_and_read_again_it_is_the_same(address: &BrokerAddress) {
    let shown = address.to_string();
    assert!(
        !shown.contains(char::is_control),
        "a terminal obeys {shown:?}"
    );
    let again = shown.parse::<BrokerAddress>();
    assert_eq!(again.map(|again| again.to_string()), Ok(shown));
}
