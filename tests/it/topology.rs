//! `topology`: applied by one who may, then a daemon with the least rights does all of its work.
use im_sandbox::{Fault, Rule};
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::ledger::Books;
use crate::world::{World, event, eventually_settled};
use convgroup_testkit::broker::persistent;
use convgroup_testkit::{PATIENCE, Settle, eventually, shared_node, unique};

/// A user with exactly the rights that `topology print` names for it, in the vhost of the world.
async fn user_with(world: &World, printed: &str, who: &str) -> String {
    let line = printed
        .lines()
        .find(|line| line.contains("set_permissions") && line.contains(&format!(" {who} ")))
        .unwrap_or_else(|| panic!("no rights for {who} in {printed}"));
    let user = unique(who);
    shared_node()
        .await
        .ctl(&["add_user", &user, "password"])
        .await;
    let mut words = words(line);
    let place = words.iter().position(|word| word == who).unwrap();
    words[place].clone_from(&user);
    run_ctl(&words).await;
    let url = world.config.get("CONVGROUP_AMQP__URL");
    url.replace("guest:guest@", &format!("{user}:password@"))
}

/// The words that a shell makes of a line with `rabbitmqctl`.
fn words(line: &str) -> Vec<String> {
    let script = format!("rabbitmqctl() {{ printf '%s\\0' \"$@\"; }}\n{line}");
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("there is a shell");
    assert!(output.status.success(), "{line}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("names are UTF-8");
    text.trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect()
}

async fn run_ctl(words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    shared_node().await.ctl(&words).await;
}

/// Does what a refusal says: runs its `rabbitmqctl` line, which ends the text or is followed by a remark in brackets.
pub(crate) async fn do_as_told(told: &str) {
    let (_, line) = told
        .split_once("rabbitmqctl ")
        .unwrap_or_else(|| panic!("no line that mends it: {told}"));
    let line = line.lines().next().unwrap_or(line);
    let line = line.split(" (any other").next().unwrap_or(line);
    run_ctl(&words(&format!("rabbitmqctl {line}"))).await;
}

/// A user with the rights to configure, write and read what these name.
async fn user_who_may(who: &str, [configure, write, read]: [&str; 3]) -> String {
    let node = shared_node().await;
    let user = unique(who);
    node.ctl(&["add_user", &user, "password"]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, configure, write, read])
        .await;
    format!("amqp://{user}:password@{}/%2f", node.addr())
}

/// It could delete, but neither delay nor dead-letter: the first copy would end the session, and return all that is in hand, until
/// the broker dead-letters that at its delivery limit.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_write_copies_nothing_is_consumed() {
    let world = World::new().await;
    world.declare().await;
    let (main, others) = (
        world.config.queue(),
        format!("^{}\\..*$", world.config.queue()),
    );
    let lame = user_who_may("lame", ["^$", &others, &format!("^{main}$")]).await;
    world.publish_raw(b"broken", persistent()).await;
    world.publish("user15", &["a"]).await;
    let world = world
        .set("CONVGROUP_AMQP__URL", &lame)
        .set("CONVGROUP_AMQP__DECLARE", false);
    let daemon = world.config.spawn();
    eventually("the missing right is told", PATIENCE, async || {
        let told = daemon.try_http("/readyz").await;
        told.is_ok_and(|(status, reason)| {
            status == 503 && reason.contains("may not write to the default exchange")
        })
    })
    .await;
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains("may not write to the default exchange"),
        "{output}"
    );
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.sum("convgroup_messages_received_total"), 0.0);
    world
        .broker
        .eventually_depth(world.config.queue(), 2, PATIENCE)
        .await;
}

/// Without it a request would be done and never answered.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_answer_nothing_is_consumed() {
    let world = World::new().await.answering();
    world.declare().await;
    let (main, ledger) = (world.config.queue(), world.config.ledger());
    let write = format!("^(amq\\.default|{main}\\..*)$");
    let mute = user_who_may("mute", ["^$", &write, &format!("^({main}|{ledger})$")]).await;
    world.user("user15", &["a"]);
    world.publish("user15", &["a"]).await;
    let world = world
        .set("CONVGROUP_AMQP__URL", &mute)
        .set("CONVGROUP_AMQP__DECLARE", false);
    let mut daemon = world.config.spawn();
    let told = daemon
        .eventually_told(world.config.outcomes_exchange())
        .await;
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("FAIL  answers"), "{output}");
    assert_eq!(world.sandbox.counters().deleted, 0);
    let metrics = daemon.metrics().await;
    assert_eq!(metrics.sum("convgroup_messages_received_total"), 0.0);
    do_as_told(&told).await;
    daemon.ready(PATIENCE).await;
    eventually_settled(&daemon, "deleted", 1).await;
    assert_eq!(Books::of(&world).await.0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_rights_are_enough_and_no_more() {
    let world = World::new().await;
    printed_rights_are_enough_and_no_more(world).await;
    let world = World::new().await.answering();
    printed_rights_are_enough_and_no_more(world).await;
}

/// Names with what means something to a shell or in a regular expression, in a vhost with such a name.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_rights_are_enough_whatever_the_names() {
    let node = shared_node().await;
    let vhost = "it's a+(v)";
    node.ctl(&["add_vhost", vhost]).await;
    node.ctl(&["set_permissions", "-p", vhost, "guest", ".*", ".*", ".*"])
        .await;
    let url = format!("amqp://guest:guest@{}/it%27s%20a%2b%28v%29", node.addr());
    for (queue, exchange) in [
        ("chat+delete", "it's a(b)"),
        (r#"it's a\b"c [d]{2}|^$?*#&`$(e) größe"#, r"\x.y|z"),
    ] {
        let world = World::at(&url)
            .await
            .answering()
            .set("CONVGROUP_AMQP__QUEUE", queue)
            .set("CONVGROUP_AMQP__EXCHANGE", exchange)
            .set(
                "CONVGROUP_OUTCOMES__EXCHANGE",
                format!("{exchange} answers"),
            )
            .set("CONVGROUP_OUTCOMES__LEDGER", format!("{exchange} [ledger]"));
        printed_rights_are_enough_and_no_more(world).await;
    }
}

async fn printed_rights_are_enough_and_no_more(world: World) {
    let (code, printed) = world.tool(&["topology", "print"]).await;
    assert_eq!(code, 0, "{printed}");
    let deployer = user_with(&world, &printed, "deployer").await;
    let daemon = user_with(&world, &printed, "daemon").await;
    let publisher = user_with(&world, &printed, "publisher").await;
    let auditor = if world.config.answers() {
        Some(user_with(&world, &printed, "auditor").await)
    } else {
        None
    };

    let (code, output) = world.tool(&["topology", "verify"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("missing"), "{output}");
    let world = world.set("CONVGROUP_AMQP__URL", &deployer);
    let (code, output) = world.tool(&["topology", "apply"]).await;
    assert_eq!(code, 0, "{output}");
    let (code, output) = world.tool(&["topology", "verify"]).await;
    assert_eq!(code, 0, "{output}");

    let world = world
        .set("CONVGROUP_AMQP__URL", &daemon)
        .set("CONVGROUP_AMQP__DECLARE", false)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0);
    world.user("user15", &["good", "flaky"]);
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(50004)).group("flaky").times(1));
    let running = world.daemon().await;
    let publishing = world
        .tool_config(&["publish", "--user", "user15", "good", "flaky"])
        .set("CONVGROUP_AMQP__URL", &publisher);
    let (code, output) = publishing.spawn().finished(PATIENCE).await;
    assert_eq!(code, 0, "{output}");
    world.publish_raw(b"broken", persistent()).await;
    eventually_settled(&running, "delayed", 1).await;
    eventually_settled(&running, "deleted", 1).await;
    eventually_settled(&running, "dead_lettered", 1).await;
    assert_eq!(world.dead(1).await[0].text(), "broken");
    world.nothing_is_left(&running).await;

    // It has no right on the exchange: that is no failure, whether this release shows it or not.
    let (code, output) = world.tool(&["topology", "verify"]).await;
    assert_eq!(code, 0, "{output}");
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 0, "{output}");
    let exchange = format!("ok    exchange {}", world.config.exchange());
    let seen = ["can't be asked over AMQP", "not visible to this user"];
    assert!(
        output.contains(&exchange) && seen.iter().any(|words| output.contains(words)),
        "{output}"
    );
    let (code, output) = world.tool(&["topology", "apply"]).await;
    assert_eq!(code, 1, "the daemon's user may not declare: {output}");
    assert!(output.contains("rights"), "{output}");
    let forbidden = world.config.clone().set("CONVGROUP_AMQP__URL", &publisher);
    let reading = convgroup_testkit::Broker::connect(forbidden.get("CONVGROUP_AMQP__URL")).await;
    let refused = reading
        .try_publish(
            "",
            world.config.queue(),
            event("u", &["g"]).as_bytes(),
            persistent(),
        )
        .await;
    assert!(refused.is_err(), "a publisher may only use the exchange");
    if let Some(auditor) = auditor {
        may_read_the_ledger_and_nothing_else(&world, &auditor).await;
    }
}

async fn may_read_the_ledger_and_nothing_else(world: &World, auditor: &str) {
    // The broker of this world has all rights: it puts the end there that the reader looks for.
    let ledger = world.broker.read_stream(world.config.ledger()).await;
    // One answer for the event that was delayed and one for its end, one for the broken event.
    assert_eq!(ledger.len(), 3);
    let tail = world
        .tool_config(&["outcomes", "tail"])
        .set("CONVGROUP_AMQP__URL", auditor)
        .set("CONVGROUP_AMQP__DECLARE", false);
    let (code, output) = tail.spawn().finished(PATIENCE).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains("malformed") && output.contains("erased"),
        "{output}"
    );
    let auditor = convgroup_testkit::Broker::connect(auditor).await;
    for (exchange, key) in [
        (world.config.outcomes_exchange(), "erased.none"),
        ("", world.config.queue()),
    ] {
        let refused = auditor
            .try_publish(exchange, key, b"{}", persistent())
            .await;
        assert!(refused.is_err(), "an auditor may only read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_missing_or_another_is_told() {
    let world = World::new().await;
    world.declare().await;
    let (code, output) = world.tool(&["topology", "verify"]).await;
    assert_eq!(code, 0, "{output}");
    assert!(
        output.contains(&format!("ok    exchange {}\n", world.config.exchange()))
            && output.contains("binding: can't be asked over AMQP; `topology apply` makes it\n"),
        "{output}"
    );

    let nosuch = unique("nosuch");
    let world = world.set("CONVGROUP_AMQP__EXCHANGE", &nosuch);
    let (code, output) = world.tool(&["topology", "verify"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains(&format!("FAIL  exchange {nosuch}: missing")),
        "{output}"
    );
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 0, "the daemon will declare it: {output}");
    assert!(
        output.contains(&format!("ok    exchange {nosuch} is not there yet")),
        "{output}"
    );
    let undeclared = world.set("CONVGROUP_AMQP__DECLARE", false);
    let (code, output) = undeclared.tool(&["check"]).await;
    assert_eq!(code, 1, "{output}");
    assert!(
        output.contains(&format!("FAIL  exchange {nosuch} does not exist")),
        "{output}"
    );

    let channel = undeclared.broker.channel().await;
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let fanout = unique("fanout");
    channel
        .exchange_declare(
            fanout.as_str().into(),
            ExchangeKind::Fanout,
            options,
            FieldTable::default(),
        )
        .await
        .unwrap();
    let another = undeclared
        .set("CONVGROUP_AMQP__EXCHANGE", &fanout)
        .set("CONVGROUP_AMQP__DECLARE", true);
    for command in [&["topology", "verify"][..], &["check"]] {
        let (code, output) = another.tool(command).await;
        assert_eq!(code, 1, "{output}");
        for words in ["'type' for exchange", "use another amqp.exchange"] {
            assert!(output.contains(words), "{output}");
        }
    }
}

/// The daemon may do all but read its queue. The line in the refusal mends it, and the daemon goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_read_the_queue_both_say_so_and_how_to_grant_it() {
    let world = World::new().await;
    world.declare().await;
    world.user("user15", &["a"]);
    world.publish("user15", &["a"]).await;
    let others = format!("^(amq\\.default|{}\\..*)$", world.config.queue());
    let blind = user_who_may("blind", ["^$", &others, "^$"]).await;
    let world = world
        .set("CONVGROUP_AMQP__URL", &blind)
        .set("CONVGROUP_AMQP__DECLARE", false);
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 1, "{output}");
    let missing = "this user may not read the queue";
    assert!(
        output.contains(&format!("FAIL  queues   {missing}")),
        "{output}"
    );
    let mut daemon = world.config.spawn();
    let told = daemon.eventually_told(missing).await;
    eventually("it is logged as well", PATIENCE, async || {
        let output = daemon.output();
        if output.contains(missing) {
            Ok(())
        } else {
            Err(output)
        }
    })
    .await;
    do_as_told(&told).await;
    daemon.ready(PATIENCE).await;
    eventually_settled(&daemon, "deleted", 1).await;
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 0, "{output}");
}

/// Of an idle queue with a single active consumer a consumer that only tries would be the active one, and get its messages.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_takes_no_message_and_counts_no_delivery() {
    let world = World::new().await;
    world.declare().await;
    world.publish("user15", &["a"]).await;
    for declare in [true, false] {
        let world = world.config.clone().set("CONVGROUP_AMQP__DECLARE", declare);
        let check = world.unset("CONVGROUP_HTTP__LISTEN").args(&["check"]);
        let (code, output) = check.spawn().finished(PATIENCE).await;
        assert_eq!(code, 0, "{output}");
    }
    let queue = world
        .broker
        .try_inspect(world.config.queue())
        .await
        .unwrap();
    assert_eq!((queue.message_count(), queue.consumer_count()), (1, 0));
    let read = world
        .broker
        .read(world.config.queue(), 1, Settle::Ack)
        .await;
    assert!(!read[0].redelivered, "{:?}", read[0]);
    let counted = read[0].header_number("x-delivery-count");
    assert_eq!(counted.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_connections_or_channels_fails_the_check_as_it_fails_the_daemon() {
    let world = World::new().await;
    let limited = user_who_may("limited", [".*", ".*", ".*"]).await;
    let user = limited["amqp://".len()..]
        .split(':')
        .next()
        .unwrap()
        .to_owned();
    let world = world.set("CONVGROUP_AMQP__URL", &limited);
    for (limit, words) in [
        (r#"{"max-connections": 1}"#, "user connection limit (1)"),
        (r#"{"max-channels": 5}"#, "max-channels"),
    ] {
        let node = shared_node().await;
        node.ctl(&["set_user_limits", &user, limit]).await;
        let (code, output) = world.tool(&["check"]).await;
        assert_eq!(code, 1, "{output}");
        let told = output.lines().find(|line| line.starts_with("FAIL  broker"));
        assert!(told.is_some_and(|line| line.contains(words)), "{output}");
        let mut daemon = world.config.spawn();
        let told = daemon.eventually_told(words).await;
        do_as_told(&told).await;
        daemon.ready(PATIENCE).await;
        drop(daemon);
        eventually(
            "the connections of the daemon are over",
            PATIENCE,
            async || {
                let (code, output) = world.tool(&["check"]).await;
                if code == 0 { Ok(()) } else { Err(output) }
            },
        )
        .await;
    }
}

/// RabbitMQ answers a limit of queues by the code (406) that it also has for arguments that it refuses: only the latter is a yes to
/// the question whether a queue may be declared.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_queues_is_told_with_what_clears_it() {
    let node = shared_node().await;
    let vhost = unique("few-queues");
    let world = World::at(&node.vhost(&vhost).await).await;
    node.ctl(&["set_vhost_limits", "-p", &vhost, r#"{"max-queues": 1}"#])
        .await;
    let (code, applied) = world.tool(&["topology", "apply"]).await;
    assert_eq!(code, 1, "one queue is not enough: {applied}");
    let words = format!("queue limit in vhost '{vhost}' (1) is reached");
    assert!(applied.contains(&words), "{applied}");
    let version = node.ctl(&["version"]).await;
    // RabbitMQ 4 looks at the arguments before the limit: a question that is refused for its arguments does not meet it.
    if version.starts_with("3.") {
        let (code, output) = world.tool(&["check"]).await;
        assert_eq!(code, 1, "{output}");
        let told = output.lines().find(|line| line.starts_with("FAIL  queues"));
        let told = told.unwrap_or_else(|| panic!("{output}"));
        assert!(told.contains(&words), "{output}");
    }
    do_as_told(&applied).await;
    let (code, output) = world.tool(&["check"]).await;
    assert_eq!(code, 0, "{output}");
}

/// Nothing is there yet, and the user may not make it: the check says what the daemon would meet, and makes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_check_asks_for_the_right_to_declare_and_declares_nothing() {
    let world = World::new().await;
    let (queue, exchange) = (
        world.config.queue().to_owned(),
        world.config.exchange().to_owned(),
    );
    for (who, rights, failed, words) in [
        (
            "configures-nothing",
            ["^$", ".*", ".*"],
            "exchange",
            "may not be declared",
        ),
        (
            "no-queue",
            [&*exchange, ".*", ".*"],
            "queues",
            "may not be declared",
        ),
        ("no-binding", [".*", ".*", &queue], "exchange", "binding of"),
        ("no-copies", [".*", &queue, ".*"], "queues", "amq.default"),
    ] {
        let url = user_who_may(who, rights).await;
        let tool = world
            .tool_config(&["check"])
            .set("CONVGROUP_AMQP__URL", url);
        let (code, output) = tool.spawn().finished(PATIENCE).await;
        assert_eq!(code, 1, "{who}: {output}");
        let told = output
            .lines()
            .find(|line| line.starts_with(&format!("FAIL  {failed}")))
            .unwrap_or_else(|| panic!("{who}: {output}"));
        assert!(told.contains(words), "{who}: {output}");
        do_as_told(told).await;
        let (code, output) = tool.spawn().finished(PATIENCE).await;
        assert_eq!(code, 0, "{who}: {output}");
        assert!(!world.broker.has_queue(&queue).await, "{who}: {output}");
        assert!(
            output.contains(&format!("{exchange} is not there yet")),
            "{output}"
        );
    }
}
