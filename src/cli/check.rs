//! `check`: is everything ready to run? A line each.
use std::sync::Arc;

use super::topology::UNASKED;
use crate::config::{Config, Settings};
use crate::tool::{Exit, Failure, say};
use convgroup_broker::BrokerError;
use convgroup_broker::declare::{Comparison, Standing};
use convgroup_broker::rehearsal::Rehearsal;
use convgroup_broker::settings::Amqp;
use convgroup_chat::client::ChatClient;
use convgroup_chat::connects::OnConnect;
use convgroup_chat::probe::probe;
use convgroup_chat::ready::{self, AskError, Readiness};
use convgroup_chat::signer::Signer;
use convgroup_domain::gate::Health;
use convgroup_domain::topology::{Outcomes, Queue};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  convgroup-deleter check\n  convgroup-deleter check --ready http://127.0.0.1:9464/readyz   for container health checks"
)]
pub(super) struct Args {
    /// Only ask a running daemon: done when the address answers 200. Needs no configuration.
    #[arg(long, value_name = "URL")]
    ready: Option<String>,
}

pub(super) async fn check(settings: &Settings, args: Args) -> Result<Exit, Failure> {
    if let Some(url) = args.ready {
        return ready(&url).await;
    }
    let config = match settings.config() {
        Ok(config) => config,
        Err(err) => {
            line("config", &Err((Exit::Config, err.to_string())))?;
            return Ok(Exit::Config);
        }
    };
    line("config", &Ok("all values are valid".to_owned()))?;
    let amqp = &config.amqp;
    let rehearsal = Rehearsal::open(amqp).await;
    let broker = broker(&rehearsal);
    line("broker", &broker)?;
    let (exchange, queues) = match &rehearsal {
        Ok(rehearsal) => (
            exchange(rehearsal, amqp).await,
            queues(rehearsal, amqp).await,
        ),
        Err(_) => (not_checked(), not_checked()),
    };
    line("exchange", &exchange)?;
    line("queues", &queues)?;
    let answers = match (&rehearsal, &amqp.topology.outcomes) {
        (_, None) => None,
        (Err(_), _) => Some(not_checked()),
        (Ok(rehearsal), Some(outcomes)) => Some(answers(rehearsal, amqp, outcomes).await),
    };
    if let Some(answers) = &answers {
        line("answers", answers)?;
    }
    let api = api(&config).await;
    line("api", &api)?;
    let findings = [broker, exchange, queues, api];
    let first = findings.into_iter().chain(answers).find_map(Result::err);
    Ok(first.map_or(Exit::Done, |(exit, _)| exit))
}

type Finding = Result<String, (Exit, String)>;

fn line(what: &str, finding: &Finding) -> Result<(), Failure> {
    match finding {
        Ok(text) => say(&format!("ok    {what:<8} {text}\n")),
        Err((_, text)) => say(&format!("FAIL  {what:<8} {text}\n")),
    }
}

fn broker(rehearsal: &Result<Rehearsal<'_>, BrokerError>) -> Finding {
    match rehearsal {
        Ok(rehearsal) => Ok(format!("connected to {}", rehearsal.consume.address)),
        Err(err) => Err(failed(err.clone())),
    }
}

/// The exit code of what the broker did not do, and why.
fn failed(err: BrokerError) -> (Exit, String) {
    let text = err.to_string();
    (Failure::from(err).exit, text)
}

fn not_checked() -> Finding {
    Err((Exit::Unavailable, "not checked".to_owned()))
}

fn refused(err: &BrokerError) -> (Exit, String) {
    (Exit::Other, err.to_string())
}

async fn exchange(rehearsal: &Rehearsal<'_>, amqp: &Amqp) -> Finding {
    let standing = rehearsal
        .consume
        .exchange(
            amqp.topology.publishers_exchange(),
            Comparison::of_one_who(amqp.declare),
        )
        .await
        .map_err(|err| refused(&err))?;
    if amqp.declare {
        if matches!(standing, Standing::Missing) {
            let exchange = amqp.topology.publishers_exchange();
            rehearsal
                .may_declare_exchange(exchange)
                .await
                .map_err(failed)?;
        }
        if matches!(standing, Standing::Missing | Standing::Same) {
            let binding = amqp.topology.events_binding();
            rehearsal.may_bind(binding).await.map_err(failed)?;
        }
    }
    let exchange = &amqp.topology.exchange;
    let binding = if amqp.declare {
        "the daemon makes it when it starts"
    } else {
        "`topology apply` makes it"
    };
    match standing {
        Standing::Same => Ok(format!("{exchange} is there; {UNASKED}; {binding}")),
        Standing::Unseen => Ok(format!("{exchange}: not visible to this user")),
        Standing::Missing if amqp.declare => Ok(format!(
            "{exchange} is not there yet; the daemon declares and binds it when it starts"
        )),
        Standing::Missing => Err((
            Exit::Other,
            format!(
                "{exchange} does not exist. Set amqp.declare = true, or have somebody with the rights declare it"
            ),
        )),
        Standing::Differs(err) => Err(refused(&rehearsal.remedied(err))),
    }
}

async fn queues(rehearsal: &Rehearsal<'_>, amqp: &Amqp) -> Finding {
    let found = queues_there(rehearsal, amqp).await?;
    rehearsal.may_consume().await.map_err(failed)?;
    // Last: during an alarm the broker does not read this connection any more.
    rehearsal.may_publish().await.map_err(failed)?;
    Ok(found)
}

async fn queues_there(rehearsal: &Rehearsal<'_>, amqp: &Amqp) -> Finding {
    let (connection, topology) = (&rehearsal.consume, &amqp.topology);
    let mended = |err| refused(&rehearsal.remedied(err));
    if !amqp.declare {
        connection.verify(topology).await.map_err(mended)?;
        return Ok("all there".to_owned());
    }
    let mut missing = Vec::new();
    let standings = connection
        .queues(topology, Comparison::Arguments)
        .await
        .map_err(mended)?;
    for (queue, standing) in standings {
        match standing {
            Standing::Same | Standing::Unseen => {}
            Standing::Missing => missing.push(queue),
            Standing::Differs(err) => return Err(mended(err)),
        }
    }
    let is_missing = |queue: &&Queue| missing.contains(&queue.name.as_str());
    for queue in topology.queues().filter(is_missing) {
        rehearsal.may_declare(queue).await.map_err(failed)?;
    }
    if missing.is_empty() {
        return Ok("all there, with the arguments they need".to_owned());
    }
    let missing = missing.join(" ");
    Ok(format!(
        "not all there yet: {missing}; the daemon declares what is missing when it starts"
    ))
}

/// Whether answers can be given. The ledger is a queue like the others, and was looked at with them.
async fn answers(rehearsal: &Rehearsal<'_>, amqp: &Amqp, outcomes: &Outcomes) -> Finding {
    let name = &outcomes.exchange;
    for exchange in amqp.topology.exchanges().filter(|it| it.name == name) {
        let comparison = Comparison::of_one_who(amqp.declare);
        let standing = rehearsal.consume.exchange(exchange, comparison).await;
        match standing.map_err(|err| refused(&err))? {
            Standing::Same | Standing::Unseen => {}
            Standing::Missing if amqp.declare => {
                rehearsal
                    .may_declare_exchange(exchange)
                    .await
                    .map_err(failed)?;
                return Ok(format!(
                    "exchange {name} is not there yet; the daemon declares it when it starts"
                ));
            }
            Standing::Missing => {
                return Err((
                    Exit::Other,
                    format!(
                        "exchange {name} does not exist. Set amqp.declare = true, or have somebody with the rights declare it"
                    ),
                ));
            }
            Standing::Differs(err) => return Err(refused(&rehearsal.remedied(err))),
        }
    }
    if amqp.declare {
        for binding in amqp.topology.bindings().filter(|it| it.exchange == name) {
            rehearsal.may_bind(binding).await.map_err(failed)?;
        }
    }
    rehearsal.may_answer(name).await.map_err(failed)?;
    Ok(match &outcomes.ledger {
        Some(ledger) => format!(
            "{name} takes answers, {} keeps them; {UNASKED}",
            ledger.name
        ),
        None => {
            format!("{name} takes answers; no ledger is configured: somebody has to bind a queue")
        }
    })
}

async fn api(config: &Config) -> Finding {
    let signer = Signer::new(&config.im, Box::new(|_| {}))
        .map_err(|error| (Exit::Other, error.to_string()))?;
    let client = ChatClient::new(&config.im, signer, 1, &(Arc::new(|_| {}) as OnConnect))
        .map_err(|error| (Exit::Config, error.to_string()))?;
    let health = probe(&client, &config.codes, || async { true }, |_, _| ()).await;
    let endpoint = client.route();
    match health.expect("nothing keeps it from leaving") {
        Health::Healthy => Ok(format!("{endpoint}: calls work (probe is healthy)")),
        Health::Faulty(verdict) => Err((Exit::Other, format!("{endpoint}: {verdict}"))),
        Health::Unreachable(verdict) => Err((Exit::Unavailable, format!("{endpoint}: {verdict}"))),
    }
}

async fn ready(url: &str) -> Result<Exit, Failure> {
    match ready::ask(url).await {
        Ok(Readiness::Ready) => Ok(Exit::Done),
        Ok(Readiness::NotReady(told)) => say(&format!("{told}\n")).map(|()| Exit::Unavailable),
        Err(err) => {
            let exit = match err {
                AskError::Url(_) => Exit::Usage,
                AskError::Trust(_) => Exit::Config,
                AskError::Http(_) => Exit::Other,
                AskError::Unreachable(_) => Exit::Unavailable,
            };
            Err(Failure::new(exit, err))
        }
    }
}
