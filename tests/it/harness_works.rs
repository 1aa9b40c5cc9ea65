//! The harness does what it says, shown against real nodes and real processes: other tests lean on it.

use std::time::Duration;

use convgroup_testkit::daemon::DaemonConfig;
use convgroup_testkit::proxy::method;
use convgroup_testkit::{
    Action, Broker, Cluster, Direction, Metrics, Node, PATIENCE, Proxy, Rule, Settle, When, broker,
    eventually, shared_node, unique,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_keeps_confirmed_messages_through_kill_and_restart() {
    let node = Node::start().await;
    let queue = unique("kept");
    let client = Broker::connect(&node.url()).await;
    client.declare_quorum(&queue).await;
    client
        .publish("", &queue, b"one", broker::persistent())
        .await;
    client
        .publish_many("", &queue, (0..99).map(|number| number.to_string()))
        .await;
    assert_eq!(client.depth(&queue).await, 100);

    node.recorded(&queue).await;
    node.kill();
    node.gone().await;
    assert!(Broker::try_connect(&node.url()).await.is_err());
    node.start_again().await;
    let client = Broker::connect(&node.url()).await;
    client.eventually_depth(&queue, 100, PATIENCE).await;

    node.stop();
    node.start_again().await;
    let client = Broker::connect(&node.url()).await;
    client.eventually_depth(&queue, 100, PATIENCE).await;
    assert_eq!(client.read(&queue, 100, Settle::Ack).await[0].text(), "one");
    client.eventually_depth(&queue, 0, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_node_answers_nothing_and_a_starved_one_blocks_publishers() {
    let node = Node::start().await;
    let queue = unique("frozen");
    let client = Broker::connect(&node.url()).await;
    client.declare_quorum(&queue).await;

    node.freeze();
    let body = unique("body");
    let mut publish =
        Box::pin(client.try_publish("", &queue, body.as_bytes(), broker::persistent()));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut publish).await;
    assert!(early.is_err(), "a frozen node answered: {early:?}");
    node.thaw();
    publish.await.expect("the publish goes on after the thaw");

    node.memory_alarm(true).await;
    let mut publish = Box::pin(client.try_publish("", &queue, b"blocked", broker::persistent()));
    tokio::select! {
        done = &mut publish => panic!("confirmed during the alarm: {done:?}"),
        () = eventually("the broker blocks the publisher", PATIENCE, async || client.connection().status().blocked()) => {}
    }
    node.memory_alarm(false).await;
    publish.await.expect("the publish goes on after the alarm");
    client.eventually_depth(&queue, 2, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_shows_headers_and_settles_as_asked() {
    let node = shared_node().await;
    let client = Broker::connect(&node.vhost(&unique("reading")).await).await;
    client.declare_quorum("dead").await;
    assert!(client.has_queue("dead").await);
    assert!(!client.has_queue("missing").await);
    let mut headers = lapin::types::FieldTable::default();
    headers.insert(
        "convgroup-attempt".into(),
        lapin::types::AMQPValue::LongInt(3),
    );
    headers.insert(
        "convgroup-code".into(),
        lapin::types::AMQPValue::LongString("51011".into()),
    );
    let properties = broker::persistent()
        .with_headers(headers)
        .with_message_id("id-1".into());
    client.publish("", "dead", b"{}", properties).await;

    let seen = client.read_dead("dead", 1, Settle::Requeue).await;
    assert_eq!(seen[0].header_number("convgroup-attempt"), Some(3));
    assert_eq!(
        seen[0].header_text("convgroup-code").as_deref(),
        Some("51011")
    );
    assert_eq!(
        seen[0]
            .properties
            .message_id()
            .as_ref()
            .map(ToString::to_string)
            .as_deref(),
        Some("id-1")
    );
    client.eventually_depth("dead", 1, PATIENCE).await;
    assert!(client.read("dead", 1, Settle::Ack).await[0].redelivered);
    client.eventually_depth("dead", 0, PATIENCE).await;
    client.eventually_consumers("dead", 0, PATIENCE).await;

    client.publish_many("", "dead", ["a", "b"]).await;
    assert_eq!(client.purge("dead").await, 2);
    let unroutable = client
        .try_publish("", "missing", b"lost", broker::persistent())
        .await;
    assert!(
        unroutable.is_err(),
        "a message for no queue counted as published"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cuts_restores_and_freezes() {
    let node = shared_node().await;
    let queue = unique("proxied");
    let proxy = Proxy::start(node.addr()).await;
    let client = Broker::connect(&proxy.amqp_url()).await;
    client.declare_quorum(&queue).await;
    assert_eq!((proxy.connections(), proxy.accepted()), (1, 1));

    proxy.cut();
    eventually("the client notices the cut", PATIENCE, async || {
        !client.connection().status().connected()
    })
    .await;
    assert!(Broker::try_connect(&proxy.amqp_url()).await.is_err());
    eventually("no connection is left", PATIENCE, async || {
        proxy.connections() == 0
    })
    .await;

    proxy.restore();
    let client = Broker::connect(&proxy.amqp_url()).await;
    proxy.freeze_towards_client();
    let mut publish = Box::pin(client.try_publish("", &queue, b"{}", broker::persistent()));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut publish).await;
    assert!(early.is_err(), "an answer came through: {early:?}");
    proxy.restore();
    publish.await.expect("what was held back flows on");

    proxy.delay(Duration::from_millis(50));
    let start = std::time::Instant::now();
    assert_eq!(client.depth(&queue).await, 1);
    assert!(
        start.elapsed() >= Duration::from_millis(200),
        "two round trips took {:?}",
        start.elapsed()
    );
    proxy.drop_connections();
    eventually("the client notices the drop", PATIENCE, async || {
        !client.connection().status().connected()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_acts_at_a_chosen_frame() {
    let node = shared_node().await;
    let queue = unique("framed");
    let direct = Broker::connect(&node.url()).await;
    direct.declare_quorum(&queue).await;
    let proxy = Proxy::start(node.addr()).await;

    // A confirm that is lost, then a publish that is: the message is there, or it is not.
    for (number, direction, frame) in [
        (1, Direction::ToClient, method::ACK),
        (2, Direction::ToUpstream, method::PUBLISH),
    ] {
        proxy.set_rule(Rule {
            direction,
            when: When::Before(frame),
            action: Action::Cut,
        });
        let client = Broker::connect(&proxy.amqp_url()).await;
        let published = client
            .try_publish("", &queue, b"{}", broker::persistent())
            .await;
        assert!(published.is_err(), "{direction:?}");
        proxy.fired(number, PATIENCE).await;
        direct.eventually_depth(&queue, 1, PATIENCE).await;
        proxy.restore();
    }

    for when in [When::Bytes(100), When::Frames(2)] {
        proxy.set_rule(Rule {
            direction: Direction::ToClient,
            when,
            action: Action::DropConnections,
        });
        assert!(
            Broker::try_connect(&proxy.amqp_url()).await.is_err(),
            "{when:?} came too late"
        );
    }
    assert_eq!(proxy.rules_fired(), 4);
    Broker::connect(&proxy.amqp_url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_form_a_cluster_that_survives_its_leader() {
    let cluster = Cluster::start().await;
    let queue = unique("replicated");
    let client = Broker::connect(&cluster.node(0).url()).await;
    client.declare_quorum(&queue).await;
    client.publish_many("", &queue, ["a", "b", "c"]).await;

    let leader = cluster.leader_of(&queue).await;
    leader.recorded(&queue).await;
    leader.kill();
    leader.gone().await;
    let survivor = cluster
        .nodes()
        .iter()
        .find(|node| node.name() != leader.name())
        .expect("two are left");
    eventually(
        "the survivors elect a leader and take messages",
        PATIENCE,
        async || {
            let client = Broker::try_connect(&survivor.url())
                .await
                .map_err(|error| format!("{error:#}"))?;
            client
                .try_publish("", &queue, b"d", broker::persistent())
                .await
                .map_err(|error| format!("{error:#}"))
        },
    )
    .await;
    leader.start_again().await;
    let client = Broker::connect(&leader.url()).await;
    eventually("all messages are there", PATIENCE, async || {
        let depth = client
            .try_inspect(&queue)
            .await
            .map_err(|error| format!("{error:#}"))?
            .message_count();
        // A publish that got no confirm may have been stored as well.
        if depth >= 4 {
            Ok(())
        } else {
            Err(depth.to_string())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_signalled_captured_and_reaped() {
    let script = "echo started; echo trouble >&2; trap 'echo bye; exit 3' TERM; while :; do sleep 0.02; done";
    let config = DaemonConfig::new("amqp://nowhere", "http://nowhere")
        .program("/bin/sh")
        .args(&["-c", script]);
    let mut process = config.spawn();
    eventually("both streams are read", PATIENCE, async || {
        let output = process.output();
        if output.contains("started\n") && output.contains("trouble\n") {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    assert_eq!(
        (process.stdout().as_str(), process.stderr().as_str()),
        ("started\n", "trouble\n")
    );
    process.freeze();
    process.signal("TERM");
    assert!(process.is_running());
    process.thaw();
    assert_eq!(process.wait_exit(PATIENCE).await, 3);
    assert!(process.stdout().ends_with("bye\n"));

    let mut process = config
        .replica()
        .args(&["-c", "echo $CONVGROUP_HTTP__LISTEN; exec sleep 1000"])
        .spawn();
    process.kill();
    assert_eq!(process.wait_exit(PATIENCE).await, -9);
}

/// The parent starts this same test in a process of its own, told apart by a variable, and kills that with SIGKILL.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_killed_test_process() {
    const CHILD: &str = "HARNESS_WORKS_CHILD";
    let name = "harness_works::nothing_outlives_a_killed_test_process";
    let sleeper = DaemonConfig::new("amqp://nowhere", "http://nowhere")
        .program("/bin/sh")
        .args(&["-c", "exec sleep 1000"]);
    if std::env::var_os(CHILD).is_some() {
        let sleeper = sleeper.spawn();
        println!("sleeper={}", sleeper.pid());
        return std::future::pending().await;
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let config = DaemonConfig::new("amqp://nowhere", "http://nowhere")
        .program(test)
        .set(CHILD, 1);
    let mut child = config.args(&[name, "--exact", "--nocapture"]).spawn();
    let pid: u32 = eventually("the child tells its sleeper", PATIENCE, async || {
        let output = child.output();
        let pid = output
            .lines()
            .find_map(|line| line.split_once("sleeper=")?.1.parse().ok());
        pid.ok_or(output)
    })
    .await;
    let exists = || {
        // A process that nobody has waited for yet is dead all the same.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, state)| !state.starts_with('Z'))
    };
    assert!(exists());
    child.kill();
    assert_eq!(child.wait_exit(PATIENCE).await, -9);
    eventually("the sleeper is gone", PATIENCE, async || !exists()).await;
}

#[test]
fn an_exposition_is_read_with_its_labels() {
    let metrics = Metrics::parse(concat!(
        "# HELP a_total Text.\n# TYPE a_total counter\n",
        "a_total{code=\"0\",class=\"deleted\"} 3\na_total{code=\"51009\",class=\"gone\"} 4\n",
        "b 1.5e3\nc{text=\"a \\\"b\\\", {c}\\n\"} +Inf\n",
    ));
    assert!(
        (metrics.value("a_total", &[("class", "deleted"), ("code", "0")]) - 3.0).abs()
            < f64::EPSILON
    );
    assert!((metrics.sum("a_total") - 7.0).abs() < f64::EPSILON);
    assert!((metrics.sum_where("a_total", &[("class", "gone")]) - 4.0).abs() < f64::EPSILON);
    assert!((metrics.value("b", &[]) - 1500.0).abs() < f64::EPSILON);
    assert!(
        metrics
            .value("c", &[("text", "a \"b\", {c}\n")])
            .is_infinite()
    );
    assert!(metrics.find("a_total", &[("code", "0")]).is_none());
}

#[tokio::test]
#[should_panic(expected = "harness_works.rs")]
async fn eventually_names_the_waiting_line() {
    eventually("a miracle", Duration::from_millis(50), async || None::<()>).await;
}

#[tokio::test]
#[should_panic(expected = "a miracle; last state: \"not today\"")]
async fn eventually_shows_the_last_state() {
    eventually("a miracle", Duration::from_millis(50), async || {
        Err::<(), _>("not today")
    })
    .await;
}

#[tokio::test]
#[should_panic(expected = "a look hung")]
async fn eventually_gives_up_a_look_that_hangs() {
    eventually("a miracle", Duration::from_millis(50), async || {
        std::future::pending::<bool>().await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_is_read_to_its_end() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let config = DaemonConfig::new("amqp://nowhere", "http://nowhere")
        .program("/bin/sh")
        .args(&["-c", "exec sleep 1000"]);
    let mut process = config.spawn();
    assert!(process.try_http("/readyz").await.is_err());
    let listener = tokio::net::TcpListener::bind(process.addr())
        .await
        .expect("the port is free");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            drop(stream.read(&mut request).await);
            drop(
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nup 1")
                    .await,
            );
        }
    });
    process.ready(PATIENCE).await;
    assert_eq!(process.http("/livez").await, (200, "up 1".into()));
    assert!((process.metrics().await.value("up", &[]) - 1.0).abs() < f64::EPSILON);
}
