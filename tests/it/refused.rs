//! Copies that the broker refuses: the one message is told and kept, the others do not notice.
use std::collections::BTreeSet;

use im_sandbox::{Fault, Latency, Probes, Rule};
use lapin::options::{QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::world::{Dam, World, event, eventually_settled, seconds, settled, users};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::raw::{RawPublisher, decimal};
use convgroup_testkit::{Daemon, Message, Metrics, Node, PATIENCE, eventually};

/// What the broker takes at most, in bytes, from now on and on new channels. RabbitMQ 4 keeps it where it is quicker to read.
async fn limit_messages(node: &Node, bytes: u32) {
    let told = format!(
        "application:set_env(rabbit, max_message_size, {bytes}), persistent_term:put(max_message_size, {bytes})."
    );
    node.ctl(&["eval", &told]).await;
}

/// Neighbours that came once, were never counted, and met no other session.
async fn unharmed(world: &World, daemon: &Daemon, neighbours: &[String]) -> Metrics {
    world.eventually_deleted(neighbours, PATIENCE).await;
    let metrics = daemon.metrics().await;
    let redelivered = [("redelivered", "true")];
    let again = metrics.value("convgroup_messages_received_total", &redelivered);
    assert_eq!(again, 0.0, "{}", metrics.text);
    let sessions = [("role", "consume")];
    let again = metrics.value("convgroup_amqp_reconnects_total", &sessions);
    assert_eq!(again, 0.0, "{}", metrics.text);
    metrics
}

/// Whether the broker has refused a message's copy in every form.
fn holds_one(metrics: &Metrics) -> bool {
    metrics.value("convgroup_settle_failures_total", &[("op", "publish")]) >= 1.0
}

/// A rejected event of `bytes` bytes, most of them in a field that the daemon does not know.
fn padded(user: &str, bytes: usize) -> String {
    format!(
        r#"{{"From_Account":"{user}","GroupName":["a"],"note":"{}"}}"#,
        "x".repeat(bytes)
    )
}

/// A rejected event whose names alone have more than 20,000 bytes.
fn long_names(user: &str) -> String {
    let names: Vec<String> = (0..100).map(|number| format!("{number:0>200}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    event(user, &names)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_the_broker_refuses_leaves_a_letter_that_names_it() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await;
    world.declare().await;
    let body = "x".repeat(70_000);
    let properties = persistent().with_message_id("too-large".into());
    world.publish_raw(body.as_bytes(), properties).await;
    let neighbours = world.backlog(30).await;
    limit_messages(&node, 65_536).await;
    let daemon = world.daemon().await;
    let metrics = unharmed(&world, &daemon, &neighbours).await;
    assert_eq!(metrics.sum("convgroup_settle_failures_total"), 0.0);
    let (code, output) = world.tool(&["dlq", "show"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("the broker refused the body (70000 bytes)"),
        "{output}"
    );
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.body, b"");
    assert_eq!(
        dead.header_text("convgroup-cause").as_deref(),
        Some("malformed")
    );
    assert_eq!(dead.header_number("convgroup-body-bytes"), Some(70_000));
    // printf 'x%.0s' $(seq 70000) | sha256sum
    assert_eq!(
        dead.header_text("convgroup-body-sha256").as_deref(),
        Some("bca09f4a757d5571c7d9f3341d4301f3c391c090826acc1a3013c6bcb7c01722")
    );
    let id = dead.properties.message_id().as_ref().unwrap().to_string();
    assert_eq!(id, "too-large");
    assert!(daemon.output().contains("left_out"), "{}", daemon.output());
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_broker_refuses_keeps_user_and_names() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await;
    world.declare().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).user("padded"));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).user("delayed").times(3));
    world.user("delayed", &["a"]);
    for user in ["padded", "delayed"] {
        world
            .publish_raw(padded(user, 20_000).as_bytes(), persistent())
            .await;
    }
    let mut neighbours = world.backlog(30).await;
    limit_messages(&node, 8_192).await;
    let daemon = world.daemon().await;
    neighbours.push("delayed".to_owned());
    unharmed(&world, &daemon, &neighbours).await;
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.text(), event("padded", &["a"]));
    assert_eq!(dead.header_text("convgroup-code").as_deref(), Some("51011"));
    world.nothing_is_left(&daemon).await;
}

/// Without its names nothing could be deleted any more: it stays in hand until the broker takes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_can_not_be_made_smaller_is_held() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await;
    world.declare().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).user("long"));
    world
        .publish_raw(long_names("long").as_bytes(), persistent())
        .await;
    let neighbours = world.backlog(30).await;
    limit_messages(&node, 8_192).await;
    let mut daemon = world.daemon().await;
    unharmed(&world, &daemon, &neighbours).await;
    daemon
        .eventually_metrics("it is held", PATIENCE, holds_one)
        .await;
    // A stop does not wait for it: it goes back.
    daemon.signal("TERM");
    daemon.exits_with(0, PATIENCE).await;
    let told = daemon
        .output()
        .matches("refuses every copy of this message")
        .count();
    assert_eq!(told, 1, "{}", daemon.output());
    world
        .broker
        .eventually_depth(world.config.queue(), 1, PATIENCE)
        .await;
    // Once the broker takes it, it ends by itself.
    let daemon = world.daemon().await;
    daemon
        .eventually_metrics("it is held again", PATIENCE, holds_one)
        .await;
    limit_messages(&node, 65_536).await;
    eventually("new channels have the new limit", PATIENCE, async || {
        world
            .broker
            .try_publish("", &world.config.dead_queue(), &[b'x'; 9_000], persistent())
            .await
            .map_err(|err| format!("{err:#}"))
    })
    .await;
    let dead = world.dead(2).await;
    assert!(
        dead.iter()
            .any(|letter| letter.text() == long_names("long"))
    );
    world.nothing_is_left(&daemon).await;
}

/// A dead letter queue that is full takes nothing, whatever the copy looks like: others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_dead_letter_queue_holds_up_nobody() {
    // A full queue takes one more from each channel before it refuses.
    const EVENTS: u32 = 20;
    let node = Node::start().await;
    let world = World::at(&node.url()).await;
    world.declare().await;
    let dead = world.config.dead_queue();
    let definition = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    node.ctl(&[
        "set_policy",
        "full",
        &format!("^{dead}$"),
        definition,
        "--apply-to",
        "queues",
    ])
    .await;
    for _ in 0..EVENTS {
        world.publish_raw(b"no event", persistent()).await;
    }
    let neighbours = world.backlog(30).await;
    let daemon = world.daemon().await;
    daemon
        .eventually_metrics("one is held", seconds(30), holds_one)
        .await;
    unharmed(&world, &daemon, &neighbours).await;
    node.ctl(&["clear_policy", "full"]).await;
    eventually_settled(&daemon, "dead_lettered", EVENTS).await;
    unharmed(&world, &daemon, &neighbours).await;
    world.broker.eventually_depth(&dead, EVENTS, PATIENCE).await;
}

/// Answers that wait go out together. The broker closes the channel because of one that is too large: the others are published again,
/// and that one is given as soon as the broker takes it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_costs_a_channel_costs_no_other() {
    const LARGE: usize = 4;
    let node = Node::start().await;
    let world = World::at(&node.url())
        .await
        .answering()
        .set("CONVGROUP_OUTCOMES__INCLUDE_IDS", true);
    world.declare().await;
    let (world, dam) = Dam::between(world, &node).await;
    dam.close();
    let gone = Rule::new(Fault::code(51009)).user("large");
    world.sandbox.add_fault(gone);
    for _ in 0..LARGE {
        world.publish("large", &[&"x".repeat(3_000)]).await;
    }
    let neighbours = world.backlog(100).await;
    limit_messages(&node, 2_048).await;
    let daemon = world.daemon().await;
    dam.open(&world, &daemon, LARGE + neighbours.len()).await;
    let held = |metrics: &Metrics| metrics.value("convgroup_in_flight", &[]) == LARGE as f64;
    daemon
        .eventually_metrics("only the large ones are held", PATIENCE, held)
        .await;
    let metrics = unharmed(&world, &daemon, &neighbours).await;
    assert_eq!(settled(&metrics, "deleted"), neighbours.len() as f64);
    let output = daemon.output();
    let told = output.matches("the broker refuses the answer to this message");
    assert_eq!(told.count(), LARGE, "{output}");
    limit_messages(&node, 65_536).await;
    world.nothing_is_left(&daemon).await;
    let ledger = world.broker.read_stream(world.config.ledger()).await;
    let answered = |user: &str| {
        let user = format!(r#""user":"{user}""#);
        let answers = ledger.iter().filter(|answer| answer.text().contains(&user));
        answers.map(Message::text).collect::<BTreeSet<_>>().len()
    };
    // Four requests that say the same are one, and so is their answer, but for its time.
    assert!(answered("large") >= 1);
    for user in &neighbours {
        assert_eq!(answered(user), 1, "{user}");
    }
}

/// A stream that stands in the place of the dead letters takes no header of type decimal: RabbitMQ closes the whole connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_costs_the_connection_harms_nobody() {
    let node = Node::start().await;
    let world = World::at(&node.url())
        .await
        .set("CONVGROUP_AMQP__DECLARE", false);
    declare_with_a_stream(&world).await;
    let mut raw = RawPublisher::connect(node.addr()).expect("the broker lets guest in");
    let queue = world.config.queue();
    raw.publish("", queue, &decimal("price"), b"no event")
        .expect("a queue takes it");
    world.publish_raw(b"no event either", persistent()).await;
    let neighbours = world.backlog(30).await;
    let daemon = world.daemon().await;
    eventually_settled(&daemon, "dead_lettered", 2).await;
    let metrics = unharmed(&world, &daemon, &neighbours).await;
    let replaced = [("role", "publish")];
    assert!(metrics.value("convgroup_amqp_reconnects_total", &replaced) >= 1.0);
    assert_eq!(settled(&metrics, "returned"), 0.0);
    daemon
        .eventually_metrics("nothing is in hand", PATIENCE, |metrics| {
            metrics.value("convgroup_in_flight", &[]) == 0.0
        })
        .await;
}

async fn declare_with_a_stream(world: &World) {
    let channel = world.broker.channel().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let dead = world.config.dead_queue();
    let mut queues = vec![
        (dead.clone(), "stream"),
        (world.config.queue().to_owned(), "quorum"),
    ];
    queues.extend(
        world
            .delay_queues()
            .into_iter()
            .map(|queue| (queue, "quorum")),
    );
    for (queue, kind) in queues {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text(kind));
        channel
            .queue_declare(
                queue.as_str().into(),
                QueueDeclareOptions::durable(),
                arguments,
            )
            .await
            .expect("the queue is declared");
    }
    channel
        .exchange_declare(
            world.config.exchange().into(),
            lapin::ExchangeKind::Direct,
            lapin::options::ExchangeDeclareOptions {
                durable: true,
                ..Default::default()
            },
            FieldTable::default(),
        )
        .await
        .expect("the exchange is declared");
    channel
        .queue_bind(
            world.config.queue().into(),
            world.config.exchange().into(),
            "delete".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("the queue is bound");
}

/// RabbitMQ takes frames down to 4 KiB. These headers fit the delivery's frame, but not the copy's, with ours beside them.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_fits_the_smallest_frame() {
    let node = Node::with_conf("frame_max = 4096\n").await;
    // The test's own client agrees to so little only when it asks for it.
    let world = World::at(&format!("{}?frame_max=4096", node.url())).await;
    let world = world.set("CONVGROUP_AMQP__URL", node.url());
    let mut daemon = world.daemon().await;
    let long = "p".repeat(255);
    let mut headers = FieldTable::default();
    headers.insert(
        "note".into(),
        AMQPValue::LongString("n".repeat(2_000).into()),
    );
    let properties = persistent()
        .with_headers(headers)
        .with_message_id(long.as_str().into())
        .with_correlation_id(long.as_str().into())
        .with_reply_to(long.as_str().into())
        .with_type(long.as_str().into())
        .with_app_id(long.as_str().into())
        .with_content_type(long.as_str().into())
        .with_content_encoding(long.as_str().into());
    world.publish_raw(b"no event", properties).await;
    let neighbours = users(30);
    world.add(&neighbours);
    for user in &neighbours {
        world.publish(user, &["a"]).await;
    }
    let metrics = unharmed(&world, &daemon, &neighbours).await;
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.text(), "no event");
    assert!(dead.header("convgroup-headers-dropped").is_some());
    daemon.ready(PATIENCE).await;
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_broker_refuses_is_named_by_publish() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await;
    world.declare().await;
    limit_messages(&node, 8_192).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut lines: Vec<String> = users(600).iter().map(|user| event(user, &["a"])).collect();
    lines[300] = padded("padded", 20_000);
    std::fs::write(file.path(), lines.join("\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let (code, output) = world.tool(&["publish", "--file", path]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("599 events published and confirmed"),
        "{output}"
    );
    assert!(
        output.contains("event 301: the broker refused a message: 406"),
        "{output}"
    );
    let queued = world.broker.depth(world.config.queue()).await;
    assert!(queued >= 599, "{queued}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_the_broker_refuses_stays_where_it_is() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await;
    let daemon = world.daemon().await;
    let dead = world.config.dead_queue();
    world.user("a", &["x"]);
    world.user("b", &["x"]);
    for body in [
        event("a", &["x"]),
        padded("padded", 20_000),
        event("b", &["x"]),
    ] {
        world
            .broker
            .publish("", &dead, body.as_bytes(), persistent())
            .await;
    }
    limit_messages(&node, 8_192).await;
    let (code, output) = world.tool(&["dlq", "redrive", "--settle", "1s"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("2 of 3 letters redriven"), "{output}");
    assert!(output.contains("1 letter stayed here"), "{output}");
    world.broker.eventually_depth(&dead, 1, PATIENCE).await;
    drop(daemon);
}

/// RabbitMQ 3.10 crashes a connection that uses a consumer tag again while messages of the old consumer are not settled.
#[tokio::test(flavor = "multi_thread")]
async fn resuming_while_calls_are_in_flight_keeps_the_session() {
    const PREFETCH: u32 = 20;
    let world = World::new().await.set("CONVGROUP_AMQP__PREFETCH", PREFETCH);
    world.declare().await;
    world.sandbox.set_latency(Latency::new(4000, 4000).unwrap());
    let slow = world.backlog(10).await;
    let daemon = world.daemon().await;
    world
        .counted(PATIENCE, |counters| counters.calls >= 10)
        .await;
    world.sandbox.set_latency(Latency::default());
    world.sandbox.add_fault(
        Rule::new(Fault::code(60020))
            .probes(Probes::Excluded)
            .times(1),
    );
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(60020)).probes(Probes::Only).times(2));
    let behind: Vec<String> = (0..100).map(|number| format!("behind{number}")).collect();
    world.add(&behind);
    for user in &behind {
        world.publish(user, &["a"]).await;
    }
    let in_hand_max = std::cell::Cell::new(0.0_f64);
    daemon
        .eventually_metrics("all are done", seconds(40), |metrics| {
            let in_hand = metrics.value("convgroup_in_flight", &[]);
            in_hand_max.set(in_hand_max.get().max(in_hand));
            settled(metrics, "deleted") >= 110.0
        })
        .await;
    assert!(in_hand_max.get() <= f64::from(PREFETCH), "{in_hand_max:?}");
    world.eventually_deleted(&slow, PATIENCE).await;
    let metrics = daemon.metrics().await;
    assert_eq!(
        metrics.sum("convgroup_amqp_reconnects_total"),
        0.0,
        "{}",
        daemon.output()
    );
    assert!(
        metrics.sum("convgroup_suspensions_total") >= 1.0,
        "{}",
        metrics.text
    );
    world.nothing_is_left(&daemon).await;
}
