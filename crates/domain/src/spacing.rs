//! The pace: an even spacing that never lets more than the limit through in any sliding second.
//!
//! The spacing is enforced where a call is released, not reserved ahead: slots reserved ahead bunch up when the process runs late.
//! A call that has to connect first leaves later than that. It is counted while it connects, and for a second from when it has
//! left: else the first calls after a pause, which all connect, would leave together with those behind them, which find their
//! connections open.
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The window in which at most `limit` calls leave. The milliseconds above a second absorb what network and scheduler squeeze
/// together on the way to the API; more of them would cost more than two percent of the limit.
const WINDOW: Duration = Duration::from_millis(1014);
/// How soon to look again while as many calls as may leave in a second have yet to connect.
const CONNECTING_LOOK: Duration = Duration::from_millis(10);
/// How much lateness is made up for: timers tick in milliseconds, and without this each tick would cost rate.
const LATENESS_MAX: Duration = Duration::from_millis(10);
/// Throttled answers that belong to the same burst cut the pace only once.
const CUT_INTERVAL: Duration = Duration::from_secs(1);
/// The pace never falls below this share of the limit (nor below one call per second).
const FLOOR_SHARE: f64 = 0.02;
/// How often the pace climbs a step after a cut.
const CLIMB_INTERVAL: Duration = Duration::from_millis(100);
/// Up to this share of the pace at which the API throttled it climbs quickly: what was granted before will be granted again.
const WALL_SHARE: f64 = 0.9;
/// A quick step, as a share of the limit: from the half back to the wall in about a second and a half.
const QUICK_CLIMB_SHARE: f64 = 0.03;
/// A slow step, as a share of the limit, beyond the wall: half a percent a second. Other callers come and go; meeting the wall again
/// costs half the pace for a second.
const SLOW_CLIMB_SHARE: f64 = 0.0005;
/// Steps climbed at once after a pause without calls: as many slow ones as lead from the floor to the limit.
const STEPS_MAX: u128 = 2000;

/// When calls may leave. Pure: the clock is an argument.
#[derive(Debug)]
pub struct Spacing {
    limit: u32,
    /// The pace at [`Spacing::climbed`]; see [`Spacing::pace`] for the one now.
    pace: f64,
    due: Option<Instant>,
    not_before: Option<Instant>,
    /// When the last calls left, `limit` of them at most.
    released: VecDeque<Instant>,
    /// Calls that have to connect before they leave.
    connecting: usize,
    /// When the pace was cut last, and the pace at which the API throttled then.
    cut: Option<(Instant, f64)>,
    climbed: Option<Instant>,
}

impl Spacing {
    /// At most `limit` calls (at least 1) in any sliding second.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        let limit = limit.max(1);
        Self {
            limit,
            pace: f64::from(limit),
            due: None,
            not_before: None,
            released: VecDeque::new(),
            connecting: 0,
            cut: None,
            climbed: None,
        }
    }

    /// Calls per second that leave now at most. After a cut it climbs by the clock alone, whether calls leave or not.
    #[must_use]
    pub fn pace(&self, now: Instant) -> f64 {
        let limit = f64::from(self.limit);
        let Some((_, wall)) = self.cut else {
            return limit;
        };
        let mut pace = self.pace;
        for _ in 0..self.steps(now).min(STEPS_MAX) {
            let share = if pace < wall * WALL_SHARE {
                QUICK_CLIMB_SHARE
            } else {
                SLOW_CLIMB_SHARE
            };
            pace = (pace + limit * share).min(limit);
        }
        pace
    }

    /// When the next call may leave; a moment in the past means now.
    #[must_use]
    pub fn next(&self, now: Instant) -> Instant {
        // So many may be in the window beside those that have yet to leave.
        let places = (self.limit as usize).saturating_sub(self.connecting);
        let room = match self.released.len().checked_sub(places) {
            None => None,
            Some(_) if places == 0 => Some(now + CONNECTING_LOOK),
            Some(index) => Some(self.released[index] + WINDOW),
        };
        [self.due, self.not_before, room]
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(now)
    }

    /// Records that a call leaves now.
    pub fn release(&mut self, now: Instant) {
        let spacing = WINDOW.div_f64(self.pace);
        let earliest = now.checked_sub(LATENESS_MAX).unwrap_or(now);
        self.due = Some(self.due.map_or(now, |due| due.max(earliest)) + spacing);
        self.record(now);
        self.climb(now);
    }

    /// Records that a call, released just before `now`, has to connect before it leaves. Which of several neighbours it was makes
    /// no difference.
    pub fn connect_started(&mut self, now: Instant) {
        let before = self.released.partition_point(|&at| at <= now);
        if before > 0 {
            self.released.remove(before - 1);
        }
        self.connecting += 1;
    }

    /// Records that such a call leaves now; or that it need not connect any more, because another connection was free before or
    /// because it failed.
    pub fn connect_ended(&mut self, now: Instant) {
        self.connecting = self.connecting.saturating_sub(1);
        let latest = self.released.back().map_or(now, |&latest| latest.max(now));
        self.record(latest);
    }

    fn record(&mut self, now: Instant) {
        if self.released.len() >= self.limit as usize {
            self.released.pop_front();
        }
        self.released.push_back(now);
    }

    /// Lets nothing leave before `moment`.
    pub fn hold_until(&mut self, moment: Instant) {
        self.not_before = self.not_before.max(Some(moment));
    }

    /// Halves the pace, once per burst of throttled answers. Says whether it did.
    pub fn cut(&mut self, now: Instant) -> bool {
        if self.cut.is_some_and(|(at, _)| now < at + CUT_INTERVAL) {
            return false;
        }
        let floor = (f64::from(self.limit) * FLOOR_SHARE).max(1.0);
        self.cut = Some((now, self.pace));
        self.climbed = Some(now + CUT_INTERVAL / 2);
        self.pace = (self.pace / 2.0).max(floor);
        self.due = self.due.max(Some(now + WINDOW.div_f64(self.pace)));
        true
    }

    fn climb(&mut self, now: Instant) {
        if self.steps(now) > 0 {
            self.pace = self.pace(now);
            self.climbed = Some(now);
        }
    }

    /// Whole steps since the last climb.
    fn steps(&self, now: Instant) -> u128 {
        let since = self.climbed.map_or(Duration::ZERO, |climbed| {
            now.saturating_duration_since(climbed)
        });
        since.as_millis() / CLIMB_INTERVAL.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Releases calls with timers that are up to `late` late, for `seconds`; returns the moments.
    fn run(limit: u32, seconds: u64, mut late: impl FnMut(usize) -> Duration) -> Vec<Instant> {
        let start = Instant::now();
        let mut spacing = Spacing::new(limit);
        let mut now = start;
        let mut left = Vec::new();
        while now < start + Duration::from_secs(seconds) {
            let next = spacing.next(now);
            if next > now {
                now = next + late(left.len());
            }
            spacing.release(now);
            left.push(now);
        }
        left
    }

    fn worst_second(left: &[Instant]) -> usize {
        let within = |from: usize| {
            left[from..]
                .iter()
                .take_while(|&&at| at < left[from] + Duration::from_secs(1))
                .count()
        };
        (0..left.len()).map(within).max().unwrap_or(0)
    }

    #[test]
    fn the_full_pace_is_used_with_timers_that_tick_in_milliseconds() {
        let left = run(200, 10, |_| Duration::from_micros(1300));
        assert!(left.len() >= 1960, "{}", left.len());
        assert_eq!(worst_second(&left), worst_second(&left).min(200));
    }

    #[test]
    fn calls_are_spread_over_the_second() {
        let left = run(200, 3, |_| Duration::from_micros(500));
        let most = (0..left.len())
            .map(|i| {
                left[i..]
                    .iter()
                    .take_while(|&&at| at < left[i] + Duration::from_millis(100))
                    .count()
            })
            .max();
        assert!(most <= Some(23), "a tenth of a second saw {most:?} calls");
    }

    #[test]
    fn the_pace_halves_once_per_burst_and_climbs_back() {
        let start = Instant::now();
        let mut spacing = Spacing::new(200);
        assert!(spacing.cut(start));
        assert!(
            !spacing.cut(start + Duration::from_millis(900)),
            "the same burst"
        );
        for (milliseconds, from, to) in [
            (0, 100.0, 100.0),
            (500, 100.0, 100.0),
            (3_000, 175.0, 190.0),
            (40_000, 200.0, 200.0),
        ] {
            let now = start + Duration::from_millis(milliseconds);
            let pace = spacing.pace(now);
            assert!((from..=to).contains(&pace), "{pace} at {milliseconds} ms");
        }
    }

    #[test]
    fn a_cut_is_over_after_a_second_and_begins_with_a_pause() {
        let start = Instant::now();
        let mut spacing = Spacing::new(200);
        assert!(spacing.cut(start));
        assert_eq!(spacing.next(start), start + WINDOW.div_f64(100.0));
        let later = start + CUT_INTERVAL;
        assert!(!spacing.cut(later.checked_sub(Duration::from_nanos(1)).unwrap()));
        assert!(spacing.cut(later), "another burst");
    }

    /// Counted twice, it would cost half the pace.
    #[test]
    fn a_call_that_connects_takes_one_place() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut spacing = Spacing::new(10);
        for milliseconds in [0, 1, 5] {
            spacing.release(at(milliseconds));
        }
        spacing.connect_started(at(2));
        assert_eq!(spacing.released, [at(0), at(5)]);
        assert_eq!(spacing.connecting, 1);
        spacing.connect_ended(at(3));
        assert_eq!(spacing.released, [at(0), at(5), at(5)]);
        spacing.connect_ended(at(9));
        assert_eq!(spacing.released, [at(0), at(5), at(5), at(9)]);
        assert_eq!(spacing.connecting, 0);
        // One whose place is in no window any more.
        let mut fresh = Spacing::new(10);
        fresh.connect_started(start);
        assert_eq!((fresh.released.len(), fresh.connecting), (0, 1));
    }

    #[test]
    fn the_pace_never_starves() {
        let mut now = Instant::now();
        let mut spacing = Spacing::new(200);
        for _ in 0..50 {
            spacing.cut(now);
            now += Duration::from_secs(1);
        }
        assert!(spacing.pace(now) >= 1.0, "{}", spacing.pace(now));
    }

    /// A replica that was throttled and then stands by shows no cut pace for days.
    #[test]
    fn the_pace_climbs_from_the_floor_to_the_limit_while_no_call_leaves() {
        for limit in [1, 10, 200, 100_000] {
            let mut now = Instant::now();
            let mut spacing = Spacing::new(limit);
            for _ in 0..50 {
                spacing.cut(now);
                now += Duration::from_secs(1);
            }
            let later = spacing.pace(now + Duration::from_secs(200));
            assert!(
                (later - f64::from(limit)).abs() < 1e-9,
                "{later} of {limit}"
            );
        }
    }

    /// Other callers use a part of the limit: the API grants us less than we are configured for.
    #[test]
    fn the_pace_settles_near_what_is_left() {
        const GRANTED: usize = 120;
        let start = Instant::now();
        let (mut spacing, mut now) = (Spacing::new(200), start);
        let (mut granted, mut window, mut refused) = (0, VecDeque::new(), 0);
        while now < start + Duration::from_secs(60) {
            now = spacing.next(now).max(now);
            spacing.release(now);
            while window
                .front()
                .is_some_and(|&at| now - at >= Duration::from_secs(1))
            {
                window.pop_front();
            }
            if window.len() < GRANTED {
                window.push_back(now);
                granted += 1;
            } else {
                refused += 1;
                spacing.cut(now);
            }
        }
        assert!(
            granted >= GRANTED * 60 * 85 / 100,
            "{granted} granted, {refused} refused"
        );
        assert!(
            refused * 50 <= granted,
            "{granted} granted, {refused} refused"
        );
    }

    #[test]
    fn nothing_leaves_while_it_is_held() {
        let now = Instant::now();
        let mut spacing = Spacing::new(200);
        spacing.hold_until(now + Duration::from_secs(1));
        assert_eq!(spacing.next(now), now + Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn no_sliding_second_sees_more_than_the_limit(
            limit in 1_u32..300,
            lateness in proptest::collection::vec(0_u64..40_000, 1..200),
        ) {
            let left = run(limit, 4, |index| Duration::from_micros(lateness[index % lateness.len()]));
            prop_assert!(worst_second(&left) <= limit as usize);
        }

        /// As the API sees it: calls that have to connect arrive later than they were released, by whatever time that takes.
        #[test]
        fn no_sliding_second_sees_more_than_the_limit_arrive(
            limit in 1_u32..300,
            phases in proptest::collection::vec((1_usize..200, 0_u64..5000, 0..4), 1..20),
        ) {
            let start = Instant::now();
            let mut spacing = Spacing::new(limit);
            let (mut now, mut arrived) = (start, Vec::new());
            let mut under_way: BTreeSet<(Instant, usize, Option<Instant>)> = BTreeSet::new();
            // Phases in which each call takes so long to connect, or need not at all.
            let calls = phases.into_iter().flat_map(|(count, ms, how)| std::iter::repeat_n((ms, how), count));
            for (number, (ms, how)) in calls.enumerate() {
                loop {
                    let next = spacing.next(now).max(now);
                    let due = under_way.first().filter(|(at, _, _)| *at <= next);
                    let Some(&(at, _, left)) = due else {
                        if next == now {
                            break;
                        }
                        now = next;
                        continue;
                    };
                    under_way.pop_first();
                    now = now.max(at);
                    spacing.connect_ended(now);
                    arrived.push(left.unwrap_or(now));
                }
                spacing.release(now);
                if how == 0 {
                    arrived.push(now);
                } else {
                    spacing.connect_started(now);
                    // Some leave on a connection that is free before.
                    let left = (how == 1).then(|| now + Duration::from_millis(ms / 3));
                    under_way.insert((now + Duration::from_millis(ms), number, left));
                }
            }
            arrived.extend(under_way.into_iter().map(|(at, _, left)| left.unwrap_or(at)));
            arrived.sort();
            prop_assert!(worst_second(&arrived) <= limit as usize, "{}", worst_second(&arrived));
        }

        /// Through cuts and pauses as well; and the pace shown just before a call leaves is the one that follows it.
        #[test]
        fn no_cut_and_no_pause_lets_more_through(
            limit in 1_u32..300,
            events in proptest::collection::vec((0_u32..20, 0_u64..300_000), 1..200),
        ) {
            let mut now = Instant::now();
            let (mut spacing, mut left) = (Spacing::new(limit), Vec::new());
            for (event, milliseconds) in events {
                match event {
                    0 => now += Duration::from_millis(milliseconds),
                    1 => { spacing.cut(now); }
                    calls => for _ in 0..calls {
                        now = spacing.next(now).max(now);
                        let shown = spacing.pace(now);
                        spacing.release(now);
                        left.push(now);
                        prop_assert!((shown - spacing.pace(now)).abs() < 1e-9);
                    }
                }
            }
            prop_assert!(worst_second(&left) <= limit as usize);
        }
    }
}
