//! The pace at the API's side: through restarts, crashes and freezes of replicas, and when others use a part of the limit.
//!
//! Arrivals bunch up on a busy machine, so a second may see a few calls more here than left; the exact bound is a property of
//! `convgroup_domain::spacing`. What these tests would see is a hand-over that doubles the rate.
use std::time::{Duration, Instant};

use im_sandbox::{CallRecord, Fault, Rule};

use crate::tls::Authority;
use crate::world::{World, event, eventually_settled, seconds, settled};
use convgroup_testkit::{Daemon, Metrics, PATIENCE, Proxy, shared_node};

const LIMIT: u32 = 40;
/// What bunching may add: far from the double.
const BUNCHED: f64 = 1.25;

/// A world with a low limit, so that a few hundred events take a while.
async fn world() -> World {
    World::new()
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", LIMIT)
        .set("CONVGROUP_AMQP__HEARTBEAT", "2s")
}

async fn queue_events(world: &World, count: usize) {
    let users: Vec<String> = (0..count).map(|number| format!("user{number}")).collect();
    for user in &users {
        world.user(user, &["a"]);
    }
    let bodies: Vec<String> = users.iter().map(|user| event(user, &["a"])).collect();
    world
        .broker
        .publish_many(world.config.exchange(), "delete", &bodies)
        .await;
}

async fn replica(world: &World) -> Daemon {
    let mut daemon = world.config.replica().spawn();
    daemon.ready(PATIENCE).await;
    daemon
}

async fn deleted(world: &World, count: u64) {
    world
        .counted(seconds(60), |counters| counters.deleted >= count)
        .await;
}

#[track_caller]
fn assert_the_limit_held(calls: &[CallRecord]) {
    let moments: Vec<Instant> = calls.iter().map(|call| call.instant).collect();
    let within = |from: Instant| {
        moments
            .iter()
            .filter(|&&at| at >= from && at < from + Duration::from_secs(1))
            .count()
    };
    let worst = moments.iter().map(|&from| within(from)).max().unwrap_or(0);
    assert!(
        worst as f64 <= f64::from(LIMIT) * BUNCHED,
        "{worst} calls in one second, the limit is {LIMIT}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_active_replica_does_not_double_the_rate() {
    let world = world().await;
    let mut first = world.daemon().await;
    let second = replica(&world).await;
    queue_events(&world, 240).await;
    deleted(&world, 60).await;
    first.signal("TERM");
    first.exits_with(0, seconds(20)).await;
    deleted(&world, 240).await;
    assert_the_limit_held(&world.sandbox.calls());
    assert_eq!(
        world.sandbox.counters().calls,
        240,
        "a graceful stop repeats no call"
    );
    world.nothing_is_left(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_the_active_replica_does_not_double_the_rate() {
    let world = world().await;
    let first = world.daemon().await;
    let second = replica(&world).await;
    let third = replica(&world).await;
    queue_events(&world, 240).await;
    deleted(&world, 60).await;
    first.kill();
    let (crashed, before) = (Instant::now(), world.sandbox.counters().calls);
    world
        .counted(PATIENCE, |counters| counters.calls > before + 1)
        .await;
    assert!(
        crashed.elapsed() < seconds(8),
        "taken over after {:?}",
        crashed.elapsed()
    );
    deleted(&world, 240).await;
    assert_the_limit_held(&world.sandbox.calls());
    world.nothing_is_left(&second).await;
    drop(third);
}

/// The broker gives a frozen replica's messages to another after two to three heartbeats. Thawed, it must not call for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_thawed_replica_makes_no_call_for_messages_that_are_no_longer_its_own() {
    let world = world().await;
    let first = world.daemon().await;
    let second = replica(&world).await;
    queue_events(&world, 240).await;
    deleted(&world, 60).await;
    first.freeze();
    deleted(&world, 100).await;
    let theirs = world.sandbox.calls().len();
    first.thaw();
    deleted(&world, 240).await;
    let calls = world.sandbox.calls();
    assert_the_limit_held(&calls);
    let mut repeated: Vec<&str> = calls
        .iter()
        .filter_map(|call| call.user.as_deref())
        .collect();
    repeated.sort_unstable();
    let all = repeated.len();
    repeated.dedup();
    // Calls that were under way when it froze were answered to nobody, and are made again by the other.
    assert!(
        all - repeated.len() <= 5,
        "{} calls were made twice",
        all - repeated.len()
    );
    assert!(theirs >= 100);
    world.nothing_is_left(&second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_settles_near_what_others_leave() {
    const GRANTED: u32 = 24;
    let world = world().await;
    world.sandbox.set_limit(GRANTED);
    let daemon = world.daemon().await;
    queue_events(&world, 240).await;
    deleted(&world, 240).await;
    let metrics = world.settled(&daemon).await;
    let counters = world.sandbox.counters();
    let refused = counters.calls - counters.deleted;
    assert!(
        refused <= 60,
        "{refused} calls were refused for 240 deletions"
    );
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0);
    world.nothing_is_left(&daemon).await;
}

/// An alert divides by the pace shown; after a burst, a replica without work must not go on showing that of the burst.
#[tokio::test(flavor = "multi_thread")]
async fn the_pace_shown_climbs_back_while_no_call_leaves() {
    let node = shared_node().await;
    let proxy = Proxy::start(node.addr()).await;
    let world = World::new().await.behind(&proxy);
    world.user("user15", &["a"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(60007)).times(1));
    let mut daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    eventually_settled(&daemon, "deleted", 1).await;
    let calls = world.sandbox.counters().calls;
    climbs(&daemon).await;
    // Without a session with the broker as well.
    proxy.cut();
    daemon.eventually_status("/readyz", 503, PATIENCE).await;
    climbs(&daemon).await;
    assert_eq!(world.sandbox.counters().calls, calls);
}

/// Waits until a cut pace is shown higher than it is now.
async fn climbs(daemon: &Daemon) {
    let shown = |metrics: &Metrics| metrics.value("convgroup_rate_limit_calls_per_second", &[]);
    let before = shown(&daemon.metrics().await);
    assert!(before < 200.0, "the pace is not cut");
    daemon
        .eventually_metrics("the pace climbs", PATIENCE, |metrics| {
            shown(metrics) > before
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_stand_by_are_ready() {
    let world = world().await;
    let _first = world.daemon().await;
    let second = replica(&world).await;
    let (status, words) = second.http("/readyz").await;
    assert_eq!(status, 200, "{words}");
    assert!(words.contains("standing by"), "{words}");
    let consuming = second
        .metrics()
        .await
        .value("convgroup_state", &[("state", "consuming")]);
    assert_eq!(consuming, 1.0);
    // One at a time.
    world
        .broker
        .eventually_consumers(world.config.queue(), 1, PATIENCE)
        .await;
}

/// The calls of the replica before are then out of the sliding second.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_comes_a_second_after_the_first_delivery() {
    let world = world().await;
    let daemon = world.daemon().await;
    let published = Instant::now();
    queue_events(&world, 3).await;
    deleted(&world, 3).await;
    let calls = world.sandbox.calls();
    let first = calls[0].instant.duration_since(published);
    assert!(first >= seconds(1), "{first:?}");
    world.nothing_is_left(&daemon).await;
}

/// After a pause all calls have to connect, which takes its round trips; those behind them find the connections open. Both
/// together must not be more than the limit.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_connect_first_do_not_arrive_on_top_of_others() {
    let world = world().await;
    let authority = Authority::new();
    let front = authority.front(world.sandbox.addr()).await;
    let far = Proxy::start(front).await;
    // One way; the handshake needs both.
    far.delay(Duration::from_millis(400));
    let world = world
        .set("CONVGROUP_IM__BASE_URL", format!("https://{}", far.addr()))
        .set("SSL_CERT_FILE", authority.path("ca.pem").display());
    world.declare().await;
    queue_events(&world, 160).await;
    let daemon = world.daemon().await;
    deleted(&world, 160).await;
    assert_the_limit_held(&world.sandbox.calls());
    world.nothing_is_left(&daemon).await;
}
