//! Traces: what a collector of OpenTelemetry gets to see, and that it can do no harm.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use im_sandbox::{Fault, Probes, Rule};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span as RawSpan;
use prost::Message as _;
use tokio::net::TcpListener;

use crate::world::{World, event, eventually_settled, seconds, users};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::daemon::{IDENTIFIER, SECRET_KEY};
use convgroup_testkit::{Daemon, Metrics, PATIENCE, eventually, free_port, shared_node};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SPANS: &str = "convgroup_spans_total";

// --- the collector

/// What the collector does with a request.
#[derive(Clone, Copy, Debug)]
enum Mood {
    Takes,
    Refuses,
    Hangs,
}

/// A span, as it came.
#[derive(Clone, Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: &'static str,
    attributes: BTreeMap<String, String>,
    links: Vec<(String, String)>,
    failed: bool,
    start: u64,
    end: u64,
}

impl Span {
    fn of(raw: RawSpan) -> Self {
        let links = raw.links.iter();
        Self {
            trace: hex(&raw.trace_id),
            id: hex(&raw.span_id),
            parent: hex(&raw.parent_span_id),
            kind: match raw.kind {
                3 => "client",
                4 => "producer",
                5 => "consumer",
                _ => "another",
            },
            attributes: texts(&raw.attributes),
            links: links
                .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                .collect(),
            failed: raw.status.is_some_and(|status| status.code == 2),
            start: raw.start_time_unix_nano,
            end: raw.end_time_unix_nano,
            name: raw.name,
        }
    }

    fn get(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("-", String::as_str)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|it| it.value.clone()) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes.iter();
    pairs
        .map(|pair| (pair.key.clone(), text(&pair.value)))
        .collect()
}

#[derive(Clone)]
struct Collector {
    url: String,
    mood: Mood,
    requests: Arc<AtomicUsize>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    resource: BTreeMap<String, String>,
    authorization: Option<String>,
    /// All that came, as text.
    whole: String,
}

impl Collector {
    async fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let collector = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            mood,
            requests: Arc::default(),
            seen: Arc::default(),
        };
        let route = Router::new()
            .route("/v1/traces", post(take))
            .with_state(collector.clone());
        tokio::spawn(serve(listener, route));
        collector
    }

    fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap().spans.clone()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Waits until so many spans have come.
    async fn eventually(&self, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans"), PATIENCE, async || {
            let spans = self.spans();
            if spans.len() >= count {
                Ok(spans)
            } else {
                Err(format!("{spans:#?}"))
            }
        })
        .await
    }
}

async fn serve(listener: TcpListener, route: Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(route.clone());
        let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(served);
    }
}

async fn take(State(collector): State<Collector>, headers: HeaderMap, body: Bytes) -> StatusCode {
    collector.requests.fetch_add(1, Ordering::SeqCst);
    match collector.mood {
        Mood::Takes => {}
        Mood::Refuses => return StatusCode::INTERNAL_SERVER_ERROR,
        Mood::Hangs => std::future::pending().await,
    }
    let request = ExportTraceServiceRequest::decode(body).expect("it is protobuf");
    let mut seen = collector.seen.lock().unwrap();
    let _ = write!(seen.whole, "{request:?}");
    let header = headers.get("authorization");
    seen.authorization = header.map(|value| value.to_str().unwrap().to_owned());
    for group in request.resource_spans {
        seen.resource = texts(&group.resource.unwrap().attributes);
        let spans = group.scope_spans.into_iter().flat_map(|scope| scope.spans);
        seen.spans.extend(spans.map(Span::of));
    }
    StatusCode::OK
}

/// With traces that are sent soon.
async fn traced(collector: &Collector) -> World {
    World::new()
        .await
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .set("OTEL_BSP_SCHEDULE_DELAY", 200)
}

fn headers(pairs: &[(&str, AMQPValue)]) -> BasicProperties {
    let mut table = FieldTable::default();
    for (name, value) in pairs {
        table.insert((*name).into(), value.clone());
    }
    persistent().with_headers(table)
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn of_kind<'s>(spans: &'s [Span], kind: &str) -> Vec<&'s Span> {
    let mut spans: Vec<&Span> = spans.iter().filter(|span| span.kind == kind).collect();
    spans.sort_by_key(|span| span.start);
    spans
}

fn spans_total(metrics: &Metrics) -> [f64; 3] {
    ["exported", "failed", "dropped"].map(|result| metrics.value(SPANS, &[("result", result)]))
}

// --- what it sees

/// An event that fails twice in passing, then for good.
async fn three_deliveries(world: &World) {
    world.user("Qu1ntess3nce-user", &["Qu1ntess3nce-group"]);
    for fault in [
        Rule::new(Fault::code(50004)).times(2),
        Rule::new(Fault::code(51011)),
    ] {
        world.sandbox.add_fault(fault.probes(Probes::Excluded));
    }
    let properties = headers(&[
        ("traceparent", long(&format!("00-{TRACE}-{PARENT}-01"))),
        ("tracestate", long("vendor=1")),
    ]);
    let properties = properties
        .with_message_id("request-1".into())
        .with_correlation_id("case-7".into())
        .with_app_id("billing".into());
    let body = event("Qu1ntess3nce-user", &["Qu1ntess3nce-group"]);
    world.publish_raw(body.as_bytes(), properties).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_the_publisher_over_two_delays_to_the_dead_letter_and_the_answer() {
    let collector = Collector::start(Mood::Takes).await;
    let world = traced(&collector).await.answering();
    let world = world
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_RETRY__TIERS", "100ms")
        .set(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20Qu1ntess3nce",
        )
        .set(
            "OTEL_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        );
    let daemon = world.daemon().await;
    three_deliveries(&world).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    // Three deliveries, a call in each; two delayed copies, a dead letter, an answer.
    let spans = collector.eventually(10).await;
    assert_eq!(spans.len(), 10, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    assert!(spans.iter().all(|span| span.start <= span.end));

    let node = address(&shared_node().await.url());
    let deliveries = of_kind(&spans, "consumer");
    are_deliveries(&deliveries, &world, &node);
    are_calls(&of_kind(&spans, "client"), &deliveries, &world);
    are_published(&of_kind(&spans, "producer"), &deliveries, &world, &node);

    // What travels is the publisher's own context.
    let dead = world.dead(1).await;
    let context = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(dead[0].header_text("traceparent"), Some(context.clone()));
    assert_eq!(
        dead[0].header_text("tracestate").as_deref(),
        Some("vendor=1")
    );
    let answers = world.broker.read_stream(world.config.ledger()).await;
    assert_eq!(answers[0].header_text("traceparent"), Some(context));

    for line in lines_about(&daemon, "settled") {
        assert!(line.contains(&format!(r#""trace.id":"{TRACE}""#)), "{line}");
    }
    let metrics = daemon.metrics().await;
    assert_eq!(spans_total(&metrics), [10.0, 0.0, 0.0]);

    let seen = collector.seen.lock().unwrap();
    assert_eq!(seen.resource["service.name"], "convgroup-deleter");
    assert_eq!(seen.resource["service.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(seen.resource["deployment.environment.name"], "test");
    assert_eq!(seen.authorization.as_deref(), Some("Bearer Qu1ntess3nce"));
    for secret in [
        "Qu1ntess3nce",
        "usersig",
        "injected",
        SECRET_KEY,
        IDENTIFIER,
    ] {
        assert!(!seen.whole.contains(secret), "{secret} in {}", seen.whole);
    }
    let log = daemon.output();
    for secret in ["Qu1ntess3nce", "Bearer"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

fn are_deliveries(deliveries: &[&Span], world: &World, node: &(String, String)) {
    let (queue, exchange) = (world.config.queue(), world.config.exchange());
    let (host, port) = node;
    for (attempt, span) in deliveries.iter().enumerate() {
        assert_eq!(span.name, format!("process {queue}"));
        assert_eq!(span.parent, PARENT);
        assert_eq!(span.links, [(TRACE.to_owned(), PARENT.to_owned())]);
        let (destination, key) = match attempt {
            0 => (format!("{exchange}:delete:{queue}"), "delete"),
            _ => (queue.to_owned(), queue),
        };
        let (error, outcome) = match attempt {
            2 => ("51011", "dead_lettered"),
            _ => ("50004", "delayed"),
        };
        let wanted = [
            ("messaging.system", "rabbitmq"),
            ("messaging.destination.name", &destination),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.rabbitmq.destination.routing_key", key),
            ("messaging.message.id", "request-1"),
            ("messaging.message.conversation_id", "case-7"),
            ("server.address", host),
            ("server.port", port),
            ("convgroup.attempt", &attempt.to_string()),
            ("convgroup.outcome", outcome),
            ("error.type", error),
            (
                "messaging.rabbitmq.message.delivery_tag",
                &(attempt + 1).to_string(),
            ),
        ];
        has(span, &wanted);
        assert!(span.failed);
    }
    assert_eq!(deliveries.len(), 3);
}

fn are_calls(calls: &[&Span], deliveries: &[&Span], world: &World) {
    let base_url = world.sandbox.base_url();
    let (host_of_api, port_of_api) = address(&base_url);
    for (at, span) in calls.iter().enumerate() {
        assert_eq!(
            (span.name.as_str(), &span.parent),
            ("POST", &deliveries[at].id)
        );
        let url = format!("{base_url}/v4/recentcontact/del_contact_group");
        has(
            span,
            &[
                ("http.request.method", "POST"),
                ("server.address", &host_of_api),
                ("server.port", &port_of_api),
                ("url.full", &url),
                ("http.response.status_code", "200"),
                ("error.type", ["50004", "50004", "51011"][at]),
            ],
        );
        assert!(span.failed);
        assert!(span.start >= deliveries[at].start && span.end <= deliveries[at].end);
    }
    assert_eq!(calls.len(), 3);
}

fn are_published(
    published: &[&Span],
    deliveries: &[&Span],
    world: &World,
    node: &(String, String),
) {
    let (queue, (host, port)) = (world.config.queue(), node);
    let outcomes = world.config.outcomes_exchange();
    let to = [
        (0, "", format!("{queue}.retry.100ms")),
        (1, "", format!("{queue}.retry.100ms")),
        (2, "", format!("{queue}.dead")),
        (2, outcomes, "failed.billing".to_owned()),
    ];
    assert_eq!(published.len(), to.len());
    for (span, (delivery, exchange, key)) in published.iter().zip(to) {
        let destination = match exchange {
            "" => key.clone(),
            exchange => format!("{exchange}:{key}"),
        };
        assert_eq!(span.name, format!("publish {destination}"));
        assert_eq!(span.parent, deliveries[delivery].id);
        let id = span.get("messaging.message.id").to_owned();
        assert_eq!(id == "request-1", exchange.is_empty(), "{id}");
        has(
            span,
            &[
                ("messaging.system", "rabbitmq"),
                ("messaging.destination.name", &destination),
                ("messaging.operation.name", "publish"),
                ("messaging.operation.type", "send"),
                ("messaging.rabbitmq.destination.routing_key", &key),
                ("messaging.message.id", &id),
                ("server.address", host),
                ("server.port", port),
            ],
        );
        assert!(!span.failed);
    }
}

/// Exactly these attributes.
#[track_caller]
fn has(span: &Span, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<String, String> = wanted
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    assert_eq!(span.attributes, wanted, "{span:#?}");
}

/// Host and port of an address.
fn address(url: &str) -> (String, String) {
    let authority = url.split("://").nth(1).unwrap();
    let authority = authority.split('/').next().unwrap();
    let host = authority.rsplit('@').next().unwrap();
    let (host, port) = host.split_once(':').unwrap_or((host, "5672"));
    (host.to_owned(), port.to_owned())
}

fn lines_about(daemon: &Daemon, what: &str) -> Vec<String> {
    let output = daemon.output();
    let about = format!(r#""message":"{what}""#);
    let lines: Vec<String> = output
        .lines()
        .filter(|line| line.contains(&about))
        .map(str::to_owned)
        .collect();
    assert!(!lines.is_empty(), "no {what} in {output}");
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_gone_is_no_error_and_a_repeat_is_counted() {
    let collector = Collector::start(Mood::Takes).await;
    let world = traced(&collector).await;
    let daemon = world.daemon().await;
    world.user("user15", &["a", "b"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("b").times(1));
    // Bytes that are text count as well.
    let context = format!("00-{TRACE}-{PARENT}-01");
    let context = AMQPValue::ByteArray(context.as_bytes().into());
    let body = event("user15", &["a", "gone", "b"]);
    world
        .publish_raw(body.as_bytes(), headers(&[("traceparent", context)]))
        .await;
    eventually_settled(&daemon, "deleted", 1).await;
    let spans = collector.eventually(5).await;
    let delivery = of_kind(&spans, "consumer")[0];
    assert_eq!(
        (delivery.trace.as_str(), delivery.parent.as_str()),
        (TRACE, PARENT)
    );
    assert_eq!(delivery.get("error.type"), "-");
    assert!(!delivery.failed);
    let calls = of_kind(&spans, "client");
    let told: Vec<_> = calls
        .iter()
        .map(|span| {
            let error = span.get("error.type");
            assert_eq!(span.failed, error != "-");
            (error, span.get("http.request.resend_count"))
        })
        .collect();
    assert_eq!(told, [("-", "-"), ("-", "-"), ("50004", "-"), ("-", "1")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_have_an_address_of_their_own_and_what_makes_no_call_has_a_span_all_the_same() {
    let collector = Collector::start(Mood::Takes).await;
    let world = traced(&collector).await.answering();
    let daemon = world.daemon().await;
    world.user("user15", &["a"]);
    world.publish_raw(b"no event", persistent()).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    // The delivery, its dead letter, its answer.
    let spans = collector.eventually(3).await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    let delivery = of_kind(&spans, "consumer")[0];
    assert_eq!(delivery.get("error.type"), "malformed");
    assert!(delivery.parent.is_empty() && delivery.failed);
    assert!(spans.iter().all(|span| span.trace == delivery.trace));
    let all = br#"{"From_Account":"user15","AllGroups":true}"#;
    world.publish_raw(all, persistent()).await;
    eventually_settled(&daemon, "deleted", 1).await;
    // The delivery, a list, a deletion, the last list, the answer.
    let spans = collector.eventually(3 + 5).await;
    let calls = of_kind(&spans, "client");
    let path = |span: &&Span| span.get("url.full").rsplit('/').next().unwrap().to_owned();
    let paths: Vec<String> = calls.iter().map(path).collect();
    let (list, delete) = ("get_contact_group", "del_contact_group");
    assert_eq!(paths, [list, delete, list]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_context_that_cant_be_read_begins_a_new_trace_and_a_probe_is_a_trace_of_its_own() {
    let collector = Collector::start(Mood::Takes).await;
    let world = traced(&collector).await;
    let daemon = world.daemon().await;
    world.user("user15", &["a"]);
    // The first is answered in a way that only a probe can explain.
    world.sandbox.add_fault(
        Rule::new(Fault::code(99_999))
            .times(1)
            .probes(Probes::Excluded),
    );
    let context = long(&format!("00-{TRACE}-{PARENT}"));
    let body = event("user15", &["a"]);
    world
        .publish_raw(body.as_bytes(), headers(&[("traceparent", context)]))
        .await;
    eventually_settled(&daemon, "deleted", 1).await;
    let spans = collector.spans_until_settled(&daemon).await;
    let deliveries = of_kind(&spans, "consumer");
    assert!(
        deliveries
            .iter()
            .all(|span| span.parent.is_empty() && span.links.is_empty())
    );
    assert_ne!(deliveries[0].trace, TRACE);
    let calls = of_kind(&spans, "client");
    let probes: Vec<_> = calls.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(probes.len(), 1, "{spans:#?}");
    // Its group does not exist, as it should be.
    assert!(!probes[0].failed);
    assert!(deliveries.iter().all(|span| span.trace != probes[0].trace));
}

impl Collector {
    /// All spans, once the daemon has sent as many as it will.
    async fn spans_until_settled(&self, daemon: &Daemon) -> Vec<Span> {
        daemon
            .eventually_metrics("nothing more is sent", PATIENCE, |metrics| {
                let [exported, ..] = spans_total(metrics);
                exported >= 4.0 && exported as usize == self.spans().len()
            })
            .await;
        self.spans()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parent_that_is_not_sampled_leaves_no_span_and_no_trace_in_the_log() {
    let collector = Collector::start(Mood::Takes).await;
    let world = traced(&collector).await;
    let mut daemon = world.daemon().await;
    world.user("user15", &["a"]);
    let context = long(&format!("00-{TRACE}-{PARENT}-00"));
    let body = event("user15", &["a"]);
    world
        .publish_raw(body.as_bytes(), headers(&[("traceparent", context)]))
        .await;
    eventually_settled(&daemon, "deleted", 1).await;
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    assert_eq!(collector.requests(), 0);
    assert!(!daemon.output().contains("trace.id"), "{}", daemon.output());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_before_the_process_ends() {
    let collector = Collector::start(Mood::Takes).await;
    let world = traced(&collector)
        .await
        .set("OTEL_BSP_SCHEDULE_DELAY", 60_000);
    let mut daemon = world.daemon().await;
    let users = world.backlog(20).await;
    world.eventually_deleted(&users, PATIENCE).await;
    eventually_settled(&daemon, "deleted", 20).await;
    assert_eq!(collector.requests(), 0);
    let began = Instant::now();
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    println!("a stop with 40 spans took {:?}", began.elapsed());
    assert_eq!(collector.spans().len(), 40);
}

// --- off

#[tokio::test(flavor = "multi_thread")]
async fn without_an_endpoint_there_is_no_thread_and_no_connection() {
    let collector = Collector::start(Mood::Takes).await;
    for disabled in [true, false] {
        let mut world = traced(&collector).await;
        if disabled {
            world = world.set("OTEL_SDK_DISABLED", "true");
        } else {
            world.config = world.config.unset("OTEL_EXPORTER_OTLP_ENDPOINT");
        }
        let mut daemon = world.daemon().await;
        let users = world.backlog(5).await;
        world.eventually_deleted(&users, PATIENCE).await;
        let metrics = eventually_settled(&daemon, "deleted", 5).await;
        assert_eq!(spans_total(&metrics), [0.0; 3]);
        let threads = threads(&daemon);
        assert!(
            !threads.iter().any(|name| name.starts_with("OpenTel")),
            "{threads:?}"
        );
        assert!(
            !threads.iter().any(|name| name.starts_with("reqwest")),
            "{threads:?}"
        );
        daemon.signal("TERM");
        daemon.exits_with(0, seconds(10)).await;
        assert!(!daemon.output().contains("trace.id"), "{}", daemon.output());
    }
    assert_eq!(collector.requests(), 0);
}

/// The names of the daemon's threads.
fn threads(daemon: &Daemon) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
    let names = tasks.filter_map(|task| name(task.unwrap()).ok());
    names.map(|name| name.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_that_cant_be_followed_ends_the_start_and_is_not_repeated() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
    for (set, told) in [
        (
            &[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")][..],
            "environment OTEL_EXPORTER_OTLP_PROTOCOL: traces are sent over http/protobuf only",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_ENDPOINT", "Qu1ntess3nce:4317")],
            "environment OTEL_EXPORTER_OTLP_ENDPOINT: is no address of a collector",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://")],
            "environment OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: is no address of a collector",
        ),
        (
            &[endpoint, ("OTEL_TRACES_EXPORTER", "zipkin")],
            "environment OTEL_TRACES_EXPORTER: ",
        ),
    ] {
        let mut world = World::new().await;
        for (key, value) in set {
            world = world.set(key, value);
        }
        let (code, output) = world.config.spawn().finished(PATIENCE).await;
        assert_eq!(code, 78, "{output}");
        assert!(output.contains(told), "{output}");
        assert!(!output.contains("Qu1ntess3nce"), "{output}");
    }
}

// --- a collector does no harm

/// How long 200 events take at 100 calls a second, and the stop after them.
async fn paced(name: &str, endpoint: Option<&str>) -> (Duration, Duration, [f64; 3]) {
    let mut world = World::new()
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 100);
    if let Some(endpoint) = endpoint {
        world = world
            .set("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            .set("OTEL_BSP_SCHEDULE_DELAY", 100)
            .set("OTEL_BSP_MAX_QUEUE_SIZE", 100)
            .set("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 50);
    }
    let mut daemon = world.daemon().await;
    world.add(&users(200));
    let began = Instant::now();
    world.backlog(200).await;
    let metrics = eventually_settled(&daemon, "deleted", 200).await;
    let worked = began.elapsed();
    let began = Instant::now();
    daemon.signal("TERM");
    daemon.exits_with(0, seconds(10)).await;
    let stopped = began.elapsed();
    println!(
        "{name}: 200 events in {worked:?}, stop in {stopped:?}, {:?}",
        spans_total(&metrics)
    );
    (worked, stopped, spans_total(&metrics))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_refuses_or_is_absent_changes_neither_pace_nor_stop() {
    let (usual, usual_stop, _) = paced("off", None).await;
    let refuses = Collector::start(Mood::Refuses).await;
    let hangs = Collector::start(Mood::Hangs).await;
    let absent = format!("http://127.0.0.1:{}", free_port());
    for (name, url) in [
        ("refuses", &refuses.url),
        ("hangs", &hangs.url),
        ("absent", &absent),
    ] {
        let (worked, stopped, [exported, failed, dropped]) = paced(name, Some(url)).await;
        // Two seconds at 100 a second; the rest is a busy machine.
        assert!(
            worked < usual + seconds(3),
            "{name}: {worked:?}, usually {usual:?}"
        );
        let most = usual_stop + seconds(2);
        assert!(
            stopped < most,
            "{name}: {stopped:?}, usually {usual_stop:?}"
        );
        assert_eq!(exported, 0.0);
        // Of 400 spans at most 100 wait and 50 are on their way.
        assert!(
            failed + dropped >= 200.0,
            "{name}: {failed} failed, {dropped} dropped"
        );
    }
    assert!(refuses.requests() > 0 && hangs.requests() > 0);
}

/// One line says that traces are lost, and one that they are taken again.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_comes_late_is_told_of_once() {
    let port = free_port();
    let world = World::new()
        .await
        .set(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            format!("http://127.0.0.1:{port}"),
        )
        .set("OTEL_EXPORTER_OTLP_TIMEOUT", 300)
        .set("OTEL_BSP_SCHEDULE_DELAY", 100);
    let daemon = world.daemon().await;
    world.user("user15", &["a"]);
    let failed = |count| move |metrics: &Metrics| spans_total(metrics)[1] >= count;
    for count in [2.0, 4.0] {
        world.publish("user15", &["a"]).await;
        daemon
            .eventually_metrics("spans are lost", PATIENCE, failed(count))
            .await;
    }
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let route = Router::new().route("/v1/traces", post(async || StatusCode::OK));
    tokio::spawn(serve(listener, route));
    world.publish("user15", &["a"]).await;
    daemon
        .eventually_metrics("spans are taken", PATIENCE, |metrics| {
            spans_total(metrics)[0] >= 2.0
        })
        .await;
    let output = daemon.output();
    for line in [
        "the collector does not take traces",
        "the collector takes traces again",
    ] {
        assert_eq!(output.matches(line).count(), 1, "{line} in {output}");
    }
}
