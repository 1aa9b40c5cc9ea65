//! The schemas in `docs/schema/` against the program, in both directions: what it accepts and what it writes validates, and what a
//! schema refuses it refuses too. Needs no broker and no network.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

mod asyncapi;
mod events;
mod lines;
mod outcomes;
mod pages;

const EVENT: &str = "event.schema.json";
const CLOUD_EVENT: &str = "event-cloudevent.schema.json";
const OUTCOME: &str = "outcome.schema.json";
const MANIFEST: &str = "manifest.schema.json";
const REPORT: &str = "report.schema.json";
const ASYNCAPI: &str = "asyncapi.json";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    root().join("docs/schema")
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// A file in `docs/schema/`.
#[track_caller]
fn document(file: &str) -> Value {
    serde_json::from_str(&read(folder().join(file))).unwrap()
}

/// The examples in a schema.
#[track_caller]
fn examples(file: &str) -> Vec<Value> {
    document(file)["examples"].as_array().unwrap().clone()
}

/// A schema that is ready to judge. Formats count.
struct Schema {
    schemas: boon::Schemas,
    index: boon::SchemaIndex,
}

impl Schema {
    /// A file in `docs/schema/`, or a part of one: `FILE#/POINTER`.
    #[track_caller]
    fn of(file: &str) -> Self {
        Self::at(folder().join(file))
    }

    #[track_caller]
    fn at(path: impl AsRef<Path>) -> Self {
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.enable_format_assertions();
        let path = path.as_ref().to_str().unwrap();
        let index = compiler.compile(path, &mut schemas).unwrap();
        Self { schemas, index }
    }

    fn accepts(&self, instance: &Value) -> bool {
        self.schemas.validate(instance, self.index).is_ok()
    }

    #[track_caller]
    fn check(&self, instance: &Value, what: &str) {
        let found = self.schemas.validate(instance, self.index);
        found.unwrap_or_else(|err| panic!("{what}: {instance}: {err:#}"));
    }
}

/// A copy with a change, which is written as a pointer and the JSON that is there now; `-` for nothing: `/data/remaining 1`.
#[track_caller]
fn changed(value: &Value, change: &str) -> Value {
    let mut value = value.clone();
    let (pointer, now) = change.split_once(' ').unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let now: Option<Value> = (now != "-").then(|| serde_json::from_str(now).unwrap());
    match (value.pointer_mut(parent).unwrap(), now) {
        (Value::Object(fields), Some(now)) => drop(fields.insert(key.to_owned(), now)),
        (Value::Array(values), Some(now)) => values[key.parse::<usize>().unwrap()] = now,
        (Value::Object(fields), None) => assert!(fields.remove(key).is_some(), "no {pointer}"),
        (parent, _) => panic!("{change}: nothing to change in {parent}"),
    }
    value
}

#[test]
fn every_schema_is_one_and_its_examples_validate() {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder()).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        if file != ASYNCAPI {
            let draft = "https://json-schema.org/draft/2020-12/schema";
            assert_eq!(document(&file)["$schema"], draft, "{file}");
            let schema = Schema::of(&file);
            let examples = examples(&file);
            assert!(examples.len() > 1, "{file}");
            for example in examples {
                schema.check(&example, &file);
            }
        }
        files.insert(file);
    }
    let expect = [EVENT, CLOUD_EVENT, OUTCOME, MANIFEST, REPORT, ASYNCAPI];
    assert_eq!(files, expect.map(str::to_owned).into());
}
