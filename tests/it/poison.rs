//! Poison: a message on which the daemon panics ends in the dead letters; its neighbours do not notice.
use crate::world::{World, event, eventually_settled, settled};
use convgroup_testkit::{Daemon, Metrics, PATIENCE};

const PANICS: &str = "convgroup_panics_total";
const EVENTS: usize = 20;

async fn world_with(failpoint: &str, attempts_max: u32) -> World {
    World::new()
        .await
        .set("TEST_FAILPOINT", failpoint)
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", attempts_max)
        .set("CONVGROUP_RETRY__TIERS", "100ms")
}

/// One event for each of [`EVENTS`] users.
async fn publish_all(world: &World) {
    let users: Vec<String> = (0..EVENTS).map(|number| format!("user{number}")).collect();
    for user in &users {
        world.user(user, &["a"]);
    }
    let bodies = users.iter().map(|user| event(user, &["a"]));
    world
        .broker
        .publish_many(world.config.exchange(), "delete", bodies)
        .await;
}

/// The process that met the panic goes on, with nothing in hand, on the `sessions`th session with the broker.
async fn goes_on(world: &World, daemon: &mut Daemon, sessions: u32) -> Metrics {
    world.drained(daemon, PATIENCE, || Ok(())).await;
    assert!(daemon.is_running(), "{}", daemon.output());
    daemon.ready(PATIENCE).await;
    let metrics = daemon.metrics().await;
    let reconnects = metrics.sum_where("convgroup_amqp_reconnects_total", &[("role", "consume")]);
    assert_eq!(reconnects, f64::from(sessions - 1), "{}", metrics.text);
    metrics
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_always_panics_ends_in_the_dead_letters() {
    let world = world_with("after_call=panic_always", 2).await;
    world.user("user15", &["a", "b"]);
    let mut daemon = world.daemon().await;
    world.publish("user15", &["a", "b"]).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let metrics = goes_on(&world, &mut daemon, 1).await;
    assert_eq!(metrics.value(PANICS, &[]), 2.0, "one for each attempt");
    assert_eq!(settled(&metrics, "delayed"), 1.0);
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.text(), event("user15", &["a", "b"]));
    let header = |name| dead.header_text(name).unwrap_or_default();
    assert_eq!(header("convgroup-cause"), "exhausted");
    assert_eq!(header("convgroup-code"), "panic");
    assert_eq!(header("convgroup-class"), "unknown");
    assert_eq!(dead.header_number("convgroup-attempt"), Some(2));
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_leaves_the_neighbours_unharmed() {
    let world = world_with("after_call=panic:5", 1).await;
    let mut daemon = world.daemon().await;
    publish_all(&world).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let metrics = goes_on(&world, &mut daemon, 1).await;
    assert_eq!(metrics.value(PANICS, &[]), 1.0);
    assert_eq!(settled(&metrics, "deleted"), (EVENTS - 1) as f64);
    assert_eq!(
        metrics.sum("convgroup_messages_settled_total"),
        EVENTS as f64,
        "each was settled at its first delivery: {}",
        metrics.text
    );
    let dead = world.dead(1).await.remove(0);
    assert_eq!(dead.header_text("convgroup-code").as_deref(), Some("panic"));
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_panic_costs_one_attempt() {
    let world = world_with("before_call=panic:5", 2).await;
    let mut daemon = world.daemon().await;
    publish_all(&world).await;
    eventually_settled(&daemon, "deleted", EVENTS as u32).await;
    let metrics = goes_on(&world, &mut daemon, 1).await;
    assert_eq!(metrics.value(PANICS, &[]), 1.0);
    assert_eq!(settled(&metrics, "delayed"), 1.0);
    assert_eq!(world.sandbox.counters().deleted, EVENTS as u64);
    world.nothing_is_left(&daemon).await;
}

/// Outside of the calls a panic leaves its message unsettled: only the end of the session gives it back.
#[tokio::test(flavor = "multi_thread")]
async fn a_panic_while_settling_gives_everything_back() {
    let world = world_with("before_ack=panic:1", 2).await;
    let mut daemon = world.daemon().await;
    publish_all(&world).await;
    daemon
        .eventually_metrics("all are settled", PATIENCE, |metrics| {
            settled(metrics, "deleted") + settled(metrics, "gone") >= EVENTS as f64
        })
        .await;
    let metrics = goes_on(&world, &mut daemon, 2).await;
    assert_eq!(metrics.value(PANICS, &[]), 1.0);
    assert_eq!(metrics.sum("convgroup_dead_letters_total"), 0.0);
    assert_eq!(settled(&metrics, "delayed"), 0.0, "no attempt is counted");
    assert_eq!(world.sandbox.counters().deleted, EVENTS as u64);
    world.nothing_is_left(&daemon).await;
}
