//! All keys: found by their name, and what to say of one that there is not.
use super::key::{Declaration, is_word};
use super::{
    amqp, amqp_tls, events, http, im, log, outcomes, policy, rate_limit, retry, shutdown, suspend,
};

/// The sections, in the order of `config/default.toml`.
const SECTIONS: [&[Declaration]; 12] = [
    shutdown::KEYS,
    amqp::KEYS,
    amqp_tls::KEYS,
    events::KEYS,
    outcomes::KEYS,
    im::KEYS,
    rate_limit::KEYS,
    retry::KEYS,
    suspend::KEYS,
    policy::KEYS,
    http::KEYS,
    log::KEYS,
];

const COUNT: usize = {
    let (mut count, mut section) = (0, 0);
    while section < SECTIONS.len() {
        count += SECTIONS[section].len();
        section += 1;
    }
    count
};

/// Every key, in the order of `config/default.toml`. `policy.overrides` stands for all keys below it.
pub const KEYS: [&str; COUNT] = {
    let (mut names, mut name, mut section) = ([""; COUNT], 0, 0);
    while section < SECTIONS.len() {
        let mut key = 0;
        while key < SECTIONS[section].len() {
            names[name] = SECTIONS[section][key].name;
            (name, key) = (name + 1, key + 1);
        }
        section += 1;
    }
    names
};

/// All declarations, in the order of `config/default.toml`.
pub(super) fn declarations() -> impl Iterator<Item = &'static Declaration> {
    SECTIONS.into_iter().flatten()
}

/// Whether there is such a key.
pub(super) fn is_known(key: &str) -> bool {
    declarations().any(|declaration| declaration.covers(key))
}

/// Whether a variable with nothing in it sets this key.
pub(super) fn may_be_empty(key: &str) -> bool {
    declarations().any(|declaration| declaration.name == key && declaration.may_be_empty)
}

/// A key that nobody knows, as an error may name it.
pub(super) fn nameable(key: String) -> String {
    if is_word(&key) {
        key
    } else {
        "(a key that is no word)".to_owned()
    }
}

/// What is wrong with a key that nobody knows.
pub(super) fn unknown(key: &str) -> String {
    if let Some(problem) = declarations().find_map(|family| family.not_below(key)) {
        return problem.to_owned();
    }
    let nearest = KEYS
        .iter()
        .map(|known| (strsim::jaro_winkler(known, key), known))
        .max_by(|(a, _), (b, _)| a.total_cmp(b));
    match nearest {
        Some((likeness, known)) if likeness > 0.85 => {
            format!("no such key; did you mean `{known}`?")
        }
        _ => "no such key; `convgroup-deleter config` lists all of them".to_owned(),
    }
}
