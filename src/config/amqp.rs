//! `[amqp]`: the broker.
use std::time::Duration;

use super::key::{Key, List, keys};
use super::layers::Text;
use super::reader::Reader;
use super::retry::Retry;
use super::{amqp_tls, outcomes};
use convgroup_domain::text::is_url;

use super::value::{self, NO_NAME, Problem, flag, number};
use convgroup_broker::address::BrokerAddress;
use convgroup_broker::settings::Amqp;
use convgroup_domain::topology::Topology;

keys! {
    URL: List<BrokerAddress> = List::of(Key::shown_as("amqp.url", addresses, address), 1..=32);
    QUEUE: Key<String> = Key::shown("amqp.queue", name);
    EXCHANGE: Key<String> = Key::shown("amqp.exchange", name);
    PREFETCH: Key<u16> = Key::shown("amqp.prefetch", |text| number(text, 1..=2000));
    DECLARE: Key<bool> = Key::shown("amqp.declare", flag);
    HEARTBEAT: Key<Duration> = Key::shown("amqp.heartbeat", heartbeat);
}

pub(super) fn read(reader: &mut Reader<'_>, retry: &Retry) -> Amqp {
    let (exchange, queue) = (reader.value(&EXCHANGE), reader.value(&QUEUE));
    Amqp {
        nodes: reader.list(&URL),
        prefetch: reader.value(&PREFETCH),
        declare: reader.value(&DECLARE),
        heartbeat: reader.value(&HEARTBEAT),
        tls: amqp_tls::files(reader),
        topology: Topology::new(&exchange, &queue, &retry.tiers)
            .with_outcomes(outcomes::topology(reader)),
    }
}

/// The addresses without their passwords. All or none: a comma in a password makes two addresses of one, and the first may look
/// right.
fn addresses(text: &Text) -> Vec<String> {
    text.list()
        .iter()
        .map(|url| {
            url.parse()
                .map(|address: BrokerAddress| address.to_string())
        })
        .collect::<Result<_, _>>()
        .unwrap_or_else(|_| vec!["(not an AMQP url)".to_owned()])
}

/// Reads the address of a node.
fn address(text: &str) -> Result<BrokerAddress, Problem> {
    Ok(text.parse()?)
}

/// Longest queue or exchange name, in bytes. AMQP allows 255; the delay queues append to it.
const NAME_BYTES_MAX: usize = 200;

/// Reads the name of a queue or an exchange.
pub(super) fn name(text: &str) -> Result<String, Problem> {
    match text.len() {
        0 => Err("is empty; a name is needed".into()),
        1..=NAME_BYTES_MAX if text.starts_with("amq.") => {
            Err("starts with `amq.`, which RabbitMQ keeps for itself".into())
        }
        1..=NAME_BYTES_MAX if is_url(text) => Err(NO_NAME.into()),
        1..=NAME_BYTES_MAX => Ok(text.to_owned()),
        more => Err(format!("has {more} bytes; allowed: {NAME_BYTES_MAX}").into()),
    }
}

/// Reads a heartbeat. AMQP counts them in whole seconds.
fn heartbeat(text: &str) -> Result<Duration, Problem> {
    let heartbeat = value::duration(text, Duration::from_secs(1)..=Duration::from_mins(1))?;
    if heartbeat.subsec_nanos() != 0 {
        return Err("is not a whole number of seconds".into());
    }
    Ok(heartbeat)
}
