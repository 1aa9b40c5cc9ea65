//! The tools for dead letters: looking harms nothing, a redrive stops in time, nothing is lost.
use crate::harness::broker::persistent;
use crate::harness::{Daemon, PATIENCE, eventually};
use crate::world::{World, event, eventually_settled, settled};

async fn tool(world: &World, args: &[&str]) -> (i32, String) {
    let args = [&["dlq"], args].concat();
    world
        .config
        .clone()
        .unset("CONVGROUP_HTTP__LISTEN")
        .args(&args)
        .spawn()
        .finished(PATIENCE)
        .await
}

/// `count` users that the API does not know yet: their events are dead letters. Returns the running daemon.
async fn with_dead_letters(world: &World, count: usize) -> Daemon {
    let daemon = world.daemon().await;
    let bodies: Vec<String> = (0..count)
        .map(|number| event(&format!("late{number}"), &["a"]))
        .collect();
    world
        .broker
        .publish_many(world.config.exchange(), "delete", &bodies)
        .await;
    eventually_settled(
        &daemon,
        "dead_lettered",
        u32::try_from(count).expect("a small count"),
    )
    .await;
    daemon
}

async fn dead_depth(world: &World, depth: u32) {
    world
        .broker
        .eventually_depth(&world.config.dead_queue(), depth, PATIENCE)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_neither_loses_nor_reorders() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 30).await;
    world
        .publish_raw(b"broken", persistent().with_message_id("m-broken".into()))
        .await;
    eventually_settled(&daemon, "dead_lettered", 31).await;
    let order = |letters: Vec<crate::harness::Message>| -> Vec<String> {
        letters.iter().map(crate::harness::Message::text).collect()
    };
    let dead = world.config.dead_queue();
    let before = order(
        world
            .broker
            .read_dead(&dead, 31, crate::harness::Settle::Requeue)
            .await,
    );

    let (code, output) = tool(&world, &["ls"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("     30  rejected       rejected   50001"),
        "{output}"
    );
    assert!(
        output.contains("      1  malformed      malformed  -"),
        "{output}"
    );
    assert!(output.contains("     31  in all"), "{output}");
    let (code, output) = tool(&world, &["show", "--cause", "malformed"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("m-broken") && output.contains("dead again at once"),
        "{output}"
    );
    let (code, output) = tool(&world, &["show", "--code", "50001", "--limit", "2"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("2 of 30 letters") && !output.contains("late0"),
        "{output}"
    );
    let (_, output) = tool(
        &world,
        &["show", "--code", "50001", "--reveal-ids", "--json"],
    )
    .await;
    assert!(output.contains("\"late0\""), "{output}");

    dead_depth(&world, 31).await;
    let after = order(
        world
            .broker
            .read_dead(&dead, 31, crate::harness::Settle::Ack)
            .await,
    );
    assert_eq!(before, after);
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_takes_all_when_the_cause_is_mended() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 40).await;
    world.publish_raw(b"broken", persistent()).await;
    eventually_settled(&daemon, "dead_lettered", 41).await;
    for number in 0..40 {
        world.user(&format!("late{number}"), &["a"]);
    }
    let (code, output) = tool(&world, &["redrive", "--code", "50001", "--dry-run"]).await;
    assert_eq!((code, output.trim()), (0, "40 letters would be redriven"));
    let (code, output) = tool(&world, &["redrive", "--code", "50001", "--settle", "500ms"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("40 of 40 letters redriven, 0 came back dead"),
        "{output}"
    );
    let metrics = eventually_settled(&daemon, "deleted", 40).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 41.0);
    dead_depth(&world, 1).await;
    assert_eq!(world.dead(1).await[0].text(), "broken");
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_stops_at_the_canary_when_nothing_is_mended() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 20).await;
    let (code, output) = tool(&world, &["redrive", "--settle", "1s"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("1 of 20 letters redriven, 1 came back dead"),
        "{output}"
    );
    dead_depth(&world, 20).await;
    let letters = world.dead(20).await;
    let redriven: Vec<_> = letters
        .iter()
        .filter_map(|letter| letter.header_number("convgroup-redrives"))
        .collect();
    assert_eq!(redriven, [1], "one letter says that it was redriven");
    assert!(
        letters
            .iter()
            .all(|letter| letter.header_number("convgroup-attempt") == Some(0))
    );
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_stops_when_a_third_comes_back() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 60).await;
    for number in (0..60).filter(|number| number % 3 != 2) {
        world.user(&format!("late{number}"), &["a"]);
    }
    let (code, output) = tool(&world, &["redrive", "--settle", "1s"]).await;
    assert_eq!(code, 1, "{output}");
    let redriven: usize = output
        .split(" of 60")
        .next()
        .unwrap()
        .rsplit('\n')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(redriven <= 21, "{output}");
    let metrics = world.settled(&daemon).await;
    let deleted = u32::try_from(world.sandbox.counters().deleted).unwrap();
    assert_eq!(settled(&metrics, "deleted"), f64::from(deleted));
    dead_depth(&world, 60 - deleted).await;
    world.broker.purge(&world.config.dead_queue()).await;
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redrive_loses_nothing() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 60).await;
    for number in 0..60 {
        world.user(&format!("late{number}"), &["a"]);
    }
    let args = ["dlq", "redrive", "--settle", "200ms", "--rate", "20"];
    let mut redrive = world
        .config
        .clone()
        .unset("CONVGROUP_HTTP__LISTEN")
        .args(&args)
        .spawn();
    world
        .counted(PATIENCE, |counters| counters.deleted >= 10)
        .await;
    redrive.kill();
    redrive.wait_exit(PATIENCE).await;
    let left = eventually(
        "the broker takes back what the tool held",
        PATIENCE,
        async || {
            let dead = world.broker.depth(&world.config.dead_queue()).await;
            let deleted = u32::try_from(world.sandbox.counters().deleted).unwrap();
            // At most one letter is in both places.
            if dead + deleted >= 60 && dead + deleted <= 61 {
                Ok(dead)
            } else {
                Err((dead, deleted))
            }
        },
    )
    .await;
    assert!(left > 0, "it was killed in the middle");
    let (code, output) = tool(&world, &["redrive", "--settle", "500ms"]).await;
    assert_eq!(code, 0, "{output}");
    world.settled(&daemon).await;
    assert_eq!(world.sandbox.counters().deleted, 60);
    world.nothing_is_left(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_needs_to_be_told_twice_and_keeps_a_copy() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 5).await;
    world.publish_raw(b"\xffbroken", persistent()).await;
    eventually_settled(&daemon, "dead_lettered", 6).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("letters.ndjson");
    let file = file.to_str().unwrap();
    let (code, output) = tool(&world, &["purge", "--yes"]).await;
    assert_eq!(code, 64, "{output}");
    let (code, output) = tool(&world, &["purge", "--all"]).await;
    assert_eq!(
        (code, output.trim()),
        (0, "6 letters would be removed; --yes removes them")
    );
    dead_depth(&world, 6).await;
    let (code, output) = tool(&world, &["export", "--file", file, "--cause", "malformed"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        std::fs::read_to_string(file)
            .unwrap()
            .contains("\"body_base64\":\"/2Jyb2tlbg==\"")
    );
    let (code, output) = tool(
        &world,
        &["purge", "--code", "50001", "--yes", "--file", file],
    )
    .await;
    assert_eq!(code, 1, "an existing file is not overwritten: {output}");
    dead_depth(&world, 6).await;
    let other = dir.path().join("other.ndjson");
    let (code, output) = tool(
        &world,
        &[
            "purge",
            "--code",
            "50001",
            "--yes",
            "--file",
            other.to_str().unwrap(),
        ],
    )
    .await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(std::fs::read_to_string(other).unwrap().lines().count(), 5);
    dead_depth(&world, 1).await;
    world.dead(1).await;
    world.nothing_is_left(&daemon).await;
}
