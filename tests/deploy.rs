//! What is shipped to deploy it with: the manifests for Kubernetes against the API's schemas, the rules for the Prometheus Operator
//! against `alerts.yml`, the dashboard against the metrics. Needs no broker, no network and no cluster.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use serde_json::{Map, Value};
use yaml_rust2::{Yaml, YamlLoader};

const KUBERNETES: &str = "config/deploy/kubernetes";
const ALERTS: &str = "config/prometheus/alerts.yml";
const DASHBOARD: &str = "config/grafana/dashboards/convgroup.json";
const METRICS: &str = "tests/snapshots/metrics.txt";
/// Not a resource: what lists them.
const KUSTOMIZATION: &str = "kustomization.yaml";
/// A resource that the kustomization leaves out on purpose.
const SECRET: &str = "secret.example.yaml";

/// What stands above the groups in `prometheusrule.yaml`.
const RULES_HEAD: &str = r"# Made of config/prometheus/alerts.yml by `UPDATE_EXPECT=1 cargo test --test deploy`: change that file, not this one.
# For the Prometheus Operator. Some installations select PrometheusRules by a label such as `release: NAME`: add yours.
#
# Two addresses are those of the try-out; set yours once:
#   sed -i 's#http://127.0.0.1:3000/public/docs#https://YOUR-GIT/docs#; s#http://127.0.0.1:3000/d/#https://YOUR-GRAFANA/d/#' prometheusrule.yaml
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: convgroup-deleter
  labels:
    app.kubernetes.io/name: convgroup-deleter
spec:
";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The one document of a YAML file.
#[track_caller]
fn yaml(path: impl AsRef<Path>) -> Value {
    let text = read(&path);
    let found = YamlLoader::load_from_str(&text);
    let documents = found.unwrap_or_else(|err| panic!("{}: {err}", path.as_ref().display()));
    assert_eq!(documents.len(), 1, "{}", path.as_ref().display());
    json(&documents[0])
}

/// YAML as the JSON that an API gets of it.
fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::String(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Real(_) => yaml.as_f64().into(),
        Yaml::Boolean(flag) => (*flag).into(),
        Yaml::Null => Value::Null,
        Yaml::Array(values) => values.iter().map(json).collect(),
        Yaml::Hash(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|(key, value)| (key.as_str().unwrap().to_owned(), json(value)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Yaml::Alias(_) | Yaml::BadValue => panic!("{yaml:?}"),
    }
}

/// The manifests, by file name.
fn manifests() -> Vec<(String, Value)> {
    let entries = fs::read_dir(root().join(KUBERNETES)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != KUSTOMIZATION).collect();
    names.sort();
    let path = |name: &str| Path::new(KUBERNETES).join(name);
    let manifests = names.into_iter().map(|name| {
        let manifest = yaml(path(&name));
        (name, manifest)
    });
    manifests.collect()
}

/// What the API would say to a manifest; unknown fields are refused.
fn judged(manifest: &Value) -> Result<(), String> {
    let kind = manifest["kind"].as_str().unwrap();
    let of_operator = manifest["apiVersion"] == "monitoring.coreos.com/v1";
    let file = if of_operator {
        "prometheus-operator.json"
    } else {
        "kubernetes-1.27.json"
    };
    let path = root().join("tests/schemas/kubernetes").join(file);
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    let location = format!("{}#/$defs/{kind}", path.display());
    let index = compiler.compile(&location, &mut schemas).unwrap();
    let found = schemas.validate(manifest, index);
    found.map_err(|err| format!("{err:#}"))
}

#[test]
fn each_manifest_is_what_the_api_takes() {
    let manifests = manifests();
    assert!(manifests.len() > 6, "{manifests:?}");
    for (name, manifest) in manifests {
        judged(&manifest).unwrap_or_else(|err| panic!("{name}: {err}"));
    }
}

/// The check itself: a wrong type, an unknown field and a missing one are refused, deep down as well.
#[test]
fn what_the_api_would_refuse_is_refused_here() {
    let manifests = manifests();
    for (file, pointer, key, wrong) in [
        ("deployment.yaml", "/spec", "replicas", "\"two\""),
        ("deployment.yaml", "/spec", "replica", "2"),
        (
            "deployment.yaml",
            "/spec/template/spec/containers/0",
            "name",
            "-",
        ),
        (
            "deployment.yaml",
            "/spec/template/spec/containers/0/readinessProbe",
            "periodSecond",
            "5",
        ),
        (
            "deployment.yaml",
            "/spec/template/spec/containers/0/securityContext/capabilities",
            "drop",
            "\"ALL\"",
        ),
        ("service.yaml", "/spec/ports/0", "port", "\"metrics\""),
        ("configmap.yaml", "/data", "number", "1"),
        (SECRET, "", "stringdata", "{}"),
        ("pdb.yaml", "/spec", "maxUnavailable", "[]"),
        (
            "servicemonitor.yaml",
            "/spec/endpoints/0",
            "interval",
            "\"15 s\"",
        ),
        (
            "servicemonitor.yaml",
            "/spec/endpoints/0",
            "scrape_timeout",
            "\"10s\"",
        ),
        ("prometheusrule.yaml", "/spec/groups/0/rules/0", "expr", "-"),
        (
            "prometheusrule.yaml",
            "/spec/groups/0/rules/0",
            "severity",
            "\"page\"",
        ),
        (
            "prometheusrule.yaml",
            "/spec/groups/0/rules/0/labels",
            "number",
            "1",
        ),
    ] {
        let (_, manifest) = manifests.iter().find(|(name, _)| name == file).unwrap();
        let mut manifest = manifest.clone();
        let fields = manifest
            .pointer_mut(pointer)
            .unwrap()
            .as_object_mut()
            .unwrap();
        match wrong {
            "-" => assert!(fields.remove(key).is_some(), "{file}: no {pointer}/{key}"),
            wrong => drop(fields.insert(key.to_owned(), serde_json::from_str(wrong).unwrap())),
        }
        assert!(
            judged(&manifest).is_err(),
            "{file}: {pointer}/{key} {wrong}"
        );
    }
}

#[test]
fn the_kustomization_lists_every_manifest_and_this_version() {
    let kustomization = yaml(Path::new(KUBERNETES).join(KUSTOMIZATION));
    let listed = kustomization["resources"].as_array().unwrap().iter();
    let listed: BTreeSet<String> = listed
        .map(|file| file.as_str().unwrap().to_owned())
        .collect();
    let there = manifests().into_iter().map(|(name, _)| name);
    assert_eq!(listed, there.filter(|name| name != SECRET).collect());
    assert_eq!(
        kustomization["images"][0]["newTag"],
        env!("CARGO_PKG_VERSION")
    );
}

/// `alerts.yml` as the Prometheus Operator takes it. `UPDATE_EXPECT=1 cargo test --test deploy` writes the file anew.
#[test]
fn the_operators_rules_are_the_alerts() {
    let alerts = read(ALERTS);
    let (_, groups) = alerts.split_once("\ngroups:\n").unwrap();
    let indented = groups.lines().map(|line| match line {
        "" => "\n".to_owned(),
        line => format!("  {line}\n"),
    });
    let rule = [
        RULES_HEAD.to_owned(),
        "  groups:\n".to_owned(),
        indented.collect(),
    ];
    expect_file!["../config/deploy/kubernetes/prometheusrule.yaml"].assert_eq(&rule.concat());
    let rule = yaml(Path::new(KUBERNETES).join("prometheusrule.yaml"));
    assert_eq!(
        rule["spec"],
        yaml(ALERTS),
        "moved text by text, and the same by value"
    );
}

// --- the configuration to fill in

/// A configuration with its examples, which are commented out, in force. What they are does not matter, only their keys.
#[track_caller]
fn with_examples(path: &str) -> toml::Table {
    let key = |line: &str| {
        let (key, _) = line.strip_prefix("# ")?.split_once(" = ")?;
        let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
        key.chars().all(part).then(|| format!("{key} = 0"))
    };
    let text = read(path);
    let lines = text
        .lines()
        .map(|line| key(line).unwrap_or(line.to_owned()));
    let lines: Vec<String> = lines.collect();
    let found = lines.join("\n").parse();
    found.unwrap_or_else(|err| panic!("{path}: {err}"))
}

#[test]
fn each_key_of_the_configuration_to_fill_in_is_one() {
    let known = with_examples("config/default.toml");
    let ours = with_examples("config/deploy/convgroup.toml");
    assert!(ours.len() > 3, "{ours:?}");
    for (section, keys) in &ours {
        for key in keys.as_table().unwrap().keys() {
            assert!(
                known[section].get(key).is_some(),
                "there is no {section}.{key}"
            );
        }
    }
    let key = ["secret_key", "secret_key_file"].map(|key| ours["im"].get(key));
    assert_eq!(key, [None, None], "the unit sets the file");
}

// --- dashboard and alerts against the metrics

/// All series of the metrics' snapshot, `_bucket`, `_sum` and `_count` included.
fn series() -> BTreeSet<String> {
    let text = read(METRICS);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let names = samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned());
    names.collect()
}

/// The names in a query that begin with `convgroup_`.
fn named(query: &str) -> BTreeSet<&str> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !part(c));
    words
        .filter(|word| word.starts_with("convgroup_"))
        .collect()
}

#[test]
fn each_query_of_the_dashboard_names_series_that_there_are() {
    let (dashboard, series): (Value, _) =
        (serde_json::from_str(&read(DASHBOARD)).unwrap(), series());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let mut variables: BTreeSet<&str> =
        variables.map(|one| one["name"].as_str().unwrap()).collect();
    variables.extend(["__rate_interval", "__interval", "__range"]);
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let mut queries = 0;
    for panel in panels.filter(|panel| panel["type"] != "row") {
        let title = &panel["title"];
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        assert!(
            panel["fieldConfig"]["defaults"]["unit"].is_string(),
            "{title}: no unit"
        );
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            for name in named(query) {
                assert!(series.contains(name), "{title}: there is no {name}");
            }
            let used = query.split('$').skip(1);
            for variable in used.map(|rest| {
                rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .next()
                    .unwrap()
            }) {
                assert!(
                    variables.contains(variable),
                    "{title}: nobody sets ${variable}"
                );
            }
            queries += 1;
        }
    }
    assert!(queries > 20, "{queries} queries");
}

#[test]
fn each_alert_names_series_that_there_are() {
    let (alerts, series) = (yaml(ALERTS), series());
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 5, "{rules:?}");
    for rule in rules {
        let texts = [&rule["expr"], &rule["annotations"]["description"]];
        let mut names = texts.iter().flat_map(|text| named(text.as_str().unwrap()));
        let lost = names.find(|name| !series.contains(*name));
        assert_eq!(lost, None, "{}", rule["alert"]);
    }
}
