//! Messages and brokers that no client library would make: the daemon survives them, and so do their neighbours.
use std::time::Instant;

use im_sandbox::Fault;
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::world::{World, event, eventually_settled, seconds, settled, users};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::raw::{Hostile, RawPublisher, named, nested_arrays, short_bytes, table};
use convgroup_testkit::{Message, Node, PATIENCE, shared_node};

/// Almost as deep as a frame of 128 KiB has room for.
const DEEP: usize = 20_000;
/// So deep that it still fits half a frame.
const DEEP_AND_SMALL: usize = 12_000;

async fn publish_raw(world: &World, headers: &[u8], body: &[u8]) {
    let addr = shared_node().await.addr();
    let mut raw = RawPublisher::connect(addr).expect("the broker lets guest in");
    raw.publish(world.config.exchange(), "delete", headers, body)
        .expect("the broker takes it");
}

#[tokio::test(flavor = "multi_thread")]
async fn deeply_nested_headers_harm_nobody() {
    let world = World::new().await;
    let mut daemon = world.daemon().await;
    let mut users = world.backlog(5).await;
    world.user("deep", &["a"]);
    users.push("deep".to_owned());
    let headers = nested_arrays("deep", DEEP);
    publish_raw(&world, &headers, event("deep", &["a"]).as_bytes()).await;
    publish_raw(&world, &headers, b"no event").await;
    let small = nested_arrays("deep", DEEP_AND_SMALL);
    publish_raw(&world, &small, b"no event either").await;
    world.works(PATIENCE).await;
    world.eventually_deleted(&users, PATIENCE).await;
    let metrics = eventually_settled(&daemon, "dead_lettered", 2).await;
    assert!(daemon.is_running());
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    assert_eq!(metrics.sum("convgroup_panics_total"), 0.0);
    let dead = world.config.dead_queue();
    world.broker.eventually_depth(&dead, 2, PATIENCE).await;
    let (code, output) = world.tool(&["dlq", "export", "--file", "-"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("no event either"), "{output}");
    assert_eq!(
        output.matches("\"convgroup-headers-dropped\":true").count(),
        2,
        "{output}"
    );
    let (code, output) = world
        .tool(&["dlq", "purge", "--all", "--yes", "--no-export"])
        .await;
    assert_eq!((code, output.trim()), (0, "2 letters removed"));
    world.nothing_is_left(&daemon).await;
}

/// A node that takes frames of 16 MiB, and a world on it.
async fn on_a_node(conf: &str) -> (Node, World) {
    let node = Node::with_conf(conf).await;
    // The test's own client would take the broker's word for any size, and agrees to the smallest only if it asks for it.
    let world = World::at(&format!("{}?frame_max=4096", node.url())).await;
    let world = world.set("CONVGROUP_AMQP__URL", node.url());
    (node, world)
}

/// Messages that lapin can't parse: what is wrong, and flags and bytes of the properties.
fn unreadable() -> Vec<(&'static str, u16, Vec<u8>)> {
    const HEADERS: u16 = 0x2000;
    const MESSAGE_ID: u16 = 0x0080;
    let large = [
        &short_bytes(b"large")[..],
        b"S",
        &table(&vec![b'x'; 200_000]),
    ]
    .concat();
    vec![
        (
            "a header name is not UTF-8",
            HEADERS,
            table(&named(b"\xff\xfe")),
        ),
        (
            "the property message_id is not UTF-8",
            MESSAGE_ID,
            short_bytes(b"\xc3"),
        ),
        (
            // How many depends on what the broker adds.
            "bytes, more than a frame of 131072",
            HEADERS | MESSAGE_ID,
            [table(&large), short_bytes(b"id-1")].concat(),
        ),
    ]
}

/// What can't be read is a dead letter at once: nobody waits for a delivery limit, nobody is delivered twice, and the tools for
/// dead letters work, also on such messages themselves.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_message_is_a_dead_letter_at_once_and_harms_nobody() {
    let (node, world) = on_a_node("frame_max = 16777216\n").await;
    world.declare().await;
    let users = users(30);
    world.add(&users);
    world.add(&["unread".to_owned()]);
    let mut raw = RawPublisher::connect(node.addr()).expect("the broker lets guest in");
    let body = event("unread", &["a"]);
    for (part, (_, flags, properties)) in users.chunks(10).zip(unreadable()) {
        for user in part {
            world.publish(user, &["a"]).await;
        }
        raw.publish_with(
            world.config.exchange(),
            "delete",
            flags,
            &properties,
            body.as_bytes(),
        )
        .expect("the broker takes it");
    }
    let daemon = world.daemon().await;
    let consuming = Instant::now();
    let metrics = eventually_settled(&daemon, "dead_lettered", 3).await;
    assert!(
        consuming.elapsed() < seconds(5),
        "{:?}",
        consuming.elapsed()
    );
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    world.eventually_deleted(&users, PATIENCE).await;
    let metrics = world.settled(&daemon).await;
    let again = [("redelivered", "true")];
    assert_eq!(
        metrics.value("convgroup_messages_received_total", &again),
        0.0
    );
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    assert_eq!(
        daemon.output().matches("connected to the broker").count(),
        1
    );
    let dead = world.dead(3).await;
    for (reason, ..) in unreadable() {
        let info = |letter: &Message| letter.header_text("convgroup-info").unwrap_or_default();
        let letter = dead.iter().find(|letter| info(letter).ends_with(reason));
        let letter = letter.unwrap_or_else(|| panic!("{reason}: {dead:?}"));
        let begin = "the message can't be read by an AMQP client: ";
        assert!(info(letter).starts_with(begin), "{}", info(letter));
        assert_eq!(letter.text(), body);
        assert_eq!(
            letter.header_text("convgroup-cause").as_deref(),
            Some("malformed")
        );
        assert!(
            letter
                .header_names()
                .iter()
                .all(|name| !name.starts_with("convgroup-unreadable"))
        );
    }
    let kept = dead
        .iter()
        .filter_map(|letter| letter.properties.message_id().clone());
    assert_eq!(kept.map(|id| id.to_string()).collect::<Vec<_>>(), ["id-1"]);
    dead_ones_are_in_reach_of_the_tools(&world, &mut raw).await;
    world.works(PATIENCE).await;
    world.nothing_is_left(&daemon).await;
}

/// The same messages, published to the dead letters by hand.
async fn dead_ones_are_in_reach_of_the_tools(world: &World, raw: &mut RawPublisher) {
    let (queue, body) = (world.config.dead_queue(), event("unread", &["a"]));
    let fill = |raw: &mut RawPublisher| {
        for (_, flags, properties) in unreadable() {
            raw.publish_with("", &queue, flags, &properties, body.as_bytes())
                .expect("the broker takes it");
        }
    };
    fill(raw);
    world.broker.eventually_depth(&queue, 3, PATIENCE).await;
    let (code, output) = world.tool(&["dlq", "ls"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("3  in all"), "{output}");
    let (code, output) = world.tool(&["dlq", "show"]).await;
    assert_eq!(code, 0, "{output}");
    for (reason, ..) in unreadable() {
        assert!(output.contains(reason), "{output}");
    }
    let (code, output) = world.tool(&["dlq", "export", "--file", "-"]).await;
    assert_eq!((code, output.matches("unread").count()), (0, 3), "{output}");
    let (code, output) = world.tool(&["dlq", "redrive", "--settle", "200ms"]).await;
    assert_eq!(code, 0, "{output}");
    world
        .eventually_deleted(&["unread".to_owned()], PATIENCE)
        .await;
    world.broker.eventually_depth(&queue, 0, PATIENCE).await;
    fill(raw);
    world.broker.eventually_depth(&queue, 3, PATIENCE).await;
    let (code, output) = world
        .tool(&["dlq", "purge", "--all", "--yes", "--no-export"])
        .await;
    assert_eq!((code, output.trim()), (0, "3 letters removed"));
}

/// An exchange that passes everything on also passes routing keys that no client library can read.
#[tokio::test(flavor = "multi_thread")]
async fn a_routing_key_that_is_not_utf8_is_no_reason_to_fail() {
    let world = World::new().await;
    world.declare().await;
    let fanout = format!("{}.fanout", world.config.queue());
    let channel = world.broker.channel().await;
    let declared = channel.exchange_declare(
        fanout.as_str().into(),
        ExchangeKind::Fanout,
        ExchangeDeclareOptions {
            auto_delete: true,
            ..ExchangeDeclareOptions::default()
        },
        FieldTable::default(),
    );
    declared.await.expect("the exchange is declared");
    let bound = channel.queue_bind(
        world.config.queue().into(),
        fanout.as_str().into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("the queue is bound");
    let users = vec!["routed".to_owned()];
    world.add(&users);
    let addr = shared_node().await.addr();
    let mut raw = RawPublisher::connect(addr).expect("the broker lets guest in");
    raw.publish(
        &fanout,
        b"\xff\xfe",
        b"",
        event("routed", &["a"]).as_bytes(),
    )
    .expect("the broker takes it");
    let daemon = world.daemon().await;
    world.eventually_deleted(&users, PATIENCE).await;
    let metrics = world.settled(&daemon).await;
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    assert_eq!(settled(&metrics, "deleted"), 1.0);
    world.nothing_is_left(&daemon).await;
}

/// Messages whose headers are many: each value would be some forty bytes of memory, times the prefetch.
#[tokio::test(flavor = "multi_thread")]
async fn many_header_values_take_no_memory() {
    const VALUES: usize = 60_000;
    const MESSAGES: usize = 60;
    const IN_HAND: f64 = 50.0;
    // So slow that all are in hand at once.
    let world = World::new()
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 1);
    world.declare().await;
    let users = users(MESSAGES);
    world.add(&users);
    let void = [&short_bytes(b"many")[..], b"A", &table(&vec![b'V'; VALUES])].concat();
    let addr = shared_node().await.addr();
    let mut raw = RawPublisher::connect(addr).expect("the broker lets guest in");
    for user in &users {
        raw.publish(
            world.config.exchange(),
            "delete",
            &void,
            event(user, &["a"]).as_bytes(),
        )
        .expect("the broker takes it");
    }
    let daemon = world.daemon().await;
    daemon
        .eventually_metrics("most are in hand", PATIENCE, |metrics| {
            metrics.value("convgroup_in_flight", &[]) >= IN_HAND
        })
        .await;
    let peak = daemon.peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{} MiB", peak >> 20);
}

/// A daemon of the debug build, some connections and messages: resident at its peak.
const RESIDENT_BYTES_MAX: u64 = 96 * 1024 * 1024;
/// What a tool may reserve, its threads' stacks included.
const RESERVED_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// Runs a tool that can't reserve more than [`RESERVED_BYTES_MAX`].
async fn bounded_tool(world: &World, args: &[&str]) -> (i32, String) {
    let bound = format!("--as={RESERVED_BYTES_MAX}");
    let program = env!("CARGO_BIN_EXE_convgroup-deleter");
    let config = world.tool_config(&[&[bound.as_str(), program], args].concat());
    config.program("prlimit").spawn().finished(PATIENCE).await
}

/// Whatever frame size a broker agrees to: `run`, `check` and `publish` work, and our memory is ours to choose.
async fn the_broker_does_not_size_our_memory(frame_max: u32) {
    let (_node, world) = on_a_node(&format!("frame_max = {frame_max}\n")).await;
    let (code, output) = bounded_tool(&world, &["publish", "--user", "first", "a"]).await;
    assert_eq!(code, 0, "{output}");
    let (code, output) = bounded_tool(&world, &["check"]).await;
    assert_eq!(code, 0, "{output}");
    world.user("first", &["a"]);
    let daemon = world.daemon().await;
    let users = world.backlog(50).await;
    world.eventually_deleted(&users, PATIENCE).await;
    // A copy with foreign headers of 3,000 bytes: more than half of the smallest frame there is.
    let mut headers = FieldTable::default();
    headers.insert(
        "foreign".into(),
        AMQPValue::LongString("x".repeat(3000).into()),
    );
    world.fault(Fault::code(51011));
    let properties = persistent()
        .with_headers(headers)
        .with_message_id("id-1".into());
    world
        .publish_raw(event("first", &["b"]).as_bytes(), properties)
        .await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let peak = daemon.peak_resident_bytes();
    assert!(peak < RESIDENT_BYTES_MAX, "{} MiB", peak >> 20);
    let dead = world.dead(1).await;
    let dropped = dead[0].header("convgroup-headers-dropped").is_some();
    assert_eq!(dropped, frame_max == 4096, "{:?}", dead[0].header_names());
    let told = daemon.output().matches("`frame_max` is 4096 bytes").count();
    assert_eq!(told, usize::from(frame_max == 4096), "{}", daemon.output());
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_frame_bound_does_not_size_our_memory() {
    the_broker_does_not_size_our_memory(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_large_frames_does_not_size_our_memory() {
    the_broker_does_not_size_our_memory(16 * 1024 * 1024).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_the_smallest_frames_is_told_as_such() {
    the_broker_does_not_size_our_memory(4096).await;
}

/// A server that claims frames of gigabytes, or nests what it says of itself: an error that names it, and no memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_server_ends_as_an_error() {
    const DEEP_IN_A_FRAME: usize = 25_000;
    let world = World::new().await;
    let claim = |kind: u8| {
        [
            &[kind, 0, 0][..],
            &u32::MAX.to_be_bytes(),
            &vec![0; 100_000],
        ]
        .concat()
    };
    for (properties, then, told) in [
        (
            vec![],
            claim(1),
            "a method frame of 4294967303 bytes, more than the 131072 agreed",
        ),
        (
            vec![],
            claim(3),
            "a body frame of 4294967303 bytes, more than the 131072 agreed",
        ),
        (vec![], vec![b'H'; 100], "a frame of the unknown kind 72"),
        (
            nested_arrays("deep", DEEP_IN_A_FRAME),
            vec![0; 100],
            "a frame of the unknown kind 0",
        ),
    ] {
        let hostile = Hostile {
            properties,
            frame_max: 0,
            then,
        };
        let addr = hostile.serve().expect("a free port");
        let world_config = world.tool_config(&["check"]);
        let url = format!("amqp://guest:guest@{addr}/%2f");
        let bound = format!("--as={RESERVED_BYTES_MAX}");
        let program = env!("CARGO_BIN_EXE_convgroup-deleter");
        let config = world_config
            .set("CONVGROUP_AMQP__URL", url)
            .args(&[bound.as_str(), program, "check"])
            .program("prlimit");
        let (code, output) = config.spawn().finished(PATIENCE).await;
        assert!(code > 0, "{code}: {output}");
        // The handshake is over by then: who asks for a channel a moment later hears only that the connection is in error.
        let late = "invalid connection state: Error";
        assert!(
            output.contains(told) || output.contains(late),
            "{told}: {output}"
        );
    }
}
