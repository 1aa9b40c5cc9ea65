//! SIGKILL at every step on the way of a message; started again, the books balance.
//!
//! Each point is tried twice: with one message in hand, where it is known what a crash may repeat and what not, and with all of
//! them in hand, as in real life.
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use convgroup_host::failpoint::Point;
use im_sandbox::{CallRecord, Fault, Rule};

use crate::ledger::Books;
use crate::world::{World, event};
use convgroup_testkit::PATIENCE;
use convgroup_testkit::broker::persistent;

/// Events of each kind; there are seven kinds.
const EACH: usize = 6;
const KINDS: usize = 7;
/// Every user's group of this name is answered with 51011.
const BAD: &str = "bad";
const REJECTED: &str = "rejected 51011";

/// An event and what has to become of it.
struct Planted {
    id: String,
    user: String,
    body: Vec<u8>,
    deleted: Vec<&'static str>,
    dead: Option<DeadLetter>,
    /// Answered with 50004 once.
    flaky: Option<&'static str>,
    /// What the requester has to be told of each name, by its place; nothing of one that can't be read, or that means all groups.
    told: Vec<&'static str>,
}

/// What identifies a dead letter: id, cause, code, body.
type DeadLetter = (String, &'static str, Option<&'static str>, Vec<u8>);

impl Planted {
    fn new(number: usize) -> Self {
        let (id, user) = (format!("m-{number}"), format!("user{number}"));
        let named = |groups: &[&str]| event(&user, groups).into_bytes();
        let rejected = || Some((id.clone(), "rejected", Some("51011"), named(&[BAD])));
        let (body, deleted, flaky, dead, told) = match number % KINDS {
            0 => {
                let there = vec!["a", "b"];
                (named(&there), there, None, None, vec!["erased"; 2])
            }
            1 => {
                let there = vec!["flaky"];
                (named(&there), there, Some("flaky"), None, vec!["erased"])
            }
            2 => {
                let body = named(&["good", "flaky", BAD]);
                let there = vec!["good", "flaky"];
                let told = vec!["erased", "erased", REJECTED];
                (body, there, Some("flaky"), rejected(), told)
            }
            3 => (named(&[BAD]), vec![], None, rejected(), vec![REJECTED]),
            4 => {
                let body = format!("no event {number}").into_bytes();
                let dead = (id.clone(), "malformed", None, body.clone());
                (body, vec![], None, Some(dead), vec![])
            }
            5 => {
                let body = format!(r#"{{"From_Account":"{user}","AllGroups":true}}"#);
                (
                    body.into_bytes(),
                    vec!["a", "flaky"],
                    Some("flaky"),
                    None,
                    vec![],
                )
            }
            _ => (named(&["gone"]), vec![], None, None, vec!["erased"]),
        };
        Self {
            id,
            user,
            body,
            deleted,
            dead,
            flaky,
            told,
        }
    }

    /// The requester knows how its request ended, and nothing else was told.
    #[track_caller]
    fn check_told(&self, books: &Books) {
        let case = books.case(&self.id);
        assert!(case.is_closed(), "{} is open: {case:?}", self.id);
        let malformed = self.dead.as_ref().is_some_and(|dead| dead.1 == "malformed");
        assert_eq!(case.last().status == "malformed", malformed);
        if !self.told.is_empty() {
            books.check(&self.id, &self.told);
        }
    }

    async fn plant(&self, world: &World) {
        world.user(&self.user, &self.deleted);
        if let Some(group) = self.flaky {
            let once = Rule::new(Fault::code(50004)).times(1);
            world.sandbox.add_fault(once.user(&self.user).group(group));
        }
        let properties = persistent().with_message_id(self.id.as_str().into());
        world.publish_raw(&self.body, properties).await;
    }
}

/// Kills the daemon when it reaches the point for the `nth` time, starts another, and lets it finish. Returns how many dead
/// letters there are beyond one of each.
async fn killed_at(point: Point, nth: u32, prefetch: u16) -> usize {
    let world = World::new()
        .await
        .answering()
        .set("CONVGROUP_AMQP__PREFETCH", prefetch)
        .set("CONVGROUP_RETRY__QUICK_ATTEMPTS", 0)
        .set("CONVGROUP_RETRY__TIERS", "100ms")
        .set("CONVGROUP_SUSPEND__WINDOW", 10_000);
    let doomed = world.config.clone();
    let mut doomed = doomed
        .set("TEST_FAILPOINT", format!("{}=kill:{nth}", point.name()))
        .spawn();
    doomed.ready(PATIENCE).await;
    world
        .sandbox
        .add_fault(Rule::new(Fault::code(51011)).group(BAD));
    let planted: Vec<Planted> = (0..EACH * KINDS).map(Planted::new).collect();
    for event in &planted {
        event.plant(&world).await;
    }
    doomed.exits_with(-9, PATIENCE).await;
    let survivor = world.daemon().await;
    let wanted = planted.iter().filter(|event| event.dead.is_some()).count();
    world
        .drained(&survivor, PATIENCE, || {
            let left = planted.iter().find(|event| !is_empty(&world, event));
            left.map_or(Ok(()), |event| Err(format!("{} is left", event.user)))
        })
        .await;
    let calls = world.sandbox.calls();
    let books = Books::of(&world).await;
    assert_eq!(books.0.len(), planted.len());
    for event in &planted {
        check_calls(event, &calls, prefetch);
        event.check_told(&books);
    }
    let found = world.broker.depth(&world.config.dead_queue()).await as usize;
    assert!(found >= wanted, "{found} dead letters of {wanted}");
    check_dead_letters(&world, &planted, found).await;
    world.nothing_is_left(&survivor).await;
    found - wanted
}

fn is_empty(world: &World, event: &Planted) -> bool {
    world
        .sandbox
        .groups(&event.user)
        .is_some_and(|left| left.is_empty())
}

/// Each name was deleted once; what a crash repeats finds it gone; one message in hand means one message repeated.
#[track_caller]
fn check_calls(event: &Planted, calls: &[CallRecord], prefetch: u16) {
    for group in &event.deleted {
        let of_name = calls.iter().filter(|call| {
            call.user.as_ref() == Some(&event.user) && call.group.as_deref() == Some(group)
        });
        let codes: Vec<i64> = of_name.clone().filter_map(|call| call.code).collect();
        let deleted = of_name.filter(|call| call.deleted).count();
        assert_eq!(deleted, 1, "{} {group}: {codes:?}", event.id);
        let honest = |code: &i64| matches!(code, 0 | 50004 | 51009);
        assert!(codes.iter().all(honest), "{} {group}: {codes:?}", event.id);
        let once = 1 + usize::from(event.flaky == Some(group));
        assert!(
            codes.len() <= once + usize::from(prefetch.min(2)),
            "{codes:?}"
        );
    }
}

/// Every dead letter that has to be there is, at most twice, and no other.
async fn check_dead_letters(world: &World, planted: &[Planted], found: usize) {
    let mut copies: BTreeMap<_, usize> = planted
        .iter()
        .filter_map(|event| Some((event.dead.clone()?, 0)))
        .map(|((id, cause, code, body), count)| {
            (
                (id, cause.to_owned(), code.map(ToOwned::to_owned), body),
                count,
            )
        })
        .collect();
    for dead in world.dead(found).await {
        let id = dead.properties.message_id().as_ref();
        let key = (
            id.map(ToString::to_string).unwrap_or_default(),
            dead.header_text("convgroup-cause").unwrap_or_default(),
            dead.header_text("convgroup-code"),
            dead.body.clone(),
        );
        let count = copies
            .get_mut(&key)
            .unwrap_or_else(|| panic!("innocent: {key:?} {}", dead.text()));
        *count += 1;
    }
    for (key, count) in copies {
        assert!((1..=2).contains(&count), "{count} copies of {key:?}");
    }
}

/// `repeated`: how many dead letters a crash here repeats while one message is in hand.
async fn check(point: Point, nth: u32, repeated: RangeInclusive<usize>) {
    let (one_in_hand, _) = tokio::join!(killed_at(point, nth, 1), killed_at(point, nth + 2, 256));
    assert!(
        repeated.contains(&one_in_hand),
        "{point:?}: {one_in_hand} dead letters were repeated"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_a_call_the_books_balance() {
    check(Point::BeforeCall, 7, 0..=0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_call_the_books_balance() {
    check(Point::AfterCall, 7, 0..=0).await;
}

/// The second delayed copy is that of an event whose dead letter is there already.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_delayed_copy_the_books_balance() {
    check(Point::AfterDelay, 2, 1..=1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_a_dead_letter_the_books_balance() {
    check(Point::AfterDeadLetter, 2, 1..=1).await;
}

/// The message comes back; its dead letter is there already.
#[tokio::test(flavor = "multi_thread")]
async fn killed_before_an_answer_the_books_balance() {
    check(Point::BeforeAnswer, 4, 0..=1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_an_answer_the_books_balance() {
    check(Point::AfterAnswer, 4, 0..=1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_before_an_ack_the_books_balance() {
    check(Point::BeforeAck, 4, 0..=1).await;
}

/// On its way is not there: an ack may die with the process, or with the connection that the death resets.
#[tokio::test(flavor = "multi_thread")]
async fn killed_after_an_ack_the_books_balance() {
    check(Point::AfterAck, 4, 0..=1).await;
}
