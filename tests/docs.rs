//! The documentation against the program: links and anchors, and the tables of keys, metrics, headers, subcommands and exit codes.
//! Needs no broker and no network; it reads files of the repository only.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A new reader gets through the README in one go.
const README_LINES_MAX: usize = 200;
/// The program's own name, which stands before its subcommands.
const PROGRAM: &str = "convgroup-deleter";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// The repository's files with one of these endings, by path relative to its root.
fn files(endings: &[&str]) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository") {
            let path = entry.expect("an entry of the repository").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let hidden = name.starts_with('.') && name != ".github" && name != ".ci";
            if path.is_dir() {
                if !hidden && name != "target" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path).expect("text in UTF-8");
                let path = path.strip_prefix(root()).expect("below the root");
                found.insert(path.to_owned(), text);
            }
        }
    }
    found
}

fn pages() -> BTreeMap<PathBuf, String> {
    files(&[".md"])
}

/// The names of the workspace's packages.
fn packages() -> BTreeSet<String> {
    files(&["Cargo.toml"])
        .values()
        .flat_map(|manifest| manifest.lines())
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .map(str::to_owned)
        .collect()
}

/// The lines of a page that are prose, and those that are code, with their numbers.
fn lines(page: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut fenced = false;
    page.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        Some((index + 1, line, fenced))
    })
}

/// What stands between backquotes in a line of prose.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// A line of prose without what stands between backquotes.
fn without_spans(line: &str) -> String {
    line.split('`').step_by(2).collect()
}

/// All code of a page: spans in prose, and lines of code blocks.
fn code(page: &str) -> Vec<(usize, &str)> {
    lines(page)
        .flat_map(|(number, line, fenced)| {
            let texts: Vec<&str> = if fenced {
                vec![line]
            } else {
                spans(line).collect()
            };
            texts.into_iter().map(move |text| (number, text))
        })
        .collect()
}

/// The rows of the tables below a heading of a page, without their heads, as cells.
#[track_caller]
fn rows<'p>(page: &'p str, heading: &str) -> Vec<Vec<&'p str>> {
    let below = lines(page)
        .skip_while(|(_, line, fenced)| *fenced || *line != heading)
        .skip(1)
        .take_while(|(_, line, fenced)| *fenced || !line.starts_with("## "))
        .filter(|(_, line, fenced)| !fenced && line.starts_with('|'));
    let rows: Vec<Vec<&str>> = below
        .map(|(_, line, _)| line.trim_matches('|').split(" | ").map(str::trim).collect())
        .collect();
    let rule = |row: &Vec<&str>| row.concat().starts_with("---");
    let heads: BTreeSet<usize> = (0..rows.len())
        .filter(|at| rule(&rows[*at]))
        .flat_map(|at| [at.saturating_sub(1), at])
        .collect();
    let body = rows.into_iter().enumerate();
    let body: Vec<_> = body
        .filter(|(at, _)| !heads.contains(at))
        .map(|(_, row)| row)
        .collect();
    assert!(!body.is_empty(), "no table below `{heading}`");
    body
}

/// Fails with what only the program has, and what only the page has.
#[track_caller]
fn assert_same(what: &str, program: &BTreeSet<String>, page: &BTreeSet<String>) {
    let missing: Vec<_> = program.difference(page).collect();
    let invented: Vec<_> = page.difference(program).collect();
    assert!(
        missing.is_empty() && invented.is_empty(),
        "{what}: the page lacks {missing:?}, and names {invented:?}, which the program has not"
    );
}

/// Fails with all findings, one a line.
#[track_caller]
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

// --- links and anchors

/// The anchors GitHub gives to the headings of a page.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = lines(page).filter(|(_, line, fenced)| !fenced && line.starts_with('#'));
    let headings =
        headings.filter_map(|(_, line, _)| line.trim_start_matches('#').strip_prefix(' '));
    headings
        .map(|heading| {
            let anchor = anchor(heading);
            let before = seen.entry(anchor.clone()).or_default();
            *before += 1;
            match *before - 1 {
                0 => anchor,
                again => format!("{anchor}-{again}"),
            }
        })
        .collect()
}

/// A heading as an anchor: the text of links only, in lower case, spaces as hyphens, other punctuation left out.
fn anchor(heading: &str) -> String {
    let mut text = heading.trim().to_owned();
    while let Some((before, after)) = text.split_once("](") {
        let (_, rest) = after.split_once(')').unwrap_or(("", after));
        text = format!("{before}{rest}");
    }
    text.to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            _ => c.is_alphanumeric().then_some(c),
        })
        .collect()
}

/// Where the links and images of a page lead.
fn links(page: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line, _) in lines(page).filter(|(_, _, fenced)| !fenced) {
        let line = without_spans(line);
        for (open, close) in [("](", ')'), ("src=\"", '"'), ("href=\"", '"')] {
            let targets = line.split(open).skip(1);
            let targets = targets.filter_map(|rest| rest.split(close).next());
            found.extend(targets.map(|target| (number, target.to_owned())));
        }
    }
    found
}

/// What is wrong with a link from a file in `folder`.
fn broken(pages: &BTreeMap<PathBuf, String>, file: &Path, target: &str) -> Option<String> {
    let (path, fragment) = target.split_once('#').unwrap_or((target, ""));
    let folder = file.parent().unwrap_or(Path::new(""));
    let path = if path.is_empty() {
        file.to_owned()
    } else {
        normal(&folder.join(path))
    };
    if !root().join(&path).exists() {
        return Some(format!("{target}: there is no {}", path.display()));
    }
    let known = || pages.get(&path).map(|page| anchors(page));
    let lost = !fragment.is_empty() && !known().is_some_and(|known| known.contains(fragment));
    lost.then(|| format!("{target}: {} has no such heading", path.display()))
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts: Vec<_> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::CurDir => (),
            other => parts.push(other),
        }
    }
    parts.iter().collect()
}

#[test]
fn headings_have_githubs_anchors() {
    let page = "# A `b.c` (d), e_f-g\n```\n# no heading\n```\n## Twice\n## Twice\n### [To](x.md#y) là\n#no\n";
    let expected = ["a-bc-d-e_f-g", "twice", "twice-1", "to-là"];
    assert_eq!(anchors(page), expected.map(str::to_owned).into());
}

#[test]
fn every_relative_link_leads_somewhere() {
    let pages = pages();
    let mut findings = Vec::new();
    for (file, page) in &pages {
        for (number, target) in links(page) {
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            let problem = (!elsewhere)
                .then(|| broken(&pages, file, &target))
                .flatten();
            findings
                .extend(problem.map(|problem| format!("{}:{number}: {problem}", file.display())));
        }
    }
    assert_none(&findings);
}

/// Sources, manifests, alerts and the dashboard name pages, too.
#[test]
fn every_page_that_another_file_names_exists() {
    let pages = pages();
    let others = files(&[
        ".rs", ".toml", ".yml", ".yaml", ".json", ".service", "Makefile", ".txt", ".md",
    ]);
    let mut findings = Vec::new();
    let part = |c: char| c.is_alphanumeric() || "-_./#".contains(c);
    for (file, text) in &others {
        for (before, after) in text.match_indices("docs/").map(|(at, _)| text.split_at(at)) {
            let target = after.split(|c| !part(c)).next().unwrap_or_default();
            let target = target.trim_end_matches(['.', '#']);
            let whole = !before.ends_with(|c: char| c.is_alphanumeric() || c == '-');
            let page = format!("{target}#").contains(".md#");
            let problem = (whole && page)
                .then(|| broken(&pages, Path::new(""), target))
                .flatten();
            findings.extend(problem.map(|problem| format!("{}: {problem}", file.display())));
        }
    }
    assert_none(&findings);
}

#[test]
fn the_readme_is_short_and_leads_to_every_page() {
    let readme = read("README.md");
    let count = readme.lines().count();
    assert!(count <= README_LINES_MAX, "README.md has {count} lines");
    let linked: BTreeSet<String> = links(&readme)
        .into_iter()
        .filter_map(|(_, target)| target.split('#').next().map(str::to_owned))
        .collect();
    let pages = pages();
    let lost: Vec<String> = pages
        .keys()
        .filter(|file| file.parent() == Some(Path::new("docs")))
        .filter(|file| !linked.contains(&*file.to_string_lossy()))
        .map(|file| format!("README.md does not link {}", file.display()))
        .collect();
    assert_none(&lost);
}

// --- examples

/// The code blocks of a page in this language, without their fences.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<&'p str> {
    let fence = format!("\n```{language}\n");
    let blocks = page.split(fence.as_str()).skip(1);
    blocks
        .map(|block| {
            let (code, _) = block.split_once("\n```").expect("the block ends");
            code
        })
        .collect()
}

/// What a reader copies from the page is what was tried.
#[test]
fn the_page_shows_the_example_as_it_is() {
    let page = read("docs/requests.md");
    let example = read("docs/examples/python/request.py");
    assert_eq!(blocks(&page, "python"), [example.trim_end()]);
}

// --- configuration keys

/// The keys of `config/default.toml` with their defaults; those without one are commented out there.
fn keys() -> BTreeMap<String, Option<String>> {
    let defaults = read("config/default.toml");
    let mut section = String::new();
    let mut keys = BTreeMap::new();
    for line in defaults.lines() {
        if let Some(name) = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'))
        {
            section = format!("{name}.");
            continue;
        }
        let live = line.strip_prefix("# ").is_none();
        let Some((key, value)) = line.trim_start_matches("# ").split_once(" = ") else {
            continue;
        };
        if key
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c))
        {
            let key = match key.strip_prefix("overrides.") {
                Some(_) => "policy.overrides.CODE".to_owned(),
                None => format!("{section}{key}"),
            };
            keys.insert(key, live.then(|| value.trim_matches('"').to_owned()));
        }
    }
    keys
}

#[test]
fn each_key_stands_on_its_page_with_its_default() {
    let page = read("docs/configuration.md");
    let keys = keys();
    let mut named = BTreeSet::new();
    let mut findings = Vec::new();
    for row in rows(&page, "## Keys") {
        let mut defaults = spans(row[1]);
        for key in spans(row[0]) {
            let shown = defaults.next();
            let real = keys.get(key).and_then(Option::as_deref);
            if shown != real {
                findings.push(format!(
                    "{key}: the page says {shown:?}, the program has {real:?}"
                ));
            }
            named.insert(key.to_owned());
        }
    }
    assert_same("docs/configuration.md", &keys.into_keys().collect(), &named);
    assert_none(&findings);
}

#[test]
fn no_page_names_a_key_that_there_is_not() {
    let keys = keys();
    let sections: BTreeSet<&str> = keys
        .keys()
        .filter_map(|key| key.split_once('.'))
        .map(|(section, _)| section)
        .collect();
    let known = |key: &str| {
        let section = format!("{key}.");
        keys.contains_key(key)
            || key.starts_with("policy.overrides")
            || keys.keys().any(|key| key.starts_with(&section))
    };
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for (number, text) in code(&page) {
            let key = text.split(" = ").next().unwrap_or_default();
            let shaped = key
                .chars()
                .all(|c| c.is_ascii_lowercase() || "_.".contains(c));
            let ours = key
                .split_once('.')
                .is_some_and(|(section, _)| sections.contains(section));
            let a_file = Path::new(key)
                .extension()
                .is_some_and(|ending| ending == "rs");
            if shaped && ours && !a_file && !known(key) {
                findings.push(format!(
                    "{}:{number}: there is no key {key}",
                    file.display()
                ));
            }
        }
    }
    assert_none(&findings);
}

// --- metrics

/// Each metric of the program, without its prefix, with its labels.
fn metrics() -> BTreeMap<String, BTreeSet<String>> {
    let snapshot = read("tests/snapshots/metrics.txt");
    let mut metrics: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in snapshot.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            rest.split(' ')
                .next()
                .unwrap_or_default()
                .clone_into(&mut current);
            metrics.entry(current.clone()).or_default();
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            let names = labels
                .split("=\"")
                .map(|part| part.rsplit(['"', ',']).next().unwrap_or_default());
            let count = labels.matches("=\"").count();
            let names = names.take(count).filter(|name| *name != "le");
            metrics
                .entry(current.clone())
                .or_default()
                .extend(names.map(str::to_owned));
        }
    }
    let ours = metrics.into_iter();
    ours.filter_map(|(name, labels)| Some((name.strip_prefix("convgroup_")?.to_owned(), labels)))
        .collect()
}

#[test]
fn each_metric_stands_on_its_page_with_its_labels() {
    let page = read("docs/operating.md");
    let metrics = metrics();
    let mut named = BTreeSet::new();
    let mut findings = Vec::new();
    for row in rows(&page, "## Metrics") {
        let shown: BTreeSet<String> = spans(row[1]).map(str::to_owned).collect();
        for metric in spans(row[0]) {
            let real = metrics.get(metric).cloned().unwrap_or_default();
            if shown != real {
                findings.push(format!(
                    "{metric}: the page has the labels {shown:?}, the program {real:?}"
                ));
            }
            named.insert(metric.to_owned());
        }
    }
    assert_same("docs/operating.md", &metrics.into_keys().collect(), &named);
    assert_none(&findings);
}

#[test]
fn no_page_names_a_metric_that_there_is_not() {
    let metrics = metrics();
    let known = |name: &str| {
        let parts = ["_bucket", "_sum", "_count"];
        let whole = parts.iter().find_map(|part| name.strip_suffix(part));
        metrics.contains_key(name) || whole.is_some_and(|name| metrics.contains_key(name))
    };
    let packages = packages();
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for (number, text) in code(&page) {
            for rest in text.split("convgroup_").skip(1) {
                let name = rest
                    .split(|c: char| !c.is_ascii_lowercase() && c != '_')
                    .next();
                let name = name.unwrap_or_default();
                let is_package = packages.contains(&format!("convgroup-{name}"));
                if !name.is_empty() && !is_package && !known(name) {
                    findings.push(format!(
                        "{}:{number}: there is no metric {name}",
                        file.display()
                    ));
                }
            }
        }
    }
    assert_none(&findings);
}

// --- headers

/// The headers that the program writes: its constants of type `&str` that begin with `convgroup-`.
fn headers() -> BTreeSet<String> {
    let sources = files(&[".rs"]);
    let ours = |file: &Path| {
        let sandbox = file.components().any(|part| {
            ["sandbox", "fuzzing", "tests.rs"]
                .iter()
                .any(|other| part.as_os_str() == *other)
        });
        (file.starts_with("src") || file.starts_with("crates")) && !sandbox
    };
    let sources = sources.iter().filter(|(file, _)| ours(file));
    sources
        .flat_map(|(_, text)| text.lines())
        .filter_map(|line| line.split_once(": &str = \"convgroup-"))
        .filter_map(|(_, rest)| rest.split_once("\";"))
        .map(|(name, _)| format!("convgroup-{name}"))
        // The program's own name is none.
        .filter(|name| name != "convgroup-deleter")
        .collect()
}

#[test]
fn each_header_stands_on_its_page() {
    let page = read("docs/publishing.md");
    let table: BTreeSet<String> = rows(&page, "## Headers on copies")
        .into_iter()
        .flat_map(|row| spans(row[0]).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    assert_same("docs/publishing.md", &headers(), &table);
}

#[test]
fn no_page_names_a_header_that_there_is_not() {
    let packages = packages();
    // What else is called `convgroup-…`: users of the example, a policy.
    let others = [
        "convgroup-daemon",
        "convgroup-publisher",
        "convgroup-auditor",
        "convgroup-deployer",
        "convgroup-guard",
    ];
    let headers = headers();
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for (number, line, _) in lines(&page).filter(|(_, _, fenced)| !fenced) {
            for text in spans(line) {
                let name = text.split(": ").next().unwrap_or_default();
                let shaped = name.starts_with("convgroup-")
                    && name
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
                let known =
                    headers.contains(name) || packages.contains(name) || others.contains(&name);
                if shaped && name != "convgroup-" && !known {
                    findings.push(format!(
                        "{}:{number}: there is no header {name}",
                        file.display()
                    ));
                }
            }
        }
    }
    assert_none(&findings);
}

// --- subcommands and exit codes

/// Each subcommand, as it is typed, with its help.
fn helps() -> BTreeMap<String, String> {
    let folder = root().join("tests/snapshots");
    let entries = fs::read_dir(folder).expect("the snapshots");
    let names = entries.map(|entry| entry.expect("a snapshot").file_name());
    names
        .filter_map(|file| {
            let file = file.to_string_lossy().into_owned();
            let name = file.strip_prefix("help-")?.strip_suffix(".txt")?;
            let help = read(format!("tests/snapshots/{file}"));
            (name != "program").then(|| (name.replace('-', " "), help))
        })
        .collect()
}

/// Whether a subcommand only groups others.
fn groups_others(help: &str) -> bool {
    help.lines().any(|line| line == "Commands:")
}

/// The subcommand that a command line calls: the words after the program's name, a second one only for a group.
fn subcommand(helps: &BTreeMap<String, String>, words: &[&str]) -> String {
    match words {
        [group, name, ..] if helps.get(*group).is_some_and(|help| groups_others(help)) => {
            format!("{group} {name}")
        }
        [name, ..] => (*name).to_owned(),
        [] => String::new(),
    }
}

#[test]
fn each_subcommand_stands_on_its_page() {
    let page = read("docs/operating.md");
    let helps = helps();
    let real = helps.iter().filter(|(_, help)| !groups_others(help));
    let named: BTreeSet<String> = rows(&page, "## Tools")
        .into_iter()
        .filter_map(|row| spans(row[0]).next())
        .filter_map(|text| text.strip_prefix(PROGRAM))
        .map(|text| subcommand(&helps, &text.split_whitespace().collect::<Vec<_>>()))
        .collect();
    assert_same(
        "docs/operating.md",
        &real.map(|(name, _)| name.clone()).collect(),
        &named,
    );
}

/// A command that a reader copies from a page runs: its subcommand and its options exist.
#[test]
fn no_page_calls_a_subcommand_or_an_option_that_there_is_not() {
    let helps = helps();
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for (number, text) in code(&page) {
            for call in text.split(['|', ';', '#', '(', ')', '&']) {
                let words: Vec<&str> = call.split_whitespace().collect();
                let Some(at) = words.iter().rposition(|word| *word == PROGRAM) else {
                    continue;
                };
                let words = &words[at + 1..];
                if words
                    .first()
                    .is_some_and(|word| word.chars().all(|c| c.is_ascii_lowercase()))
                {
                    let problem = wrong_call(&helps, words);
                    findings.extend(
                        problem.map(|problem| {
                            format!("{}:{number}: {problem}: {text}", file.display())
                        }),
                    );
                }
            }
        }
    }
    assert_none(&findings);
}

/// What is wrong with the words after the program's name.
fn wrong_call(helps: &BTreeMap<String, String>, words: &[&str]) -> Option<String> {
    let group = words.len() == 1 || words.get(1).is_some_and(|word| word.starts_with('-'));
    let name = if group {
        words[0].to_owned()
    } else {
        subcommand(helps, words)
    };
    let Some(help) = helps.get(&name) else {
        return Some(format!("there is no subcommand `{name}`"));
    };
    let has = |option: &str| help.split([' ', '\n', ',']).any(|word| word == option);
    let lost = words
        .iter()
        .find(|word| word.starts_with("--") && word.len() > 2 && !has(word));
    lost.map(|option| format!("`{name}` has no option {option}"))
}

/// The exit codes of `Exit`.
fn exit_codes() -> BTreeSet<String> {
    let source = read("src/tool/exit.rs");
    let arms = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Exit::"));
    arms.filter_map(|arm| arm.split_once(" => "))
        .map(|(_, code)| code.trim_end_matches(',').to_owned())
        .collect()
}

#[test]
fn each_exit_code_stands_on_its_page() {
    let page = read("docs/operating.md");
    let named = rows(&page, "## Exit codes")
        .into_iter()
        .map(|row| row[0].to_owned());
    assert_same("docs/operating.md", &exit_codes(), &named.collect());
}

#[test]
fn no_page_names_an_exit_code_that_there_is_not() {
    let codes = exit_codes();
    let mut findings = Vec::new();
    for (file, page) in pages() {
        for (number, line, _) in lines(&page) {
            for rest in line.to_lowercase().split("exit code ").skip(1) {
                let code: String = rest.chars().take_while(char::is_ascii_digit).collect();
                if !code.is_empty() && !codes.contains(&code) {
                    findings.push(format!(
                        "{}:{number}: there is no exit code {code}",
                        file.display()
                    ));
                }
            }
        }
    }
    assert_none(&findings);
}
