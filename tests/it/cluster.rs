//! Three nodes, one of which dies: nothing is lost, and consuming goes on.
use crate::world::{World, seconds, settled};
use convgroup_testkit::{Cluster, PATIENCE, eventually};

/// Under full load (200 calls per second) the node dies that leads the queue and has the daemon's connections. Within 20 s
/// the others have elected a leader, and the daemon has found one of them and works.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_costs_no_event() {
    const EVENTS: usize = 600;
    let cluster = Cluster::start().await;
    let survivor = cluster.node(2);
    let world = World::at(&survivor.url())
        .await
        .set("CONVGROUP_AMQP__URL", cluster.urls());
    let mut daemon = world.daemon().await;
    let leader = cluster.leader_of(world.config.queue()).await;
    assert_eq!(
        leader.name(),
        cluster.node(0).name(),
        "a queue's leader is where it was declared"
    );
    if cluster.version().await >= (4, 3) {
        // These hold on to a dead node's consumer for a minute; the deployment guide shortens that.
        let guide = include_str!("../../docs/deployment.md");
        let policy = r#"{"consumer-disconnected-timeout":5000}"#;
        assert!(guide.contains(policy), "the guide has another policy");
        let pattern = format!("^{}$", world.config.queue());
        survivor
            .ctl(&[
                "set_policy",
                "--apply-to",
                "quorum_queues",
                "convgroup",
                &pattern,
                policy,
            ])
            .await;
    }
    let users = world.backlog(EVENTS).await;
    world
        .counted(PATIENCE, |counters| counters.deleted >= 150)
        .await;
    leader.kill();
    leader.gone().await;
    let before = world.sandbox.counters().deleted;
    assert!(
        before < EVENTS as u64 - 100,
        "{before} were done before the kill"
    );
    eventually("consuming goes on", seconds(20), async || {
        let found = world.sandbox.counters().deleted;
        if found >= before + 50 {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    world.eventually_deleted(&users, PATIENCE).await;
    daemon.ready(PATIENCE).await;
    let metrics = world.settled(&daemon).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0, "{}", metrics.text);
    world.nothing_is_left(&daemon).await;
}
