//! Dashboard and alerts against a real Prometheus: what operators look at must name what the daemon tells.
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use im_sandbox::{Fault, Rule};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::form_urlencoded::Serializer;

use crate::world::{World, eventually_settled};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::{Daemon, PATIENCE, eventually, free_port, reaper};

const CONFIG_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/prometheus");
const CONFIG: &str = include_str!("../../config/prometheus/prometheus.yml");
const ALERTS: &str = include_str!("../../config/prometheus/alerts.yml");
const ALERT_TESTS: &str = include_str!("../../config/prometheus/alerts_test.yml");
const DASHBOARD: &str = include_str!("../../config/grafana/dashboards/convgroup.json");
const RUNBOOK: &str = include_str!("../../docs/runbook.md");
const COMPOSE: &str = include_str!("../../docker-compose.yml");

/// Panels that show nothing under the load of the test, and why that is right.
const MAY_BE_EMPTY: [(&str, &str); 1] = [(
    "AMQP reconnects and settle failures",
    "no connection breaks, so nothing reconnects and nothing fails to settle",
)];

// --- promtool

#[track_caller]
fn promtool(args: &[&str]) {
    let output = Command::new("promtool")
        .args(args)
        .current_dir(CONFIG_DIR)
        .output()
        .unwrap_or_else(|err| panic!("promtool: {err}: apt-get install prometheus"));
    let said = [output.stdout, output.stderr].concat();
    assert!(
        output.status.success(),
        "promtool {}\n{}",
        args.join(" "),
        String::from_utf8_lossy(&said)
    );
}

#[test]
fn promtool_accepts_configuration_and_rules() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
    assert!(CONFIG.contains("rule_files: [alerts.yml]"));
    assert!(
        COMPOSE.contains("./config/prometheus:/etc/prometheus:ro"),
        "compose mounts the whole directory, alerts included"
    );
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    promtool(&["test", "rules", "alerts_test.yml"]);
    for alert in values_of(ALERTS, "- alert:") {
        let tests = ALERT_TESTS.split("  - name:").skip(1);
        let tests: Vec<_> = tests
            .filter(|test| values_of(test, "alertname:").contains(alert))
            .collect();
        let quiet = tests
            .iter()
            .filter(|test| test.contains("exp_alerts: []"))
            .count();
        assert!(quiet > 0, "no test that {alert} does not fire");
        assert!(quiet < tests.len(), "no test that {alert} fires");
    }
}

/// What stands behind a key at the start of a line.
fn values_of<'t>(text: &'t str, key: &str) -> BTreeSet<&'t str> {
    let lines = text.lines().map(str::trim);
    lines
        .filter_map(|line| line.strip_prefix(key))
        .map(str::trim)
        .collect()
}

#[test]
fn each_alert_has_a_severity_a_dashboard_and_an_entry_in_the_runbook() {
    let uid = dashboard()["uid"].as_str().unwrap().to_owned();
    let alerts = values_of(ALERTS, "- alert:");
    let entries: BTreeSet<_> = values_of(RUNBOOK, "## ")
        .into_iter()
        .filter(|heading| heading.starts_with("Convgroup"))
        .collect();
    assert_eq!(alerts, entries, "alerts and headings of docs/runbook.md");
    for rule in ALERTS.split("- alert:").skip(1) {
        let name = rule.lines().next().unwrap().trim();
        let link = format!("docs/runbook.md#{}", name.to_lowercase());
        let one = |key: &str| values_of(rule, key).into_iter().next().unwrap_or_default();
        assert!(one("runbook_url:").ends_with(&link), "{name}: {link}");
        assert!(
            one("dashboard_url:").ends_with(&format!("/d/{uid}")),
            "{name}: no link to the dashboard"
        );
        let severity = one("labels:");
        let known = ["{ severity: page }", "{ severity: warning }"];
        assert!(known.contains(&severity), "{name}: {severity:?}");
        for text in ["summary: >-", "description: >-"] {
            assert!(rule.contains(text), "{name}: no {text}");
        }
    }
}

// --- the dashboard as a file

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).expect("the dashboard is JSON")
}

/// A query of a panel.
struct Query {
    panel: String,
    text: String,
    legend: String,
    instant: bool,
}

#[track_caller]
fn list(value: &Value) -> &Vec<Value> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("not a list: {value}"))
}

#[track_caller]
fn words(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    let panels = list(&dashboard["panels"]);
    panels.iter().filter(|panel| panel["type"] != "row")
}

#[test]
fn each_panel_explains_itself_full_or_empty() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        let title = words(&panel["title"]);
        let defaults = &panel["fieldConfig"]["defaults"];
        let said = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        assert!(said(&defaults["unit"]), "{title}: no unit");
        assert!(said(&defaults["noValue"]), "{title}: nothing to say empty");
        assert!(said(&panel["description"]), "{title}: no description");
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        for target in list(&panel["targets"]) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let variables = list(&dashboard["templating"]["list"]);
    let names: BTreeSet<_> = variables
        .iter()
        .filter_map(|v| v["name"].as_str())
        .collect();
    assert_eq!(names, BTreeSet::from(["datasource", "instance", "runbook"]));
    assert_eq!(dashboard["links"][0]["url"], "${runbook}");
}

#[test]
fn no_two_panels_overlap() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in list(&dashboard["panels"]) {
        assert!(ids.insert(panel["id"].as_u64()), "an id twice: {panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "too wide: {}", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} lies on another", panel["title"]);
        }
    }
}

// --- the real thing

/// A Prometheus with the shipped configuration; it scrapes one daemon, each second.
struct Prometheus {
    child: Child,
    addr: SocketAddr,
    dir: TempDir,
}

impl Prometheus {
    async fn start(target: SocketAddr) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        std::fs::write(dir.path().join("prometheus.yml"), config(target, addr))
            .expect("the configuration is written");
        std::fs::write(dir.path().join("alerts.yml"), ALERTS).expect("the rules are written");
        let child = spawn(dir.path(), addr);
        reaper::group(child.id());
        reaper::directory(dir.path());
        let prometheus = Self { child, addr, dir };
        eventually("Prometheus is ready", PATIENCE, async || {
            match prometheus.get("/-/ready").await {
                Ok((200, _)) => Ok(()),
                other => Err(format!("{other:?}\n{}", prometheus.log())),
            }
        })
        .await;
        prometheus
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn get(&self, path: &str) -> std::io::Result<(u16, String)> {
        let exchange = async {
            let mut stream = TcpStream::connect(self.addr).await?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.addr);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
            let status = head
                .split(' ')
                .nth(1)
                .and_then(|status| status.parse().ok());
            std::io::Result::Ok((status.unwrap_or(0), body.to_owned()))
        };
        tokio::time::timeout(PATIENCE, exchange).await?
    }

    /// The `data` of an answer; panics with what was wrong with the question.
    async fn api(&self, path: &str, arguments: &[(&str, &str)]) -> Value {
        let arguments = Serializer::new(String::new())
            .extend_pairs(arguments)
            .finish();
        let (status, body) = self
            .get(&format!("/api/v1/{path}?{arguments}"))
            .await
            .unwrap_or_else(|err| panic!("{path}: {err}\n{}", self.log()));
        assert_eq!(status, 200, "{path} {arguments}: {body}");
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["data"].take()
    }

    /// The series that a query gives now, or over the last minute.
    async fn query(&self, text: &str, instant: bool) -> Vec<Value> {
        let mut data = if instant {
            self.api("query", &[("query", text)]).await
        } else {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .expect("after 1970")
                .as_secs();
            let (start, end) = ((now - 60).to_string(), now.to_string());
            let range = [
                ("query", text),
                ("start", &start),
                ("end", &end),
                ("step", "1"),
            ];
            self.api("query_range", &range).await
        };
        match data["result"].take() {
            Value::Array(series) => series,
            other => panic!("{text}: {other}"),
        }
    }

    /// Series that match a selector.
    async fn series(&self, selector: &str) -> Vec<Value> {
        let data = self.api("series", &[("match[]", selector)]).await;
        list(&data).clone()
    }

    /// An alert that is firing, with these labels.
    async fn firing(&self, name: &str, labels: &[(&str, &str)]) -> Option<Value> {
        let data = self.api("alerts", &[]).await;
        let mut alerts = list(&data["alerts"]).iter();
        let found = alerts.find(|alert| {
            alert["labels"]["alertname"] == name
                && alert["state"] == "firing"
                && labels
                    .iter()
                    .all(|(key, value)| alert["labels"][*key] == *value)
        });
        found.cloned()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        reaper::signal_group("KILL", self.child.id());
        drop(self.child.wait());
        reaper::forget(self.child.id());
    }
}

fn spawn(dir: &Path, addr: SocketAddr) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("a log file");
    Command::new("prometheus")
        .arg(format!("--config.file={}/prometheus.yml", dir.display()))
        .arg(format!("--storage.tsdb.path={}/data", dir.display()))
        .arg(format!("--web.listen-address={addr}"))
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|err| panic!("prometheus: {err}: apt-get install prometheus"))
}

/// The shipped configuration with the test's addresses, and its intervals a second long.
fn config(target: SocketAddr, own: SocketAddr) -> String {
    let (before, rest) = CONFIG
        .split_once("    dns_sd_configs:")
        .expect("replicas are found by name");
    let (_, after) = rest.split_once("\n\n").expect("another job follows");
    let found = format!("    static_configs:\n      - targets: [\"{target}\"]\n\n");
    let mut config = [before, &found, after].concat();
    for (shipped, tried) in [
        ("scrape_interval: 5s", "scrape_interval: 1s".to_owned()),
        ("scrape_timeout: 4s", "scrape_timeout: 1s".to_owned()),
        (
            "evaluation_interval: 5s",
            "evaluation_interval: 1s".to_owned(),
        ),
        ("rabbitmq:15692", format!("127.0.0.1:{}", free_port())),
        ("localhost:9090", own.to_string()),
    ] {
        assert_eq!(config.matches(shipped).count(), 1, "{shipped}");
        config = config.replace(shipped, &tried);
    }
    config
}

/// The queries of all panels, as Grafana would send them.
fn queries(instance: &str) -> Vec<Query> {
    let (dashboard, mut queries) = (dashboard(), Vec::new());
    // Grafana escapes a value twice: for the regular expression, and for the string it stands in.
    let instance = instance.replace('.', r"\\.");
    for panel in panels(&dashboard) {
        let step = panel["interval"].as_str().unwrap_or("15s");
        for target in list(&panel["targets"]) {
            let text = words(&target["expr"]);
            let text = text
                .replace("$instance", &instance)
                .replace("$__rate_interval", "30s")
                .replace("$__interval", step);
            assert!(!text.contains('$'), "a variable nobody sets: {text}");
            queries.push(Query {
                panel: words(&panel["title"]).to_owned(),
                text,
                legend: words(&target["legendFormat"]).to_owned(),
                instant: target["instant"] == true,
            });
        }
    }
    queries
}

#[tokio::test(flavor = "multi_thread")]
async fn panels_and_alerts_show_what_a_mixed_load_does() {
    let world = World::new()
        .await
        .answering()
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    let daemon = world.daemon().await;
    let prometheus = Prometheus::start(daemon.addr()).await;
    eventually("the daemon is scraped, all zero", PATIENCE, async || {
        !prometheus
            .query("convgroup_build_info", true)
            .await
            .is_empty()
    })
    .await;
    mixed_load(&world, &daemon).await;
    an_account_fault_pages_until_it_is_mended(&world, &prometheus).await;

    let instance = daemon.addr().to_string();
    let queries = queries(&instance);
    for (panel, why) in MAY_BE_EMPTY {
        let found = queries.iter().any(|query| query.panel == panel);
        assert!(found, "no panel {panel} any more ({why})");
    }
    for query in &queries {
        every_name_exists(&prometheus, &query.panel, &query.text).await;
    }
    eventually("each panel shows data", PATIENCE, async || {
        for query in &queries {
            let series = prometheus.query(&query.text, query.instant).await;
            let may_be_empty = MAY_BE_EMPTY.iter().any(|(panel, _)| *panel == query.panel);
            if !may_be_empty && !series.iter().any(has_a_number) {
                return Err(format!("{}: {}", query.panel, query.text));
            }
            for label in legend_labels(&query.legend) {
                let lacks = series.iter().find(|one| one["metric"][label].is_null());
                assert!(
                    lacks.is_none(),
                    "{}: legend {label}: {lacks:?}",
                    query.panel
                );
            }
        }
        Ok(())
    })
    .await;
    every_rule_is_sound(&prometheus, &instance).await;
}

/// Deleted, gone, rejected, malformed, delayed, throttled, and an unknown code that the probe has to judge.
async fn mixed_load(world: &World, daemon: &Daemon) {
    let groups: Vec<String> = (0..20).map(|number| format!("group{number}")).collect();
    let names: Vec<&str> = groups.iter().map(String::as_str).collect();
    world.user("user15", &[&names[..], &["late", "busy"]].concat());
    for (group, code) in [("late", 50004), ("busy", 60007), ("odd", 99_999)] {
        let once = Rule::new(Fault::code(code)).group(group).times(1);
        world.sandbox.add_fault(once);
    }
    let rejected = Rule::new(Fault::code(51011)).group("bad");
    world.sandbox.add_fault(rejected);
    for group in names.iter().chain(&["late", "busy", "odd", "gone", "bad"]) {
        world.publish("user15", &[group]).await;
    }
    world.publish_raw(b"no event", persistent()).await;
    eventually_settled(daemon, "deleted", 22).await;
    eventually_settled(daemon, "gone", 2).await;
    eventually_settled(daemon, "delayed", 2).await;
    let metrics = eventually_settled(daemon, "dead_lettered", 2).await;
    assert!(metrics.sum_where("convgroup_api_requests_total", &[("class", "throttled")]) > 0.0);
    assert!(metrics.sum("convgroup_probes_total") > 0.0);
}

async fn an_account_fault_pages_until_it_is_mended(world: &World, prometheus: &Prometheus) {
    world.fault(Fault::code(60020));
    world.publish("user15", &["late again"]).await;
    let page = eventually("the account fault pages", PATIENCE, async || {
        prometheus.firing("ConvgroupAccountFault", &[]).await
    })
    .await;
    assert_eq!(page["labels"]["severity"], "page");
    world.sandbox.clear_faults();
    eventually("the page is over", PATIENCE, async || {
        prometheus
            .firing("ConvgroupAccountFault", &[])
            .await
            .is_none()
    })
    .await;
    for cause in ["rejected", "malformed"] {
        eventually("dead letters are told by cause", PATIENCE, async || {
            let labels = [("cause", cause), ("severity", "warning")];
            prometheus.firing("ConvgroupDeadLetters", &labels).await
        })
        .await;
    }
}

async fn every_rule_is_sound(prometheus: &Prometheus, instance: &str) {
    let data = prometheus.api("rules", &[]).await;
    let groups = list(&data["groups"]);
    let rules: Vec<&Value> = groups
        .iter()
        .flat_map(|group| list(&group["rules"]))
        .collect();
    assert_eq!(rules.len(), values_of(ALERTS, "- alert:").len());
    for rule in rules {
        let name = words(&rule["name"]);
        assert_eq!(rule["health"], "ok", "{rule}");
        let query = words(&rule["query"]);
        prometheus.query(query, true).await;
        every_name_exists(prometheus, name, query).await;
        // What the texts ask for: `…{job="%s"}` in backquotes.
        let text = words(&rule["annotations"]["description"]);
        for asked in text.split('`').skip(1).step_by(2) {
            let asked = asked
                .replace(r#"job="%s""#, r#"job="convgroup-deleter""#)
                .replace(r#"instance="%s""#, &format!("instance=\"{instance}\""));
            prometheus.query(&asked, true).await;
            every_name_exists(prometheus, name, &asked).await;
        }
        for alert in list(&rule["alerts"]) {
            let told = alert["annotations"].to_string();
            assert!(!told.contains("<error"), "{told}");
        }
    }
}

/// Not NaN, which is what a share of nothing is.
fn has_a_number(series: &Value) -> bool {
    let number = |sample: &Value| {
        let text = sample[1].as_str().unwrap_or("NaN");
        text.parse::<f64>().is_ok_and(f64::is_finite)
    };
    let values = series["values"].as_array();
    number(&series["value"]) || values.is_some_and(|values| values.iter().any(number))
}

/// `{{label}}` in a legend.
fn legend_labels(legend: &str) -> impl Iterator<Item = &str> {
    let parts = legend.split("{{").skip(1);
    parts.filter_map(|part| part.split_once("}}").map(|(label, _)| label))
}

/// Metrics, labels and label values of a query exist: a query that names none of ours is just empty for ever.
async fn every_name_exists(prometheus: &Prometheus, of: &str, query: &str) {
    let names = names(query);
    assert!(!names.selectors.is_empty(), "{of}: {query}");
    let mut labels = BTreeSet::new();
    for selector in &names.selectors {
        let metric = &selector.metric;
        let series = prometheus.series(metric).await;
        assert!(!series.is_empty(), "{of}: no metric {metric}");
        let objects = series.iter().filter_map(Value::as_object);
        labels.extend(objects.flat_map(|object| object.keys().cloned()));
        for (label, operator, value) in &selector.matchers {
            let is = if operator.ends_with('~') { "=~" } else { "=" };
            for value in value.split('|') {
                let one = format!("{metric}{{{label}{is}\"{value}\"}}");
                let found = !prometheus.series(&one).await.is_empty();
                assert!(found, "{of}: no series {one}");
            }
        }
    }
    for label in &names.labels {
        assert!(labels.contains(label), "{of}: no label {label}: {query}");
    }
}

/// What a query names: metrics with their matchers, and the labels of `by (…)`, `on (…)`.
#[derive(Debug, Default, PartialEq)]
struct Names {
    selectors: Vec<Selector>,
    labels: Vec<String>,
}

#[derive(Debug, Default, PartialEq)]
struct Selector {
    metric: String,
    matchers: Vec<(String, String, String)>,
}

fn names(query: &str) -> Names {
    const LISTS: [&str; 6] = [
        "by",
        "without",
        "on",
        "ignoring",
        "group_left",
        "group_right",
    ];
    const KEYWORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
    let is_word = |token: &str| token.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let mut names = Names::default();
    let tokens = tokens(query);
    let mut rest = tokens.iter().map(String::as_str).peekable();
    while let Some(token) = rest.next() {
        let next = rest.peek().copied().unwrap_or_default();
        if !is_word(token) || KEYWORDS.contains(&token) {
            continue;
        }
        if LISTS.contains(&token) {
            let list = rest.by_ref().take_while(|token| *token != ")");
            names
                .labels
                .extend(list.filter(|token| is_word(token)).map(Into::into));
        } else if next == "{" {
            let inside: Vec<&str> = rest.by_ref().skip(1).take_while(|t| *t != "}").collect();
            let matchers = inside.split(|token| *token == ",").filter_map(|matcher| {
                let [label, operator, value] = matcher else {
                    return None;
                };
                let value = value.trim_matches('"').to_owned();
                Some(((*label).to_owned(), (*operator).to_owned(), value))
            });
            names.selectors.push(Selector {
                metric: token.to_owned(),
                matchers: matchers.collect(),
            });
        } else if !["(", "by", "without"].contains(&next) {
            names.selectors.push(Selector {
                metric: token.to_owned(),
                matchers: Vec::new(),
            });
        }
    }
    names
}

/// Words, numbers with their unit, quoted texts with their quotes, operators, and single signs.
fn tokens(query: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = query;
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_ascii_alphanumeric() || "_:.".contains(c);
        let is_operator = |c: char| "=!~<>".contains(c);
        let length = if first == '"' {
            rest[1..].find('"').expect("a closing quote") + 2
        } else if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if is_operator(first) {
            rest.find(|c| !is_operator(c)).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !first.is_whitespace() {
            tokens.push(token.to_owned());
        }
        rest = after;
    }
    tokens
}

#[test]
fn the_names_of_a_query_are_found() {
    let query =
        r#"sum by (job, le) (rate(a_total{x="1", y=~"b|c"}[5m])) / on (job) up - 0 * time() > 1e3"#;
    let matcher = |label: &str, operator: &str, value: &str| {
        (label.to_owned(), operator.to_owned(), value.to_owned())
    };
    let selector = |metric: &str, matchers| Selector {
        metric: metric.to_owned(),
        matchers,
    };
    let expected = Names {
        selectors: vec![
            selector(
                "a_total",
                vec![matcher("x", "=", "1"), matcher("y", "=~", "b|c")],
            ),
            selector("up", Vec::new()),
        ],
        labels: ["job", "le", "job"].map(Into::into).into(),
    };
    assert_eq!(names(query), expected);
}
