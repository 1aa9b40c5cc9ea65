//! What the pages show.
use std::collections::BTreeSet;
use std::fs;

use convgroup_domain::outcome;
use serde_json::Value;

use super::{CLOUD_EVENT, EVENT, OUTCOME, Schema, read, root};

/// The JSON objects on a page that begin like one of ours, each with the number of the line where it begins.
fn objects(page: &str) -> Vec<(usize, Value)> {
    let starts = ["{\"From_Account\"", "{\"specversion\""];
    let (mut found, mut rest) = (Vec::new(), 0);
    let next = |from: usize| {
        starts
            .iter()
            .filter_map(|start| page[from..].find(start))
            .min()
    };
    while let Some(at) = next(rest).map(|at| rest + at) {
        let mut values = serde_json::Deserializer::from_str(&page[at..]).into_iter::<Value>();
        rest = at + 1;
        // What is written in another language is no JSON.
        if let Some(Ok(value)) = values.next() {
            rest = at + values.byte_offset();
            found.push((page[..rest].lines().count(), value));
        }
    }
    found
}

#[test]
fn what_a_page_shows_is_what_its_schema_says() {
    let [event, cloud_event, outcome] = [EVENT, CLOUD_EVENT, OUTCOME].map(Schema::of);
    let pages = fs::read_dir(root().join("docs")).unwrap();
    let pages = pages.map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|ending| ending == "md"));
    let mut with_events = BTreeSet::new();
    for path in pages.chain([root().join("README.md")]) {
        let name = path.file_name().unwrap().to_str().unwrap();
        // An id that is cut short stands for a whole one.
        let page = read(&path).replace("…\"", &format!("{}\"", "0".repeat(56)));
        for (line, object) in objects(&page) {
            let schema = match object.get("type") {
                None => &event,
                Some(kind) if kind == outcome::TYPE => &outcome,
                Some(_) => &cloud_event,
            };
            schema.check(&object, &format!("{name}:{line}"));
            with_events.insert(name.to_owned());
        }
    }
    for page in ["README.md", "publishing.md", "requests.md"] {
        assert!(with_events.contains(page), "{page} shows no event");
    }
}
