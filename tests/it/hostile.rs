//! Messages that no client library would make: the daemon survives them, and so do their neighbours.
use lapin::options::{QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::harness::raw::{RawPublisher, named, nested_arrays};
use crate::harness::{PATIENCE, shared_node};
use crate::world::{World, event, eventually_settled, seconds, settled};

/// Almost as deep as a frame of 128 KiB has room for.
const DEEP: usize = 20_000;
/// So deep that it still fits half a frame, and is to be copied with its message.
const DEEP_AND_COPIED: usize = 12_000;

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
    let copied = nested_arrays("deep", DEEP_AND_COPIED);
    publish_raw(&world, &copied, b"no event either").await;
    world.works(PATIENCE).await;
    world.eventually_deleted(&users, PATIENCE).await;
    let metrics = eventually_settled(&daemon, "dead_lettered", 2).await;
    assert!(daemon.is_running());
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    assert_eq!(metrics.sum("convgroup_panics_total"), 0.0);
    // Not read here: this process has not the stacks for it. The tools have.
    let dead = world.config.dead_queue();
    world.broker.eventually_depth(&dead, 2, PATIENCE).await;
    let (code, output) = world.tool(&["dlq", "export", "--file", "-"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("no event either"), "{output}");
    let (code, output) = world
        .tool(&["dlq", "purge", "--all", "--yes", "--no-export"])
        .await;
    assert_eq!((code, output.trim()), (0, "2 letters removed"));
    world.nothing_is_left(&daemon).await;
}

/// A main queue as the daemon would declare it, but for its delivery limit; the rest is left to the daemon's own tool.
async fn declare_with_limit(world: &World, limit: i64) {
    world.declare().await;
    let queue = world.config.queue();
    let channel = world.broker.channel().await;
    let deleted = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    deleted.await.expect("the queue is there");
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut arguments = FieldTable::default();
    for (name, value) in [
        ("x-queue-type", text("quorum")),
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-dead-letter-exchange", text("")),
        (
            "x-dead-letter-routing-key",
            text(&world.config.dead_queue()),
        ),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", AMQPValue::LongLongInt(limit)),
    ] {
        arguments.insert(name.into(), value);
    }
    channel
        .queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments)
        .await
        .expect("the queue is declared");
    channel
        .queue_bind(
            queue.into(),
            world.config.exchange().into(),
            "delete".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .expect("the queue is bound");
}

/// A header name that is not UTF-8 can't be read by the client library, which gives up the connection: such a message ends in
/// the dead letters by the broker's delivery limit. The limit is 1000 in truth, 30 here, to be short.
#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_message_ends_alone_in_the_dead_letters() {
    const LIMIT: i64 = 30;
    let world = World::new().await;
    declare_with_limit(&world, LIMIT).await;
    let world = world.set("CONVGROUP_AMQP__DECLARE", false);
    let users = crate::world::users(20);
    world.add(&users);
    let (front, behind) = users.split_at(10);
    for user in front {
        world.publish(user, &["a"]).await;
    }
    publish_raw(
        &world,
        &named(b"\xff\xfe"),
        event("unread", &["a"]).as_bytes(),
    )
    .await;
    for user in behind {
        world.publish(user, &["a"]).await;
    }
    let started = std::time::Instant::now();
    let mut daemon = world.config.spawn();
    let dead = world.config.dead_queue();
    world.broker.eventually_depth(&dead, 1, seconds(40)).await;
    println!("{LIMIT} deliveries took {:?}", started.elapsed());
    world.eventually_deleted(&users, PATIENCE).await;
    daemon.ready(PATIENCE).await;
    world.works(PATIENCE).await;
    let metrics = world.settled(&daemon).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0, "{}", metrics.text);
    let (code, output) = world.tool(&["dlq", "ls"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("can't be read by the AMQP client"),
        "{output}"
    );
    world.broker.eventually_depth(&dead, 1, PATIENCE).await;
    // The unreadable one and nobody else.
    assert_eq!(world.broker.purge(&dead).await, 1);
    world.nothing_is_left(&daemon).await;
}
