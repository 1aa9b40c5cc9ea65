//! The AsyncAPI document: it is one, and names what the program declares.
use convgroup_domain::outcome::{self, Status};
use convgroup_domain::topology::{Argument, Binding, Outcomes, Queue, ROUTING_KEY, Topology};
use serde_json::{Value, json};

use super::{ASYNCAPI, Schema, changed, document, folder, read, root};

#[test]
fn the_asyncapi_document_is_one() {
    let document = document(ASYNCAPI);
    let schema = Schema::at(root().join("tests/schemas/asyncapi-3.0.0.json"));
    schema.check(&document, ASYNCAPI);
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let kind = "/channels/requests/bindings/amqp/exchange/type";
    assert!(!schema.accepts(&changed(&document, &format!("{kind} \"other\""))));
}

/// All references in a document, each with where it stands.
fn references(value: &Value, at: &str, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value {
                    Value::String(target) if key == "$ref" => {
                        found.push((at.to_owned(), target.clone()));
                    }
                    value => references(value, &format!("{at}/{key}"), found),
                }
            }
        }
        Value::Array(values) => {
            for (place, value) in values.iter().enumerate() {
                references(value, &format!("{at}/{place}"), found);
            }
        }
        _ => (),
    }
}

#[test]
fn the_asyncapi_document_refers_to_what_there_is() {
    let document = document(ASYNCAPI);
    let mut found = Vec::new();
    references(&document, "", &mut found);
    assert!(!found.is_empty());
    for (at, target) in &found {
        let there = match target.strip_prefix('#') {
            Some(pointer) => document.pointer(pointer).is_some(),
            None => folder().join(target).is_file(),
        };
        assert!(there, "{at}: there is no {target}");
    }
}

#[test]
fn the_examples_of_the_asyncapi_document_validate() {
    let document = document(ASYNCAPI);
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let payload = Schema::of(message["payload"]["$ref"].as_str().unwrap());
        let headers = match message["headers"]["$ref"].as_str() {
            Some(target) => Schema::of(&format!("{ASYNCAPI}{target}")),
            None => Schema::of(&format!("{ASYNCAPI}#/components/messages/{name}/headers")),
        };
        let examples = message["examples"].as_array().unwrap();
        assert!(!examples.is_empty(), "{name}");
        for example in examples {
            payload.check(&example["payload"], name);
            if let Some(example) = example.get("headers") {
                headers.check(example, name);
            }
        }
    }
}

/// The topology of the defaults, with answers.
fn topology() -> Topology {
    let defaults: toml::Table = read("config/default.toml").parse().unwrap();
    let text = |section: &str, key: &str| defaults[section][key].as_str().unwrap().to_owned();
    let duration = |text: &str| humantime::parse_duration(text).unwrap();
    let tiers = defaults["retry"]["tiers"].as_array().unwrap().iter();
    let tiers: Vec<_> = tiers.map(|tier| duration(tier.as_str().unwrap())).collect();
    let outcomes = Outcomes::new(
        &text("outcomes", "exchange"),
        &text("outcomes", "ledger"),
        duration(&text("outcomes", "ledger_max_age")),
    );
    Topology::new(&text("amqp", "exchange"), &text("amqp", "queue"), &tiers)
        .with_outcomes(Some(outcomes))
}

fn arguments(queue: &Queue) -> Value {
    let value = |argument: &Argument| match argument {
        Argument::Text(text) => json!(text),
        Argument::Number(number) => json!(number),
        Argument::Bool(flag) => json!(flag),
    };
    let named = queue.arguments.iter();
    Value::Object(
        named
            .map(|(name, argument)| ((*name).to_owned(), value(argument)))
            .collect(),
    )
}

#[test]
fn the_asyncapi_document_names_what_the_program_declares() {
    let document = document(ASYNCAPI);
    let channel = |name: &str| document["channels"][name].clone();
    let topology = topology();
    let bindings: Vec<Binding<'_>> = topology.bindings().collect();

    let exchanges: Vec<_> = topology.exchanges().collect();
    for (exchange, name) in exchanges.iter().zip(["requests", "outcomes"]) {
        let expect = json!({"name": exchange.name, "type": exchange.kind.label(), "durable": true, "autoDelete": false});
        assert_eq!(channel(name)["bindings"]["amqp"]["exchange"], expect);
    }
    assert_eq!(exchanges.len(), 2);
    for (queue, name) in [
        (&topology.main, "main"),
        (topology.ledger().unwrap(), "ledger"),
    ] {
        let channel = channel(name);
        let expect =
            json!({"name": queue.name, "durable": true, "exclusive": false, "autoDelete": false});
        assert_eq!(channel["address"], queue.name);
        assert_eq!(channel["bindings"]["amqp"]["queue"], expect);
        assert_eq!(channel["x-arguments"], arguments(queue));
        let bound = bindings
            .iter()
            .filter(|binding| binding.queue == queue.name);
        let bound = bound.map(|it| json!({"exchange": it.exchange, "routingKey": it.routing_key}));
        assert_eq!(channel["x-bindings"], Value::Array(bound.collect()));
    }

    assert_eq!(channel("requests")["address"], ROUTING_KEY);
    let outcomes = channel("outcomes");
    let statuses = outcomes["parameters"]["status"]["enum"].as_array().unwrap();
    assert_eq!(*statuses, Status::ALL.map(|status| json!(status.label())));
    let address = outcomes["address"].as_str().unwrap();
    for app in outcomes["parameters"]["app"]["examples"]
        .as_array()
        .unwrap()
    {
        let app = app.as_str().unwrap();
        let key = address.replace("{status}", "mixed").replace("{app}", app);
        assert_eq!(outcome::routing_key(Status::Mixed, Some(app)), key);
    }
    let none = outcomes["parameters"]["app"]["default"].as_str().unwrap();
    assert_eq!(
        outcome::routing_key(Status::Erased, None),
        format!("erased.{none}")
    );

    let message = &document["components"]["messages"]["outcome"];
    assert_eq!(message["contentType"], outcome::CONTENT_TYPE);
    assert_eq!(message["bindings"]["amqp"]["messageType"], outcome::TYPE);
    let properties = &message["x-properties"];
    assert_eq!(properties["type"], outcome::TYPE);
    assert_eq!(properties["app_id"], outcome::APP_ID);
    assert_eq!(properties["content_type"], outcome::CONTENT_TYPE);
}
