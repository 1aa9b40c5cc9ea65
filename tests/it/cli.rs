//! The command line from outside: what each subcommand prints, where, and how it exits.
#![expect(
    clippy::needless_raw_string_hashes,
    reason = "expect-test writes its texts this way"
)]
use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convgroup_chat::usersig;
use convgroup_domain::code::CodeTable;
use expect_test::{Expect, expect, expect_file};
use im_sandbox::{Credentials, Fault};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use secrecy::SecretString;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::world::{World, event};
use convgroup_testkit::daemon::{IDENTIFIER, SDK_APP_ID, SECRET_KEY};
use convgroup_testkit::{Message, PATIENCE, Settle, free_port, shared_node};

const PROGRAM: &str = env!("CARGO_BIN_EXE_convgroup-deleter");
/// No tool takes this long: each of its steps at a broker or an API has a deadline of its own.
const TOOL_PATIENCE: Duration = Duration::from_secs(60);
/// Keys that the tools share with a daemon of the same world.
const SHARED: [&str; 8] = [
    "CONVGROUP_AMQP__URL",
    "CONVGROUP_AMQP__QUEUE",
    "CONVGROUP_AMQP__EXCHANGE",
    "CONVGROUP_IM__BASE_URL",
    "CONVGROUP_IM__SDK_APP_ID",
    "CONVGROUP_IM__IDENTIFIER",
    "CONVGROUP_IM__SECRET_KEY",
    "CONVGROUP_RETRY__TIERS",
];

/// The real binary with an environment made from nothing.
#[derive(Clone, Default)]
struct Tool {
    env: BTreeMap<String, String>,
}

/// How it ended.
struct Ran {
    what: String,
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Tool {
    /// Nothing is configured.
    fn bare() -> Self {
        Self::default()
    }

    /// Configured like the daemon of this world.
    fn of(world: &World) -> Self {
        SHARED.iter().fold(Self::bare(), |tool, key| {
            tool.set(key, world.config.get(key))
        })
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "so that a call can give a text or a number as it is"
    )]
    fn set(mut self, key: &str, value: impl ToString) -> Self {
        self.env.insert(key.to_owned(), value.to_string());
        self
    }

    fn unset(mut self, key: &str) -> Self {
        self.env.remove(key);
        self
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.fed(args, "").await
    }

    /// Runs it with this on standard input.
    async fn fed(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary was built for this test");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let input = input.to_owned();
        // What the program does not read is not its problem.
        tokio::spawn(async move { drop(stdin.write_all(input.as_bytes()).await) });
        Ran::of(args, child).await
    }

    fn command(&self, args: &[&str]) -> Command {
        let inherited = ["LLVM_PROFILE_FILE", "RUST_BACKTRACE"];
        let inherited = inherited
            .into_iter()
            .filter_map(|key| Some((key, std::env::var_os(key)?)));
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .env_clear()
            .envs(inherited)
            .envs(&self.env)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

impl Ran {
    async fn of(args: &[&str], child: tokio::process::Child) -> Self {
        let what = args.join(" ");
        let output = tokio::time::timeout(TOOL_PATIENCE, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("`{what}` does not end"))
            .expect("its output can be read");
        Self {
            what,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("output is UTF-8"),
        }
    }

    fn all(&self) -> String {
        format!(
            "`{}` ended with {:?}\n--- stdout\n{}--- stderr\n{}",
            self.what, self.code, self.stdout, self.stderr
        )
    }

    #[track_caller]
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.all());
        self
    }

    /// Stdout has a line that begins like this and holds all of these.
    #[track_caller]
    fn line(&self, begins: &str, holds: &[&str]) -> &Self {
        let found = self
            .stdout
            .lines()
            .any(|line| line.starts_with(begins) && holds.iter().all(|part| line.contains(part)));
        assert!(found, "no line {begins:?} with {holds:?}: {}", self.all());
        self
    }

    /// Stderr holds all of these.
    #[track_caller]
    fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "not {part:?}: {}", self.all());
        }
        self
    }

    #[track_caller]
    fn silent_on_stdout(&self) -> &Self {
        assert_eq!(self.stdout, "", "{}", self.all());
        self
    }

    #[track_caller]
    fn silent_on_stderr(&self) -> &Self {
        assert_eq!(self.stderr, "", "{}", self.all());
        self
    }
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs()
}

/// The commands that a help text lists.
fn commands_in(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let name = line.strip_prefix("  ")?;
            let name = (!name.starts_with(' ')).then(|| name.split(' ').next())??;
            (name != "help").then(|| name.to_owned())
        })
        .collect()
}

/// Every command there is, found by asking: one that is new fails until its help is reviewed and kept.
#[tokio::test]
async fn the_help_of_every_command_is_the_reviewed_one() {
    let mut waiting = vec![Vec::new()];
    let mut seen = 0;
    while let Some(path) = waiting.pop() {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let ran = Tool::bare().run(&args).await.code(0);
        ran.silent_on_stderr();
        let name = if path.is_empty() {
            "program".to_owned()
        } else {
            path.join("-")
        };
        expect_file![format!("../snapshots/help-{name}.txt")].assert_eq(&ran.stdout);
        for command in commands_in(&ran.stdout) {
            let mut path = path.clone();
            path.push(command);
            waiting.push(path);
        }
        seen += 1;
    }
    assert!(seen >= 9, "only {seen} commands were found");
}

#[tokio::test]
async fn the_version_is_the_packages() {
    let ran = Tool::bare().run(&["--version"]).await.code(0);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(ran.stdout, format!("convgroup-deleter {version}\n"));
}

#[tokio::test]
async fn wrong_usage_exits_with_64_and_explains_on_stderr() {
    let cases: [(&[&str], &str); 33] = [
        (&[], "Usage:"),
        (&["--nope"], "--nope"),
        (&["nope"], "nope"),
        (&["run", "--nope"], "--nope"),
        (&["run", "nope"], "nope"),
        (&["publish"], "--file"),
        (&["publish", "--user", "u"], "GROUP"),
        (&["publish", "g"], "--user"),
        (&["publish", "--user", "u", "--file", "f", "g"], "--file"),
        (
            &["publish", "--user", "u", "g", "--all-groups"],
            "--all-groups",
        ),
        (&["publish", "--all-groups"], "--user"),
        (&["publish", "--file", "f", "--all-groups"], "--file"),
        (
            &[
                "publish",
                "--file",
                "f",
                "--not-after",
                "2026-12-01T00:00:00Z",
            ],
            "--file",
        ),
        (
            &["publish", "--user", "u", "g", "--not-after", "soon"],
            "NotAfter",
        ),
        (&["publish", "--user", "u", "g", "--resume"], "--manifest"),
        (
            &[
                "publish",
                "--user",
                "u",
                "g",
                "--manifest",
                "m",
                "--since",
                "1h",
            ],
            "--resume",
        ),
        (
            &["publish", "--user", "u", "g", "--timeout", "1h"],
            "--wait",
        ),
        (&["publish", "--user", "u", "g", "--report", "r"], "--wait"),
        (
            &["publish", "--user", "u", "g", "--wait", "--timeout", "long"],
            "long",
        ),
        (
            &["publish", "--user", "u", "g", "--manifest", "-"],
            "name one",
        ),
        (&["outcomes"], "Usage:"),
        (&["outcomes", "tail", "--since", "yesterday"], "RFC 3339"),
        (&["outcomes", "tail", "--status", "gone"], "erased"),
        (&["outcomes", "tail", "--request", ""], "--request"),
        (&["outcomes", "export"], "--file"),
        (&["reconcile"], "--manifest"),
        (
            &["reconcile", "--manifest", "/nowhere/m", "--outcomes", "f"],
            "/nowhere/m",
        ),
        (
            &["reconcile", "--manifest", "-", "--outcomes", "-"],
            "--manifest",
        ),
        (
            &[
                "reconcile",
                "--manifest",
                "m",
                "--outcomes",
                "f",
                "--since",
                "1h",
            ],
            "--since",
        ),
        (&["explain", "nonsense"], "nonsense"),
        (&["explain", "51011", "--markdown"], "--markdown"),
        (&["check", "--ready", "not a url"], "URL"),
        (&["usersig", "sign", "--lifetime", "soon"], "soon"),
    ];
    for (args, named) in cases {
        let ran = Tool::bare().run(args).await.code(64);
        ran.silent_on_stdout().says(&[named]);
    }
}

#[tokio::test]
async fn an_event_that_breaks_the_contract_is_refused_as_wrong_usage() {
    let many: Vec<String> = (0..101).map(|number| format!("g{number}")).collect();
    let mut too_many = vec!["publish", "--user", "u"];
    too_many.extend(many.iter().map(String::as_str));
    let long = "g".repeat(70_000);
    let cases: [(&[&str], &str); 4] = [
        (&["publish", "--user", "", "g"], "`From_Account` is empty"),
        (&["publish", "--user", "u", "g", ""], "empty name"),
        (&too_many, "101 names"),
        (&["publish", "--user", "u", &long], "65536"),
    ];
    for (args, problem) in cases {
        let ran = Tool::bare().run(args).await.code(64);
        ran.silent_on_stdout().says(&[problem]);
    }
}

/// Every mistake of every layer, each on a line of its own that names key and source.
#[tokio::test]
async fn all_mistakes_of_the_configuration_are_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("convgroup.toml");
    std::fs::write(
        &path,
        "[amqp]\nprefetch = 0\nprefech = 7\n[retry]\ntiers = []\n",
    )
    .unwrap();
    let path = path.display().to_string();
    let tool = Tool::bare()
        .set("CONVGROUP_CONFIG", &path)
        .set("CONVGROUP_LOG__LEVEL", "loud")
        .set("CONVGROUP_NOPE", "1");
    let lines = [
        &*format!("  amqp.prefech ({path}:3): no such key; did you mean `amqp.prefetch`?"),
        "  nope (environment CONVGROUP_NOPE): no such key; `convgroup-deleter config` lists all of them",
        &*format!("  retry.tiers ({path}:5): has 0 items; allowed: 1 to 10"),
        &*format!("  amqp.prefetch ({path}:2): is not a whole number from 1 to 2000"),
        "  im.sdk_app_id (not set): is missing",
        "  im.secret_key (not set): is missing; set it, or im.secret_key_file",
        "  log.level (environment CONVGROUP_LOG__LEVEL): is not one of error warn info debug trace",
    ];
    let expected = format!(
        "convgroup-deleter: the configuration has 7 mistakes:\n{}\n",
        lines.join("\n")
    );
    let ran = tool.run(&["run"]).await.code(78);
    ran.silent_on_stdout();
    assert_eq!(ran.stderr, expected);
    // The file can be given by argument as well, and beats the variable.
    let ran = tool
        .clone()
        .set("CONVGROUP_CONFIG", "/nowhere")
        .run(&["run", "--config", &path])
        .await
        .code(78);
    assert_eq!(ran.stderr, expected);
    // `config` shows what it could read, and then says the same.
    let ran = tool.run(&["config"]).await.code(78);
    assert_eq!(ran.stderr, expected);
    // `check` reports it as its first finding.
    let ran = tool.run(&["check"]).await.code(78);
    ran.line("FAIL  config", &["7 mistakes"]);
    for line in lines {
        ran.line(line, &[]);
    }
}

#[tokio::test]
async fn a_configuration_file_that_is_not_there_is_named() {
    for command in ["run", "config", "explain"] {
        let ran = Tool::bare()
            .run(&[command, "--config", "/nowhere/c.toml"])
            .await
            .code(78);
        ran.says(&["  /nowhere/c.toml: can't be read: No such file"]);
    }
}

/// `convgroup-deleter explain | head -1` is everyday use, and a full disk is no bug of this program.
#[tokio::test]
async fn output_that_nobody_takes_is_no_panic() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let refusing: [(&str, Stdio); 2] = [
        ("a closed pipe", writer.into()),
        ("a full disk", full.into()),
    ];
    for (what, stdout) in refusing {
        let args = ["explain"];
        let child = Tool::bare().command(&args).stdout(stdout).spawn().unwrap();
        let ran = Ran::of(&args, child).await;
        assert!(!ran.stderr.contains("panicked"), "{what}: {}", ran.all());
        assert_ne!(ran.code, Some(101), "{what}: {}", ran.all());
    }
}

/// A tool complains only about the sections it uses: publishing needs no key of the API.
#[tokio::test]
async fn a_tool_needs_only_its_own_sections() {
    let refused = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
    let ran = Tool::bare()
        .set("CONVGROUP_AMQP__URL", &refused)
        .run(&["publish", "--user", "u", "g"])
        .await
        .code(69);
    ran.silent_on_stdout();
    let ran = Tool::bare()
        .set("CONVGROUP_AMQP__PREFETCH", "0")
        .run(&["publish", "--user", "u", "g"])
        .await
        .code(78);
    ran.says(&["amqp.prefetch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_one_clear_line() {
    let world = World::new().await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", free_port()))
        .await
        .unwrap();
    let taken = listener.local_addr().unwrap();
    let ran = Tool::of(&world)
        .set("CONVGROUP_HTTP__LISTEN", taken)
        .run(&["run"])
        .await
        .code(1);
    ran.silent_on_stdout()
        .says(&[&format!("http.listen = {taken}"), "another instance"]);
    assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.all());
}

// --- publish

#[tokio::test(flavor = "multi_thread")]
async fn an_event_can_be_published_before_any_daemon_ran() {
    let world = World::new().await;
    let started_s = now_s();
    let ran = Tool::of(&world)
        .run(&["publish", "--user", "user15", "test0", "test1"])
        .await
        .code(0);
    ran.line("1 event published and confirmed", &[])
        .silent_on_stderr();
    let messages = world
        .broker
        .read(world.config.queue(), 1, Settle::Ack)
        .await;
    let message = &messages[0];
    assert_eq!(message.text(), event("user15", &["test0", "test1"]));
    let properties = &message.properties;
    assert_eq!(properties.delivery_mode(), &Some(2));
    let content_type = properties.content_type().as_ref().unwrap();
    assert_eq!(content_type.as_str(), "application/json");
    let id = properties.message_id().as_ref().unwrap().as_str();
    assert!(id.len() >= 16, "{id:?} is no id to follow a message by");
    let timestamp_s = properties.timestamp().unwrap();
    assert!(
        (started_s..=now_s()).contains(&timestamp_s),
        "{timestamp_s}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_from_a_file_or_from_standard_input() {
    let world = World::new().await;
    let tool = Tool::of(&world);
    let bodies: Vec<String> = (0..3)
        .map(|number| event(&format!("user{number}"), &["a"]))
        .collect();
    // Blank lines are no events, and the last line needs no line feed.
    let text = format!("\n{}\n  \n{}\n{}", bodies[0], bodies[1], bodies[2]);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    std::fs::write(&path, &text).unwrap();
    let path = path.display().to_string();
    let ran = tool.run(&["publish", "--file", &path]).await.code(0);
    ran.line("3 events published and confirmed", &[])
        .silent_on_stderr();
    let ran = tool.fed(&["publish", "--file", "-"], &text).await.code(0);
    ran.line("3 events published and confirmed", &[]);
    let messages = world
        .broker
        .read(world.config.queue(), 6, Settle::Ack)
        .await;
    let found: Vec<String> = messages.iter().map(Message::text).collect();
    assert_eq!(found, [bodies.clone(), bodies].concat());
    let id = |message: &Message| {
        message
            .properties
            .message_id()
            .as_ref()
            .map(ToString::to_string)
    };
    let ids: BTreeSet<_> = messages.iter().map(id).collect();
    assert_eq!(ids.len(), 6, "each event has an id of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_confirmed_event_is_counted_and_in_the_queue() {
    const EVENTS: u32 = 2000;
    let world = World::new().await;
    let lines = (0..EVENTS).map(|number| event(&format!("user{number}"), &["a"]) + "\n");
    let text: String = lines.collect();
    let ran = Tool::of(&world)
        .fed(&["publish", "--file", "-"], &text)
        .await
        .code(0);
    ran.line(&format!("{EVENTS} events published and confirmed"), &[]);
    world
        .broker
        .eventually_depth(world.config.queue(), EVENTS, PATIENCE)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_lines_are_numbered_and_nothing_is_published() {
    let world = World::new().await;
    let tool = Tool::of(&world);
    let good = event("user15", &["a"]);
    let text = format!("{good}\n\nnot json\n{good}\n{{\"From_Account\":\"user15\"}}\n");
    let ran = tool.fed(&["publish", "--file", "-"], &text).await.code(64);
    ran.silent_on_stdout().says(&[
        "2 of 4 events",
        "nothing was published",
        "line 3: the body is not JSON",
        "line 5: `GroupName` is missing",
    ]);
    assert!(
        !world.broker.has_queue(world.config.queue()).await,
        "a refused file must not even be begun"
    );
    let twelve = "broken\n".repeat(12);
    let ran = tool
        .fed(&["publish", "--file", "-"], &twelve)
        .await
        .code(64);
    ran.says(&["12 of 12 events", "line 10: ", "and 2 more"]);
    assert!(!ran.stderr.contains("line 11: "), "{}", ran.all());
    let ran = tool.run(&["publish", "--file", "/nowhere"]).await.code(64);
    ran.silent_on_stdout().says(&["/nowhere can't be read"]);
}

/// An editor's byte order mark belongs to the file; what is no text in UTF-8 is named.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_as_editors_write_it() {
    let world = World::new().await;
    let tool = Tool::of(&world);
    let good = event("user15", &["a"]);
    let text = format!("\u{feff}{good}\r\n{good}\r\n");
    let ran = tool.fed(&["publish", "--file", "-"], &text).await.code(0);
    ran.line("2 events published and confirmed", &[]);
    let messages = world
        .broker
        .read(world.config.queue(), 2, Settle::Ack)
        .await;
    assert!(
        messages.iter().all(|message| message.text().trim() == good),
        "{messages:?}"
    );
    let dir = tempfile::tempdir().unwrap();
    let utf16 = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let files: [(&str, Vec<u8>); 2] = [("UTF-16", utf16), ("gzip", b"\x1f\x8b\x08\0\n".to_vec())];
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        let ran = tool.run(&["publish", "--file", path]).await.code(64);
        ran.silent_on_stdout()
            .says(&[path, &format!("it is {name}"), "nothing was published"]);
    }
    assert_eq!(world.broker.depth(world.config.queue()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn unchecked_lines_are_published_as_they_stand() {
    let world = World::new().await;
    let good = event("user15", &["a"]);
    let text = format!("not json\n{good}\n");
    let ran = Tool::of(&world)
        .fed(&["publish", "--unchecked", "--file", "-"], &text)
        .await
        .code(0);
    ran.line("2 events published and confirmed", &[]);
    let messages = world
        .broker
        .read(world.config.queue(), 2, Settle::Ack)
        .await;
    let found: Vec<String> = messages.iter().map(Message::text).collect();
    assert_eq!(found, ["not json", &good]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_exits_with_69() {
    let world = World::new().await;
    let addr = format!("127.0.0.1:{}", free_port());
    let tool = Tool::of(&world).set(
        "CONVGROUP_AMQP__URL",
        format!("amqp://guest:guest@{addr}/%2f"),
    );
    let ran = tool.run(&["publish", "--user", "u", "g"]).await.code(69);
    ran.silent_on_stdout().says(&[&addr]);
    // Refused by the broker itself: the same to a caller, told apart by the words.
    let port = shared_node().await.port();
    let ran = Tool::of(&world)
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqp://guest:wrong@127.0.0.1:{port}/%2f"),
        )
        .run(&["publish", "--user", "u", "g"])
        .await
        .code(69);
    ran.silent_on_stdout().says(&[
        "ACCESS_REFUSED - Login was refused",
        "user or password in amqp.url is wrong",
    ]);
    // One node of several that answers is enough.
    let url = world.config.get("CONVGROUP_AMQP__URL");
    let ran = Tool::of(&world)
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqp://guest:guest@{addr}/%2f,{url}"),
        )
        .run(&["publish", "--user", "u", "g"])
        .await
        .code(0);
    ran.line("1 event published", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_no_queue_takes_is_not_counted_as_published() {
    let world = World::new().await;
    let tool = Tool::of(&world).set("CONVGROUP_AMQP__DECLARE", "false");
    let exchange = world.config.exchange().to_owned();
    let ran = tool.run(&["publish", "--user", "u", "g"]).await;
    assert_ne!(ran.code, Some(0), "no exchange: {}", ran.all());
    ran.line("0 events published", &[])
        .says(&[&exchange, "1 of 1 events are not confirmed"]);
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let channel = world.broker.channel().await;
    channel
        .exchange_declare(
            exchange.as_str().into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    world.broker.declare_quorum(world.config.queue()).await;
    let ran = tool.run(&["publish", "--user", "u", "g"]).await;
    assert_ne!(ran.code, Some(0), "no binding: {}", ran.all());
    ran.line("0 events published", &[]).says(&[
        &exchange,
        "no queue bound",
        "routing key delete",
        "1 of 1 events are not confirmed",
    ]);
    assert_eq!(world.broker.depth(world.config.queue()).await, 0);
}

// --- check

#[tokio::test(flavor = "multi_thread")]
async fn check_has_a_line_for_each_part_that_is_ready() {
    let world = World::new().await;
    let tool = Tool::of(&world);
    let port = shared_node().await.port();
    let (base_url, queue) = (world.sandbox.base_url(), world.config.queue());
    let exchange = world.config.exchange();
    let ran = tool.run(&["check"]).await.code(0);
    let expected = format!(
        "ok    config   all values are valid\n\
         ok    broker   connected to amqp://guest:***@127.0.0.1:{port}/%2f\n\
         ok    exchange {exchange} is not there yet; the daemon declares and binds it when it starts\n\
         ok    queues   not all there yet: {queue}.dead {queue} {queue}.retry.1s; the daemon declares what is missing when it starts\n\
         ok    api      {base_url}: calls work (probe is healthy)\n"
    );
    assert_eq!(ran.stdout, expected, "{}", ran.all());
    ran.silent_on_stderr();
    assert!(
        !world.broker.has_queue(world.config.queue()).await,
        "a check changes nothing at the broker"
    );
    let _daemon = world.daemon().await;
    let ran = tool.run(&["check"]).await.code(0);
    let binding = "is there; binding: can't be asked over AMQP; the daemon makes it when it starts";
    ran.line("ok    queues", &["all there, with the arguments they need"])
        .line("ok    exchange", &[exchange, binding]);
    let ran = tool
        .set("CONVGROUP_AMQP__DECLARE", "false")
        .run(&["check"])
        .await
        .code(0);
    ran.line("ok    queues", &["all there"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_a_key_that_is_not_the_apps() {
    let world = World::new().await;
    let ran = Tool::of(&world)
        .set("CONVGROUP_IM__SECRET_KEY", "another")
        .run(&["check"])
        .await
        .code(1);
    ran.line("ok    broker", &[]).line(
        "FAIL  api",
        &[
            &world.sandbox.base_url(),
            "70009",
            "im.sdk_app_id and im.secret_key belong together",
        ],
    );
    world.sandbox.set_credentials(Credentials {
        secret_key: Some(SecretString::from("rotated")),
        admins: None,
    });
    let ran = Tool::of(&world).run(&["check"]).await.code(1);
    ran.line("FAIL  api", &["70009"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_exits_with_69_while_the_api_is_not_there() {
    let world = World::new().await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let ran = Tool::of(&world)
        .set("CONVGROUP_IM__BASE_URL", &nowhere)
        .run(&["check"])
        .await
        .code(69);
    ran.line("ok    broker", &[]).line(
        "FAIL  api",
        &[
            &nowhere,
            "connect, refused (",
            "the daemon tries again by itself",
        ],
    );
    // No resolver is asked for a label this long.
    let nobody = format!("http://{}.example", "a".repeat(64));
    let speaks_no_tls = format!("https://{}", world.sandbox.addr());
    for (base_url, why) in [
        (nobody, "connect, name not resolved ("),
        (
            speaks_no_tls,
            "connect, TLS failed: the port does not speak TLS (",
        ),
    ] {
        let ran = Tool::of(&world)
            .set("CONVGROUP_IM__BASE_URL", &base_url)
            .run(&["check"])
            .await
            .code(69);
        ran.line("FAIL  api", &[&base_url, why]);
    }
    world.fault(Fault::HttpStatus(502));
    let ran = Tool::of(&world).run(&["check"]).await.code(69);
    ran.line("FAIL  api", &["http_502"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_exits_with_69_while_the_broker_is_not_there() {
    let world = World::new().await;
    let addr = format!("127.0.0.1:{}", free_port());
    let ran = Tool::of(&world)
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqp://guest:guest@{addr}/%2f"),
        )
        .run(&["check"])
        .await
        .code(69);
    ran.line("FAIL  broker", &[&addr])
        .line("FAIL  queues", &["not checked"])
        .line("ok    api", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_that_a_port_does_not_speak_amqp_and_what_it_answered() {
    let world = World::new().await;
    let ran = Tool::of(&world)
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqp://guest:guest@{}/%2f", world.sandbox.addr()),
        )
        .run(&["check"])
        .await
        .code(69);
    ran.line(
        "FAIL  broker",
        &["the port does not speak AMQP; it answered \"HTTP/1.1 400"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_argument_in_which_a_queue_differs() {
    let world = World::new().await;
    let tool = Tool::of(&world);
    tool.run(&["publish", "--user", "u", "g"]).await.code(0);
    let tier = format!("{}.retry.1s", world.config.queue());
    redeclared(&world, &tier).await;
    let ran = tool.run(&["check"]).await.code(1);
    ran.line(
        "FAIL  queues",
        &[&tier, "'x-", "other arguments", "delete", "retry.tiers"],
    )
    .line("ok    api", &[]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_a_queue_that_the_daemon_may_not_declare() {
    let world = World::new().await;
    let ran = Tool::of(&world)
        .set("CONVGROUP_AMQP__DECLARE", "false")
        .run(&["check"])
        .await
        .code(1);
    ran.line(
        "FAIL  queues",
        &[
            &world.config.dead_queue(),
            "does not exist",
            "amqp.declare = true",
        ],
    );
}

/// The usual way into a conflict: somebody made the main queue by hand before any daemon ran.
#[tokio::test(flavor = "multi_thread")]
async fn check_finds_a_conflict_also_while_other_queues_are_missing() {
    let world = World::new().await;
    world.broker.declare_quorum(world.config.queue()).await;
    let ran = Tool::of(&world).run(&["check"]).await.code(1);
    let queue = world.config.queue();
    ran.line("FAIL  queues", &[queue, "'x-", "other arguments"]);
}

/// Replaces a queue by a plain one: quorum, but without the contract's other arguments.
async fn redeclared(world: &World, queue: &str) {
    let channel = world.broker.channel().await;
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await
        .expect("the queue can be deleted");
    world.broker.declare_quorum(queue).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_ready_needs_no_configuration_and_tells_what_the_daemon_says() {
    let world = World::new().await;
    let daemon = world.daemon().await;
    let url = format!("http://{}/readyz", daemon.addr());
    let tool = Tool::bare().set("CONVGROUP_AMQP__PREFETCH", "0");
    let ran = tool.run(&["check", "--ready", &url]).await.code(0);
    ran.silent_on_stdout().silent_on_stderr();
    drop(daemon);
    let ran = tool.run(&["check", "--ready", &url]).await.code(69);
    ran.silent_on_stdout().says(&[&url, "refused"]);

    let addr = format!("127.0.0.1:{}", free_port());
    let mut daemon = world
        .config
        .replica()
        .set(
            "CONVGROUP_AMQP__URL",
            format!("amqp://guest:guest@{addr}/%2f"),
        )
        .spawn();
    daemon.eventually_status("/readyz", 503, PATIENCE).await;
    let url = format!("http://{}/readyz", daemon.addr());
    let ran = tool.run(&["check", "--ready", &url]).await.code(69);
    ran.line("503", &["not connected to the broker"]);
}

// --- explain

async fn check_explained(tool: &Tool, code: &str, expect: Expect) {
    let ran = tool.run(&["explain", code]).await.code(0);
    ran.silent_on_stderr();
    expect.assert_eq(&ran.stdout);
}

#[tokio::test]
async fn explain_tells_meaning_consequence_and_advice() {
    let bare = Tool::bare();
    check_explained(
        &bare,
        "51011",
        expect![[r#"
            code     51011
            label    51011
            class    rejected
            meaning  the group name is longer than the API allows (32 bytes; newer pages say 64)
            message  a dead letter (rejected) at once
            answer   the name is told as dead_lettered, with the cause rejected and this code
            advice   look at the event: such a group can not exist
        "#]],
    )
    .await;
    check_explained(&bare, "timeout", expect![[r#"
        code     timeout
        label    timeout
        class    transient
        meaning  no complete reply within im.timeout
        message  quick retries in place, then a delay tier, then a dead letter (exhausted) when the attempts run out
        answer   nothing while the name travels; told as dead_lettered, with the cause exhausted and this code, when the attempts run out
        advice   the daemon tries again by itself; if it lasts, check the network and the status page of the API
    "#]]).await;
    check_explained(
        &bare,
        "http_429",
        expect![[r#"
            code     http_429
            label    http_4xx
            class    throttled
            meaning  HTTP status 429, too many requests
            message  the pace is cut for everything; the message is tried again, no attempt is counted
            answer   nothing: the name travels
            advice   nothing to do at once; if it lasts, lower rate_limit.calls_per_second
        "#]],
    )
    .await;
}

#[tokio::test]
async fn explain_says_what_happens_to_a_code_nobody_knows() {
    check_explained(&Tool::bare(), "99999", expect![[r#"
        code     99999 (not in the table)
        label    other
        class    unknown
        meaning  an ErrorCode that this table does not list
        message  the probe is asked; account healthy: counted retries, then a dead letter (exhausted); else the daemon suspends
        answer   nothing while the name travels; told as dead_lettered, with the cause exhausted and this code, when the attempts run out
        advice   look it up in the API's documentation; set its class by [policy.overrides] CODE = "…" in your configuration
    "#]]).await;
    let ran = Tool::bare().run(&["explain", "nonsense"]).await.code(64);
    ran.silent_on_stdout()
        .says(&["`nonsense` is no code", "timeout", "http_429"]);
}

#[tokio::test]
async fn explain_shows_an_override_and_what_it_replaces() {
    let tool = Tool::bare().set("CONVGROUP_POLICY__OVERRIDES__50001", "gone");
    check_explained(&tool, "50001", expect![[r#"
        code     50001
        label    50001
        class    gone (your [policy.overrides]; shipped as rejected)
        meaning  the user is not imported into the Chat backend
        message  acked, counted as gone
        answer   the name is told as gone, which counts as erased
        advice   check that the publisher sends the right user; where users are removed before their groups, set [policy.overrides] 50001 = "gone"
    "#]]).await;
    let tool = Tool::bare().set("CONVGROUP_POLICY__OVERRIDES__99999", "rejected");
    let ran = tool.run(&["explain", "99999"]).await.code(0);
    ran.line("class    rejected", &["shipped as unknown"]);
    let tool = Tool::bare().set("CONVGROUP_POLICY__OVERRIDES__50001", "deleted");
    let ran = tool.run(&["explain", "50001"]).await.code(78);
    ran.silent_on_stdout().says(&["policy.overrides.50001"]);
}

#[tokio::test]
async fn explain_without_a_code_lists_every_row_once() {
    let table = CodeTable::new(&BTreeMap::new());
    let codes: Vec<&str> = table.rows().map(|row| &*row.code).collect();
    let ran = Tool::bare().run(&["explain"]).await.code(0);
    let first = |line: &str| line.split(' ').next().map(str::to_owned);
    let listed: Vec<String> = ran.stdout.lines().filter_map(first).collect();
    assert_eq!(listed, codes);
    let ran = Tool::bare().run(&["explain", "--markdown"]).await.code(0);
    for code in codes {
        ran.line(&format!("| {code} |"), &[]);
    }
}

// --- config

/// The rows of `config`: key → (value, source).
fn rows(stdout: &str) -> BTreeMap<String, (String, String)> {
    let row = |line: &str| {
        let mut cells = line
            .split("  ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty());
        let [key, value, source] = [cells.next()?, cells.next()?, cells.next()?].map(str::to_owned);
        cells.next().is_none().then_some((key, (value, source)))
    };
    stdout
        .lines()
        .map(|line| row(line).unwrap_or_else(|| panic!("not key, value and source: {line}")))
        .collect()
}

#[tokio::test]
async fn config_shows_each_value_with_its_source_and_hides_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    std::fs::write(
        &path,
        "retry.max_attempts = 3\n[im]\nsdk_app_id = 1400000000\nsecret_key = \"hush-hush\"\n",
    )
    .unwrap();
    let path = path.display().to_string();
    let ran = Tool::bare()
        .set(
            "CONVGROUP_AMQP__URL",
            "amqp://u:hunter2@one,amqps://u:hunter3@two/chat",
        )
        .set("CONVGROUP_RETRY__TIERS", "1s,2s")
        .set("CONVGROUP_POLICY__OVERRIDES__50001", "gone")
        .run(&["config", "--config", &path])
        .await
        .code(0);
    ran.silent_on_stderr();
    let rows = rows(&ran.stdout);
    let row = |key: &str| {
        let (value, source) = rows
            .get(key)
            .unwrap_or_else(|| panic!("no {key}: {}", ran.all()));
        (value.as_str(), source.as_str())
    };
    assert_eq!(row("amqp.prefetch"), ("256", "default"));
    assert_eq!(row("retry.max_attempts"), ("3", &*format!("{path}:1")));
    assert_eq!(row("im.secret_key"), ("(hidden)", &*format!("{path}:4")));
    assert_eq!(row("im.base_url"), ("-", "not set"));
    assert_eq!(
        row("retry.tiers"),
        ("1s,2s", "environment CONVGROUP_RETRY__TIERS")
    );
    assert_eq!(
        row("amqp.url"),
        (
            "amqp://u:***@one:5672/%2f,amqps://u:***@two:5671/chat",
            "environment CONVGROUP_AMQP__URL"
        )
    );
    assert_eq!(
        row("policy.overrides.50001"),
        ("gone", "environment CONVGROUP_POLICY__OVERRIDES__50001")
    );
    for secret in ["hush", "hunter"] {
        assert!(!ran.stdout.contains(secret), "{}", ran.all());
    }
}

// --- usersig

fn signing() -> Tool {
    Tool::bare()
        .set("CONVGROUP_IM__SDK_APP_ID", SDK_APP_ID)
        .set("CONVGROUP_IM__IDENTIFIER", IDENTIFIER)
        .set("CONVGROUP_IM__SECRET_KEY", SECRET_KEY)
}

#[tokio::test]
async fn a_usersig_that_was_signed_decodes_as_ours() {
    let tool = signing();
    let ran = tool.run(&["usersig", "sign"]).await.code(0);
    ran.silent_on_stderr();
    let signed = ran.stdout.trim_end().to_owned();
    assert_eq!(
        ran.stdout,
        format!("{signed}\n"),
        "one line, ready for a pipe"
    );
    let app = SDK_APP_ID.parse().unwrap();
    let claims = usersig::verify(&signed, SECRET_KEY, app, IDENTIFIER, now_s()).unwrap();
    assert_eq!(claims.expire_s, 24 * 60 * 60);
    let shown = [
        ("identifier", IDENTIFIER),
        ("sdk_app_id", SDK_APP_ID),
        ("in time", "yes"),
        ("signature", "made with the configured key"),
        ("app", "the configured one"),
    ];
    let by_argument = tool.run(&["usersig", "decode", &signed]).await.code(0);
    let by_dash = tool.fed(&["usersig", "decode", "-"], &signed).await.code(0);
    let by_input = tool
        .fed(&["usersig", "decode"], &format!("{signed}\n"))
        .await
        .code(0);
    for ran in [by_argument, by_dash, by_input] {
        ran.silent_on_stderr();
        for (name, value) in shown {
            ran.line(&format!("{name} "), &[value]);
        }
        assert!(!ran.stdout.contains("NOT"), "{}", ran.all());
        assert!(!ran.stdout.contains(&claims.sig), "{}", ran.all());
    }
    let other = [
        "usersig",
        "sign",
        "--identifier",
        "other",
        "--lifetime",
        "1h",
    ];
    let ran = tool.run(&other).await.code(0);
    let claims = usersig::decode(ran.stdout.trim_end()).unwrap();
    assert_eq!((&*claims.identifier, claims.expire_s), ("other", 3600));
}

#[tokio::test]
async fn a_usersig_that_is_not_ours_or_out_of_time_exits_with_1() {
    let app: u64 = SDK_APP_ID.parse().unwrap();
    let now_s = now_s();
    let cases = [
        (
            usersig::sign(app, "another key", IDENTIFIER, now_s, 3600),
            ("signature", "NOT made with the configured key"),
        ),
        (
            usersig::sign(app + 1, SECRET_KEY, IDENTIFIER, now_s, 3600),
            ("app", "NOT the configured one"),
        ),
        (
            usersig::sign(app, SECRET_KEY, IDENTIFIER, now_s - 7200, 3600),
            ("in time", "no: it has expired"),
        ),
    ];
    for (signed, (name, value)) in cases {
        let ran = signing().run(&["usersig", "decode", &signed]).await.code(1);
        ran.line(&format!("{name} "), &[value]);
    }
}

#[tokio::test]
async fn garbage_is_no_usersig_and_is_not_repeated() {
    let whole = usersig::sign(1, SECRET_KEY, IDENTIFIER, now_s(), 3600);
    let cut = &whole[..whole.len() - 8];
    for garbage in ["garbage!", "AAAA", cut] {
        let ran = signing().fed(&["usersig", "decode"], garbage).await.code(1);
        ran.silent_on_stdout().says(&["this is no UserSig"]);
        assert!(!ran.stderr.contains(garbage), "{}", ran.all());
    }
}

#[tokio::test]
async fn a_usersig_can_be_looked_at_without_a_key_but_not_signed() {
    let signed = usersig::sign(7, "k", "somebody", 1_700_000_000, 3600);
    let tool = signing().unset("CONVGROUP_IM__SECRET_KEY");
    let ran = tool.run(&["usersig", "decode", &signed]).await.code(0);
    ran.line("signed ", &["2023-11-14T22:13:20Z"])
        .line("signature ", &["not checked"]);
    let ran = tool.run(&["usersig", "sign"]).await.code(78);
    ran.silent_on_stdout().says(&["im.secret_key"]);
}

// --- completions and man

#[tokio::test]
async fn completions_and_man_pages_know_every_command() {
    let ran = Tool::bare().run(&["completions", "bash"]).await.code(0);
    assert!(ran.stdout.contains("redrive") && ran.stdout.contains("--older-than"));
    let dir = tempfile::tempdir().unwrap();
    Tool::bare()
        .run(&["man", dir.path().to_str().unwrap()])
        .await
        .code(0);
    let page = std::fs::read_to_string(dir.path().join("convgroup-deleter-dlq-redrive.1")).unwrap();
    assert!(page.contains("canary"), "{page}");
    let nowhere = Tool::bare().run(&["man", "/nowhere/at/all"]).await.code(1);
    nowhere.says(&["/nowhere/at/all"]);
}
