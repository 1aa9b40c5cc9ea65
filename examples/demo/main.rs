//! `make demo` and `make run`: the daemon at work on one machine, with a real RabbitMQ and a sandbox of the API.
//!
//! `demo` publishes `config/demo/events.ndjson`, prints what became of every event and checks that the sums agree.
//! `demo run` runs the daemon in the foreground instead. `AMQP_URL` names a RabbitMQ to use; without it a private throw-away
//! node is started. `KEEP=1` leaves everything running after the demo.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "metrics are f64, and counts of 2,000 events fit everywhere"
)]

mod expected;

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use convgroup_domain::outcome::{End, OutcomeEvent, Status};
use convgroup_domain::quote;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use convgroup_testkit::{
    Broker, Daemon, DaemonConfig, Metrics, Node, PATIENCE, Settle, eventually, free_port,
};
use expected::Expected;

const EVENTS: &str = "config/demo/events.ndjson";
const USERS: &str = "config/demo/users.ndjson";
const SETTINGS: &str = "config/demo/convgroup.toml";
/// 2,000 events at 200 calls a second take about 15 s; a busy machine may take far longer.
const DEMO_PATIENCE: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> ExitCode {
    // The HTTP client wants to be told which cryptography to use, even where it uses none.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let run = std::env::args().nth(1).as_deref() == Some("run");
    let done = if run {
        foreground().await
    } else {
        demo().await
    };
    done.unwrap_or_else(|err| {
        eprintln!("demo: {err:#}");
        ExitCode::FAILURE
    })
}

/// Everything but the daemon: the broker, the sandbox, and the settings of a daemon between them.
struct Stage {
    node: Option<Node>,
    sandbox: Daemon,
    sandbox_url: String,
    broker: Broker,
    config: DaemonConfig,
}

impl Stage {
    async fn set() -> anyhow::Result<Self> {
        let given = std::env::var("AMQP_URL").ok().filter(|url| !url.is_empty());
        let node = match given {
            Some(_) => None,
            None => Some(Node::start().await),
        };
        let url = given
            .or_else(|| node.as_ref().map(Node::url))
            .unwrap_or_default();
        let broker = Broker::try_connect(&url)
            .await
            .context("RabbitMQ can't be reached")?;
        let port = free_port();
        let sandbox_url = format!("http://127.0.0.1:{port}");
        let mut sandbox = DaemonConfig::new(&url, &sandbox_url)
            .program(built("im-sandbox")?)
            .args(&["--listen", &format!("127.0.0.1:{port}"), "--seed", USERS])
            .set(
                "IM_SANDBOX_SECRET_KEY",
                convgroup_testkit::daemon::SECRET_KEY,
            )
            .set("CONVGROUP_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .spawn();
        sandbox
            .eventually_status("/sandbox/healthz", 200, PATIENCE)
            .await;
        let mut config = DaemonConfig::new(&url, &sandbox_url)
            .program(built("convgroup-deleter")?)
            .args(&["run", "--config", SETTINGS])
            .answering()
            .unset("CONVGROUP_RETRY__TIERS")
            .unset("CONVGROUP_LOG__FORMAT")
            .unset("CONVGROUP_LOG__LEVEL");
        if node.is_some() {
            // A node of its own: the contract's names are free.
            config = config
                .set("CONVGROUP_AMQP__QUEUE", "convgroup.delete")
                .set("CONVGROUP_AMQP__EXCHANGE", "convgroup")
                .set("CONVGROUP_OUTCOMES__EXCHANGE", "convgroup.outcomes")
                .set("CONVGROUP_OUTCOMES__LEDGER", "convgroup.outcomes.ledger");
        }
        Ok(Self {
            node,
            sandbox,
            sandbox_url,
            broker,
            config,
        })
    }

    fn introduce(&self) {
        let what = if self.node.is_some() {
            "a private throw-away node"
        } else {
            "from AMQP_URL"
        };
        println!(
            "RabbitMQ           {what}: {}",
            shown(self.config.get("CONVGROUP_AMQP__URL"))
        );
        println!("im-sandbox         {}", self.sandbox_url);
        println!(
            "convgroup-deleter  http://{}",
            self.config.get("CONVGROUP_HTTP__LISTEN")
        );
    }

    /// 20 users whose first calls fail, and 10 whose calls always fail.
    async fn misbehave(&self) -> anyhow::Result<()> {
        // No TLS: a machine without CAs can run the demo as well.
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(convgroup_host::trust::unused())
            .build()?;
        for (prefix, count, times) in [("flaky", 20, Some(3)), ("broken", 10, None)] {
            for number in 1..=count {
                let mut rule = serde_json::json!({
                    "what": { "code": 50004, "info": "internal server error" },
                    "user": format!("{prefix}{number:02}"),
                });
                if let Some(times) = times {
                    rule["times"] = times.into();
                }
                let url = format!("{}/sandbox/faults", self.sandbox_url);
                let reply = client.post(url).body(rule.to_string()).send().await?;
                ensure!(
                    reply.status().is_success(),
                    "the sandbox refuses a fault: {}",
                    reply.text().await?
                );
            }
        }
        Ok(())
    }

    /// Leaves a broker that is not ours as it was.
    async fn clear(&self) {
        if self.node.is_some() {
            return;
        }
        let queue = self.config.queue();
        let channel = self.broker.channel().await;
        for name in [
            queue.to_owned(),
            format!("{queue}.retry.1s"),
            format!("{queue}.retry.3s"),
            self.config.dead_queue(),
            self.config.ledger().to_owned(),
        ] {
            let _ = channel
                .queue_delete(name.into(), lapin::options::QueueDeleteOptions::default())
                .await;
        }
        for name in [self.config.exchange(), self.config.outcomes_exchange()] {
            let options = lapin::options::ExchangeDeleteOptions::default();
            let _ = channel.exchange_delete(name.into(), options).await;
        }
    }
}

async fn foreground() -> anyhow::Result<ExitCode> {
    let stage = Stage::set().await?;
    stage.introduce();
    println!(
        "\nPublish with:  . {}; {} publish --user user0001 group0\nStop with Ctrl-C.\n",
        word(&settings_file(&stage.config)?),
        word(&built("convgroup-deleter")?)
    );
    let mut child = std::process::Command::new(built("convgroup-deleter")?);
    child.args(["run", "--config", SETTINGS]);
    let mut child = tokio::process::Command::from(stage.config.apply(child)).spawn()?;
    // Ctrl-C reaches the daemon as well; it stops first.
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    stage.clear().await;
    Ok(ExitCode::from(
        u8::try_from(status.code().unwrap_or(1)).unwrap_or(1),
    ))
}

async fn demo() -> anyhow::Result<ExitCode> {
    let expected = Expected::read(Path::new(EVENTS), Path::new(USERS))?;
    let stage = Stage::set().await?;
    stage.introduce();
    stage.misbehave().await?;
    let mut daemon = stage.config.spawn();
    daemon.ready(PATIENCE).await;
    println!("\npublishing {EVENTS}: {} events", expected.events);
    let publisher = stage
        .config
        .clone()
        .unset("CONVGROUP_HTTP__LISTEN")
        .args(&[
            "publish",
            "--config",
            SETTINGS,
            "--unchecked",
            "--file",
            EVENTS,
        ])
        .spawn()
        .finished(PATIENCE)
        .await;
    ensure!(publisher.0 == 0, "publishing failed:\n{}", publisher.1);
    print!("  {}", publisher.1);
    let started = Instant::now();
    let metrics = worked_off(&daemon, expected.events).await;
    println!("  worked off in {:.1} s\n", started.elapsed().as_secs_f64());
    let agree = expected.compare(&metrics, &stage).await?;
    look_further(&stage)?;
    if std::env::var("KEEP").is_ok_and(|keep| keep == "1") {
        println!("\nKEEP=1: everything goes on until Ctrl-C.");
        tokio::signal::ctrl_c().await?;
    }
    daemon.signal("TERM");
    daemon.wait_exit(PATIENCE).await;
    stage.clear().await;
    Ok(if agree {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until every event has reached its end, and shows how far it is.
async fn worked_off(daemon: &Daemon, events: usize) -> Metrics {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("  {wide_bar} {pos}/{len} at their end, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::with_draw_target(Some(events as u64), target).with_style(style);
    let metrics = eventually("every event is at its end", DEMO_PATIENCE, async || {
        let metrics = daemon.metrics().await;
        let ended: f64 = ["deleted", "gone", "dead_lettered"]
            .iter()
            .map(|outcome| settled(&metrics, outcome))
            .sum();
        bar.set_position(ended as u64);
        if ended >= events as f64 && metrics.value("convgroup_in_flight", &[]) == 0.0 {
            Ok(metrics)
        } else {
            Err(ended)
        }
    })
    .await;
    bar.finish_and_clear();
    metrics
}

fn look_further(stage: &Stage) -> anyhow::Result<()> {
    println!("\nLook further (KEEP=1 make demo leaves all of it running)");
    println!(
        "  the daemon's page     http://{}/",
        stage.config.get("CONVGROUP_HTTP__LISTEN")
    );
    println!(
        "  its metrics           http://{}/metrics",
        stage.config.get("CONVGROUP_HTTP__LISTEN")
    );
    println!(
        "  the sandbox's counts  {}/sandbox/counters",
        stage.sandbox_url
    );
    println!("\nThe tools, with its settings");
    let program = built("convgroup-deleter")?;
    println!("  . {}", word(&settings_file(&stage.config)?));
    for command in [
        "dlq ls",
        "dlq show --code 51011 --limit 1",
        "explain 51011",
        "check",
        "publish --user user0001 group0",
    ] {
        println!("  {} {command}", word(&program));
    }
    Ok(())
}

/// A path as one word of a shell's line.
fn word(path: &Path) -> String {
    quote::shell(&path.to_string_lossy())
}

/// Writes the daemon's settings beside its binary, for a shell to read.
fn settings_file(config: &DaemonConfig) -> anyhow::Result<PathBuf> {
    let file = built("convgroup-deleter")?.with_file_name("demo.env");
    let settings = std::path::absolute(SETTINGS)?;
    let exports = format!(
        "{}export CONVGROUP_CONFIG={}\n",
        config.exports(),
        word(&settings)
    );
    std::fs::write(&file, exports)?;
    Ok(file)
}

/// A binary of the same build, relative to where the demo is started if it can be.
fn built(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let path = this
        .ancestors()
        .nth(2)
        .context("the demo is not in a target folder")?
        .join(name);
    ensure!(path.exists(), "{name} is not built; use `make demo`");
    let here = std::env::current_dir()?;
    Ok(path
        .strip_prefix(here)
        .map(|relative| Path::new(".").join(relative))
        .unwrap_or(path))
}

fn shown(url: &str) -> String {
    url.parse::<convgroup_broker::address::BrokerAddress>()
        .map_or_else(
            |_| "(not an AMQP url)".to_owned(),
            |address| address.to_string(),
        )
}

fn settled(metrics: &Metrics, outcome: &str) -> f64 {
    metrics.value("convgroup_messages_settled_total", &[("outcome", outcome)])
}

impl Expected {
    /// Prints what became of the events and holds it against what had to become of them; says whether all sums agree.
    async fn compare(&self, metrics: &Metrics, stage: &Stage) -> anyhow::Result<bool> {
        let number = |count: f64| count as usize;
        let [deleted, gone, dead, delayed] = ["deleted", "gone", "dead_lettered", "delayed"]
            .map(|outcome| number(settled(metrics, outcome)));
        let names =
            |outcome| number(metrics.value("convgroup_groups_total", &[("outcome", outcome)]));
        let letters = stage
            .broker
            .read(&stage.config.dead_queue(), dead, Settle::Requeue)
            .await;
        let mut kinds = std::collections::BTreeMap::new();
        for letter in &letters {
            let cause = letter.header_text("convgroup-cause").unwrap_or_default();
            let code = letter.header_text("convgroup-code").unwrap_or_default();
            *kinds.entry((cause, code)).or_insert(0) += 1;
        }
        println!("What became of {} events", self.events);
        println!("  deleted         {deleted:>6}");
        println!("  already gone    {gone:>6}");
        println!("  dead-lettered   {dead:>6}");
        for ((cause, code), count) in &kinds {
            let code = if code.is_empty() { "-" } else { code };
            println!("    {cause:<10} {code:<6} {count:>3}   {}", meaning(code));
        }
        println!("  delayed and tried again on the way: {delayed}\n");
        let sandbox = stage.sandbox.http("/sandbox/counters").await.1;
        let sandbox: serde_json::Value = serde_json::from_str(&sandbox)?;
        let counter =
            |name: &str| usize::try_from(sandbox[name].as_u64().unwrap_or(0)).unwrap_or(0);
        let left = stage.broker.depth(stage.config.queue()).await as usize;
        let answers = Answers::read(stage).await?;
        let checks = [
            (
                "every event has one end: deleted, gone or dead",
                self.events,
                deleted + gone + dead,
            ),
            (
                "events dead-lettered, counted from the file",
                self.dead_letters(),
                dead,
            ),
            (
                "  of these broken",
                self.malformed,
                kinds
                    .get(&("malformed".into(), String::new()))
                    .copied()
                    .unwrap_or(0),
            ),
            (
                "names deleted, counted from the file",
                self.deleted,
                names("deleted"),
            ),
            (
                "names deleted, counted by the sandbox",
                counter("deleted"),
                names("deleted"),
            ),
            (
                "names already gone, counted from the file",
                self.gone,
                names("gone"),
            ),
            ("messages left in the main queue", 0, left),
            (
                "every request answered, to its end",
                self.events,
                answers.closed,
            ),
        ];
        let truths = answers.truths(metrics, counter("deleted"), self.malformed);
        let mut agree = agrees(&[&checks[..], &truths[..]].concat());
        let worst = counter("calls_per_second_max");
        agree &= worst <= 200;
        println!(
            "  {}  most calls in any second (the API's limit is 200): {worst}",
            mark(worst <= 200)
        );
        Ok(agree)
    }
}

/// Prints each sum, what was expected and what was found; says whether all agree.
fn agrees(checks: &[(&str, usize, usize)]) -> bool {
    println!("Do the sums agree?");
    let mut agree = true;
    for &(what, wanted, found) in checks {
        agree &= wanted == found;
        println!(
            "  {}  {what}: {found}{}",
            mark(wanted == found),
            wanted_text(wanted, found)
        );
    }
    agree
}

/// What the ledger tells, read as a requester would: each answer once, by its id.
#[derive(Default)]
struct Answers {
    /// Requests of which every place is told.
    closed: usize,
    erased: usize,
    deleted: usize,
    dead: usize,
    malformed: usize,
}

impl Answers {
    async fn read(stage: &Stage) -> anyhow::Result<Self> {
        let mut answers = Self::default();
        let (mut seen, mut places) = (HashSet::new(), HashMap::<String, usize>::new());
        for message in stage.broker.read_stream(stage.config.ledger()).await {
            let event = OutcomeEvent::from_json(&message.body)?;
            if !seen.insert(event.id) {
                continue;
            }
            for result in &event.data.results {
                match result.outcome {
                    End::Deleted => answers.deleted += 1,
                    End::DeadLettered => answers.dead += 1,
                    End::Gone | End::Purged => {}
                }
                answers.erased += usize::from(result.outcome.is_erased());
            }
            answers.malformed += usize::from(event.data.status == Status::Malformed);
            let told = places.entry(event.data.request.id).or_default();
            *told += event.data.results.len();
            answers.closed += usize::from(*told == event.data.groups);
        }
        Ok(answers)
    }

    /// What the answers tell, held against the daemon's own count, the API's count of deletions, and the number of broken events.
    fn truths(
        &self,
        metrics: &Metrics,
        deleted: usize,
        malformed: usize,
    ) -> [(&'static str, usize, usize); 4] {
        let names =
            |outcome| metrics.value("convgroup_groups_total", &[("outcome", outcome)]) as usize;
        [
            (
                "every answer true: names told to be erased",
                names("deleted") + names("gone"),
                self.erased,
            ),
            (
                "  of these deleted, counted by the sandbox",
                deleted,
                self.deleted,
            ),
            (
                "  names told to be dead letters",
                names("dead_lettered"),
                self.dead,
            ),
            ("  events told to be broken", malformed, self.malformed),
        ]
    }
}

fn mark(good: bool) -> &'static str {
    if good { "ok  " } else { "FAIL" }
}

fn wanted_text(wanted: usize, found: usize) -> String {
    if wanted == found {
        String::new()
    } else {
        format!(", expected {wanted}")
    }
}

fn meaning(code: &str) -> String {
    use convgroup_domain::code::CodeTable;
    if code == "-" {
        return "the event can't be read".to_owned();
    }
    CodeTable::new(&std::collections::BTreeMap::new())
        .explain(code)
        .map_or_else(String::new, |row| row.meaning)
}
