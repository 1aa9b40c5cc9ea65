//! What each package may use, as ARCHITECTURE.md says it: Cargo lets it use nothing else.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The packages that a package of the workspace may use in what is shipped. The root's folder is empty.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(folder)
        .join("Cargo.toml");
    let manifest: toml::Table = fs::read_to_string(&manifest).unwrap().parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    dependencies.keys().cloned().collect()
}

fn packages() -> Vec<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    let names = fs::read_dir(crates).unwrap();
    let mut folders: Vec<String> = names
        .map(|entry| format!("crates/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    folders.push(String::new());
    folders
}

#[test]
fn domain_can_reach_no_network_clock_log_or_runtime() {
    let allowed = ["serde", "serde_json", "sha2", "thiserror", "time", "toml"];
    assert_eq!(
        dependencies("crates/domain"),
        allowed.map(str::to_owned).into()
    );
}

#[test]
fn the_client_libraries_have_one_user_each() {
    for (library, user) in [
        ("lapin", "crates/broker"),
        ("async-rs", "crates/broker"),
        ("reqwest", "crates/chat"),
        ("backoff", "crates/host"),
        ("prometheus", ""),
        ("opentelemetry", ""),
        ("opentelemetry-otlp", ""),
        ("opentelemetry_sdk", ""),
    ] {
        let users: Vec<String> = packages()
            .into_iter()
            .filter(|folder| folder != "crates/testkit" && dependencies(folder).contains(library))
            .collect();
        assert_eq!(users, [user], "{library}");
    }
}

#[test]
fn traces_are_made_in_one_room() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.starts_with(src.join("traces")) {
                let text = fs::read_to_string(&path).unwrap();
                assert!(!text.contains("opentelemetry"), "{}", path.display());
            }
        }
    }
}

#[test]
fn the_rooms_depend_on_each_other_in_one_direction() {
    for (folder, ours) in [
        ("crates/domain", &[][..]),
        ("crates/host", &["convgroup-domain"]),
        ("crates/chat", &["convgroup-domain", "convgroup-host"]),
        ("crates/broker", &["convgroup-domain", "convgroup-host"]),
        ("crates/sandbox", &["convgroup-chat", "convgroup-host"]),
        ("crates/testkit", &["convgroup-domain"]),
        (
            "",
            &[
                "convgroup-broker",
                "convgroup-chat",
                "convgroup-domain",
                "convgroup-host",
            ],
        ),
    ] {
        let found: Vec<String> = dependencies(folder)
            .into_iter()
            .filter(|name| name.starts_with("convgroup-") || name == "im-sandbox")
            .collect();
        assert_eq!(found, ours, "{folder}");
    }
}
