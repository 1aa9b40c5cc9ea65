//! Chaos: the API fails at random, the daemon and the broker are killed; nothing is lost, nothing innocent is dead, and every request is
//! answered. The books are kept from the ledger alone, and compared with the API's own record and the dead letters, name by name.
//!
//! One seed decides what is published, how the API fails, what is killed and when. It is printed on failure; a run with the same
//! seed is the same but for the scheduling of the machine. `CHAOS=long` is the run of `make chaos`.
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use im_sandbox::{Fault, Latency, Rule};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::{Digest, Sha256};

use crate::ledger::Books;
use crate::world::{World, event, seconds};
use convgroup_domain::text::hex;
use convgroup_testkit::{Broker, Daemon, Node, PATIENCE};

/// Calls per second of the daemon, and of the API in a phase that is not throttled: above the real 200, to save time.
const PACE: u32 = 500;
/// The API's limit in a phase that is.
const PACE_THROTTLED: u32 = 300;
/// One phase in so many is throttled.
const THROTTLED_EACH: usize = 4;
/// How long a phase may take; most of it is a broker that starts on a busy machine.
const PHASE_PATIENCE: Duration = seconds(120);
/// Of a hundred events so many are malformed, so many rejected, and so many mean all groups.
const MALFORMED_PERCENT: u32 = 2;
const REJECTED_PERCENT: u32 = 2;
const ALL_GROUPS_PERCENT: u32 = 10;

/// How much chaos.
struct Plan {
    seed: u64,
    events: usize,
    crashes: Vec<Crash>,
}

/// What is killed, with SIGKILL.
#[derive(Clone, Copy, Debug)]
enum Crash {
    Daemon,
    Broker,
    Both,
}

/// A broker takes as long to come back as all the rest of a short run.
const SHORT: [Crash; 4] = [Crash::Daemon, Crash::Broker, Crash::Daemon, Crash::Daemon];
const LONG: [Crash; 5] = [
    Crash::Daemon,
    Crash::Broker,
    Crash::Daemon,
    Crash::Both,
    Crash::Daemon,
];

impl Plan {
    fn of_environment() -> Self {
        let seed = std::env::var("CHAOS_SEED").ok();
        let seed = seed.map(|seed| seed.parse().expect("CHAOS_SEED is a number"));
        let seed = seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
        match std::env::var("CHAOS").as_deref() {
            Ok("long") => Self {
                seed,
                events: 20_000,
                crashes: LONG.repeat(5),
            },
            _ => Self {
                seed,
                events: 1500,
                crashes: SHORT.to_vec(),
            },
        }
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let long = std::env::var("CHAOS").map_or(String::new(), |it| format!("CHAOS={it} "));
            println!(
                "chaos: again with {long}CHAOS_SEED={} cargo test --test it -- chaos::",
                self.seed
            );
        }
    }
}

/// What was published, and what has to become of it.
#[derive(Default)]
struct Planted {
    bodies: Vec<String>,
    users: Vec<String>,
    groups: u64,
    rejected: BTreeSet<String>,
    malformed: BTreeSet<String>,
    /// How many names each request has, by its id, which is the hash of its body; nothing where all groups are meant.
    names: BTreeMap<String, Option<usize>>,
}

impl Planted {
    /// One more event; its groups are there to be deleted.
    fn plant(&mut self, world: &World, rng: &mut StdRng) {
        let number = self.bodies.len();
        let kind = rng.random_range(0..100_u32);
        let body = if kind < MALFORMED_PERCENT {
            let body = format!("no event {number}");
            self.malformed.insert(body.clone());
            (body, Some(0))
        } else if kind < MALFORMED_PERCENT + REJECTED_PERCENT {
            // The API knows no such user: 50001.
            let body = event(&format!("nobody{number}"), &["a"]);
            self.rejected.insert(body.clone());
            (body, Some(1))
        } else {
            let user = format!("user{number}");
            let groups = &["a", "b", "c"][..[1, 1, 1, 2, 3][rng.random_range(0..5)]];
            world.user(&user, groups);
            self.groups += groups.len() as u64;
            let all = kind < MALFORMED_PERCENT + REJECTED_PERCENT + ALL_GROUPS_PERCENT;
            let request = if all {
                let body = format!(r#"{{"From_Account":"{user}","AllGroups":true}}"#);
                (body, None)
            } else {
                (event(&user, groups), Some(groups.len()))
            };
            self.users.push(user);
            request
        };
        let (body, names) = body;
        self.names.insert(request_id(&body), names);
        self.bodies.push(body);
    }

    /// Each request is answered to its end, and told what is so.
    fn check_answers(&self, books: &Books) {
        let ids = |bodies: &BTreeSet<String>| bodies.iter().map(|it| request_id(it)).collect();
        let (rejected, malformed): (BTreeSet<String>, BTreeSet<String>) =
            (ids(&self.rejected), ids(&self.malformed));
        for (id, names) in &self.names {
            let case = books.case(id);
            assert!(case.is_closed(), "{id} is open: {case:?}");
            let ends: Vec<String> = case.ends().into_values().collect();
            if malformed.contains(id) {
                assert_eq!(case.last().status, "malformed");
            } else if rejected.contains(id) {
                assert_eq!(ends, ["rejected 50001"]);
            } else {
                assert!(ends.iter().all(|end| end == "erased"), "{id}: {case:?}");
                assert!(
                    names.is_none_or(|names| names == ends.len()),
                    "{id}: {case:?}"
                );
                assert_eq!(names.is_none(), case.told.iter().any(|told| told.verified));
            }
        }
        assert_eq!(books.0.len(), self.names.len());
    }

    fn check_deleted(&self, world: &World) {
        let groups = |user: &&String| world.sandbox.groups(user).expect("a user of ours");
        let lost = |user: &&String| !groups(user).is_empty();
        let lost: Vec<&String> = self.users.iter().filter(lost).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert_eq!(world.sandbox.counters().deleted, self.groups);
    }

    /// All that were planted are there, a crash may have doubled some, and there is no other.
    async fn check_dead_letters(&self, world: &World) {
        let count = world.broker.depth(&world.config.dead_queue()).await;
        let (mut rejected, mut malformed) = (BTreeSet::new(), BTreeSet::new());
        for dead in world.dead(count as usize).await {
            match dead.header_text("convgroup-cause").as_deref() {
                Some("rejected") => rejected.insert(dead.text()),
                Some("malformed") => malformed.insert(dead.text()),
                cause => panic!("innocent: {cause:?} {dead:?}"),
            };
        }
        assert_eq!(rejected, self.rejected);
        assert_eq!(malformed, self.malformed);
    }
}

/// The id of a request whose message has none.
fn request_id(body: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(body.as_bytes())))
}

/// About one call in seven goes wrong, in every way there is.
fn trouble(world: &World, rng: &mut StdRng) {
    let before = [
        (Fault::code(50004), 0.03),
        (Fault::HttpStatus(502), 0.01),
        (Fault::Reset, 0.01),
        (Fault::Close, 0.01),
        (Fault::Garbage, 0.01),
        (Fault::Hang, 0.003),
    ];
    let after = [
        (Fault::code(50004), 0.01),
        (Fault::HttpStatus(500), 0.01),
        (Fault::Reset, 0.01),
        (Fault::Close, 0.01),
        (Fault::Garbage, 0.01),
        (Fault::Truncated, 0.01),
        (Fault::Hang, 0.003),
    ];
    let mut add = |rule: Rule, probability| {
        let seed = rng.random();
        world.sandbox.add_fault(rule.probability(probability, seed));
    };
    for (fault, probability) in before {
        add(Rule::new(fault), probability);
    }
    for (fault, probability) in after {
        add(Rule::new(fault).after(), probability);
    }
    let latency = Latency::new(0, 30).expect("0 is less than 30");
    world.sandbox.set_latency(latency);
}

/// Waits for progress at the API.
async fn progress(world: &World, daemon: &Daemon, deleted: u64) {
    let enough = world
        .sandbox
        .wait_until(|counters| counters.deleted >= deleted);
    let waited = tokio::time::timeout(PHASE_PATIENCE, enough).await;
    assert!(
        waited.is_ok(),
        "no {deleted} deletions: {:?} {}",
        world.sandbox.counters(),
        daemon.try_http("/readyz").await.unwrap_or_default().1
    );
}

/// Kills, and starts again what was killed.
async fn crash(what: Crash, node: &Node, world: &mut World, daemon: &mut Daemon) {
    let kill_node = matches!(what, Crash::Broker | Crash::Both);
    if kill_node {
        node.kill();
    }
    if matches!(what, Crash::Daemon | Crash::Both) {
        daemon.kill();
        daemon.wait_exit(PATIENCE).await;
        *daemon = world.config.spawn();
    }
    if kill_node {
        node.start_again().await;
        world.broker = Broker::connect(&node.url()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_in_chaos() {
    let (plan, started) = (Plan::of_environment(), Instant::now());
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let node = Node::start().await;
    let mut world = World::at(&node.url())
        .await
        .answering()
        .set("CONVGROUP_IM__TIMEOUT", "500ms")
        .set("CONVGROUP_RATE_LIMIT__CALLS_PER_SECOND", PACE)
        .set("CONVGROUP_RETRY__TIERS", "100ms,300ms,1s")
        .set("CONVGROUP_RETRY__MAX_ATTEMPTS", 100)
        .set("CONVGROUP_LOG__LEVEL", "info");
    let mut daemon = world.daemon().await;
    let mut queues = world.delay_queues();
    queues.extend([world.config.queue().to_owned(), world.config.dead_queue()]);
    for queue in &queues {
        node.recorded(queue).await;
    }
    node.streams_recorded().await;
    trouble(&world, &mut rng);
    let mut planted = Planted::default();
    let phases = plan.crashes.len() + 1;
    for phase in 0..phases {
        let (old, groups_before) = (planted.bodies.len(), planted.groups);
        while planted.bodies.len() < plan.events * (phase + 1) / phases {
            planted.plant(&world, &mut rng);
        }
        let throttled = phase % THROTTLED_EACH == 1;
        let limit = if throttled { PACE_THROTTLED } else { PACE };
        world.sandbox.set_limit(limit);
        world
            .broker
            .publish_many(world.config.exchange(), "delete", &planted.bodies[old..])
            .await;
        let Some(what) = plan.crashes.get(phase) else {
            break;
        };
        let share = rng.random_range(0.1..0.9);
        let of_phase = (planted.groups - groups_before) as f64;
        let target = groups_before + (of_phase * share) as u64;
        progress(&world, &daemon, target).await;
        let at = started.elapsed().as_secs_f64();
        println!("chaos: {at:.1} s, {target} groups deleted, API's limit {limit}: kill {what:?}");
        crash(*what, &node, &mut world, &mut daemon).await;
    }
    progress(&world, &daemon, planted.groups).await;
    world.drained(&daemon, PHASE_PATIENCE, || Ok(())).await;
    planted.check_deleted(&world);
    planted.check_dead_letters(&world).await;
    let ledger = world.broker.read_stream(world.config.ledger()).await;
    planted.check_answers(&Books::kept(&ledger));
    world.nothing_is_left(&daemon).await;
    let counters = world.sandbox.counters();
    assert_eq!(
        counters.by_fault.len(),
        8,
        "not every fault has struck: {:?}",
        counters.by_fault
    );
    println!(
        "chaos: seed {}, {} events, {} groups, {} crashes, {} calls, {} of them went wrong {:?}, {} throttled, {:.0} s",
        plan.seed,
        plan.events,
        planted.groups,
        plan.crashes.len(),
        counters.calls,
        counters.by_fault.values().sum::<u64>(),
        counters.by_fault,
        counters.by_code.get(&60007).unwrap_or(&0),
        started.elapsed().as_secs_f64(),
    );
}
