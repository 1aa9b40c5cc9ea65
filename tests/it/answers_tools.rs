//! `outcomes`, `reconcile`, and `publish` that waits: the tools that read answers, against a ledger that holds what the test put there,
//! and against a daemon.
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use expect_test::{Expect, expect};
use im_sandbox::{Fault, Rule};
use lapin::options::QueueDeleteOptions;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value;
use tempfile::TempDir;

use crate::topology::do_as_told;
use crate::world::{World, event, users};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::{Daemon, Node, PATIENCE, eventually, free_port, shared_node, unique};

/// How a tool ended.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    async fn of(mut tool: Daemon) -> Self {
        Self {
            code: tool.wait_exit(PATIENCE).await,
            stdout: tool.stdout(),
            stderr: tool.stderr(),
        }
    }

    #[track_caller]
    fn exits(self, code: i32) -> Self {
        let Self { stdout, stderr, .. } = &self;
        assert_eq!(self.code, code, "--- stdout\n{stdout}--- stderr\n{stderr}");
        self
    }

    #[track_caller]
    fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "not {part:?}: {}", self.stderr);
        }
        self
    }
}

async fn run(world: &World, args: &[&str]) -> Ran {
    Ran::of(world.tool_config(args).spawn()).await
}

/// A world whose exchange and ledger are there.
async fn answering() -> World {
    let world = World::new().await.answering();
    world.declare().await;
    world
}

/// So many seconds ago, as outcomes tell it.
fn ago(seconds: u64) -> String {
    let at = SystemTime::now() - Duration::from_secs(seconds);
    humantime::format_rfc3339_millis(at).to_string()
}

/// An outcome that was made so many seconds ago. `data` is what it says beside its request.
fn made(request: &str, seconds_ago: u64, data: &str) -> String {
    format!(
        r#"{{"specversion":"1.0","id":"{}","source":"/convgroup-deleter/1","type":"convgroup.request.settled.v1","time":"{}","datacontenttype":"application/json","data":{{"request":{{"id":"{request}","id_from":"message_id","round":0,"published_at":null}},"verified_at":null,{data}}}}}"#,
        unique("outcome"),
        ago(seconds_ago)
    )
}

/// One group, deleted.
fn erased(request: &str) -> String {
    let data = r#""status":"erased","groups":1,"remaining":0,"results":[{"index":0,"outcome":"deleted","code":"0"}]"#;
    made(request, 1, data)
}

/// One group, rejected.
fn failed(request: &str) -> String {
    let data = r#""status":"failed","groups":1,"remaining":0,"results":[{"index":0,"outcome":"dead_lettered","cause":"rejected","code":"51011"}]"#;
    made(request, 1, data)
}

async fn tell(world: &World, outcomes: &[String]) {
    let exchange = world.config.outcomes_exchange();
    world
        .broker
        .publish_many(exchange, "erased.none", outcomes)
        .await;
}

fn lines(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// The status of each request of a report.
fn statuses(report: &str) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let lines = lines(&std::fs::read_to_string(report).unwrap());
    lines
        .iter()
        .map(|line| (text(&line["id"]), text(&line["status"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_answers_are_shown_and_nothing_is_taken_out() {
    let world = answering().await;
    let empty = run(&world, &["outcomes", "tail"]).await.exits(0);
    assert_eq!(empty.stdout, "");
    let empty = run(&world, &["outcomes", "tail", "--since", "1h"])
        .await
        .exits(0);
    assert_eq!(empty.stdout, "");
    let mut told: Vec<String> = (0..150)
        .map(|number| erased(&format!("r-{number}")))
        .collect();
    told.insert(3, failed("bad"));
    told.insert(140, failed("bad"));
    told.push("no outcome".to_owned());
    tell(&world, &told).await;
    for _ in 0..2 {
        let last = run(&world, &["outcomes", "tail"]).await.exits(0);
        let shown: Vec<&str> = last.stdout.lines().collect();
        assert_eq!(shown.len(), 20, "{}", last.stdout);
        assert!(shown[19].contains("  erased     r-149 "), "{}", shown[19]);
        assert!(shown[8].contains("rejected 51011"), "{}", shown[8]);
    }
    // A filter looks further back.
    let args = ["outcomes", "tail", "--status", "failed,mixed", "--json"];
    let found = lines(&run(&world, &args).await.exits(0).stdout);
    assert_eq!(found.len(), 2);
    assert!(found.iter().all(|it| it["data"]["request"]["id"] == "bad"));
    let args = ["outcomes", "tail", "--request", "r-7"];
    assert_eq!(run(&world, &args).await.exits(0).stdout.lines().count(), 1);
    for since in [&[][..], &["--since", "1h"]] {
        let args = [&["outcomes", "tail", "--request", "nobody's"], since].concat();
        let none = run(&world, &args).await.exits(0);
        none.says(&["the ledger holds no answer to the request nobody's"]);
        assert_eq!(none.stdout, "");
    }
    let since = run(&world, &["outcomes", "tail", "--since", "1m"])
        .await
        .exits(0);
    assert_eq!(since.stdout.lines().count(), 152);
    since.says(&["no outcome can be read in it: 1 entry"]);
    let since = ["outcomes", "tail", "--since", "2999-01-01T00:00:00Z"];
    assert_eq!(run(&world, &since).await.exits(0).stdout, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_the_ledger_line_by_line() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let (one, two) = (erased("r-1"), failed("r-2"));
    let old = made(
        "old",
        7200,
        r#""status":"erased","groups":0,"remaining":0,"results":[]"#,
    );
    let spread = one.replace(r#","source""#, ",\n  \"source\"");
    tell(&world, &[old.clone(), spread, two.clone()]).await;
    let file = path(&folder, "outcomes.ndjson");
    let args = ["outcomes", "export", "--file", &file];
    let exported = run(&world, &args).await.exits(0);
    assert_eq!(exported.stdout, format!("3 outcomes written to {file}\n"));
    let written = std::fs::read_to_string(&file).unwrap();
    let expected = format!(
        "{old}\n{}\n{two}\n",
        one.replace(r#","source""#, r#",  "source""#)
    );
    assert_eq!(written, expected);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = run(&world, &args).await.exits(1);
    again.says(&["is there already"]);
    let args = ["outcomes", "export", "--since", "1h", "--file", "-"];
    assert_eq!(lines(&run(&world, &args).await.exits(0).stdout).len(), 2);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// More than the broker sends without being asked for more.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_ledger_is_read_to_its_end() {
    let world = answering().await;
    let ids: Vec<String> = (0..2500).map(|number| format!("r-{number}")).collect();
    let outcomes: Vec<String> = ids.iter().map(|id| erased(id)).collect();
    tell(&world, &outcomes).await;
    let args = ["outcomes", "export", "--file", "-"];
    let exported = run(&world, &args).await.exits(0);
    let exported = lines(&exported.stdout);
    let found: Vec<&str> = exported
        .iter()
        .filter_map(|line| line["data"]["request"]["id"].as_str())
        .collect();
    assert!(found == ids, "{} of {}", found.len(), ids.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_follows_across_a_restart_of_the_broker() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await.answering();
    world.declare().await;
    node.recorded(world.config.queue()).await;
    node.streams_recorded().await;
    tell(&world, &[erased("r-0")]).await;
    let args = ["outcomes", "tail", "--follow", "--json"];
    let mut tail = world.tool_config(&args).spawn();
    let shown = async |count: usize| {
        eventually("an answer is shown", PATIENCE, async || {
            let shown = lines(&tail.stdout());
            if shown.len() == count {
                Ok(shown)
            } else {
                Err(tail.output())
            }
        })
        .await
    };
    shown(1).await;
    tell(&world, &[erased("r-1")]).await;
    shown(2).await;
    node.kill();
    node.gone().await;
    node.start_again().await;
    let world = world.reconnected(&node.url()).await;
    let late = erased("r-2");
    eventually("an answer is published", PATIENCE, async || {
        let exchange = world.config.outcomes_exchange();
        let published =
            world
                .broker
                .try_publish(exchange, "erased.none", late.as_bytes(), persistent());
        published.await.map_err(|err| format!("{err:#}"))
    })
    .await;
    let ids: Vec<Value> = shown(3)
        .await
        .iter()
        .map(|it| it["data"]["request"]["id"].clone())
        .collect();
    assert_eq!(ids, ["r-0", "r-1", "r-2"]);
    assert!(tail.stderr().contains("trying again"), "{}", tail.stderr());
    assert!(tail.stderr().contains("read again"), "{}", tail.stderr());
    // Deleted under its reader, it is gone for good.
    let channel = world.broker.channel().await;
    let deleted = channel.queue_delete(world.config.ledger().into(), QueueDeleteOptions::default());
    deleted.await.unwrap();
    tail.exits_with(1, PATIENCE).await;
    assert!(
        tail.stderr().contains("was deleted while it was read"),
        "{}",
        tail.stderr()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_ends_when_its_reader_has_seen_enough() {
    let world = answering().await;
    let program = env!("CARGO_BIN_EXE_convgroup-deleter");
    let line = format!("{program} outcomes tail --follow | /usr/bin/head --lines=1");
    // It waits for both sides of the pipe.
    let shell = world.tool_config(&["-c", &line]).program("/bin/bash");
    let mut piped = shell.spawn();
    eventually(
        "the reader has its line, and then the tail ends",
        PATIENCE,
        async || {
            if piped.is_running() {
                tell(&world, &[erased("r-1")]).await;
                return Err(piped.output());
            }
            Ok(())
        },
    )
    .await;
    assert_eq!(piped.stdout().lines().count(), 1, "{}", piped.output());
    assert_eq!(piped.stderr(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_not_there_is_explained() {
    let world = World::new()
        .await
        .answering()
        .set("CONVGROUP_AMQP__DECLARE", false);
    let ledger = world.config.ledger().to_owned();
    let missing = run(&world, &["outcomes", "tail"]).await.exits(1);
    missing.says(&[
        &format!("stream {ledger} does not exist"),
        "topology apply",
        "outcomes.enabled",
    ]);
    let off = World::new().await;
    let off = run(&off, &["outcomes", "tail"]).await.exits(78);
    off.says(&["outcomes.enabled = true"]);
    let world = world.set(
        "CONVGROUP_AMQP__URL",
        format!("amqp://127.0.0.1:{}", free_port()),
    );
    run(&world, &["outcomes", "tail"]).await.exits(69);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named_with_the_line_that_grants_it() {
    let world = answering().await;
    tell(&world, &[erased("r-1")]).await;
    let node = shared_node().await;
    let user = unique("auditor");
    node.ctl(&["add_user", &user, "password"]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, "^$", "^$", "^$"])
        .await;
    let url = format!("amqp://{user}:password@{}/%2f", node.addr());
    let world = world.set("CONVGROUP_AMQP__URL", url);
    let denied = run(&world, &["outcomes", "tail"]).await.exits(1);
    denied.says(&["this user may not read the stream"]);
    do_as_told(&denied.stderr).await;
    let shown = run(&world, &["outcomes", "tail"]).await.exits(0);
    assert_eq!(shown.stdout.lines().count(), 1);
    // That is all that a reconciliation needs; only reasons from dead letters are not to be had.
    let folder = TempDir::new().unwrap();
    let manifest = path(&folder, "manifest.ndjson");
    std::fs::write(&manifest, manifest_of(&["r-1", "r-2"])).unwrap();
    let reconciled = run(&world, &["reconcile", "--manifest", &manifest])
        .await
        .exits(1);
    reconciled
        .says(&["dead letters were not read (no right to the queue); the sums do not need them"]);
    assert!(
        !reconciled.stderr.contains("refused"),
        "{}",
        reconciled.stderr
    );
    assert!(
        reconciled.stdout.contains("erased            1"),
        "{}",
        reconciled.stdout
    );
}

/// An ordinary queue of that name would lose what a reader acks.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_no_stream_is_left_alone() {
    let world = World::new()
        .await
        .answering()
        .set("CONVGROUP_AMQP__DECLARE", false);
    let queue = world.config.ledger();
    world.broker.declare_quorum(queue).await;
    let bodies: Vec<String> = (0..300)
        .map(|number| erased(&format!("r-{number}")))
        .collect();
    world.broker.publish_many("", queue, &bodies).await;
    for args in [
        &["outcomes", "tail"][..],
        &["outcomes", "export", "--file", "-"],
    ] {
        let refused = run(&world, args).await.exits(1);
        refused.says(&["is a queue and no stream"]);
    }
    world.broker.eventually_depth(queue, 300, PATIENCE).await;
}

/// A manifest with these requests, of one group each.
fn manifest_of(ids: &[&str]) -> String {
    let hash = "0".repeat(64);
    ids.iter()
        .map(|id| {
            format!(r#"{{"id":"{id}","groups":1,"sha256":"{hash}","user_sha256":"{hash}"}}"#) + "\n"
        })
        .collect()
}

async fn offline(manifest: &str, outcomes: &[String], report: &str, code: i32, expect: Expect) {
    // Nothing listens there: no broker is asked.
    let world = World::new().await;
    let world = world.set(
        "CONVGROUP_AMQP__URL",
        format!("amqp://127.0.0.1:{}", free_port()),
    );
    let folder = TempDir::new().unwrap();
    let (asked, answered) = (path(&folder, "manifest"), path(&folder, "outcomes"));
    std::fs::write(&asked, manifest).unwrap();
    std::fs::write(&answered, outcomes.join("\n")).unwrap();
    let args = [
        "reconcile",
        "--manifest",
        &asked,
        "--outcomes",
        &answered,
        "--report",
        report,
    ];
    let ran = run(&world, &args).await.exits(code);
    expect.assert_eq(&ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn books_are_closed_offline_on_two_files() {
    let folder = TempDir::new().unwrap();
    let report = path(&folder, "report.ndjson");
    let told = [
        erased("a"),
        erased("a"),
        failed("b"),
        erased("somebody else's"),
        "no outcome".to_owned(),
    ];
    let manifest = manifest_of(&["a", "b", "c"]);
    offline(&manifest, &told, &report, 1, expect![[r#"
        requested         3
        erased            1
        failed            1
        mixed             0
        open              1  of these 1 unknown (nothing told)
        not erased:
          failed   b  rejected 51011: the group name is longer than the API allows (32 bytes; newer pages say 64)
        not closed:
          unknown  c  nothing was told of it
    "#]]).await;
    let found = statuses(&report);
    let expected = [("a", "erased"), ("b", "failed"), ("c", "unknown")];
    assert_eq!(
        found,
        expected
            .map(|(id, status)| (id.to_owned(), status.to_owned()))
            .into()
    );
    let all = [erased("a"), erased("b"), erased("c")];
    let report = path(&folder, "all.ndjson");
    offline(
        &manifest,
        &all,
        &report,
        0,
        expect![[r#"
        requested         3
        erased            3
        failed            0
        mixed             0
        open              0
    "#]],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_not_erased_is_named_with_the_reason_of_its_dead_letter() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    tell(&world, &[erased("done"), failed("rejected")]).await;
    // The broker's own dead letter has no answer; a copy has another message id than its request.
    let text = |value: &str| AMQPValue::LongString(value.into());
    for (message_id, headers) in [
        (
            "lost",
            vec![
                ("convgroup-cause", "exhausted"),
                ("convgroup-code", "50004"),
            ],
        ),
        (
            "copy",
            vec![
                ("convgroup-request-id", "rejected"),
                ("convgroup-request-id-from", "message_id"),
                ("convgroup-cause", "rejected"),
                ("convgroup-code", "51011"),
            ],
        ),
        ("done", vec![("convgroup-cause", "rejected")]),
    ] {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert(name.into(), text(value));
        }
        let properties = persistent()
            .with_message_id(message_id.into())
            .with_headers(table);
        let body = event("user1", &["a"]);
        world
            .broker
            .publish("", &world.config.dead_queue(), body.as_bytes(), properties)
            .await;
    }
    let (manifest, report) = (path(&folder, "manifest"), path(&folder, "report"));
    std::fs::write(
        &manifest,
        manifest_of(&["done", "rejected", "lost", "nowhere"]),
    )
    .unwrap();
    let args = ["reconcile", "--manifest", &manifest, "--report", &report];
    let ran = run(&world, &args).await.exits(1);
    expect![[r#"
        requested         4
        erased            1
        failed            1
        mixed             0
        open              2  of these 2 unknown (nothing told)
        not erased:
          failed   rejected  rejected 51011: the group name is longer than the API allows (32 bytes; newer pages say 64); in the dead letters
        not closed:
          unknown  lost  nothing was told of it; in the dead letters: exhausted 50004: internal server error
          unknown  nowhere  nothing was told of it
    "#]].assert_eq(&ran.stdout);
    let letters: Vec<String> = lines(&std::fs::read_to_string(&report).unwrap())
        .iter()
        .map(|line| {
            line["dead_letter"]["cause"]
                .as_str()
                .unwrap_or("-")
                .to_owned()
        })
        .collect();
    assert_eq!(letters, ["-", "rejected", "exhausted", "-"]);
    ran.says(&[
        "0 messages wait in the main queue, 0 in the delay queues",
        "`publish --resume`",
    ]);
    let args = [
        "reconcile",
        "--manifest",
        &manifest,
        "--json",
        "--since",
        "1h",
    ];
    let sums = run(&world, &args).await.exits(1).stdout;
    expect![[r#"
        {"erased":1,"expired":0,"failed":1,"mixed":0,"open":2,"purged":0,"requested":4,"unknown":2,"verified":0}
    "#]]
    .assert_eq(&sums);
    // Nothing was taken out of the dead letters.
    world
        .broker
        .eventually_depth(&world.config.dead_queue(), 3, PATIENCE)
        .await;
}

/// The ids of a manifest, which are all different.
fn ids(manifest: &str) -> Vec<String> {
    let read = lines(&std::fs::read_to_string(manifest).unwrap());
    let ids: Vec<String> = read
        .iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect();
    let different: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(different.len(), ids.len());
    ids
}

fn events_file(folder: &TempDir, count: usize) -> String {
    let events: Vec<String> = users(count)
        .iter()
        .map(|user| event(user, &["a"]))
        .collect();
    let file = path(folder, "events.ndjson");
    std::fs::write(&file, events.join("\n")).unwrap();
    file
}

/// A machine that loses its power after the first event must not have lost the manifest, nor its name in the folder. A killed process
/// does not show that, because the kernel still has what was written: so the disk refuses here, first the file, then the folder.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_published_before_the_manifest_is_on_the_disk() {
    for what in ["S_ISREG", "S_ISDIR"] {
        let folder = TempDir::new().unwrap();
        let (events, manifest) = (events_file(&folder, 5), path(&folder, "manifest.ndjson"));
        let library = refusing_disk(&folder, what);
        let world = answering().await;
        world.declare().await;
        let world = world.set("LD_PRELOAD", library);
        let args = ["publish", "--file", &events, "--manifest", &manifest];
        let refused = run(&world, &args).await.exits(1);
        refused.says(&["can't be written; nothing of it was left behind"]);
        assert!(!std::fs::exists(&manifest).unwrap(), "{what}");
        world.nothing_is_queued().await;
    }
}

/// A library with an `fsync` that fails for each file of this kind.
fn refusing_disk(folder: &TempDir, kind: &str) -> String {
    let (source, library) = (path(folder, "disk.c"), path(folder, "disk.so"));
    let refuses = format!(
        "#include <errno.h>\n#include <sys/stat.h>\n\
         int fsync(int fd) {{ struct stat s; if (fstat(fd, &s) || !{kind}(s.st_mode)) return 0; errno = EIO; return -1; }}\n"
    );
    std::fs::write(&source, refuses).unwrap();
    let built = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-o", &library, &source])
        .status();
    assert!(built.expect("cc is there").success());
    library
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_says_what_is_published_and_a_second_run_finishes_it() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let (events, manifest) = (events_file(&folder, 5), path(&folder, "manifest.ndjson"));
    let args = ["publish", "--file", &events, "--manifest", &manifest];
    run(&world, &args).await.exits(0);
    let asked = ids(&manifest);
    let mode = std::fs::metadata(&manifest).unwrap().permissions().mode();
    assert_eq!((asked.len(), mode & 0o777), (5, 0o600));
    let published = world
        .broker
        .read(world.config.queue(), 5, convgroup_testkit::Settle::Ack)
        .await;
    let found: Vec<String> = published
        .iter()
        .map(|message| {
            message
                .properties
                .message_id()
                .as_ref()
                .unwrap()
                .to_string()
        })
        .collect();
    assert_eq!(found, asked);
    let again = run(&world, &args).await.exits(1);
    again.says(&[
        "is there already (an existing file is not overwritten). ",
        "--resume",
    ]);
    // Two are answered, the third in part: it is under way.
    let part = made(
        &asked[2],
        1,
        r#""status":"partial","groups":2,"remaining":1,"results":[{"index":0,"outcome":"gone","code":"51009"}]"#,
    );
    tell(&world, &[erased(&asked[0]), failed(&asked[1]), part]).await;
    let args = [
        "publish",
        "--file",
        &events,
        "--manifest",
        &manifest,
        "--resume",
    ];
    let resumed = run(&world, &args).await.exits(0);
    resumed.says(&["3 of 5 events have an answer already"]);
    assert!(
        resumed.stdout.starts_with("2 events published"),
        "{}",
        resumed.stdout
    );
    let published = world
        .broker
        .read(world.config.queue(), 2, convgroup_testkit::Settle::Ack)
        .await;
    let bodies: Vec<String> = published
        .iter()
        .map(convgroup_testkit::Message::text)
        .collect();
    assert_eq!(bodies, [event("user3", &["a"]), event("user4", &["a"])]);
    assert_eq!(ids(&manifest), asked);
    // Other events are not those of the manifest.
    let other = path(&folder, "other.ndjson");
    for events in [
        event("user0", &["b"]),
        std::fs::read_to_string(&events).unwrap() + "\n" + &event("u", &["a"]),
    ] {
        std::fs::write(&other, events).unwrap();
        let args = [
            "publish",
            "--file",
            &other,
            "--manifest",
            &manifest,
            "--resume",
        ];
        let refused = run(&world, &args).await.exits(64);
        refused.says(&["--resume takes the events of the run before"]);
        assert_eq!(
            refused.stderr.matches("manifest.ndjson").count(),
            1,
            "{}",
            refused.stderr
        );
    }
    world.nothing_is_queued().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_waits_until_all_is_answered() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let _daemon = world.daemon().await;
    world.add(&users(40));
    let (events, report) = (events_file(&folder, 40), path(&folder, "report"));
    let args = ["publish", "--file", &events, "--wait", "--report", &report];
    let ran = run(&world, &args).await.exits(0);
    ran.says(&["waiting for 40 answers: 40 calls at 200/s"]);
    assert!(ran.stdout.contains("erased           40"), "{}", ran.stdout);
    assert!(statuses(&report).values().all(|status| status == "erased"));
    // Only all that is erased is success.
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("bad"));
    world.user("user1", &["b"]);
    let args = ["publish", "--user", "user1", "b", "bad", "--wait"];
    let ran = run(&world, &args).await.exits(1);
    assert!(ran.stdout.contains("mixed             1"), "{}", ran.stdout);
    assert!(ran.stdout.contains("rejected 51011"), "{}", ran.stdout);
    world.user("user1", &["c", "d"]);
    let args = ["publish", "--user", "user1", "--all-groups", "--wait"];
    let ran = run(&world, &args).await.exits(0);
    ran.says(&["at least 1 call at"]);
    let verified = "erased            1  of these 1 for all groups, verified by an empty list";
    assert!(ran.stdout.contains(verified), "{}", ran.stdout);
    let past = [
        "publish",
        "--user",
        "user1",
        "--all-groups",
        "--not-after",
        "2020-01-01T00:00:00Z",
        "--wait",
    ];
    let refused = run(&world, &past).await.exits(64);
    refused.says(&["--not-after 2020-01-01T00:00:00Z has passed"]);
    let file = path(&folder, "expired.ndjson");
    let late = r#"{"From_Account":"user1","AllGroups":true,"NotAfter":"2020-01-01T00:00:00Z"}"#;
    std::fs::write(&file, format!("\n{late}\n")).unwrap();
    let ran = run(&world, &["publish", "--file", &file, "--wait"]).await;
    let ran = ran.exits(1);
    assert!(ran.stdout.contains("1 expired"), "{}", ran.stdout);
    assert!(ran.stdout.contains("  line 2  expired: "), "{}", ran.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_leads_back_to_the_events_and_tells_the_empty_list() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let _daemon = world.daemon().await;
    world.user("user1", &["a"]);
    world.user("user2", &["b"]);
    let file = path(&folder, "events.ndjson");
    let cloud = r#"{"specversion":"1.0","id":"account-closed-4711","source":"/accounts","type":"closed","data":{"From_Account":"user1","AllGroups":true}}"#;
    std::fs::write(&file, format!("{cloud}\n\n{}\n", event("user2", &["b"]))).unwrap();
    let (manifest, report) = (path(&folder, "manifest"), path(&folder, "report"));
    let args = [
        "publish",
        "--file",
        &file,
        "--app",
        "billing",
        "--manifest",
        &manifest,
        "--wait",
        "--report",
        &report,
    ];
    run(&world, &args).await.exits(0);
    let told = lines(&std::fs::read_to_string(&report).unwrap());
    assert_eq!(told[0]["id"], "account-closed-4711");
    assert_eq!((&told[0]["line"], &told[1]["line"]), (&1.into(), &3.into()));
    assert!(told[0]["verified_at"].is_string(), "{}", told[0]);
    assert!(told[1].get("verified_at").is_none(), "{}", told[1]);
    let answers = run(&world, &["outcomes", "tail", "--json"]).await.exits(0);
    let from = |id: &str| {
        let answers = lines(&answers.stdout);
        let of = answers
            .into_iter()
            .find(|it| it["data"]["request"]["id"] == id);
        of.unwrap()["data"]["request"]["id_from"].clone()
    };
    assert_eq!(from("account-closed-4711"), "cloudevents_id");
    assert_eq!(from(told[1]["id"].as_str().unwrap()), "message_id");
    // All of it has an answer: there is nothing to publish and nothing to wait for.
    let resumed = [&args[..args.len() - 2], &["--resume"]].concat();
    let resumed = run(&world, &resumed).await.exits(0);
    assert!(!resumed.stderr.contains("waiting"), "{}", resumed.stderr);
    let nothing = "nothing is left to be published\n";
    assert!(resumed.stdout.starts_with(nothing), "{}", resumed.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_published_with_the_id_and_the_app_that_are_asked_for() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let named = [
        "publish", "--user", "u", "g", "--id", "closed-1", "--app", "billing",
    ];
    let ran = run(&world, &named).await.exits(0);
    assert!(
        ran.stdout.ends_with("\nrequest closed-1\n"),
        "{}",
        ran.stdout
    );
    let ran = run(&world, &["publish", "--user", "u", "g"]).await.exits(0);
    let request = ran.stdout.lines().last().unwrap().to_owned();
    let file = path(&folder, "events.ndjson");
    let cloud = |id: &str| {
        let event = event("u", &["g"]);
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"t","data":{event}}}"#)
    };
    std::fs::write(&file, cloud("e-1")).unwrap();
    run(&world, &["publish", "--file", &file]).await.exits(0);
    let read = world
        .broker
        .read(world.config.queue(), 3, convgroup_testkit::Settle::Ack)
        .await;
    let properties: Vec<[String; 3]> = read
        .iter()
        .map(|message| {
            let of = &message.properties;
            [of.message_id(), of.app_id(), of.content_type()]
                .map(|text| text.as_ref().map_or(String::new(), ToString::to_string))
        })
        .collect();
    let [one, two, three] = &properties[..] else {
        panic!("three were published")
    };
    assert_eq!(one, &["closed-1", "billing", "application/json"]);
    assert_eq!(format!("request {}", two[0]), request);
    assert_eq!(two[1], "");
    assert_eq!(three, &["e-1", "", "application/cloudevents+json"]);
    let manifest = path(&folder, "manifest");
    for (text, says) in [
        (
            cloud("e-1").replace("data", "payload"),
            "line 1: `data` is missing",
        ),
        (
            format!("\n{0}\n{0}", cloud("e-1")),
            "line 3 has the id of line 2 again",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let args = ["publish", "--file", &file, "--manifest", &manifest];
        run(&world, &args).await.exits(64).says(&[says]);
    }
    assert!(!Path::new(&manifest).exists());
    for args in [
        ["--id", ""],
        ["--id", &"i".repeat(201)],
        ["--app", "a.b"],
        ["--app", ""],
    ] {
        let args = [&["publish", "--user", "u", "g"], &args[..]].concat();
        run(&world, &args).await.exits(64);
    }
    world.nothing_is_queued().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconciliation_waits_until_all_is_closed() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let manifest = path(&folder, "manifest.ndjson");
    let report = path(&folder, "report.ndjson");
    std::fs::write(&manifest, manifest_of(&["a", "b"])).unwrap();
    tell(&world, &[erased("a")]).await;
    let args = ["reconcile", "--manifest", &manifest, "--wait"];
    let with_report = [&args[..], &["--report", &report]].concat();
    let short = [&with_report[..], &["--timeout", "1s"]].concat();
    let next = format!("reconcile --manifest {manifest} --wait --report ");
    let second = path(&folder, "report-2.ndjson");
    let late = run(&world, &short).await.exits(1);
    late.says(&[
        "--timeout 1s is over: 1 request is not answered to the end. It goes on by itself. To wait on: ",
        &format!("{next}{second}"),
    ]);
    // What the next is called is free; the one that is there is refused before anything is waited for.
    run(&world, &with_report)
        .await
        .exits(1)
        .says(&["is there already"]);
    for (signal, report, next_report) in [
        ("TERM", &second, "report-2-2.ndjson"),
        ("INT", &path(&folder, "other"), "other-2"),
    ] {
        let args = [&args[..], &["--report", report]].concat();
        let mut waiting = world.tool_config(&args).spawn();
        eventually("it waits", PATIENCE, async || {
            let said = waiting.output();
            said.contains("waiting for 1 answer")
                .then_some(())
                .ok_or(said)
        })
        .await;
        waiting.signal(signal);
        waiting.exits_with(1, PATIENCE).await;
        let said = waiting.output();
        assert!(said.contains("interrupted: 1 request"), "{said}");
        assert!(
            said.contains(&format!("{next}{}", path(&folder, next_report))),
            "{said}"
        );
        assert_eq!(statuses(report)["b"], "unknown");
    }
    let mut waiting = world.tool_config(&args).spawn();
    eventually("it waits", PATIENCE, async || {
        let said = waiting.output();
        said.contains("waiting for 1 answer")
            .then_some(())
            .ok_or(said)
    })
    .await;
    tell(&world, &[erased("b")]).await;
    waiting.exits_with(0, PATIENCE).await;
    assert!(
        waiting.stdout().contains("erased            2"),
        "{}",
        waiting.output()
    );
    let offline = [&args[..], &["--outcomes", &manifest]].concat();
    run(&world, &offline).await.exits(64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_holds_no_outcome_is_named_for_what_it_is() {
    let world = World::new().await;
    let folder = TempDir::new().unwrap();
    let (manifest, other) = (path(&folder, "manifest"), path(&folder, "other"));
    std::fs::write(&manifest, manifest_of(&["secret-id"])).unwrap();
    let report =
        r#"{"id":"secret-id","status":"unknown","results":[],"rounds":0,"closed_at":null}"#;
    for (text, says) in [
        (
            manifest_of(&["secret-id"]),
            "line 1 is a line of a manifest",
        ),
        (format!("\n{report}"), "line 2 is a line of a report"),
        ("secret-id,erased".to_owned(), "line 1 is no JSON"),
    ] {
        std::fs::write(&other, text).unwrap();
        let args = ["reconcile", "--manifest", &manifest, "--outcomes", &other];
        let refused = run(&world, &args).await.exits(64);
        refused.says(&[says, "no line of it is an outcome"]);
        assert!(!refused.stderr.contains("secret-id"), "{}", refused.stderr);
    }
    std::fs::write(&other, "\n").unwrap();
    let args = ["reconcile", "--manifest", &manifest, "--outcomes", &other];
    run(&world, &args).await.exits(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn publish_waits_across_a_restart_of_the_broker() {
    let node = Node::start().await;
    let world = World::at(&node.url()).await.answering();
    world.declare().await;
    node.recorded(world.config.queue()).await;
    node.streams_recorded().await;
    let users = users(20);
    world.add(&users);
    let folder = TempDir::new().unwrap();
    let events = events_file(&folder, users.len());
    let args = ["publish", "--file", &events, "--wait"];
    let mut waiting = world.tool_config(&args).spawn();
    eventually("all is published", PATIENCE, async || {
        let said = waiting.output();
        if said.contains("20 events published") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    node.kill();
    node.gone().await;
    node.start_again().await;
    // Answered while nobody listened, or after that: none is missed.
    let _daemon = world.daemon().await;
    waiting.exits_with(0, 2 * PATIENCE).await;
    let told = waiting.output();
    assert!(told.contains("erased           20"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_ends_in_time_and_says_how_to_go_on() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let manifest = path(&folder, "it's a manifest");
    let args = [
        "publish",
        "--user",
        "user1",
        "a",
        "--manifest",
        &manifest,
        "--wait",
        "--timeout",
        "1s",
    ];
    let ran = run(&world, &args).await.exits(1);
    ran.says(&[
        "--timeout 1s is over: 1 request is not answered",
        "reconcile --manifest '",
        "1 message waits in the main queue",
    ]);
    // It is said when all is published, and leads to a command that waits.
    assert!(ran.stderr.contains(" --wait\n"), "{}", ran.stderr);
    assert!(ran.stdout.contains("1 unknown"), "{}", ran.stdout);
    let mut waiting = world
        .tool_config(&["publish", "--user", "user1", "a", "--wait"])
        .spawn();
    eventually("it waits", PATIENCE, async || {
        let said = waiting.output();
        if said.contains("waiting for") && said.contains("published") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    waiting.signal("TERM");
    waiting.exits_with(1, PATIENCE).await;
    let said = waiting.output();
    assert!(said.contains("interrupted: 1 request is not"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_crash_can_be_reconciled() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let users = users(300);
    world.add(&users);
    let (events, manifest) = (events_file(&folder, users.len()), path(&folder, "manifest"));
    let args = [
        "publish",
        "--file",
        &events,
        "--manifest",
        &manifest,
        "--wait",
    ];
    let mut waiting = world.tool_config(&args).spawn();
    eventually("it publishes", PATIENCE, async || {
        let depth = world.broker.depth(world.config.queue()).await;
        if depth > 0 {
            Ok(())
        } else {
            Err(waiting.output())
        }
    })
    .await;
    waiting.kill();
    waiting.wait_exit(PATIENCE).await;
    assert_eq!(ids(&manifest).len(), users.len());
    // Whatever it had published: the rest is published now, and all of it is answered.
    let _daemon = world.daemon().await;
    let args = [
        "publish",
        "--file",
        &events,
        "--manifest",
        &manifest,
        "--resume",
        "--wait",
    ];
    run(&world, &args).await.exits(0);
    let ran = run(&world, &["reconcile", "--manifest", &manifest])
        .await
        .exits(0);
    assert!(ran.stdout.contains("erased          300"), "{}", ran.stdout);
    assert!(Path::new(&manifest).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_that_is_interrupted_says_how_to_go_on_and_leaves_no_report() {
    let world = answering().await;
    let folder = TempDir::new().unwrap();
    let events = events_file(&folder, 60_000);
    let (manifest, report) = (path(&folder, "manifest"), path(&folder, "report"));
    let args = [
        "publish",
        "--file",
        &events,
        "--manifest",
        &manifest,
        "--wait",
        "--report",
        &report,
    ];
    let mut publishing = world.tool_config(&args).spawn();
    eventually("it publishes", PATIENCE, async || {
        let depth = world.broker.depth(world.config.queue()).await;
        (depth > 0).then_some(()).ok_or(depth)
    })
    .await;
    publishing.signal("TERM");
    publishing.exits_with(1, PATIENCE).await;
    let said = publishing.stderr();
    assert!(said.contains("interrupted: "), "{said}");
    assert!(
        said.contains("of 60000 events are not confirmed; publish the whole again with --resume"),
        "{said}"
    );
    let mut left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    left.sort();
    assert_eq!(left, ["events.ndjson", "manifest"]);
}
