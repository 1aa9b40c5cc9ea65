//! The last hour as numbers: samples of ten seconds each, put together into slots of equal width. Pure.
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use convgroup_broker::events::Depths;
use convgroup_domain::code::Class;

/// How often the counters are noted.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// How far back the charts reach.
pub(super) const HOUR: Duration = Duration::from_secs(3600);
/// So many samples are kept, however often they come.
pub(super) const SAMPLES_MAX: usize = 360;
/// A slot that has been looked at for less than this says nothing by itself.
const SLOT_MIN: f64 = 5.0;
/// A sample that covers as much as this was late because the process was held up.
const FROZEN: Duration = Duration::from_secs(30);
/// Widths of the time axis, of its slots, of the rows of the tables, and between its labels, in seconds. A process younger than an hour
/// shows what it has.
const AXES: [Axis; 5] = [
    Axis::new(300, 10, 30, 60),
    Axis::new(600, 10, 60, 120),
    Axis::new(1200, 10, 120, 300),
    Axis::new(2400, 20, 240, 600),
    Axis::new(3600, 30, 300, 900),
];

/// Finite buckets of `convgroup_api_request_duration_seconds`.
pub(super) const LATENCY_BUCKETS: usize = 14;
/// Finite buckets of `convgroup_message_age_seconds`.
pub(super) const AGE_BUCKETS: usize = 16;

/// Entries of a histogram: those of each finite bucket, and those above all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buckets<const N: usize> {
    pub(super) within: [u32; N],
    pub(super) above: u32,
}

impl<const N: usize> Buckets<N> {
    pub(super) const EMPTY: Self = Self {
        within: [0; N],
        above: 0,
    };

    fn add(&mut self, more: &Self) {
        for (sum, more) in self.within.iter_mut().zip(more.within) {
            *sum = sum.saturating_add(more);
        }
        self.above = self.above.saturating_add(more.above);
    }

    fn total(&self) -> u64 {
        let within: u64 = self.within.iter().copied().map(u64::from).sum();
        within + u64::from(self.above)
    }

    /// The value below which this share of the entries lies, as Prometheus' `histogram_quantile` finds it: in a straight line through
    /// the bucket, and the highest finite bound for what lies above that.
    pub(super) fn quantile(&self, share: f64, bounds: &[f64; N]) -> Option<f64> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = share * total as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (count, upper) in self.within.iter().zip(bounds) {
            let count = f64::from(*count);
            if count > 0.0 && below + count >= rank {
                return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
            }
            below += count;
            lower = *upper;
        }
        Some(lower)
    }

    /// The bound that no entry exceeds; infinite when there is an entry above the finite ones.
    pub(super) fn highest(&self, bounds: &[f64; N]) -> Option<f64> {
        if self.above > 0 {
            return Some(f64::INFINITY);
        }
        let reached = self.within.iter().rposition(|count| *count > 0)?;
        Some(bounds[reached])
    }
}

/// What happened between one look at the counters and the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Counted from the start.
    pub(super) number: u64,
    /// The end of the time that it covers.
    pub(super) at: Instant,
    /// The time that it covers.
    pub(super) span: Duration,
    /// Calls that were answered, in the order of [`Class::ALL`].
    pub(super) calls: [u32; Class::ALL.len()],
    /// How long they took.
    pub(super) latency: Buckets<LATENCY_BUCKETS>,
    /// How old messages were when they were settled.
    pub(super) age: Buckets<AGE_BUCKETS>,
    /// Messages ready in the queues at the end; nothing without a session.
    pub(super) depths: Option<Depths>,
}

/// What an hour takes: the bound that `docs/operating.md` tells.
const _: () = assert!(size_of::<Sample>() * SAMPLES_MAX <= 80 * 1024);

/// Adds a sample and forgets those that no chart shows any more.
pub(super) fn remember(samples: &mut VecDeque<Sample>, sample: Sample) {
    let is_over = |old: &Sample| sample.at.duration_since(old.at) >= HOUR;
    while samples.len() >= SAMPLES_MAX || samples.front().is_some_and(is_over) {
        samples.pop_front();
    }
    samples.push_back(sample);
}

/// How the time is laid out: all in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    /// From the left edge until now.
    pub(super) window: u32,
    /// The width of a step.
    pub(super) slot: u32,
    /// What a row of a table covers.
    pub(super) row: u32,
    /// From one label to the next.
    pub(super) label: u32,
}

impl Axis {
    const fn new(window: u32, slot: u32, row: u32, label: u32) -> Self {
        Self {
            window,
            slot,
            row,
            label,
        }
    }
}

/// The last hour, or what there is of it.
#[derive(Clone, Debug)]
pub(super) struct Hour {
    /// The oldest first.
    pub(super) samples: Vec<Sample>,
    /// The moment that is shown as now, on both clocks: the one that samples have, and unix seconds.
    pub(super) now: Instant,
    pub(super) now_unix: f64,
    pub(super) latency_bounds: [f64; LATENCY_BUCKETS],
    pub(super) age_bounds: [f64; AGE_BUCKETS],
}

/// Samples put together. Its times are seconds before now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    /// Its beginning, and its end.
    pub(super) from: f64,
    pub(super) to: f64,
    /// So much of it was looked at.
    pub(super) seconds: f64,
    pub(super) calls: [u64; Class::ALL.len()],
    pub(super) latency: Buckets<LATENCY_BUCKETS>,
    pub(super) age: Buckets<AGE_BUCKETS>,
    /// As last seen in it.
    pub(super) depths: Option<Depths>,
}

impl Slot {
    const fn at(from: f64) -> Self {
        Self {
            from,
            to: from,
            seconds: 0.0,
            calls: [0; Class::ALL.len()],
            latency: Buckets::EMPTY,
            age: Buckets::EMPTY,
            depths: None,
        }
    }

    /// Calls per second of a class.
    pub(super) fn rate(&self, class: usize) -> f64 {
        self.calls[class] as f64 / self.seconds.max(1.0)
    }

    fn add(&mut self, sample: &Sample) {
        self.seconds += sample.span.as_secs_f64();
        for (sum, more) in self.calls.iter_mut().zip(sample.calls) {
            *sum += u64::from(more);
        }
        self.latency.add(&sample.latency);
        self.age.add(&sample.age);
        self.depths = sample.depths.or(self.depths);
    }

    /// Takes in the one after it.
    fn join(&mut self, next: &Self) {
        self.to = next.to;
        self.seconds += next.seconds;
        for (sum, more) in self.calls.iter_mut().zip(next.calls) {
            *sum += more;
        }
        self.latency.add(&next.latency);
        self.age.add(&next.age);
        self.depths = next.depths.or(self.depths);
    }
}

impl Hour {
    /// How long ago what is known begins; an hour at most.
    pub(super) fn covered(&self) -> Duration {
        let begin = |sample: &Sample| self.now.duration_since(sample.at) + sample.span;
        self.samples.first().map_or(Duration::ZERO, begin).min(HOUR)
    }

    /// The narrowest time axis that shows all there is.
    pub(super) fn axis(&self) -> Axis {
        // The first sample of an hour may have come a little late.
        let covered = self.covered().saturating_sub(EVERY).as_secs_f64();
        let shows_all = |axis: &&Axis| f64::from(axis.window) >= covered;
        *AXES.iter().find(shows_all).unwrap_or(&AXES[AXES.len() - 1])
    }

    /// The samples in slots of about this width, in seconds; the oldest first, and none where nothing was noted. A sample stays with the
    /// same others while time goes on.
    pub(super) fn slots(&self, width: u32) -> Vec<Slot> {
        let samples_each = (u64::from(width) / EVERY.as_secs()).max(1);
        let mut slots: Vec<(u64, Slot)> = Vec::new();
        for sample in &self.samples {
            // A process that was frozen covers the time of many slots with one sample; what it did, it did at the end of that.
            let was_frozen = sample.span >= FROZEN;
            let span = if was_frozen { EVERY } else { sample.span };
            let ago = self.now.duration_since(sample.at);
            let place = sample.number / samples_each;
            if was_frozen || slots.last().is_none_or(|(last, _)| *last != place) {
                slots.push((place, Slot::at((ago + span).as_secs_f64())));
            }
            if let Some((_, slot)) = slots.last_mut() {
                slot.to = ago.as_secs_f64();
                slot.add(sample);
            }
        }
        if let [.., (_, whole), (_, begun)] = &mut slots[..]
            && begun.seconds < SLOT_MIN
        {
            whole.join(begun);
            slots.pop();
        }
        slots.into_iter().map(|(_, slot)| slot).collect()
    }
}

/// For tests of what is made of it.
#[cfg(test)]
pub(super) mod made_up {
    use super::*;

    pub(in crate::admin) const LATENCY_BOUNDS: [f64; LATENCY_BUCKETS] = [
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0,
    ];
    pub(in crate::admin) const AGE_BOUNDS: [f64; AGE_BUCKETS] = [
        0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0,
        86_400.0, 259_200.0, 604_800.0,
    ];

    /// Samples of ten seconds until now: `make` gets the number of each, and an empty one.
    pub(in crate::admin) fn hour(count: u32, make: impl Fn(u32, Sample) -> Sample) -> Hour {
        let start = Instant::now();
        let sample = |index: u32| Sample {
            number: index.into(),
            at: start + EVERY * (index + 1),
            span: EVERY,
            calls: [0; Class::ALL.len()],
            latency: Buckets::EMPTY,
            age: Buckets::EMPTY,
            depths: None,
        };
        Hour {
            samples: (0..count).map(|index| make(index, sample(index))).collect(),
            now: start + EVERY * count,
            now_unix: 1_795_431_600.0,
            latency_bounds: LATENCY_BOUNDS,
            age_bounds: AGE_BOUNDS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::made_up::{AGE_BOUNDS, hour};
    use super::*;

    fn depths(main: u32) -> Depths {
        Depths {
            main,
            retry: 0,
            dead: 0,
        }
    }

    #[test]
    fn a_quantile_is_the_one_that_prometheus_finds() {
        let bounds = [1.0, 2.0, 4.0];
        for (within, above, share, found) in [
            ([0, 0, 0], 0, 0.5, None),
            ([4, 0, 0], 0, 0.5, Some(0.5)),
            ([0, 4, 0], 0, 0.5, Some(1.5)),
            ([1, 1, 2], 0, 0.5, Some(2.0)),
            ([1, 1, 2], 0, 0.99, Some(3.96)),
            ([0, 0, 1], 0, 0.0, Some(2.0)),
            ([0, 0, 0], 9, 0.5, Some(4.0)),
            ([90, 0, 0], 10, 0.5, Some(50.0 / 90.0)),
            ([90, 0, 0], 10, 0.99, Some(4.0)),
            ([u32::MAX; 3], u32::MAX, 1.0, Some(4.0)),
        ] {
            let found_now = Buckets { within, above }.quantile(share, &bounds);
            let is_same = match (found_now, found) {
                (Some(now), Some(found)) => (now - found).abs() < 1e-9,
                (now, found) => now == found,
            };
            assert!(is_same, "{within:?} {above} {share}: {found_now:?}");
        }
    }

    #[test]
    fn the_highest_entry_is_known_by_its_bucket() {
        let bounds = [1.0, 2.0, 4.0];
        for (within, above, found) in [
            ([0, 0, 0], 0, None),
            ([1, 0, 0], 0, Some(1.0)),
            ([1, 2, 0], 0, Some(2.0)),
            ([0, 0, 0], 1, Some(f64::INFINITY)),
        ] {
            assert_eq!(Buckets { within, above }.highest(&bounds), found);
        }
    }

    #[test]
    fn an_hour_is_remembered_and_no_more() {
        let made = hour(1000, |_, sample| sample);
        let mut samples = VecDeque::new();
        for sample in &made.samples {
            remember(&mut samples, *sample);
        }
        assert_eq!(samples.len(), SAMPLES_MAX);
        let (first, last) = (samples[0].at, samples[SAMPLES_MAX - 1].at);
        assert!(last - first < HOUR);
        // Samples that come faster than they should take no more place.
        for _ in 0..1000 {
            remember(&mut samples, made.samples[999]);
        }
        assert_eq!(samples.len(), SAMPLES_MAX);
        // After a day in which the process was frozen, nothing of before is left.
        let day_later = Sample {
            at: made.now + Duration::from_hours(24),
            ..made.samples[999]
        };
        remember(&mut samples, day_later);
        assert_eq!(samples.len(), 1);
    }

    #[test]
    fn the_axis_is_the_narrowest_that_shows_all() {
        for (samples, window) in [
            (0, 300),
            (1, 300),
            (30, 300),
            (31, 300),
            (32, 600),
            (60, 600),
            (120, 1200),
            (200, 2400),
            (241, 2400),
            (242, 3600),
            (360, 3600),
        ] {
            let axis = hour(samples, |_, sample| sample).axis();
            assert_eq!(axis.window, window, "{samples}");
            assert!(axis.window / axis.slot <= 120 && axis.window / axis.row <= 12);
            assert_eq!((axis.window % axis.label, axis.row % axis.slot), (0, 0));
        }
    }

    #[test]
    fn slots_hold_what_their_samples_hold() {
        let made = hour(360, |index, mut sample| {
            sample.calls[0] = 10;
            sample.age.within[5] = 1;
            sample.depths = Some(depths(index));
            sample
        });
        let slots = made.slots(30);
        assert_eq!(slots.len(), 120);
        for (index, slot) in (0u32..).zip(&slots) {
            assert_eq!((slot.calls[0], slot.age.total()), (30, 3));
            assert!((slot.rate(0) - 1.0).abs() < 1e-9);
            assert_eq!(slot.depths, Some(depths(index * 3 + 2)));
            let from = 3600.0 - f64::from(index) * 30.0;
            assert!((slot.from - from).abs() < 1e-9 && (slot.to - from + 30.0).abs() < 1e-9);
            assert_eq!(slot.age.highest(&AGE_BOUNDS), Some(5.0));
        }
        let calls: u64 = made.slots(300).iter().map(|slot| slot.calls[0]).sum();
        assert_eq!(calls, 3600);
    }

    #[test]
    fn where_nothing_was_noted_there_is_no_slot() {
        let mut made = hour(360, |_, sample| sample);
        // Frozen for ten minutes: one sample covers them.
        made.samples.drain(99..159);
        for (number, sample) in (0..).zip(&mut made.samples) {
            sample.number = number;
        }
        made.samples[99].span = Duration::from_mins(10) + EVERY;
        made.samples[99].calls[0] = 610;
        let slots = made.slots(30);
        assert_eq!(slots.len(), 100);
        let busy: Vec<&Slot> = slots.iter().filter(|slot| slot.calls[0] > 0).collect();
        let [busy] = busy[..] else { panic!("{busy:?}") };
        assert!(busy.rate(0) <= 1.0, "{busy:?}");
        let gaps: Vec<f64> = slots
            .windows(2)
            .map(|pair| pair[0].to - pair[1].from)
            .collect();
        let gaps: Vec<&f64> = gaps.iter().filter(|gap| **gap > 1e-6).collect();
        assert_eq!(gaps, [&600.0]);
    }

    #[test]
    fn depths_are_as_last_seen_in_the_slot_and_not_of_another() {
        let made = hour(9, |index, mut sample| {
            sample.depths = [Some(depths(index)), None][usize::from(index >= 4)];
            sample
        });
        let seen: Vec<_> = made.slots(30).iter().map(|slot| slot.depths).collect();
        assert_eq!(seen, [Some(depths(2)), Some(depths(3)), None]);
    }

    /// Samples come when the scheduler lets them.
    #[test]
    fn samples_that_are_late_leave_no_gaps() {
        let mut made = hour(360, |_, sample| sample);
        let mut late = made.now.checked_sub(EVERY * 360).unwrap();
        for (sample, ms) in made
            .samples
            .iter_mut()
            .zip((0..).map(|index| index * 7919 % 900))
        {
            sample.span = EVERY + Duration::from_millis(ms);
            late += sample.span;
            sample.at = late;
        }
        made.now = late;
        for width in [10, 20, 30, 300] {
            let slots = made.slots(width);
            assert_eq!(u32::try_from(slots.len()).unwrap(), 3600 / width);
            let gaps = slots.windows(2).map(|pair| pair[0].to - pair[1].from);
            assert!(gaps.map(f64::abs).all(|gap| gap < 1e-6), "{width}");
        }
    }

    /// The seconds after a slot began would show the wildest rates.
    #[test]
    fn a_slot_that_has_just_begun_belongs_to_the_one_before() {
        for (seconds, slots) in [(1, 12), (4, 12), (5, 13)] {
            let mut made = hour(36, |_, sample| sample);
            let more = Duration::from_secs(seconds);
            made.now += more;
            made.now_unix += more.as_secs_f64();
            let mut last = made.samples[35];
            (last.number, last.at, last.span, last.calls[0]) = (36, made.now, more, 100);
            made.samples.push(last);
            let made = made.slots(30);
            assert_eq!(made.len(), slots, "{seconds}");
            let last = made.last().unwrap();
            assert_eq!(last.calls[0], 100, "{seconds}");
            assert!(last.to.abs() < 1e-9, "{last:?}");
        }
        assert_eq!(hour(0, |_, sample| sample).slots(30).len(), 0);
    }
}
