//! The tools for dead letters: looking harms nothing, a redrive stops in time, nothing is lost.
use std::os::unix::fs::PermissionsExt;

use futures_util::StreamExt;
use im_sandbox::{Fault, Rule};
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::{AMQPValue, FieldTable};

use crate::world::{World, event, eventually_settled, settled};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::{Daemon, PATIENCE, eventually};

const PROGRAM: &str = env!("CARGO_BIN_EXE_convgroup-deleter");

async fn tool(world: &World, args: &[&str]) -> (i32, String) {
    world.tool(&[&["dlq"], args].concat()).await
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

/// The properties of a letter that the daemon gave up on.
fn exhausted(code: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("convgroup-cause", "exhausted"),
        ("convgroup-class", "transient"),
        ("convgroup-code", code),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    persistent().with_headers(headers)
}

/// Puts letters there, as many as there are bodies, by hand.
async fn letters(world: &World, bodies: &[String]) {
    world
        .broker
        .publish_many("", &world.config.dead_queue(), bodies)
        .await;
    let there = u32::try_from(bodies.len()).expect("a small count");
    dead_depth(world, there).await;
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
    let order = |letters: Vec<convgroup_testkit::Message>| -> Vec<String> {
        letters
            .iter()
            .map(convgroup_testkit::Message::text)
            .collect()
    };
    let dead = world.config.dead_queue();
    let before = order(
        world
            .broker
            .read_dead(&dead, 31, convgroup_testkit::Settle::Requeue)
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
            .read_dead(&dead, 31, convgroup_testkit::Settle::Ack)
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
    let mut redrive = world.tool_config(&args).spawn();
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

/// A quorum queue gives a consumer that asks for no number 2,000 messages, and forgets acks beyond 32 when their channel closes.
#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_letters_are_all_seen_and_all_removed() {
    let world = World::new().await;
    world.declare().await;
    let bodies: Vec<String> = (0..2_300)
        .map(|number| event(&format!("user{number}"), &["a"]))
        .collect();
    letters(&world, &bodies).await;
    let (code, output) = tool(&world, &["ls"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("   2300  in all"), "{output}");
    dead_depth(&world, 2_300).await;
    let (code, output) = tool(&world, &["purge", "--all", "--yes", "--no-export"]).await;
    assert_eq!(
        (code, output.trim()),
        (0, "2300 letters removed"),
        "{output}"
    );
    dead_depth(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_in_somebody_elses_hand_are_not_told_as_none() {
    let world = World::new().await;
    world.declare().await;
    let bodies: Vec<String> = (0..20).map(|number| format!("letter {number}")).collect();
    letters(&world, &bodies).await;
    // Several at once wait for each other.
    let looks = (0..3).map(|_| tool(&world, &["ls"]));
    for (code, output) in futures_util::future::join_all(looks).await {
        assert_eq!(code, 0, "{output}");
        assert!(output.contains("     20  in all"), "{output}");
    }
    let channel = world.broker.channel().await;
    let dead = world.config.dead_queue();
    channel
        .basic_qos(1, BasicQosOptions::default())
        .await
        .unwrap();
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let holder = channel
        .basic_consume(dead.as_str().into(), "other".into(), options, table)
        .await
        .unwrap();
    for args in [&["ls"][..], &["purge", "--all", "--yes", "--no-export"]] {
        let (code, output) = tool(&world, args).await;
        assert_eq!(code, 69, "{output}");
        assert!(output.contains("something else reads"), "{output}");
    }
    channel.close(200, "done".into()).await.unwrap();
    drop(holder);
    dead_depth(&world, 20).await;
}

/// A letter that has had all its attempts begins anew when it is redriven: it fails into a delay queue, and is not dead for hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_stops_when_the_canary_is_delayed_again() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__TIERS", "10m")
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000);
    let daemon = world.daemon().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).user("user15"));
    for number in 0..12 {
        let body = event("user15", &[&format!("g{number}")]);
        world
            .broker
            .publish(
                "",
                &world.config.dead_queue(),
                body.as_bytes(),
                exhausted("50004"),
            )
            .await;
    }
    dead_depth(&world, 12).await;
    let (code, output) = tool(
        &world,
        &["redrive", "--cause", "exhausted", "--settle", "1s"],
    )
    .await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("1 of 12 letters redriven, 0 came back dead"),
        "{output}"
    );
    assert!(
        output.contains("1 message more in the delay queues")
            && output.contains("11 letters not touched"),
        "{output}"
    );
    dead_depth(&world, 11).await;
    let metrics = eventually_settled(&daemon, "delayed", 1).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0);
    world.broker.purge(&world.delay_queues()[0]).await;
    assert_eq!(world.broker.purge(&world.config.dead_queue()).await, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_can_be_interrupted_while_it_waits() {
    let world = World::new().await;
    let daemon = with_dead_letters(&world, 20).await;
    world.sandbox.reset_counters();
    for number in 0..20 {
        world.user(&format!("late{number}"), &["a"]);
    }
    let args = ["dlq", "redrive", "--settle", "10m"];
    let mut redrive = world.tool_config(&args).spawn();
    world
        .counted(PATIENCE, |counters| counters.deleted >= 1)
        .await;
    redrive.signal("INT");
    redrive.exits_with(1, PATIENCE).await;
    let output = redrive.output();
    assert!(
        output.contains("1 of 20 letters redriven") && output.contains("19 letters not touched"),
        "{output}"
    );
    dead_depth(&world, 19).await;
    world.broker.purge(&world.config.dead_queue()).await;
    world.nothing_is_left(&daemon).await;
}

/// Malformed letters would be dead again at once, and would stop a redrive of all at its canary.
#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_of_all_leaves_the_malformed_ones() {
    let world = World::new().await;
    let daemon = world.daemon().await;
    world.publish_raw(b"broken", persistent()).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    world.publish("late", &["a"]).await;
    eventually_settled(&daemon, "dead_lettered", 2).await;
    world.user("late", &["a"]);
    let (code, output) = tool(&world, &["redrive", "--settle", "500ms"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("1 malformed letter") && output.contains("1 of 1 letter redriven"),
        "{output}"
    );
    assert_eq!(world.dead(1).await[0].text(), "broken");
    world.nothing_is_left(&daemon).await;
}

/// RabbitMQ looks at the head of the queue only: the event expires when the one before it has gone.
#[tokio::test(flavor = "multi_thread")]
async fn an_expiration_that_runs_out_is_told_as_ttl_and_is_gone_on_a_redrive() {
    let world = World::new().await;
    world.user("user15", &["first", "late"]);
    world.declare().await;
    world.publish("user15", &["first"]).await;
    let late = event("user15", &["late"]);
    let properties = persistent()
        .with_expiration("1".into())
        .with_message_id("m-late".into());
    world.publish_raw(late.as_bytes(), properties).await;
    let daemon = world.daemon().await;
    eventually_settled(&daemon, "deleted", 1).await;
    dead_depth(&world, 1).await;
    assert_eq!(world.sandbox.groups("user15").unwrap(), ["late"]);

    let (code, output) = tool(&world, &["ls", "--newer-than", "1h"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("      1  ttl            -          -")
            && output.contains("longer than its `expiration`"),
        "{output}"
    );
    let (code, output) = tool(&world, &["show", "--cause", "ttl"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("m-late") && output.contains("the copy has no `expiration`"),
        "{output}"
    );
    let (code, output) = tool(&world, &["redrive", "--cause", "ttl", "--settle", "1s"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("0 came back dead"), "{output}");
    eventually_settled(&daemon, "deleted", 2).await;
    world.nothing_is_left(&daemon).await;
}

/// RabbitMQ's word for it is `rejected`, which is the daemon's for something else.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_consumer_refused_is_not_told_as_rejected_by_the_api() {
    let world = World::new().await;
    world.declare().await;
    world.publish("user15", &["a"]).await;
    let channel = world.broker.channel().await;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut foreign = channel
        .basic_consume(world.config.queue().into(), "other".into(), options, table)
        .await
        .unwrap();
    let delivery = foreign.next().await.unwrap().unwrap();
    let refused = BasicRejectOptions { requeue: false };
    assert!(delivery.reject(refused).await.unwrap());
    dead_depth(&world, 1).await;
    channel.close(200, "done".into()).await.unwrap();
    let (code, output) = tool(&world, &["ls", "--cause", "rejected"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("      0  in all"), "{output}");
    let (code, output) = tool(&world, &["ls", "--cause", "nacked"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("      1  nacked") && output.contains("a consumer that is not this daemon"),
        "{output}"
    );
    assert_eq!(world.broker.purge(&world.config.dead_queue()).await, 1);
}

/// A limit on the size of a file stands for a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_leaves_no_half_of_a_file_and_removes_no_letter() {
    const LIMITED: &str = "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\"";
    let world = World::new().await;
    world.declare().await;
    let bodies: Vec<String> = (0..40)
        .map(|number| event(&format!("user{number}"), &[&"g".repeat(500)]))
        .collect();
    letters(&world, &bodies).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letters.ndjson");
    let file = path.to_str().unwrap();
    let left = || {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    let export = ["dlq", "export", "--file", file];
    let purge = ["dlq", "purge", "--all", "--yes", "--file", file];
    for args in [&export[..], &purge] {
        let limited = [&["-c", LIMITED, PROGRAM], args].concat();
        let config = world.tool_config(&limited).program("/bin/sh");
        let (code, output) = config.spawn().finished(PATIENCE).await;
        assert_eq!(code, 1, "{output}");
        assert!(output.contains("can't be written"), "{output}");
        assert_eq!(
            output.contains("nothing was removed"),
            args == purge,
            "{output}"
        );
        assert_eq!(left(), Vec::<std::ffi::OsString>::new(), "{output}");
        dead_depth(&world, 40).await;
    }
    let (code, output) = world.tool(&purge).await;
    assert_eq!(code, 0, "{output}");
    assert_eq!(left(), ["letters.ndjson"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 40);
    dead_depth(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_sense_is_refused_before_anything_happens() {
    let world = World::new().await;
    for (args, told) in [
        (&["ls", "--code", "bogus"][..], "`bogus` is no code"),
        // No letter has it, however many there are.
        (&["purge", "--code", "http_4xx", "--yes"], "http_404"),
        (&["ls", "--code", "other"], "99999"),
        (&["ls", "--cause", "bogus"], "delivery_limit"),
        (&["ls", "--class", "gone"], "transient"),
        (&["ls", "--message-id", ""], "--message-id is empty"),
        (
            &["ls", "--older-than", "1h", "--newer-than", "5m"],
            "no letter is both",
        ),
        (&["redrive", "--rate", "0"], "1..=10000"),
        (&["purge", "--yes"], "--all for all of them"),
        (&["purge", "--all", "--code", "50001"], "which of the two"),
        (
            &["purge", "--all", "--yes", "--file", "-"],
            "dlq export --file -",
        ),
    ] {
        let (code, output) = tool(&world, args).await;
        assert_eq!(code, 64, "{args:?}: {output}");
        assert!(output.contains(told), "{args:?}: {output}");
    }
}

/// The hash is the one that the logs show, or none.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_hashed_as_in_the_logs_or_hidden() {
    let world = World::new().await;
    world.declare().await;
    letters(&world, &[event("user15", &["a"])]).await;
    let show = || {
        let config = world.tool_config(&["dlq", "show"]);
        config.unset("CONVGROUP_IM__SECRET_KEY")
    };
    let (code, output) = show().spawn().finished(PATIENCE).await;
    assert_eq!(code, 0, "{output}");
    // printf '%s' '1400000000:user15' | sha256sum | cut -c1-12
    assert!(output.contains("user 80da5ed65dca, "), "{output}");
    assert!(
        output.contains("somebody published to this queue"),
        "{output}"
    );
    let config = show().unset("CONVGROUP_IM__SDK_APP_ID");
    let (code, output) = config.spawn().finished(PATIENCE).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("user (hidden: set im.sdk_app_id") && !output.contains("user15"),
        "{output}"
    );
    dead_depth(&world, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exported_letter_is_whole_and_nobody_elses_to_read() {
    let world = World::new().await;
    world.declare().await;
    let mut headers = FieldTable::default();
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString("00-ab-cd-01".into()),
    );
    let long_id = "m".repeat(200);
    let properties = persistent()
        .with_message_id(long_id.as_str().into())
        .with_correlation_id("c-1".into())
        .with_timestamp(1_700_000_000)
        .with_expiration("86400000".into())
        .with_priority(3)
        .with_headers(headers);
    let body = event("user15", &["a"]);
    world
        .broker
        .publish("", &world.config.dead_queue(), body.as_bytes(), properties)
        .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("letters.ndjson");
    let file = path.to_str().unwrap();
    let (code, output) = tool(&world, &["export", "--file", file]).await;
    assert_eq!(code, 0, "{output}");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let letter: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(letter["body"], body);
    let properties = &letter["properties"];
    assert_eq!(properties["message_id"], long_id);
    assert_eq!(properties["correlation_id"], "c-1");
    assert_eq!(properties["timestamp"], 1_700_000_000);
    assert_eq!(properties["expiration"], "86400000");
    assert_eq!(
        (&properties["priority"], &properties["delivery_mode"]),
        (&3.into(), &2.into())
    );
    assert_eq!(properties["headers"]["traceparent"], "00-ab-cd-01");
    let (code, output) = tool(&world, &["export", "--file", file]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("an existing file is not overwritten"),
        "{output}"
    );
    dead_depth(&world, 1).await;
}
