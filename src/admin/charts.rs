//! The charts of the last hour, and what they say in words. Pure.
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration};
use maud::{Markup, html};

use super::chart::{Chart, Limit, Scale, Series, Shape, Table, Time};
use super::hour::{Axis, HOUR, Hour, Slot};
use crate::state::Queue;
use convgroup_domain::code::Class;

/// Where the scale of the calls' time may begin and end, in seconds.
const LATENCY_MARKS: [f64; 5] = [0.001, 0.01, 0.1, 1.0, 10.0];
/// Where the scale of ages may begin and end, in seconds.
const AGE_MARKS: [f64; 9] = [
    0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0, 604_800.0,
];
/// Used to less than this share, the limit would make the chart of the calls a line at its bottom.
const USED_MIN: f64 = 0.1;

/// The charts, each step and each row of a table made once for all.
struct Charts<'v> {
    hour: &'v Hour,
    axis: Axis,
    slots: Vec<Slot>,
    /// The youngest first.
    rows: Vec<Slot>,
    /// How far back, in words.
    span: String,
}

/// A section with all charts.
pub(super) fn charts(hour: &Hour, calls_per_second: u32) -> Markup {
    let axis = hour.axis();
    let mut rows = hour.slots(axis.row);
    rows.reverse();
    let covered = hour.covered();
    let span = if covered + Duration::from_mins(1) >= HOUR {
        "last hour".to_owned()
    } else {
        format!("last {}", HumanDuration(covered))
    };
    let charts = Charts {
        hour,
        axis,
        slots: hour.slots(axis.slot),
        rows,
        span,
    };
    html! {
        section {
            h2 { "The " (charts.span) }
            p.about { "A step is " (axis.slot) " seconds. A gap is a time of which nothing is known." }
            (patterns())
            div.charts {
                (charts.calls(calls_per_second).draw())
                (charts.latency().draw())
                (charts.depths().draw())
                (charts.age().draw())
            }
        }
    }
}

impl Charts<'_> {
    fn time(&self) -> Time {
        Time {
            window: self.axis.window,
            label: self.axis.label,
            slots: self.slots.iter().map(|slot| (slot.from, slot.to)).collect(),
        }
    }

    fn table(&self, head: Vec<String>, figures: impl Fn(&Slot) -> Vec<String>) -> Table {
        let row = |slot: &Slot| {
            let when = clock(self.hour.now_unix - slot.from, self.axis.row < 60);
            (when, figures(slot))
        };
        Table {
            head,
            rows: self.rows.iter().map(row).collect(),
        }
    }

    fn calls(&self, calls_per_second: u32) -> Chart {
        let seen: Vec<(usize, Class)> = (0..)
            .zip(Class::ALL)
            .filter(|(index, _)| self.slots.iter().any(|slot| slot.calls[*index] > 0))
            .collect();
        let all = |slot: &Slot| -> f64 { seen.iter().map(|(index, _)| slot.rate(*index)).sum() };
        let limit = f64::from(calls_per_second);
        let highest = self.slots.iter().map(all).fold(0.0, f64::max);
        let now = self.slots.last().map_or(0.0, all);
        let total: u64 = self.slots.iter().flat_map(|slot| slot.calls).sum();
        let of_class =
            |index: usize| -> u64 { self.slots.iter().map(|slot| slot.calls[index]).sum() };
        let shares: Vec<String> = seen
            .iter()
            .map(|(index, class)| format!("{class} {}", share(of_class(*index), total)))
            .collect();
        let in_words = if seen.is_empty() {
            format!("No call was answered in the {}.", self.span)
        } else {
            format!(
                "In the {}: {} calls, now {}, highest {}, where the limit is {calls_per_second}/s. By class: {}.",
                self.span,
                HumanCount(total),
                rate(now),
                rate(highest),
                shares.join(", ")
            )
        };
        let series = |(index, class): &(usize, Class)| {
            let values = self.slots.iter().map(|slot| slot.rate(*index));
            let highest = values.clone().fold(0.0, f64::max);
            let now = self.slots.last().map_or(0.0, |slot| slot.rate(*index));
            Series {
                name: class.to_string(),
                look: look(*class),
                told: format!("{} now, highest {}", rate(now), rate(highest)),
                values: values.map(Some).collect(),
            }
        };
        let top = if highest == 0.0 || highest >= limit * USED_MIN {
            highest.max(limit)
        } else {
            highest
        };
        let mut head = vec!["all".to_owned()];
        head.extend(seen.iter().map(|(_, class)| class.to_string()));
        let figures = |slot: &Slot| {
            let rates = seen.iter().map(|(index, _)| slot.rate(*index));
            [all(slot)].into_iter().chain(rates).map(rate).collect()
        };
        Chart {
            id: "calls",
            title: "Calls per second",
            about: format!(
                "By class of the answer. All: {} now, highest {}.",
                rate(now),
                rate(highest)
            ),
            in_words,
            empty: "no call was answered",
            time: self.time(),
            scale: Scale::linear(top, false),
            mark: plain,
            shape: Shape::Stack,
            series: seen.iter().map(series).collect(),
            limit: Some(Limit {
                value: limit,
                told: format!("limit {calls_per_second}/s"),
            }),
            table: self.table(head, figures),
        }
    }

    fn latency(&self) -> Chart {
        let of = |slot: &Slot, share: f64| slot.latency.quantile(share, &self.hour.latency_bounds);
        let kinds = [
            ("p99", 0.99, "line-1", "99 of 100 take at most this"),
            ("p50", 0.5, "line-2", "half of them take at most this"),
        ];
        let mut in_words = Vec::new();
        let series = kinds.map(|(name, share, look, means)| {
            let values: Vec<Option<f64>> = self.slots.iter().map(|slot| of(slot, share)).collect();
            let told = extremes(&values, seconds, "none");
            in_words.push(format!("{name} ({means}): {told}"));
            Series {
                name: name.to_owned(),
                look,
                values,
                told,
            }
        });
        let values = series.iter().flat_map(|series| &series.values);
        let scale = Scale::logarithmic(values.flatten().copied(), &LATENCY_MARKS);
        let head = kinds.map(|(name, ..)| name.to_owned()).to_vec();
        let figures = |slot: &Slot| {
            kinds
                .map(|(_, share, ..)| of(slot, share).map_or_else(none, seconds))
                .to_vec()
        };
        Chart {
            id: "latency",
            title: "Time that a call takes",
            about: "Until its complete reply: half take at most p50, 99 of 100 at most p99."
                .to_owned(),
            in_words: format!("In the {}: {}.", self.span, in_words.join("; ")),
            empty: "no call was answered",
            time: self.time(),
            scale,
            mark: seconds,
            shape: Shape::Lines,
            series: series.to_vec(),
            limit: None,
            table: self.table(head, figures),
        }
    }

    fn depths(&self) -> Chart {
        let kinds = [
            ("main (waiting)", "line-1", Queue::Main),
            ("retry (delayed)", "line-2", Queue::Retry),
            ("dead letters", "line-3", Queue::Dead),
        ];
        let mut in_words = Vec::new();
        let series = kinds.map(|(name, look, queue)| {
            let value = |slot: &Slot| slot.depths.map(|depths| queue.depth(depths).into());
            let values: Vec<Option<f64>> = self.slots.iter().map(value).collect();
            let told = extremes(&values, counted, "not known");
            in_words.push(format!("{name}: {told}"));
            Series {
                name: name.to_owned(),
                look,
                values,
                told,
            }
        });
        let values = series.iter().flat_map(|series| &series.values).flatten();
        let scale = Scale::linear(values.copied().fold(0.0, f64::max), true);
        let figures = |slot: &Slot| {
            kinds
                .map(|(_, _, queue)| {
                    slot.depths
                        .map_or_else(none, |depths| counted(queue.depth(depths).into()))
                })
                .to_vec()
        };
        Chart {
            id: "depths",
            title: "Messages in the queues",
            about: "Ready, as last asked in each step. Without a session they are not known."
                .to_owned(),
            in_words: format!("In the {}: {}.", self.span, in_words.join("; ")),
            empty: "the queues have not been seen",
            time: self.time(),
            scale,
            mark: short,
            shape: Shape::Lines,
            series: series.to_vec(),
            limit: None,
            table: self.table(kinds.map(|(name, ..)| name.to_owned()).to_vec(), figures),
        }
    }

    /// What can be known of the oldest message here: the broker does not tell how old those are that wait.
    fn age(&self) -> Chart {
        let of = |slot: &Slot| slot.age.highest(&self.hour.age_bounds);
        let values: Vec<Option<f64>> = self.slots.iter().map(of).collect();
        let told = extremes(&values, at_most, "none");
        let scale = Scale::logarithmic(values.iter().flatten().copied(), &AGE_MARKS);
        let figures = |slot: &Slot| vec![of(slot).map_or_else(none, at_most)];
        Chart {
            id: "age",
            title: "Age of the oldest message settled",
            about: "Since it was published, as a bound. How old those are that wait, the broker does not tell."
                .to_owned(),
            in_words: format!("In the {}, the oldest message settled in a step: {told}.", self.span),
            empty: "no message was settled",
            time: self.time(),
            scale,
            mark: seconds,
            shape: Shape::Lines,
            series: vec![Series {
                name: "oldest settled".to_owned(),
                look: "line-1",
                values,
                told,
            }],
            limit: None,
            table: self.table(vec!["oldest settled".to_owned()], figures),
        }
    }
}

/// The class of the style sheet for a layer.
const fn look(class: Class) -> &'static str {
    match class {
        Class::Deleted => "look-deleted",
        Class::Gone => "look-gone",
        Class::Transient => "look-transient",
        Class::Throttled => "look-throttled",
        Class::Rejected => "look-rejected",
        Class::Signature => "look-signature",
        Class::Account => "look-account",
        Class::Unknown => "look-unknown",
    }
}

/// The patterns of the layers, each named as the look it belongs to: what lies in them in the colour of the paper.
fn patterns() -> Markup {
    let lines: [(Class, &str); 7] = [
        (Class::Gone, "M0 1H8"),
        (Class::Transient, "M1 0V8"),
        (Class::Throttled, "M0 1H8M1 0V8"),
        (Class::Rejected, "M0 1H8M0 5H8"),
        (Class::Signature, "M1 0V8M5 0V8"),
        (Class::Account, "M0 1H8M0 5H8M1 0V8M5 0V8"),
        (Class::Unknown, "M0 1H4M4 5H8"),
    ];
    html! {
        svg.patterns width="0" height="0" aria-hidden="true" {
            @for (class, path) in lines {
                pattern id=(look(class)) class=(look(class)) width="8" height="8" patternUnits="userSpaceOnUse" {
                    rect width="8" height="8" {}
                    path d=(path) {}
                }
            }
        }
    }
}

/// The last value and the highest, in words; `gap` is what none means.
fn extremes(values: &[Option<f64>], told: fn(f64) -> String, gap: &str) -> String {
    let Some(highest) = values.iter().flatten().copied().reduce(f64::max) else {
        return gap.to_owned();
    };
    let now = values
        .last()
        .copied()
        .flatten()
        .map_or(gap.to_owned(), told);
    format!("{now} now, highest {}", told(highest))
}

/// The time of the day of a moment in unix seconds, in UTC.
fn clock(unix: f64, with_seconds: bool) -> String {
    let part = |width: f64, parts: f64| (unix.max(0.0) / width).floor() % parts;
    let (hours, minutes) = (part(3600.0, 24.0), part(60.0, 60.0));
    let seconds = if with_seconds {
        format!(":{:02}", part(1.0, 60.0))
    } else {
        String::new()
    };
    format!("{hours:02}:{minutes:02}{seconds}")
}

fn none() -> String {
    "–".to_owned()
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 / whole.max(1) as f64 * 100.0)
}

/// A number with as many places after the point as it needs to say something.
fn plain(value: f64) -> String {
    let places = match value {
        0.0 => 0,
        value if value < 1.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn rate(calls: f64) -> String {
    format!("{}/s", plain(calls))
}

fn counted(messages: f64) -> String {
    // From a u32: nothing is cut off.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "depths are counted in 32 bits"
    )]
    let messages = messages as u64;
    HumanCount(messages).to_string()
}

/// As short as a mark at an axis has to be.
fn short(messages: f64) -> String {
    match messages {
        messages if messages >= 1e9 => format!("{}G", plain(messages / 1e9)),
        messages if messages >= 1e6 => format!("{}M", plain(messages / 1e6)),
        messages if messages >= 1e3 => format!("{}k", plain(messages / 1e3)),
        _ => plain(messages),
    }
}

/// An age that is known by the bound that it does not exceed.
fn at_most(bound: f64) -> String {
    let sign = if bound.is_finite() { "≤ " } else { "" };
    format!("{sign}{}", seconds(bound))
}

/// A time in the unit in which it is shortest.
fn seconds(seconds: f64) -> String {
    const MINUTE: f64 = 60.0;
    const HOUR: f64 = 60.0 * MINUTE;
    const DAY: f64 = 24.0 * HOUR;
    let (value, unit) = match seconds {
        seconds if !seconds.is_finite() => return "over 7 days".to_owned(),
        seconds if seconds < 1.0 => (seconds * 1000.0, "ms"),
        seconds if seconds < MINUTE => (seconds, "s"),
        seconds if seconds < HOUR => (seconds / MINUTE, "min"),
        seconds if seconds < DAY => (seconds / HOUR, "h"),
        seconds => (seconds / DAY, if seconds > DAY { "days" } else { "day" }),
    };
    let value = if value < 10.0 {
        plain(value)
    } else {
        format!("{value:.0}")
    };
    format!("{value} {unit}")
}

#[cfg(test)]
mod tests {
    use super::super::hour::made_up::{AGE_BOUNDS, LATENCY_BOUNDS, hour};
    use super::*;
    use convgroup_broker::events::Depths;

    #[test]
    fn figures_are_short() {
        for (value, told) in [
            (0.0, "0"),
            (0.001, "0"),
            (0.25, "0.25"),
            (0.5, "0.5"),
            (100.0, "100"),
            (3.0, "3"),
            (3.16, "3.2"),
            (99.99, "100"),
            (199.6, "200"),
        ] {
            assert_eq!(plain(value), told);
        }
        for (value, told) in [
            (0.0, "0"),
            (999.0, "999"),
            (1500.0, "1.5k"),
            (20_000.0, "20k"),
            (4e9, "4G"),
        ] {
            assert_eq!(short(value), told);
        }
        for (value, told) in [
            (0.0, "0 ms"),
            (0.001, "1 ms"),
            (0.0123, "12 ms"),
            (0.25, "250 ms"),
            (1.0, "1 s"),
            (2.96, "3 s"),
            (15.0, "15 s"),
            (90.0, "1.5 min"),
            (3600.0, "1 h"),
            (86_400.0, "1 day"),
            (604_800.0, "7 days"),
            (f64::INFINITY, "over 7 days"),
        ] {
            assert_eq!(seconds(value), told);
        }
        for (unix, with_seconds, told) in [
            (-1.0, false, "00:00"),
            (0.0, true, "00:00:00"),
            (86_399.0, true, "23:59:59"),
            (86_400.0 * 20_000.0 + 3660.0, false, "01:01"),
        ] {
            assert_eq!(clock(unix, with_seconds), told);
        }
    }

    /// The marks and the words know the metrics' bounds.
    #[test]
    fn every_bound_of_the_histograms_lies_on_its_scale() {
        for (bounds, marks) in [
            (&LATENCY_BOUNDS[..], &LATENCY_MARKS[..]),
            (&AGE_BOUNDS, &AGE_MARKS),
        ] {
            for bound in bounds {
                assert!(marks[0] <= *bound && *bound <= marks[marks.len() - 1]);
            }
        }
    }

    #[test]
    fn extremes_are_told_as_far_as_they_are_known() {
        for (values, told) in [
            (&[][..], "none"),
            (&[None], "none"),
            (&[Some(1.0), Some(3.0), Some(2.0)], "2 now, highest 3"),
            (&[Some(1.0), None], "none now, highest 1"),
        ] {
            assert_eq!(extremes(values, plain, "none"), told);
        }
    }

    fn told(hour: &Hour) -> String {
        charts(hour, 200).into_string()
    }

    #[test]
    fn the_charts_say_in_words_and_in_figures_what_they_show() {
        let made = hour(360, |index, mut sample| {
            sample.calls[0] = 1000;
            sample.calls[3] = u32::from(index >= 180) * 500;
            sample.latency.within[4] = 1000;
            sample.latency.within[10] = u32::from(index == 100) * 1000;
            sample.age.within[6] = 1;
            sample.age.above = u32::from(index == 0);
            sample.depths = (index < 350).then_some(Depths {
                main: 24_000 - index,
                retry: 7,
                dead: 0,
            });
            sample
        });
        let page = told(&made);
        for told in [
            "<h2>The last hour</h2>",
            "In the last hour: 450,000 calls, now 150/s, highest 150/s, where the limit is 200/s. \
             By class: deleted 80.0 %, throttled 20.0 %.",
            "p99 (99 of 100 take at most this): 25 ms now, highest 2 s",
            "main (waiting): not known now, highest 23,998; retry (delayed): not known now, highest 7",
            "the oldest message settled in a step: ≤ 15 s now, highest over 7 days.",
            "A step is 30 seconds.",
            ">limit 200/s</text>",
            "<th scope=\"row\">10:55</th><td>150/s</td><td>100/s</td><td>50/s</td>",
            "<th scope=\"row\">10:00</th><td>over 7 days</td>",
            "<th scope=\"row\">10:55</th><td>23,651</td><td>7</td><td>0</td>",
        ] {
            assert!(page.contains(told), "no {told} in\n{page}");
        }
        // Only what was seen is a layer.
        assert!(!page.contains("<path class=\"area look-gone\""), "{page}");
    }

    #[test]
    fn a_limit_that_is_hardly_used_is_told_and_not_drawn() {
        for (calls, is_drawn) in [(0, true), (1, false), (199, false), (200, true)] {
            let page = told(&hour(360, |_, mut sample| {
                sample.calls[0] = calls;
                sample
            }));
            let drawn = page.contains(">limit 200/s</text>");
            let above = page.contains("limit 200/s, above this chart");
            assert_eq!((drawn, above), (is_drawn, !is_drawn), "{calls}");
        }
    }

    #[test]
    fn a_young_process_shows_what_it_has() {
        let page = told(&hour(0, |_, sample| sample));
        for told in [
            "No call was answered in the last 0 seconds.",
            "no message was settled",
        ] {
            assert!(page.contains(told), "no {told} in\n{page}");
        }
        let page = told(&hour(12, |_, mut sample| {
            sample.calls[0] = 1;
            sample
        }));
        for told in ["The last 2 minutes", "−5 min", "A step is 10 seconds."] {
            assert!(page.contains(told), "no {told} in\n{page}");
        }
    }

    #[test]
    fn each_layer_has_a_look_and_each_look_a_pattern_or_none() {
        let css = include_str!("page.css");
        for class in Class::ALL {
            assert_eq!(look(class), format!("look-{class}"));
            assert!(css.contains(&format!(".{} {{ fill: var(", look(class))));
            let pattern = patterns()
                .into_string()
                .contains(&format!("<pattern id=\"{}\"", look(class)));
            let used = css.contains(&format!("url(#{})", look(class)));
            let is_plain = class == Class::Deleted;
            assert_eq!((pattern, used), (!is_plain, !is_plain), "{class}");
        }
    }

    /// How far two colours are apart, as the accessibility guidelines (WCAG 2) count it.
    fn contrast(one: &str, other: &str) -> f64 {
        let luminance = |colour: &str| -> f64 {
            let digits = colour.trim_start_matches('#');
            let each = if digits.len() == 3 { 1 } else { 2 };
            let part = |index: usize| {
                let digits = &digits[index * each..(index + 1) * each];
                let value = u8::from_str_radix(&digits.repeat(3 - each), 16).unwrap();
                let value = f64::from(value) / 255.0;
                if value <= 0.04045 {
                    value / 12.92
                } else {
                    ((value + 0.055) / 1.055).powf(2.4)
                }
            };
            0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2)
        };
        let (one, other) = (luminance(one) + 0.05, luminance(other) + 0.05);
        one.max(other) / one.min(other)
    }

    #[test]
    fn texts_and_shapes_stand_out_from_the_paper_in_the_light_and_in_the_dark() {
        let css = include_str!("page.css");
        let schemes: Vec<&str> = css.split(":root {").skip(1).collect();
        assert_eq!(schemes.len(), 2);
        for scheme in schemes {
            let scheme = scheme.split_once('}').unwrap().0;
            let colour = |name: &str| {
                let rest = scheme.split_once(&format!("--{name}: ")).unwrap().1;
                rest.split_once(';').unwrap().0
            };
            for paper in ["paper", "card"].map(colour) {
                for text in ["ink", "soft", "good", "watch", "bad"] {
                    let contrast = contrast(colour(text), paper);
                    assert!(contrast >= 4.5, "{text} on {paper}: {contrast:.2}");
                }
                for shape in [
                    "blue", "sky", "amber", "violet", "red", "teal", "wine", "grey",
                ] {
                    let contrast = contrast(colour(shape), paper);
                    assert!(contrast >= 3.0, "{shape} on {paper}: {contrast:.2}");
                }
            }
        }
        assert!((contrast("#fff", "#000000") - 21.0).abs() < 1e-9);
    }
}
