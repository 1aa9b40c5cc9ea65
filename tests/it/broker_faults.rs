//! Guarantee 4: whatever happens to the broker or on the way to it, the same process notices it and goes on alone.
//!
//! Each test states its bound. They are made of what the code promises (pauses between attempts grow to 6 s, an operation has
//! 10 s, a look at the queues comes every 5 s) and leave room for a busy machine with two processors.
use std::time::Duration;

use im_sandbox::{CallRecord, Fault, Latency};
use lapin::options::QueueDeleteOptions;

use crate::world::{World, event, eventually_settled, seconds, settled};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::proxy::method;
use convgroup_testkit::{
    Action, Daemon, Direction, Message, Node, PATIENCE, Proxy, Rule, Settle, When, eventually,
    free_port, shared_node,
};

/// From "the broker is there again" to "an event is done": the longest pause, two connections, the queues, and the second
/// that a new consumer waits before its first call.
const RESUMED: Duration = seconds(20);
/// From "the broker does not answer any more" to "not ready": a look at the queues, and its deadline.
const NOTICED: Duration = seconds(25);
/// From "the broker said so" to "not ready": at once.
const TOLD: Duration = seconds(5);

/// The shared node behind a proxy.
async fn proxied() -> (World, Proxy) {
    let proxy = Proxy::start(shared_node().await.addr()).await;
    let world = World::new().await.behind(&proxy);
    (world, proxy)
}

/// Waits until the daemon says that it has no session, which must be within `patience`.
async fn disconnected(daemon: &mut Daemon, patience: Duration) {
    let said = daemon.eventually_status("/readyz", 503, patience).await;
    assert!(said.starts_with("not connected to the broker: "), "{said}");
    assert_eq!(
        daemon.http("/livez").await.0,
        200,
        "it waits, it is not stuck"
    );
}

/// No outcome but "deleted" (or "gone", for a name done twice), and no dead letter.
async fn all_done(world: &World, daemon: &Daemon, users: &[String]) {
    world.eventually_deleted(users, PATIENCE).await;
    let metrics = world.settled(daemon).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0, "{}", metrics.text);
    world.nothing_is_left(daemon).await;
}

async fn delete_queue(world: &World, queue: &str) {
    let channel = world.broker.channel().await;
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await
        .expect("the queue is there");
}

async fn calls(world: &World, count: u64) {
    world
        .counted(PATIENCE, |counters| counters.calls >= count)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_absent_at_the_start_is_waited_for() {
    let (world, proxy) = proxied().await;
    proxy.cut();
    let mut daemon = world.config.spawn();
    // Three attempts in vain: the pauses have begun to grow.
    eventually("attempts", PATIENCE, async || proxy.accepted() >= 3).await;
    disconnected(&mut daemon, TOLD).await;
    proxy.restore();
    daemon.ready(RESUMED).await;
    world.works(PATIENCE).await;
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_are_replaced() {
    let (world, proxy) = proxied().await;
    let world = world.set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 50);
    let mut daemon = world.daemon().await;
    let users = world.backlog(150).await;
    for calls_before in [20, 60] {
        calls(&world, calls_before).await;
        proxy.drop_connections();
        disconnected(&mut daemon, TOLD).await;
        daemon.ready(RESUMED).await;
    }
    all_done(&world, &daemon, &users).await;
    let metrics = daemon.metrics().await;
    for role in ["consume", "publish"] {
        let role = [("role", role)];
        assert_eq!(metrics.value("convgroup_amqp_reconnects_total", &role), 2.0);
        assert_eq!(metrics.value("convgroup_amqp_connected", &role), 1.0);
    }
}

/// A clean stop says good-bye, a crash says nothing; both come back with the queue as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_is_found_again() {
    let node = Node::start().await;
    let world = World::at(&node.url())
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 100);
    let mut daemon = world.daemon().await;
    for queue in [
        world.config.queue().to_owned(),
        world.config.dead_queue(),
        format!("{}.retry.1s", world.config.queue()),
    ] {
        node.recorded(&queue).await;
    }
    let users = world.backlog(400).await;
    calls(&world, 100).await;
    node.kill();
    disconnected(&mut daemon, TOLD).await;
    node.start_again().await;
    daemon.ready(RESUMED).await;
    let world = world.reconnected(&node.url()).await;
    calls(&world, 200).await;
    node.stop();
    node.gone().await;
    disconnected(&mut daemon, TOLD).await;
    node.start_again().await;
    daemon.ready(RESUMED).await;
    let world = world.reconnected(&node.url()).await;
    all_done(&world, &daemon, &users).await;
}

/// The broker closes the consumer's channel and nothing else, as it does after its acknowledgement timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_channel_is_replaced() {
    let world = World::new().await;
    let mut daemon = world.daemon().await;
    world.works(PATIENCE).await;
    let node = shared_node().await;
    let consumers = node
        .ctl(&[
            "list_consumers",
            "--silent",
            "--no-table-headers",
            "queue_name",
            "channel_pid",
        ])
        .await;
    let channel = consumers
        .lines()
        .find_map(|line| {
            line.split_once('\t')
                .filter(|(queue, _)| *queue == world.config.queue())
        })
        .map_or_else(
            || {
                panic!(
                    "no consumer of {} in
{consumers}",
                    world.config.queue()
                )
            },
            |(_, channel)| channel.trim(),
        );
    // As if the daemon had acked what was never delivered: a soft error, which closes the channel. 4.3 has no function for it
    // any more, but every version takes the message that it sent.
    let ack = format!(
        "gen_server:cast(rabbit_misc:string_to_pid(\"{channel}\"), {{method, {{'basic.ack', 999999, false}}, none, noflow}})."
    );
    node.ctl(&["eval", &ack]).await;
    daemon
        .eventually_metrics("a new session", RESUMED, |metrics| {
            metrics.value("convgroup_amqp_reconnects_total", &[("role", "consume")]) == 1.0
        })
        .await;
    assert!(
        daemon.output().contains("PRECONDITION_FAILED"),
        "{}",
        daemon.output()
    );
    daemon.ready(RESUMED).await;
    world.works(RESUMED).await;
    world.nothing_is_left(&daemon).await;
}

/// The broker cancels the consumer (`basic.cancel`) when its queue is deleted.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_main_queue_is_declared_again() {
    let world = World::new().await;
    let mut daemon = world.daemon().await;
    world.works(PATIENCE).await;
    delete_queue(&world, world.config.queue()).await;
    // The next look at the queues would notice it as well, but later.
    eventually("the cancel is noticed", TOLD, async || {
        daemon
            .output()
            .contains("the broker cancelled the consumer")
    })
    .await;
    eventually("the queue is there again", RESUMED, async || {
        world.broker.has_queue(world.config.queue()).await
    })
    .await;
    daemon.ready(RESUMED).await;
    world.works(RESUMED).await;
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_survives_the_deletion_of_its_queue() {
    let world = World::new().await;
    let daemon = world.daemon().await;
    world.works(PATIENCE).await;
    delete_queue(&world, &world.config.dead_queue()).await;
    world.publish_raw(b"no event", persistent()).await;
    let dead = world.config.dead_queue();
    world.broker.eventually_depth(&dead, 1, RESUMED).await;
    assert_eq!(world.dead(1).await[0].text(), "no event");
    world.works(RESUMED).await;
    world.nothing_is_left(&daemon).await;
}

/// During an alarm the broker does not read a connection that publishes, acks included: so the dead letter waits on one
/// connection, while deletions go on and are acked on the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_alarm_holds_up_dead_letters_only() {
    const GOOD: usize = 40;
    let node = Node::start().await;
    // One lives through the alarm; its answers wait behind a proxy until the alarm is on.
    let lasting = World::at(&node.url())
        .await
        .set("CONVGROUP_IM__TIMEOUT", "60s");
    let answers = Proxy::start(lasting.sandbox.addr()).await;
    let lasting = lasting.set("CONVGROUP_IM__BASE_URL", answers.http_url());
    let daemon = lasting.daemon().await;
    answers.freeze_towards_client();
    lasting
        .sandbox
        .add_fault(im_sandbox::Rule::new(Fault::code(51011)).user("rejected"));
    lasting.publish("rejected", &["a"]).await;
    let lasting_users = lasting.backlog(GOOD).await;
    calls(&lasting, GOOD as u64 + 1).await;
    // The other is started and stopped while the alarm is on.
    let passing = World::at(&node.url())
        .await
        .set("CONVGROUP_SHUTDOWN_GRACE", "2s");
    passing.declare().await;
    passing.publish_raw(b"no event", persistent()).await;
    let passing_users = passing.backlog(GOOD).await;

    node.memory_alarm(true).await;
    answers.restore();
    let metrics = eventually_settled(&daemon, "deleted", GOOD as u32).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0);
    daemon
        .eventually_metrics("the alarm is told", PATIENCE, |metrics| {
            metrics.value("convgroup_amqp_blocked", &[]) == 1.0
                && metrics.value("convgroup_in_flight", &[]) == 1.0
        })
        .await;
    let mut other = passing.daemon().await;
    passing.eventually_deleted(&passing_users, PATIENCE).await;
    eventually_settled(&other, "deleted", GOOD as u32).await;
    assert_eq!(other.metrics().await.value("convgroup_in_flight", &[]), 1.0);
    other.signal("TERM");
    // The grace, a good-bye of 2 s that the broker does not hear, and room.
    let code = other.wait_exit(seconds(10)).await;
    assert_eq!(code, 1, "a message in hand comes back\n{}", other.output());
    // Acks have arrived: of all its messages only the dead letter to be has come back.
    passing
        .broker
        .eventually_depth(passing.config.queue(), 1, PATIENCE)
        .await;
    assert_eq!(passing.broker.depth(&passing.config.dead_queue()).await, 0);
    assert_eq!(lasting.broker.depth(&lasting.config.dead_queue()).await, 0);

    // For longer than the deadline of an operation nobody gives up: the broker will confirm what it was sent.
    let given_up = eventually("the session is given up", seconds(60), async || {
        daemon.output().contains("is over")
    });
    assert!(
        tokio::time::timeout(seconds(11), given_up).await.is_err(),
        "{}",
        daemon.output()
    );
    // Who publishes by hand is told what holds it up.
    let (code, output) = passing.tool(&["publish", "--user", "u", "g"]).await;
    assert_eq!(code, 69, "{output}");
    assert!(output.contains("alarm is on"), "{output}");
    node.memory_alarm(false).await;
    let metrics = eventually_settled(&daemon, "dead_lettered", 1).await;
    assert_eq!(metrics.sum("convgroup_settle_failures_total"), 0.0);
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    let dead = lasting.dead(1).await.remove(0);
    assert_eq!(dead.text(), event("rejected", &["a"]));
    lasting.eventually_deleted(&lasting_users, PATIENCE).await;
    lasting.nothing_is_left(&daemon).await;
    assert_eq!(
        lasting.sandbox.counters().calls,
        GOOD as u64 + 1,
        "each was called once"
    );
    let daemon = passing.daemon().await;
    let metrics = eventually_settled(&daemon, "dead_lettered", 1).await;
    assert_eq!(metrics.sum("convgroup_messages_settled_total"), 1.0);
}

/// A node that stands still with its connections open is noticed by its silence; what it had given away is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_node_is_noticed_and_found_again() {
    let node = Node::start().await;
    let world = World::at(&node.url())
        .await
        .set("CONVGROUP_AMQP__HEARTBEAT", "2s")
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 10);
    let mut daemon = world.daemon().await;
    let users = world.backlog(300).await;
    calls(&world, 5).await;
    node.freeze();
    disconnected(&mut daemon, NOTICED).await;
    let calls_then = world.sandbox.counters().calls;
    // Longer than an attempt at a node that accepts and does not answer.
    let told = "the node did not answer";
    eventually("an attempt ends", seconds(20), async || {
        daemon.output().contains(told)
    })
    .await;
    assert_eq!(
        world.sandbox.counters().calls,
        calls_then,
        "what it held may belong to somebody else"
    );
    node.thaw();
    daemon.ready(RESUMED).await;
    assert!(
        calls_then < 300,
        "the backlog was too short to say anything"
    );
    let world = world.reconnected(&node.url()).await;
    all_done(&world, &daemon, &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_on_the_way_is_noticed_and_left() {
    let (world, proxy) = proxied().await;
    let world = world
        .set("CONVGROUP_AMQP__HEARTBEAT", "2s")
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 10);
    let mut daemon = world.daemon().await;
    let users = world.backlog(300).await;
    calls(&world, 5).await;
    proxy.freeze();
    disconnected(&mut daemon, NOTICED).await;
    let calls_then = world.sandbox.counters().calls;
    proxy.restore();
    daemon.ready(RESUMED).await;
    assert!(
        calls_then < 300,
        "the backlog was too short to say anything"
    );
    all_done(&world, &daemon, &users).await;
}

/// The confirm of a dead letter is lost with its connection: the daemon can't know, so the event comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_confirm_costs_a_duplicate_at_most() {
    let (world, proxy) = proxied().await;
    let daemon = world.daemon().await;
    world.works(PATIENCE).await;
    proxy.set_rule(Rule {
        direction: Direction::ToClient,
        when: When::Before(method::ACK),
        action: Action::Cut,
    });
    world.publish_raw(b"no event", persistent()).await;
    proxy.fired(1, PATIENCE).await;
    proxy.restore();
    let metrics = daemon
        .eventually_metrics("dead-lettered once it knows", RESUMED, |metrics| {
            settled(metrics, "dead_lettered") == 1.0
        })
        .await;
    let failed = [("op", "publish")];
    assert_eq!(
        metrics.value("convgroup_settle_failures_total", &failed),
        1.0
    );
    world.settled(&daemon).await;
    let copies = world.broker.depth(&world.config.dead_queue()).await;
    assert!((1..=2).contains(&copies), "{copies} copies");
    let dead = world
        .broker
        .read(&world.config.dead_queue(), copies as usize, Settle::Ack)
        .await;
    assert!(
        dead.iter()
            .map(Message::text)
            .all(|text| text == "no event")
    );
    world.works(RESUMED).await;
    world.nothing_is_left(&daemon).await;
}

/// Of three nodes the first is down and the second accepts and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn dead_nodes_of_a_list_are_passed_by() {
    let shared = shared_node().await;
    let hole = Proxy::start(shared.addr()).await;
    hole.freeze();
    let urls = format!(
        "amqp://guest:guest@127.0.0.1:{}/%2f,{},{}",
        free_port(),
        hole.amqp_url(),
        shared.url()
    );
    let world = World::new().await.set("CONVGROUP_AMQP__URL", urls);
    let mut daemon = world.config.spawn();
    daemon.ready(RESUMED).await;
    world.works(PATIENCE).await;
    world.nothing_is_left(&daemon).await;
}

/// A process that stood still knows by its own clock that its messages may belong to another: nothing else tells it here, its
/// connections are a black hole.
#[tokio::test(flavor = "multi_thread")]
async fn a_thawed_process_calls_for_nothing_that_another_was_given() {
    let (world, proxy) = proxied().await;
    let world = world
        .set("CONVGROUP_AMQP__HEARTBEAT", "2s")
        .set("CONVGROUP_IM__TIMEOUT", "1s")
        .set("CONVGROUP_SUSPEND__WINDOW", 1)
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 20);
    // Calls are under way when it is frozen. Thawed, it finds them timed out, which alone would be worth a probe.
    world
        .sandbox
        .set_latency(Latency::new(300, 300).expect("a range"));
    let mut frozen = world.daemon().await;
    let mut other = world
        .config
        .replica()
        .set("CONVGROUP_AMQP__URL", shared_node().await.url())
        .spawn();
    other.ready(PATIENCE).await;
    let users = world.backlog(100).await;
    calls(&world, 10).await;
    frozen.freeze();
    proxy.freeze();
    // The broker waits two to three heartbeats before it believes it, then the other works off all that is left.
    world.eventually_deleted(&users, seconds(30)).await;
    world.settled(&other).await;
    let calls_then = world.sandbox.counters().calls;
    assert!(
        (100..=120).contains(&calls_then),
        "{calls_then} calls: those under way may have been cut off from their acks"
    );
    frozen.thaw();
    disconnected(&mut frozen, TOLD).await;
    proxy.restore();
    frozen.ready(RESUMED).await;
    assert_eq!(
        world.sandbox.counters().calls,
        calls_then,
        "a call was made for a message that another had"
    );
    assert!(
        frozen.output().contains("stood still"),
        "{}",
        frozen.output()
    );
    // It is of use again: the other stops, and it takes over.
    other.signal("TERM");
    other.exits_with(0, PATIENCE).await;
    world.works(RESUMED).await;
    world.nothing_is_left(&frozen).await;
    for user in users {
        let of_user = |call: &&CallRecord| call.user.as_ref() == Some(&user);
        let count = world.sandbox.calls().iter().filter(of_user).count();
        assert!((1..=2).contains(&count), "{count} calls for {user}");
    }
}
