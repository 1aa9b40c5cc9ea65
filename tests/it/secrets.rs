//! What is never written: the secret key, a UserSig, the AMQP password; and ids only where the operator wants them.
//!
//! Everything secret carries one marker and every id another, so that a piece of one is found as well as the whole.
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use convgroup_chat::signer::LIFETIME_S;
use convgroup_chat::usersig;
use convgroup_deleter::config::Log;
use convgroup_deleter::telemetry;
use im_sandbox::{Config, Credentials, Fault, Probes, Rule, Sandbox};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use prometheus::IntCounter;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use crate::world::{World, event, eventually_settled, settled};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::daemon::{IDENTIFIER, SDK_APP_ID};
use convgroup_testkit::{
    Daemon, DaemonConfig, Metrics, PATIENCE, Proxy, eventually, free_port, shared_node,
};

/// In every secret below, and nowhere else.
const SECRET: &str = "tell7ale-secret";
/// In every id below, and nowhere else.
const ID: &str = "tell7ale-id";
const KEY: &str = "tell7ale-secret-key-1f0c5d7e9b";
const PASSWORD: &str = "tell7ale-secret-password";
const AMQP_USER: &str = "teller";
const USER: &str = "tell7ale-id-üser";
const GROUP: &str = "tell7ale-id-group";

// --- the search

/// Every secret that stands in the text, with what is around it.
fn secrets_in(text: &str, since_s: u64) -> Vec<String> {
    let mut found = marks_in(text, &[SECRET, "usersig=", "TLS.sig", "TLS.identifier"]);
    let plain = text.replace("%2A", "*").replace("%2a", "*");
    for second in since_s..=now_s() {
        let signed = signed_at(second);
        let claims = usersig::decode(&signed).expect("it was signed a line ago");
        found.extend(marks_in(&plain, &[&claims.sig]));
        // In pieces, because a text may have been cut; each is long enough to stand nowhere else.
        for piece in signed.as_bytes().chunks_exact(PIECE_BYTES) {
            let piece = std::str::from_utf8(piece).expect("a UserSig is ASCII");
            found.extend(marks_in(&plain, &[piece]));
        }
    }
    found.extend(usersigs_in(&plain));
    found
}

const PIECE_BYTES: usize = 32;
/// A UserSig is never as short as this.
const USERSIG_BYTES_MIN: usize = 60;

/// Every run of text that can be taken apart as a UserSig, whoever signed it and when.
fn usersigs_in(text: &str) -> Vec<String> {
    let in_alphabet = |char: char| char.is_ascii_alphanumeric() || "*-_+/=".contains(char);
    let mut found = Vec::new();
    for run in text.split(|char| !in_alphabet(char)) {
        // A zlib stream begins with the byte 0x78, which is `e` and the first bits of the next letter.
        for (start, _) in run.match_indices('e') {
            let most = (run.len() - start) / 4 * 4;
            let ends = (USERSIG_BYTES_MIN..=most).step_by(4);
            let mut texts = ends.map(|length| &run[start..start + length]);
            found.extend(
                texts
                    .find(|text| usersig::decode(text).is_ok())
                    .map(str::to_owned),
            );
        }
    }
    found
}

fn ids_in(text: &str) -> Vec<String> {
    marks_in(text, &[ID])
}

fn marks_in(text: &str, marks: &[&str]) -> Vec<String> {
    const AROUND_CHARS: usize = 120;
    let lower = text.to_lowercase();
    let around = |at: usize| {
        let (before, after) = lower.split_at(at);
        let before: Vec<char> = before.chars().rev().take(AROUND_CHARS).collect();
        let before: String = before.iter().rev().collect();
        let after: String = after.chars().take(AROUND_CHARS).collect();
        format!("…{before}{after}…")
    };
    let places = marks.iter().map(|mark| lower.find(&mark.to_lowercase()));
    places.flatten().map(around).collect()
}

#[track_caller]
fn assert_nothing_is_told(what: &str, text: &str, since_s: u64) {
    let mut found = secrets_in(text, since_s);
    found.extend(ids_in(text));
    assert!(found.is_empty(), "{what} tells\n{}", found.join("\n"));
    assert!(!text.contains("panicked at"), "{what}\n{text}");
}

fn signed_at(second: u64) -> String {
    let app = SDK_APP_ID.parse().expect("the tests' app is a number");
    usersig::sign(app, KEY, IDENTIFIER, second, LIFETIME_S)
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs()
}

/// The first 12 hex digits of the SHA-256 of `APP:ID`.
fn hashed(id: &str) -> String {
    let digest = Sha256::digest(format!("{SDK_APP_ID}:{id}"));
    let hex = digest.iter().map(|byte| format!("{byte:02x}"));
    hex.take(6).fold(String::new(), |hex, byte| hex + &byte)
}

/// A search that finds nothing proves something only when it would have found it.
#[test]
fn the_search_finds_whatever_is_planted() {
    let since_s = now_s();
    let signed = signed_at(since_s);
    let foreign = usersig::sign(1, "another key", "somebody", 1_700_000_000, 60);
    let sig = usersig::decode(&signed).unwrap().sig;
    let planted = [
        KEY.to_owned(),
        format!("amqp://{AMQP_USER}:{PASSWORD}@host"),
        format!("https://host/v4?usersig={signed}&random=1"),
        format!("\"{signed}\""),
        format!("glued-{signed}-together"),
        format!("cut {}", &signed[..signed.len() / 2]),
        signed.replace('*', "%2A"),
        sig,
        format!("foreign {foreign},"),
        "/v4?UserSig=x".to_owned(),
    ];
    for text in planted {
        let text = format!("a line before\n{text}\nand one after");
        assert!(!secrets_in(&text, since_s).is_empty(), "{text}");
    }
    assert!(!ids_in(&format!("{{\"user\":\"{USER}\"}}")).is_empty());
    let harmless = "convgroup_usersig_expiry_timestamp_seconds 1.7e9 eJwNotAUserSig \
                    e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_nothing_is_told("a harmless text", harmless, since_s);
}

// --- the daemon

/// The shared node as a user whose password is recognised wherever it turns up.
async fn telltale_url(addr: impl ToString) -> String {
    static USER_ADDED: OnceCell<()> = OnceCell::const_new();
    let node = shared_node().await;
    let add = async || {
        node.ctl(&["add_user", AMQP_USER, PASSWORD]).await;
        node.ctl(&["set_permissions", AMQP_USER, ".*", ".*", ".*"])
            .await;
    };
    USER_ADDED.get_or_init(add).await;
    format!("amqp://{AMQP_USER}:{PASSWORD}@{}/%2f", addr.to_string())
}

/// A world in which everything secret is recognisable; its API is at an address that stays free when it has gone.
async fn telltale_world() -> World {
    let World { broker, config, .. } =
        World::at(&telltale_url(shared_node().await.addr()).await).await;
    let sandbox = Sandbox::start(Config {
        listen: ([127, 0, 0, 1], free_port()).into(),
        secret_key: SecretString::from(KEY),
        admins: vec![IDENTIFIER.to_owned()],
        ..Config::default()
    });
    let sandbox = sandbox.await.expect("a port that was claimed is free");
    let config = config
        .set("CONVGROUP_IM__BASE_URL", sandbox.base_url())
        .set("CONVGROUP_IM__SECRET_KEY", KEY)
        .set("CONVGROUP_LOG__LEVEL", "trace");
    World {
        broker,
        sandbox,
        config,
    }
}

fn key(key: &str) -> Credentials {
    Credentials {
        secret_key: Some(SecretString::from(key)),
        admins: None,
    }
}

/// All pages that can be looked at, one after the other.
async fn pages(daemon: &Daemon) -> String {
    let mut pages = String::new();
    for path in ["/metrics", "/readyz", "/livez", "/", "/tell"] {
        pages += &daemon.http(path).await.1;
    }
    pages
}

/// A group named after what is to happen to it.
fn group(label: &str) -> String {
    format!("{GROUP}-{label}")
}

/// Properties whose every free text holds an id.
fn telling_properties() -> BasicProperties {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut death = FieldTable::default();
    death.insert("reason".into(), text(USER));
    let mut headers = FieldTable::default();
    headers.insert("x-user".into(), text(USER));
    headers.insert(ID.into(), text(GROUP));
    headers.insert("traceparent".into(), text(GROUP));
    headers.insert("convgroup-info".into(), text(USER));
    headers.insert("convgroup-attempt".into(), text(USER));
    headers.insert(
        "x-death".into(),
        AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()),
    );
    persistent()
        .with_message_id("m-1".into())
        .with_correlation_id(USER.into())
        .with_type(USER.into())
        .with_reply_to(USER.into())
        .with_app_id(USER.into())
        .with_headers(headers)
}

/// Events that can't be read and yet hold ids, each where another mistake would be explained.
fn malformed() -> Vec<Vec<u8>> {
    let mut bodies: Vec<Vec<u8>> = [
        USER.to_owned(),
        format!("[\"{USER}\",[\"{GROUP}\"]]"),
        format!("{{\"From_Account\":[\"{USER}\"],\"GroupName\":[\"{GROUP}\"]}}"),
        format!("{{\"From_Account\":\"{USER}\",\"GroupName\":\"{GROUP}\"}}"),
        format!("{{\"From_Account\":\"{USER}\",\"GroupName\":[\"{GROUP}\",{{\"{GROUP}\":1}}]}}"),
        format!("{{\"From_Account\":\"{USER}\",\"GroupName\":[\"{GROUP}\",\"\"]}}"),
        format!("{{\"From_Account\":\"{USER}\",\"From_Account\":\"{USER}\",\"GroupName\":[\"{GROUP}\"]}}"),
        format!("{{\"From_Account\":\"{USER}\",\"GroupName\":[\"{GROUP}\"]"),
        format!("{{\"{USER}\":1}}"),
    ]
    .map(String::into_bytes)
    .into();
    bodies.push([USER.as_bytes(), b"\xff", GROUP.as_bytes()].concat());
    bodies
}

/// Faults that end in a dead letter: the network's, the server's, and answers that repeat the call.
fn dead_ends() -> Vec<(&'static str, Fault)> {
    vec![
        ("reset", Fault::Reset),
        ("close", Fault::Close),
        ("truncated", Fault::Truncated),
        ("hang", Fault::Hang),
        ("garbage", Fault::Garbage),
        ("huge", Fault::Huge),
        ("302", Fault::HttpStatus(302)),
        ("408", Fault::HttpStatus(408)),
        ("502", Fault::HttpStatus(502)),
        ("rejected", Fault::Echo(51011)),
        ("transient", Fault::Echo(50004)),
        ("unknown", Fault::Echo(99_999)),
        ("account", Fault::Echo(60020)),
    ]
}

/// Faults of everything, probes included: the daemon suspends and repeats why.
fn suspending() -> [Fault; 5] {
    [
        Fault::Echo(60020),
        Fault::Echo(70009),
        Fault::Echo(70001),
        Fault::Echo(99_999),
        Fault::HttpStatus(403),
    ]
}

/// Leads a daemon through every fault there is and returns all it has shown, in pages and in its output.
async fn everything_told(world: World) -> String {
    let proxy = Proxy::start(shared_node().await.addr()).await;
    let world = world
        .set("CONVGROUP_AMQP__URL", telltale_url(proxy.addr()).await)
        .set("CONVGROUP_IM__TIMEOUT", "1s")
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 1)
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 2)
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000);
    let mut daemon = world.daemon().await;
    let mut told = pages(&daemon).await;
    single_messages_fail(&world, &daemon).await;
    told += &pages(&daemon).await;
    told += &the_account_fails(&world, &mut daemon).await;
    told += &the_broker_fails(&proxy, &mut daemon).await;
    // Nothing listens any more where the API was.
    let World {
        broker,
        sandbox,
        config,
    } = world;
    sandbox.stop().await;
    let body = event(USER, &[&group("refused")]);
    let properties = telling_properties();
    broker
        .publish(config.exchange(), "delete", body.as_bytes(), properties)
        .await;
    let refused = [("code", "connect"), ("class", "transient")];
    daemon
        .eventually_metrics("a refused call", PATIENCE, |metrics| {
            metrics.sum_where("convgroup_api_requests_total", &refused) >= 1.0
        })
        .await;
    told += &pages(&daemon).await;
    daemon.signal("TERM");
    daemon.exits_with(0, PATIENCE).await;
    told + &daemon.output()
}

async fn single_messages_fail(world: &World, daemon: &Daemon) {
    let passing = [
        ("throttled", Fault::Echo(60007)),
        ("signature", Fault::Echo(70001)),
    ];
    let names = ["plain", "two", "throttled", "signature"].map(group);
    world.user(USER, &names.each_ref().map(String::as_str));
    for (label, fault) in passing {
        world
            .sandbox
            .add_fault(Rule::new(fault).group(&group(label)).times(1));
        told_event(world, &[label]).await;
    }
    told_event(world, &["plain", "two"]).await;
    for (label, fault) in dead_ends() {
        world
            .sandbox
            .add_fault(Rule::new(fault).group(&group(label)));
        told_event(world, &[label]).await;
    }
    for body in malformed() {
        world.publish_raw(&body, telling_properties()).await;
    }
    let dead = u32::try_from(dead_ends().len() + malformed().len()).expect("a few");
    eventually_settled(daemon, "dead_lettered", dead).await;
    eventually_done(daemon, 3.0).await;
}

/// Waits for deletions; one whose answer came too late is found gone the next time.
async fn eventually_done(daemon: &Daemon, count: f64) {
    let what = format!("{count} deleted or gone");
    daemon
        .eventually_metrics(&what, PATIENCE, |metrics| done(metrics) >= count)
        .await;
}

fn done(metrics: &Metrics) -> f64 {
    settled(metrics, "deleted") + settled(metrics, "gone")
}

async fn told_event(world: &World, labels: &[&str]) {
    let names: Vec<String> = labels.iter().map(|label| group(label)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world
        .publish_raw(event(USER, &names).as_bytes(), telling_properties())
        .await;
}

async fn the_account_fails(world: &World, daemon: &mut Daemon) -> String {
    let mut told = String::new();
    for fault in suspending() {
        let id = world.sandbox.add_fault(Rule::new(fault));
        told += &suspended_and_back(world, daemon, || {
            world.sandbox.remove_fault(id);
        })
        .await;
    }
    // The probe itself gets no answer.
    world
        .sandbox
        .add_fault(Rule::new(Fault::Reset).probes(Probes::Only));
    world.sandbox.add_fault(Rule::new(Fault::Echo(60020)));
    told += &suspended_and_back(world, daemon, || world.sandbox.clear_faults()).await;
    // The API has another key: each signature is refused, also the new ones.
    world.sandbox.set_credentials(key("another"));
    told += &suspended_and_back(world, daemon, || world.sandbox.set_credentials(key(KEY))).await;
    told
}

/// Publishes an event that suspends the daemon, looks at what it says about it, mends the fault, and waits for the deletion.
async fn suspended_and_back(world: &World, daemon: &mut Daemon, mend: impl FnOnce()) -> String {
    let before = done(&daemon.metrics().await);
    world.user(USER, &[&group("plain")]);
    told_event(world, &["plain"]).await;
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(reason.contains("suspended"), "{reason}");
    let told = pages(daemon).await;
    mend();
    eventually_done(daemon, before + 1.0).await;
    told
}

async fn the_broker_fails(proxy: &Proxy, daemon: &mut Daemon) -> String {
    proxy.cut();
    daemon.eventually_status("/readyz", 503, PATIENCE).await;
    let told = pages(daemon).await;
    proxy.restore();
    daemon.ready(PATIENCE).await;
    told
}

#[track_caller]
fn assert_ids_are_hashed(told: &str) {
    for id in [USER, &*group("plain"), &*group("two"), &*group("hang")] {
        assert!(told.contains(&hashed(id)), "no hash of {id} in\n{told}");
    }
    let trace = "a call ended without a reply";
    assert!(told.contains(trace), "log.level is not trace:\n{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_logs_and_pages_tell_no_secret_and_no_id() {
    let since_s = now_s();
    let told = everything_told(telltale_world().await).await;
    assert_nothing_is_told("the daemon", &told, since_s);
    assert_ids_are_hashed(&told);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_logs_and_pages_tell_no_secret_and_no_id() {
    let since_s = now_s();
    let world = telltale_world().await.set("CONVGROUP_LOG__FORMAT", "text");
    let told = everything_told(world).await;
    assert_nothing_is_told("the daemon", &told, since_s);
    assert_ids_are_hashed(&told);
}

#[tokio::test(flavor = "multi_thread")]
async fn revealed_ids_are_in_the_log_and_still_no_secret() {
    let since_s = now_s();
    let world = telltale_world()
        .await
        .set("CONVGROUP_LOG__REVEAL_IDS", "true");
    world.user(USER, &[&group("plain")]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::Echo(51011)).group(&group("rejected")));
    let mut daemon = world.daemon().await;
    told_event(&world, &["plain"]).await;
    told_event(&world, &["rejected"]).await;
    eventually_done(&daemon, 1.0).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let pages = pages(&daemon).await;
    daemon.signal("TERM");
    daemon.exits_with(0, PATIENCE).await;
    let output = daemon.output();
    for id in [USER, &*group("plain"), &*group("rejected")] {
        assert!(output.contains(id), "no {id} in\n{output}");
        assert!(
            !output.contains(&hashed(id)),
            "the hash of {id} in\n{output}"
        );
    }
    let found = secrets_in(&format!("{pages}{output}"), since_s);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(ids_in(&pages).is_empty(), "a page names an id:\n{pages}");
}

/// What the HTTP client says of a connection that failed is told, in the log and on the pages: its URL is not in it.
#[tokio::test(flavor = "multi_thread")]
async fn why_there_is_no_connection_is_told_without_the_signature() {
    let since_s = now_s();
    let world = telltale_world().await;
    let no_tls = format!("https://{}", world.sandbox.addr());
    let world = world
        .set("CONVGROUP_IM__BASE_URL", no_tls)
        .set("CONVGROUP_SUSPEND__WINDOW", 1);
    let mut daemon = world.daemon().await;
    told_event(&world, &["plain"]).await;
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    let why = "connect, TLS failed: the port does not speak TLS (";
    assert!(reason.contains(why), "{reason}");
    let pages = pages(&daemon).await;
    daemon.signal("TERM");
    daemon.exits_with(0, PATIENCE).await;
    let output = daemon.output();
    assert!(output.contains(why), "{output}");
    let metrics = pages.lines().filter(|line| line.starts_with("convgroup_"));
    for line in metrics {
        assert!(!line.contains("TLS"), "a label holds the cause: {line}");
    }
    assert_nothing_is_told("the daemon", &(pages + &output), since_s);
}

/// The broker refuses the password: what it says about that does not repeat it.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_not_repeated() {
    let since_s = now_s();
    let url = telltale_url(shared_node().await.addr()).await;
    let wrong = url.replace(PASSWORD, "tell7ale-secret-wrong");
    let world = telltale_world().await;
    let mut daemon = world
        .config
        .clone()
        .set("CONVGROUP_AMQP__URL", wrong)
        .spawn();
    let refused = |reason: &str| reason.contains("ACCESS_REFUSED");
    eventually("the refusal is told", PATIENCE, async || {
        let page = daemon
            .try_http("/readyz")
            .await
            .map_err(|err| err.to_string())?;
        if refused(&page.1) {
            Ok(())
        } else {
            Err(page.1)
        }
    })
    .await;
    let pages = pages(&daemon).await;
    daemon.signal("TERM");
    daemon.exits_with(0, PATIENCE).await;
    assert!(refused(&daemon.output()), "{}", daemon.output());
    assert_nothing_is_told("the daemon", &(pages + &daemon.output()), since_s);
}

/// A dead letter is kept for weeks and shown by tools: the API's text in it may name ids, never the signature.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_carries_no_signature() {
    let since_s = now_s();
    let world = telltale_world().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::Echo(51011)).group(&group("rejected")));
    let _daemon = world.daemon().await;
    told_event(&world, &["rejected"]).await;
    let dead = world.dead(1).await.remove(0);
    let info = dead.header_text("convgroup-info").unwrap();
    let found = secrets_in(&info, since_s);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

// --- a panic

const CHILD: &str = "SECRETS_PANIC_IN";

/// Runs itself as a child, because the hook is the process's own.
#[test]
fn a_panic_is_logged_without_its_text() {
    if let Ok(format) = std::env::var(CHILD) {
        let log = Log {
            json: format == "json",
            level: tracing::Level::TRACE,
            reveal_ids: false,
        };
        telemetry::start(log, IntCounter::new("dropped", "dropped").unwrap()).unwrap();
        let panicking = std::thread::spawn(|| panic!("{KEY} {USER} {}", signed_at(now_s())));
        drop(panicking.join());
        telemetry::flush();
        return;
    }
    let since_s = now_s();
    for format in ["json", "text"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "secrets::a_panic_is_logged_without_its_text",
                "--nocapture",
            ])
            .env(CHILD, format)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(
            text.contains("panic.at"),
            "no line about the panic:\n{text}"
        );
        assert!(text.contains("secrets.rs"), "the place is missing:\n{text}");
        let mut found = secrets_in(&text, since_s);
        found.extend(ids_in(&text));
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

// --- the tools

/// Runs a tool to its end and returns all it wrote.
async fn tool(config: &DaemonConfig, args: &[&str], code: i32) -> String {
    let mut tool = config.clone().args(args).spawn();
    let found = tool.wait_exit(PATIENCE).await;
    let output = tool.output();
    assert_eq!(found, code, "{args:?}\n{output}");
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_tell_no_secret_and_no_id() {
    let since_s = now_s();
    let world = telltale_world().await;
    let config = &world.config;
    let wrong_password = config
        .get("CONVGROUP_AMQP__URL")
        .replace(PASSWORD, "tell7ale-secret-wrong");
    let wrong_password = config.clone().set("CONVGROUP_AMQP__URL", wrong_password);
    let api_down = format!("http://127.0.0.1:{}", free_port());
    let api_down = config.clone().set("CONVGROUP_IM__BASE_URL", api_down);
    let broker_down = telltale_url(format!("127.0.0.1:{}", free_port())).await;
    let broker_down = config.clone().set("CONVGROUP_AMQP__URL", broker_down);
    let publish = ["publish", "--user", USER, GROUP];
    let mut told = tool(config, &["config"], 0).await;
    for (config, code) in [(config, 0), (&wrong_password, 69), (&broker_down, 69)] {
        told += &tool(config, &publish, code).await;
        told += &tool(config, &["check"], code).await;
    }
    told += &tool(&api_down, &["check"], 69).await;
    // No resolver is asked for a label this long.
    let nobody = format!("http://{}.example", "a".repeat(64));
    let speaks_no_tls = format!("https://{}", world.sandbox.addr());
    for (address, why) in [(nobody, "name not resolved"), (speaks_no_tls, "TLS failed")] {
        let config = config.clone().set("CONVGROUP_IM__BASE_URL", address);
        let checked = tool(&config, &["check"], 69).await;
        assert!(checked.contains(why), "{checked}");
        told += &checked;
    }
    for fault in suspending() {
        world.sandbox.clear_faults();
        world.fault(fault);
        told += &tool(config, &["check"], 1).await;
    }
    world.sandbox.clear_faults();
    world.sandbox.set_credentials(key("another"));
    told += &tool(config, &["check"], 1).await;
    let taken = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let taken = config
        .clone()
        .set("CONVGROUP_HTTP__LISTEN", taken.local_addr().unwrap());
    told += &tool(&taken, &["run"], 1).await;
    assert_nothing_is_told("a tool", &told, since_s);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_are_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.ndjson");
    std::fs::write(&path, malformed().join(&b'\n')).unwrap();
    let path = path.display().to_string();
    let config = DaemonConfig::new("amqp://127.0.0.1", "http://127.0.0.1");
    let told = tool(&config, &["publish", "--file", &path], 64).await;
    assert_nothing_is_told("publish", &told, now_s());
}

/// A mistake in the configuration is explained without quoting what stands at the place of a secret.
#[tokio::test(flavor = "multi_thread")]
async fn mistakes_beside_secrets_do_not_repeat_them() {
    let url = format!("amqp://{AMQP_USER}:{PASSWORD}@host");
    let files = [
        format!("[im]\nsecret_key = {KEY}\n"),
        format!("[im]\nsecret_key = \"{KEY}\n"),
        format!("[im]\nsecret_key = \"{KEY}\" x\n"),
        format!("[im]\nsecret_key = [\"{KEY}\"]\n"),
        format!("[im]\nsecret_key = {{ value = \"{KEY}\" }}\n"),
        format!("[im]\nsecret_keys = \"{KEY}\"\n"),
        format!("[im]\nsecret_key = \"{KEY}\"\nsecret_key_file = \"/nowhere\"\n"),
        format!("[im]\nsecret_key_file = \"{KEY}\"\n"),
        format!("[im]\nsecret_key_file = [\"{KEY}\"]\n"),
        format!("[im]\nsecret_key = \"other\"\nsecret_key_file = \"{KEY}\"\n"),
        format!("[im]\nsecret_key_file = \"{}\"\n", KEY.repeat(20)),
        format!("amqp.tls.key_file = \"-----BEGIN PRIVATE KEY-----\\n{KEY}/\"\n"),
        format!("amqp.url = \"http{url}\"\n"),
        format!("amqp.url = \"{url}:port\"\n"),
        format!("amqp.url = [[\"{url}\"]]\n"),
        format!("amqp.url = \"amqp://{AMQP_USER}:{PASSWORD},{PASSWORD}@host\"\n"),
        format!("amqp.urls = \"{url}\"\n"),
        format!("amqp.url = {{ password = \"{PASSWORD}\" }}\n"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    for file in files {
        std::fs::write(&path, &file).unwrap();
        let config = DaemonConfig::new("amqp://127.0.0.1", "http://127.0.0.1")
            .unset("CONVGROUP_IM__SECRET_KEY")
            .unset("CONVGROUP_AMQP__URL")
            .set("CONVGROUP_CONFIG", path.display());
        for command in ["config", "check", "run"] {
            let told = tool(&config, &[command], 78).await;
            assert_nothing_is_told(&file, &told, now_s());
        }
    }
}

/// A password with a delimiter in it that is not percent-encoded: a lenient reader takes the rest for the vhost, which is shown.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_can_be_read_in_two_ways_is_refused_and_not_repeated() {
    for (url, named) in [
        (
            format!("amqp://guest:/{PASSWORD}@HOST/chat"),
            "write `/` as %2f",
        ),
        (
            format!("amqp://guest:12/{PASSWORD}@HOST/%2f"),
            "write `/` as %2f",
        ),
        (
            format!("amqp://guest:12?{PASSWORD}@HOST/%2f"),
            "write `?` as %3f",
        ),
        (
            format!("amqp://guest:12#{PASSWORD}@HOST/%2f"),
            "write `#` as %23",
        ),
        (
            format!("amqp://guest:12@{PASSWORD}@HOST/%2f"),
            "write `@` as %40",
        ),
        (
            format!("amqp://guest:12:{PASSWORD}@HOST/%2f"),
            "write `:` as %3a",
        ),
        (format!("amqp://guest:12,{PASSWORD}@HOST/%2f"), "item 2"),
        (format!("amqp://{PASSWORD}@HOST/%2f"), "no password"),
        (
            format!("amqp://u:p@HOST/v?password={PASSWORD}"),
            "query key",
        ),
        (format!("amqp://u:p@HOST/v/{PASSWORD}"), "write `/` as %2f"),
    ] {
        let config = DaemonConfig::new(&url, "http://127.0.0.1:9");
        for command in [
            &["config"][..],
            &["check"],
            &["run"],
            &["topology", "apply"],
            &["publish", "--user", "u", "g"],
            &["dlq", "ls"],
        ] {
            let told = tool(&config, command, 78).await;
            assert!(told.contains(named), "{command:?}: {told}");
            assert_nothing_is_told(&url, &told, now_s());
        }
    }
}

/// Somebody mixes up two lines: the address of the broker stands in the place of another value.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_the_place_of_another_value_is_not_repeated() {
    let url = format!("amqp://{AMQP_USER}:{PASSWORD}@host/v");
    for key in [
        "AMQP__QUEUE",
        "AMQP__EXCHANGE",
        "AMQP__PREFETCH",
        "AMQP__TLS__CA_FILE",
        "IM__REGION",
        "IM__IDENTIFIER",
        "IM__TIMEOUT",
        "HTTP__LISTEN",
        "LOG__LEVEL",
        "POLICY__OVERRIDES__50001",
        "RETRY__TIERS",
    ] {
        let config = DaemonConfig::new("amqp://127.0.0.1", "http://127.0.0.1:9")
            .unset("CONVGROUP_IM__BASE_URL")
            .set(&format!("CONVGROUP_{key}"), &url);
        for command in ["config", "check", "run"] {
            let told = tool(&config, &[command], 78).await;
            assert_nothing_is_told(key, &told, now_s());
        }
    }
    let ready = format!("http://{AMQP_USER}:12/{PASSWORD}@127.0.0.1:9/readyz");
    let config = DaemonConfig::new("amqp://127.0.0.1", "http://127.0.0.1:9");
    for ready in [
        ready.clone(),
        ready.replace("12/", ""),
        format!("http//{PASSWORD}"),
    ] {
        let told = tool(&config, &["check", "--ready", &ready], 64).await;
        assert_nothing_is_told(&ready, &told, now_s());
    }
}

/// The usual slip: the key itself stands where its file is wanted.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_the_place_of_its_file_is_asked_about_and_not_repeated() {
    let config = DaemonConfig::new("amqp://127.0.0.1", "http://127.0.0.1")
        .unset("CONVGROUP_IM__SECRET_KEY")
        .set("CONVGROUP_IM__SECRET_KEY_FILE", KEY);
    let asked = "im.secret_key_file (environment CONVGROUP_IM__SECRET_KEY_FILE): is no file; \
                 was the key itself put here?";
    for command in [&["config"][..], &["check"], &["run"], &["usersig", "sign"]] {
        let told = tool(&config, command, 78).await;
        assert!(told.contains(asked), "{told}");
        assert_nothing_is_told("a tool", &told, now_s());
    }
    // A path is still named.
    let config = config.set("CONVGROUP_IM__SECRET_KEY_FILE", "/nowhere/key");
    let told = tool(&config, &["config"], 78).await;
    assert_eq!(told.matches("/nowhere/key").count(), 2, "{told}");
}

/// Such an address is refused, but `config` shows it beside the refusal.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_in_the_address_of_the_api_are_not_shown() {
    for address in [
        format!("https://{AMQP_USER}:{PASSWORD}@host"),
        format!("https://host/?token={PASSWORD}"),
        format!("https://host/#{PASSWORD}"),
        format!("https://{AMQP_USER}:12/{PASSWORD}@host"),
        format!("https://{AMQP_USER}:12\\{PASSWORD}@host"),
    ] {
        let config = DaemonConfig::new("amqp://127.0.0.1", &address);
        for command in ["config", "check", "run"] {
            let told = tool(&config, &[command], 78).await;
            assert_nothing_is_told(&address, &told, now_s());
        }
    }
}
