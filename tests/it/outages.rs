//! Guarantee 2: an API that is away, refuses everybody or throttles moves no backlog into the dead letters, sees few calls
//! meanwhile, and is found again without anybody's help.
use im_sandbox::{Credentials, Fault, Latency, Probes, Rule};
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::world::{World, event, eventually_settled, seconds, settled};
use convgroup_testkit::daemon::SECRET_KEY;
use convgroup_testkit::{Daemon, Message, Metrics, PATIENCE, eventually, free_port};

/// Events that wait in the queue while the API is away.
const BACKLOG: usize = 150;
const BACKLOG_U32: u32 = 150;
/// `suspend.window`'s default.
const WINDOW: f64 = 20.0;
/// Calls that are on their way when the window trips or the probe goes out: they left at the pace, milliseconds before.
const ON_THEIR_WAY: f64 = 20.0;
/// Probes that must have failed before an outage ends; their pauses (0.2, 0.4, 0.8, 1 s, each a fifth shorter at worst) are
/// together longer than all quick retries of a call (0.2 and 0.4 s, a fifth longer at worst).
const PROBES: f64 = 4.0;

/// A backlog in the queue, and a daemon that counts each attempt as the last: whatever is counted, is dead.
async fn world() -> World {
    World::new().await.set("CONVGROUP_RETRY__MAX_ATTEMPTS", 1)
}

fn key(key: &str) -> Credentials {
    Credentials {
        secret_key: Some(SecretString::from(key)),
        ..Credentials::default()
    }
}

fn probes(metrics: &Metrics, result: &str) -> f64 {
    metrics.value("convgroup_probes_total", &[("result", result)])
}

/// What holds while the outage lasts, whatever it is: `result` is how the probes end, `reason` a part of what is said.
///
/// Waits for [`PROBES`] probes; besides them there were at most `calls_max` calls, and there are no more.
async fn suspended(
    daemon: &mut Daemon,
    depth: impl AsyncFn() -> u32,
    (result, reason, calls_max): (&str, &str, f64),
) {
    let metrics = daemon
        .eventually_metrics(&format!("{PROBES} {result} probes"), PATIENCE, |metrics| {
            probes(metrics, result) >= PROBES
        })
        .await;
    assert_eq!(
        metrics.value("convgroup_state", &[("state", "suspended")]),
        1.0
    );
    assert_eq!(
        metrics.value("convgroup_state", &[("state", "consuming")]),
        0.0
    );
    assert_eq!(metrics.sum("convgroup_suspensions_total"), 1.0);
    let calls = metrics.sum("convgroup_api_requests_total");
    assert!(
        calls <= calls_max,
        "{calls} calls, not {calls_max}\n{}",
        metrics.text
    );
    let (status, said) = daemon.http("/readyz").await;
    assert_eq!(status, 503, "{said}");
    assert!(
        said.starts_with("suspended: ") && said.contains(reason) && said.contains("next probe in"),
        "{said}"
    );
    assert_eq!(daemon.http("/livez").await.0, 200);
    eventually("everything is back in the queue", PATIENCE, async || {
        let found = depth().await;
        if found == BACKLOG_U32 {
            Ok(())
        } else {
            Err(found)
        }
    })
    .await;
    let after = daemon.metrics().await;
    assert_eq!(
        after.sum("convgroup_api_requests_total"),
        calls,
        "a suspended daemon calls nobody but the probe"
    );
    nothing_counted(&after);
}

fn nothing_counted(metrics: &Metrics) {
    for outcome in ["dead_lettered", "delayed"] {
        assert_eq!(
            settled(metrics, outcome),
            0.0,
            "{outcome}\n{}",
            metrics.text
        );
    }
    assert_eq!(metrics.sum("convgroup_dead_letters_total"), 0.0);
}

/// What holds once it is over: the same process has done everything.
async fn resumed(world: &World, mut daemon: Daemon, users: &[String]) {
    daemon.ready(PATIENCE).await;
    world.eventually_deleted(users, PATIENCE).await;
    let metrics = eventually_settled(&daemon, "deleted", BACKLOG_U32).await;
    nothing_counted(&metrics);
    assert!(probes(&metrics, "healthy") >= 1.0);
    world.nothing_is_left(&daemon).await;
}

/// From a cold start: the fault is there before the daemon is, and so is the backlog.
async fn outage(
    world: World,
    begin: impl FnOnce(&World),
    mend: impl FnOnce(&World),
    expected: (&str, &str, f64),
) {
    world.declare().await;
    let users = world.backlog(BACKLOG).await;
    begin(&world);
    let mut daemon = world.config.spawn();
    let depth = async || world.broker.depth(world.config.queue()).await;
    suspended(&mut daemon, depth, expected).await;
    // As the API itself has seen it, too; a probe may repeat its call once, with a new signature.
    let seen = world.sandbox.counters().calls as f64;
    let probes = daemon.metrics().await.sum("convgroup_probes_total") + 1.0;
    assert!(seen <= expected.2 + 2.0 * probes, "{seen} calls arrived");
    mend(&world);
    resumed(&world, daemon, &users).await;
}

/// One that answers every call, probes included, with `fault`.
async fn answered_with(fault: Fault, expected: (&str, &str, f64)) {
    let begin = |world: &World| world.fault(fault);
    let mend = |world: &World| world.sandbox.clear_faults();
    outage(world().await, begin, mend, expected).await;
}

/// Nothing listens at the API's address when the daemon starts; later somebody does.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_refuses_connections_is_waited_for() {
    let world = world().await;
    world.declare().await;
    let users = world.backlog(BACKLOG).await;
    let gone = world.api_gone().await;
    let mut daemon = gone.config.spawn();
    let depth = async || gone.broker.depth(gone.config.queue()).await;
    suspended(
        &mut daemon,
        depth,
        ("unreachable", "connect", WINDOW + ON_THEIR_WAY),
    )
    .await;
    let world = gone.back().await;
    world.add(&users);
    resumed(&world, daemon, &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_behind_a_broken_gateway_is_waited_for() {
    let expected = ("unreachable", "http_502", WINDOW + ON_THEIR_WAY);
    answered_with(Fault::HttpStatus(502), expected).await;
}

/// Calls leave at the pace until the first of them time out.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_hangs_is_waited_for() {
    let (pace, timeout_s) = (50, 0.5);
    let world = world()
        .await
        .set("CONVGROUP_IM__TIMEOUT", "500ms")
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", pace);
    let begin = |world: &World| world.fault(Fault::Hang);
    let mend = |world: &World| world.sandbox.clear_faults();
    // Those that left while the window filled, and while the probe itself waited in vain for its turn.
    let calls_max = WINDOW + f64::from(pace) * timeout_s * 2.0 + ON_THEIR_WAY;
    let expected = ("unreachable", "timeout", calls_max);
    outage(world, begin, mend, expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_plan_suspends() {
    answered_with(Fault::code(60020), ("faulty", "60020", ON_THEIR_WAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_edition_suspends() {
    answered_with(Fault::code(51013), ("faulty", "51013", ON_THEIR_WAY)).await;
}

/// Signing anew does not help: after one try that is known, for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_signature_that_stays_stale_suspends() {
    answered_with(Fault::code(70001), ("faulty", "70001", ON_THEIR_WAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_at_the_start_suspends() {
    let other = "another key than the API's";
    let world = world().await.set("CONVGROUP_IM__SECRET_KEY", other);
    let begin = |_: &World| {};
    let mend = |world: &World| world.sandbox.set_credentials(key(other));
    outage(world, begin, mend, ("faulty", "70009", ON_THEIR_WAY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identifier_that_is_no_admin_suspends() {
    let admins = |names: &[&str]| Credentials {
        admins: Some(names.iter().map(ToString::to_string).collect()),
        ..Credentials::default()
    };
    let begin = |world: &World| world.sandbox.set_credentials(admins(&["somebody"]));
    let mend = |world: &World| {
        world
            .sandbox
            .set_credentials(admins(&["somebody", "administrator"]));
    };
    let expected = ("faulty", "50003", ON_THEIR_WAY);
    outage(world().await, begin, mend, expected).await;
}

/// The key is rotated at the API first, in the daemon's file later: no restart, no message harmed.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_is_read_from_its_file_without_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("key");
    std::fs::write(&file, SECRET_KEY).expect("the directory is ours");
    let mut world = world()
        .await
        .set("CONVGROUP_IM__SECRET_KEY_FILE", file.display());
    world.config = world.config.unset("CONVGROUP_IM__SECRET_KEY");
    let mut daemon = world.daemon().await;
    world.works(PATIENCE).await;
    let other = "the key after its rotation";
    world.sandbox.set_credentials(key(other));
    let users = world.backlog(BACKLOG).await;
    let depth = async || world.broker.depth(world.config.queue()).await;
    // One call more, the one that worked.
    let expected = ("faulty", "70009", ON_THEIR_WAY + 1.0);
    suspended(&mut daemon, depth, expected).await;
    std::fs::write(&file, other).expect("the directory is ours");
    resumed(&world, daemon, &users).await;
}

/// The API refuses all signatures for a minute: asked before that is over, it goes on refusing. `first` is what a message meets,
/// the probe meets 70050.
async fn throttled_for_a_minute(first: i64) {
    let world = world().await;
    world.declare().await;
    world.backlog(BACKLOG).await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(70050)).probes(Probes::Only));
    world.fault(Fault::code(first));
    let mut daemon = world.config.spawn();
    let readyz = |text: &str| -> Option<u64> {
        text.split_once("next probe in ")?
            .1
            .split_once(" s")?
            .0
            .parse()
            .ok()
    };
    let wait_s = eventually("the next probe is a minute off", PATIENCE, async || {
        let (status, said) = daemon
            .try_http("/readyz")
            .await
            .map_err(|err| err.to_string())?;
        let wait_s = readyz(&said).filter(|&wait_s| status == 503 && wait_s > 1);
        wait_s.filter(|_| said.contains("70050")).ok_or(said)
    })
    .await;
    assert!((50..=60).contains(&wait_s), "next probe in {wait_s} s");
    world
        .broker
        .eventually_depth(world.config.queue(), BACKLOG_U32, PATIENCE)
        .await;
    let calls = world.sandbox.counters().calls;
    assert!(calls as f64 <= ON_THEIR_WAY, "{calls} calls");
    let probed = daemon.metrics().await.sum("convgroup_probes_total");
    assert_eq!(
        probed,
        if first == 70050 { 0.0 } else { 1.0 },
        "a probe that comes too early prolongs what it asks about"
    );
    let one_more = world.sandbox.wait_until(|counters| counters.calls > calls);
    let silence = tokio::time::timeout(seconds(5), one_more).await;
    assert!(
        silence.is_err(),
        "the API is asked again before its minute is over: {:?}",
        world.sandbox.calls()
    );
    let metrics = daemon.metrics().await;
    assert_eq!(
        metrics.value("convgroup_state", &[("state", "suspended")]),
        1.0
    );
    nothing_counted(&metrics);
    // Who stops it does not have to wait for the minute.
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    world
        .broker
        .eventually_depth(world.config.queue(), BACKLOG_U32, PATIENCE)
        .await;
    assert_eq!(world.broker.depth(&world.config.dead_queue()).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_throttle_is_left_alone_for_a_minute() {
    throttled_for_a_minute(70050).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auth_throttle_that_the_probe_meets_is_left_alone_for_a_minute() {
    throttled_for_a_minute(70013).await;
}

/// Too few messages to fill the window: the last attempt of a message asks the probe before it becomes a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn few_messages_survive_a_long_outage() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 2)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 1);
    world.declare().await;
    let users = world.backlog(3).await;
    world.fault(Fault::HttpStatus(502));
    let daemon = world.config.spawn();
    let metrics = daemon
        .eventually_metrics("suspended", PATIENCE, |metrics| {
            probes(metrics, "unreachable") >= PROBES
        })
        .await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0, "{}", metrics.text);
    world.sandbox.clear_faults();
    world.eventually_deleted(&users, PATIENCE).await;
    let metrics = eventually_settled(&daemon, "deleted", 3).await;
    assert_eq!(settled(&metrics, "dead_lettered"), 0.0, "{}", metrics.text);
    world.nothing_is_left(&daemon).await;
}

/// Thirty users fail for ever while the API is healthy: they are exhausted, and nobody else waits for them.
#[tokio::test(flavor = "multi_thread")]
async fn a_partial_outage_harms_only_its_own() {
    const BAD: usize = 30;
    const GOOD: usize = 100;
    let world = World::new().await.set("CONVGROUP_RETRY__MAX_ATTEMPTS", 3);
    world.declare().await;
    // The bad ones first: they fill every window.
    let all = world.backlog(BAD + GOOD).await;
    let (bad, good) = all.split_at(BAD);
    for user in bad {
        world
            .sandbox
            .add_fault(Rule::new(Fault::code(50004)).user(user));
    }
    let daemon = world.daemon().await;
    world.eventually_deleted(good, seconds(20)).await;
    let metrics = eventually_settled(&daemon, "dead_lettered", BAD as u32).await;
    let kind = [("cause", "exhausted"), ("class", "transient")];
    assert_eq!(
        metrics.value("convgroup_dead_letters_total", &kind),
        BAD as f64
    );
    assert_eq!(metrics.sum("convgroup_suspensions_total"), 0.0);
    let mut dead: Vec<String> = world.dead(BAD).await.iter().map(Message::text).collect();
    dead.sort();
    let mut expected: Vec<String> = bad.iter().map(|user| event(user, &["a"])).collect();
    expected.sort();
    assert_eq!(dead, expected);
    // Three deliveries of three calls for a bad one; a probe for each full window and for each last attempt at most.
    let calls = metrics.sum("convgroup_api_requests_total");
    assert!(calls <= (GOOD + BAD * 9) as f64, "{calls} calls");
    let probes = probes(&metrics, "healthy");
    assert!(
        probes <= (BAD * 9) as f64 / WINDOW + BAD as f64,
        "{probes} probes"
    );
    world.nothing_is_left(&daemon).await;
}

/// A doubtful answer to one message is the probe's business, not everybody's: while others are deleted, they go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_doubtful_answer_holds_up_nobody_while_others_work() {
    let world = World::new().await.set("CONVGROUP_IM__TIMEOUT", "10s");
    world.declare().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(70107)).user("doubtful"));
    world
        .sandbox
        .add_fault(Rule::new(Fault::Hang).probes(Probes::Only));
    world.user("doubtful", &["a"]);
    let before = world.backlog(60).await;
    world.publish("doubtful", &["a"]).await;
    let behind = world.backlog(200).await;
    let mut daemon = world.daemon().await;
    world.eventually_deleted(&before, PATIENCE).await;
    world.eventually_deleted(&behind, PATIENCE).await;
    let metrics = daemon
        .eventually_metrics("all others are settled", PATIENCE, |metrics| {
            metrics.value("convgroup_in_flight", &[]) == 1.0
        })
        .await;
    assert_eq!(
        metrics.sum("convgroup_probes_total"),
        0.0,
        "the probe has not come back yet"
    );
    world.sandbox.clear_faults();
    daemon.ready(PATIENCE).await;
    world
        .eventually_deleted(&["doubtful".to_owned()], PATIENCE)
        .await;
    world.nothing_is_left(&daemon).await;
}

/// The probe that is turned away because others use up the limit says nothing about the account: it is made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_probe_is_made_again() {
    let world = World::new().await;
    world.declare().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(70107)).user("doubtful").times(1));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(60007)).probes(Probes::Only).times(2));
    world.user("doubtful", &["a"]);
    world.publish("doubtful", &["a"]).await;
    let daemon = world.daemon().await;
    let metrics = eventually_settled(&daemon, "delayed", 1).await;
    assert_eq!(probes(&metrics, "unreachable"), 2.0);
    assert_eq!(probes(&metrics, "healthy"), 1.0);
    assert_eq!(metrics.sum("convgroup_suspensions_total"), 0.0);
    assert_eq!(settled(&metrics, "returned"), 0.0);
    world
        .eventually_deleted(&["doubtful".to_owned()], PATIENCE)
        .await;
    world.nothing_is_left(&daemon).await;
}

/// The API turns bad while much is under way: what was deleted a moment ago does not keep the gate open.
async fn turns_bad_under_load(fault: Fault) {
    const IN_FLIGHT: u64 = 20;
    let world = world().await;
    world
        .sandbox
        .set_latency(Latency::new(100, 100).expect("a range"));
    world.declare().await;
    let users = world.backlog(BACKLOG).await;
    // The probe is not answered for so long that calls would go on meanwhile.
    let world = world.set("CONVGROUP_IM__TIMEOUT", "3s");
    let daemon = world.daemon().await;
    world
        .counted(PATIENCE, |counters| counters.deleted >= 20)
        .await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::Hang).probes(Probes::Only));
    world
        .sandbox
        .add_fault(Rule::new(fault).probes(Probes::Excluded));
    let before = world.sandbox.counters().calls;
    daemon
        .eventually_metrics("suspended", PATIENCE, |metrics| {
            metrics.value("convgroup_state", &[("state", "suspended")]) == 1.0
        })
        .await;
    let calls = world.sandbox.counters().calls - before;
    // Those on their way, as many answers as it takes to notice, and those on their way then; without the gate it were 600.
    let most = IN_FLIGHT + WINDOW as u64 + IN_FLIGHT + 40;
    assert!(calls <= most, "{calls} calls, not {most}");
    world.sandbox.clear_faults();
    resumed(&world, daemon, &users).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_breaks_under_load_sees_few_calls() {
    turns_bad_under_load(Fault::code(50004)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_answers_oddly_under_load_sees_few_calls() {
    turns_bad_under_load(Fault::code(99999)).await;
}

/// What a proxy's credentials hold, and nothing else does.
const PROXY_PASSWORD: &str = "tell7ale-proxy-password";

/// A proxy that answers every request with this, and connects to nobody.
async fn refusing_proxy(answer: &'static [u8]) -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = client.read(&mut request).await;
                let _ = client.write_all(answer).await;
                let _ = client.shutdown().await;
            });
        }
    });
    addr
}

/// A proxy that can't be used is named, in the log, in `/readyz` and by `check`; its credentials never are.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_proxy_is_named() {
    let gone = free_port();
    let wants_more = refusing_proxy(b"HTTP/1.1 407 no\r\ncontent-length: 0\r\n\r\n").await;
    let refuses = refusing_proxy(b"HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n").await;
    for (variable, base_url, at, word) in [
        ("HTTP_PROXY", None, format!("127.0.0.1:{gone}"), "refused"),
        (
            "HTTPS_PROXY",
            Some("https://api.invalid"),
            format!("127.0.0.1:{gone}"),
            "refused",
        ),
        (
            "ALL_PROXY",
            Some("https://api.invalid"),
            wants_more.to_string(),
            "wants a user and a password",
        ),
        (
            "https_proxy",
            Some("https://api.invalid"),
            refuses.to_string(),
            "does not connect to the API",
        ),
    ] {
        let mut world = World::new()
            .await
            .set(variable, format!("http://user:{PROXY_PASSWORD}@{at}"))
            .set("CONVGROUP_LOG__LEVEL", "trace")
            .set("CONVGROUP_SUSPEND__WINDOW", 1);
        if let Some(base_url) = base_url {
            world = world.set("CONVGROUP_IM__BASE_URL", base_url);
        }
        let named = format!("through the proxy {at} ({variable})");
        let (exit, output) = world.tool(&["check"]).await;
        assert_eq!(exit, 69, "{output}");
        assert!(output.contains(&named) && output.contains(word), "{output}");
        let mut daemon = world.daemon().await;
        world.publish("user15", &["a"]).await;
        let said = daemon.eventually_status("/readyz", 503, PATIENCE).await;
        assert!(said.contains(&named) && said.contains(word), "{said}");
        daemon.signal("TERM");
        daemon.exits_with(0, PATIENCE).await;
        let told = output + &said + &daemon.output();
        assert!(
            told.contains("calls to the API go through a proxy"),
            "{told}"
        );
        assert!(!told.contains(PROXY_PASSWORD), "{told}");
    }
}

/// Calls go through the proxy that the environment names, and directly to hosts that `NO_PROXY` names.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_used_unless_the_host_is_excepted() {
    let world = World::new().await;
    // The sandbox takes a proxy's requests as its own.
    let sandbox = world.sandbox.base_url();
    let through = world
        .tool_config(&["check"])
        .set("HTTP_PROXY", &sandbox)
        .set("CONVGROUP_IM__BASE_URL", "http://api.invalid");
    let (exit, output) = through.clone().spawn().finished(PATIENCE).await;
    assert_eq!(exit, 0, "{output}");
    assert!(
        output.contains("http://api.invalid through the proxy 127.0.0.1:"),
        "{output}"
    );
    let excepted = through.set("NO_PROXY", "other.invalid, .invalid");
    let (exit, output) = excepted.spawn().finished(PATIENCE).await;
    assert_eq!(exit, 69, "{output}");
    assert!(output.contains("name not resolved"), "{output}");
    assert!(!output.contains("proxy"), "{output}");
}

/// A variable that names no proxy is a mistake in the configuration, named by the variable and not repeated.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_for_a_proxy_is_a_configuration_mistake() {
    let world = World::new().await;
    for value in [
        format!("http://user:{PROXY_PASSWORD}@"),
        format!("socks5://user:{PROXY_PASSWORD}@127.0.0.1:1080"),
        format!("{PROXY_PASSWORD} {PROXY_PASSWORD}"),
    ] {
        let config = world.config.clone().set("HTTP_PROXY", &value);
        for args in [&["run"][..], &["check"]] {
            let (exit, output) = config.clone().args(args).spawn().finished(PATIENCE).await;
            assert_eq!(exit, 78, "{output}");
            assert!(output.contains("environment HTTP_PROXY: "), "{output}");
            assert!(!output.contains(PROXY_PASSWORD), "{output}");
        }
        // It is nobody's business where it is not used.
        let unused = config.set("NO_PROXY", "127.0.0.1").args(&["check"]);
        let (exit, output) = unused.spawn().finished(PATIENCE).await;
        assert_eq!(exit, 0, "{output}");
    }
}
