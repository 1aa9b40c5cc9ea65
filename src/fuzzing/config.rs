//! The layers of the configuration: a file and the environment, which hold secrets.
use crate::config::{KEYS, Settings, Text};
use convgroup_domain::fuzzing::{SECRET, assert_silent};

/// `data` is a file; behind a NUL byte the environment, one `NAME=VALUE` a line.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if text.contains(SECRET) {
        return;
    }
    let (file, env) = text.split_once('\0').unwrap_or((text, ""));
    // Each reading takes milliseconds, so there is one: without secrets, or with two. The input decides.
    let choice: usize = data.iter().map(|&byte| usize::from(byte)).sum();
    let (choice, plain) = (choice / 4, choice.is_multiple_of(4));
    if plain {
        return check(file, env);
    }
    let written = SECRETS[choice % SECRETS.len()].replace('~', SECRET);
    let set = SECRETS_IN_THE_ENVIRONMENT[choice % SECRETS_IN_THE_ENVIRONMENT.len()];
    let set = set.replace('~', SECRET);
    check(&format!("{written}\n{file}"), &format!("{env}\n{set}"));
}

/// How somebody writes a secret (`~`) at the beginning of a file, rightly and wrongly.
const SECRETS: [&str; 12] = [
    "im.secret_key = \"~\"",
    "im.secret_key = ~",
    "im.secret_key = \"~",
    "im.secret_key = '''~",
    "im.secret_key = [\"~\"]",
    "im.secret_key = { text = \"~\" }",
    "im.secretkey = \"~\"",
    "im.secret_key: ~",
    "im.secret_key_file = \"~\"",
    "amqp.url = \"amqp://guest:~@host\"",
    "amqp.url = [\"amqp://guest:~@host\", \"amqp://guest:/~@host\"]",
    "amqp.url = 'amqp://guest:~@host",
];
const SECRETS_IN_THE_ENVIRONMENT: [&str; 4] = [
    "CONVGROUP_IM__SECRET_KEY=~",
    "CONVGROUP_IM__SECRET_KEY_FILE=~",
    "CONVGROUP_IM__SECRETKEY=~",
    "CONVGROUP_AMQP__URL=amqp://guest:~@host,amqp://guest:~",
];

fn check(file: &str, env: &str) {
    let env = env.lines().filter_map(|line| line.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings = Settings::of_text(file, env);
    if leads_to_files(&settings) {
        return;
    }
    for (key, value, source) in settings.resolved() {
        assert_silent(&format!("{key} {value} {source}"));
    }
    match settings.config() {
        Ok(config) => {
            assert_silent(&format!("{config:?}"));
            assert!(settings.amqp().is_ok() && settings.im().is_ok() && settings.codes().is_ok());
        }
        Err(mistakes) => {
            let text = mistakes.to_string();
            assert_silent(&format!("{text} {mistakes:?}"));
            assert_eq!(
                text.lines().count(),
                mistakes.0.len() + 1,
                "a line each: {text:?}"
            );
            let terminal = |char: char| char.is_control() && char != '\n';
            assert!(!text.contains(terminal), "a terminal obeys {text:?}");
        }
    }
}

/// Whether files would be read: what is on this machine is no part of the input, and some of it has no end.
fn leads_to_files(settings: &Settings) -> bool {
    let leads = |text: &Text| text.list().iter().any(|path| path.contains(['/', '.']));
    KEYS.iter()
        .filter(|key| key.ends_with("_file"))
        .any(|key| settings.written(key).is_some_and(leads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_to_write_a_secret_shows_it() {
        for secret in SECRETS {
            check(&secret.replace('~', SECRET), "");
        }
        for secret in SECRETS_IN_THE_ENVIRONMENT {
            check("", &secret.replace('~', SECRET));
        }
    }
}
