//! The daemon from outside: its HTTP pages, and what it makes of the broker's queues.
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;

use im_sandbox::{Fault, Rule};
use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::world::{World, event, eventually_settled, seconds};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::daemon::{SDK_APP_ID, SECRET_KEY};
use convgroup_testkit::{
    Broker, Daemon, DaemonConfig, Metrics, PATIENCE, Proxy, eventually, free_port, shared_node,
};

const SNAPSHOT: &str = include_str!("../snapshots/metrics.txt");

// --- metrics

/// The lines of an exposition without what is the machine's (`process_…`), its values cut off.
fn series(text: &str) -> Vec<&str> {
    let is_process = |line: &&str| {
        line.trim_start_matches("# HELP ")
            .trim_start_matches("# TYPE ")
            .starts_with("process_")
    };
    let lines = text.lines().filter(|line| !is_process(line));
    lines
        .map(|line| {
            if line.starts_with('#') {
                line
            } else {
                line.rsplit_once(' ').map_or(line, |cut| cut.0)
            }
        })
        .collect()
}

/// A daemon that can't reach its broker: nothing happens to it, its counters are as they start.
async fn idle_daemon() -> Daemon {
    let broker = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
    let mut daemon = DaemonConfig::new(&broker, "http://127.0.0.1:9").spawn();
    daemon.eventually_status("/livez", 200, PATIENCE).await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_of_the_contract_exists_from_the_start() {
    let daemon = idle_daemon().await;
    let metrics = daemon.metrics().await;
    let (found, wanted) = (series(&metrics.text), series(SNAPSHOT));
    let (found_set, wanted_set): (BTreeSet<_>, BTreeSet<_>) =
        (found.iter().collect(), wanted.iter().collect());
    let missing: Vec<_> = wanted_set.difference(&found_set).collect();
    let unknown: Vec<_> = found_set.difference(&wanted_set).collect();
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing: {missing:#?}\nnot in the snapshot: {unknown:#?}"
    );
    assert_eq!(found.len(), found_set.len(), "a series stands there twice");
    for line in metrics
        .text
        .lines()
        .filter(|line| line.starts_with("convgroup_"))
    {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let counts = ["_total", "_bucket", "_sum", "_count"]
            .iter()
            .any(|end| series.split('{').next().unwrap().ends_with(end));
        assert!(
            !counts || value == "0",
            "counted before anything happened: {line}"
        );
    }
    for name in [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    ] {
        assert!(
            metrics.find(name, &[]).is_some(),
            "no {name} in\n{}",
            metrics.text
        );
    }
    assert!(metrics.value("convgroup_usersig_expiry_timestamp_seconds", &[]) > 1.6e9);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_series_comes_or_goes_while_messages_are_settled() {
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    let daemon = busy_daemon(&world).await;
    let metrics = daemon.metrics().await;
    assert_eq!(series(&metrics.text), series(SNAPSHOT));
}

/// A daemon that has deleted, found gone, delayed and dead-lettered.
async fn busy_daemon(world: &World) -> Daemon {
    world.user("user15", &["a", "late"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("late").times(1));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("bad"));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(99_999)).group("odd").times(1));
    let daemon = world.daemon().await;
    for group in ["a", "gone", "late", "bad", "odd"] {
        world.publish("user15", &[group]).await;
    }
    world.publish_raw(b"no event", persistent()).await;
    eventually_settled(&daemon, "deleted", 2).await;
    eventually_settled(&daemon, "gone", 2).await;
    eventually_settled(&daemon, "dead_lettered", 2).await;
    daemon
}

/// Port 0 takes a free one: log and page name that, so that it can be found.
#[tokio::test(flavor = "multi_thread")]
async fn the_port_that_was_bound_is_told() {
    let broker = format!("amqp://guest:guest@127.0.0.1:{}/%2f", free_port());
    let daemon = DaemonConfig::new(&broker, "http://127.0.0.1:9")
        .set("CONVGROUP_HTTP__LISTEN", "127.0.0.1:0")
        .spawn();
    let addr: SocketAddr = eventually("the address is logged", PATIENCE, async || {
        let output = daemon.output();
        let starting = output.lines().find(|line| line.contains("\"starting\""));
        let (_, rest) = starting
            .and_then(|line| line.split_once("\"http.listen\":\""))
            .ok_or_else(|| output.clone())?;
        rest.split('"')
            .next()
            .unwrap_or(rest)
            .parse()
            .map_err(|_| output.clone())
    })
    .await;
    assert_ne!(addr.port(), 0);
    let (_, page) = get(addr, "/").await;
    assert!(page.contains(&addr.to_string()), "{page}");
}

/// As editors, shells and secret stores leave them: with line feeds and byte order marks around.
#[tokio::test(flavor = "multi_thread")]
async fn names_and_keys_work_with_white_space_and_byte_order_marks_around_them() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let [key, config] = ["key", "config"].map(|name| dir.path().join(name));
    std::fs::write(&key, format!("\u{feff}{SECRET_KEY}\r\n")).unwrap();
    std::fs::write(&config, "\u{feff}retry.quick_attempts = 1\r\n").unwrap();
    let (queue, url) = (
        world.config.queue().to_owned(),
        world.config.get("CONVGROUP_AMQP__URL").to_owned(),
    );
    let identifier = world.config.get("CONVGROUP_IM__IDENTIFIER").to_owned();
    let mut world = world
        .set("CONVGROUP_AMQP__QUEUE", format!("{queue}\n"))
        .set("CONVGROUP_AMQP__URL", format!(" {url}\r\n"))
        .set("CONVGROUP_IM__IDENTIFIER", format!("\u{feff}{identifier} "))
        .set(
            "CONVGROUP_IM__SECRET_KEY_FILE",
            format!("{}\n", key.display()),
        )
        .set("CONVGROUP_CONFIG", format!("{}\n", config.display()))
        .set("CONVGROUP_IM__REGION", "")
        .set("CONVGROUP_AMQP__TLS__CA_FILE", " ");
    world.config = world.config.unset("CONVGROUP_IM__SECRET_KEY");
    world.user("user15", &["a"]);
    let daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    eventually_settled(&daemon, "deleted", 1).await;
    assert!(world.broker.has_queue(&queue).await);
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 0, "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_served_as_the_prometheus_text_format() {
    let daemon = idle_daemon().await;
    let (head, body) = get(daemon.addr(), "/metrics").await;
    assert_eq!(
        header(&head, "content-type").as_deref(),
        Some("text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.ends_with('\n'), "the last line must be ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_accepts_the_metrics_of_an_idle_and_of_a_busy_daemon() {
    let idle = idle_daemon().await.metrics().await.text;
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    let busy = busy_daemon(&world).await.metrics().await.text;
    for text in [idle, busy] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("promtool is missing: apt-get install prometheus");
        let mut stdin = promtool.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).await.unwrap();
        drop(stdin);
        let output = tokio::time::timeout(PATIENCE, promtool.wait_with_output())
            .await
            .unwrap()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}\n{text}",
            String::from_utf8_lossy(&said)
        );
    }
}

/// All that is answered on one connection to what is written there, until the other side closes it.
async fn exchange(addr: SocketAddr, requests: &[String]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(addr).await?;
        for request in requests {
            stream.write_all(request.as_bytes()).await?;
        }
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await?;
        std::io::Result::Ok(answers)
    };
    let answers = tokio::time::timeout(PATIENCE, exchange).await;
    answers.expect("answers in time").expect("answers")
}

/// Head and body of a GET, with the headers that [`Daemon::http`] leaves out.
async fn get(addr: SocketAddr, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n");
    let answer = exchange(addr, &[request]).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.to_owned(), body.to_owned())
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut headers = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "));
    headers
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.to_owned())
}

// --- health

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_before_its_broker_says_so_and_becomes_ready() {
    let node = shared_node().await;
    let proxy = Proxy::start(node.addr()).await;
    proxy.cut();
    let world = World::new()
        .await
        .set("CONVGROUP_AMQP__URL", proxy.amqp_url());
    world.user("user15", &["a"]);
    let mut daemon = world.config.spawn();
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(
        reason.starts_with("not connected to the broker: "),
        "{reason}"
    );
    assert_eq!(
        daemon.http("/livez").await.0,
        200,
        "a missing broker is no reason for a restart"
    );
    shows_state(&daemon, "disconnected").await;
    let (_, page) = daemon.http("/").await;
    assert!(page.contains("in the main queue, not seen yet"), "{page}");
    proxy.restore();
    daemon.ready(PATIENCE).await;
    assert_eq!(daemon.http("/livez").await.0, 200);
    shows_state(&daemon, "consuming").await;
    let (_, page) = daemon.http("/").await;
    assert!(
        page.contains("<p class=\"about\">in the main queue</p>"),
        "{page}"
    );
    world.publish("user15", &["a"]).await;
    eventually_settled(&daemon, "deleted", 1).await;
    // The same after a loss in the middle.
    proxy.cut();
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(
        reason.starts_with("not connected to the broker: "),
        "{reason}"
    );
    assert_eq!(daemon.http("/livez").await.0, 200);
    let (_, page) = daemon.http("/").await;
    assert!(page.contains("in the main queue, as last seen"), "{page}");
    proxy.restore();
    daemon.ready(PATIENCE).await;
}

/// The status page and the metric agree.
async fn shows_state(daemon: &Daemon, state: &str) {
    let (head, page) = get(daemon.addr(), "/").await;
    assert!(head.contains(" 200 "), "{head}");
    assert_eq!(
        header(&head, "content-type").as_deref(),
        Some("text/html; charset=utf-8"),
        "{head}"
    );
    assert!(
        page.contains(&format!("<h1>{state}<small>")),
        "no {state} in\n{page}"
    );
    let text = daemon.metrics().await.text;
    for name in ["consuming", "suspended", "draining", "disconnected"] {
        let is_it = u8::from(name == state);
        let line = format!("convgroup_state{{state=\"{name}\"}} {is_it}");
        assert!(
            text.lines().any(|found| found == line),
            "no {line} in\n{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_tells_a_person_on_call_what_happened_lately() {
    let world = World::new()
        .await
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_AMQP__PREFETCH", 77);
    let daemon = busy_daemon(&world).await;
    let (queue, api) = (world.config.queue(), world.sandbox.addr());
    let dead = eventually("the depths are asked again", PATIENCE, async || {
        let page = daemon.http("/").await.1;
        let told = page.contains("convgroup-deleter dlq ls");
        if told { Ok(page) } else { Err(page) }
    });
    let page = dead.await;
    for told in [
        "<code>51011</code>",
        "the group name is longer than the API allows",
        "<code>other</code>",
        "of 77 at most",
        "of 200/s",
        "<td>already gone</td><td>2</td><td>2</td>",
        "<td>dead-lettered</td><td>2</td><td>2</td>",
        "s ago<",
        &format!("<td>{queue}</td>"),
        &format!("<td>{api}</td>"),
        &format!("<td>{SDK_APP_ID}</td>"),
        ":***@127.0.0.1:",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(page.contains(told), "no {told} in\n{page}");
    }
    // A call that failed and succeeded later is told as what it was, too.
    assert!(page.contains("<code>50004</code>"), "{page}");
}

/// On call there may be no way out to the internet, and nothing of the page may come from elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_needs_nothing_from_outside_and_is_not_kept() {
    let daemon = idle_daemon().await;
    let (head, page) = get(daemon.addr(), "/").await;
    no_outside(&page);
    let policy = header(&head, "content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert_eq!(header(&head, "cache-control").as_deref(), Some("no-store"));
    assert!(
        page.contains("name=\"viewport\"") && page.contains("http-equiv=\"refresh\""),
        "{page}"
    );
}

/// Nothing of the page comes from elsewhere: the only addresses on it are of its own parts.
#[track_caller]
fn no_outside(page: &str) {
    for outside in ["src=", "@import", "href=\"http", "href=\"//"] {
        assert!(!page.contains(outside), "{outside} in\n{page}");
    }
    for rest in page.split("url(").skip(1) {
        assert!(rest.starts_with('#'), "an address in\n{page}");
    }
}

/// What stands between the quotes after each of these.
fn quoted<'p>(page: &'p str, before: &'static str) -> Vec<&'p str> {
    let rest = page.split(before).skip(1);
    rest.map(|rest| rest.split_once('"').expect("a quote").0)
        .collect()
}

/// Each element that is opened is closed, in order; each id is there once, and what is referred to is there.
#[track_caller]
fn is_well_formed(page: &str) {
    let (_, body) = page.split_once("<body>").expect("a body");
    let (body, _) = body.split_once("<script>").expect("a script at its end");
    let mut open = Vec::new();
    for part in body.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("the end of a tag");
        assert!(!text.contains('>'), "{text}");
        match tag.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed), "in\n{page}"),
            None => open.push(tag.split(' ').next().expect("a name")),
        }
    }
    assert!(open.is_empty(), "{open:?} stay open in\n{page}");
    let ids = quoted(body, " id=\"");
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), unique.len(), "{ids:?}");
    for reference in ["aria-labelledby=\"", "aria-describedby=\""] {
        for id in quoted(body, reference) {
            assert!(unique.contains(id), "no {id} in\n{page}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_draws_what_happened() {
    let world = World::new().await.set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    let daemon = busy_daemon(&world).await;
    let drawn = eventually("the depths are drawn, too", PATIENCE, async || {
        let page = daemon.http("/").await.1;
        let told = page.contains("dead letters: 2 now, highest 2");
        if told { Ok(page) } else { Err(page) }
    });
    let page = drawn.await;
    no_outside(&page);
    is_well_formed(&page);
    assert!(page.len() < 100 * 1024, "{} bytes", page.len());
    let shown = page.split_once("<script>").expect("a script at its end").0;
    for wrong in ["NaN", "inf/s", "inf ms"] {
        assert!(!shown.contains(wrong), "{wrong} in\n{page}");
    }
    assert_eq!(page.matches("<svg class=\"plot\" role=\"img\"").count(), 4);
    // What was answered, with its layer; what was not, without.
    let paths = quoted(&page, "<path class=\"");
    for (look, is_there) in [
        ("area look-deleted", true),
        ("area look-gone", true),
        ("area look-transient", true),
        ("area look-rejected", true),
        ("area look-throttled", false),
        ("line line-1", true),
        ("line line-2", true),
        ("line line-3", true),
    ] {
        assert_eq!(paths.contains(&look), is_there, "{look} in\n{page}");
    }
    for path in quoted(&page, " d=\"") {
        assert!(path.starts_with('M') && path.len() > 4, "{path}");
    }
    for told in [
        "<h3>Calls per second</h3>",
        "where the limit is 200/s. By class: deleted ",
        "<h3>Age of the oldest message settled</h3>",
        ", highest ≤ ",
        "This replica works: the last message was delivered here ",
        "Calls per second, as a table</summary>",
    ] {
        assert!(page.contains(told), "no {told} in\n{page}");
    }
}

/// For those who read slowly, or listen.
#[tokio::test(flavor = "multi_thread")]
async fn the_status_page_can_be_held_still() {
    let daemon = idle_daemon().await;
    for (path, reloads, other) in [
        ("/", true, "href=\"?still\""),
        ("/?still", false, "href=\"?\""),
    ] {
        let (status, page) = daemon.http(path).await;
        assert_eq!(status, 200);
        assert_eq!(page.contains("http-equiv=\"refresh\""), reloads, "{path}");
        assert!(page.contains(other), "{path}: {page}");
        is_well_formed(&page);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_listening_at_the_brokers_address_is_told_with_the_address() {
    let mut daemon = idle_daemon().await;
    eventually("the reason is told", PATIENCE, async || {
        let page = daemon
            .try_http("/readyz")
            .await
            .map_err(|err| err.to_string())?;
        let told = page.0 == 503 && page.1.contains("127.0.0.1:") && page.1.contains("refused");
        if told { Ok(()) } else { Err(page.1) }
    })
    .await;
    shows_state(&daemon, "disconnected").await;
    daemon.signal("TERM");
    daemon.exits_with(0, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_daemon_is_not_ready_but_alive() {
    let world = World::new().await;
    world.fault(Fault::code(60020));
    let mut daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(reason.starts_with("suspended: "), "{reason}");
    assert!(
        reason.contains("60020") && reason.contains("next probe"),
        "{reason}"
    );
    assert_eq!(daemon.http("/livez").await.0, 200);
    shows_state(&daemon, "suspended").await;
}

/// "Look it up" helps only who is told what to look up.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_an_unlisted_code_is_told_while_it_suspends() {
    let world = World::new().await;
    world.fault(Fault::code(99_999));
    let mut daemon = world.daemon().await;
    world.publish("user15", &["a"]).await;
    let reason = daemon.eventually_status("/readyz", 503, PATIENCE).await;
    assert!(reason.contains("99999"), "{reason}");
    assert!(daemon.output().contains("99999"), "{}", daemon.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_path_is_not_found_and_told_which_there_are() {
    let daemon = idle_daemon().await;
    for path in ["/nope", "/metrics/x", "/metrics//", "/readyz/x", "//"] {
        let (status, told) = daemon.http(path).await;
        assert_eq!(status, 404, "{path}");
        let words = told.split_whitespace();
        let named: Vec<&str> = words.filter(|word| word.starts_with('/')).collect();
        assert_eq!(named, ["/", "/metrics", "/livez", "/readyz"], "{told}");
        for path in named {
            assert_ne!(daemon.http(path).await.0, 404, "{path}");
        }
    }
    assert_eq!(daemon.http("/metrics?x=1").await.0, 200);
}

/// The answer to a request without a body: status, head, body.
async fn asked(addr: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let answer = exchange(addr, &[request]).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    let status = head.split(' ').nth(1).expect("a status");
    (status.parse().unwrap(), head.to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_can_be_read_with_any_method_that_reads_and_no_other() {
    let daemon = idle_daemon().await;
    let addr = daemon.addr();
    for (path, read) in [
        ("/", 200),
        ("/?x=1", 200),
        ("/livez", 200),
        ("/livez/", 200),
        ("/metrics", 200),
        ("/metrics/", 200),
        ("/readyz", 503),
        ("/readyz/", 503),
        ("/readyz/?verbose", 503),
    ] {
        let (status, head, body) = asked(addr, "GET", path).await;
        assert_eq!(status, read, "GET {path}");
        assert!(!body.is_empty(), "GET {path}");
        let kind = header(&head, "content-type");
        let (status, head, body) = asked(addr, "HEAD", path).await;
        assert_eq!((status, &*body), (read, ""), "HEAD {path}");
        assert_eq!(header(&head, "content-type"), kind, "HEAD {path}");
        let (status, head, body) = asked(addr, "OPTIONS", path).await;
        assert_eq!((status, &*body), (204, ""), "OPTIONS {path}");
        assert_eq!(allowed(&head), ["GET, HEAD, OPTIONS"], "OPTIONS {path}");
        for method in ["POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"] {
            let (status, head, body) = asked(addr, method, path).await;
            assert_eq!(status, 405, "{method} {path}");
            assert_eq!(allowed(&head), ["GET, HEAD, OPTIONS"], "{method} {path}");
            assert!(body.contains("can only be read"), "{method} {path}: {body}");
        }
    }
    let (status, head, _) = asked(addr, "OPTIONS", "*").await;
    assert_eq!(status, 204, "{head}");
    assert_eq!(asked(addr, "OPTIONS", "/nope").await.0, 404);
}

/// All `Allow` headers.
fn allowed(head: &str) -> Vec<&str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| name.eq_ignore_ascii_case("allow"))
        .map(|(_, value)| value)
        .collect()
}

/// A proxy may serve the page under a path of its own, which it takes off before it asks.
#[tokio::test(flavor = "multi_thread")]
async fn the_links_of_the_status_page_lead_to_the_daemon_at_the_root_and_under_a_path() {
    let daemon = idle_daemon().await;
    let (_, page) = daemon.http("/").await;
    let links = page.split("<a ").skip(1);
    let targets: Vec<&str> = links.map(|link| quoted(link, "href=\"")[0]).collect();
    assert_eq!(targets, ["?still", "metrics", "readyz", "livez"], "{page}");
    for base in ["http://ops/", "https://ops/convgroup/", "https://ops/a/b/"] {
        let base = url::Url::parse(base).unwrap();
        for target in &targets {
            let link = base.join(target).unwrap();
            let path = link.path().strip_prefix(base.path()).expect("below it");
            assert_ne!(daemon.http(&format!("/{path}")).await.0, 404, "{link}");
        }
    }
}

// --- connections

/// Clients that send a head without an end, and hold what they have.
async fn slow_clients(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    let head = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(4096));
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = TcpStream::connect(addr).await.expect("the daemon listens");
        // Too many at once: it may be closed already.
        let _ = client.write_all(head.as_bytes()).await;
        clients.push(client);
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_neither_hold_up_health_checks_nor_stay() {
    const CLIENTS: usize = 400;
    let daemon = idle_daemon().await;
    let before = daemon.metrics().await.value("process_open_fds", &[]);
    // Connections are accepted in their order: this one comes after all the slow ones.
    let behind_them = async {
        let clients = slow_clients(daemon.addr(), CLIENTS).await;
        (clients, daemon.http("/livez").await.0)
    };
    let (clients, status) = tokio::time::timeout(seconds(10), behind_them)
        .await
        .expect("no waiting for the slow ones");
    assert_eq!(status, 200);
    let during = daemon.metrics().await.value("process_open_fds", &[]);
    assert!(
        during < before + 100.0,
        "{before} descriptors before, {during} now"
    );
    for mut client in clients {
        let ended = tokio::time::timeout(PATIENCE, client.read(&mut [0])).await;
        let read = ended.expect("cut off in time");
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    let are_free = |metrics: &Metrics| metrics.value("process_open_fds", &[]) < before + 10.0;
    daemon
        .eventually_metrics("the descriptors are free again", PATIENCE, are_free)
        .await;
}

/// As Prometheus and kubelets do.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_one_request_after_the_other() {
    let daemon = idle_daemon().await;
    let addr = daemon.addr();
    let requests = ["", "", "Connection: close\r\n"]
        .map(|close| format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\n{close}\r\n"));
    let answers = exchange(addr, &requests).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
}

// --- topology

/// The contract's queues for these settings, written a second time on purpose: name and arguments.
fn contract(config: &DaemonConfig) -> [(String, Vec<(&'static str, AMQPValue)>); 3] {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let dead_letters_to = |target: &str| {
        vec![
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(target)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ]
    };
    let queue = config.queue();
    let mut main = dead_letters_to(&config.dead_queue());
    main.push(("x-single-active-consumer", AMQPValue::Boolean(true)));
    main.push(("x-delivery-limit", AMQPValue::LongInt(1000)));
    let mut tier = dead_letters_to(queue);
    tier.push(("x-message-ttl", AMQPValue::LongInt(1000)));
    let dead = vec![("x-delivery-limit", AMQPValue::LongInt(2_000_000_000))];
    [
        (config.dead_queue(), dead),
        (queue.to_owned(), main),
        (format!("{queue}.retry.1s"), tier),
    ]
}

/// Declares a queue with these arguments; what exists must have exactly these.
async fn declare(
    broker: &Broker,
    name: &str,
    arguments: &[(&'static str, AMQPValue)],
) -> lapin::Result<()> {
    let mut table = FieldTable::default();
    table.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let channel = broker.channel().await;
    channel
        .queue_declare(name.into(), QueueDeclareOptions::durable(), table)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_declares_the_contracts_queues_exchange_and_binding() {
    let world = World::new().await;
    world.user("user15", &["a"]);
    let daemon = world.daemon().await;
    for (name, arguments) in contract(&world.config) {
        assert!(world.broker.has_queue(&name).await, "no {name}");
        declare(&world.broker, &name, &arguments)
            .await
            .unwrap_or_else(|err| panic!("{name} has other arguments: {err}"));
    }
    // Declaring is comparing: durable and direct, or this is refused.
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let channel = world.broker.channel().await;
    let exchange = world.config.exchange();
    channel
        .exchange_declare(
            exchange.into(),
            ExchangeKind::Direct,
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    world.publish("user15", &["a"]).await;
    eventually_settled(&daemon, "deleted", 1).await;
    let other = world
        .broker
        .try_publish(exchange, "other", b"{}", persistent())
        .await;
    assert!(other.is_err(), "only the routing key `delete` is bound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_with_other_arguments_is_named_until_it_is_gone() {
    let world = World::new().await;
    let queue = world.config.queue();
    world.broker.declare_quorum(queue).await;
    let mut daemon = world.config.spawn();
    eventually("the conflict is told", PATIENCE, async || {
        let (status, reason) = daemon
            .try_http("/readyz")
            .await
            .map_err(|err| err.to_string())?;
        let named = [queue, "'x-", "other arguments", "amqp.queue"];
        let told = status == 503 && named.iter().all(|part| reason.contains(part));
        if told { Ok(()) } else { Err(reason) }
    })
    .await;
    assert_eq!(daemon.http("/livez").await.0, 200);
    let (_, page) = daemon.http("/").await;
    assert!(page.contains("other arguments"), "{page}");
    assert_eq!(
        world.broker.depth(queue).await,
        0,
        "what is there is left alone"
    );
    let channel = world.broker.channel().await;
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    daemon.ready(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_may_not_declare_waits_for_each_missing_queue() {
    let world = World::new().await.set("CONVGROUP_AMQP__DECLARE", "false");
    world.user("user15", &["a"]);
    let mut daemon = world.config.spawn();
    for (name, arguments) in contract(&world.config) {
        eventually(&format!("{name} is missed"), PATIENCE, async || {
            let (status, reason) = daemon
                .try_http("/readyz")
                .await
                .map_err(|err| err.to_string())?;
            let named = [&*format!("queue {name} does not exist"), "amqp.declare"];
            let told = status == 503 && named.iter().all(|part| reason.contains(part));
            if told { Ok(()) } else { Err(reason) }
        })
        .await;
        declare(&world.broker, &name, &arguments).await.unwrap();
    }
    daemon.ready(PATIENCE).await;
    let body = event("user15", &["a"]);
    world
        .broker
        .publish("", world.config.queue(), body.as_bytes(), persistent())
        .await;
    eventually_settled(&daemon, "deleted", 1).await;
}
