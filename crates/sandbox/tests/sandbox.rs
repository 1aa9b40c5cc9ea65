//! The sandbox as its clients see it: over TCP, in plain bytes, so that every way to break a connection can be told.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader, ErrorKind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use convgroup_chat::client::{ChatClient, Listed, Via};
use convgroup_chat::endpoint::Endpoint;
use convgroup_chat::page::PageAsked;
use convgroup_chat::settings::{Im, SecretSource};
use convgroup_chat::signer::Signer;
use convgroup_chat::usersig;
use convgroup_domain::reply::Reply as ChatReply;
use im_sandbox::{
    CallKind, Config, Credentials, DEMO_SECRET_KEY, Effect, Fault, Latency, Probes, Raw, Rule,
    Sandbox,
};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const APP: u64 = 1_400_000_000;
const ADMIN: &str = "administrator";
const DELETE_PATH: &str = "/v4/recentcontact/del_contact_group";
const LIST_PATH: &str = "/v4/recentcontact/get_contact_group";
const PATIENCE: Duration = Duration::from_secs(20);

/// A sandbox with `user15` and its groups `a`, `b` and `c`.
async fn sandbox(config: Config) -> Sandbox {
    let sandbox = Sandbox::start(config).await.expect("a free port");
    sandbox
        .add_user("user15", &["a", "b", "c"])
        .expect("short names");
    sandbox
}

fn now_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
        .as_secs()
}

/// The query of a call; `None` leaves a key out.
#[derive(Clone)]
struct Query(Vec<(&'static str, Option<String>)>);

impl Query {
    fn good() -> Self {
        Self::signed(DEMO_SECRET_KEY, ADMIN, now_s())
    }

    fn signed(key: &str, identifier: &str, issued_at_s: u64) -> Self {
        Self(vec![
            ("sdkappid", Some(APP.to_string())),
            ("identifier", Some(identifier.to_owned())),
            (
                "usersig",
                Some(usersig::sign(APP, key, identifier, issued_at_s, 600)),
            ),
            ("random", Some("4294967295".to_owned())),
            ("contenttype", Some("json".to_owned())),
        ])
    }

    fn with(mut self, key: &str, value: Option<&str>) -> Self {
        for pair in self.0.iter_mut().filter(|pair| pair.0 == key) {
            pair.1 = value.map(str::to_owned);
        }
        self
    }

    fn path(&self) -> String {
        self.path_of(DELETE_PATH)
    }

    fn list_path(&self) -> String {
        self.path_of(LIST_PATH)
    }

    fn path_of(&self, call: &str) -> String {
        let pairs = self
            .0
            .iter()
            .filter_map(|(key, value)| Some(format!("{key}={}", value.as_ref()?)));
        format!("{call}?{}", pairs.collect::<Vec<_>>().join("&"))
    }
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    fn code(&self) -> i64 {
        assert_eq!(self.status, 200, "{}", self.body);
        let json = self.json();
        let code = json["ErrorCode"].as_i64().expect("a code");
        assert_eq!(json["ActionStatus"], if code == 0 { "OK" } else { "FAIL" });
        code
    }
}

/// What a page of a list says.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    names: Vec<String>,
    /// Of a list that goes on.
    next: Option<u64>,
}

impl Reply {
    fn page(&self) -> Page {
        assert_eq!(self.code(), 0);
        let json = self.json();
        let groups = json["GroupItem"].as_array().expect("groups").iter();
        let name = |group: &Value| group["GroupName"].as_str().expect("a name").to_owned();
        let next = json["NextStartIndex"].as_u64().expect("an index");
        let next = match json["CompleteFlag"].as_u64().expect("a flag") {
            0 => Some(next),
            flag => {
                assert_eq!((flag, next), (1, 0));
                None
            }
        };
        Page {
            names: groups.map(name).collect(),
            next,
        }
    }
}

/// A connection that speaks just enough HTTP.
struct Client(TcpStream);

impl Client {
    async fn connect(sandbox: &Sandbox) -> Self {
        Self(
            TcpStream::connect(sandbox.addr())
                .await
                .expect("the sandbox listens"),
        )
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0
            .write_all(request.as_bytes())
            .await
            .expect("the sandbox reads");
    }

    async fn byte(&mut self) -> std::io::Result<u8> {
        timeout(PATIENCE, self.0.read_u8())
            .await
            .expect("something within the patience")
    }

    async fn receive(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.byte().await.expect("a head"));
        }
        let head = String::from_utf8(head)
            .expect("a head in ascii")
            .to_lowercase();
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status");
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().expect("a length"))];
        timeout(PATIENCE, self.0.read_exact(&mut body))
            .await
            .expect("a body within the patience")
            .expect("a body");
        Reply {
            status,
            head,
            body: String::from_utf8(body).expect("utf-8"),
        }
    }

    async fn exchange(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, body).await;
        self.receive().await
    }

    async fn delete(&mut self, user: &str, group: &str) -> Reply {
        self.exchange("POST", &Query::good().path(), &body(user, group))
            .await
    }

    async fn list(&mut self, user: &str, start: u64) -> Reply {
        let body = list_body(user, start);
        self.exchange("POST", &Query::good().list_path(), &body)
            .await
    }

    /// All groups of a list and how many pages it had.
    async fn list_all(&mut self, user: &str) -> (Vec<String>, usize) {
        let (mut names, mut start) = (Vec::new(), 0);
        for pages in 1..=50 {
            let page = self.list(user, start).await.page();
            names.extend(page.names);
            match page.next {
                Some(next) => start = next,
                None => return (names, pages),
            }
        }
        panic!("a list without an end");
    }

    /// All bytes until the end of the connection, and how it ended.
    async fn rest(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        let mut bytes = Vec::new();
        let end = timeout(PATIENCE, self.0.read_to_end(&mut bytes))
            .await
            .expect("an end within the patience");
        (bytes, end.map(|_| ()))
    }
}

fn body(user: &str, group: &str) -> String {
    json!({ "From_Account": user, "GroupName": [group] }).to_string()
}

fn list_body(user: &str, start: u64) -> String {
    json!({ "From_Account": user, "StartIndex": start }).to_string()
}

/// `count` names: `g00`, `g01` and so on.
fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("g{number:02}")).collect()
}

/// A sandbox with `user15` and a user `many` who has 20 groups, seven a page.
async fn with_pages(config: Config) -> Sandbox {
    let sandbox = sandbox(Config {
        list_page_size: 7,
        ..config
    })
    .await;
    let line = json!({ "user": "many", "groups": names(20) }).to_string();
    assert_eq!(sandbox.seed(line.as_bytes()).expect("a good line"), 1);
    sandbox
}

/// The daemon's own client.
fn chat_client(sandbox: &Sandbox) -> ChatClient {
    let im = Im {
        endpoint: Endpoint::from_base_url(&sandbox.base_url()).expect("an address"),
        sdk_app_id: APP,
        identifier: ADMIN.to_owned(),
        secret: SecretSource::Value(DEMO_SECRET_KEY.into()),
        timeout: PATIENCE,
    };
    let signer = Signer::new(&im, Box::new(|_| {})).expect("a key");
    ChatClient::new(&im, signer, 1, &(Arc::new(|_| {}) as _)).expect("a client")
}

#[tokio::test]
async fn a_group_is_deleted_once() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let reply = client.delete("user15", "b").await;
    assert_eq!(
        reply.json(),
        json!({
            "GroupItem": [{ "GroupName": "b", "GroupId": 2 }],
            "ActionStatus": "OK", "ErrorCode": 0, "ErrorInfo": "",
        })
    );
    assert!(reply.head.contains("content-type: application/json"));
    assert_eq!(client.delete("user15", "b").await.code(), 51009);
    assert_eq!(sandbox.groups("user15").unwrap(), ["a", "c"]);
}

#[tokio::test]
async fn each_check_of_the_query_has_its_code_in_the_api_s_order() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let long_ago = Query::signed(DEMO_SECRET_KEY, ADMIN, now_s() - 601);
    let other_app = usersig::sign(APP + 1, DEMO_SECRET_KEY, ADMIN, now_s(), 600);
    // Each query is wrong in all later checks, too, so far as one query can be.
    let bad = |query: Query| query.with("random", None).with("contenttype", None);
    let cases = [
        (
            60012,
            bad(Query::signed("wrong", "nobody", 0)).with("sdkappid", None),
        ),
        (
            60012,
            bad(Query::signed("wrong", "nobody", 0)).with("sdkappid", Some("many")),
        ),
        (
            70020,
            bad(Query::signed("wrong", "nobody", 0))
                .with("sdkappid", Some("1"))
                .with("usersig", None),
        ),
        (70002, bad(Query::good()).with("usersig", None)),
        (70002, bad(Query::good()).with("usersig", Some(""))),
        (
            70003,
            bad(Query::good()).with("usersig", Some("eJyrVgrxCdYrSy1S")),
        ),
        (
            70014,
            bad(Query::good())
                .with("usersig", Some(&other_app))
                .with("identifier", Some("x")),
        ),
        (
            70013,
            bad(Query::signed("wrong", ADMIN, 0)).with("identifier", Some("user15")),
        ),
        (
            70013,
            bad(Query::signed("wrong", ADMIN, 0)).with("identifier", None),
        ),
        (70009, bad(Query::signed("wrong", "user15", 0))),
        (70001, bad(Query::signed(DEMO_SECRET_KEY, "user15", 0))),
        (70001, bad(long_ago)),
        (
            50003,
            bad(Query::signed(DEMO_SECRET_KEY, "user15", now_s())),
        ),
        (60009, Query::good().with("random", Some("4294967296"))),
        (60009, Query::good().with("random", Some("-1"))),
        (60009, Query::good().with("random", None)),
        (60009, Query::good().with("contenttype", Some("xml"))),
    ];
    for (code, query) in cases {
        assert_eq!(
            client
                .exchange("POST", &query.path(), "not json")
                .await
                .code(),
            code,
            "{}",
            query.path()
        );
    }
    assert_eq!(sandbox.groups("user15").unwrap().len(), 3);
}

#[tokio::test]
async fn each_check_of_the_body_has_its_code() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let long = body("user15", &"x".repeat(33));
    let cases = [
        (60003, ""),
        (60003, "{\"From_Account\":"),
        (60003, "[\"user15\",[\"a\"]]"),
        (60015, "{\"GroupName\":[\"a\"]}"),
        (60015, "{\"From_Account\":15,\"GroupName\":[]}"),
        (50002, "{\"From_Account\":\"user15\"}"),
        (50002, "{\"From_Account\":\"user15\",\"GroupName\":\"a\"}"),
        (50002, "{\"From_Account\":\"user15\",\"GroupName\":[1]}"),
        (
            50002,
            "{\"From_Account\":\"user15\",\"GroupName\":[\"a\",\"b\"]}",
        ),
        (51006, "{\"From_Account\":\"user15\",\"GroupName\":[]}"),
        (51011, &long),
        (50001, "{\"From_Account\":\"nobody\",\"GroupName\":[\"a\"]}"),
        (51009, "{\"From_Account\":\"user15\",\"GroupName\":[\"d\"]}"),
        (
            51009,
            "{\"From_Account\":\"administrator\",\"GroupName\":[\"a\"]}",
        ),
    ];
    for (code, body) in cases {
        assert_eq!(
            client
                .exchange("POST", &Query::good().path(), body)
                .await
                .code(),
            code,
            "{body}"
        );
    }
}

#[tokio::test]
async fn other_paths_methods_and_large_bodies_are_turned_away() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.exchange("POST", "/v4/other", "").await.status, 404);
    let reply = client.exchange("GET", &Query::good().path(), "").await;
    assert_eq!(reply.status, 405);
    assert!(reply.head.contains("allow: post"));
    assert_eq!(
        client
            .exchange("DELETE", "/sandbox/counters", "")
            .await
            .status,
        405
    );

    // No more than the sandbox will read is sent, so that its answer is not lost in a reset.
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n",
        Query::good().path()
    );
    client.0.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(client.receive().await.status, 413);
    assert_eq!(sandbox.counters().calls, 0);
}

#[tokio::test]
async fn hostile_bytes_leave_the_sandbox_standing() {
    let sandbox = sandbox(Config::default()).await;
    let path = Query::good().path();
    let deep = "[".repeat(60_000);
    for body in [
        deep.as_str(),
        "\u{0}",
        "{\"From_Account\":\"\\ud800\"}",
        "null",
        "1e999",
    ] {
        assert_eq!(
            Client::connect(&sandbox)
                .await
                .exchange("POST", &path, body)
                .await
                .code(),
            60003
        );
    }
    for query in [
        "?",
        "?&&==&%",
        "?sdkappid=%ff&sdkappid",
        "?usersig=%00&sdkappid=99999999999999999999",
    ] {
        let path = format!("/v4/recentcontact/del_contact_group{query}");
        assert_eq!(
            Client::connect(&sandbox)
                .await
                .exchange("POST", &path, "")
                .await
                .code(),
            60012
        );
    }
    let mut client = Client::connect(&sandbox).await;
    client
        .0
        .write_all(b"\x16\x03\x01 tls, not http\r\n\r\n")
        .await
        .unwrap();
    assert!(client.rest().await.0.starts_with(b"HTTP/1.1 400"));
    assert_eq!(
        Client::connect(&sandbox)
            .await
            .delete("user15", "a")
            .await
            .code(),
        0
    );
}

#[tokio::test]
async fn the_limit_counts_admitted_calls_and_can_be_switched() {
    let sandbox = sandbox(Config {
        calls_per_second: 3,
        permissive: true,
        record: true,
        ..Config::default()
    })
    .await;
    let mut client = Client::connect(&sandbox).await;
    // Refused before the limit, so not counted by it.
    let bad = Query::good().with("random", None);
    assert_eq!(
        client
            .exchange("POST", &bad.path(), &body("u", "g"))
            .await
            .code(),
        60009
    );
    let mut groups = (0..).map(|number| format!("g{number}"));
    let mut throttled = 0;
    while throttled == 0 {
        let code = client.delete("u", &groups.next().unwrap()).await.code();
        throttled += i32::from(code == 60007);
        assert!(code == 0 || code == 60007, "{code}");
    }
    let deleted: Vec<_> = sandbox
        .calls()
        .into_iter()
        .filter(|call| call.deleted)
        .map(|call| call.instant)
        .collect();
    assert!(deleted.len() >= 3);
    for four in deleted.windows(4) {
        assert!(four[3].duration_since(four[0]) >= Duration::from_secs(1));
    }
    sandbox.set_limit(0);
    for group in groups.take(50) {
        assert_eq!(client.delete("u", &group).await.code(), 0);
    }
}

#[tokio::test]
async fn a_permissive_sandbox_has_every_group_once() {
    let sandbox = sandbox(Config {
        permissive: true,
        ..Config::default()
    })
    .await;
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.delete("anybody", "anything").await.code(), 0);
    assert_eq!(client.delete("anybody", "anything").await.code(), 51009);
    assert_eq!(client.delete(ADMIN, "anything").await.code(), 51009);

    // Only what was given can be listed.
    assert_eq!(client.list_all("anybody").await, (vec![], 1));
    assert_eq!(client.list_all(ADMIN).await, (vec![], 1));
    assert_eq!(client.delete("user15", "b").await.code(), 0);
    let left = vec!["a".to_owned(), "c".to_owned()];
    assert_eq!(client.list_all("user15").await, (left, 1));
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let sandbox = with_pages(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let first = client.list("many", 0).await;
    assert!(first.head.contains("content-type: application/json"));
    let json = first.json();
    assert_eq!(
        json["GroupItem"][6],
        json!({ "GroupName": "g06", "GroupId": 7 })
    );
    assert_eq!(json["ContactItem"][0]["ContactGroupId"], json!([1]));
    let all = names(20);
    for (start, end, next) in [
        (0, 7, Some(7)),
        (7, 14, Some(14)),
        (14, 20, None),
        (5, 12, Some(12)),
        (20, 20, None),
    ] {
        let expected = Page {
            names: all[start..end].to_vec(),
            next,
        };
        let page = client.list("many", start as u64).await.page();
        assert_eq!(page, expected, "from {start} on");
    }
    assert_eq!(client.list_all("many").await, (all.clone(), 3));

    for (size, pages) in [(1, 20), (20, 1), (19, 2), (0, 1)] {
        let size = json!({ "list_page_size": size }).to_string();
        let set = client.exchange("PUT", "/sandbox/list-page-size", &size);
        assert_eq!(set.await.status, 204);
        assert_eq!(
            client.list_all("many").await,
            (all.clone(), pages),
            "{size}"
        );
    }
    let bad = client.exchange("PUT", "/sandbox/list-page-size", r#"{"list_page_size":-1}"#);
    assert_eq!(bad.await.status, 400);
    assert_eq!(sandbox.groups("many").unwrap(), all, "nothing was deleted");
}

#[tokio::test]
async fn a_list_is_of_a_user_there_is() {
    let sandbox = sandbox(Config::default()).await;
    sandbox.add_user("empty", &[]).unwrap();
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(
        client.list("empty", 0).await.json(),
        json!({
            "ContactItem": [], "GroupItem": [], "CompleteFlag": 1, "NextStartIndex": 0,
            "ActionStatus": "OK", "ErrorCode": 0, "ErrorInfo": "",
        })
    );
    assert_eq!(client.list_all(ADMIN).await, (vec![], 1));
    let refused = client.list("nobody", 0).await;
    assert_eq!(refused.code(), 50001);
    assert!(refused.json().get("CompleteFlag").is_none());

    let three = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
    assert_eq!(client.list_all("user15").await, (three, 1));
    for group in ["a", "b", "c"] {
        assert_eq!(client.delete("user15", group).await.code(), 0);
    }
    assert_eq!(client.list_all("user15").await, (vec![], 1));
}

#[tokio::test]
async fn a_list_is_checked_like_a_deletion() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let good = Query::good();
    let signed = |key, who| Query::signed(key, who, now_s());
    for (code, query, body) in [
        (60012, good.clone().with("sdkappid", None), "not json"),
        (70002, good.clone().with("usersig", None), "not json"),
        (70009, signed("wrong", ADMIN), "not json"),
        (70001, Query::signed(DEMO_SECRET_KEY, ADMIN, 0), "not json"),
        (50003, signed(DEMO_SECRET_KEY, "user15"), "not json"),
        (60009, good.clone().with("random", None), "not json"),
        (60003, good.clone(), "not json"),
        (60015, good.clone(), r#"{"StartIndex":0}"#),
        (50002, good.clone(), r#"{"From_Account":"user15"}"#),
        (
            50002,
            good.clone(),
            r#"{"From_Account":"user15","StartIndex":"0"}"#,
        ),
        (
            50002,
            good.clone(),
            r#"{"From_Account":"user15","StartIndex":-1}"#,
        ),
        (50001, good.clone(), &list_body("nobody", 0)),
        (0, good, &list_body("user15", 0)),
    ] {
        let reply = client.exchange("POST", &query.list_path(), body).await;
        assert_eq!(reply.code(), code, "{body} at {}", query.list_path());
    }
    let other_method = client.exchange("GET", &Query::good().list_path(), "").await;
    assert_eq!(other_method.status, 405);
}

#[tokio::test]
async fn lists_and_deletions_share_the_limit() {
    let sandbox = sandbox(Config {
        calls_per_second: 4,
        permissive: true,
        record: true,
        ..Config::default()
    })
    .await;
    let mut client = Client::connect(&sandbox).await;
    let mut throttled = HashSet::new();
    for number in 0.. {
        if client.list("u", 0).await.code() == 60007 {
            throttled.insert(CallKind::List);
        }
        if client.delete("u", &format!("g{number}")).await.code() == 60007 {
            throttled.insert(CallKind::Delete);
        }
        if throttled.len() == 2 {
            break;
        }
    }
    let calls = sandbox.calls();
    let admitted = calls.iter().filter(|call| call.code == Some(0));
    let admitted: Vec<_> = admitted.map(|call| call.instant).collect();
    assert!(admitted.len() >= 4);
    for five in admitted.windows(5) {
        assert!(five[4].duration_since(five[0]) >= Duration::from_secs(1));
    }
}

#[tokio::test]
async fn faults_strike_single_pages_and_single_calls() {
    let sandbox = with_pages(Config {
        record: true,
        ..Config::default()
    })
    .await;
    let mut client = Client::connect(&sandbox).await;
    sandbox.add_fault(Rule::new(Fault::code(1)).page(1).times(1));
    sandbox.add_fault(Rule::new(Fault::code(2)).call(CallKind::Delete).times(1));
    sandbox.add_fault(Rule::new(Fault::code(3)).group("g00").times(1));
    sandbox.add_fault(
        Rule::new(Fault::code(4))
            .call(CallKind::List)
            .skip(3)
            .times(1),
    );
    for (start, code) in [(0, 0), (7, 1), (13, 0), (14, 0), (0, 4), (7, 0)] {
        assert_eq!(client.list("many", start).await.code(), code, "{start}");
    }
    for code in [2, 3, 0] {
        assert_eq!(client.delete("many", "g00").await.code(), code);
    }
    assert_eq!(sandbox.faults(), []);

    // After: the list counts as one, and deletes nothing.
    sandbox.add_after_list("many", &["new"], 1).unwrap();
    sandbox.add_fault(Rule::new(Fault::HttpStatus(502)).page(2).after().times(1));
    let reply = client.list("many", 14).await;
    assert_eq!(reply.status, 502);
    assert_eq!(sandbox.groups("many").unwrap()[18..], ["g19", "new"]);

    let calls = sandbox.calls();
    let lists = calls.iter().filter(|call| call.kind == CallKind::List);
    let lists: Vec<_> = lists
        .map(|call| (call.page, call.code, call.deleted, call.group.is_some()))
        .collect();
    assert_eq!(
        lists,
        [
            (Some(0), Some(0), false, false),
            (Some(1), Some(1), false, false),
            (Some(1), Some(0), false, false),
            (Some(2), Some(0), false, false),
            (Some(0), Some(4), false, false),
            (Some(1), Some(0), false, false),
            (Some(2), None, false, false),
        ]
    );
    let deletions = calls.iter().filter(|call| call.kind == CallKind::Delete);
    let deletions: Vec<_> = deletions.map(|call| (call.page, call.deleted)).collect();
    assert_eq!(deletions, [(None, false), (None, false), (None, true)]);
    assert_eq!(calls[1].fault.as_deref(), Some("code_1"));

    let counters = sandbox.counters();
    assert_eq!((counters.calls, counters.lists), (10, 7));
    assert_eq!(counters.lists_by_code, [(0, 4), (1, 1), (4, 1)].into());
    assert_eq!(counters.by_code, [(0, 1), (2, 1), (3, 1)].into());
}

#[tokio::test]
async fn lists_have_faults_of_their_own() {
    let sandbox = with_pages(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let stuck = r#"{"what":"stuck_index","page":1}"#;
    let reply = client.exchange("POST", "/sandbox/faults", stuck).await;
    assert_eq!(reply.status, 201);
    assert_eq!(client.list("many", 0).await.page().next, Some(7));
    for _ in 0..2 {
        let page = client.list("many", 7).await.page();
        assert_eq!(page.names, names(14)[7..]);
        assert_eq!(page.next, Some(7));
    }
    sandbox.clear_faults();

    sandbox.add_fault(Rule::new(Fault::NoCompleteFlag).times(1));
    assert_eq!(client.delete("many", "g00").await.code(), 0, "a deletion");
    let json = client.list("many", 0).await.json();
    assert!(json.get("CompleteFlag").is_none());
    assert_eq!(json["GroupItem"].as_array().unwrap().len(), 7);
    assert_eq!(client.list("many", 0).await.page().next, Some(7));

    for never in [
        r#"{"what":"stuck_index","call":"delete"}"#,
        r#"{"what":"hang","group":"a","page":0}"#,
    ] {
        let reply = client.exchange("POST", "/sandbox/faults", never).await;
        assert_eq!(reply.status, 400);
        assert!(reply.body.contains("never strike"), "{}", reply.body);
    }
    let by_fault = sandbox.counters().by_fault;
    assert_eq!(
        (by_fault["stuck_index"], by_fault["no_complete_flag"]),
        (2, 1)
    );
}

#[tokio::test]
async fn groups_come_back_after_a_list() {
    let sandbox = sandbox(Config::default()).await;
    sandbox.set_list_page_size(2);
    let mut client = Client::connect(&sandbox).await;
    let after = r#"{"user":"user15","groups":["a","new"],"times":2}"#;
    let added = client.exchange("POST", "/sandbox/after-list", after).await;
    assert_eq!(added.status, 204);
    assert_eq!(
        client.list("user15", 0).await.page().next,
        Some(2),
        "a list that goes on"
    );
    assert_eq!(sandbox.groups("user15").unwrap(), ["a", "b", "c"]);
    // What comes while it is still there is no second one: it goes with the first.
    for listed in [&["a", "b", "c"][..], &["new"], &["a"], &[]] {
        let (names, _) = client.list_all("user15").await;
        assert_eq!(names, listed);
        for name in names {
            assert_eq!(client.delete("user15", &name).await.code(), 0);
        }
    }
    let once = r#"{"user":"fresh","groups":["x"]}"#;
    client.exchange("POST", "/sandbox/after-list", once).await;
    assert_eq!(client.list("fresh", 0).await.code(), 50001, "no list");
    assert_eq!(sandbox.groups("fresh"), None);
    let long = json!({ "user": "u", "groups": ["x".repeat(33)] }).to_string();
    for bad in ["{}", r#"{"user":"u","groups":["a"],"time":1}"#, &long] {
        let reply = client.exchange("POST", "/sandbox/after-list", bad).await;
        assert_eq!(reply.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn the_client_lists_what_the_sandbox_has() {
    let sandbox = with_pages(Config::default()).await;
    let client = chat_client(&sandbox);
    let (mut asked, mut found) = (PageAsked::FIRST, BTreeSet::new());
    loop {
        let Listed { call, page } = client.list("many", asked, Via::Pooled).await;
        let ok = ChatReply::Answer {
            code: 0,
            info: String::new(),
        };
        assert_eq!(call.reply, ok);
        let page = page.unwrap();
        found.extend(page.groups);
        match page.next {
            Some(next) => asked = asked.followed_by(next),
            None => break,
        }
    }
    assert_eq!(found, BTreeSet::from_iter(names(20)));
    assert_eq!((asked.start_index, asked.number), (14, 2));

    let Listed { call, page } = client.list("nobody", PageAsked::FIRST, Via::Fresh).await;
    assert!(matches!(call.reply, ChatReply::Answer { code: 50001, .. }));
    assert_eq!(page, None);
}

#[tokio::test]
async fn the_client_takes_no_faulty_page() {
    let sandbox = with_pages(Config::default()).await;
    let client = chat_client(&sandbox);
    let long = format!(r#"{{"ContactItem":"{}","#, "x".repeat(1024 * 1024))
        + r#""GroupItem":[{"GroupName":"a"}],"CompleteFlag":1,"ErrorCode":0}"#;
    let bad = ChatReply::BadBody;
    let ok = || ChatReply::Answer {
        code: 0,
        info: String::new(),
    };
    for (fault, expected) in [
        (
            Fault::StuckIndex,
            bad("the NextStartIndex does not lead on"),
        ),
        (
            Fault::NoCompleteFlag,
            bad("the CompleteFlag is neither 0 nor 1"),
        ),
        (
            Fault::Huge,
            bad("longer than is read, and the part read holds no failure"),
        ),
        (Fault::Garbage, bad("no JSON object with an ErrorCode")),
        (Fault::Raw(Raw::body(long)), ok()),
        (Fault::HttpStatus(502), ChatReply::HttpStatus(502)),
        (Fault::Reset, ChatReply::Reset),
        (Fault::Truncated, ChatReply::Reset),
    ] {
        let label = fault.label();
        sandbox.add_fault(Rule::new(fault).page(0).times(1));
        let Listed { call, page } = client.list("many", PageAsked::FIRST, Via::Fresh).await;
        assert_eq!(page.is_some(), expected == ok(), "{label}");
        assert_eq!(call.reply, expected, "{label}");
    }
    sandbox.add_fault(Rule::new(Fault::Echo(60007)).times(1));
    let Listed { call, page } = client.list("many", PageAsked::FIRST, Via::Pooled).await;
    let shown = format!("{call:?} {page:?}");
    assert!(shown.contains("60007") && !shown.contains("eJ"), "{shown}");
    let Listed { page, .. } = client.list("many", PageAsked::FIRST, Via::Pooled).await;
    assert_eq!(
        format!("{page:?}"),
        "Some(Page { groups: 7, next: Some(7) })"
    );
}

#[tokio::test]
async fn a_reset_is_a_reset_and_a_close_is_an_end() {
    let sandbox = sandbox(Config::default()).await;
    for effect in [Effect::Before, Effect::After] {
        let mut client = Client::connect(&sandbox).await;
        sandbox.add_fault(Rule {
            effect,
            ..Rule::new(Fault::Reset).times(1)
        });
        client
            .send("POST", &Query::good().path(), &body("user15", "a"))
            .await;
        let (bytes, end) = client.rest().await;
        assert!(bytes.is_empty());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(
            sandbox.groups("user15").unwrap().len(),
            if effect == Effect::Before { 3 } else { 2 }
        );

        let mut client = Client::connect(&sandbox).await;
        sandbox.add_fault(Rule {
            effect,
            ..Rule::new(Fault::Close).times(1)
        });
        client
            .send("POST", &Query::good().path(), &body("user15", "b"))
            .await;
        let (bytes, end) = client.rest().await;
        assert!(bytes.is_empty());
        end.expect("a FIN is no error");
        assert_eq!(
            sandbox.groups("user15").unwrap().len(),
            if effect == Effect::Before { 3 } else { 1 }
        );
    }
    assert_eq!(sandbox.counters().by_http_status.len(), 0);
}

#[tokio::test]
async fn a_hang_lasts_until_the_client_goes_away() {
    let sandbox = sandbox(Config::default()).await;
    sandbox.add_fault(Rule::new(Fault::Hang).after().times(1));
    let mut client = Client::connect(&sandbox).await;
    client
        .send("POST", &Query::good().path(), &body("user15", "a"))
        .await;
    timeout(
        PATIENCE,
        sandbox.wait_until(|counters| counters.by_fault.contains_key("hang")),
    )
    .await
    .unwrap();
    assert_eq!(sandbox.groups("user15").unwrap(), ["b", "c"]);
    // Another client is served meanwhile, and the one that hangs still has nothing.
    assert_eq!(
        Client::connect(&sandbox)
            .await
            .delete("user15", "b")
            .await
            .code(),
        0
    );
    assert_eq!(
        client.0.try_read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    client.0.shutdown().await.unwrap();
    let (bytes, end) = client.rest().await;
    assert!(bytes.is_empty());
    end.unwrap();
}

#[tokio::test]
async fn answers_go_wrong_in_every_way() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let once = |what| Rule::new(what).times(1);

    sandbox.add_fault(once(Fault::Code {
        code: 50004,
        info: "busy".to_owned(),
    }));
    assert_eq!(
        client.delete("user15", "a").await.json(),
        json!({ "ActionStatus": "FAIL", "ErrorCode": 50004, "ErrorInfo": "busy" })
    );
    sandbox.add_fault(once(Fault::HttpStatus(502)));
    let reply = client.delete("user15", "a").await;
    assert_eq!(reply.status, 502);
    assert!(reply.body.starts_with("<html>"));

    sandbox.add_fault(once(Fault::Garbage));
    let reply = client.delete("user15", "a").await;
    assert_eq!(reply.status, 200);
    assert!(serde_json::from_str::<Value>(&reply.body).is_err());

    sandbox.add_fault(once(Fault::Echo(70009)));
    let reply = client.delete("user15", "secret-name").await;
    assert_eq!(reply.code(), 70009);
    let info = reply.json()["ErrorInfo"].as_str().unwrap().to_owned();
    assert!(
        info.contains("usersig=eJ") && info.contains("user15") && info.contains("secret-name"),
        "{info}"
    );

    sandbox.add_fault(once(Fault::Truncated));
    client
        .send("POST", &Query::good().path(), &body("user15", "a"))
        .await;
    let (bytes, end) = client.rest().await;
    end.expect("a FIN is no error");
    let text = String::from_utf8(bytes).unwrap();
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("Content-Length: 1000") && rest.starts_with('{') && rest.len() < 1000);

    let mut client = Client::connect(&sandbox).await;
    sandbox.add_fault(once(Fault::Huge));
    client
        .send("POST", &Query::good().path(), &body("user15", "a"))
        .await;
    let mut much = vec![0; 8 * 1024 * 1024];
    timeout(PATIENCE, client.0.read_exact(&mut much))
        .await
        .unwrap()
        .unwrap();
    assert!(much.starts_with(b"HTTP/1.1 200"));

    let counters = sandbox.counters();
    assert_eq!(
        sandbox.groups("user15").unwrap().len(),
        3,
        "nothing was deleted"
    );
    assert_eq!(counters.by_fault.values().sum::<u64>(), 6);
    assert_eq!(
        counters.by_code.keys().copied().collect::<Vec<_>>(),
        [50004, 70009]
    );
    assert_eq!(
        (counters.by_http_status[&200], counters.by_http_status[&502]),
        (5, 1)
    );
}

#[tokio::test]
async fn faults_pick_their_calls() {
    let sandbox = sandbox(Config {
        record: true,
        ..Config::default()
    })
    .await;
    let mut client = Client::connect(&sandbox).await;
    sandbox.add_fault(
        Rule::new(Fault::code(1))
            .user("user15")
            .group("a")
            .skip(1)
            .times(1)
            .after(),
    );
    sandbox.add_fault(Rule::new(Fault::code(2)).probes(Probes::Only));
    assert_eq!(client.delete("user15", "b").await.code(), 0);
    assert_eq!(client.delete("user15", "a").await.code(), 0);
    assert_eq!(client.delete("user15", "a").await.code(), 1);
    assert_eq!(client.delete("user15", "a").await.code(), 51009);
    assert_eq!(client.delete(ADMIN, "a").await.code(), 2);
    assert_eq!(sandbox.faults().len(), 1);
    assert_eq!(sandbox.faults()[0].struck, 1);
    sandbox.clear_faults();
    assert_eq!(client.delete(ADMIN, "a").await.code(), 51009);

    let calls = sandbox.calls();
    assert!(calls.is_sorted_by_key(|call| call.instant));
    assert_eq!(calls.iter().filter(|call| call.probe).count(), 2);
    assert_eq!(calls[2].fault.as_deref(), Some("code_1"));
    assert_eq!(
        (
            calls[1].user.as_deref(),
            calls[1].group.as_deref(),
            calls[1].code
        ),
        (Some("user15"), Some("a"), Some(0))
    );
}

#[tokio::test]
async fn counters_tell_what_happened_and_start_anew() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    client.delete("user15", "a").await;
    client.delete("user15", "a").await;
    client.delete(ADMIN, "a").await;
    client.list("user15", 0).await;
    client.list("nobody", 0).await;
    let counters = client.exchange("GET", "/sandbox/counters", "").await.json();
    let busiest = counters["calls_per_second_max"].as_u64().unwrap();
    assert!((1..=5).contains(&busiest));
    assert_eq!(
        counters,
        json!({
            "calls": 5, "lists": 2, "probes": 1, "deleted": 1,
            "by_code": { "0": 1, "51009": 2 }, "lists_by_code": { "0": 1, "50001": 1 },
            "by_http_status": { "200": 5 }, "by_fault": {}, "calls_per_second_max": busiest,
        })
    );
    assert_eq!(
        client
            .exchange("POST", "/sandbox/counters/reset", "")
            .await
            .status,
        204
    );
    assert_eq!(sandbox.counters().calls, 0);
}

#[tokio::test]
async fn users_are_controlled_by_http() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(
        client.exchange("GET", "/sandbox/healthz", "").await.status,
        200
    );

    let seed =
        "{\"user\":\"u/1 ü\",\"groups\":[\"x\",\"y\"]}\n{\"user\":\"user15\",\"groups\":[\"d\"]}\n";
    assert_eq!(
        client.exchange("POST", "/sandbox/users", seed).await.json(),
        json!({ "users": 2 })
    );
    let user = client
        .exchange("GET", "/sandbox/users/u%2F1%20%C3%BC", "")
        .await;
    assert_eq!(
        user.json(),
        json!({ "user": "u/1 ü", "groups": ["x", "y"] })
    );
    assert_eq!(sandbox.groups("user15").unwrap(), ["a", "b", "c", "d"]);
    assert_eq!(
        client
            .exchange("GET", "/sandbox/users/nobody", "")
            .await
            .status,
        404
    );
    let reply = client
        .exchange("POST", "/sandbox/users", "{\"user\":\"v\"}\n{}\n")
        .await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.starts_with("line 2: "), "{}", reply.body);
    assert_eq!(
        client.exchange("DELETE", "/sandbox/users", "").await.status,
        204
    );
    assert_eq!(client.delete("user15", "b").await.code(), 50001);
}

#[tokio::test]
async fn faults_latency_and_limit_are_controlled_by_http() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let rule = r#"{"what":{"code":50005},"times":2}"#;
    assert_eq!(
        client
            .exchange("POST", "/sandbox/faults", rule)
            .await
            .json(),
        json!({ "id": 1 })
    );
    assert_eq!(client.delete("user15", "a").await.code(), 50005);
    let faults = client.exchange("GET", "/sandbox/faults", "").await.json();
    assert_eq!(
        (&faults[0]["struck"], &faults[0]["rule"]["times"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        client
            .exchange("DELETE", "/sandbox/faults/1", "")
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .exchange("DELETE", "/sandbox/faults/1", "")
            .await
            .status,
        404
    );
    assert_eq!(
        client
            .exchange("DELETE", "/sandbox/faults", "")
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .exchange("POST", "/sandbox/faults", r#"{"what":"explode"}"#)
            .await
            .status,
        400
    );

    let latency = r#"{"min_ms":1,"max_ms":2}"#;
    assert_eq!(
        client
            .exchange("PUT", "/sandbox/latency", latency)
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .exchange("PUT", "/sandbox/latency", r#"{"min_ms":3,"max_ms":2}"#)
            .await
            .status,
        400
    );
    assert_eq!(
        client
            .exchange("PUT", "/sandbox/limit", r#"{"calls_per_second":1000}"#)
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .exchange("PUT", "/sandbox/limit", r#"{"calls_per_second":-1}"#)
            .await
            .status,
        400
    );
    assert_eq!(client.delete("user15", "a").await.code(), 0);
}

#[tokio::test]
async fn a_rotated_key_refuses_the_old_signature() {
    let sandbox = sandbox(Config::default()).await;
    let mut client = Client::connect(&sandbox).await;
    let old = Query::good().path();
    assert_eq!(
        client
            .exchange("POST", &old, &body("user15", "a"))
            .await
            .code(),
        0
    );
    let rotated = r#"{"secret_key":"rotated","admins":["administrator","second"]}"#;
    assert_eq!(
        client
            .exchange("PUT", "/sandbox/credentials", rotated)
            .await
            .status,
        204
    );
    assert_eq!(
        client
            .exchange("POST", &old, &body("user15", "b"))
            .await
            .code(),
        70009
    );
    let new = Query::signed("rotated", "second", now_s()).path();
    assert_eq!(
        client
            .exchange("POST", &new, &body("user15", "b"))
            .await
            .code(),
        0
    );

    sandbox.set_credentials(Credentials {
        admins: Some(vec![ADMIN.to_owned()]),
        ..Credentials::default()
    });
    assert_eq!(
        client
            .exchange("POST", &new, &body("user15", "c"))
            .await
            .code(),
        50003
    );
}

#[tokio::test]
async fn latency_is_what_was_asked_for() {
    let sandbox = sandbox(Config {
        latency: Latency::new(30, 40).unwrap(),
        ..Config::default()
    })
    .await;
    let mut client = Client::connect(&sandbox).await;
    let started = std::time::Instant::now();
    assert_eq!(client.delete("user15", "a").await.code(), 0);
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn connections_are_kept_alive_unless_told_otherwise() {
    let config = Config {
        close_after_requests: Some(2),
        ..Config::default()
    };
    let sandbox = sandbox(config).await;
    let mut client = Client::connect(&sandbox).await;
    assert_eq!(client.delete("user15", "a").await.code(), 0);
    let last = client.delete("user15", "b").await;
    assert_eq!(last.code(), 0);
    assert!(!last.head.contains("connection:"), "{}", last.head);
    let (bytes, end) = client.rest().await;
    assert!(bytes.is_empty());
    end.expect("a FIN is no error");
}

#[tokio::test]
async fn an_idle_connection_is_closed_without_a_word() {
    let config = Config {
        idle_close: Some(Duration::from_millis(50)),
        ..Config::default()
    };
    let sandbox = sandbox(config).await;
    sandbox.set_latency(Latency::new(100, 100).unwrap());
    let mut client = Client::connect(&sandbox).await;
    let reply = client.delete("user15", "a").await;
    assert_eq!(reply.code(), 0, "a call that takes longer is not idle");
    assert!(!reply.head.contains("connection:"));
    let (bytes, end) = client.rest().await;
    assert!(bytes.is_empty());
    end.expect("a FIN is no error");
}

#[tokio::test]
async fn a_stopped_sandbox_frees_its_address() {
    let first = sandbox(Config::default()).await;
    let mut client = Client::connect(&first).await;
    // Before it is accepted, a connection would be reset.
    assert_eq!(client.delete("user15", "a").await.code(), 0);
    let addr = first.addr();
    assert_eq!(first.base_url(), format!("http://{addr}"));
    first.stop().await;
    client.rest().await.1.expect("a FIN is no error");
    let refused = TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let again = sandbox(Config {
        listen: addr,
        ..Config::default()
    })
    .await;
    assert_eq!(
        Client::connect(&again)
            .await
            .delete("user15", "a")
            .await
            .code(),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parallel_clients_delete_every_group_once() {
    let config = Config {
        permissive: true,
        calls_per_second: 0,
        record: true,
        ..Config::default()
    };
    let sandbox = sandbox(config).await;
    let path = Query::good().path();
    let mut clients = tokio::task::JoinSet::new();
    for user in 0..20 {
        let (mut client, path) = (Client::connect(&sandbox).await, path.clone());
        clients.spawn(async move {
            for group in 0..20 {
                let body = body(&format!("u{user}"), &format!("g{group}"));
                assert_eq!(client.exchange("POST", &path, &body).await.code(), 0);
            }
        });
    }
    clients.join_all().await;
    let calls = sandbox.calls();
    let groups: HashSet<_> = calls
        .iter()
        .map(|call| (call.user.as_deref(), call.group.as_deref()))
        .collect();
    assert_eq!(
        (calls.len(), groups.len(), sandbox.counters().deleted),
        (400, 400, 400)
    );
    assert!(calls.is_sorted_by_key(|call| call.instant));
}

#[tokio::test]
async fn the_binary_seeds_announces_itself_and_ends_on_sigterm() {
    let seed = tempfile::NamedTempFile::new().unwrap();
    let line = "{\"user\":\"user15\",\"groups\":[\"a\",\"b\"]}\n";
    std::fs::write(seed.path(), line).unwrap();
    let mut binary = Command::new(env!("CARGO_BIN_EXE_im-sandbox"))
        .args(["--listen", "127.0.0.1:0", "--seed"])
        .arg(seed.path())
        // Empty: not set.
        .env("IM_SANDBOX_SDK_APP_ID", "")
        .env("IM_SANDBOX_IDLE_CLOSE", "")
        .env("IM_SANDBOX_PERMISSIVE", "")
        .env("IM_SANDBOX_LIST_PAGE_SIZE", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(binary.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let addr = line
        .trim_end()
        .strip_prefix("im-sandbox listening on http://");
    let addr = addr.unwrap_or_else(|| panic!("an address in {line:?}"));
    let mut client = Client(TcpStream::connect(addr).await.unwrap());
    assert_eq!(client.list("user15", 0).await.page().next, Some(1));
    assert_eq!(client.delete("user15", "a").await.code(), 0);

    let killed = Command::new("kill")
        .args(["-TERM", &binary.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    assert_eq!(binary.wait().unwrap().code(), Some(0));
}

#[test]
fn an_empty_secret_key_is_refused() {
    let refused = Command::new(env!("CARGO_BIN_EXE_im-sandbox"))
        .args(["--listen", "127.0.0.1:0"])
        .env("IM_SANDBOX_SECRET_KEY", "")
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(2));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("IM_SANDBOX_SECRET_KEY"), "{told}");
}
