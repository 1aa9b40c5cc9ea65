//! What a span says, by the semantic conventions of OpenTelemetry for RabbitMQ and HTTP. No user, no group, no text of the API, no
//! query of a URL is among it.
use std::sync::Arc;

use opentelemetry::KeyValue;

use super::{End, has_failed};
use convgroup_broker::address::BrokerAddress;
use convgroup_broker::delivery::Message;
use convgroup_broker::settle::{PublishEnd, Published};
use convgroup_chat::client::{Made, path};
use convgroup_chat::endpoint::Endpoint;
use convgroup_domain::code::{Class, Verdict};
use convgroup_domain::decide::{Outcome, Summary};
use convgroup_domain::reply::CallKind;

/// What went wrong; there only where something did.
pub(super) const ERROR_TYPE: &str = "error.type";
const SYSTEM: &str = "messaging.system";
const DESTINATION: &str = "messaging.destination.name";
const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";
const OPERATION_NAME: &str = "messaging.operation.name";
const OPERATION_TYPE: &str = "messaging.operation.type";
const MESSAGE_ID: &str = "messaging.message.id";
const SERVER_ADDRESS: &str = "server.address";
const SERVER_PORT: &str = "server.port";

/// What all calls have in common.
pub(super) struct Api {
    host: Arc<str>,
    port: i64,
    delete_url: Arc<str>,
    list_url: Arc<str>,
}

impl Api {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        let (host, port) = endpoint.host_and_port();
        let url = |kind| format!("{}{}", endpoint.origin(), path(kind)).into();
        Self {
            host: host.into(),
            port: port.into(),
            delete_url: url(CallKind::Delete),
            list_url: url(CallKind::List),
        }
    }

    fn url(&self, kind: CallKind) -> Arc<str> {
        Arc::clone(match kind {
            CallKind::Delete => &self.delete_url,
            CallKind::List => &self.list_url,
        })
    }
}

/// `EXCHANGE:KEY:QUEUE`. What is empty is left out, and a key that is the queue's name.
fn consumed_from(exchange: &str, key: &str, queue: &str) -> String {
    let key = if key == queue { "" } else { key };
    joined(&[exchange, key, queue])
}

/// `EXCHANGE:KEY`, or the one of them that is not empty.
pub(super) fn published_to(exchange: &str, key: &str) -> String {
    let name = joined(&[exchange, key]);
    if name.is_empty() {
        "amq.default".to_owned()
    } else {
        name
    }
}

fn joined(parts: &[&str]) -> String {
    let parts = parts.iter().copied().filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join(":")
}

/// What is said of a delivery when its span begins.
pub(super) fn of_delivery(message: &Message, queue: &str, node: &BrokerAddress) -> Vec<KeyValue> {
    let (exchange, key) = (message.exchange.as_str(), message.routing_key.as_str());
    let tag = i64::try_from(message.delivery_tag).unwrap_or(i64::MAX);
    let mut attributes = Vec::with_capacity(14);
    attributes.extend([
        KeyValue::new(SYSTEM, "rabbitmq"),
        KeyValue::new(DESTINATION, consumed_from(exchange, key, queue)),
        KeyValue::new(OPERATION_NAME, "process"),
        KeyValue::new(OPERATION_TYPE, "process"),
        KeyValue::new("messaging.rabbitmq.message.delivery_tag", tag),
        KeyValue::new(SERVER_ADDRESS, node.host().to_owned()),
        KeyValue::new(SERVER_PORT, i64::from(node.port())),
        KeyValue::new("convgroup.attempt", i64::from(message.attempt(0).failures)),
    ]);
    let texts = [
        (ROUTING_KEY, key),
        (MESSAGE_ID, message.id()),
        (
            "messaging.message.conversation_id",
            message.correlation_id(),
        ),
    ];
    attributes.extend(given(texts));
    attributes
}

/// What is said of a copy or an answer that was published.
pub(super) fn of_publish(
    published: &Published<'_>,
    destination: String,
    message_id: &str,
    node: &BrokerAddress,
) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(9);
    attributes.extend([
        KeyValue::new(SYSTEM, "rabbitmq"),
        KeyValue::new(DESTINATION, destination),
        KeyValue::new(OPERATION_NAME, "publish"),
        KeyValue::new(OPERATION_TYPE, "send"),
        KeyValue::new(SERVER_ADDRESS, node.host().to_owned()),
        KeyValue::new(SERVER_PORT, i64::from(node.port())),
    ]);
    let error = match published.end {
        PublishEnd::Confirmed => "",
        PublishEnd::Refused => "refused",
        PublishEnd::Unconfirmed => "unconfirmed",
    };
    let texts = [
        (ROUTING_KEY, published.routing_key),
        (MESSAGE_ID, message_id),
        (ERROR_TYPE, error),
    ];
    attributes.extend(given(texts));
    attributes
}

/// What is said of a call. A group that is gone is no error, whatever the API calls it.
pub(super) fn of_call(
    api: &Api,
    made: Made,
    verdict: &Verdict,
    kind: CallKind,
    resends: u32,
) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(7);
    attributes.extend([
        KeyValue::new("http.request.method", "POST"),
        KeyValue::new(SERVER_ADDRESS, Arc::clone(&api.host)),
        KeyValue::new(SERVER_PORT, api.port),
        KeyValue::new("url.full", api.url(kind)),
    ]);
    if let Some(status) = made.http_status {
        let status = i64::from(status);
        attributes.push(KeyValue::new("http.response.status_code", status));
    }
    if resends > 0 {
        let resends = i64::from(resends);
        attributes.push(KeyValue::new("http.request.resend_count", resends));
    }
    if !matches!(verdict.class(), Class::Deleted | Class::Gone) {
        attributes.push(KeyValue::new(ERROR_TYPE, verdict.row.label.clone()));
    }
    attributes
}

/// How a delivery ended, in a word of ours.
pub(super) fn outcome(outcome: Outcome) -> KeyValue {
    KeyValue::new("convgroup.outcome", outcome.label())
}

/// What went wrong with a delivery, if anything did: the label of the answer, the cause of a dead letter that had none, the step that
/// failed.
pub(super) fn error_of(end: End<'_>) -> Option<String> {
    match end {
        End::Settled(summary) => failure(summary).map(str::to_owned),
        End::Unsettled(op) => Some(op.label().to_owned()),
        End::Lost => Some("session_over".to_owned()),
    }
}

fn failure(summary: &Summary) -> Option<&str> {
    if !has_failed(summary.outcome) {
        return None;
    }
    let verdict = summary.verdict.as_ref();
    let label = verdict.map(|verdict| verdict.row.label.as_str());
    label.or_else(|| Some(summary.letters.first()?.cause.label()))
}

/// Those texts that are not empty.
fn given<const N: usize>(texts: [(&'static str, &str); N]) -> impl Iterator<Item = KeyValue> {
    let given = texts.into_iter().filter(|(_, text)| !text.is_empty());
    given.map(|(key, text)| KeyValue::new(key, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use convgroup_broker::settle::Op;
    use convgroup_domain::attempt::Attempt;
    use convgroup_domain::code::CodeTable;
    use convgroup_domain::decide::{Decided, NameEnd, RetryLimits, decide, decide_malformed};
    use convgroup_domain::message::decode;
    use convgroup_domain::reply::Reply;

    use super::*;

    #[test]
    fn destinations_leave_out_what_is_empty() {
        for (exchange, key, consumed, published) in [
            (
                "convgroup",
                "delete",
                "convgroup:delete:q",
                "convgroup:delete",
            ),
            ("", "q", "q", "q"),
            ("convgroup", "q", "convgroup:q", "convgroup:q"),
            ("convgroup", "", "convgroup:q", "convgroup"),
            ("", "", "q", "amq.default"),
        ] {
            assert_eq!(consumed_from(exchange, key, "q"), consumed);
            assert_eq!(published_to(exchange, key), published);
        }
    }

    fn table() -> CodeTable {
        CodeTable::new(&BTreeMap::new())
    }

    fn answer(code: i64) -> Reply {
        let info = "the API's words about user15".to_owned();
        Reply::Answer { code, info }
    }

    /// The attributes as text, in their order.
    fn told(attributes: &[KeyValue]) -> Vec<String> {
        let told = attributes.iter();
        told.map(|it| format!("{}={}", it.key, it.value)).collect()
    }

    #[test]
    fn a_call_says_where_it_went_and_what_came_back() {
        let endpoint = Endpoint::from_base_url("https://gateway.example/token-1").unwrap();
        let api = Api::new(&endpoint);
        for (reply, resends, more) in [
            (answer(0), 0, &["http.response.status_code=200"][..]),
            (answer(51009), 0, &["http.response.status_code=200"]),
            (
                answer(51011),
                0,
                &["http.response.status_code=200", "error.type=51011"],
            ),
            (
                Reply::Timeout,
                2,
                &["http.request.resend_count=2", "error.type=timeout"],
            ),
            (
                Reply::HttpStatus(502),
                1,
                &[
                    "http.response.status_code=502",
                    "http.request.resend_count=1",
                    "error.type=http_5xx",
                ],
            ),
            (
                Reply::Connect("refused by 10.0.0.1".to_owned()),
                0,
                &["error.type=connect"],
            ),
        ] {
            let made = Made {
                started: Instant::now(),
                took: Duration::ZERO,
                http_status: reply.http_status(),
            };
            let verdict = table().classify(reply);
            let attributes = of_call(&api, made, &verdict, CallKind::Delete, resends);
            let (always, rest) = attributes.split_at(4);
            assert_eq!(
                told(always),
                [
                    "http.request.method=POST",
                    "server.address=gateway.example",
                    "server.port=443",
                    "url.full=https://gateway.example/v4/recentcontact/del_contact_group"
                ]
            );
            assert_eq!(told(rest), more);
        }
    }

    fn decided(replies: Vec<Reply>) -> Decided {
        let names: Vec<String> = (0..replies.len()).map(|at| format!("\"g{at}\"")).collect();
        let body = format!(
            r#"{{"From_Account":"user15","GroupName":[{}]}}"#,
            names.join(",")
        );
        let event = decode(body.as_bytes()).unwrap();
        let replies = replies.into_iter();
        let ends: Vec<NameEnd> = replies
            .map(|reply| NameEnd::of(table().classify(reply)))
            .collect();
        let attempts_max = 10;
        let limits = RetryLimits {
            attempts_max,
            tiers: 2,
        };
        decide(
            &event,
            &ends,
            Attempt {
                failures: 0,
                first_seen_ms: 0,
            },
            limits,
        )
    }

    #[test]
    fn a_delivery_has_failed_only_where_something_failed() {
        for (replies, error) in [
            (vec![answer(0)], None),
            (vec![answer(51009)], None),
            (vec![answer(51011)], Some("51011")),
            (vec![answer(0), Reply::Timeout], Some("timeout")),
        ] {
            let decided = decided(replies);
            let found = error_of(End::Settled(&decided.summary));
            assert_eq!(found.as_deref(), error);
        }
        let attempt = Attempt {
            failures: 0,
            first_seen_ms: 0,
        };
        let malformed = decode(b"{}").unwrap_err();
        let malformed = decide_malformed(&malformed, attempt);
        let found = error_of(End::Settled(&malformed.summary));
        assert_eq!(found.as_deref(), Some("malformed"));
        let returned = Decided::hand_back(attempt);
        assert_eq!(error_of(End::Settled(&returned.summary)), None);
        let found = error_of(End::Unsettled(Op::Answer));
        assert_eq!(found.as_deref(), Some("answer"));
        assert_eq!(error_of(End::Lost).as_deref(), Some("session_over"));
    }

    #[test]
    fn what_is_published_says_whether_it_arrived() {
        let node: BrokerAddress = "amqp://deleter:secret@rabbit:5673/%2f".parse().unwrap();
        for (end, error) in [
            (PublishEnd::Confirmed, None),
            (PublishEnd::Refused, Some("error.type=refused")),
            (PublishEnd::Unconfirmed, Some("error.type=unconfirmed")),
        ] {
            let published = Published {
                op: Op::Publish,
                exchange: "",
                routing_key: "q.dead",
                started: Instant::now(),
                took: Duration::ZERO,
                end,
            };
            let attributes = of_publish(&published, "q.dead".to_owned(), "id-1", &node);
            let mut wanted = vec![
                "messaging.system=rabbitmq",
                "messaging.destination.name=q.dead",
                "messaging.operation.name=publish",
                "messaging.operation.type=send",
                "server.address=rabbit",
                "server.port=5673",
                "messaging.rabbitmq.destination.routing_key=q.dead",
                "messaging.message.id=id-1",
            ];
            wanted.extend(error);
            assert_eq!(told(&attributes), wanted);
        }
    }
}
