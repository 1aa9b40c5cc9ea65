use expect_test::{Expect, expect};

use super::layers::ENV_PREFIX;
use super::*;
use convgroup_domain::code::Class;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let needed = [
        ("CONVGROUP_IM__SDK_APP_ID", "1400000000"),
        ("CONVGROUP_IM__SECRET_KEY", "hush"),
    ];
    needed
        .iter()
        .chain(pairs)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[track_caller]
fn check_mistakes(file: &str, pairs: &[(&str, &str)], expect: &Expect) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("convgroup.toml");
    std::fs::write(&path, file).unwrap();
    let error = Settings::load(Some(&path), env(pairs))
        .config()
        .expect_err("the configuration is wrong");
    let text = error
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "");
    expect.assert_eq(&format!("{text}\n"));
}

#[test]
fn defaults_with_the_required_keys_are_a_configuration() {
    let config = Settings::load(None, env(&[])).config().unwrap();
    assert_eq!(config.amqp.prefetch, 256);
    assert_eq!(config.calls_per_second, 200);
    assert_eq!(
        config.retry.tiers,
        [10, 60, 600, 3600].map(Duration::from_secs)
    );
    assert_eq!(config.im.endpoint.as_str(), "https://console.tim.qq.com");
    assert_eq!(config.http_listen.to_string(), "127.0.0.1:9464");
}

/// The keys of a file like `config/default.toml`, those in comments too: `# key = …`.
fn keys_of(file: &str) -> Vec<String> {
    let mut section = String::new();
    let mut keys = Vec::new();
    for line in file.lines() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = format!("{name}.");
        }
        let setting = line.strip_prefix("# ").unwrap_or(line).split_once(" = ");
        if let Some((key, _)) = setting.filter(|(key, _)| !key.contains(' ')) {
            keys.push(format!("{section}{key}"));
        }
    }
    keys
}

/// Both directions, and in this order: `config` prints it.
#[test]
fn the_default_file_names_every_key() {
    let in_the_file: Vec<String> = keys_of(DEFAULT_TOML)
        .into_iter()
        .map(|key| {
            match all::declarations().find(|family| family.is_family() && family.covers(&key)) {
                Some(family) => family.name.to_owned(),
                None => key,
            }
        })
        .collect();
    assert_eq!(
        in_the_file, KEYS,
        "left: config/default.toml, right: the sections' `keys!`"
    );
    let set = layers::from_toml(DEFAULT_TOML, |_| Source::Default).unwrap();
    for key in set.keys() {
        assert!(
            in_the_file.contains(key),
            "{key}: this test does not see it"
        );
    }
}

#[test]
fn keys_are_shown_in_the_order_of_the_default_file() {
    let overridden = env(&[("CONVGROUP_POLICY__OVERRIDES__50001", "gone")]);
    let shown = Settings::load(None, overridden).resolved();
    let shown: Vec<String> = shown.into_iter().map(|(key, ..)| key).collect();
    assert_eq!(shown, keys_of(DEFAULT_TOML));
}

/// Right, wrong, in every layer and form.
#[test]
fn a_hidden_value_is_never_told() {
    const SECRET: &str = "S3cr3t";
    let hidden: Vec<&str> = all::declarations()
        .filter(|key| key.is_hidden())
        .map(|key| key.name)
        .collect();
    assert!(hidden.contains(&"im.secret_key"));
    for key in hidden {
        let name = format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"));
        for value in [
            "S3cr3t",
            "S3c r3t://S3cr3t",
            "S3cr3t\nS3cr3t",
            "-----BEGIN S3cr3t",
            "\u{200b}S3cr3t",
        ] {
            for (file, variable) in [
                (String::new(), Some(value)),
                (format!("{key} = {value:?}"), None),
                (format!("{key} = [{value:?}]"), None),
                (format!("{key}.x = {value:?}"), None),
                (format!("{key} = {value}"), None),
            ] {
                let mut variables = env(&[]);
                variables.retain(|(other, _)| *other != name);
                variables.extend(variable.map(|value| (name.clone(), value.to_owned())));
                let settings = Settings::of_text(&file, variables);
                let shown = settings.resolved();
                let told = match settings.config() {
                    Ok(config) => {
                        format!("{settings:?} {shown:?} {:?} {:?}", config.im, config.amqp)
                    }
                    Err(mistakes) => format!("{settings:?} {shown:?} {mistakes:?} {mistakes}"),
                };
                assert!(!told.contains(SECRET), "{file}: {told}");
                let (_, shown, source) = shown.iter().find(|(shown, ..)| shown == key).unwrap();
                assert_eq!(shown == "(hidden)", *source != Source::Nowhere, "{file}");
            }
        }
    }
}

/// Merged layers hold secrets before anything is known of them.
#[test]
fn debug_output_shows_no_value() {
    let settings = Settings::load(None, env(&[("CONVGROUP_AMQP__QUEUE", "hushed")]));
    let shown = format!("{settings:?}");
    assert!(
        !shown.contains("hush") && shown.contains("amqp.queue"),
        "{shown}"
    );
}

#[test]
fn environment_beats_file_beats_default() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(
        &path,
        "amqp.prefetch = 10\nretry.max_attempts = 3\n[policy.overrides]\n50001 = \"gone\"\n",
    )
    .unwrap();
    let overrides = [
        ("CONVGROUP_AMQP__PREFETCH", "20"),
        ("CONVGROUP_RETRY__TIERS", "1s, 2s"),
        ("CONVGROUP_AMQP__URL", "amqp://a:b@one,amqp://a:b@two"),
        ("CONVGROUP_POLICY__OVERRIDES__60004", "rejected"),
        ("CONVGROUP_LOG__REVEAL_IDS", "true"),
        ("CONVGROUPS_UNRELATED", "x"),
        ("CONVGROUP_DELETER_SERVICE_HOST", "10.0.0.1"),
        ("CONVGROUP_DELETER_PORT_9464_TCP_ADDR", "10.0.0.1"),
    ];
    let config = Settings::load(Some(&path), env(&overrides))
        .config()
        .unwrap();
    assert_eq!(config.amqp.prefetch, 20);
    assert_eq!(config.retry.max_attempts, 3);
    assert_eq!(config.retry.tiers, [1, 2].map(Duration::from_secs));
    assert_eq!(config.amqp.nodes.len(), 2);
    assert_eq!(
        config.amqp.topology.tiers[1].name,
        "convgroup.delete.retry.2s"
    );
    assert_eq!(config.codes.explain("50001").unwrap().class, Class::Gone);
    assert_eq!(
        config.codes.explain("60004").unwrap().class,
        Class::Rejected
    );
    assert!(config.log.reveal_ids);
}

#[test]
fn all_mistakes_are_reported_at_once() {
    check_mistakes(
        r#"
shutdown_grace = "1 fortnight"
[amqp]
url = ["amqp://u:hunter2@", "http://u:hunter2@x"]
prefetch = 0
prefech = 7
exchange = "amq.direct"
[im]
region = "mars"
secret_key_file = "/run/secrets/none"
[retry]
tiers = ["10s", "10000ms", "soon"]
[policy.overrides]
50001 = "deleted"
ripe = "gone"
0 = "rejected"
"#,
        &[
            ("CONVGROUP_LOG__LEVEL", "loud"),
            ("CONVGROUP_HTTP__LISTEN", "9464"),
            ("CONVGROUP_SUSPEND__PROBE_MIN", "2h"),
            ("CONVGROUP_NOPE", "1"),
        ],
        &expect![[r#"
            the configuration has 17 mistakes:
              amqp.prefech (convgroup.toml:6): no such key; did you mean `amqp.prefetch`?
              nope (environment CONVGROUP_NOPE): no such key; `convgroup-deleter config` lists all of them
              retry.tiers (convgroup.toml:12): item 3: is not a duration from 100ms to 7days
              retry.tiers (convgroup.toml:12): names a duration twice; each tier is a queue of its own
              amqp.exchange (convgroup.toml:7): starts with `amq.`, which RabbitMQ keeps for itself
              amqp.url (convgroup.toml:4): item 1: names no host; wanted: amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, the vhost / written %2f
              amqp.url (convgroup.toml:4): item 2: does not begin with amqp:// or amqps://; wanted: amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, the vhost / written %2f
              amqp.prefetch (convgroup.toml:5): is not a whole number from 1 to 2000
              im.region (convgroup.toml:9): is no region; allowed: china singapore seoul tokyo frankfurt silicon_valley jakarta
              im.secret_key_file (convgroup.toml:10): is set beside im.secret_key; set only one of them
              suspend.probe_min (environment CONVGROUP_SUSPEND__PROBE_MIN): is not a duration from 100ms to 1h
              policy.overrides.0 (convgroup.toml:16): can't be overridden
              policy.overrides.50001 (convgroup.toml:14): is not one of gone transient throttled rejected signature account unknown
              policy.overrides.ripe (convgroup.toml:15): is no code; `convgroup-deleter explain` lists them
              http.listen (environment CONVGROUP_HTTP__LISTEN): is not an address like 127.0.0.1:9464
              log.level (environment CONVGROUP_LOG__LEVEL): is not one of error warn info debug trace
              shutdown_grace (convgroup.toml:2): is not a duration from 0s to 10m
        "#]],
    );
}

/// A secret in the wrong place is repeated neither by the mistake nor by `config`.
#[test]
fn no_mistake_repeats_a_value() {
    const URL: &str = "amqp://u:S3cr3t@host/v";
    let no_path = |key: &str| key.ends_with("_file");
    for key in KEYS.iter().filter(|key| **key != "policy.overrides") {
        for value in [
            "S3cr3t",
            URL,
            "amqp://u:12/S3cr3t@host/v",
            "amqp://u:12,S3cr3t@host/v",
        ] {
            let takes_it = [
                "amqp.queue",
                "amqp.exchange",
                "outcomes.exchange",
                "outcomes.ledger",
                "im.identifier",
                "im.secret_key",
            ];
            if (takes_it.contains(key) && value == "S3cr3t") || (*key == "amqp.url" && value == URL)
            {
                continue;
            }
            let name = format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"));
            let mut variables = env(&[(&name, value)]);
            if no_path(key) {
                variables.retain(|(name, _)| name != "CONVGROUP_IM__SECRET_KEY");
            }
            let settings = Settings::load(None, variables);
            let told = format!("{:?}", settings.resolved());
            assert!(!told.contains("S3cr3t"), "{key}: {told}");
            if *key != "im.secret_key" {
                let told = settings.config().expect_err(key).to_string();
                assert!(
                    !told.contains("S3cr3t") && told.contains(*key),
                    "{key}: {told}"
                );
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    for file in [
        "\"amqp://u:S3cr3t@host\" = 1",
        "amqp.\"u:S3cr3t@\" = 1",
        "[policy.overrides]\n\"amqp://S3cr3t@h\" = \"gone\"",
        "[policy.overrides]\n\"S3cr3t.x/\" = \"gone\"",
        "amqp.prefetch = \"S3cr3t",
        "amqp.prefetch = S3cr3t",
        "amqp.url = [[\"amqp://u:S3cr3t@h\"]]",
        "[amqp.url]\nx = \"amqp://u:S3cr3t@h\"",
    ] {
        std::fs::write(&path, file).unwrap();
        let settings = Settings::load(Some(&path), env(&[]));
        let told = format!(
            "{}{:?}",
            settings.config().unwrap_err(),
            settings.resolved()
        );
        assert!(!told.contains("S3cr3t"), "{file}: {told}");
    }
}

/// The content of a file in the place of its path; base64 looks like a path.
#[test]
fn pem_in_the_place_of_its_file_is_not_repeated() {
    for key in KEYS.iter().filter(|key| key.ends_with("_file")) {
        for value in [
            "-----BEGIN PRIVATE KEY-----\\nS3cr3t/x\\n-----END PRIVATE KEY-----",
            "-----BEGIN PRIVATE KEY----- S3cr3t/x -----END PRIVATE KEY-----",
        ] {
            let mut variables = env(&[]);
            variables.retain(|(name, _)| name != "CONVGROUP_IM__SECRET_KEY");
            let settings = Settings::of_text(&format!("{key} = \"{value}\""), variables);
            let mistakes = settings.config().unwrap_err();
            let told = format!("{:?} {mistakes}", settings.resolved());
            assert!(!told.contains("S3cr3t") && told.contains(key), "{told}");
        }
    }
}

#[test]
fn a_variable_with_nothing_in_it_is_not_set() {
    let names = KEYS.map(|key| format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__")));
    for nothing in ["", " ", "\n", "\u{feff}"] {
        let mut variables: Vec<(String, String)> = names
            .iter()
            .map(|name| (name.clone(), nothing.to_owned()))
            .collect();
        variables.push((
            "CONVGROUP_POLICY__OVERRIDES__50001".to_owned(),
            nothing.to_owned(),
        ));
        variables.extend(env(&[]));
        let config = Settings::load(None, variables).config().unwrap();
        assert_eq!(config.amqp.topology.main.name, "convgroup.delete");
        assert_eq!(
            config.codes.explain("50001").unwrap().class,
            Class::Rejected
        );
    }
}

/// The file as it is written by editors and shells: with a byte order mark, with line feeds in what was pasted.
#[test]
fn every_layer_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let [path, key] = ["c.toml", "key"].map(|name| dir.path().join(name));
    std::fs::write(&key, "\u{feff}hush\r\n").unwrap();
    let file = format!(
        "\u{feff}amqp.queue = \"\u{feff}chat.delete\\n\"\n[im]\nidentifier = \" admin \"\nsecret_key_file = \" {}\\n\"\n[retry]\ntiers = [\" 1s\\n\"]\n",
        key.display()
    );
    std::fs::write(&path, file).unwrap();
    let mut variables = env(&[
        ("CONVGROUP_AMQP__EXCHANGE", "chat\n"),
        ("CONVGROUP_AMQP__URL", " amqp://u:p@one,\namqp://u:p@two\n"),
        ("CONVGROUP_POLICY__OVERRIDES__50001", "gone\n"),
        ("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", "\u{feff}150\r\n"),
    ]);
    variables.retain(|(name, _)| name != "CONVGROUP_IM__SECRET_KEY");
    let settings = Settings::load(Some(&path), variables);
    let config = settings.config().unwrap();
    let topology = &config.amqp.topology;
    assert_eq!(
        (&*topology.main.name, &*topology.exchange),
        ("chat.delete", "chat")
    );
    assert_eq!(topology.tiers[0].name, "chat.delete.retry.1s");
    assert_eq!(
        (&*config.im.identifier, config.calls_per_second),
        ("admin", 150)
    );
    assert_eq!(config.amqp.nodes.len(), 2);
    assert_eq!(config.codes.explain("50001").unwrap().class, Class::Gone);
    let secret = config.im.secret.load().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&secret), "hush");
    let shown = settings.resolved();
    let queue = shown.iter().find(|(key, ..)| key == "amqp.queue").unwrap();
    assert_eq!(queue.1, "chat.delete");
}

#[test]
fn characters_that_cannot_be_seen_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "hu\nsh\n").unwrap();
    check_mistakes(
        "[amqp]\nqueue = \"chat\\ndelete\"\nexchange = \"chat\\u200bx\"\n[im]\nidentifier = \"ad\\u0000min\"\nbase_url = \"https://ho\\tst\"\n[retry]\ntiers = [\"1s\", \"1\\ufeff0s\"]\n",
        &[
            ("CONVGROUP_IM__SECRET_KEY", "hu\rsh"),
            ("CONVGROUP_AMQP__TLS__CA_FILE", "/a\nb"),
            ("CONVGROUP_LOG__LEVEL", "in\u{ad}fo"),
        ],
        &expect![[r#"
            the configuration has 8 mistakes:
              retry.tiers (convgroup.toml:8): item 2: holds a byte order mark inside; remove it
              amqp.exchange (convgroup.toml:3): holds the invisible character U+200B inside; remove it
              amqp.queue (convgroup.toml:2): holds a line feed inside; remove it
              amqp.tls.ca_file (environment CONVGROUP_AMQP__TLS__CA_FILE): holds a line feed inside; remove it
              im.base_url (convgroup.toml:6): holds a tab inside; remove it
              im.identifier (convgroup.toml:5): holds the invisible character U+0000 inside; remove it
              im.secret_key (environment CONVGROUP_IM__SECRET_KEY): holds a carriage return inside; remove it
              log.level (environment CONVGROUP_LOG__LEVEL): holds the invisible character U+00AD inside; remove it
        "#]],
    );
    let mut variables = env(&[("CONVGROUP_IM__SECRET_KEY_FILE", key.to_str().unwrap())]);
    variables.retain(|(name, _)| name != "CONVGROUP_IM__SECRET_KEY");
    let told = Settings::load(None, variables)
        .im()
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("holds a line feed inside") && !told.contains("hu"),
        "{told}"
    );
}

#[test]
fn codes_are_overridden_in_their_own_spelling_only() {
    check_mistakes(
        "[policy.overrides]\n050001 = \"gone\"\n\"+50002\" = \"gone\"\n\" 51006\" = \"gone\"\nHTTP_429 = \"transient\"\nhttp_0404 = \"transient\"\n50001.0 = \"gone\"\n-0 = \"gone\"\nhttp_399 = \"gone\"\n99999999999999999999 = \"gone\"\n",
        &[("CONVGROUP_POLICY__OVERRIDES__051007", "gone")],
        &expect![[r#"
            the configuration has 10 mistakes:
              policy.overrides.50001.0 (convgroup.toml:7): is no code; `convgroup-deleter explain` lists them
              policy.overrides. 51006 (convgroup.toml:4): is no code; write it as 51006
              policy.overrides.+50002 (convgroup.toml:3): is no code; write it as 50002
              policy.overrides.-0 (convgroup.toml:8): is no code; write it as 0
              policy.overrides.050001 (convgroup.toml:2): is no code; write it as 50001
              policy.overrides.051007 (environment CONVGROUP_POLICY__OVERRIDES__051007): is no code; write it as 51007
              policy.overrides.99999999999999999999 (convgroup.toml:10): is no code; `convgroup-deleter explain` lists them
              policy.overrides.HTTP_429 (convgroup.toml:5): is no code; write it as http_429
              policy.overrides.http_0404 (convgroup.toml:6): is no code; write it as http_404
              policy.overrides.http_399 (convgroup.toml:9): is no code; `convgroup-deleter explain` lists them
        "#]],
    );
    let good = [
        ("CONVGROUP_POLICY__OVERRIDES__HTTP_429", "transient"),
        ("CONVGROUP_POLICY__OVERRIDES__-5", "gone"),
        ("CONVGROUP_POLICY__OVERRIDES__TIMEOUT", "unknown"),
    ];
    let codes = Settings::load(None, env(&good)).codes().unwrap();
    assert_eq!(codes.explain("http_429").unwrap().class, Class::Transient);
    assert_eq!(codes.explain("-5").unwrap().class, Class::Gone);
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    check_mistakes(
        "[amqp]\nprefetch = = 3\n",
        &[],
        &expect![[r#"
        the configuration has 1 mistake:
          convgroup.toml:2: not TOML: extra `=`, expected nothing
    "#]],
    );
}

#[test]
fn what_is_required_is_asked_for() {
    let error = Settings::load(None, []).config().unwrap_err();
    expect![[r#"
        the configuration has 2 mistakes:
          im.sdk_app_id (not set): is missing
          im.secret_key (not set): is missing; set it, or im.secret_key_file
    "#]]
    .assert_eq(&format!("{error}\n"));
}

#[test]
fn tools_check_only_what_they_need() {
    assert!(Settings::load(None, []).amqp().is_ok());
    assert!(Settings::load(None, []).im().is_err());
}

#[test]
fn secrets_are_hidden_when_the_configuration_is_shown() {
    let settings = Settings::load(
        None,
        env(&[("CONVGROUP_AMQP__URL", "amqp://u:hunter2@host")]),
    );
    let shown = format!("{:?}", settings.resolved());
    assert!(
        !shown.contains("hush") && !shown.contains("hunter2"),
        "{shown}"
    );
    let debug = format!("{:?}", settings.config().unwrap());
    assert!(
        !debug.contains("hush") && !debug.contains("hunter2"),
        "{debug}"
    );
}

#[test]
fn a_ledger_of_nothing_is_none() {
    let ledger = |value: Option<&str>| {
        let mut variables = env(&[("CONVGROUP_OUTCOMES__ENABLED", "true")]);
        variables.extend(value.map(|it| ("CONVGROUP_OUTCOMES__LEDGER".to_owned(), it.to_owned())));
        let config = Settings::load(None, variables).config().unwrap();
        let ledger = config.amqp.topology.ledger();
        ledger.map(|ledger| ledger.name.clone())
    };
    assert_eq!(ledger(None).as_deref(), Some("convgroup.outcomes.ledger"));
    assert_eq!(ledger(Some("mine")).as_deref(), Some("mine"));
    assert_eq!(ledger(Some("")), None);
    assert_eq!(ledger(Some(" ")), None);
}
