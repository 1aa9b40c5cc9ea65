use expect_test::{Expect, expect};

use super::*;

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

#[test]
fn the_default_file_names_every_key() {
    let values = layers::from_toml(DEFAULT_TOML, |_| Source::Default).unwrap();
    for key in KEYS {
        let last = key.rsplit('.').next().unwrap();
        let commented = DEFAULT_TOML
            .lines()
            .any(|line| line.starts_with(&format!("# {last}")));
        assert!(
            values.contains_key(key) || commented,
            "{key} is missing in config/default.toml"
        );
    }
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
              retry.tiers (convgroup.toml:12): item 3: `soon` is not a duration from 100ms to 7days
              retry.tiers (convgroup.toml:12): names a duration twice; each tier is a queue of its own
              amqp.exchange (convgroup.toml:7): starts with `amq.`, which RabbitMQ keeps for itself
              amqp.url (convgroup.toml:4): item 1: is not a url (empty host); wanted: amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, the vhost / written %2f
              amqp.url (convgroup.toml:4): item 2: does not begin with amqp:// or amqps://; wanted: amqp://USER:PASSWORD@HOST:PORT/VHOST or amqps://…, the vhost / written %2f
              amqp.prefetch (convgroup.toml:5): `0` is not a whole number from 1 to 2000
              im.region (convgroup.toml:9): `mars` is no region; allowed: china singapore seoul tokyo frankfurt silicon_valley jakarta
              im.secret_key_file (convgroup.toml:10): is set beside im.secret_key; set only one of them
              suspend.probe_min (environment CONVGROUP_SUSPEND__PROBE_MIN): `2h` is not a duration from 100ms to 1h
              policy.overrides.0 (convgroup.toml:16): can't be overridden
              policy.overrides.50001 (convgroup.toml:14): `deleted` is not one of gone transient throttled rejected signature account unknown
              policy.overrides.ripe (convgroup.toml:15): is no code; `convgroup-deleter explain` lists them
              http.listen (environment CONVGROUP_HTTP__LISTEN): `9464` is not an address like 127.0.0.1:9464
              log.level (environment CONVGROUP_LOG__LEVEL): `loud` is not one of error warn info debug trace
              shutdown_grace (convgroup.toml:2): `1 fortnight` is not a duration from 0s to 10m
        "#]],
    );
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
