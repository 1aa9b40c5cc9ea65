//! Guarantee 6: no request ends without an answer, and no answer tells what is not so.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use im_sandbox::{CallKind, Fault, Rule};
use lapin::BasicProperties;
use lapin::options::{
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable};

use crate::ledger::{Books, read};
use crate::world::{Dam, World, event, eventually_settled, seconds, users};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::raw::{RawPublisher, decimal};
use convgroup_testkit::{
    Broker, Cluster, Message, Node, PATIENCE, Proxy, Settle, eventually, shared_node, unique,
};

/// A request by its id.
fn named(id: &str) -> BasicProperties {
    persistent().with_message_id(id.into())
}

async fn request(world: &World, id: &str, user: &str, groups: &[&str]) {
    world
        .publish_raw(event(user, groups).as_bytes(), named(id))
        .await;
}

/// Nothing is retried in place, and the second failure is the last.
async fn impatient() -> World {
    World::new()
        .await
        .answering()
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_RETRY__TIERS", "100ms")
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 2)
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_end_is_answered() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    world.user("user1", &["a", "b", "flaky"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("bad"));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("flaky").times(1));
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("broken"));
    request(&world, "done", "user1", &["a", "b", "gone"]).await;
    request(
        &world,
        "later",
        "user1",
        &["bad", "flaky", "broken", "gone"],
    )
    .await;
    request(&world, "unknown", "nobody", &["a"]).await;
    world.publish_raw(b"no event", named("malformed")).await;
    let expired = r#"{"From_Account":"user1","GroupName":["a"],"NotAfter":"2020-01-01T00:00:00Z"}"#;
    world
        .publish_raw(expired.as_bytes(), named("expired"))
        .await;
    eventually_settled(&daemon, "deleted", 1).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let ledger = world.broker.read_stream(world.config.ledger()).await;
    let texts: Vec<String> = ledger.iter().map(Message::text).collect();
    let whole = format!("{texts:?} {ledger:?}");
    for secret in [
        "user1",
        "nobody",
        "flaky",
        "broken",
        "injected fault",
        "From_Account",
        "usersig",
        convgroup_testkit::daemon::SECRET_KEY,
    ] {
        assert!(!whole.contains(secret), "{secret} in {whole}");
    }
    let books = Books::kept(&ledger);
    books.check("done", &["erased", "erased", "erased"]);
    books.check(
        "later",
        &["rejected 51011", "erased", "exhausted 50004", "erased"],
    );
    books.check("unknown", &["rejected 50001"]);
    books.check("expired", &["expired -"]);
    assert_eq!(books.case("malformed").last().status, "malformed");
    assert_eq!(books.0.len(), 5);
    let later = &books.case("later").told;
    let statuses: Vec<&str> = later.iter().map(|told| told.status.as_str()).collect();
    // The first delivery rejects one name and finds one gone; the second deletes one and gives up on the other.
    assert_eq!(statuses, ["partial", "mixed"]);
    assert!(later.iter().all(|told| told.groups == 4));
    let metrics = daemon.metrics().await;
    let told = |status| metrics.value("convgroup_outcomes_total", &[("status", status)]);
    assert_eq!(
        ["erased", "partial", "failed", "mixed", "malformed"].map(told),
        [1.0, 1.0, 2.0, 1.0, 1.0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_says_whose_it_is_and_nothing_else() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    world.user("Qu1ntess3nce-user", &["Qu1ntess3nce-a", "b"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::Echo(51011)).group("b"));
    let body = event("Qu1ntess3nce-user", &["Qu1ntess3nce-a", "b"]);
    let mut headers = FieldTable::default();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (name, value) in [
        ("traceparent", trace),
        ("tracestate", "a=1"),
        ("x-user", "Qu1ntess3nce"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let properties = named("r-1")
        .with_correlation_id("c-1".into())
        .with_app_id("billing".into())
        .with_reply_to("somewhere".into())
        .with_timestamp(1_700_000_000)
        .with_headers(headers);
    world.publish_raw(body.as_bytes(), properties).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let ledger = world.broker.read_stream(world.config.ledger()).await;
    let [answer] = &ledger[..] else {
        panic!("one answer, not {}", ledger.len());
    };
    let (request, told) = read(answer);
    assert_eq!((request.as_str(), told.status.as_str()), ("r-1", "mixed"));
    assert_eq!(answer.routing_key, "mixed.billing");
    let correlation_id = answer.properties.correlation_id().as_ref().unwrap();
    assert_eq!(correlation_id.as_str(), "c-1");
    assert_eq!(answer.header_text("traceparent").as_deref(), Some(trace));
    assert_eq!(answer.header_text("tracestate").as_deref(), Some("a=1"));
    let ours = answer.header_names().into_iter();
    let names: Vec<String> = ours.filter(|name| name != "x-stream-offset").collect();
    assert_eq!(names, ["traceparent", "tracestate"]);
    let json: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let request = &json["data"]["request"];
    assert_eq!(request["published_at"], "2023-11-14T22:13:20Z");
    assert_eq!(request["id_from"], "message_id");
    let whole = format!("{answer:?} {}", answer.text());
    for secret in [
        "Qu1ntess3nce",
        "usersig",
        convgroup_testkit::daemon::SECRET_KEY,
    ] {
        assert!(!whole.contains(secret), "{whole}");
    }
}

/// A stream takes no header of the type decimal: RabbitMQ would close the whole connection, and with it all that is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_s_headers_do_not_reach_the_ledger() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    world.user("user1", &["a", "b"]);
    let mut raw = RawPublisher::connect(shared_node().await.addr()).unwrap();
    let headers = [decimal("traceparent"), decimal("price")].concat();
    let body = event("user1", &["a"]);
    raw.publish(world.config.exchange(), "delete", &headers, body.as_bytes())
        .unwrap();
    request(&world, "neighbour", "user1", &["b"]).await;
    world
        .drained(&daemon, PATIENCE, || {
            let left = world.sandbox.groups("user1").unwrap_or_default();
            left.is_empty().then_some(()).ok_or(format!("{left:?}"))
        })
        .await;
    let books = Books::of(&world).await;
    assert_eq!(books.0.len(), 2);
    books.check("neighbour", &["erased"]);
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.sum("convgroup_amqp_reconnects_total"), 0.0);
    assert_eq!(metrics.sum("convgroup_settle_failures_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_groups_of_a_user_go_and_the_empty_list_proves_it() {
    let world = impatient().await;
    world.sandbox.set_list_page_size(7);
    let daemon = world.daemon().await;
    let names: Vec<String> = (0..20).map(|number| format!("g{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.user("many", &names);
    world.user("none", &[]);
    world
        .sandbox
        .add_after_list("again", &["new"], 1)
        .expect("the name is short");
    world.user("again", &["old"]);
    for user in ["many", "none", "again", "nobody"] {
        let body = format!(r#"{{"From_Account":"{user}","AllGroups":true}}"#);
        world.publish_raw(body.as_bytes(), named(user)).await;
    }
    world
        .drained(&daemon, PATIENCE, || {
            let left = ["many", "none", "again"].map(|user| world.sandbox.groups(user));
            let empty = left
                .iter()
                .all(|left| left.as_ref().is_some_and(Vec::is_empty));
            empty.then_some(()).ok_or(format!("{left:?}"))
        })
        .await;
    let books = Books::of(&world).await;
    for (user, groups, status) in [
        ("many", 20, "erased"),
        ("none", 0, "erased"),
        ("again", 2, "erased"),
        ("nobody", 0, "failed"),
    ] {
        let told = books.case(user).last();
        let found = (told.groups, told.status.as_str(), told.verified);
        assert_eq!(found, (groups, status, status == "erased"), "{user}");
    }
    let nobody = books.case("nobody").last();
    assert_eq!(nobody.cause.as_deref(), Some("rejected 50001"));
    let metrics = daemon.metrics().await;
    let calls = |call| metrics.sum_where("convgroup_api_requests_total", &[("call", call)]);
    // Three pages and one for `many`; one for `none` and `nobody`; three for `again`.
    assert_eq!((calls("list"), calls("delete")), (9.0, 22.0));
}

/// A moment as an event says it.
fn moment(at: SystemTime) -> String {
    let ms = at.duration_since(UNIX_EPOCH).unwrap().as_millis();
    convgroup_domain::moment::format_ms(i64::try_from(ms).unwrap())
}

/// A queue of a requester's own, bound to all answers.
async fn listener(world: &World) -> String {
    let queue = unique("listener");
    world.broker.declare_quorum(&queue).await;
    bind(world, &queue, "#").await;
    queue
}

async fn bind(world: &World, queue: &str, routing_key: &str) {
    let channel = world.broker.channel().await;
    let bound = channel.queue_bind(
        queue.into(),
        world.config.outcomes_exchange().into(),
        routing_key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("the exchange is there");
}

async fn delete_ledger(world: &World) {
    let channel = world.broker.channel().await;
    let deleted = channel.queue_delete(world.config.ledger().into(), QueueDeleteOptions::default());
    deleted.await.expect("the ledger is there");
}

async fn delete_exchange(world: &World) {
    let channel = world.broker.channel().await;
    let deleted = channel.exchange_delete(
        world.config.outcomes_exchange().into(),
        ExchangeDeleteOptions::default(),
    );
    deleted.await.expect("the exchange is there");
}

/// So many requests, each by a user with one group.
async fn requests(world: &World, prefix: &str, count: usize) -> Vec<String> {
    let ids: Vec<String> = (0..count)
        .map(|number| format!("{prefix}{number}"))
        .collect();
    world.add(&ids);
    for id in &ids {
        request(world, id, id, &["a"]).await;
    }
    ids
}

#[track_caller]
fn all_erased(books: &Books, ids: &[String]) {
    for id in ids {
        books.check(id, &["erased"]);
    }
}

/// What the contract allows for noticing that the ledger is gone.
const LEDGER_MISSED: Duration = seconds(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_deleted_is_missed_and_declared_again() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    let queue = listener(&world).await;
    let before = requests(&world, "before", 3).await;
    world.eventually_deleted(&before, PATIENCE).await;
    delete_ledger(&world).await;
    let meanwhile = requests(&world, "meanwhile", 3).await;
    eventually("the ledger is missed", LEDGER_MISSED, async || {
        daemon.output().contains("answers have lost their place")
    })
    .await;
    eventually("the ledger is there again", PATIENCE, async || {
        world.broker.has_queue(world.config.ledger()).await
    })
    .await;
    let after = requests(&world, "after", 3).await;
    for users in [&before, &meanwhile, &after] {
        world.eventually_deleted(users, PATIENCE).await;
    }
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    all_erased(&Books::of(&world).await, &after);
    let heard = world.broker.depth(&queue).await as usize;
    let heard = world.broker.read(&queue, heard, Settle::Ack).await;
    let heard = Books::kept(&heard);
    for ids in [&before, &meanwhile, &after] {
        all_erased(&heard, ids);
    }
}

/// The answer finds no exchange: the request comes back, and is answered by the next session.
#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_deleted_is_declared_again() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    delete_exchange(&world).await;
    let ids = requests(&world, "request", 3).await;
    world.eventually_deleted(&ids, PATIENCE).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    all_erased(&Books::of(&world).await, &ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_exchange_that_it_may_not_declare_nothing_is_consumed() {
    let world = impatient().await;
    world.declare().await;
    let world = world.set("CONVGROUP_AMQP__DECLARE", false);
    let daemon = world.daemon().await;
    delete_exchange(&world).await;
    eventually("the exchange is missed", LEDGER_MISSED, async || {
        let (code, text) = daemon
            .try_http("/readyz")
            .await
            .map_err(|err| err.to_string())?;
        let missed = code == 503 && text.contains("does not exist. Set amqp.declare = true");
        missed.then_some(()).ok_or(text)
    })
    .await;
    let ids = requests(&world, "request", 3).await;
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("FAIL  answers"), "{output}");
    assert_eq!(world.sandbox.counters().deleted, 0);
    let apply = world.config.clone().set("CONVGROUP_AMQP__DECLARE", true);
    let apply = apply
        .unset("CONVGROUP_HTTP__LISTEN")
        .args(&["topology", "apply"]);
    let (code, output) = apply.spawn().finished(PATIENCE).await;
    assert_eq!(code, 0, "{output}");
    world.eventually_deleted(&ids, PATIENCE).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    all_erased(&Books::of(&world).await, &ids);
}

/// Nobody can ask whether a queue is bound: the first answer that comes back tells it, and no other request is begun.
#[tokio::test(flavor = "multi_thread")]
async fn while_nobody_listens_one_answer_is_held_and_nothing_is_consumed() {
    let world = impatient().await;
    world.declare().await;
    delete_ledger(&world).await;
    let world = world.set("CONVGROUP_OUTCOMES__LEDGER", "");
    let ids = requests(&world, "request", 20).await;
    let mut daemon = world.config.spawn();
    let told = daemon.eventually_told("no queue is bound").await;
    assert!(told.starts_with("suspended: "), "{told}");
    assert_eq!(world.sandbox.counters().calls, 1, "the others were begun");
    let queue = listener(&world).await;
    daemon.ready(PATIENCE).await;
    world.eventually_deleted(&ids, PATIENCE).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let heard = world.broker.read(&queue, ids.len(), Settle::Ack).await;
    all_erased(&Books::kept(&heard), &ids);
    assert_eq!(world.sandbox.counters().calls, ids.len() as u64);
}

/// Answers that wait go out together, and somebody listens to every third one. Which of them came back is known all the same: each of
/// those is held until it is given.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_comes_back_is_known_among_others() {
    const COUNT: usize = 99;
    const UNHEARD: usize = COUNT / 3 * 2;
    let node = Node::start().await;
    let world = World::at(&node.url()).await.answering();
    world.declare().await;
    delete_ledger(&world).await;
    let world = world.set("CONVGROUP_OUTCOMES__LEDGER", "");
    let (world, dam) = Dam::between(world, &node).await;
    let queue = unique("listener");
    world.broker.declare_quorum(&queue).await;
    bind(&world, &queue, "erased.heard").await;
    let users = users(COUNT);
    world.add(&users);
    let mut daemon = world.daemon().await;
    for (number, user) in users.iter().enumerate() {
        let app = if number % 3 == 0 { "heard" } else { "unheard" };
        let properties = named(user).with_app_id(app.into());
        let body = event(user, &["a"]);
        world.publish_raw(body.as_bytes(), properties).await;
        // The first answer tells that somebody listens.
        if number == 0 {
            world.drained(&daemon, PATIENCE, || Ok(())).await;
            dam.close();
        }
    }
    dam.open(&world, &daemon, COUNT).await;
    daemon.eventually_told("no queue is bound").await;
    daemon
        .eventually_metrics("those that came back are held", PATIENCE, |metrics| {
            metrics.value("convgroup_in_flight", &[]) == UNHEARD as f64
        })
        .await;
    bind(&world, &queue, "erased.unheard").await;
    daemon.ready(PATIENCE).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let heard = world.broker.read(&queue, COUNT, Settle::Ack).await;
    all_erased(&Books::kept(&heard), &users);
    assert_eq!(world.sandbox.counters().calls, COUNT as u64);
}

/// One requester's queue that refuses answers keeps them from all: RabbitMQ confirms for all queues or for none.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_that_refuses_answers_is_told_and_nothing_is_consumed() {
    let world = impatient().await;
    let mut daemon = world.daemon().await;
    let full = unique("full");
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    arguments.insert(
        "x-overflow".into(),
        AMQPValue::LongString("reject-publish".into()),
    );
    let channel = world.broker.channel().await;
    let declared = channel.queue_declare(
        full.as_str().into(),
        QueueDeclareOptions::default(),
        arguments,
    );
    declared.await.expect("it can be declared");
    bind(&world, &full, "#").await;
    let ids = requests(&world, "request", 10).await;
    daemon.eventually_told("x-overflow=reject-publish").await;
    let more = requests(&world, "more", 5).await;
    let begun = world.sandbox.counters().calls;
    assert!(begun <= 10, "{begun} were begun");
    let deleted = channel.queue_delete(full.as_str().into(), QueueDeleteOptions::default());
    deleted.await.expect("it is there");
    daemon.ready(PATIENCE).await;
    for ids in [&ids, &more] {
        world.eventually_deleted(ids, PATIENCE).await;
    }
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let books = Books::of(&world).await;
    all_erased(&books, &ids);
    all_erased(&books, &more);
    assert_eq!(world.sandbox.counters().calls, 15);
}

/// In an alarm the broker takes no answer: what is deleted waits, and the daemon says so.
#[tokio::test(flavor = "multi_thread")]
async fn in_an_alarm_deletions_wait_for_their_answers() {
    let node = Node::start().await;
    let world = World::at(&node.url())
        .await
        .answering()
        .set("CONVGROUP_IM__TIMEOUT", "60s");
    // The API's replies wait behind a proxy until the alarm is on.
    let api = Proxy::start(world.sandbox.addr()).await;
    let world = world.set("CONVGROUP_IM__BASE_URL", api.http_url());
    let daemon = world.daemon().await;
    let ids = requests(&world, "before", 1).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    api.freeze_towards_client();
    let waiting = requests(&world, "waiting", 5).await;
    world.eventually_deleted(&waiting, PATIENCE).await;
    node.memory_alarm(true).await;
    api.restore();
    eventually("the alarm is told", PATIENCE, async || {
        let (code, text) = daemon
            .try_http("/readyz")
            .await
            .map_err(|err| err.to_string())?;
        let told = code == 200 && text.contains("waits for its answer");
        told.then_some(()).ok_or(text)
    })
    .await;
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.value("convgroup_in_flight", &[]), 5.0);
    assert_eq!(metrics.value("convgroup_amqp_blocked", &[]), 1.0);
    node.memory_alarm(false).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let books = Books::of(&world).await;
    all_erased(&books, &ids);
    all_erased(&books, &waiting);
    assert_eq!(world.sandbox.counters().calls, 6);
}

/// The ledger, read over a connection of its own: a broker that elects a leader closes connections.
async fn ledger_of(url: &str, ledger: &str) -> anyhow::Result<Vec<Message>> {
    Broker::try_connect(url)
        .await?
        .try_read_stream(ledger)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_of_the_ledger_costs_no_answer() {
    let cluster = Cluster::start().await;
    let survivor = cluster.node(2);
    let world = World::at(&survivor.url()).await.answering().set(
        "CONVGROUP_AMQP__URL",
        format!("{},{}", cluster.node(1).url(), survivor.url()),
    );
    let daemon = world.daemon().await;
    let leader = cluster.leader_of(world.config.ledger()).await;
    let ids = requests(&world, "request", 300).await;
    world
        .counted(PATIENCE, |counters| counters.deleted >= 100)
        .await;
    leader.kill();
    leader.gone().await;
    let world = world.reconnected(&survivor.url()).await;
    world.eventually_deleted(&ids, PATIENCE).await;
    // What the dead node had in its hands comes back when the others have noticed; until then it is in no queue's count.
    let books = eventually("all requests are answered", PATIENCE, async || {
        let ledger = ledger_of(&survivor.url(), world.config.ledger()).await;
        let books = Books::kept(&ledger.map_err(|err| format!("{err:#}"))?);
        let open = ids.iter().find(|id| !books.0.contains_key(*id));
        match open {
            None => Ok(books),
            Some(id) => Err(id.clone()),
        }
    })
    .await;
    all_erased(&books, &ids);
    world.nothing_is_left(&daemon).await;
}

/// No call is made after the moment: not for what waits in line, nor for what comes out of a delay queue.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_made_after_the_moment_that_the_event_allows() {
    let world = impatient()
        .await
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", 5)
        .set("CONVGROUP_RETRY__TIERS", "3s")
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 10);
    world.declare().await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("busy"));
    let last = SystemTime::now() + seconds(4);
    let (deadline, last_instant) = (moment(last), Instant::now() + seconds(4));
    for number in 0..60 {
        let user = format!("user{number}");
        let group = if number < 3 { "busy" } else { "a" };
        world.user(&user, &[group]);
        let body = format!(
            r#"{{"From_Account":"{user}","GroupName":["{group}"],"NotAfter":"{deadline}"}}"#
        );
        world.publish_raw(body.as_bytes(), named(&user)).await;
    }
    let daemon = world.daemon().await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let calls = world.sandbox.calls();
    let late = calls.iter().filter(|call| call.instant > last_instant);
    // A call that left in time may arrive a moment later.
    let late = late.filter(|call| call.instant - last_instant > Duration::from_millis(100));
    assert_eq!(late.count(), 0);
    let deleted = world.sandbox.counters().deleted;
    assert!(deleted > 0 && deleted < 57, "{deleted}");
    let metrics = daemon.metrics().await;
    let expired = metrics.value(
        "convgroup_dead_letters_total",
        &[("cause", "expired"), ("class", "expired")],
    );
    assert_eq!(expired, (60 - deleted) as f64);
    let books = Books::of(&world).await;
    let told = |number: usize| {
        let case = books.case(&format!("user{number}"));
        case.ends().remove(&0).expect("it is closed")
    };
    let ends: Vec<String> = (0..60).map(told).collect();
    assert_eq!(
        ends.iter().filter(|end| *end == "erased").count() as u64,
        deleted
    );
    // These were called for, failed, and came back too late: nothing was answered in that delivery.
    assert_eq!(ends[..3], ["expired -", "expired -", "expired -"]);
    assert!(
        ends.iter()
            .all(|end| matches!(end.as_str(), "erased" | "expired -"))
    );
    // Nor does a redrive send them.
    let (code, output) = world.tool(&["dlq", "redrive"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("`NotAfter`) has passed"), "{output}");
    let (_, shown) = world.tool(&["dlq", "show", "--limit", "1"]).await;
    assert!(shown.contains("left out: the moment"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_letter_is_answered_in_its_next_round_and_a_removed_one_is_closed() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    world.user("user1", &["a", "b", "c"]);
    let failing = world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("b"));
    request(&world, "again", "user1", &["a", "b"]).await;
    request(&world, "purged", "user1", &["c", "b"]).await;
    world.publish_raw(b"no event", named("malformed")).await;
    eventually_settled(&daemon, "dead_lettered", 3).await;
    let books = Books::of(&world).await;
    books.check("again", &["erased", "rejected 51011"]);
    world.sandbox.remove_fault(failing);
    let (code, output) = world
        .tool(&[
            "dlq",
            "redrive",
            "--message-id",
            "again",
            "--settle",
            "100ms",
        ])
        .await;
    assert_eq!(code, 0, "{output}");
    let (code, output) = world
        .tool(&["dlq", "purge", "--all", "--yes", "--no-export"])
        .await;
    assert_eq!(code, 0, "{output}");
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let ledger = world.broker.read_stream(world.config.ledger()).await;
    let texts: Vec<String> = ledger.iter().map(Message::text).collect();
    assert!(!texts.concat().contains("user1"), "{texts:?}");
    let books = Books::kept(&ledger);
    books.check("again", &["erased", "erased"]);
    let rounds: Vec<u64> = books.case("again").told.iter().map(|it| it.round).collect();
    assert_eq!(rounds, [0, 1]);
    books.check("purged", &["erased", "purged"]);
    assert_eq!(books.case("malformed").told.len(), 2);
    let told = &books.case("again").told;
    assert!(told.iter().all(|it| it.groups == 2 && it.remaining == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_is_tried_again_on_each_of_its_pages() {
    let world = impatient()
        .await
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 1)
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 3);
    world.sandbox.set_list_page_size(2);
    let list = |fault, page| Rule::new(fault).call(CallKind::List).page(page);
    for (page, fault) in [
        Fault::code(50004),
        Fault::HttpStatus(502),
        Fault::Garbage,
        Fault::Reset,
        Fault::StuckIndex,
        Fault::NoCompleteFlag,
        Fault::Truncated,
    ]
    .into_iter()
    .enumerate()
    {
        let page = u64::try_from(page).unwrap();
        world
            .sandbox
            .add_fault(list(fault, page).user("flaky").times(1));
    }
    world
        .sandbox
        .add_fault(list(Fault::StuckIndex, 0).user("stuck"));
    let names: Vec<String> = (0..14).map(|number| format!("g{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.user("flaky", &names);
    world.user("stuck", &names);
    // Each deletion succeeds, and the group is there again.
    world.user("again", &["ghost"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(0)).group("ghost"));
    let daemon = world.daemon().await;
    for user in ["flaky", "stuck", "again"] {
        let body = format!(r#"{{"From_Account":"{user}","AllGroups":true}}"#);
        world.publish_raw(body.as_bytes(), named(user)).await;
    }
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    assert_eq!(world.sandbox.groups("flaky"), Some(Vec::new()));
    let books = Books::of(&world).await;
    let flaky = books.case("flaky").last();
    assert!(flaky.verified && flaky.groups == 14 && flaky.remaining == 0);
    let stuck = books.case("stuck").last();
    assert_eq!(stuck.cause.as_deref(), Some("exhausted bad_body"));
    assert_eq!((stuck.status.as_str(), stuck.groups), ("failed", 0));
    let again = books.case("again").last();
    let ends: Vec<&str> = again.ends.values().map(String::as_str).collect();
    assert_eq!(ends, ["exhausted groups_recreated"]);
    let dead = world.dead(2).await;
    for letter in &dead {
        assert!(letter.text().contains(r#""AllGroups":true"#));
        assert_eq!(letter.header("convgroup-index"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_groups_are_refused_unless_the_operator_allows_it() {
    let world = impatient().await.set("CONVGROUP_EVENTS__ALL_GROUPS", false);
    let _daemon = world.daemon().await;
    world.user("user1", &["a"]);
    let body = br#"{"From_Account":"user1","AllGroups":true}"#;
    world.publish_raw(body, named("all")).await;
    let dead = world.dead(1).await.remove(0);
    let info = dead.header_text("convgroup-info").unwrap();
    assert!(info.contains("events.all_groups"), "{info}");
    let books = Books::of(&world).await;
    assert_eq!(books.case("all").last().status, "malformed");
    assert_eq!(world.sandbox.counters().calls, 0);
}

/// Switched off, nothing is declared, and nothing is published.
#[tokio::test(flavor = "multi_thread")]
async fn switched_off_there_is_no_trace_of_answers() {
    let world = impatient().await.set("CONVGROUP_OUTCOMES__ENABLED", false);
    let daemon = world.daemon().await;
    let ids = requests(&world, "request", 3).await;
    world.eventually_deleted(&ids, PATIENCE).await;
    let metrics = world.settled(&daemon).await;
    assert_eq!(metrics.sum("convgroup_outcomes_total"), 0.0);
    assert!(!world.broker.has_queue(world.config.ledger()).await);
    let (code, output) = world.tool(&["topology", "print"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(!output.contains("outcomes"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cloud_events_are_requests_like_others() {
    let world = impatient().await;
    let daemon = world.daemon().await;
    world.user("user1", &["a", "b", "c"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("b"));
    let event = event("user1", &["a", "b"]);
    let envelope = format!(
        r#"{{"specversion":"1.0","id":"ce-1","source":"/s","type":"t","data":{event},"x":1}}"#
    );
    let structured = named("m-1").with_content_type("application/cloudevents+json".into());
    world
        .publish_raw(envelope.as_bytes(), structured.clone())
        .await;
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("CE-ID", "ce-2"),
        ("ce-type", "t"),
    ] {
        headers.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    let binary = named("m-2").with_headers(headers);
    let body = r#"{"From_Account":"user1","GroupName":["c"]}"#;
    world.publish_raw(body.as_bytes(), binary).await;
    world.publish_raw(b"{}", structured).await;
    eventually_settled(&daemon, "dead_lettered", 2).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    let books = Books::of(&world).await;
    books.check("ce-1", &["erased", "rejected 51011"]);
    books.check("ce-2", &["erased"]);
    assert_eq!(books.case("m-1").last().status, "malformed");
    let dead = world.dead(2).await;
    let letter = dead.iter().find(|it| it.text().contains("ce-1")).unwrap();
    assert_eq!(
        letter.text(),
        envelope.replace(r#"["a","b"]"#, r#"["b"]"#),
        "the envelope is changed"
    );
    assert_eq!(
        letter.header_text("convgroup-request-id").as_deref(),
        Some("ce-1")
    );
    assert_eq!(letter.header_text("convgroup-index").as_deref(), Some("1"));
    assert_eq!(letter.header_number("convgroup-groups"), Some(2));
}

/// With `outcomes.include_ids` they stand where they belong.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_told_where_the_operator_asks_for_it() {
    let world = impatient()
        .await
        .set("CONVGROUP_OUTCOMES__INCLUDE_IDS", true);
    let daemon = world.daemon().await;
    world.user("user1", &["a"]);
    request(&world, "named", "user1", &["a", "gone"]).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    world.user("user1", &["b"]);
    let body = br#"{"From_Account":"user1","AllGroups":true}"#;
    world.publish_raw(body, named("all")).await;
    world.drained(&daemon, PATIENCE, || Ok(())).await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group("bad"));
    request(&world, "purged", "user1", &["bad"]).await;
    eventually_settled(&daemon, "dead_lettered", 1).await;
    let purge = ["dlq", "purge", "--all", "--yes", "--no-export"];
    let (code, output) = world.tool(&purge).await;
    assert_eq!(code, 0, "{output}");
    for message in world.broker.read_stream(world.config.ledger()).await {
        let json: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        let data = &json["data"];
        assert_eq!(data["user"], "user1");
        let groups: Vec<&str> = data["results"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|result| result["group"].as_str())
            .collect();
        let wanted: &[&str] = match data["request"]["id"].as_str() {
            Some("named") => &["a", "gone"],
            Some("purged") => &["bad"],
            _ => &["b"],
        };
        assert_eq!(groups, wanted);
    }
}

/// The age is an argument of the stream: another one is refused by the broker, and changed by a policy.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_another_age_is_told_with_what_to_do() {
    let world = impatient().await;
    world.declare().await;
    let world = world.set("CONVGROUP_OUTCOMES__LEDGER_MAX_AGE", "30d");
    let daemon = world.config.spawn();
    let told = daemon.eventually_told("other arguments").await;
    for part in [
        world.config.ledger(),
        "x-max-age",
        "outcomes.ledger_max_age",
    ] {
        assert!(told.contains(part), "{told}");
    }
    let (code, output) = world.tool(&["topology", "verify"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("outcomes.ledger_max_age"), "{output}");
}
