//! `topology`: applied by one who may, then a daemon with the least rights does all of its work.
use convgroup_deleter::sandbox::{Fault, Rule};
use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::harness::broker::persistent;
use crate::harness::{PATIENCE, eventually, shared_node, unique};
use crate::world::{World, event, eventually_settled};

/// A user with exactly the rights that `topology print` names for it.
async fn user_with(printed: &str, who: &str) -> String {
    let line = printed
        .lines()
        .find(|line| line.contains(&format!("VHOST {who} ")))
        .unwrap_or_else(|| panic!("no rights for {who} in {printed}"));
    let quoted: Vec<&str> = line.split('\'').skip(1).step_by(2).collect();
    user_who_may(who, [quoted[0], quoted[1], quoted[2]]).await
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

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_rights_are_enough_and_no_more() {
    let world = World::new().await;
    let (code, printed) = world.tool(&["topology", "print"]).await;
    assert_eq!(code, 0, "{printed}");
    let deployer = user_with(&printed, "deployer").await;
    let daemon = user_with(&printed, "daemon").await;
    let publisher = user_with(&printed, "publisher").await;

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
    let reading = crate::harness::Broker::connect(forbidden.get("CONVGROUP_AMQP__URL")).await;
    let refused = reading
        .try_publish(
            "",
            world.config.queue(),
            event("u", &["g"]).as_bytes(),
            persistent(),
        )
        .await;
    assert!(refused.is_err(), "a publisher may only use the exchange");
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
