//! Guarantee 6: no request ends without an answer, and no answer tells what is not so.
use im_sandbox::{Fault, Rule};
use lapin::BasicProperties;

use crate::ledger::{Books, read};
use crate::world::{World, event, eventually_settled};
use convgroup_testkit::PATIENCE;
use convgroup_testkit::broker::persistent;

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
    let books = Books::of(&world).await;
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
    let mut headers = lapin::types::FieldTable::default();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (name, value) in [
        ("traceparent", trace),
        ("tracestate", "a=1"),
        ("x-user", "Qu1ntess3nce"),
    ] {
        headers.insert(
            name.into(),
            lapin::types::AMQPValue::LongString(value.into()),
        );
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
