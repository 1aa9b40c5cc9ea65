//! The books of requests: what was asked for, what was answered, and what became of it.
//!
//! Outcomes may come in any order and any number of times; the same set of them makes the same case. These are the rules:
//!
//! 1. Of what is told of a place more than once, one end counts. A later round outweighs an earlier one, because a redrive begins only
//!    after the dead letter that it sends back. Within a round, erased outweighs dead-lettered and purged, because it proves that the
//!    group is not there. Else the later `time` counts. So what is dead in round 0 and deleted in round 1 is erased, and so is what is
//!    deleted in a round whose repeat, after a crash, was rejected.
//! 2. A request with names is closed when every place has an end. It has as many places as the manifest or any outcome says, whichever
//!    is more: an outcome that counts differently can keep a request open, and never close one with a place untold. Places are counted,
//!    not compared with that number: of a request that repeats a name they are further apart.
//! 3. A request for all groups, and one whose publisher could not read it, is closed when an outcome with `remaining` 0 was told. Places
//!    count within one outcome there. The closing outcome that weighs most, as in rule 1, tells the end; what others deleted adds to it.
//! 4. "Malformed" closes a request: it is an end, by rule 1, for each place that has no end that outweighs it.
//!
//! ```
//! use convgroup_domain::case::{Cases, Heard, Status};
//! use convgroup_domain::manifest::Groups;
//!
//! let mut cases = Cases::new();
//! cases.expect("req-1", Groups::Named(2)).expect("no other has this id");
//! let told = br#"{"specversion":"1.0","id":"6a","source":"/convgroup-deleter/1","type":"convgroup.request.settled.v1",
//!   "time":"2026-12-01T00:00:11Z","datacontenttype":"application/json","data":{"request":{"id":"req-1","id_from":"message_id","round":0,
//!   "published_at":null},"status":"partial","groups":2,"remaining":1,"verified_at":null,"results":[{"index":1,"outcome":"gone"}]}}"#;
//! cases.take_in(&Heard::read(told).expect("it is an outcome"));
//! assert_eq!(cases.status(0), Status::Open);
//! ```
use std::cmp::Ordering;
use std::collections::HashMap;
use std::collections::hash_map::{DefaultHasher, Entry};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::decide::{EXPIRED, MALFORMED};
use super::manifest::{Asked, Groups};
use super::message::GROUPS_MAX;
use super::moment;
use super::outcome::{End, NameResult, OutcomeEvent, PURGED, Status as Told, TYPE};

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All its groups are deleted, or were gone.
    Erased,
    /// None of its groups is erased, or the event can't be read.
    Failed,
    /// Some are erased, some are not.
    Mixed,
    /// None is erased, all because the moment that the event allows has passed.
    Expired,
    /// None is erased, all because their dead letters were removed.
    Purged,
    /// Something was told of it, and it is not closed.
    Open,
    /// Nothing was told of it.
    Unknown,
}

impl Status {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [
        Self::Erased,
        Self::Failed,
        Self::Mixed,
        Self::Expired,
        Self::Purged,
        Self::Open,
        Self::Unknown,
    ];

    /// The name used in reports.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Erased => "erased",
            Self::Failed => "failed",
            Self::Mixed => "mixed",
            Self::Expired => "expired",
            Self::Purged => "purged",
            Self::Open => "open",
            Self::Unknown => "unknown",
        }
    }

    /// Whether nothing more is to come by itself.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        !matches!(self, Self::Open | Self::Unknown)
    }
}

/// How many requests became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    by_status: [usize; Status::ALL.len()],
    verified: usize,
}

impl Sums {
    /// How many have this status, and no other counted with it.
    #[must_use]
    pub const fn of(&self, status: Status) -> usize {
        self.by_status[status as usize]
    }

    /// All.
    #[must_use]
    pub fn requested(&self) -> usize {
        self.by_status.iter().sum()
    }

    /// Those whose groups are all erased.
    #[must_use]
    pub const fn erased(&self) -> usize {
        self.of(Status::Erased)
    }

    /// Those of whose groups none is erased, [`Status::Expired`] and [`Status::Purged`] included.
    #[must_use]
    pub const fn failed(&self) -> usize {
        self.of(Status::Failed) + self.of(Status::Expired) + self.of(Status::Purged)
    }

    /// Those of whose groups some are erased.
    #[must_use]
    pub const fn mixed(&self) -> usize {
        self.of(Status::Mixed)
    }

    /// Those that are not closed, [`Status::Unknown`] included.
    #[must_use]
    pub const fn open(&self) -> usize {
        self.of(Status::Open) + self.of(Status::Unknown)
    }

    /// Those that are closed.
    #[must_use]
    pub fn closed(&self) -> usize {
        self.requested() - self.open()
    }

    /// Those for all groups of a user that are erased, which an empty list of these has verified.
    #[must_use]
    pub const fn verified(&self) -> usize {
        self.verified
    }

    fn add(&mut self, (status, verified): (Status, bool)) {
        self.by_status[status as usize] += 1;
        self.verified += usize::from(verified);
    }

    fn remove(&mut self, (status, verified): (Status, bool)) {
        self.by_status[status as usize] -= 1;
        self.verified -= usize::from(verified);
    }
}

/// One request of a report.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportLine {
    /// Its id.
    pub id: String,
    /// What became of it.
    pub status: Status,
    /// The end of each place that is told, by place. Of all groups: what each outcome deleted, in the order of time, and what the
    /// last one told; a place counts within one outcome there, and may stand more than once.
    pub results: Vec<PlaceEnd>,
    /// How many rounds there were, of what was told: 1 where it was never redriven, 0 where nothing was told.
    pub rounds: u32,
    /// The time of the outcome that closed it, RFC 3339.
    pub closed_at: Option<String>,
    /// When a list of all groups of the user was empty, RFC 3339: of a request for all groups that is closed by that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<String>,
    /// The number of its line in the file of events, from 1, where the manifest says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<NonZeroU32>,
    /// Why the whole request failed, where no single place says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The code of the answer that this lies in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Its dead letter, where it is not erased and the dead letters were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<LetterTold>,
}

/// As with [`Cases`].
impl fmt::Debug for ReportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportLine")
            .field("status", &self.status)
            .field("results", &self.results)
            .field("rounds", &self.rounds)
            .field("closed_at", &self.closed_at)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl ReportLine {
    /// One line of NDJSON, its end included.
    #[must_use]
    pub fn to_line(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and numbers always become JSON");
        json + "\n"
    }
}

/// What the dead letter of a request tells. It is there now; what was told of the request before may be older.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LetterTold {
    /// Its cause, as `dlq` shows it.
    pub cause: String,
    /// Its class; empty where it has none.
    pub class: String,
    /// Its code; empty where it has none.
    pub code: String,
    /// When it died, RFC 3339.
    pub failed_at: Option<String>,
}

/// How one place of a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceEnd {
    /// The place.
    pub index: u16,
    /// How it ended.
    pub outcome: End,
    /// Why it is dead, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What the API answered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// An outcome as it was read from the ledger or from a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// What it says.
    pub event: OutcomeEvent,
    /// When it was made, unix ms.
    pub at_ms: i64,
}

impl Heard {
    /// Reads an outcome. Nothing where it is none: of another form or type, or without a time. Whoever may write to the exchange may
    /// have put anything there.
    #[must_use]
    pub fn read(json: &[u8]) -> Option<Self> {
        Self::of(OutcomeEvent::from_json(json).ok()?)
    }

    fn of(event: OutcomeEvent) -> Option<Self> {
        let at_ms = moment::parse(&event.time)?;
        (event.kind == TYPE).then_some(Self { event, at_ms })
    }
}

/// Whether an outcome was for the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It answers a request of these books, which has this place in them.
    Of(usize),
    /// It answers another request.
    Foreign,
}

/// The books: all requests that were asked for.
#[derive(Clone, Default)]
pub struct Cases {
    by_id: HashMap<Box<str>, u32>,
    requests: Vec<Case>,
    words: Words,
    sums: Sums,
}

/// A publisher's ids stay out of debug output: they may be anything.
impl fmt::Debug for Cases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cases")
            .field("sums", &self.sums)
            .finish_non_exhaustive()
    }
}

impl Cases {
    /// Empty books.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for one more request.
    ///
    /// # Errors
    /// The place of the request that has this id already.
    pub fn expect(&mut self, id: &str, groups: Groups) -> Result<(), usize> {
        self.enter(id, groups, None)
    }

    /// Asks for what a line of a manifest says.
    ///
    /// # Errors
    /// As [`Cases::expect`].
    pub fn ask(&mut self, asked: &Asked) -> Result<(), usize> {
        self.enter(&asked.id, asked.groups, asked.line)
    }

    fn enter(&mut self, id: &str, groups: Groups, line: Option<NonZeroU32>) -> Result<(), usize> {
        let place = self.requests.len();
        match self.by_id.entry(id.into()) {
            Entry::Occupied(taken) => Err(*taken.get() as usize),
            Entry::Vacant(free) => {
                free.insert(u32::try_from(place).unwrap_or(u32::MAX));
                self.requests.push(Case::new(groups, line));
                self.sums.add((Status::Unknown, false));
                Ok(())
            }
        }
    }

    /// How many requests there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many requests became what, so far.
    #[must_use]
    pub const fn sums(&self) -> Sums {
        self.sums
    }

    /// Takes in what an outcome tells.
    pub fn take_in(&mut self, outcome: &Heard) -> Taken {
        let Heard { event, at_ms } = outcome;
        let Some(&place) = self.by_id.get(event.data.request.id.as_str()) else {
            return Taken::Foreign;
        };
        let case = &mut self.requests[place as usize];
        self.sums.remove(case.standing());
        case.take_in(event, *at_ms, &mut self.words);
        self.sums.add(case.standing());
        Taken::Of(place as usize)
    }

    /// The place of the request with this id.
    #[must_use]
    pub fn place(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).map(|&place| place as usize)
    }

    /// What became of the request at this place, in the order in which they were asked for.
    ///
    /// # Panics
    /// There is no such place.
    #[must_use]
    pub fn status(&self, place: usize) -> Status {
        self.requests[place].status()
    }

    /// How many calls those that are not closed need at least: one for each name, and one for all groups.
    #[must_use]
    pub fn names_open(&self) -> usize {
        let open = self.requests.iter();
        let open = open.filter(|case| !case.status().is_closed());
        open.map(|case| match case.groups {
            Groups::Named(count) => usize::from(count),
            Groups::All => 1,
        })
        .sum()
    }

    /// Whether one that is not closed means all groups, so that nobody knows how many calls it needs.
    #[must_use]
    pub fn all_groups_open(&self) -> bool {
        let mut open = self.requests.iter();
        open.any(|case| case.groups == Groups::All && !case.status().is_closed())
    }

    /// The report of all requests, in the order in which they were asked for.
    pub fn lines(&self) -> impl Iterator<Item = ReportLine> {
        let mut ids = vec![""; self.requests.len()];
        for (id, &place) in &self.by_id {
            ids[place as usize] = id;
        }
        let ids = ids.into_iter().enumerate();
        ids.map(|(place, id)| self.requests[place].line(id, &self.words))
    }
}

/// What was told of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Case {
    /// As its manifest says.
    groups: Groups,
    /// Its line in the file of events.
    line: Option<NonZeroU32>,
    /// The largest number of groups that an outcome told.
    most: u16,
    /// How many rounds were seen.
    rounds: u32,
    story: Story,
}

/// What was told, as far as it can still count.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Story {
    /// For each place the end that counts, by place, and the whole's at [`WHOLE`].
    Places(Vec<Ended>),
    /// Whole outcomes, by their ids.
    Outcomes(Vec<Whole>),
}

/// Stands for a place where an end is that of all places which have no better one.
const WHOLE: u16 = u16::MAX;

/// How one place ended, by one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ended {
    at_ms: i64,
    round: u32,
    place: u16,
    end: End,
    cause: Option<Word>,
    code: Option<Word>,
}

/// What one outcome told of all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Whole {
    /// The hash of its id.
    id: u64,
    at_ms: i64,
    round: u32,
    /// Whether nothing remained.
    closes: bool,
    /// When an empty list showed that, unix ms.
    verified_ms: Option<i64>,
    /// Why all of it failed, where that says nothing of a single place.
    cause: Option<Word>,
    code: Option<Word>,
    ends: Vec<Ended>,
}

/// Counts ends, and says what became of a request with them.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    erased: usize,
    failed: usize,
    expired: usize,
    purged: usize,
}

impl Count {
    fn failure(&mut self, end: End, cause: Option<Word>) {
        self.failed += 1;
        self.expired += usize::from(cause == Some(Words::EXPIRED));
        self.purged += usize::from(end == End::Purged || cause == Some(Words::PURGED));
    }

    fn of(ends: impl Iterator<Item = Ended>) -> Self {
        let mut count = Self::default();
        for ended in ends {
            if ended.end.is_erased() {
                count.erased += 1;
            } else {
                count.failure(ended.end, ended.cause);
            }
        }
        count
    }

    const fn status(self) -> Status {
        match self {
            Self { failed: 0, .. } => Status::Erased,
            Self { erased: 1.., .. } => Status::Mixed,
            Self {
                failed, expired, ..
            } if failed == expired => Status::Expired,
            Self { failed, purged, .. } if failed == purged => Status::Purged,
            _ => Status::Failed,
        }
    }
}

impl Ended {
    /// What decides which of two ends counts.
    const fn weight(&self) -> (u32, bool, i64) {
        (self.round, self.end.is_erased(), self.at_ms)
    }

    /// Settles a tie, so that the order in which they come does not.
    fn details<'w>(&self, words: &'w Words) -> (u16, u8, &'w str, &'w str) {
        let (cause, code) = (words.text(self.cause), words.text(self.code));
        (self.place, self.end as u8, cause, code)
    }

    fn outweighs(&self, other: &Self, words: &Words) -> bool {
        let order = self.weight().cmp(&other.weight());
        let order = order.then_with(|| self.details(words).cmp(&other.details(words)));
        order == Ordering::Greater
    }
}

impl Whole {
    fn is_erased(&self) -> bool {
        self.cause.is_none() && self.ends.iter().all(|ended| ended.end.is_erased())
    }

    fn weight(&self) -> (u32, bool, i64) {
        (self.round, self.closes && self.is_erased(), self.at_ms)
    }

    fn outweighs(&self, other: &Self, words: &Words) -> bool {
        let details = |whole: &Self| -> Vec<_> {
            let own = (WHOLE, 0, words.text(whole.cause), words.text(whole.code));
            let ends = whole.ends.iter().map(|ended| ended.details(words));
            std::iter::once(own).chain(ends).collect()
        };
        let order = self.weight().cmp(&other.weight());
        let order = order.then_with(|| self.id.cmp(&other.id));
        let order = order.then_with(|| self.verified_ms.cmp(&other.verified_ms));
        let order = order.then_with(|| details(self).cmp(&details(other)));
        order == Ordering::Greater
    }
}

impl Case {
    fn new(groups: Groups, line: Option<NonZeroU32>) -> Self {
        let story = match groups {
            Groups::Named(1..) => Story::Places(Vec::new()),
            Groups::Named(0) | Groups::All => Story::Outcomes(Vec::new()),
        };
        Self {
            groups,
            line,
            most: 0,
            rounds: 0,
            story,
        }
    }

    fn take_in(&mut self, outcome: &OutcomeEvent, at_ms: i64, words: &mut Words) {
        let data = &outcome.data;
        let round = data.request.round;
        self.rounds = self.rounds.max(round.saturating_add(1));
        let malformed = data.status == Told::Malformed;
        let cause = match data.cause.as_deref() {
            None if malformed => Some(Words::MALFORMED),
            cause => words.word(cause),
        };
        let code = words.word(data.code.as_deref());
        let mut ended = |result: &NameResult| Ended {
            at_ms,
            round,
            place: u16::try_from(result.index).unwrap_or(WHOLE),
            end: result.outcome,
            cause: words.word(result.cause.as_deref()),
            code: words.word(result.code.as_deref()),
        };
        match &mut self.story {
            Story::Places(places) => {
                self.most = self
                    .most
                    .max(u16::try_from(data.groups).unwrap_or(u16::MAX));
                let known = |result: &&NameResult| result.index < GROUPS_MAX;
                let told: Vec<Ended> = if malformed {
                    vec![Ended {
                        at_ms,
                        round,
                        place: WHOLE,
                        end: if cause == Some(Words::PURGED) {
                            End::Purged
                        } else {
                            End::DeadLettered
                        },
                        cause,
                        code,
                    }]
                } else {
                    data.results.iter().filter(known).map(ended).collect()
                };
                for ended in told {
                    match places.binary_search_by_key(&ended.place, |known| known.place) {
                        Err(free) => places.insert(free, ended),
                        Ok(at) if ended.outweighs(&places[at], words) => places[at] = ended,
                        Ok(_) => (),
                    }
                }
            }
            Story::Outcomes(outcomes) => {
                let mut ends: Vec<Ended> = data.results.iter().map(&mut ended).collect();
                ends.sort_by_key(|ended| ended.place);
                let whole = Whole {
                    id: hash(&outcome.id),
                    at_ms,
                    round,
                    closes: data.remaining == 0,
                    verified_ms: data.verified_at.as_deref().and_then(moment::parse),
                    cause,
                    code,
                    ends,
                };
                match outcomes.iter_mut().find(|known| known.id == whole.id) {
                    None => outcomes.push(whole),
                    Some(known) if whole.outweighs(known, words) => *known = whole,
                    Some(_) => (),
                }
            }
        }
    }

    /// What counts of it, and the moment at which it was closed; nothing where it is not.
    fn counted(&self) -> Counted {
        match &self.story {
            Story::Places(places) => self.counted_places(places),
            Story::Outcomes(outcomes) => counted_outcomes(outcomes),
        }
    }

    fn counted_places(&self, places: &[Ended]) -> Counted {
        let (whole, places) = match places.split_last() {
            Some((last, places)) if last.place == WHOLE => (Some(last), places),
            _ => (None, places),
        };
        let counts = |ended: &&Ended| whole.is_none_or(|whole| ended.weight() >= whole.weight());
        let ends: Vec<Ended> = places.iter().filter(counts).copied().collect();
        let Groups::Named(asked) = self.groups else {
            unreachable!("all groups have outcomes, no places")
        };
        let filled = ends.len() >= usize::from(asked.max(self.most));
        let whole = whole.filter(|_| !filled).copied();
        let last = ends.iter().chain(&whole).map(|ended| ended.at_ms).max();
        Counted {
            closed_ms: last.filter(|_| filled || whole.is_some()),
            verified_ms: None,
            ends,
            whole: whole.map(|whole| (whole.end, whole.cause, whole.code)),
        }
    }

    fn status(&self) -> Status {
        self.standing().0
    }

    /// What became of it, and whether an empty list has verified that it is erased.
    fn standing(&self) -> (Status, bool) {
        let counted = self.counted();
        let status = self.status_of(&counted);
        let verified = status == Status::Erased && counted.verified_ms.is_some();
        (status, verified)
    }

    fn status_of(&self, counted: &Counted) -> Status {
        if self.rounds == 0 {
            return Status::Unknown;
        }
        if counted.closed_ms.is_none() {
            return Status::Open;
        }
        let mut count = Count::of(counted.ends.iter().copied());
        if let Some((end, cause, _)) = counted.whole {
            count.failure(end, cause);
        }
        count.status()
    }

    fn line(&self, id: &str, words: &Words) -> ReportLine {
        let counted = self.counted();
        let text = |word: Option<Word>| word.map(|word| words.text(Some(word)).to_owned());
        let (cause, code) = counted
            .whole
            .map_or((None, None), |(_, cause, code)| (cause, code));
        ReportLine {
            id: id.to_owned(),
            status: self.status_of(&counted),
            results: counted
                .ends
                .iter()
                .map(|ended| PlaceEnd {
                    index: ended.place,
                    outcome: ended.end,
                    cause: text(ended.cause),
                    code: text(ended.code),
                })
                .collect(),
            rounds: self.rounds,
            closed_at: counted.closed_ms.map(moment::format_ms),
            verified_at: counted.verified_ms.map(moment::format_ms),
            line: self.line,
            cause: text(cause),
            code: text(code),
            dead_letter: None,
        }
    }
}

/// What counts of a case.
struct Counted {
    /// When it was closed, unix ms.
    closed_ms: Option<i64>,
    /// When an empty list showed that nothing is left, unix ms.
    verified_ms: Option<i64>,
    ends: Vec<Ended>,
    /// How the whole ended, where that is an end beside those of places.
    whole: Option<(End, Option<Word>, Option<Word>)>,
}

fn counted_outcomes(outcomes: &[Whole]) -> Counted {
    let closing = outcomes.iter().filter(|whole| whole.closes);
    let closing = closing.max_by_key(|whole| (whole.weight(), whole.id));
    let mut before: Vec<&Whole> = outcomes
        .iter()
        .filter(|whole| closing.is_none_or(|closing| whole.id != closing.id))
        .collect();
    before.sort_by_key(|whole| (whole.round, whole.at_ms, whole.id));
    let mut ends: Vec<Ended> = before
        .iter()
        .flat_map(|whole| &whole.ends)
        .filter(|ended| ended.end.is_erased())
        .copied()
        .collect();
    ends.extend(closing.iter().flat_map(|closing| &closing.ends));
    Counted {
        closed_ms: closing.map(|closing| closing.at_ms),
        verified_ms: closing.and_then(|closing| closing.verified_ms),
        ends,
        whole: closing
            .filter(|closing| closing.cause.is_some())
            .map(|closing| (End::DeadLettered, closing.cause, closing.code)),
    }
}

/// The first digits of an id are enough to tell the outcomes of one request apart.
fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish()
}

/// A cause or a code that was seen before, by its place in [`Words`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u16);

/// Causes and codes, each kept once. Others write them, so there is a bound: beyond it they are all [`OTHER`].
#[derive(Clone, Debug)]
struct Words {
    texts: Vec<Box<str>>,
    by_text: HashMap<Box<str>, Word>,
}

/// Stands for a cause or a code that is too long, or one too many.
const OTHER: &str = "other";
/// Longest word, in bytes.
const WORD_BYTES_MAX: usize = 64;
/// Most words.
const WORDS_MAX: u16 = 10_000;

impl Default for Words {
    fn default() -> Self {
        let mut words = Self {
            texts: Vec::new(),
            by_text: HashMap::new(),
        };
        // In the order of the constants below.
        for text in [OTHER, EXPIRED, PURGED, MALFORMED] {
            words.word(Some(text));
        }
        words
    }
}

impl Words {
    const OTHER: Word = Word(0);
    const EXPIRED: Word = Word(1);
    const PURGED: Word = Word(2);
    const MALFORMED: Word = Word(3);

    fn word(&mut self, text: Option<&str>) -> Option<Word> {
        let text = text?;
        if let Some(&word) = self.by_text.get(text) {
            return Some(word);
        }
        let next = u16::try_from(self.texts.len()).ok();
        let next = next.filter(|&next| next < WORDS_MAX && text.len() <= WORD_BYTES_MAX);
        let Some(next) = next else {
            return Some(Self::OTHER);
        };
        self.texts.push(text.into());
        self.by_text.insert(text.into(), Word(next));
        Some(Word(next))
    }

    /// A word's text; the empty one where there is none.
    fn text(&self, word: Option<Word>) -> &str {
        word.map_or("", |Word(at)| &self.texts[usize::from(at)])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// An outcome of `req-1`, from one line: `id round second remaining groups; place end cause code, …; cause code`, where what is
    /// absent is written `-`.
    fn told(words: &str) -> Heard {
        let parts: Vec<&str> = words.split("; ").collect();
        let [head, ends, rest] = parts[..] else {
            panic!("three parts: {words}")
        };
        let head: Vec<&str> = head.split(' ').collect();
        let [id, round, second, remaining, groups] = head[..] else {
            panic!("five words: {words}")
        };
        let quoted = |key: &str, word: &str| match word {
            "-" => String::new(),
            word => format!(r#","{key}":"{word}""#),
        };
        let results: Vec<String> = ends
            .split(", ")
            .filter(|end| !end.is_empty())
            .map(|end| {
                let words: Vec<&str> = end.split(' ').collect();
                let [place, end, cause, code] = words[..] else {
                    panic!("four words: {end}")
                };
                let end = match end {
                    "d" => "deleted",
                    "g" => "gone",
                    "x" => "dead_lettered",
                    "p" => "purged",
                    other => panic!("no such end: {other}"),
                };
                let (cause, code) = (quoted("cause", cause), quoted("code", code));
                format!(r#"{{"index":{place},"outcome":"{end}"{cause}{code}}}"#)
            })
            .collect();
        let rest: Vec<&str> = rest.split(' ').collect();
        let malformed = rest.contains(&"malformed");
        let rest = match rest[..] {
            [cause, code] => quoted("cause", cause) + &quoted("code", code),
            _ => String::new(),
        };
        let status = if malformed { "malformed" } else { "erased" };
        let rest = if malformed { "" } else { &rest };
        let results = results.join(",");
        let json = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/x/1","type":"{TYPE}","time":"2026-12-01T00:00:{second:0>2}Z",
            "datacontenttype":"application/json","data":{{"request":{{"id":"req-1","id_from":"message_id","round":{round},
            "published_at":null}},"status":"{status}","groups":{groups},"remaining":{remaining},"verified_at":null{rest},
            "results":[{results}]}}}}"#
        );
        Heard::read(json.as_bytes()).unwrap()
    }

    fn cases(groups: Groups) -> Cases {
        let mut cases = Cases::new();
        cases.expect("req-1", groups).unwrap();
        cases
    }

    #[test]
    fn the_sums_add_up() {
        let mut sums = Sums::default();
        for (place, status) in Status::ALL.into_iter().enumerate() {
            for _ in 0..1 << place {
                sums.add((status, false));
            }
        }
        // Erased, failed, mixed, expired, purged, open, unknown: 1, 2, 4, 8, 16, 32, 64.
        assert_eq!(sums.requested(), 127);
        assert_eq!((sums.erased(), sums.failed(), sums.mixed()), (1, 26, 4));
        assert_eq!((sums.closed(), sums.open()), (31, 96));
    }

    #[test]
    fn what_is_open_needs_calls() {
        let needs = |cases: &Cases| (cases.names_open(), cases.all_groups_open());
        let mut cases = Cases::new();
        assert!(cases.is_empty());
        assert_eq!(needs(&cases), (0, false));
        cases.expect("req-1", Groups::Named(3)).unwrap();
        assert!(!cases.is_empty());
        assert_eq!(needs(&cases), (3, false));
        cases.expect("other", Groups::All).unwrap();
        assert_eq!(needs(&cases), (4, true));
        let _ = cases.take_in(&told("a 0 1 0 3; 0 d - 0, 1 d - 0, 2 g - 51009; "));
        assert_eq!(needs(&cases), (1, true));
        let mut closed = self::cases(Groups::All);
        let _ = closed.take_in(&told("a 0 1 0 1; 0 d - 0; "));
        assert_eq!(needs(&closed), (0, false));
    }

    #[test]
    fn debug_output_names_no_request() {
        let mut cases = Cases::new();
        cases.expect("user15", Groups::Named(1)).unwrap();
        let line = cases.lines().next().unwrap();
        let told = format!("{cases:?} {line:?}");
        assert!(told.starts_with("Cases { sums: "), "{told}");
        assert!(told.contains("ReportLine { status: Unknown"), "{told}");
        assert!(!told.contains("user15"), "{told}");
    }

    fn first(cases: &Cases) -> ReportLine {
        cases.lines().next().unwrap()
    }

    /// A report as one line: `status rounds second: place end cause code, …; cause code`.
    fn shown(cases: &Cases) -> String {
        let line = first(cases);
        let or = |word: Option<String>| word.unwrap_or("-".to_owned());
        let ends: Vec<String> = line
            .results
            .into_iter()
            .map(|end| {
                let outcome = match end.outcome {
                    End::Deleted => 'd',
                    End::Gone => 'g',
                    End::DeadLettered => 'x',
                    End::Purged => 'p',
                };
                format!("{} {outcome} {} {}", end.index, or(end.cause), or(end.code))
            })
            .collect();
        let whole = match line.cause {
            None => String::new(),
            Some(cause) => format!("; {cause} {}", or(line.code)),
        };
        let second = line.closed_at.map(|at| at[17..19].to_owned());
        format!(
            "{} {} {}: {}{whole}",
            line.status.label(),
            line.rounds,
            or(second),
            ends.join(", ")
        )
    }

    /// All orders of a few things.
    fn orders<T: Clone>(things: &[T]) -> Vec<Vec<T>> {
        if things.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for at in 0..things.len() {
            let mut others = things.to_vec();
            let one = others.remove(at);
            for mut order in orders(&others) {
                order.push(one.clone());
                all.push(order);
            }
        }
        all
    }

    #[track_caller]
    fn check(groups: Groups, outcomes: &[&str], expect: &str) {
        let outcomes: Vec<Heard> = outcomes.iter().map(|words| told(words)).collect();
        for order in orders(&outcomes) {
            let mut cases = cases(groups);
            for outcome in order.iter().chain(&order) {
                assert_eq!(cases.take_in(outcome), Taken::Of(0));
            }
            assert_eq!(shown(&cases), expect);
            let mut sums = Sums::default();
            sums.add((first(&cases).status, false));
            assert_eq!(cases.sums(), sums);
        }
    }

    #[test]
    fn a_request_with_names_is_closed_when_each_place_has_an_end() {
        for (groups, outcomes, expect) in [
            (1, &[][..], "unknown 0 -: "),
            (1, &["a 0 5 0 1; 0 d - 0; "], "erased 1 05: 0 d - 0"),
            (2, &["a 0 5 1 2; 0 d - 0; "], "open 1 -: 0 d - 0"),
            (
                2,
                &["a 0 5 1 2; 0 d - 0; ", "b 0 9 0 2; 1 g - 51009; "],
                "erased 1 09: 0 d - 0, 1 g - 51009",
            ),
            // After a crash the last one alone was told; `remaining` 0 does not close it.
            (2, &["b 0 9 0 2; 1 g - 51009; "], "open 1 -: 1 g - 51009"),
            (
                2,
                &["a 0 5 0 2; 0 d - 0, 1 x rejected 51011; "],
                "mixed 1 05: 0 d - 0, 1 x rejected 51011",
            ),
            (
                2,
                &["a 0 5 0 2; 0 x rejected 51011, 1 x exhausted timeout; "],
                "failed 1 05: 0 x rejected 51011, 1 x exhausted timeout",
            ),
            // A repeated name: the places are further apart than their number says.
            (
                2,
                &["a 0 5 0 2; 0 d - 0, 2 d - 0; "],
                "erased 1 05: 0 d - 0, 2 d - 0",
            ),
            // Whoever counts more keeps it open.
            (1, &["a 0 5 1 2; 0 d - 0; "], "open 1 -: 0 d - 0"),
            (
                3,
                &["a 0 5 0 2; 0 d - 0, 1 d - 0; "],
                "open 1 -: 0 d - 0, 1 d - 0",
            ),
            // What can be no place fills none.
            (1, &["a 0 5 0 1; 100 d - 0; "], "open 1 -: "),
            (1, &["a 0 5 0 1; 65535 d - 0; "], "open 1 -: "),
            (1, &["a 0 5 0 0; ; "], "open 1 -: "),
        ] {
            check(Groups::Named(groups), outcomes, expect);
        }
    }

    #[test]
    fn of_two_ends_of_a_place_one_counts() {
        for (outcomes, expect) in [
            // The later time.
            (
                &[
                    "a 0 5 0 1; 0 x exhausted timeout; ",
                    "b 0 6 0 1; 0 x rejected 51011; ",
                ][..],
                "failed 1 06: 0 x rejected 51011",
            ),
            (
                &["a 0 5 0 1; 0 x rejected 51011; ", "b 0 6 0 1; 0 p - -; "],
                "purged 1 06: 0 p - -",
            ),
            (
                &["a 0 5 0 1; 0 d - 0; ", "b 0 6 0 1; 0 g - 51009; "],
                "erased 1 06: 0 g - 51009",
            ),
            // Within a round erased weighs more than time.
            (
                &["a 0 5 0 1; 0 d - 0; ", "b 0 6 0 1; 0 x rejected 51011; "],
                "erased 1 05: 0 d - 0",
            ),
            (
                &["a 0 5 0 1; 0 d - 0; ", "b 0 6 0 1; 0 p - -; "],
                "erased 1 05: 0 d - 0",
            ),
            // A round weighs more than both.
            (
                &["a 0 5 0 1; 0 x rejected 51011; ", "b 1 9 0 1; 0 d - 0; "],
                "erased 2 09: 0 d - 0",
            ),
            (
                &["a 0 5 0 1; 0 d - 0; ", "b 1 9 0 1; 0 x rejected 51011; "],
                "failed 2 09: 0 x rejected 51011",
            ),
            // The letter of a redrive that was cut short was removed later.
            (
                &["a 1 5 0 1; 0 d - 0; ", "b 0 9 0 1; 0 p - -; "],
                "erased 2 05: 0 d - 0",
            ),
            // A tie is settled whatever comes first.
            (
                &[
                    "a 0 5 0 1; 0 x rejected 51011; ",
                    "b 0 5 0 1; 0 x rejected 51012; ",
                ],
                "failed 1 05: 0 x rejected 51012",
            ),
        ] {
            check(Groups::Named(1), outcomes, expect);
        }
        check(
            Groups::Named(2),
            &[
                "a 0 5 0 2; 0 d - 0, 1 x rejected 51011; ",
                "b 1 9 0 2; 1 d - 0; ",
            ],
            "erased 2 09: 0 d - 0, 1 d - 0",
        );
    }

    #[test]
    fn expired_and_purged_are_said_where_nothing_else_happened() {
        for (outcome, expect) in [
            (
                "a 0 5 0 2; 0 x expired -, 1 x expired -; ",
                "expired 1 05: 0 x expired -, 1 x expired -",
            ),
            (
                "a 0 5 0 2; 0 p - -, 1 p - -; ",
                "purged 1 05: 0 p - -, 1 p - -",
            ),
            (
                "a 0 5 0 2; 0 d - 0, 1 x expired -; ",
                "mixed 1 05: 0 d - 0, 1 x expired -",
            ),
            (
                "a 0 5 0 2; 0 x rejected 1, 1 x expired -; ",
                "failed 1 05: 0 x rejected 1, 1 x expired -",
            ),
            (
                "a 0 5 0 2; 0 p - -, 1 x expired -; ",
                "failed 1 05: 0 p - -, 1 x expired -",
            ),
        ] {
            check(Groups::Named(2), &[outcome], expect);
        }
    }

    #[test]
    fn a_malformed_event_is_closed() {
        let malformed = "m 0 7 0 0; ; malformed";
        for (groups, outcomes, expect) in [
            (
                Groups::Named(2),
                &[malformed][..],
                "failed 1 07: ; malformed -",
            ),
            (Groups::Named(0), &[malformed], "failed 1 07: ; malformed -"),
            (Groups::All, &[malformed], "failed 1 07: ; malformed -"),
            // Some of its names were deleted before the daemon was told to read less.
            (
                Groups::Named(2),
                &["a 0 5 1 2; 0 d - 0; ", malformed],
                "mixed 1 07: 0 d - 0; malformed -",
            ),
            (
                Groups::All,
                &["a 0 5 1 2; 0 d - 0; ", malformed],
                "mixed 1 07: 0 d - 0; malformed -",
            ),
            // It was redriven, and read then.
            (
                Groups::Named(1),
                &[malformed, "a 1 9 0 1; 0 d - 0; "],
                "erased 2 09: 0 d - 0",
            ),
            (
                Groups::All,
                &[malformed, "a 1 9 0 1; 0 d - 0; "],
                "erased 2 09: 0 d - 0",
            ),
            // What was told before it is outweighed.
            (
                Groups::Named(1),
                &["a 0 5 0 1; 0 x rejected 51011; ", malformed],
                "failed 1 07: ; malformed -",
            ),
        ] {
            check(groups, outcomes, expect);
        }
    }

    #[test]
    fn all_groups_are_closed_by_the_outcome_with_which_nothing_remains() {
        for (outcomes, expect) in [
            (&["a 0 5 0 0; ; "][..], "erased 1 05: "),
            (&["a 0 5 1 2; 0 d - 0; "], "open 1 -: 0 d - 0"),
            (
                &["a 0 5 1 2; 0 d - 0; ", "b 0 9 0 1; 0 d - 0; "],
                "erased 1 09: 0 d - 0, 0 d - 0",
            ),
            (
                &["a 0 5 1 2; 0 d - 0; ", "b 0 9 0 1; 0 x rejected 51011; "],
                "mixed 1 09: 0 d - 0, 0 x rejected 51011",
            ),
            (
                &["b 0 9 0 1; 0 x rejected 51011; "],
                "failed 1 09: 0 x rejected 51011",
            ),
            (
                &["b 0 9 0 0; ; exhausted 50004"],
                "failed 1 09: ; exhausted 50004",
            ),
            (&["b 0 9 0 0; ; expired -"], "expired 1 09: ; expired -"),
            (&["b 0 9 0 0; ; purged -"], "purged 1 09: ; purged -"),
            (
                &["a 0 5 1 2; 0 d - 0; ", "b 0 9 0 0; ; exhausted 50004"],
                "mixed 1 09: 0 d - 0; exhausted 50004",
            ),
            // A later round, and within one the proof.
            (
                &["a 0 5 0 1; 0 x rejected 1; ", "b 1 9 0 0; ; "],
                "erased 2 09: ",
            ),
            (
                &["a 0 5 0 0; ; ", "b 0 9 0 0; ; exhausted 50004"],
                "erased 1 05: ",
            ),
            (
                &["a 0 5 0 0; ; ", "b 1 9 0 1; 0 x rejected 1; "],
                "failed 2 09: 0 x rejected 1",
            ),
            // Else the later time, whatever the ids are.
            (
                &[
                    "a 0 5 0 1; 0 x rejected 1; ",
                    "b 0 9 0 0; ; exhausted 50004",
                ],
                "failed 1 09: ; exhausted 50004",
            ),
            (
                &[
                    "b 0 5 0 1; 0 x rejected 1; ",
                    "a 0 9 0 0; ; exhausted 50004",
                ],
                "failed 1 09: ; exhausted 50004",
            ),
            // The same step, told again after a crash.
            (
                &["a 0 5 0 1; 0 d - 0; ", "a 0 9 0 1; 0 g - 51009; "],
                "erased 1 09: 0 g - 51009",
            ),
        ] {
            check(Groups::All, outcomes, expect);
        }
    }

    #[test]
    fn an_empty_list_is_told_and_counted_of_the_outcome_that_closes() {
        let verified = |words: &str| {
            let mut heard = told(words);
            heard.event.data.verified_at = Some("2026-12-01T00:00:04Z".to_owned());
            heard
        };
        let erased = "a 0 5 0 1; 0 d - 0; ";
        let failed = "b 1 9 0 1; ; rejected 50001";
        for (groups, outcomes, at, count) in [
            (Groups::All, vec![told(erased)], None, 0),
            (Groups::All, vec![verified(erased)], Some("04"), 1),
            (Groups::All, vec![verified("a 0 5 2 3; 0 d - 0; ")], None, 0),
            (Groups::All, vec![verified(erased), told(failed)], None, 0),
            // Names have no list.
            (Groups::Named(1), vec![verified(erased)], None, 0),
        ] {
            let mut cases = cases(groups);
            for outcome in &outcomes {
                cases.take_in(outcome);
            }
            let at = at.map(|second| format!("2026-12-01T00:00:{second}.000Z"));
            assert_eq!(first(&cases).verified_at, at, "{outcomes:?}");
            assert_eq!(cases.sums().verified(), count, "{outcomes:?}");
        }
    }

    #[test]
    fn the_line_of_a_request_is_that_of_its_manifest() {
        let mut cases = Cases::new();
        for (id, line) in [("a", None), ("b", NonZeroU32::new(17))] {
            cases.ask(&Asked::new(id, b"", None).in_line(line)).unwrap();
        }
        let lines: Vec<_> = cases.lines().map(|line| line.line).collect();
        assert_eq!(lines, [None, NonZeroU32::new(17)]);
    }

    #[test]
    fn only_answers_to_what_was_asked_are_taken_in() {
        let mut cases = Cases::new();
        cases.expect("req-0", Groups::Named(1)).unwrap();
        cases.expect("req-1", Groups::Named(1)).unwrap();
        assert_eq!(cases.expect("req-0", Groups::All), Err(0));
        let outcome = told("a 0 5 0 1; 0 d - 0; ");
        let mut other = outcome.clone();
        other.event.data.request.id = "req-2".to_owned();
        assert_eq!(cases.take_in(&other), Taken::Foreign);
        assert_eq!(cases.sums().of(Status::Unknown), 2);
        assert_eq!(cases.take_in(&outcome), Taken::Of(1));
        let sums = cases.sums();
        assert_eq!((sums.requested(), sums.erased(), sums.open()), (2, 1, 1));
        assert_eq!(cases.status(1), Status::Erased);
        let ids: Vec<String> = cases.lines().map(|line| line.id).collect();
        assert_eq!(ids, ["req-0", "req-1"]);
    }

    #[test]
    fn what_is_no_outcome_is_not_read() {
        let event = told("a 0 5 0 1; 0 d - 0; ").event;
        let read = |change: fn(&mut OutcomeEvent)| {
            let mut event = event.clone();
            change(&mut event);
            Heard::read(&event.to_json())
        };
        assert_eq!(read(|_| ()).unwrap().at_ms, 1_796_083_205_000);
        assert_eq!(read(|event| event.time = "yesterday".to_owned()), None);
        assert_eq!(read(|event| event.kind.push('2')), None);
        assert_eq!(Heard::read(b"{}"), None);
        assert_eq!(Heard::read(&[0xff]), None);
    }

    #[test]
    fn a_report_line_reads_back() {
        let mut cases = cases(Groups::Named(2));
        cases.take_in(&told("a 0 5 0 2; 0 d - 0, 1 x rejected 51011; "));
        let line = first(&cases).to_line();
        expect_test::expect![[r#"
            {"id":"req-1","status":"mixed","results":[{"index":0,"outcome":"deleted","code":"0"},{"index":1,"outcome":"dead_lettered","cause":"rejected","code":"51011"}],"rounds":1,"closed_at":"2026-12-01T00:00:05.000Z"}
        "#]].assert_eq(&line);
        assert_eq!(
            serde_json::from_str::<ReportLine>(&line).unwrap(),
            first(&cases)
        );
    }

    #[test]
    fn words_of_others_have_a_bound() {
        let mut words = Words::default();
        let long = "x".repeat(WORD_BYTES_MAX + 1);
        assert_eq!(words.word(Some(&long)), Some(Words::OTHER));
        for number in 0..2 * WORDS_MAX {
            words.word(Some(&number.to_string()));
        }
        assert_eq!(words.texts.len(), usize::from(WORDS_MAX));
        assert_eq!(words.text(words.by_text.get("17").copied()), "17");
        assert_eq!(words.text(Some(Words::PURGED)), PURGED);
        assert_eq!(words.word(Some("one more")), Some(Words::OTHER));
    }

    fn any_end() -> impl Strategy<Value = String> {
        (0..4_u8, "[dgxp]", "-|rejected|expired", "-|0|51011")
            .prop_map(|(place, end, cause, code)| format!("{place} {end} {cause} {code}"))
    }

    fn any_outcome() -> impl Strategy<Value = String> {
        let head = (0..6_u8, 0..3_u8, 0..4_u8, 0..2_u8, 0..4_u8);
        let ends = proptest::collection::vec(any_end(), 0..4);
        (head, ends, "- -|exhausted timeout|malformed|purged -").prop_map(
            |((id, round, second, remaining, groups), ends, rest)| {
                let ends = ends.join(", ");
                format!("{id} {round} {second} {remaining} {groups}; {ends}; {rest}")
            },
        )
    }

    proptest! {
        #[test]
        fn the_same_outcomes_make_the_same_case_in_any_order(
            outcomes in proptest::collection::vec(any_outcome(), 0..8),
            groups in prop_oneof![(0..4_u16).prop_map(Groups::Named), Just(Groups::All)],
            again in proptest::collection::vec(any::<Index>(), 0..8),
            seed in any::<u64>(),
        ) {
            let outcomes: Vec<Heard> = outcomes.iter().map(|words| told(words)).collect();
            let mut one = cases(groups);
            for outcome in &outcomes {
                one.take_in(outcome);
            }
            let mut repeated = outcomes.clone();
            if !outcomes.is_empty() {
                repeated.extend(again.iter().map(|at| at.get(&outcomes).clone()));
            }
            repeated.sort_by_cached_key(|outcome| {
                let mut hasher = DefaultHasher::new();
                (seed, outcome.event.to_json()).hash(&mut hasher);
                hasher.finish()
            });
            let mut other = cases(groups);
            for outcome in &repeated {
                other.take_in(outcome);
            }
            prop_assert_eq!(first(&one), first(&other));
            prop_assert_eq!(one.sums(), other.sums());
        }

        #[test]
        fn nothing_is_closed_with_a_place_untold(
            outcomes in proptest::collection::vec(any_outcome(), 0..8),
            groups in 1..4_u16,
        ) {
            let outcomes: Vec<Heard> = outcomes.iter().map(|words| told(words)).collect();
            let mut cases = cases(Groups::Named(groups));
            for outcome in &outcomes {
                cases.take_in(outcome);
            }
            let malformed = outcomes.iter().any(|outcome| outcome.event.data.status == Told::Malformed);
            let line = first(&cases);
            if line.status.is_closed() && !malformed {
                prop_assert!(line.results.len() >= usize::from(groups));
                for end in &line.results {
                    let is_told = |outcome: &Heard| {
                        outcome.event.data.results.iter().any(|told| told.index == usize::from(end.index))
                    };
                    prop_assert!(outcomes.iter().any(is_told));
                }
            }
            prop_assert_eq!(line.status == Status::Unknown, outcomes.is_empty());
        }
    }
}
