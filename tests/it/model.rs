//! A model broker and a model API play random histories to the real decisions: every name is always in exactly one place, and what the
//! ledger tells is so.
//!
//! Real are `decode`, `next_step`, `NameEnd`, `decide`, the bodies of its copies, `Request` and `Answer`. Modelled is what stands around them and can fail: queues
//! with redelivery, an API that answers anything, a probe, and sessions that break between any two steps of a settle. A publish
//! that is refused is a break before it; one whose confirm is lost is a break after it.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::LazyLock;

use convgroup_domain::attempt::Attempt;
use convgroup_domain::code::{Class, CodeTable};
use convgroup_domain::decide::{
    Cause, Decision, Destination, NameEnd, RetryLimits, Successor, decide, decide_malformed,
};
use convgroup_domain::message::{DeleteGroups, NamesLeft, decode};
use convgroup_domain::outcome::{Answer, OutcomeEvent, Told};
use convgroup_domain::reply::Reply;
use convgroup_domain::request::{Clues, Request};
use convgroup_domain::retry::{Step, Tries, next_step};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRng, TestRunner};

const LIMITS: RetryLimits = RetryLimits {
    attempts_max: 3,
    tiers: 2,
};
const QUICK_ATTEMPTS: u32 = 1;
const PREFETCH: usize = 4;
/// Events in a history at most. Each has a place of its own, so that leaving one out while shrinking renames no other.
const EVENTS_MAX: usize = 4;
const NOW_MS: i64 = 1_700_000_000_000;
/// Healthy moves after which every history must be at its end.
const MOVES_TO_END_MAX: usize = 200;

static CODES: LazyLock<CodeTable> = LazyLock::new(|| CodeTable::new(&BTreeMap::new()));

type Events = [Option<Event>; EVENTS_MAX];
type Checked = Result<(), TestCaseError>;

/// What is published.
#[derive(Clone, Debug)]
enum Event {
    /// These names of one of two users; events may name the same.
    Delete { user: u8, groups: Vec<char> },
    /// Can't be read.
    Malformed,
}

/// One move of a history.
#[derive(Clone, Debug)]
enum Move {
    /// The daemon takes a message in hand to its end: the first of this event.
    Work {
        which: usize,
        answers: Vec<ApiAnswer>,
        probe_is_healthy: bool,
        /// Others have found the API unreachable before this message is judged.
        suspended: bool,
        /// After so many steps (a publish for each successor, then the answer, then the ack) the session breaks.
        breaks_after: Option<usize>,
    },
    /// The oldest message of a delay queue has waited long enough.
    Expire { tier: usize },
    /// The session breaks, whoever's fault: all in hand comes back.
    Crash,
}

/// What the API does with a call; after the last of a list it is honest.
#[derive(Clone, Debug)]
enum ApiAnswer {
    Honest,
    /// Says this and deletes nothing.
    Says(Reply),
    /// Deletes, then says this.
    DeletesAndSays(Reply),
    /// Says this to every call for this name.
    KeepsSaying(Reply),
    /// The call does not leave.
    TurnedBack,
}

/// How the modelled daemon settles; all but the first are wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    AsDesigned,
    AcksFirst,
    AcksPassingFailures,
    CountsHandBacks,
    CarriesDoneNames,
    AnswersLast,
    AnswersFirst,
    LosesPlaces,
}

/// What the contract says of a name, from what the API and the probe have said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Done,
    Rejected,
    Malformed,
    /// A failure that counts.
    Counted,
    /// A failure that counts unless the API turns out to be unreachable.
    Passing,
    /// Queued again, at no cost.
    Free,
}

#[derive(Clone, Debug)]
struct Message {
    event: usize,
    body: Vec<u8>,
    /// The header, as the real code wrote it.
    attempt: Option<i64>,
    /// Counted failures, as the model counts them.
    failures: u32,
    /// The headers that tell the places of its names, as the real code wrote them.
    index: Option<String>,
    groups: Option<i64>,
}

/// A step of a settle.
enum Act {
    Publish(Destination, Message),
    Answer(Box<OutcomeEvent>),
    Ack,
}

impl Message {
    /// The request that it belongs to.
    fn request(&self) -> Request {
        let id = request_id(self.event);
        let clues = Clues {
            message_id: Some(&id),
            index: self.index.as_deref(),
            groups: self.groups,
            body: &self.body,
            ..Clues::default()
        };
        Request::read(&clues, decode(&self.body).ok().as_ref())
    }

    /// The names it carries, read without the code under test; the one nameless name of an event that can't be read.
    fn names(&self) -> BTreeSet<String> {
        let body: Result<serde_json::Value, _> = serde_json::from_slice(&self.body);
        let Ok(body) = body else {
            return BTreeSet::from([String::new()]);
        };
        let groups = body["GroupName"].as_array().expect("a list");
        let names = groups.iter().map(|name| name.as_str().expect("a string"));
        names.map(ToOwned::to_owned).collect()
    }
}

/// A name of an event, and in how many places it is.
#[derive(Clone, Copy, Debug, Default)]
struct Places {
    queued: usize,
    done: usize,
    dead: usize,
}

struct World {
    daemon: Daemon,
    events: Events,
    /// What exists at the API.
    groups: BTreeSet<(String, String)>,
    main: VecDeque<Message>,
    hand: Vec<Message>,
    tiers: Vec<VecDeque<Message>>,
    dead: Vec<(Cause, Message)>,
    done: Vec<(usize, String)>,
    /// The answers that the broker has confirmed.
    ledger: Vec<OutcomeEvent>,
    /// Names that a break between confirm and ack has doubled.
    doubled: Vec<(usize, String)>,
}

impl World {
    fn new(daemon: Daemon, events: &Events) -> Self {
        let users = ["user0", "user1"].into_iter();
        let groups = users.flat_map(|user| ["a", "b", "c"].map(|name| (user.into(), name.into())));
        let message = |(event, planted): (usize, &Option<Event>)| {
            Some(Message {
                event,
                body: body(planted.as_ref()?),
                attempt: None,
                failures: 0,
                index: None,
                groups: None,
            })
        };
        Self {
            daemon,
            events: events.clone(),
            groups: groups.collect(),
            main: events.iter().enumerate().filter_map(message).collect(),
            hand: Vec::new(),
            tiers: vec![VecDeque::new(); LIMITS.tiers],
            dead: Vec::new(),
            done: Vec::new(),
            ledger: Vec::new(),
            doubled: Vec::new(),
        }
    }

    fn play(&mut self, step: &Move) -> Checked {
        while self.hand.len() < PREFETCH
            && let Some(message) = self.main.pop_front()
        {
            self.hand.push(message);
        }
        match step {
            Move::Crash => self.crash(),
            Move::Expire { tier } => {
                let expired = self.tiers[tier % LIMITS.tiers].pop_front();
                self.main.extend(expired);
            }
            Move::Work { which, .. } => {
                let of_event = |message: &Message| message.event == *which;
                if let Some(which) = self.hand.iter().position(of_event) {
                    let message = self.hand.remove(which);
                    self.work(message, step)?;
                }
            }
        }
        self.check()
    }

    fn crash(&mut self) {
        for message in self.hand.drain(..).rev() {
            self.main.push_front(message);
        }
    }

    fn work(&mut self, message: Message, step: &Move) -> Checked {
        let Move::Work { breaks_after, .. } = step else {
            return Ok(());
        };
        let (decision, answer, fates) = self.judge(&message, step);
        Self::check_decision(&message, &decision, &fates)?;
        match decision {
            Decision::HandBack => {
                self.main.push_front(message);
                if breaks_after.is_some() {
                    self.crash();
                }
            }
            Decision::Ack(successors) => {
                let copies = successors.iter();
                let copies = copies.map(|successor| self.copy(&message, successor, &fates));
                let copies = copies.collect::<Result<Vec<_>, _>>()?;
                let acts = self.acts(&message, copies, answer.as_ref());
                self.settle(message, acts, *breaks_after);
            }
        }
        Ok(())
    }

    /// What the worker does between a delivery and its settling.
    fn judge(
        &mut self,
        message: &Message,
        step: &Move,
    ) -> (Decision, Option<Answer>, BTreeMap<String, Fate>) {
        let Move::Work {
            answers,
            probe_is_healthy,
            suspended,
            ..
        } = step
        else {
            unreachable!("only work is judged");
        };
        let attempt = attempt(message);
        let event = match decode(&message.body) {
            Ok(event) => event,
            Err(malformed) => {
                let fates = BTreeMap::from([(String::new(), Fate::Malformed)]);
                let decision = decide_malformed(&malformed, attempt).decision;
                return (decision, Some(Answer::malformed()), fates);
            }
        };
        let (mut answers, mut suspended) = (answers.iter(), *suspended);
        let (mut ends, mut fates) = (Vec::new(), BTreeMap::new());
        for group in event.names() {
            let (end, fate) = match ends.last() {
                Some(NameEnd::Interrupted) => (NameEnd::Interrupted, Fate::Free),
                _ => self.delete(event.user(), group, &mut answers, *probe_is_healthy),
            };
            suspended |= !probe_is_healthy && end == NameEnd::Interrupted;
            fates.insert(group.clone(), fate);
            ends.push(end);
        }
        let passing = ends.iter().any(|end| end.passing_failure().is_some());
        suspended |= passing && LIMITS.is_last(attempt) && !probe_is_healthy;
        if passing && suspended {
            ends = ends.into_iter().map(NameEnd::excused).collect();
        }
        for fate in fates.values_mut() {
            match fate {
                Fate::Passing if suspended => *fate = Fate::Free,
                Fate::Passing => *fate = Fate::Counted,
                _ => {}
            }
        }
        let decided = decide(&event, &ends, attempt, LIMITS);
        let answer = Answer::of(&ends, &decided);
        let decision = self.sabotaged(decided.decision, &event, &ends, attempt);
        (decision, answer, fates)
    }

    /// The decision of a daemon that is wrong on purpose.
    fn sabotaged(
        &self,
        decision: Decision,
        event: &DeleteGroups,
        ends: &[NameEnd],
        attempt: Attempt,
    ) -> Decision {
        match (self.daemon, decision) {
            (Daemon::AcksPassingFailures, _) => {
                let acked = |end: &NameEnd| match end.passing_failure() {
                    Some(verdict) => NameEnd::Gone(verdict.clone()),
                    None => end.clone(),
                };
                let ends: Vec<NameEnd> = ends.iter().map(acked).collect();
                decide(event, &ends, attempt, LIMITS).decision
            }
            (Daemon::CountsHandBacks, Decision::HandBack) => Decision::Ack(vec![Successor {
                to: Destination::Tier(0),
                left: Some(event.all_left()),
                places: (0..event.names().len()).collect(),
                attempt: attempt.failed_again(),
                verdict: None,
                info: String::new(),
            }]),
            (Daemon::CarriesDoneNames, Decision::Ack(mut successors)) => {
                for successor in &mut successors {
                    successor.left = Some(event.all_left());
                }
                Decision::Ack(successors)
            }
            (_, decision) => decision,
        }
    }

    /// Calls until the name has reached an end.
    fn delete<'a>(
        &mut self,
        user: &str,
        group: &str,
        answers: &mut impl Iterator<Item = &'a ApiAnswer>,
        probe_is_healthy: bool,
    ) -> (NameEnd, Fate) {
        let key = (user.to_owned(), group.to_owned());
        let (mut tries, mut kept) = (Tries::default(), None);
        loop {
            let answer = kept.or_else(|| answers.next());
            let reply = match answer.unwrap_or(&ApiAnswer::Honest) {
                ApiAnswer::TurnedBack => return (NameEnd::Interrupted, Fate::Free),
                ApiAnswer::Honest if self.groups.remove(&key) => code(0),
                ApiAnswer::Honest => code(51009),
                ApiAnswer::Says(reply) => reply.clone(),
                ApiAnswer::KeepsSaying(reply) => {
                    kept = answer;
                    reply.clone()
                }
                ApiAnswer::DeletesAndSays(reply) => {
                    self.groups.remove(&key);
                    reply.clone()
                }
            };
            let reset = reply == Reply::Reset;
            let verdict = CODES.classify(reply);
            let class = verdict.class();
            let step = next_step(class, reset, tries, QUICK_ATTEMPTS);
            tries = tries.after(step);
            match step {
                Step::End => return (NameEnd::of(verdict), fate(class)),
                Step::AskProbe if probe_is_healthy => {
                    return (NameEnd::after_probe(verdict, true), Fate::Counted);
                }
                Step::AskProbe => return (NameEnd::after_probe(verdict, false), Fate::Free),
                Step::Repeat | Step::Retry | Step::SlowDown | Step::SignAnew => {}
            }
        }
    }

    /// Every name goes where the contract sends it.
    fn check_decision(
        message: &Message,
        decision: &Decision,
        fates: &BTreeMap<String, Fate>,
    ) -> Checked {
        let last = message.failures + 1 >= LIMITS.attempts_max;
        for (name, fate) in fates {
            let wanted = match fate {
                Fate::Done => "done".to_owned(),
                Fate::Rejected => format!("{:?}", Cause::Rejected),
                Fate::Malformed => format!("{:?}", Cause::Malformed),
                Fate::Counted if last => format!("{:?}", Cause::Exhausted),
                Fate::Counted | Fate::Passing | Fate::Free => "queued".to_owned(),
            };
            let found: Vec<String> = match decision {
                Decision::HandBack => vec!["queued".to_owned()],
                Decision::Ack(successors) => successors
                    .iter()
                    .filter(|it| {
                        let left = it.left.as_ref();
                        left.is_none_or(|left| left.names().contains(name))
                    })
                    .map(|it| match it.to {
                        Destination::Tier(_) => "queued".to_owned(),
                        Destination::Dead(cause) => format!("{cause:?}"),
                    })
                    .collect(),
            };
            let found = if found.is_empty() {
                "done".to_owned()
            } else {
                found.join(" and ")
            };
            prop_assert_eq!(found, wanted, "{:?} of event {}", name, message.event);
        }
        Ok(())
    }

    /// The successor as the broker will hold it. What it says of its attempts is what the model has counted.
    fn copy(
        &self,
        message: &Message,
        successor: &Successor,
        fates: &BTreeMap<String, Fate>,
    ) -> Result<(Destination, Message), TestCaseError> {
        let rewritten = successor.left.as_ref().and_then(NamesLeft::rewritten);
        let request = message.request();
        let index = request.index(&successor.places);
        let index = index.filter(|_| self.daemon != Daemon::LosesPlaces);
        let copy = Message {
            body: rewritten.unwrap_or_else(|| message.body.clone()),
            attempt: Some(i64::from(successor.attempt.failures)),
            groups: index
                .as_ref()
                .map(|_| i64::try_from(request.groups).unwrap()),
            index,
            ..message.clone()
        };
        let counted = copy.names().iter().any(|name| fates[name] == Fate::Counted);
        let failures = message.failures + u32::from(counted);
        prop_assert_eq!(
            successor.attempt.failures,
            failures,
            "the attempts of event {}",
            message.event
        );
        let max = LIMITS.attempts_max;
        match successor.to {
            Destination::Tier(_) => prop_assert!(failures < max, "delayed after the last attempt"),
            Destination::Dead(Cause::Exhausted) => prop_assert_eq!(failures, max),
            Destination::Dead(_) => prop_assert!(failures < max),
        }
        match &self.events[message.event] {
            None | Some(Event::Malformed) => {
                prop_assert_eq!(&copy.body, &message.body, "byte for byte");
            }
            Some(Event::Delete { user, .. }) => {
                let kept = format!(r#"{{"x":1.50,"From_Account":"user{user}","GroupName":["#);
                prop_assert!(copy.body.starts_with(kept.as_bytes()));
            }
        }
        Ok((successor.to, Message { failures, ..copy }))
    }

    /// The steps of a settle, in the order of this daemon.
    fn acts(
        &self,
        message: &Message,
        copies: Vec<(Destination, Message)>,
        answer: Option<&Answer>,
    ) -> Vec<Act> {
        let told = |answer| {
            let request = message.request();
            OutcomeEvent::new(
                answer,
                Told {
                    request: &request,
                    attempt: attempt(message),
                    published_ms: None,
                    sdk_app_id: 1,
                    now_ms: NOW_MS,
                    ids: None,
                },
            )
        };
        let answer = answer.map(|answer| Act::Answer(Box::new(told(answer))));
        let copies = copies.into_iter().map(|(to, copy)| Act::Publish(to, copy));
        match self.daemon {
            Daemon::AcksFirst => [Act::Ack].into_iter().chain(copies).chain(answer).collect(),
            Daemon::AnswersLast => copies.chain([Act::Ack]).chain(answer).collect(),
            Daemon::AnswersFirst => answer.into_iter().chain(copies).chain([Act::Ack]).collect(),
            _ => copies.chain(answer).chain([Act::Ack]).collect(),
        }
    }

    /// Publishes, answers, then acks, unless the session breaks between two steps.
    fn settle(&mut self, message: Message, acts: Vec<Act>, breaks_after: Option<usize>) {
        let steps = breaks_after.unwrap_or(usize::MAX);
        let acked = acts.iter().take(steps).any(|act| matches!(act, Act::Ack));
        let carried: BTreeSet<String> = acts
            .iter()
            .filter_map(|act| match act {
                Act::Publish(_, copy) => Some(copy.names()),
                Act::Answer(_) | Act::Ack => None,
            })
            .flatten()
            .collect();
        for act in acts.into_iter().take(steps) {
            match act {
                Act::Ack => {}
                Act::Answer(told) => self.ledger.push(*told),
                Act::Publish(to, copy) => {
                    if !acked {
                        let names = copy.names().into_iter();
                        self.doubled.extend(names.map(|name| (copy.event, name)));
                    }
                    match to {
                        Destination::Tier(tier) => self.tiers[tier].push_back(copy),
                        Destination::Dead(cause) => self.dead.push((cause, copy)),
                    }
                }
            }
        }
        if acked {
            let names = message.names().into_iter();
            let done = names.filter(|name| !carried.contains(name));
            self.done.extend(done.map(|name| (message.event, name)));
        } else {
            self.hand.insert(0, message);
        }
        if breaks_after.is_some() {
            self.crash();
        }
    }

    fn places(&self, event: usize, name: &str) -> Places {
        let carries = |message: &&Message| message.event == event && message.names().contains(name);
        let queued = self
            .main
            .iter()
            .chain(&self.hand)
            .chain(self.tiers.iter().flatten());
        let dead = self.dead.iter().map(|(_, message)| message);
        let done = self.done.iter();
        Places {
            queued: queued.filter(carries).count(),
            dead: dead.filter(carries).count(),
            done: done.filter(|(e, n)| *e == event && n == name).count(),
        }
    }

    /// Conservation: each name of each event is in exactly one place, and in one more for each break that doubled it.
    fn check(&self) -> Checked {
        for (number, event) in self.events.iter().enumerate() {
            let Some(event) = event else { continue };
            for name in names(event) {
                let Places { queued, done, dead } = self.places(number, &name);
                let doubled = self
                    .doubled
                    .iter()
                    .filter(|(e, n)| *e == number && *n == name)
                    .count();
                prop_assert_eq!(
                    queued + done + dead,
                    1 + doubled,
                    "{:?} of event {}: queued {}, done {}, dead {}",
                    name,
                    number,
                    queued,
                    done,
                    dead
                );
                if let Event::Delete { user, .. } = event {
                    let exists = self.groups.contains(&(format!("user{user}"), name.clone()));
                    prop_assert!(done == 0 || !exists, "{name} is taken for done, and is not");
                }
            }
            self.check_told(number, event)?;
        }
        Ok(())
    }

    /// What the ledger tells of an event is so: what is told to be erased does not exist, and what is told to be dead is a dead letter.
    fn check_told(&self, number: usize, event: &Event) -> Checked {
        for (name, ends) in self.told(number, event) {
            let Places { dead, .. } = self.places(number, &name);
            for end in ends {
                let exists = match event {
                    Event::Delete { user, .. } => {
                        self.groups.contains(&(format!("user{user}"), name.clone()))
                    }
                    Event::Malformed => false,
                };
                let is_so = if end == "erased" { !exists } else { dead > 0 };
                prop_assert!(
                    is_so,
                    "{name:?} of event {number} is told {end}, and is not"
                );
            }
        }
        Ok(())
    }

    /// What the ledger tells of each name of an event; the nameless one of an event that can't be read is told once.
    fn told(&self, number: usize, event: &Event) -> BTreeMap<String, Vec<&'static str>> {
        let mut told: BTreeMap<String, Vec<&'static str>> = names(event)
            .into_iter()
            .map(|name| (name, Vec::new()))
            .collect();
        let id = request_id(number);
        for outcome in self.ledger.iter().filter(|it| it.data.request.id == id) {
            if let Event::Malformed = event {
                told.entry(String::new()).or_default().push("malformed");
            }
            for result in &outcome.data.results {
                let Event::Delete { groups, .. } = event else {
                    continue;
                };
                let end = if result.outcome.is_erased() {
                    "erased"
                } else {
                    "dead"
                };
                let name = groups.get(result.index).map(ToString::to_string);
                told.entry(name.unwrap_or_default()).or_default().push(end);
            }
        }
        told
    }

    /// At the end each name is told, and one that is done is told to be erased.
    fn check_answered(&self) -> Checked {
        for (number, event) in self.events.iter().enumerate() {
            let Some(event) = event else { continue };
            for (name, ends) in self.told(number, event) {
                prop_assert!(
                    !ends.is_empty(),
                    "{name:?} of event {number} is not answered"
                );
                let Places { done, dead, .. } = self.places(number, &name);
                prop_assert!(
                    done == 0 || ends.contains(&"erased"),
                    "{name:?} is done, and not told"
                );
                prop_assert!(dead == 0 || done > 0 || ends.iter().any(|end| *end != "erased"));
            }
        }
        Ok(())
    }

    /// With everything healthy again, everything comes to its end.
    fn finish(&mut self) -> Checked {
        for turn in 0..MOVES_TO_END_MAX {
            if self.main.is_empty()
                && self.hand.is_empty()
                && self.tiers.iter().all(VecDeque::is_empty)
            {
                return self.check_answered();
            }
            self.play(&Move::Expire { tier: turn })?;
            self.play(&healthy_work(turn % EVENTS_MAX))?;
        }
        Err(TestCaseError::fail("it goes on for ever"))
    }
}

fn request_id(event: usize) -> String {
    format!("event{event}")
}

fn attempt(message: &Message) -> Attempt {
    Attempt::read(message.attempt, None, NOW_MS)
}

fn fate(class: Class) -> Fate {
    match class {
        Class::Deleted | Class::Gone => Fate::Done,
        Class::Rejected => Fate::Rejected,
        Class::Transient => Fate::Passing,
        Class::Throttled => Fate::Free,
        Class::Signature | Class::Account | Class::Unknown => Fate::Counted,
    }
}

fn names(event: &Event) -> BTreeSet<String> {
    match event {
        Event::Delete { groups, .. } => groups.iter().map(ToString::to_string).collect(),
        Event::Malformed => BTreeSet::from([String::new()]),
    }
}

fn body(event: &Event) -> Vec<u8> {
    match event {
        Event::Delete { user, groups } => {
            let groups: Vec<String> = groups.iter().map(|name| format!("\"{name}\"")).collect();
            let groups = groups.join(",");
            format!(r#"{{"x":1.50,"From_Account":"user{user}","GroupName":[{groups}]}}"#).into()
        }
        Event::Malformed => b"no event".to_vec(),
    }
}

fn code(code: i64) -> Reply {
    Reply::Answer {
        code,
        info: "text".to_owned(),
    }
}

fn healthy_work(which: usize) -> Move {
    Move::Work {
        which,
        answers: Vec::new(),
        probe_is_healthy: true,
        suspended: false,
        breaks_after: None,
    }
}

fn a_few_events() -> impl Strategy<Value = Events> {
    let names = prop::sample::select(vec!['a', 'b', 'c']);
    let delete = (0..2_u8, vec(names, 1..5));
    let delete = delete.prop_map(|(user, groups)| Event::Delete { user, groups });
    let event = prop_oneof![6 => delete, 1 => Just(Event::Malformed)];
    prop::array::uniform4(prop::option::weighted(0.8, event))
}

fn an_answer() -> impl Strategy<Value = ApiAnswer> {
    let passing = || {
        prop::sample::select(vec![
            code(50004),
            Reply::HttpStatus(502),
            Reply::Timeout,
            Reply::Reset,
            Reply::BadBody("no JSON"),
        ])
    };
    let other = [51011, 50001, 60007, 70001, 70009, 60020, 60002, 99999].map(code);
    let other = [
        other.as_slice(),
        &[Reply::HttpStatus(429), Reply::Connect("refused".to_owned())],
    ]
    .concat();
    let other = prop::sample::select(other);
    prop_oneof![
        2 => Just(ApiAnswer::Honest),
        3 => passing().prop_map(ApiAnswer::Says),
        2 => other.clone().prop_map(ApiAnswer::Says),
        2 => passing().prop_map(ApiAnswer::DeletesAndSays),
        1 => passing().prop_map(ApiAnswer::KeepsSaying),
        2 => other.prop_map(ApiAnswer::KeepsSaying),
        1 => Just(ApiAnswer::TurnedBack),
    ]
}

fn a_history() -> impl Strategy<Value = Vec<Move>> {
    let breaks_after = prop::option::weighted(0.3, 0..5_usize);
    let work = (
        0..EVENTS_MAX,
        vec(an_answer(), 0..8),
        any::<bool>(),
        any::<bool>(),
        breaks_after,
    );
    let work = work.prop_map(
        |(which, answers, probe_is_healthy, suspended, breaks_after)| Move::Work {
            which,
            answers,
            probe_is_healthy,
            suspended,
            breaks_after,
        },
    );
    let expire = (0..LIMITS.tiers).prop_map(|tier| Move::Expire { tier });
    vec(
        prop_oneof![6 => work, 3 => expire, 1 => Just(Move::Crash)],
        0..40,
    )
}

fn play(daemon: Daemon, events: &Events, history: &[Move]) -> Checked {
    let mut world = World::new(daemon, events);
    world.check()?;
    for step in history {
        world.play(step)?;
    }
    world.finish()
}

proptest! {
    #![proptest_config(Config { cases: 1000, ..Config::default() })]

    #[test]
    fn every_name_is_always_in_exactly_one_place(history in a_history(), events in a_few_events()) {
        play(Daemon::AsDesigned, &events, &history)?;
    }
}

/// The model is no decoration: it finds a daemon that is wrong, and tells the shortest history: one event, one move.
#[track_caller]
fn check_found_out(daemon: Daemon, expect: &str) {
    let config = Config {
        cases: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    // The same numbers each time: how far a failure shrinks depends on where it began.
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let result = runner.run(&(a_history(), a_few_events()), |(history, events)| {
        play(daemon, &events, &history)
    });
    let Err(TestError::Fail(reason, (history, events))) = result else {
        panic!("{daemon:?} was not found out: {result:?}");
    };
    let reason = reason.message();
    assert!(reason.contains(expect), "{daemon:?}: {reason}");
    assert!(
        history.len() == 1 && events.iter().flatten().count() == 1,
        "{daemon:?}: {events:?} {history:#?}"
    );
}

#[test]
fn wrong_daemons_are_found_out() {
    check_found_out(Daemon::AcksFirst, "of event");
    check_found_out(Daemon::AcksPassingFailures, "left: `\"done\"`");
    check_found_out(Daemon::CountsHandBacks, "the attempts of event");
    check_found_out(Daemon::CarriesDoneNames, "of event");
    check_found_out(Daemon::AnswersLast, "is not answered");
    check_found_out(Daemon::AnswersFirst, "and is not");
    check_found_out(Daemon::LosesPlaces, "of event");
}
