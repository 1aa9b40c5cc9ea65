//! The main job: events are deleted and acked; several names in one event; what a client that is not ours publishes.
use std::process::Stdio;

use im_sandbox::{Fault, Rule};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

use crate::world::{World, answered, event, eventually_settled, seconds, settled};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::{Message, PATIENCE, shared_node};

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_deleted_and_acked() {
    let world = World::new().await;
    world.user("user15", &["a", "b", "kept"]);
    let daemon = world.daemon().await;
    world.publish("user15", &["a", "b", "a"]).await;
    let metrics = eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(world.sandbox.groups("user15").unwrap(), ["kept"]);
    assert_eq!(
        metrics.value("convgroup_groups_total", &[("outcome", "deleted")]),
        2.0
    );
    assert_eq!(
        metrics.value(
            "convgroup_messages_received_total",
            &[("redelivered", "false")]
        ),
        1.0
    );
    assert_eq!(answered(&metrics, "0", "deleted"), 2.0);
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gone_group_counts_as_success_apart_from_deleted() {
    let world = World::new().await;
    world.user("user15", &[]);
    let daemon = world.daemon().await;
    world.publish("user15", &["gone"]).await;
    let metrics = eventually_settled(&daemon, "gone", 1).await;
    assert_eq!(settled(&metrics, "deleted"), 0.0);
    world.nothing_is_left(&daemon).await;
}

/// amqp-tools (librabbitmq) know nothing but the contract's body: no properties, no headers.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_client_that_is_not_ours_is_deleted() {
    let world = World::new().await;
    world.user("user15", &["test0"]);
    let daemon = world.daemon().await;
    let url = shared_node().await.url();
    let status = tokio::process::Command::new("amqp-publish")
        .args(["--url", &url, "--exchange", world.config.exchange(), "--routing-key", "delete"])
        .args(["--body", r#"{"From_Account":"user15","GroupName":["test0"]}"#])
        .stdin(Stdio::null())
        .status()
        .await
        .expect("amqp-publish is missing: run `make test`, which installs it, or apt-get install amqp-tools");
    assert!(status.success());
    eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(
        world.sandbox.groups("user15").unwrap(),
        Vec::<String>::new()
    );
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_names_left_travel_on() {
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    world.user("user15", &["done", "flaky", "last"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("flaky").times(1));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("bad"));
    let daemon = world.daemon().await;
    let headers = {
        let mut headers = FieldTable::default();
        headers.insert(
            "traceparent".into(),
            AMQPValue::LongString("00-trace".into()),
        );
        headers.insert(
            "CC".into(),
            AMQPValue::FieldArray(vec![AMQPValue::LongString("x".into())].into()),
        );
        headers
    };
    let properties = persistent()
        .with_message_id("m-1".into())
        .with_correlation_id("c-1".into())
        .with_timestamp(1_700_000_000)
        .with_content_type("application/json".into())
        .with_headers(headers);
    let body =
        r#"{"trace":{"x":1.50},"From_Account":"user15","GroupName":["done","bad","flaky","last"]}"#;
    world.publish_raw(body.as_bytes(), properties).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(
        world.sandbox.groups("user15").unwrap(),
        Vec::<String>::new()
    );
    let calls = world.sandbox.calls();
    assert_eq!(
        calls
            .iter()
            .filter(|call| call.group.as_deref() == Some("done"))
            .count(),
        1,
        "a name done stays done"
    );
    let dead = world.dead(1).await.remove(0);
    assert_eq!(
        dead.text(),
        r#"{"trace":{"x":1.50},"From_Account":"user15","GroupName":["bad"]}"#
    );
    assert_eq!(
        dead.properties.message_id().as_ref().unwrap().as_str(),
        "m-1"
    );
    assert_eq!(
        dead.properties.correlation_id().as_ref().unwrap().as_str(),
        "c-1"
    );
    assert_eq!(dead.properties.timestamp(), &Some(1_700_000_000));
    assert_eq!(
        dead.properties.content_type().as_ref().unwrap().as_str(),
        "application/json"
    );
    assert_eq!(dead.header_text("traceparent").as_deref(), Some("00-trace"));
    assert_eq!(dead.header("CC"), None);
    world.nothing_is_left(&daemon).await;
}

/// So many headers of 9 KB.
fn large_headers(count: usize) -> FieldTable {
    let mut headers = FieldTable::default();
    for number in 0..count {
        let name = format!("big-{number}");
        headers.insert(name.into(), AMQPValue::LongString("x".repeat(9_000).into()));
    }
    headers
}

/// Brokers do not cut headers: they have to fit a frame of the connection that consumes.
#[tokio::test(flavor = "multi_thread")]
async fn large_headers_that_fit_travel_on() {
    let world = World::new().await;
    world.user("user15", &["there"]);
    let daemon = world.daemon().await;
    let headers = large_headers(6);
    for body in ["no event", &event("user15", &["there"])] {
        world
            .publish_raw(body.as_bytes(), persistent().with_headers(headers.clone()))
            .await;
    }
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.header("convgroup-headers-dropped"), None);
    for (name, value) in headers.inner() {
        assert_eq!(dead.header(name.as_str()), Some(value));
    }
    eventually_settled(&daemon, "deleted", 1).await;
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_do_not_fit_are_dropped_not_the_message() {
    let world = World::new().await;
    world.user("user15", &[]);
    let daemon = world.daemon().await;
    let mut headers = large_headers(10);
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString("00-trace".into()),
    );
    world
        .publish_raw(b"no event", persistent().with_headers(headers))
        .await;
    let dead = world.dead(1).await.remove(0);
    assert_eq!(
        dead.header("convgroup-headers-dropped"),
        Some(&AMQPValue::Boolean(true))
    );
    assert_eq!(dead.header_text("traceparent").as_deref(), Some("00-trace"));
    assert_eq!(
        dead.header_text("convgroup-cause").as_deref(),
        Some("malformed")
    );
    assert_eq!(dead.header("big-0"), None);
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_events_are_dead_lettered_byte_for_byte() {
    let world = World::new().await;
    world.user("user15", &["last"]);
    let daemon = world.daemon().await;
    let deep = format!("{{\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    let long = event("user15", &[&"g".repeat(70_000)]);
    let many = event("user15", &vec!["g"; 101]);
    let bodies: [&[u8]; 12] = [
        b"",
        b"not json",
        b"\xff\xfe",
        br#"{"From_Account":7,"GroupName":["a"]}"#,
        br#"{"From_Account":"","GroupName":["a"]}"#,
        br#"{"From_Account":"user15","GroupName":[]}"#,
        br#"{"From_Account":"user15","GroupName":["a",""]}"#,
        br#"{"From_Account":"user15","From_Account":"user15","GroupName":["a"]}"#,
        br#"["user15",["a"]]"#,
        deep.as_bytes(),
        long.as_bytes(),
        many.as_bytes(),
    ];
    for body in bodies {
        world.publish_raw(body, persistent()).await;
    }
    world.publish("user15", &["last"]).await;
    let metrics = eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 12.0);
    let kind = [("cause", "malformed"), ("class", "malformed")];
    assert_eq!(metrics.value("convgroup_dead_letters_total", &kind), 12.0);
    let mut found = Vec::new();
    for dead in world.dead(12).await {
        assert_eq!(
            dead.header_text("convgroup-cause").as_deref(),
            Some("malformed")
        );
        assert_eq!(
            dead.header_text("convgroup-class").as_deref(),
            Some("malformed")
        );
        assert_eq!(dead.header("convgroup-code"), None);
        assert_eq!(dead.header_number("convgroup-attempt"), Some(0));
        assert!(!dead.header_text("convgroup-info").unwrap().is_empty());
        found.push(dead.body);
    }
    found.sort();
    let mut sent: Vec<Vec<u8>> = bodies.iter().map(|body| body.to_vec()).collect();
    sent.sort();
    assert!(found == sent, "a body changed on its way");
    assert_eq!(
        world.sandbox.counters().calls,
        1,
        "a broken event must not cause a call"
    );
    world.nothing_is_left(&daemon).await;
}

/// The reason says what explains the broken body, and nothing that the publisher wrote.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_event_is_told_with_what_its_body_is_instead() {
    let world = World::new().await;
    let daemon = world.daemon().await;
    let plain = persistent;
    let typed = |content_type: &str| persistent().with_content_type(content_type.into());
    let broken: [(&[u8], BasicProperties, &str); 8] = [
        (b"\x1f\x8b\x08\0", plain(), "gzip data"),
        (
            b"\x0b\x02\x80{}",
            persistent().with_content_encoding("br".into()),
            "content_encoding says br",
        ),
        (b"\xff\xfe{\0}\0", plain(), "UTF-16"),
        (
            b"{\"From_Account\":\"\xd3\xc3\"}",
            typed("application/json; charset=GBK"),
            "content_type says gbk",
        ),
        (
            b"\0SwA\x02{}",
            persistent().with_type("amqp-1.0".into()),
            "AMQP 1.0",
        ),
        (
            b"\x0a\x06user15",
            typed("application/x-protobuf; user15"),
            "content_type says protobuf",
        ),
        (
            br#"{"From_Account":"user15","GroupName":["a","\ud83d"]}"#,
            plain(),
            "`GroupName`: name 2 holds half of a surrogate pair at byte 43",
        ),
        (
            br#"{"From_Account":"user15\udc00","GroupName":["a"]}"#,
            plain(),
            "`From_Account` holds half of a surrogate pair at byte 23",
        ),
    ];
    for (body, properties, _) in &broken {
        world.publish_raw(body, properties.clone()).await;
    }
    let count = u32::try_from(broken.len()).unwrap();
    eventually_settled(&daemon, "dead_lettered", count).await;
    let (_, shown) = world.tool(&["dlq", "show"]).await;
    let letters = world.dead(broken.len()).await;
    for (body, _, reason) in broken {
        let letter = letters.iter().find(|letter| letter.body == body);
        let letter = letter.expect("each travels byte for byte");
        let info = letter.header_text("convgroup-info").unwrap();
        assert!(info.contains(reason) && !info.contains("user15"), "{info}");
        assert!(info.len() <= 200, "{info}");
        assert!(shown.contains(&info), "{info}: {shown}");
        let logged = serde_json::to_string(&info).unwrap();
        assert!(
            daemon
                .output()
                .contains(&format!("\"error.malformed\":{logged}")),
            "{info}"
        );
    }
    world.nothing_is_left(&daemon).await;
}

/// What can be read is read: a byte order mark, properties that are not true, strange text in what is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_can_be_read_is_read_whatever_surrounds_it() {
    let world = World::new().await;
    world.user("user15", &["a", "b", "c", "d\u{1}"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("bad"));
    let daemon = world.daemon().await;
    let marked = format!("\u{feff}{}", event("user15", &["bad"]));
    let odd =
        r#"{"\ud83d":"\udc00","From_Account":"user15","x":["\ud83d"],"GroupName":["c","bad"]}"#;
    world.publish_raw(marked.as_bytes(), persistent()).await;
    world.publish_raw(odd.as_bytes(), persistent()).await;
    eventually_settled(&daemon, "dead_lettered", 2).await;
    let mut dead: Vec<String> = world.dead(2).await.iter().map(Message::text).collect();
    dead.sort();
    assert_eq!(
        dead,
        [odd.replace(r#""c","#, ""), marked],
        "a copy keeps what it does not know; a whole body stays byte for byte"
    );
    let marked = format!("\u{feff}{}", event("user15", &["a"]));
    world.publish_raw(marked.as_bytes(), persistent()).await;
    let claims = persistent()
        .with_content_encoding("gzip".into())
        .with_type("amqp-1.0".into())
        .with_content_type("text/xml; charset=gbk".into());
    let body = event("user15", &["b"]);
    world.publish_raw(body.as_bytes(), claims).await;
    world.publish("user15", &["d\u{1}"]).await;
    eventually_settled(&daemon, "deleted", 3).await;
    assert_eq!(
        world.sandbox.groups("user15").unwrap(),
        Vec::<String>::new()
    );
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_headers_count_as_absent() {
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    world.user("user15", &["a", "b", "c", "d"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("a"));
    let daemon = world.daemon().await;
    let hostile: [&[(&str, AMQPValue)]; 4] = [
        &[
            ("convgroup-attempt", AMQPValue::LongString("9".into())),
            ("x-death", AMQPValue::Boolean(true)),
        ],
        &[
            ("convgroup-attempt", AMQPValue::LongLongInt(i64::MAX)),
            ("convgroup-first-seen", AMQPValue::LongLongInt(-1)),
        ],
        &[
            ("convgroup-attempt", AMQPValue::Void),
            ("x-delivery-count", AMQPValue::LongString("many".into())),
        ],
        &[
            (
                "convgroup-first-seen",
                AMQPValue::FieldTable(FieldTable::default()),
            ),
            ("convgroup-cause", AMQPValue::LongInt(1)),
        ],
    ];
    for (headers, group) in hostile.into_iter().zip(["a", "b", "c", "d"]) {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        let body = event("user15", &[group]);
        world
            .publish_raw(body.as_bytes(), persistent().with_headers(table))
            .await;
    }
    eventually_settled(&daemon, "deleted", 3).await;
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.header_number("convgroup-attempt"), Some(0));
    assert_eq!(dead.header("x-death"), None);
    world.nothing_is_left(&daemon).await;
}

/// A per-message expiration would make a delayed copy vanish or a dead letter evaporate; a foreign user id would be refused.
#[tokio::test(flavor = "multi_thread")]
async fn properties_that_would_harm_a_copy_do_not_travel() {
    let world = World::new().await;
    let daemon = world.daemon().await;
    let properties = persistent()
        .with_expiration("60000".into())
        .with_user_id("guest".into());
    world.publish_raw(b"no event", properties).await;
    let dead = world.dead(1).await.remove(0);
    assert_eq!(
        (dead.properties.expiration(), dead.properties.user_id()),
        (&None, &None)
    );
    assert_eq!(dead.properties.delivery_mode(), &Some(2));
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_loses_nothing() {
    const EVENTS: usize = 1000;
    let world = World::new().await;
    let users: Vec<String> = (0..EVENTS).map(|number| format!("user{number}")).collect();
    for user in &users {
        world.user(user, &["a"]);
    }
    let daemon = world.daemon().await;
    let bodies: Vec<String> = users.iter().map(|user| event(user, &["a"])).collect();
    world
        .broker
        .publish_many(world.config.exchange(), "delete", &bodies)
        .await;
    world
        .counted(PATIENCE, |counters| counters.deleted >= 300)
        .await;
    daemon.kill();
    drop(daemon);
    let daemon = world.daemon().await;
    world.nothing_is_queued().await;
    let metrics = world.settled(&daemon).await;
    assert_eq!(world.sandbox.counters().deleted, EVENTS as u64);
    for user in &users {
        assert_eq!(
            world.sandbox.groups(user).unwrap(),
            Vec::<String>::new(),
            "{user} was lost"
        );
    }
    let done = settled(&metrics, "deleted") + settled(&metrics, "gone");
    assert_eq!(
        done,
        metrics.sum("convgroup_messages_settled_total"),
        "{}",
        metrics.text
    );
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_hands_back_and_leaves_with_zero() {
    let world = World::new()
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 20);
    world.user("user15", &["a"]);
    let mut daemon = world.daemon().await;
    let bodies: Vec<String> = (0..200).map(|_| event("user15", &["a"])).collect();
    world
        .broker
        .publish_many(world.config.exchange(), "delete", &bodies)
        .await;
    world
        .counted(PATIENCE, |counters| counters.calls >= 10)
        .await;
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    // Every message is either done or back in the queue. The broker takes a moment to put back what it got at the very end.
    let left = u32::try_from(200 - world.sandbox.counters().calls).unwrap();
    world
        .broker
        .eventually_depth(world.config.queue(), left, PATIENCE)
        .await;
    assert_eq!(world.broker.depth(&world.config.dead_queue()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlives_the_grace_ends_with_one_and_comes_back() {
    let world = World::new().await.set("CONVGROUP_SHUTDOWN_GRACE", "300ms");
    let mut daemon = world.daemon_in_a_call().await;
    daemon.signal("TERM");
    daemon.exits_with(1, seconds(10)).await;
    world
        .broker
        .eventually_depth(world.config.queue(), 1, PATIENCE)
        .await;
}

/// A stop during an outage: nobody can know any more whether it was the message's fault.
#[tokio::test(flavor = "multi_thread")]
async fn a_last_attempt_that_fails_during_a_stop_is_handed_back() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_IM__TIMEOUT", "2s");
    let mut daemon = world.daemon_in_a_call().await;
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    assert_eq!(world.sandbox.counters().calls, 1);
    world
        .broker
        .eventually_depth(world.config.queue(), 1, PATIENCE)
        .await;
    assert_eq!(world.broker.depth(&world.config.dead_queue()).await, 0);
}

/// Held too long, a message would be taken back by the broker, undone.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_too_long_travels_on_with_the_names_left() {
    let world = World::new()
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 4)
        .set("TEST_SHORTENED_MS", 600);
    let names: Vec<String> = (0..8).map(|number| format!("g{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.user("user15", &names);
    let daemon = world.daemon().await;
    world.publish("user15", &names).await;
    let metrics = eventually_settled(&daemon, "deleted", 1).await;
    assert!(settled(&metrics, "delayed") >= 1.0, "{}", metrics.text);
    assert_eq!(answered(&metrics, "0", "deleted"), 8.0, "each name once");
    assert_eq!(world.sandbox.counters().calls, 8);
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let world = World::new().await;
    let mut daemon = world.daemon_in_a_call().await;
    daemon.signal("TERM");
    daemon.eventually_status("/readyz", 503, PATIENCE).await;
    daemon.signal("INT");
    daemon.exits_with(130, seconds(5)).await;
    world
        .broker
        .eventually_depth(world.config.queue(), 1, PATIENCE)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_pooled_connection_costs_nothing() {
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    world.user("user15", &["a", "b"]);
    let daemon = world.daemon().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::Reset).skip(1).times(1));
    world.publish("user15", &["a"]).await;
    world.publish("user15", &["b"]).await;
    let metrics = eventually_settled(&daemon, "deleted", 2).await;
    assert_eq!(settled(&metrics, "delayed"), 0.0);
    assert_eq!(answered(&metrics, "reset", "transient"), 1.0);
    world.nothing_is_left(&daemon).await;
}
