//! The error table: the one place that decides which [`Class`] a reply belongs to.
//!
//! The rows are data (`config/error-codes.toml`, embedded); an operator's `[policy.overrides]` change a row's class.
//! What follows from a class is decided in [`super::retry`] and [`super::decide`].
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use convgroup_domain::code::{Class, CodeTable};
//! use convgroup_domain::reply::Reply;
//!
//! // The shipped table, without an operator's overrides.
//! let table = CodeTable::new(&BTreeMap::new());
//! let answer = |code| Reply::Answer { code, info: String::new() };
//!
//! assert_eq!(table.classify(answer(0)).class(), Class::Deleted);
//! assert_eq!(table.classify(Reply::Timeout).class(), Class::Transient);
//!
//! // A code that the table does not list keeps its own number; metrics count it under the row that it matches.
//! let verdict = table.classify(answer(99_999));
//! assert_eq!(verdict.class(), Class::Unknown);
//! assert_eq!((verdict.code.as_str(), verdict.row.label.as_str()), ("99999", "other"));
//! ```
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::reply::Reply;

const EMBEDDED: &str = include_str!("../../../config/error-codes.toml");

/// The key of the row for an `ErrorCode` that the table does not list.
const OTHER: &str = "other";
/// The key of the row for an HTTP status from 400 to 499 that the table does not list.
const HTTP_4XX: &str = "http_4xx";
/// The key of the row for an HTTP status from 500 to 599 that the table does not list.
const HTTP_5XX: &str = "http_5xx";
/// The key of the row for a reply that is not the expected JSON.
const BAD_BODY: &str = "bad_body";
/// The key of the row for groups that are there again after each deletion; the API never answers it.
pub const GROUPS_RECREATED: &str = "groups_recreated";
/// The key of the row for a fault of this program; the API never answers it.
pub const PANIC: &str = "panic";

/// What a reply means for the message. See docs/error-codes.md for what happens in each case.
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

impl Class {
    /// What the requester is told of a name whose call ended in this class, in words; where requests are answered.
    #[must_use]
    pub const fn answer(self) -> &'static str {
        match self {
            Self::Deleted => "the name is told as deleted",
            Self::Gone => "the name is told as gone, which counts as erased",
            Self::Rejected => {
                "the name is told as dead_lettered, with the cause rejected and this code"
            }
            Self::Transient | Self::Unknown => {
                "nothing while the name travels; told as dead_lettered, with the cause exhausted and this code, when the attempts run out"
            }
            Self::Throttled => "nothing: the name travels",
            Self::Signature | Self::Account => {
                "nothing while the daemon is suspended; account healthy: as with unknown"
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
    /// What the code is called in metrics, where the number of names has to be bounded (`http_429` is counted as `http_4xx`).
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
    /// The code of this very answer, for headers, logs and tools: the API's own number, listed or not (`51011`, `99999`), the
    /// HTTP status (`http_404`), or what went wrong (`timeout`). Metrics have the label of the row.
    pub code: String,
    /// Why there was no connection, in a few words; empty for every other answer.
    pub no_connection: String,
    /// The API's own text, or why there was no connection; at most [`INFO_BYTES_MAX`] bytes. It may name users and groups: a
    /// header may carry it, a log not.
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
            self.answer(),
            self.row.meaning,
            self.row.advice
        )
    }
}

impl Verdict {
    /// The class of the matched row.
    #[must_use]
    pub fn class(&self) -> Class {
        self.row.class
    }

    /// What was answered, for people: the code, and why there was no connection (`99999`; `connect, refused`).
    #[must_use]
    pub fn answer(&self) -> String {
        match self.no_connection.as_str() {
            "" => self.code.clone(),
            why => format!("{}, {why}", self.code),
        }
    }
}

/// The table, looked up by reply.
#[derive(Clone, Debug)]
pub struct CodeTable {
    rows: BTreeMap<String, Arc<Row>>,
    order: Vec<String>,
}

impl CodeTable {
    /// The shipped table with the operator's overrides (code → class) applied. A number or HTTP status that the table does not
    /// list gets a row of its own, counted under the label of the row that it would match.
    ///
    /// Which overrides are allowed is checked by the configuration; this applies what it is given, but for what is no code.
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
            let Some(mut row) = table.explain(code) else {
                continue;
            };
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
        self.row(&code).is_some().then_some(code)
    }

    /// The row that an answer with this code matches, under the code that was asked for; nothing where it is no code.
    #[must_use]
    pub fn explain(&self, code: &str) -> Option<Row> {
        let row = self.row(code)?;
        Some(Row {
            code: code.to_owned(),
            ..(**row).clone()
        })
    }

    /// Whether an answer can be told by this code, in a header, a log line or a filter. The rows `other`, `http_4xx` and
    /// `http_5xx` stand for many answers: each of these is told by its own number or status.
    #[must_use]
    pub fn tells(&self, code: &str) -> bool {
        ![OTHER, HTTP_4XX, HTTP_5XX].contains(&code) && self.row(code).is_some()
    }

    /// A code's own row; else the one for all unlisted numbers or statuses of its kind.
    fn row(&self, code: &str) -> Option<&Arc<Row>> {
        let of_its_kind = || {
            if let Some(status) = http_status(code) {
                return Some(match status {
                    400..=499 => HTTP_4XX,
                    500..=599 => HTTP_5XX,
                    _ => BAD_BODY,
                });
            }
            let number: i64 = code.parse().ok()?;
            (number.to_string() == code).then_some(OTHER)
        };
        self.rows
            .get(code)
            .or_else(|| self.rows.get(of_its_kind()?))
    }

    /// The rows that the API's answers can match: all but the one for this program's own fault.
    pub fn answers(&self) -> impl Iterator<Item = &Row> {
        self.rows()
            .filter(|row| ![PANIC, GROUPS_RECREATED].contains(&row.code.as_str()))
    }

    /// What the answers mean that are counted under this label and class, each meaning once: several rows share `http_4xx`.
    #[must_use]
    pub fn meaning(&self, label: &str, class: Class) -> String {
        let mut meanings: Vec<&str> = Vec::new();
        for row in self.rows() {
            let counted = row.label == label && row.class == class;
            if counted && !meanings.contains(&row.meaning.as_str()) {
                meanings.push(&row.meaning);
            }
        }
        meanings.join("; ")
    }

    /// Judges a reply. Total: every reply has a row.
    #[must_use]
    pub fn classify(&self, reply: Reply) -> Verdict {
        match reply {
            Reply::Answer { code, info } => self.verdict(code.to_string(), &info),
            Reply::HttpStatus(status) => self.verdict(format!("{HTTP}{status}"), ""),
            Reply::Timeout => self.verdict("timeout".to_owned(), ""),
            Reply::Connect(why) => Verdict {
                no_connection: why.clone(),
                ..self.verdict("connect".to_owned(), &why)
            },
            Reply::Reset => self.verdict("reset".to_owned(), ""),
            Reply::BadBody(why) => self.verdict(BAD_BODY.to_owned(), why),
        }
    }

    /// The verdict on a message whose handling panicked.
    #[must_use]
    pub fn panic(&self) -> Verdict {
        self.verdict(PANIC.to_owned(), "")
    }

    /// The verdict on groups that were deleted and are there again, each time they are listed.
    #[must_use]
    pub fn groups_recreated(&self) -> Verdict {
        self.verdict(GROUPS_RECREATED.to_owned(), "")
    }

    fn verdict(&self, code: String, info: &str) -> Verdict {
        let row = self.row(&code).unwrap_or_else(|| &self.rows[BAD_BODY]);
        Verdict {
            row: Arc::clone(row),
            code,
            no_connection: String::new(),
            info: bounded(info),
        }
    }
}

/// What stands before an HTTP status in its code.
const HTTP: &str = "http_";

/// The status of a code like `http_404`: three digits, from 400 on. A lower one is no failure, or is told as `bad_body`.
fn http_status(code: &str) -> Option<u16> {
    let digits = code.strip_prefix(HTTP)?;
    let whole = digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let status: u16 = whole.then(|| digits.parse().ok())??;
    (status >= 400).then_some(status)
}

/// The longest prefix of at most [`INFO_BYTES_MAX`] bytes that ends between two characters.
fn bounded(info: &str) -> String {
    info[..info.floor_char_boundary(INFO_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

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
    fn check(reply: Reply, code: &str, label: &str, class: Class) {
        let verdict = shipped().classify(reply);
        assert_eq!(
            (verdict.code.as_str(), verdict.row.label.as_str()),
            (code, label)
        );
        assert_eq!(verdict.class(), class);
    }

    #[test]
    fn each_class_has_its_words() {
        let told = |class: Class| {
            let (consequence, answer) = (class.consequence(), class.answer());
            let reported = class.reported();
            format!(
                "{class}, reported as {reported}\n  message: {consequence}\n  requester: {answer}\n"
            )
        };
        let told: String = Class::ALL.into_iter().map(told).collect();
        expect_file!["../snapshots/classes.txt"].assert_eq(&told);
    }

    #[test]
    fn a_code_is_known_however_it_is_written() {
        let table = shipped();
        for (written, spelling) in [
            ("50001", Some("50001")),
            (" 050001 ", Some("50001")),
            ("-7", Some("-7")),
            ("HTTP_0429", Some("http_429")),
            ("http_503", Some("http_503")),
            ("http_302", None),
            ("Timeout", Some("timeout")),
            ("http_many", None),
            ("nothing", None),
        ] {
            let found = table.spelling(written);
            assert_eq!(found.as_deref(), spelling, "{written}");
        }
        assert!(table.lists("50001") && !table.lists("123456"));
    }

    #[test]
    fn answers_of_the_api_are_all_rows_but_our_own() {
        let table = shipped();
        let answers: Vec<&str> = table.answers().map(|row| row.code.as_str()).collect();
        let (all, own) = (table.rows().count(), [PANIC, GROUPS_RECREATED]);
        assert_eq!(answers.len(), all - own.len());
        assert!(
            own.iter()
                .all(|own| table.lists(own) && !answers.contains(own))
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
                check(answer(code), &code.to_string(), &code.to_string(), class);
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
        let passing = Class::Transient;
        check(Reply::Timeout, "timeout", "timeout", passing);
        let connect = Reply::Connect("refused".to_owned());
        check(connect, "connect", "connect", passing);
        check(Reply::Reset, "reset", "reset", passing);
        check(Reply::BadBody("no JSON"), "bad_body", "bad_body", passing);
        let status = |status, label, class| {
            check(
                Reply::HttpStatus(status),
                &format!("http_{status}"),
                label,
                class,
            );
        };
        status(500, "http_5xx", passing);
        status(503, "http_5xx", passing);
        status(408, "http_4xx", passing);
        status(429, "http_4xx", Class::Throttled);
        status(401, "http_4xx", Class::Account);
        status(403, "http_4xx", Class::Account);
        status(404, "http_4xx", Class::Account);
        status(418, "http_4xx", Class::Unknown);
        status(999, "bad_body", passing);
    }

    #[test]
    fn an_unlisted_code_is_told_by_its_number_and_counted_as_other() {
        for code in [99_999, -7, i64::MIN] {
            check(answer(code), &code.to_string(), "other", Class::Unknown);
        }
        let verdict = shipped().classify(Reply::Answer {
            code: -7,
            info: "odd".into(),
        });
        assert_eq!(verdict.info, "odd");
        assert!(verdict.to_string().starts_with("-7 ("), "{verdict}");
    }

    #[test]
    fn a_code_is_told_if_an_answer_can_have_it() {
        for code in [
            "51011", "99999", "-3", "http_404", "http_418", "http_503", "timeout", PANIC,
        ] {
            assert!(shipped().tells(code), "{code}");
            assert_eq!(shipped().explain(code).unwrap().code, code);
        }
        for group in [OTHER, HTTP_4XX, HTTP_5XX] {
            assert!(!shipped().tells(group), "{group}");
            assert!(shipped().explain(group).is_some(), "{group} is a row");
        }
        for nonsense in [
            "",
            "-",
            "bogus",
            "007",
            "+7",
            "1.5",
            "http_",
            "http_40",
            "http_+40",
            "http_0404",
            "http_302",
            "99999999999999999999",
        ] {
            assert!(!shipped().tells(nonsense), "{nonsense}");
            assert_eq!(shipped().explain(nonsense), None);
        }
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
            ("http_418".to_owned(), Class::Transient),
            ("http_5xx".to_owned(), Class::Account),
        ]));
        let verdict = table.classify(answer(50001));
        assert_eq!(
            (verdict.class(), verdict.row.overridden),
            (Class::Gone, Some(Class::Rejected))
        );
        let changed = [
            (answer(99999), "99999", OTHER, Class::Rejected),
            (answer(99998), "99998", OTHER, Class::Unknown),
            (
                Reply::HttpStatus(418),
                "http_418",
                HTTP_4XX,
                Class::Transient,
            ),
            (Reply::HttpStatus(417), "http_417", HTTP_4XX, Class::Unknown),
            (Reply::HttpStatus(503), "http_503", HTTP_5XX, Class::Account),
        ];
        for (reply, code, label, class) in changed {
            let verdict = table.classify(reply);
            let told = (verdict.code.as_str(), verdict.row.label.as_str());
            assert_eq!((told, verdict.class()), ((code, label), class));
        }
    }

    #[test]
    fn a_label_and_a_class_have_the_meanings_of_their_rows() {
        let meaning = |class| shipped().meaning(HTTP_4XX, class);
        assert_eq!(
            meaning(Class::Transient),
            "HTTP status 408, request timeout"
        );
        let account = meaning(Class::Account);
        assert!(
            account.contains("401") && account.contains("404"),
            "{account}"
        );
        assert_eq!(meaning(Class::Deleted), "");
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
