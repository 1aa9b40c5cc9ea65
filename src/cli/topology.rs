//! `topology`: what the daemon needs at the broker, printed, applied or verified.
use std::fmt::Write;

use crate::config::Settings;
use crate::tool::{Exit, Failure, say};
use convgroup_broker::declare::{Comparison, Standing, TopologyConnection};
use convgroup_broker::rights::{Remedy, Rights};
use convgroup_broker::settings::Amqp;
use convgroup_domain::topology::{Binding, Topology};

/// What no tool can see.
pub(super) const UNASKED: &str = "binding: can't be asked over AMQP";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  convgroup-deleter topology print     what there has to be, and the rights a daemon needs
  convgroup-deleter topology apply     declare it, once, as a user with the rights; the daemon runs with amqp.declare = false
  convgroup-deleter topology verify    is it there, with the right arguments? Exit code 1 if not")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print exchange, queues, arguments and the rights needed. Asks no broker.
    Print,
    /// Declare everything; what exists and is the same stays as it is.
    Apply,
    /// Compare what exists with what there has to be; changes nothing. With amqp.declare = false only looks whether it exists.
    Verify,
}

pub(super) async fn topology(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    let amqp = settings.amqp()?;
    match args.command {
        Command::Print => say(&printed(&amqp)).map(|()| Exit::Done),
        Command::Apply => apply(&amqp).await,
        Command::Verify => verify(&amqp).await,
    }
}

async fn apply(amqp: &Amqp) -> Result<Exit, Failure> {
    let connection = TopologyConnection::open(amqp).await?;
    let address = &connection.address;
    connection
        .declare(&amqp.topology)
        .await
        .map_err(|err| Remedy::of_deployer(address, amqp).added_to(err))?;
    let exchanges: Vec<&str> = amqp.topology.exchanges().map(|it| it.name).collect();
    let exchanges = match &exchanges[..] {
        [one] => format!("exchange {one}"),
        several => format!("exchanges {}", several.join(", ")),
    };
    say(&format!("applied at {address}: {exchanges}\n"))?;
    verify(amqp).await
}

async fn verify(amqp: &Amqp) -> Result<Exit, Failure> {
    let connection = TopologyConnection::open(amqp).await?;
    let (topology, comparison) = (&amqp.topology, Comparison::of_one_who(amqp.declare));
    let mut exchanges = Vec::new();
    for exchange in topology.exchanges() {
        let standing = connection.exchange(exchange, comparison).await?;
        exchanges.push((exchange.name, standing));
    }
    let queues = connection.queues(topology, comparison).await?;
    let mut lines = String::new();
    for (exchange, standing) in &exchanges {
        lines += &verified(&format!("exchange {exchange}"), standing, comparison);
    }
    let _ = writeln!(lines, "?     {UNASKED}; `topology apply` makes it");
    for (queue, standing) in &queues {
        lines += &verified(queue, standing, comparison);
    }
    say(&lines)?;
    let mut standings = queues
        .iter()
        .chain(&exchanges)
        .map(|(_, standing)| standing);
    let failed =
        standings.any(|standing| matches!(standing, Standing::Missing | Standing::Differs(_)));
    Ok(if failed { Exit::Other } else { Exit::Done })
}

fn verified(object: &str, standing: &Standing, comparison: Comparison) -> String {
    match standing {
        Standing::Same => match comparison {
            Comparison::Arguments => format!("ok    {object}\n"),
            Comparison::Existence => {
                format!("ok    {object} (there; arguments not compared: amqp.declare = false)\n")
            }
        },
        Standing::Unseen => format!("?     {object}: not visible to this user\n"),
        Standing::Missing => format!("FAIL  {object}: missing; `topology apply` declares it\n"),
        Standing::Differs(err) => format!("FAIL  {err}\n"),
    }
}

fn printed(amqp: &Amqp) -> String {
    let topology = &amqp.topology;
    let mut text = String::new();
    for exchange in topology.exchanges() {
        let kind = exchange.kind.label();
        let _ = writeln!(text, "exchange {} ({kind}, durable)", exchange.name);
    }
    for queue in topology.queues() {
        let _ = writeln!(text, "queue {} (durable)", queue.name);
        for (name, value) in &queue.arguments {
            let _ = writeln!(text, "  {name} = {value}");
        }
    }
    for binding in topology.bindings() {
        let Binding {
            exchange,
            routing_key,
            queue,
        } = binding;
        let _ = writeln!(text, "binding {exchange} --{routing_key}--> {queue}");
    }
    text + &rights(topology, amqp.nodes[0].vhost())
}

/// The lines that grant the least rights, for the vhost of the first node.
fn rights(topology: &Topology, vhost: &str) -> String {
    let daemon = Rights::of_daemon(topology, false).line(vhost, "daemon");
    let publisher = Rights::of_publisher(topology).line(vhost, "publisher");
    let deployer = Rights::of_deployer(topology).line(vhost, "deployer");
    let auditor = Rights::of_auditor(topology).map_or_else(String::new, |rights| {
        format!(
            "of an auditor, who reads the ledger:\n  {}\n",
            rights.line(vhost, "auditor")
        )
    });
    format!(
        "\nleast rights of a daemon with amqp.declare = false (user `daemon`, in the vhost of amqp.url):\n  {daemon}\n\
         of a publisher:\n  {publisher}\n\
         {auditor}of a daemon that declares, and of whoever applies the topology:\n  {deployer}\n"
    )
}
