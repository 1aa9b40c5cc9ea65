//! The error table: the one place that decides which [`Class`] a reply belongs to.
//!
//! The rows are data (`config/error-codes.toml`, embedded); an operator's `[policy.overrides]` change a row's class.
//! What follows from a class is decided in [`super::retry`] and [`super::decide`].
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::reply::Reply;

const EMBEDDED: &str = include_str!("../../config/error-codes.toml");

/// The key of the row for an `ErrorCode` that the table does not list.
pub const OTHER: &str = "other";
/// The key of the row for a fault of this program; the API never answers it.
pub const PANIC: &str = "panic";

/// What a reply means for the message. See the README for what happens in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// The group was deleted.
    Deleted,
    /// The group did not exist (any more): the wanted end is reached.
    Gone,
    /// A passing fault of the API or the network.
    Transient,
    /// Too many calls: slow down, count no attempt.
    Throttled,
    /// This message can never succeed.
    Rejected,
    /// The `UserSig` is stale: sign anew, once.
    Signature,
    /// The account, not the message, is at fault.
    Account,
    /// Nobody knows: the probe is asked.
    Unknown,
}

impl Class {
    /// All classes, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Deleted,
        Self::Gone,
        Self::Transient,
        Self::Throttled,
        Self::Rejected,
        Self::Signature,
        Self::Account,
        Self::Unknown,
    ];

    /// The name used in metrics, headers, logs and the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Deleted => "deleted",
            Self::Gone => "gone",
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Rejected => "rejected",
            Self::Signature => "signature",
            Self::Account => "account",
            Self::Unknown => "unknown",
        }
    }

    /// The class that a dead or delayed copy carries. An `account` or `signature` answer that a message ended with was answered
    /// while the probe was healthy: it is treated, and reported, as `unknown`.
    #[must_use]
    pub const fn reported(self) -> Self {
        match self {
            Self::Account | Self::Signature => Self::Unknown,
            class => class,
        }
    }

    /// What happens to a message whose call ended in this class, in words.
    #[must_use]
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Deleted => "acked, counted as deleted",
            Self::Gone => "acked, counted as gone",
            Self::Transient => {
                "quick retries in place, then a delay tier, then a dead letter (exhausted) when the attempts run out"
            }
            Self::Throttled => {
                "the pace is cut for everything; the message is tried again, no attempt is counted"
            }
            Self::Rejected => "a dead letter (rejected) at once",
            Self::Signature => {
                "a new UserSig is signed, once, and the call repeated; still refused, it is treated as account"
            }
            Self::Account => {
                "the probe is asked; if it agrees, the daemon suspends and hands the messages back; account healthy: treated as unknown"
            }
            Self::Unknown => {
                "the probe is asked; account healthy: counted retries, then a dead letter (exhausted); else the daemon suspends"
            }
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key: an `ErrorCode` as digits, or the name of a fault (`timeout`, `http_429`, `other`).
    pub code: String,
    /// What the code is called in metrics, headers and logs (`http_429` is reported as `http_4xx`).
    pub label: String,
    /// The class, overrides applied.
    pub class: Class,
    /// What the API means by it.
    pub meaning: String,
    /// What a person can do.
    pub advice: String,
    /// The class the shipped table has, where an override changed it.
    pub overridden: Option<Class>,
}

/// A row as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    code: RawCode,
    label: String,
    class: Class,
    meaning: String,
    advice: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawCode {
    Number(i64),
    Name(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    code: Vec<RawRow>,
}

/// A reply, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The row that matched.
    pub row: Arc<Row>,
    /// What was answered, for people: the row's label, and what the label hides (`other, ErrorCode 99999`; `connect, refused`).
    pub answer: String,
    /// The API's own text, at most [`INFO_BYTES_MAX`] bytes. It may name users and groups: a header may carry it, a log not.
    pub info: String,
}

/// Bound of [`Verdict::info`], in bytes; the contract's bound for the header `convgroup-info`.
pub const INFO_BYTES_MAX: usize = 200;

/// What was answered, what it means and what to do: for `/readyz`, the log and `check`.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}). {}",
            self.answer, self.row.meaning, self.row.advice
        )
    }
}

impl Verdict {
    /// The class of the matched row.
    #[must_use]
    pub fn class(&self) -> Class {
        self.row.class
    }
}

/// What rows that share a label mean, each meaning once.
#[must_use]
pub fn meaning(rows: &[&Row]) -> String {
    let mut meanings: Vec<&str> = Vec::new();
    for row in rows {
        if !meanings.contains(&row.meaning.as_str()) {
            meanings.push(&row.meaning);
        }
    }
    meanings.join("; ")
}

/// The table, looked up by reply.
#[derive(Clone, Debug)]
pub struct CodeTable {
    rows: BTreeMap<String, Arc<Row>>,
    order: Vec<String>,
}

impl CodeTable {
    /// The shipped table with the operator's overrides (code → class) applied. A number that the table does not list gets a
    /// row of its own, counted under the label `other`.
    ///
    /// Which overrides are allowed is checked by the configuration; this applies what it is given.
    #[must_use]
    pub fn new(overrides: &BTreeMap<String, Class>) -> Self {
        let raw: RawTable =
            toml::from_str(EMBEDDED).expect("the embedded table is checked by a test");
        let mut table = Self {
            rows: BTreeMap::new(),
            order: Vec::new(),
        };
        for raw in raw.code {
            let code = match raw.code {
                RawCode::Number(number) => number.to_string(),
                RawCode::Name(name) => name,
            };
            table.insert(Row {
                code,
                label: raw.label,
                class: raw.class,
                meaning: raw.meaning,
                advice: raw.advice,
                overridden: None,
            });
        }
        for (code, &class) in overrides {
            let mut row = table.explain(code);
            row.overridden = (row.class != class).then_some(row.class);
            row.class = class;
            table.insert(row);
        }
        table
    }

    fn insert(&mut self, row: Row) {
        let code = row.code.clone();
        if self.rows.insert(code.clone(), Arc::new(row)).is_none() {
            self.order.push(code);
        }
    }

    /// All rows, in the order of the file.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.order.iter().map(|code| &*self.rows[code])
    }

    /// Whether a code stands in the table.
    #[must_use]
    pub fn lists(&self, code: &str) -> bool {
        self.rows.contains_key(code)
    }

    /// How a code is written that stands in the table or may be added to it: `050001` is `50001`, `HTTP_0429` is `http_429`.
    /// `None`: it is no code.
    #[must_use]
    pub fn spelling(&self, code: &str) -> Option<String> {
        let code = code.trim().to_lowercase();
        if let Ok(number) = code.parse::<i64>() {
            return Some(number.to_string());
        }
        let status = code
            .strip_prefix("http_")
            .and_then(|status| status.parse::<u16>().ok());
        let code = status.map_or(code, |status| format!("http_{status}"));
        self.lists(&code).then_some(code)
    }

    /// The row that a code would match: its own, or `other` under the asked-for code.
    #[must_use]
    pub fn explain(&self, code: &str) -> Row {
        match self.rows.get(code) {
            Some(row) => (**row).clone(),
            None => Row {
                code: code.to_owned(),
                ..(*self.rows[OTHER]).clone()
            },
        }
    }

    /// The rows that the API's answers can match: all but the one for this program's own fault.
    pub fn answers(&self) -> impl Iterator<Item = &Row> {
        self.rows().filter(|row| row.code != PANIC)
    }

    /// The rows that a label stands for, of those classes that fit, in the order of the table: several share `http_4xx`. None
    /// fits any more where an override has changed the class since: then all with the label; and for a label that no row has
    /// (any more), the row of unlisted codes.
    #[must_use]
    pub fn behind(&self, label: &str, fits: impl Fn(Class) -> bool) -> Vec<&Row> {
        let labelled: Vec<&Row> = self.rows().filter(|row| row.label == label).collect();
        let fitting: Vec<&Row> = labelled
            .iter()
            .copied()
            .filter(|row| fits(row.class))
            .collect();
        match (fitting.is_empty(), labelled.is_empty()) {
            (false, _) => fitting,
            (true, false) => labelled,
            (true, true) => vec![&*self.rows[OTHER]],
        }
    }

    /// Judges a reply. Total: every reply has a row.
    #[must_use]
    pub fn classify(&self, reply: Reply) -> Verdict {
        match reply {
            Reply::Answer { code, info } if self.lists(&code.to_string()) => {
                self.verdict(&code.to_string(), None, &info)
            }
            Reply::Answer { code, info } => {
                let number = format!("ErrorCode {code}");
                let info = format!("{number}: {info}");
                self.verdict(OTHER, Some(number), &info)
            }
            Reply::HttpStatus(status) => {
                let exact = format!("http_{status}");
                let group = match status {
                    400..=499 => "http_4xx",
                    500..=599 => "http_5xx",
                    _ => "bad_body",
                };
                let key = if self.lists(&exact) { &exact } else { group };
                let number = format!("HTTP status {status}");
                self.verdict(key, Some(number.clone()), &number)
            }
            Reply::Timeout => self.verdict("timeout", None, ""),
            Reply::Connect(why) => self.verdict("connect", Some(why.clone()), &why),
            Reply::Reset => self.verdict("reset", None, ""),
            Reply::BadBody => self.verdict("bad_body", None, ""),
        }
    }

    /// The verdict on a message whose handling panicked.
    #[must_use]
    pub fn panic(&self) -> Verdict {
        self.verdict(PANIC, None, "")
    }

    fn verdict(&self, key: &str, more: Option<String>, info: &str) -> Verdict {
        let row = Arc::clone(&self.rows[key]);
        let answer = match more {
            Some(more) => format!("{}, {more}", row.label),
            None => row.label.clone(),
        };
        Verdict {
            row,
            answer,
            info: bounded(info),
        }
    }
}

/// The longest prefix of at most [`INFO_BYTES_MAX`] bytes that ends between two characters.
fn bounded(info: &str) -> String {
    info[..info.floor_char_boundary(INFO_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shipped() -> CodeTable {
        CodeTable::new(&BTreeMap::new())
    }

    fn answer(code: i64) -> Reply {
        Reply::Answer {
            code,
            info: String::new(),
        }
    }

    #[track_caller]
    fn check(reply: Reply, label: &str, class: Class) {
        let verdict = shipped().classify(reply);
        assert_eq!(
            (verdict.row.label.as_str(), verdict.class()),
            (label, class)
        );
    }

    /// The classes of the contract, written a second time on purpose: the table is data, and data gets edited.
    #[test]
    fn every_code_of_the_contract_has_its_class() {
        let contract: [(Class, &[i64]); 8] = [
            (Class::Deleted, &[0]),
            (Class::Gone, &[51009]),
            (
                Class::Transient,
                &[50004, 50005, 60008, 60013, 60014, 70169, 70202, 70500],
            ),
            (Class::Throttled, &[60007, 60011, 60018, 60019]),
            (
                Class::Rejected,
                &[
                    50001, 50002, 51006, 51007, 51008, 51010, 51011, 51012, 60003, 60015, 70206,
                    70402,
                ],
            ),
            (Class::Signature, &[70001, 70002, 70003, 70005, 70052]),
            (
                Class::Account,
                &[
                    50003, 51013, 60006, 60009, 60010, 60012, 60016, 60017, 60020, 60021, 70009,
                    70013, 70014, 70016, 70020, 70050, 70051, 70114, 70403,
                ],
            ),
            (Class::Unknown, &[60002, 60004, 60005, 70107, 70398]),
        ];
        let mut listed = 0;
        for (class, codes) in contract {
            for &code in codes {
                check(answer(code), &code.to_string(), class);
                listed += 1;
            }
        }
        let numeric = shipped()
            .rows()
            .filter(|row| row.code.parse::<i64>().is_ok())
            .count();
        assert_eq!(
            numeric, listed,
            "the table lists a code that this test does not"
        );
    }

    #[test]
    fn replies_without_a_code_are_classified_by_what_went_wrong() {
        check(Reply::Timeout, "timeout", Class::Transient);
        check(
            Reply::Connect("refused".to_owned()),
            "connect",
            Class::Transient,
        );
        check(Reply::Reset, "reset", Class::Transient);
        check(Reply::BadBody, "bad_body", Class::Transient);
        check(Reply::HttpStatus(500), "http_5xx", Class::Transient);
        check(Reply::HttpStatus(503), "http_5xx", Class::Transient);
        check(Reply::HttpStatus(408), "http_4xx", Class::Transient);
        check(Reply::HttpStatus(429), "http_4xx", Class::Throttled);
        check(Reply::HttpStatus(401), "http_4xx", Class::Account);
        check(Reply::HttpStatus(403), "http_4xx", Class::Account);
        check(Reply::HttpStatus(404), "http_4xx", Class::Account);
        check(Reply::HttpStatus(418), "http_4xx", Class::Unknown);
        check(Reply::HttpStatus(999), "bad_body", Class::Transient);
    }

    #[test]
    fn an_unlisted_code_is_other_and_keeps_its_number_in_the_info() {
        let verdict = shipped().classify(Reply::Answer {
            code: -7,
            info: "odd".into(),
        });
        assert_eq!(verdict.row.label, "other");
        assert_eq!(verdict.class(), Class::Unknown);
        assert_eq!(verdict.info, "ErrorCode -7: odd");
    }

    #[test]
    fn why_there_was_no_connection_is_told_and_is_no_label() {
        let verdict = shipped().classify(Reply::Connect("name not resolved (no such host)".into()));
        assert_eq!(verdict.row.label, "connect");
        assert_eq!(verdict.info, "name not resolved (no such host)");
        let told = verdict.to_string();
        assert!(
            told.starts_with("connect, name not resolved (no such host) ("),
            "{told}"
        );
    }

    #[test]
    fn an_override_changes_the_class_and_nothing_else() {
        let table = CodeTable::new(&BTreeMap::from([
            ("50001".to_owned(), Class::Gone),
            ("99999".to_owned(), Class::Rejected),
        ]));
        let verdict = table.classify(answer(50001));
        assert_eq!(
            (verdict.class(), verdict.row.overridden),
            (Class::Gone, Some(Class::Rejected))
        );
        let verdict = table.classify(answer(99999));
        assert_eq!(
            (verdict.class(), verdict.row.label.as_str()),
            (Class::Rejected, OTHER)
        );
    }

    #[test]
    fn a_label_and_a_class_lead_back_to_their_rows() {
        let overrides = BTreeMap::from([("50001".to_owned(), Class::Transient)]);
        let table = CodeTable::new(&overrides);
        let codes = |label, class| {
            let rows = table.behind(label, |found| found == class);
            rows.iter().map(|row| row.code.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(codes("http_4xx", Class::Transient), ["http_408"]);
        assert_eq!(
            codes("http_4xx", Class::Account),
            ["http_401", "http_403", "http_404"]
        );
        assert_eq!(
            codes("50001", Class::Rejected),
            ["50001"],
            "died before the override"
        );
        assert_eq!(codes("12345", Class::Unknown), ["other"]);
        let account = table.behind("http_4xx", |class| class == Class::Account);
        let told = meaning(&account);
        assert!(told.contains("401") && told.contains("404"), "{told}");
    }

    #[test]
    fn numeric_rows_are_labelled_by_their_number() {
        for row in shipped()
            .rows()
            .filter(|row| row.code.parse::<i64>().is_ok())
        {
            assert_eq!(row.code, row.label);
            assert!(!row.meaning.is_empty() && !row.advice.is_empty(), "{row:?}");
        }
    }

    #[test]
    fn the_info_is_cut_between_characters() {
        let info = "é".repeat(150);
        let verdict = shipped().classify(Reply::Answer { code: 50002, info });
        assert_eq!(verdict.info, "é".repeat(100));
    }
}
