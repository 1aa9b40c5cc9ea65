//! Every row of the error table on the real broker: disposition, headers, metric.
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use convgroup_chat::client::{ChatClient, Via};
use convgroup_chat::connects::OnConnect;
use convgroup_chat::endpoint::Endpoint;
use convgroup_chat::settings::{Im, SecretSource};
use convgroup_chat::signer::Signer;
use convgroup_domain::code::{Class, CodeTable, GROUPS_RECREATED, PANIC};
use convgroup_domain::reply::Reply;
use im_sandbox::{Fault, Probes, Raw, Rule};
use secrecy::SecretString;

use crate::world::{World, answered, event, eventually_settled, settled};
use convgroup_testkit::PATIENCE;
use convgroup_testkit::daemon::{IDENTIFIER, SDK_APP_ID, SECRET_KEY};

/// The codes of a class, as the sandbox is to answer them.
fn codes_of(class: Class) -> Vec<(String, i64)> {
    let table = CodeTable::new(&BTreeMap::new());
    table
        .rows()
        .filter(|row| row.class == class)
        .filter_map(|row| Some((row.label.clone(), row.code.parse().ok()?)))
        .collect()
}

/// One event per code, each with a group of its own that is answered with the code; probes are healthy.
async fn answered_with(world: &World, codes: &[(String, i64)]) {
    let groups: Vec<&str> = codes.iter().map(|(label, _)| label.as_str()).collect();
    world.user("user15", &groups);
    for (label, code) in codes {
        world.sandbox.add_fault(
            Rule::new(Fault::code(*code))
                .group(label)
                .probes(Probes::Excluded),
        );
    }
    let bodies: Vec<String> = groups
        .iter()
        .map(|group| event("user15", &[group]))
        .collect();
    world
        .broker
        .publish_many(world.config.exchange(), "delete", &bodies)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_codes_are_dead_lettered_at_once() {
    let world = World::new().await;
    let codes = codes_of(Class::Rejected);
    let daemon = world.daemon().await;
    answered_with(&world, &codes).await;
    let count = u32::try_from(codes.len()).unwrap();
    let metrics = eventually_settled(&daemon, "dead_lettered", count).await;
    let mut dead: BTreeMap<String, _> = BTreeMap::new();
    for message in world.dead(codes.len()).await {
        dead.insert(message.header_text("convgroup-code").unwrap(), message);
    }
    for (label, _) in &codes {
        let message = &dead[label];
        assert_eq!(message.text(), event("user15", &[label]));
        assert_eq!(
            message.header_text("convgroup-cause").as_deref(),
            Some("rejected"),
            "{label}"
        );
        assert_eq!(
            message.header_text("convgroup-class").as_deref(),
            Some("rejected"),
            "{label}"
        );
        assert_eq!(
            message.header_number("convgroup-attempt"),
            Some(0),
            "{label}"
        );
        assert!(message.header_number("convgroup-first-seen").unwrap() > 1_600_000_000_000);
        assert!(message.header_number("convgroup-failed-at").unwrap() > 1_600_000_000_000);
        assert_eq!(
            answered(&metrics, label, "rejected"),
            1.0,
            "{label}: one call each"
        );
    }
    let kind = [("cause", "rejected"), ("class", "rejected")];
    assert_eq!(
        metrics.value("convgroup_dead_letters_total", &kind),
        f64::from(count)
    );
    world.nothing_is_left(&daemon).await;
}

/// Transient codes: quick retries, one delay (the tier is a second), then exhausted.
#[tokio::test(flavor = "multi_thread")]
async fn transient_codes_are_delayed_and_then_exhausted() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 2)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 1)
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000);
    let codes = codes_of(Class::Transient);
    let daemon = world.daemon().await;
    answered_with(&world, &codes).await;
    let count = u32::try_from(codes.len()).unwrap();
    let metrics = eventually_settled(&daemon, "dead_lettered", count).await;
    assert_eq!(settled(&metrics, "delayed"), f64::from(count));
    for message in world.dead(codes.len()).await {
        let code = message.header_text("convgroup-code").unwrap();
        assert_eq!(message.text(), event("user15", &[&code]));
        assert_eq!(
            message.header_text("convgroup-cause").as_deref(),
            Some("exhausted"),
            "{code}"
        );
        assert_eq!(
            message.header_text("convgroup-class").as_deref(),
            Some("transient"),
            "{code}"
        );
        assert_eq!(
            message.header_number("convgroup-attempt"),
            Some(2),
            "{code}"
        );
        assert!(
            !message
                .header_names()
                .iter()
                .any(|name| name.starts_with("x-")),
            "{:?}",
            message.header_names()
        );
        assert_eq!(
            answered(&metrics, &code, "transient"),
            4.0,
            "{code}: two deliveries of two calls"
        );
    }
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_without_a_code_are_delayed_and_then_exhausted() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000)
        .set("CONVGROUP_IM__TIMEOUT", "500ms");
    let faults = [
        ("http_502", Fault::HttpStatus(502)),
        ("http_408", Fault::HttpStatus(408)),
        ("timeout", Fault::Hang),
        ("reset", Fault::Reset),
        ("bad_body", Fault::Garbage),
        ("bad_body", Fault::Huge),
        ("reset", Fault::Truncated),
        ("reset", Fault::Close),
    ];
    let daemon = world.daemon().await;
    world.user("user15", &[]);
    for (number, (label, fault)) in faults.into_iter().enumerate() {
        let group = format!("{label}-{number}");
        world.sandbox.add_fault(Rule::new(fault).group(&group));
        world.publish("user15", &[&group]).await;
    }
    let metrics = eventually_settled(&daemon, "dead_lettered", 8).await;
    for message in world.dead(8).await {
        let code = message.header_text("convgroup-code").unwrap();
        assert!(
            message.text().contains(&format!("[\"{code}-")),
            "{code}: {}",
            message.text()
        );
        assert_eq!(
            message.header_text("convgroup-cause").as_deref(),
            Some("exhausted")
        );
        assert_eq!(
            message.header_text("convgroup-class").as_deref(),
            Some("transient")
        );
    }
    for (code, calls) in [
        ("http_5xx", 1.0),
        ("http_4xx", 1.0),
        ("timeout", 1.0),
        ("bad_body", 2.0),
        ("reset", 6.0),
    ] {
        assert_eq!(answered(&metrics, code, "transient"), calls, "{code}");
    }
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn throttled_codes_slow_down_and_count_no_attempt() {
    let world = World::new().await.set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1);
    let mut faults: Vec<(String, Fault)> = codes_of(Class::Throttled)
        .into_iter()
        .map(|(label, code)| (label, Fault::code(code)))
        .collect();
    faults.push(("http_4xx".to_owned(), Fault::HttpStatus(429)));
    let daemon = world.daemon().await;
    for (label, fault) in &faults {
        world.user("user15", &[label]);
        world
            .sandbox
            .add_fault(Rule::new(fault.clone()).group(label).times(3));
        world.publish("user15", &[label]).await;
    }
    let metrics =
        eventually_settled(&daemon, "deleted", u32::try_from(faults.len()).unwrap()).await;
    assert!(metrics.value("convgroup_rate_limit_calls_per_second", &[]) < 200.0);
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0);
    for (label, _) in &faults {
        assert_eq!(answered(&metrics, label, "throttled"), 3.0, "{label}");
    }
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signature_codes_are_signed_anew_once() {
    let world = World::new().await;
    let codes = codes_of(Class::Signature);
    let daemon = world.daemon().await;
    for (label, code) in &codes {
        world.user("user15", &[label]);
        world
            .sandbox
            .add_fault(Rule::new(Fault::code(*code)).group(label).times(1));
        world.publish("user15", &[label]).await;
    }
    let metrics = eventually_settled(&daemon, "deleted", u32::try_from(codes.len()).unwrap()).await;
    for (label, _) in &codes {
        assert_eq!(answered(&metrics, label, "signature"), 1.0, "{label}");
    }
    assert_eq!(metrics.sum("convgroup_probes_total"), 0.0);
    world.nothing_is_left(&daemon).await;
}

/// An unknown answer, or an account answer while the probe is healthy, is this message's problem: counted, then exhausted.
#[tokio::test(flavor = "multi_thread")]
async fn unknown_codes_ask_the_probe_and_count_when_it_is_healthy() {
    let world = World::new().await.set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1);
    let mut codes = codes_of(Class::Unknown);
    codes.extend([99_999, -3].map(|code| (code.to_string(), code)));
    // 70050 asks for a minute's silence: the probe goes out later.
    codes.extend(
        codes_of(Class::Account)
            .into_iter()
            .filter(|(label, _)| label != "70050"),
    );
    let daemon = world.daemon().await;
    answered_with(&world, &codes).await;
    let count = u32::try_from(codes.len()).unwrap();
    let metrics = eventually_settled(&daemon, "dead_lettered", count).await;
    for message in world.dead(codes.len()).await {
        let code = message.header_text("convgroup-code").unwrap();
        assert_eq!(message.text(), event("user15", &[&code]));
        assert_eq!(
            message.header_text("convgroup-cause").as_deref(),
            Some("exhausted"),
            "{code}"
        );
        assert_eq!(
            message.header_text("convgroup-class").as_deref(),
            Some("unknown"),
            "{code}"
        );
        assert_eq!(
            message.header_number("convgroup-attempt"),
            Some(1),
            "{code}"
        );
    }
    let kind = [("cause", "exhausted"), ("class", "unknown")];
    assert_eq!(
        metrics.value("convgroup_dead_letters_total", &kind),
        f64::from(count)
    );
    assert_eq!(
        answered(&metrics, "other", "unknown"),
        2.0,
        "a bounded label"
    );
    let probes = metrics.value("convgroup_probes_total", &[("result", "healthy")]);
    assert!(
        (1.0..=f64::from(count)).contains(&probes),
        "{probes} probes for {count} answers"
    );
    assert_eq!(metrics.sum("convgroup_suspensions_total"), 0.0);
    world.nothing_is_left(&daemon).await;
}

/// An account at fault: nothing is dead-lettered, few calls are made, and it goes on by itself once the fault is mended.
#[tokio::test(flavor = "multi_thread")]
async fn account_codes_suspend_until_the_probe_is_healthy() {
    let world = World::new().await;
    let mut faults: Vec<(String, Fault)> = codes_of(Class::Account)
        .into_iter()
        .filter(|(label, _)| label != "70050")
        .map(|(label, code)| (label, Fault::code(code)))
        .collect();
    faults.extend(
        [401, 403, 404].map(|status| (format!("http {status}"), Fault::HttpStatus(status))),
    );
    faults.push(("99999".to_owned(), Fault::code(99_999)));
    let mut daemon = world.daemon().await;
    let mut deleted = 0;
    for (label, fault) in faults {
        let suspensions = daemon
            .metrics()
            .await
            .value("convgroup_suspensions_total", &[("reason", "account")]);
        world.sandbox.reset_counters();
        world.fault(fault);
        for group in ["a", "b", "c"] {
            world.user("user15", &[group]);
            world.publish("user15", &[group]).await;
        }
        daemon
            .eventually_metrics(&format!("{label} suspends"), PATIENCE, |metrics| {
                metrics.value("convgroup_suspensions_total", &[("reason", "account")]) > suspensions
            })
            .await;
        let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
        assert!(reason.contains("suspended"), "{label}: {reason}");
        let calls = world.sandbox.counters().calls;
        assert!(calls <= 12, "{label}: {calls} calls while suspended");
        world.sandbox.clear_faults();
        deleted += 3;
        let metrics = eventually_settled(&daemon, "deleted", deleted).await;
        assert_eq!(settled(&metrics, "dead_lettered"), 0.0, "{label}");
        assert_eq!(settled(&metrics, "delayed"), 0.0, "{label}");
    }
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_override_changes_what_happens() {
    let world = World::new()
        .await
        .set("CONVGROUP_POLICY__OVERRIDES__50001", "gone");
    let daemon = world.daemon().await;
    world.publish("nobody", &["a"]).await;
    let metrics = eventually_settled(&daemon, "gone", 1).await;
    assert_eq!(answered(&metrics, "50001", "gone"), 1.0);
    world.nothing_is_left(&daemon).await;
}

/// Headers, log and `dlq` tell each answer by its own code, listed or not, overridden or not; only the metric's label is bounded.
#[tokio::test(flavor = "multi_thread")]
async fn each_answer_is_told_by_its_own_code() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000)
        .set("CONVGROUP_POLICY__OVERRIDES__77777", "rejected")
        .set("CONVGROUP_POLICY__OVERRIDES__http_418", "rejected");
    let answers = [
        ("99999", "other", "unknown", Fault::code(99_999)),
        ("99998", "other", "unknown", Fault::code(99_998)),
        ("-3", "other", "unknown", Fault::code(-3)),
        ("77777", "other", "rejected", Fault::code(77_777)),
        ("http_418", "http_4xx", "rejected", Fault::HttpStatus(418)),
        ("http_409", "http_4xx", "unknown", Fault::HttpStatus(409)),
        ("http_503", "http_5xx", "transient", Fault::HttpStatus(503)),
    ];
    let groups = answers.each_ref().map(|(code, ..)| *code);
    world.user("user15", &groups);
    for (code, _, _, fault) in &answers {
        let rule = Rule::new(fault.clone()).group(code);
        world.sandbox.add_fault(rule.probes(Probes::Excluded));
    }
    let daemon = world.daemon().await;
    // In one event: names that ended by different codes are in different letters.
    world.publish("user15", &groups).await;
    let metrics = eventually_settled(&daemon, "dead_lettered", 1).await;
    for (label, class, calls) in [
        ("other", "unknown", 3.0),
        ("other", "rejected", 1.0),
        ("http_4xx", "rejected", 1.0),
        ("http_4xx", "unknown", 1.0),
        ("http_5xx", "transient", 1.0),
    ] {
        assert_eq!(answered(&metrics, label, class), calls, "{label} {class}");
    }
    for (code, label, class, _) in &answers {
        assert!(
            !metrics.text.contains(&format!("code=\"{code}\"")),
            "{label} is the metric's label of {code}"
        );
        let (exit, ls) = world.tool(&["dlq", "ls", "--code", code]).await;
        assert_eq!(exit, 0, "{ls}");
        assert!(
            ls.contains(&format!(" {class:<10} {code:<9} ")) && ls.contains("      1  in all"),
            "{ls}"
        );
        let (exit, said) = world.tool(&["explain", code]).await;
        assert_eq!(exit, 0, "{said}");
        assert!(said.contains(&format!("class    {class}")), "{said}");
    }
    let (_, show) = world
        .tool(&["dlq", "show", "--code", "99999,http_503"])
        .await;
    assert!(
        show.contains("if the API still answers 99999: the probe is asked")
            && show.contains("if the API still answers http_503: quick retries"),
        "{show}"
    );
    assert!(
        daemon.output().contains(r#""error.code":"99999""#),
        "the log line tells the first letter's code"
    );
    for message in world.dead(answers.len()).await {
        let code = message.header_text("convgroup-code").unwrap();
        assert_eq!(message.text(), event("user15", &[&code]));
        let info = message.header_text("convgroup-info");
        let own_text = code.parse::<i64>().is_ok();
        assert_eq!(
            info,
            own_text.then(|| format!("injected fault {code}")),
            "the API's own text and nothing else"
        );
    }
    world.nothing_is_left(&daemon).await;
}

/// A client of this world's API.
fn client(world: &World) -> ChatClient {
    let im = Im {
        endpoint: Endpoint::from_base_url(&world.sandbox.base_url()).unwrap(),
        sdk_app_id: SDK_APP_ID.parse().unwrap(),
        identifier: IDENTIFIER.to_owned(),
        secret: SecretSource::Value(SecretString::from(SECRET_KEY)),
        timeout: Duration::from_secs(5),
    };
    let signer = Signer::new(&im, Box::new(|_| {})).unwrap();
    ChatClient::new(&im, signer, 1, &(Arc::new(|_| {}) as OnConnect)).unwrap()
}

/// A reply, what is odd about it, and the label of its row.
type Odd = (&'static str, Raw, &'static str);

fn failed() -> Raw {
    Raw::body(r#"{"ErrorCode":51011}"#)
}

fn long(code: u32) -> Raw {
    let text = "x".repeat(200_000);
    Raw::body(format!(r#"{{"ErrorCode":{code},"ErrorInfo":"{text}"}}"#))
}

/// The API says no, oddly.
fn failures() -> Vec<Odd> {
    let info = |bytes: &[u8]| {
        let before = br#"{"ActionStatus":"FAIL","ErrorCode":51011,"ErrorInfo":""#;
        Raw::body([before, bytes, b"\"}"].concat())
    };
    vec![
        ("plain", info(b"too long"), "51011"),
        ("cut inside a character", info(b"\xe7\xbe"), "51011"),
        ("GBK", info(b"\xc8\xba\xd7\xe9"), "51011"),
        (
            "GBK as it says",
            info(b"\xc4\x5c").header("content-type", "application/json; charset=gbk"),
            "51011",
        ),
        ("half a surrogate pair", info(br"\ud83d"), "51011"),
        ("an escape cut short", info(br"\u4f"), "51011"),
        ("a line break", info(b"a\nb"), "51011"),
        (
            "a number for a text",
            Raw::body(r#"{"ErrorCode":51011,"ErrorInfo":7}"#),
            "51011",
        ),
        (
            "a byte order mark",
            Raw::body("\u{feff}{\"ErrorCode\":51011}"),
            "51011",
        ),
        (
            "NUL behind it",
            Raw::body("{\"ErrorCode\":51011}\0"),
            "51011",
        ),
        (
            "more behind it",
            Raw::body("{\"ErrorCode\":51011}<!-- -->"),
            "51011",
        ),
        (
            "code in quotes",
            Raw::body(r#"{"ErrorCode":"51011"}"#),
            "51011",
        ),
        (
            "code with a fraction of nothing",
            Raw::body(r#"{"ErrorCode":51011.0}"#),
            "51011",
        ),
        ("longer than is read", long(51011), "51011"),
        (
            "another content type",
            failed().header("content-type", "text/html"),
            "51011",
        ),
    ]
}

/// What is no answer, and what comes under another status.
fn no_answers() -> Vec<Odd> {
    // What gzip makes of `failed`.
    let gzip = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&failed().body).unwrap();
        gzip.finish().unwrap()
    };
    vec![
        ("success longer than is read", long(0), "bad_body"),
        (
            "success that is denied",
            Raw::body(r#"{"ActionStatus":"FAIL","ErrorCode":0}"#),
            "bad_body",
        ),
        (
            "success with more behind it",
            Raw::body(r#"{"ErrorCode":0}{}"#),
            "bad_body",
        ),
        (
            "two codes",
            Raw::body(r#"{"ErrorCode":0,"ErrorCode":51011}"#),
            "bad_body",
        ),
        ("no code", Raw::body("{}"), "bad_body"),
        (
            "compressed",
            Raw::body(gzip).header("content-encoding", "gzip"),
            "bad_body",
        ),
        // The status decides first: it may be a gateway's.
        ("a code under HTTP 502", failed().status(502), "http_5xx"),
        ("a code under HTTP 403", failed().status(403), "http_4xx"),
        ("a code under HTTP 201", failed().status(201), "bad_body"),
    ]
}

/// Replies as they come over the wire: the class follows from the `ErrorCode`, and nothing beside it may hide it.
#[tokio::test(flavor = "multi_thread")]
async fn the_code_decides_whatever_stands_beside_it() {
    let world = World::new().await;
    let client = client(&world);
    let table = CodeTable::new(&BTreeMap::new());
    for (what, raw, label) in failures().into_iter().chain(no_answers()) {
        world.sandbox.clear_faults();
        world.sandbox.add_fault(Rule::new(Fault::Raw(raw)));
        let call = client.delete("user15", "a", Via::Pooled).await;
        let verdict = table.classify(call.reply.clone());
        assert_eq!(verdict.row.label, label, "{what}: {:?}", call.reply);
    }
    let denied = r#"{"ActionStatus":"FAIL","ErrorCode":0}"#;
    world.sandbox.clear_faults();
    world
        .sandbox
        .add_fault(Rule::new(Fault::Raw(Raw::body(denied))));
    let call = client.delete("user15", "a", Via::Pooled).await;
    assert_eq!(
        call.reply,
        Reply::BadBody("ErrorCode 0 beside an ActionStatus other than OK")
    );
}

/// The same through the daemon: dead-lettered at once, its text as far as it can be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_no_utf8_is_rejected_at_once() {
    let world = World::new().await;
    world.user("user15", &["a"]);
    let body = b"{\"ErrorCode\":51011,\"ErrorInfo\":\"name \xe7\xbe\"}";
    world
        .sandbox
        .add_fault(Rule::new(Fault::Raw(Raw::body(*body))).group("a"));
    let daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let [message] = &world.dead(1).await[..] else {
        panic!("one message is dead-lettered");
    };
    assert_eq!(
        message.header_text("convgroup-cause").as_deref(),
        Some("rejected")
    );
    assert_eq!(
        message.header_text("convgroup-code").as_deref(),
        Some("51011")
    );
    assert_eq!(
        message.header_text("convgroup-info").as_deref(),
        Some("name \u{fffd}")
    );
    world.nothing_is_left(&daemon).await;
}

/// Every row of the table is shown by one of the tests above.
#[test]
fn every_row_has_its_test() {
    let table = CodeTable::new(&BTreeMap::new());
    let faults = [
        "timeout", "reset", "bad_body", "http_5xx", "http_408", "http_429", "http_401", "http_403",
        "http_404", "other", PANIC,
    ];
    // `connect` and other 4xx need no code of their own: they go the way of `reset` and `other`. The last has its test in `answers`.
    let elsewhere = ["connect", "http_4xx", "0", "51009", GROUPS_RECREATED];
    for row in table.rows() {
        let by_class = [
            Class::Transient,
            Class::Throttled,
            Class::Rejected,
            Class::Signature,
            Class::Account,
            Class::Unknown,
        ]
        .iter()
        .any(|&class| codes_of(class).iter().any(|(label, _)| *label == row.code));
        assert!(
            by_class
                || faults.contains(&row.code.as_str())
                || elsewhere.contains(&row.code.as_str()),
            "{} has no test",
            row.code
        );
    }
}
