//! Made-up pages that are worth a look, and what has to hold of each. With `CONVGROUP_PAGES` set to a folder, the tests write them there.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "made-up figures need not be exact"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::Identity;
use super::hour::{Buckets, Hour, made_up};
use super::page::tests::view;
use super::page::{Depths, View, page};
use super::recent::{Answer, Lately};
use crate::state::State;
use convgroup_broker::events;
use convgroup_domain::code::Class;
use convgroup_domain::decide::Outcome;

/// An hour on a bad day: backlogs that come and go, a cut pace, every class of answer, a broker that was away.
fn bad_day() -> Hour {
    let noise = |index: u32| {
        let mixed = (index + 1).wrapping_mul(2_654_435_761);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
        f64::from((mixed ^ (mixed >> 13)) & 0xffff) / 65_536.0
    };
    made_up::hour(360, |index, mut sample| {
        let turn = f64::from(index) / 60.0;
        let pace = 1550.0 + 250.0 * turn.sin() + 90.0 * noise(index);
        let pace = if (200..230).contains(&index) {
            pace / 4.0
        } else {
            pace
        };
        for (class, share) in [0.7, 0.16, 0.05, 0.03, 0.02, 0.01, 0.01, 0.02]
            .into_iter()
            .enumerate()
        {
            let wave = 0.9 + 0.2 * noise(index * 8 + u32::try_from(class).unwrap());
            sample.calls[class] = (pace * share * wave) as u32;
        }
        let calls = sample.calls.iter().sum::<u32>();
        sample.latency.within[4] = calls * 3 / 4;
        sample.latency.within[5] = calls / 5;
        sample.latency.within[7 + (noise(index) * 5.0) as usize] = calls / 50;
        sample.age.within[4 + index as usize % 60 / 6] = calls;
        let main = (24_000.0 * (1.0 + (turn * 1.3).cos()) + 900.0 * noise(index)) as u32;
        let is_seen = !(120..132).contains(&index);
        sample.depths = is_seen.then_some(events::Depths {
            main,
            retry: 4000 + index * 9,
            dead: 210 + index / 30,
        });
        sample
    })
}

/// A day on which little happens.
fn calm_day() -> Hour {
    made_up::hour(360, |index, mut sample| {
        sample.calls[0] = u32::from(index % 9 == 0) * 3 + 40;
        sample.calls[1] = u32::from(index % 13 == 0);
        sample.latency.within[4] = 40;
        sample.latency.within[5] = 2;
        sample.age.within[3] = 40;
        sample.age.within[5] = u32::from(index % 40 == 0);
        sample.depths = Some(events::Depths {
            main: u32::from(index % 17 == 0) * 2,
            retry: 0,
            dead: 0,
        });
        sample
    })
}

fn lately() -> Lately {
    let answer = |label: &str, class, meaning: &str| Answer {
        label: label.to_owned(),
        class,
        meaning: meaning.to_owned(),
    };
    Lately {
        span: Duration::from_mins(5),
        answers: vec![
            (answer("0", Class::Deleted, "the group was deleted"), 31_474),
            (
                answer(
                    "51009",
                    Class::Gone,
                    "the conversation group does not exist (any more)",
                ),
                5_762,
            ),
            (
                answer("50004", Class::Transient, "internal server error"),
                150,
            ),
        ],
        settled: vec![
            (Outcome::Deleted, 31_359, 1_234_567),
            (Outcome::Gone, 5_431, 431_000),
            (Outcome::Delayed, 140, 40_123),
            (Outcome::Returned, 0, 12),
            (Outcome::DeadLettered, 3, 221),
        ],
    }
}

/// Views that are worth a look, by name.
fn looks() -> Vec<(&'static str, View)> {
    let identity = Identity {
        nodes: ["a", "b", "c"]
            .map(|node| format!("amqps://deleter:***@rabbit-{node}.example.com:5671/chat"))
            .to_vec(),
        ..view().identity
    };
    let calm = View {
        hour: calm_day(),
        identity,
        lately: lately(),
        ..view()
    };
    let busy = View {
        hour: bad_day(),
        main: 21_904,
        retry: 7_231,
        dead: 221,
        in_flight: 256,
        last_delivery: Some(Duration::ZERO),
        ..calm.clone()
    };
    let mut silent = busy.hour.clone();
    for sample in &mut silent.samples[300..] {
        sample.calls = [0; 8];
        (sample.latency, sample.age) = (Buckets::EMPTY, Buckets::EMPTY);
    }
    let suspended = View {
        state: State::Suspended {
            reason: "the account is at fault: 60020 (the paid plan expired and was stopped). buy the plan again; it takes effect within 5 minutes"
                .to_owned(),
            next_probe: SystemTime::now() + Duration::from_secs(42),
        },
        state_for: Duration::from_mins(10),
        last_delivery: Some(Duration::from_mins(10)),
        last_success: Some(Duration::from_mins(10)),
        in_flight: 0,
        hour: silent.clone(),
        ..busy.clone()
    };
    for sample in &mut silent.samples[300..] {
        sample.depths = None;
    }
    let disconnected = View {
        state: State::Disconnected {
            reason: "amqps://deleter:***@rabbit-b.example.com:5671/chat: connecting: connection refused (nobody listens there)"
                .to_owned(),
        },
        depths: Depths::LastSeen,
        is_connected: false,
        hour: silent,
        ..suspended.clone()
    };
    let mut half_an_hour = calm.clone();
    half_an_hour.hour.samples.drain(..190);
    let mut some_minutes = busy.clone();
    some_minutes.hour.samples.drain(..342);
    let new = View {
        hour: made_up::hour(0, |_, sample| sample),
        last_delivery: None,
        state_for: Duration::from_secs(1),
        ..view()
    };
    vec![
        ("busy", busy),
        ("suspended", suspended),
        ("disconnected", disconnected),
        ("calm", calm),
        ("half-an-hour", half_an_hour),
        ("some-minutes", some_minutes),
        ("new", new),
    ]
}

/// Whether each element that is opened is closed, each attribute is quoted, and each id is there once.
#[track_caller]
fn assert_well_formed(name: &str, page: &str) {
    let body = page.split_once("<script>").unwrap().0;
    let body = body.split_once("<body>").unwrap().1;
    let mut open: Vec<&str> = Vec::new();
    for part in body.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("tags have an end");
        assert!(!text.contains('>'), "{name}: {text}");
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{name}");
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{name}: {tag}");
        open.push(tag.split(' ').next().unwrap());
    }
    assert!(open.is_empty(), "{name}: {open:?}");
    let ids: Vec<&str> = attributes(body, " id=\"").collect();
    let unique: BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "{name}: {ids:?}");
    for reference in ["aria-labelledby=\"", "aria-describedby=\""] {
        for id in attributes(body, reference) {
            assert!(unique.contains(id), "{name}: no {id}");
        }
    }
}

fn attributes<'p>(page: &'p str, before: &str) -> impl Iterator<Item = &'p str> {
    let values = page.split(before.to_owned().leak() as &str).skip(1);
    values.map(|rest| rest.split_once('"').unwrap().0)
}

/// With CONVGROUP_PAGES set to a folder, the pages are written there, to be looked at.
#[test]
fn the_page_is_whole_and_small_in_every_state() {
    const BYTES_MAX: usize = 100 * 1024;
    let folder = std::env::var_os("CONVGROUP_PAGES");
    for (name, view) in looks() {
        let page = page(&view).into_string();
        assert_well_formed(name, &page);
        assert!(page.len() < BYTES_MAX, "{name}: {} bytes", page.len());
        let (_, drawn) = page.split_once("<body>").unwrap();
        let (drawn, _) = drawn.split_once("<script>").unwrap();
        for path in attributes(drawn, " d=\"") {
            let is_drawn = |sign: char| "MHVZ. ".contains(sign) || sign.is_ascii_digit();
            assert!(path.chars().all(is_drawn), "{name}: {path}");
        }
        assert!(!drawn.contains("NaN"), "{name}");
        assert_eq!(drawn.matches("role=\"img\"").count(), 4, "{name}");
        assert!(
            !page.contains(" src=") && !page.contains("//fonts"),
            "{name}"
        );
        if let Some(folder) = &folder {
            let path = Path::new(folder).join(format!("{name}.html"));
            std::fs::write(path, page).unwrap();
        }
    }
}
