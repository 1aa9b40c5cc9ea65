//! The scenarios, each a table.
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use convgroup_chat::usersig;
use im_sandbox::{Latency, Sandbox};
use secrecy::SecretString;

use crate::{collector, process};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::daemon::{IDENTIFIER, SDK_APP_ID, SECRET_KEY};
use convgroup_testkit::{Broker, Daemon, DaemonConfig, Node, Proxy, eventually, free_port};

const PATIENCE: Duration = Duration::from_secs(180);
const APP: u64 = 1_400_000_000;

/// What all scenarios share: one node.
pub(crate) struct Stage {
    node: Node,
    broker: Broker,
}

/// The two that are compared.
#[derive(Clone, Copy, PartialEq)]
enum Who {
    Bare,
    Daemon,
    /// The bare loop, with a message confirmed for each event.
    BareAnswering,
    /// The daemon, with answers.
    Answering,
}

impl Who {
    const fn answers(self) -> bool {
        matches!(self, Self::BareAnswering | Self::Answering)
    }
}

/// What one run took.
struct Run {
    seconds: f64,
    cpu_us_per_message: f64,
    peak_mib: f64,
    sandbox_load: f64,
}

impl Stage {
    pub(crate) async fn set() -> anyhow::Result<Self> {
        let node = Node::start().await;
        let broker = Broker::try_connect(&node.url()).await?;
        Ok(Self { node, broker })
    }

    /// Where and when: figures without it mean nothing.
    pub(crate) fn machine() -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split(": ").nth(1));
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let version = std::process::Command::new("dpkg-query")
            .args(["-W", "-f", "${Version}", "rabbitmq-server"])
            .output();
        let version = version
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned())
            .unwrap_or_default();
        format!(
            "Made by `make bench` on {} with convgroup-deleter {}, RabbitMQ {version}, on a machine with {cores} cores ({}), \
             broker, sandbox and daemon all on it over loopback. Compare the ratios, not the absolute figures.\n",
            &now.to_string()[..10],
            env!("CARGO_PKG_VERSION"),
            model.unwrap_or("unknown"),
        )
    }

    fn config(&self, base_url: &str) -> DaemonConfig {
        DaemonConfig::new(&self.node.url(), base_url)
            .program(built("convgroup-deleter"))
            .set("CONVGROUP_AMQP__PREFETCH", 256)
            .set("CONVGROUP_LOG__LEVEL", "info")
    }

    fn config_of(&self, who: Who, base_url: &str) -> DaemonConfig {
        let config = self.config(base_url);
        if who.answers() {
            config.answering()
        } else {
            config
        }
    }

    /// Declares what the daemon would, so that events can be queued before anybody runs.
    async fn queue_events(&self, config: &DaemonConfig, count: usize) -> anyhow::Result<()> {
        let publish = config
            .clone()
            .unset("CONVGROUP_HTTP__LISTEN")
            .args(&["publish", "--user", "first", "group"])
            .spawn();
        anyhow::ensure!(publish.finished(PATIENCE).await.0 == 0, "can't publish");
        let mut made = 1;
        while made < count {
            let batch = (count - made).min(5000);
            let bodies = (made..made + batch).map(|number| event(&format!("user{number}")));
            self.broker
                .publish_many(config.exchange(), "delete", bodies)
                .await;
            made += batch;
        }
        Ok(())
    }

    async fn drop_queues(&self, config: &DaemonConfig) {
        let channel = self.broker.channel().await;
        let mut names = vec![
            config.queue().to_owned(),
            config.dead_queue(),
            format!("{}.retry.1s", config.queue()),
        ];
        if config.answers() {
            names.push(config.ledger().to_owned());
        }
        for name in names {
            let _ = channel
                .queue_delete(name.into(), lapin::options::QueueDeleteOptions::default())
                .await;
        }
    }

    /// `count` queued events from the first call to the last ack.
    async fn run(
        &self,
        who: Who,
        count: usize,
        latency: &str,
        in_flight: u16,
    ) -> anyhow::Result<Run> {
        let port = free_port();
        let base_url = format!("http://127.0.0.1:{port}");
        let config = self
            .config_of(who, &base_url)
            .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 100_000)
            .set("CONVGROUP_AMQP__PREFETCH", in_flight);
        let mut sandbox = DaemonConfig::new("amqp://none", &base_url)
            .program(built("im-sandbox"))
            .args(&[
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--permissive",
                "--calls-per-second",
                "0",
                "--latency",
                latency,
            ])
            .set("IM_SANDBOX_SECRET_KEY", SECRET_KEY)
            .set("CONVGROUP_HTTP__LISTEN", format!("127.0.0.1:{port}"))
            .spawn();
        sandbox
            .eventually_status("/sandbox/healthz", 200, PATIENCE)
            .await;
        self.queue_events(&config, count).await?;
        let worker = spawn(who, &config, &base_url)?;
        eventually("the first call", PATIENCE, async || {
            calls(&sandbox).await > 0
        })
        .await;
        let (began, cpu, sandbox_cpu) = (
            Instant::now(),
            process::cpu(worker.pid()),
            process::cpu(sandbox.pid()),
        );
        let first = calls(&sandbox).await;
        eventually("the last call", PATIENCE, async || {
            calls(&sandbox).await >= count as u64
        })
        .await;
        let took = began.elapsed().as_secs_f64();
        self.broker
            .eventually_depth(config.queue(), 0, PATIENCE)
            .await;
        let done = (count as u64 - first) as f64;
        let run = Run {
            seconds: took / done * count as f64,
            cpu_us_per_message: process::cpu(worker.pid()).saturating_sub(cpu).as_secs_f64() * 1e6
                / done,
            peak_mib: process::memory_mib(worker.pid(), "VmHWM"),
            sandbox_load: process::cpu(sandbox.pid())
                .saturating_sub(sandbox_cpu)
                .as_secs_f64()
                / took,
        };
        drop(worker);
        self.drop_queues(&config).await;
        Ok(run)
    }
}

/// Throughput with the limit off.
pub(crate) async fn throughput(stage: &Stage) -> anyhow::Result<String> {
    const EVENTS: usize = 20_000;
    const ROUNDS: usize = 5;
    let mut text = format!(
        "## Throughput, cost and memory\n\n{EVENTS} queued events, 256 in flight, limit off; median of {ROUNDS} runs in turn.\n\n\
         | API latency | | messages/s | CPU per message | peak memory | sandbox's load (of one core) |\n|---|---|---|---|---|---|\n"
    );
    for latency in ["0ms..0ms", "50ms..50ms"] {
        let mut runs: [Vec<Run>; 2] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (who, runs) in [Who::Bare, Who::Daemon].into_iter().zip(&mut runs) {
                runs.push(stage.run(who, EVENTS, latency, 256).await?);
            }
        }
        let [bare, daemon] = runs.map(|runs| {
            let of = |get: fn(&Run) -> f64| median(&runs.iter().map(get).collect::<Vec<f64>>());
            (
                EVENTS as f64 / of(|run| run.seconds),
                of(|run| run.cpu_us_per_message),
                of(|run| run.peak_mib),
                of(|run| run.sandbox_load),
            )
        });
        let label = latency.split("..").next().unwrap_or(latency);
        for (name, row) in [("bare loop", bare), ("convgroup-deleter", daemon)] {
            writeln!(
                text,
                "| {label} | {name} | {:.0} | {:.0} µs | {:.1} MiB | {:.2} |",
                row.0, row.1, row.2, row.3
            )?;
        }
        writeln!(
            text,
            "| {label} | **ratio** | **{:.2}** | **{:.2}** | **{:.2}** | |",
            daemon.0 / bare.0,
            daemon.1 / bare.1,
            daemon.2 / bare.2
        )?;
    }
    text += "\nThe sandbox answers from memory; a load below 1 of one core says that it was not what held the run up. \
             All events were queued before the clock started.\n";
    Ok(text)
}

/// Published to acked at 50 events a second.
pub(crate) async fn latency(stage: &Stage) -> anyhow::Result<String> {
    const EVENTS: usize = 400;
    const ROUNDS: usize = 7;
    let mut text = format!(
        "## Latency, published to acked\n\n{EVENTS} events at 50/s, API latency 0, the daemon with its limit of 200/s; median of {ROUNDS} \
         rounds in turn, because a disk that stalls once shows in one round only. The ack's moment is taken on the wire, by a proxy \
         before the broker.\n\n| | p50 | p99 | worst of a round |\n|---|---|---|---|\n"
    );
    let mut rounds: [Vec<[f64; 3]>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (who, rounds) in [Who::Bare, Who::Daemon].into_iter().zip(&mut rounds) {
            let took = acked_after(stage, who, EVENTS).await?;
            rounds.push([0.5, 0.99, 1.0].map(|share| quantile(&took, share)));
        }
    }
    let rows = rounds.map(|rounds| {
        [0, 1, 2].map(|column| {
            median(
                &rounds
                    .iter()
                    .map(|round| round[column])
                    .collect::<Vec<f64>>(),
            )
        })
    });
    for (name, row) in ["bare loop", "convgroup-deleter"].into_iter().zip(&rows) {
        writeln!(
            text,
            "| {name} | {:.2} ms | {:.2} ms | {:.2} ms |",
            row[0], row[1], row[2]
        )?;
    }
    writeln!(
        text,
        "| **ratio** | **{:.2}** | **{:.2}** | **{:.2}** |",
        rows[1][0] / rows[0][0],
        rows[1][1] / rows[0][1],
        rows[1][2] / rows[0][2]
    )?;
    Ok(text)
}

/// Milliseconds from publishing to the ack, of each event.
async fn acked_after(stage: &Stage, who: Who, events: usize) -> anyhow::Result<Vec<f64>> {
    const PAUSE: Duration = Duration::from_millis(20);
    let sandbox = sandbox(Latency::default()).await?;
    let config = stage.config_of(who, &sandbox.base_url());
    let proxy = Proxy::start(stage.node.addr()).await;
    stage.queue_events(&config, 1).await?;
    let proxied = config.clone().set("CONVGROUP_AMQP__URL", proxy.amqp_url());
    let _worker = spawn(who, &proxied, &sandbox.base_url())?;
    eventually("the first ack", PATIENCE, async || !proxy.acks().is_empty()).await;
    let channel = stage.broker.channel().await;
    let mut published = Vec::new();
    let mut tick = tokio::time::interval(PAUSE);
    for number in 0..events {
        tick.tick().await;
        published.push(Instant::now());
        let body = event(&format!("user{number}"));
        let options = lapin::options::BasicPublishOptions::default();
        let (exchange, key) = (config.exchange().into(), "delete".into());
        channel
            .basic_publish(exchange, key, options, body.as_bytes(), persistent())
            .await?;
    }
    eventually("the last ack", PATIENCE, async || {
        proxy.acks().len() > events
    })
    .await;
    stage.drop_queues(&config).await;
    // Acks come in the order of the answers; at this rate that is the order of publishing.
    let acks = &proxy.acks()[1..];
    Ok(published
        .iter()
        .zip(acks)
        .map(|(from, to)| to.duration_since(*from).as_secs_f64() * 1e3)
        .collect())
}

/// How well the pace is kept at 200 calls a second, alone and through hand-overs.
pub(crate) async fn pace(stage: &Stage) -> anyhow::Result<String> {
    const SECONDS: u64 = 30;
    let mut text = format!(
        "## Pace\n\nLimit 200 calls per second, {SECONDS} s, taken where calls arrive.\n\n| | calls in the worst sliding second | mean calls/s |\n|---|---|---|\n"
    );
    for (name, replicas) in [
        ("one replica", 1),
        (
            "three replicas; the active one restarted, the next killed",
            3,
        ),
    ] {
        let sandbox = sandbox(Latency::new(5, 25)?).await?;
        let config = stage.config(&sandbox.base_url());
        stage
            .queue_events(&config, 200 * SECONDS as usize + 1000)
            .await?;
        let mut daemons: Vec<Daemon> = (0..replicas).map(|_| config.replica().spawn()).collect();
        sandbox.wait_until(|counters| counters.calls > 0).await;
        let began = Instant::now();
        if replicas > 1 {
            sandbox.wait_until(|counters| counters.calls >= 2000).await;
            let active = active(&daemons).await?;
            daemons[active].signal("TERM");
            daemons[active].wait_exit(PATIENCE).await;
            daemons.remove(active);
            daemons.push(config.replica().spawn());
            sandbox.wait_until(|counters| counters.calls >= 4000).await;
            let active = self::active(&daemons).await?;
            daemons[active].kill();
        }
        let left = Duration::from_secs(SECONDS).saturating_sub(began.elapsed());
        tokio::time::sleep(left).await;
        let moments: Vec<Instant> = sandbox.calls().iter().map(|call| call.instant).collect();
        let took = moments[moments.len() - 1]
            .duration_since(moments[0])
            .as_secs_f64();
        writeln!(
            text,
            "| {name} | {} | {:.1} |",
            worst_second(&moments),
            moments.len() as f64 / took
        )?;
        drop(daemons);
        stage.drop_queues(&config).await;
    }
    Ok(text)
}

/// What answers cost: against a bare loop that publishes and confirms a message for each event, and against the daemon without.
pub(crate) async fn answers(stage: &Stage) -> anyhow::Result<String> {
    const EVENTS: usize = 20_000;
    const ROUNDS: usize = 5;
    let mut text = format!(
        "## Answers\n\n{EVENTS} queued events, 256 in flight, API latency 0, limit off, each answered; median of {ROUNDS} runs in turn. The bare loop publishes and confirms one message per event before its ack.\n\n\
         | | messages/s | CPU per message | peak memory |\n|---|---|---|---|\n"
    );
    let who = [Who::BareAnswering, Who::Answering, Who::Daemon];
    let mut runs: [Vec<Run>; 3] = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (who, runs) in who.into_iter().zip(&mut runs) {
            runs.push(stage.run(who, EVENTS, "0ms..0ms", 256).await?);
        }
    }
    let rows = runs.map(|runs| {
        let of = |get: fn(&Run) -> f64| median(&runs.iter().map(get).collect::<Vec<f64>>());
        [
            EVENTS as f64 / of(|run| run.seconds),
            of(|run| run.cpu_us_per_message),
            of(|run| run.peak_mib),
        ]
    });
    let names = [
        "bare loop with a confirm",
        "convgroup-deleter with answers",
        "convgroup-deleter without",
    ];
    for (name, [rate, cpu, memory]) in names.into_iter().zip(rows) {
        writeln!(
            text,
            "| {name} | {rate:.0} | {cpu:.0} µs | {memory:.1} MiB |"
        )?;
    }
    let [bare, with, without] = rows;
    writeln!(
        text,
        "| **ratio, with answers to the bare loop** | **{:.2}** | **{:.2}** | **{:.2}** |\n\nAnswers take {:+.1} MiB at the peak.",
        with[0] / bare[0],
        with[1] / bare[1],
        with[2] / bare[2],
        with[2] - without[2]
    )?;
    let (worst, mean) = paced_with_answers(stage).await?;
    writeln!(
        text,
        "\nAt the limit of 200 calls per second: {mean:.1} calls/s in the mean, {worst} in the worst sliding second."
    )?;
    Ok(text)
}

/// What answers add to the time from published to acked, for the daemon and for a bare loop.
pub(crate) async fn answers_latency(stage: &Stage) -> anyhow::Result<String> {
    const EVENTS: usize = 400;
    const ROUNDS: usize = 9;
    const WHO: [(&str, Who); 4] = [
        ("bare loop", Who::Bare),
        ("bare loop with a confirm", Who::BareAnswering),
        ("convgroup-deleter without answers", Who::Daemon),
        ("convgroup-deleter with answers", Who::Answering),
    ];
    let mut rounds = WHO.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for ((_, who), rounds) in WHO.into_iter().zip(&mut rounds) {
            let took = acked_after(stage, who, EVENTS).await?;
            rounds.push([0.5, 0.99].map(|share| quantile(&took, share)));
        }
    }
    let rows = rounds.map(|rounds: Vec<[f64; 2]>| {
        [0, 1].map(|column| median(&rounds.iter().map(|it| it[column]).collect::<Vec<f64>>()))
    });
    let mut text = format!(
        "## Latency with answers\n\nPublished to acked, {EVENTS} events at 50/s, median of {ROUNDS} rounds in turn.\n\n| | p50 | p99 |\n|---|---|---|\n"
    );
    for ((name, _), [p50, p99]) in WHO.into_iter().zip(rows) {
        writeln!(text, "| {name} | {p50:.2} ms | {p99:.2} ms |")?;
    }
    let [bare, bare_with, without, with] = rows;
    for (name, [from, to]) in [
        ("bare loop", [bare, bare_with]),
        ("daemon", [without, with]),
    ] {
        let [p50, p99] = [0, 1].map(|column| to[column] - from[column]);
        writeln!(
            text,
            "| **added, {name}** | **{p50:+.2} ms** | **{p99:+.2} ms** |"
        )?;
    }
    Ok(text)
}

/// The pace with answers, over 20 s: calls in the worst sliding second, and in the mean.
async fn paced_with_answers(stage: &Stage) -> anyhow::Result<(usize, f64)> {
    const CALLS: u64 = 4000;
    let sandbox = sandbox(Latency::new(5, 25)?).await?;
    let config = stage.config_of(Who::Answering, &sandbox.base_url());
    stage.queue_events(&config, CALLS as usize + 1000).await?;
    let _daemon = config.spawn();
    sandbox.wait_until(|counters| counters.calls >= CALLS).await;
    let moments: Vec<Instant> = sandbox.calls().iter().map(|call| call.instant).collect();
    let took = moments[moments.len() - 1].duration_since(moments[0]);
    stage.drop_queues(&config).await;
    Ok((
        worst_second(&moments),
        moments.len() as f64 / took.as_secs_f64(),
    ))
}

/// What traces cost at the limit of 200 calls a second, with a collector that takes them.
pub(crate) async fn traces(stage: &Stage) -> anyhow::Result<String> {
    const CALLS: u64 = 3000;
    const ROUNDS: usize = 5;
    let collector = collector::start().await?;
    let mut rounds: [Vec<[f64; 2]>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (endpoint, rounds) in [None, Some(&*collector)].into_iter().zip(&mut rounds) {
            rounds.push(cost_at_the_limit(stage, endpoint, CALLS).await?);
        }
    }
    let [off, on] = rounds.map(|rounds| {
        [0, 1].map(|column| median(&rounds.iter().map(|it| it[column]).collect::<Vec<f64>>()))
    });
    Ok(format!(
        "## Traces\n\n{CALLS} calls at 200/s, API latency 5 to 25 ms, two spans for each message; median of {ROUNDS} runs in turn.\n\n\
         | | CPU per message | peak memory |\n|---|---|---|\n\
         | without traces | {:.0} µs | {:.1} MiB |\n| with traces | {:.0} µs | {:.1} MiB |\n| **ratio** | **{:.2}** | **{:.2}** |\n",
        off[0],
        off[1],
        on[0],
        on[1],
        on[0] / off[0],
        on[1] / off[1],
    ))
}

/// CPU in µs per message at the limit, and the peak of memory in MiB.
async fn cost_at_the_limit(
    stage: &Stage,
    endpoint: Option<&str>,
    count: u64,
) -> anyhow::Result<[f64; 2]> {
    const WARM: u64 = 200;
    let sandbox = sandbox(Latency::new(5, 25)?).await?;
    let mut config = stage.config(&sandbox.base_url());
    if let Some(endpoint) = endpoint {
        config = config.set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    }
    stage
        .queue_events(&config, (WARM + count) as usize + 1000)
        .await?;
    let daemon = config.spawn();
    let calls = |calls| sandbox.wait_until(move |counters| counters.calls >= calls);
    calls(WARM).await;
    let began = process::cpu(daemon.pid());
    calls(WARM + count).await;
    let took = process::cpu(daemon.pid()).saturating_sub(began);
    if endpoint.is_some() {
        let exported = [("result", "exported")];
        let exported = daemon
            .metrics()
            .await
            .value("convgroup_spans_total", &exported);
        anyhow::ensure!(exported > count as f64, "only {exported} spans were sent");
    }
    let peak = process::memory_mib(daemon.pid(), "VmHWM");
    drop(daemon);
    stage.drop_queues(&config).await;
    Ok([took.as_secs_f64() * 1e6 / count as f64, peak])
}

/// Memory with a long queue and everything in flight, after so many events that every buffer was used from end to end.
pub(crate) async fn memory(stage: &Stage) -> anyhow::Result<String> {
    const EVENTS: usize = 200_000;
    const DONE: u64 = 100_000;
    let sandbox = sandbox(Latency::new(0, 0)?).await?;
    let config = stage
        .config(&sandbox.base_url())
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 100_000);
    stage.queue_events(&config, EVENTS).await?;
    let daemon = config.spawn();
    sandbox.wait_until(|counters| counters.calls >= DONE).await;
    let in_flight = daemon.metrics().await.value("convgroup_in_flight", &[]);
    let (now, peak) = (
        process::memory_mib(daemon.pid(), "VmRSS"),
        process::memory_mib(daemon.pid(), "VmHWM"),
    );
    stage.drop_queues(&config).await;
    Ok(format!(
        "## Memory\n\nAfter {DONE} of {EVENTS} queued events, {in_flight} in hand: {now:.1} MiB resident, {peak:.1} MiB at its peak.\n"
    ))
}

/// From exec to work.
pub(crate) async fn start(stage: &Stage) -> anyhow::Result<String> {
    const ROUNDS: usize = 5;
    let (mut deliveries, mut first_calls) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let sandbox = sandbox(Latency::default()).await?;
        let config = stage.config(&sandbox.base_url());
        stage.queue_events(&config, 10).await?;
        let (began, at) = (
            Instant::now(),
            SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64(),
        );
        let daemon = config.spawn();
        sandbox.wait_until(|counters| counters.calls > 0).await;
        first_calls.push(began.elapsed().as_secs_f64() * 1e3);
        let delivered = daemon
            .metrics()
            .await
            .value("convgroup_last_delivery_timestamp_seconds", &[]);
        deliveries.push((delivered - at) * 1e3);
        stage.drop_queues(&config).await;
    }
    Ok(format!(
        "## Start\n\nFrom exec, median of {ROUNDS}: {:.0} ms to the last of ten first deliveries, {:.0} ms to the first call (of which 1000 ms are the pause of a hand-over).\n",
        median(&deliveries),
        median(&first_calls)
    ))
}

/// How cost grows with the backlog and with the calls in flight.
pub(crate) async fn growth(stage: &Stage) -> anyhow::Result<String> {
    let mut text = "## How cost grows\n\n| | messages/s | CPU per message | peak memory |\n|---|---|---|---|\n".to_owned();
    for events in [5_000, 20_000, 80_000] {
        let run = stage.run(Who::Daemon, events, "0ms..0ms", 256).await?;
        writeln!(
            text,
            "| backlog {events}, 256 in flight, latency 0 | {:.0} | {:.0} µs | {:.1} MiB |",
            events as f64 / run.seconds,
            run.cpu_us_per_message,
            run.peak_mib
        )?;
    }
    for in_flight in [16, 64, 256] {
        let events = usize::from(in_flight) * 40;
        let run = stage
            .run(Who::Daemon, events, "50ms..50ms", in_flight)
            .await?;
        writeln!(
            text,
            "| {in_flight} in flight, latency 50 ms | {:.0} | {:.0} µs | {:.1} MiB |",
            events as f64 / run.seconds,
            run.cpu_us_per_message,
            run.peak_mib
        )?;
    }
    Ok(text)
}

fn event(user: &str) -> String {
    format!(r#"{{"From_Account":"{user}","GroupName":["group"]}}"#)
}

async fn sandbox(latency: Latency) -> anyhow::Result<Sandbox> {
    let config = im_sandbox::Config {
        secret_key: SecretString::from(SECRET_KEY),
        admins: vec![IDENTIFIER.to_owned()],
        calls_per_second: 0,
        permissive: true,
        record: true,
        latency,
        ..im_sandbox::Config::default()
    };
    Ok(Sandbox::start(config).await?)
}

fn spawn_bare(config: &DaemonConfig, base_url: &str) -> anyhow::Result<Daemon> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let usersig = usersig::sign(APP, SECRET_KEY, IDENTIFIER, now_s, 86_400);
    let url = format!(
        "{base_url}/v4/recentcontact/del_contact_group?sdkappid={SDK_APP_ID}&identifier={IDENTIFIER}&usersig={usersig}&random=1&contenttype=json"
    );
    Ok(config
        .clone()
        .program(std::env::current_exe()?)
        .args(&[])
        .set("BARE_URL", url)
        .spawn())
}

fn spawn(who: Who, config: &DaemonConfig, base_url: &str) -> anyhow::Result<Daemon> {
    match who {
        Who::Bare | Who::BareAnswering => spawn_bare(config, base_url),
        Who::Daemon | Who::Answering => Ok(config.spawn()),
    }
}

/// The replica that works: the one with messages in hand.
async fn active(daemons: &[Daemon]) -> anyhow::Result<usize> {
    for (index, daemon) in daemons.iter().enumerate() {
        if let Ok((200, text)) = daemon.try_http("/metrics").await
            && convgroup_testkit::Metrics::parse(&text).value("convgroup_in_flight", &[]) > 0.0
        {
            return Ok(index);
        }
    }
    anyhow::bail!("no replica works")
}

async fn calls(sandbox: &Daemon) -> u64 {
    let counters = sandbox
        .try_http("/sandbox/counters")
        .await
        .map(|(_, body)| body)
        .unwrap_or_default();
    serde_json::from_str::<serde_json::Value>(&counters)
        .ok()
        .and_then(|c| c["calls"].as_u64())
        .unwrap_or(0)
}

fn built(name: &str) -> PathBuf {
    convgroup_testkit::built(name)
}

fn worst_second(moments: &[Instant]) -> usize {
    let second = Duration::from_secs(1);
    let mut from = 0;
    let mut worst = 0;
    for (to, moment) in moments.iter().enumerate() {
        while moment.duration_since(moments[from]) >= second {
            from += 1;
        }
        worst = worst.max(to + 1 - from);
    }
    worst
}

fn quantile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let index = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1;
    values[index]
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}
