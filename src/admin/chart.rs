//! One chart: inline SVG, its legend, and its figures as a table. Made of numbers and nothing else.
//!
//! A chart is as wide as its place. Its shapes are stretched to that, its texts are not: they stay readable on a phone. Nothing is
//! told by colour alone: layers have patterns and lines have dashes, and the legend names them with their values in the order in which
//! they lie.
use std::fmt::Write;

use maud::{Markup, html};

/// The height of the plot, in pixels.
const HEIGHT: f64 = 120.0;
/// Its width in units of its own, which are stretched to the place there is.
const WIDTH: f64 = 600.0;
/// Room above the plot, where the limit is named, and below it, where the time is.
const ABOVE: f64 = 16.0;
const BELOW: f64 = 20.0;
/// More marks than this would run into each other.
const MARKS_MAX: usize = 6;
/// Slots that are apart by less than this are neighbours, in seconds.
const APART: f64 = 0.5;

/// The vertical axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scale {
    bottom: f64,
    top: f64,
    is_logarithmic: bool,
    /// Where lines are drawn, the lowest first.
    pub(super) marks: Vec<f64>,
}

impl Scale {
    /// From 0 to the highest value, with marks at round ones; at whole ones for what is counted.
    pub(super) fn linear(highest: f64, is_whole: bool) -> Self {
        let is_drawable = (1e-6..1e15).contains(&highest);
        let top = if is_drawable { highest } else { 1.0 };
        let top = if is_whole { top.max(1.0) } else { top };
        let step = round_step(top / 3.0);
        let step = if is_whole { step.max(1.0) } else { step };
        let marks = (0u8..)
            .map(|times| f64::from(times) * step)
            .take_while(|mark| *mark <= top * 1.001)
            .take(MARKS_MAX)
            .collect();
        Self {
            bottom: 0.0,
            top,
            is_logarithmic: false,
            marks,
        }
    }

    /// Each mark at its own place, and the same distance for each factor of ten. It reaches from the last mark below all values to the
    /// first one above them.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>, marks: &[f64]) -> Self {
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        for value in values {
            (lowest, highest) = (lowest.min(value), highest.max(value));
        }
        let last = marks.len() - 1;
        let below = marks.iter().rposition(|mark| *mark <= lowest).unwrap_or(0);
        let above = marks.iter().position(|mark| *mark >= highest);
        let above = above.unwrap_or(last).max(1);
        let below = below.min(above - 1);
        let reached = &marks[below..=above];
        let every = reached.len().div_ceil(MARKS_MAX);
        Self {
            bottom: reached[0],
            top: reached[reached.len() - 1],
            is_logarithmic: true,
            marks: reached.iter().copied().step_by(every).collect(),
        }
    }

    /// Where a value lies, from 0 at the bottom to 1 at the top; what lies outside is at the edge.
    fn share(&self, value: f64) -> f64 {
        let share = if self.is_logarithmic {
            (value / self.bottom).ln() / (self.top / self.bottom).ln()
        } else {
            value / self.top
        };
        // What is no number lies at the bottom.
        if share > 0.0 { share.min(1.0) } else { 0.0 }
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT * (1.0 - self.share(value))
    }
}

/// The next of 1, 2, 5, 10, 20, 50, … from a number on.
fn round_step(at_least: f64) -> f64 {
    let power = 10_f64.powf(at_least.log10().floor());
    let fits = |step: &f64| *step >= at_least * 0.999;
    let steps = [1.0, 2.0, 5.0].map(|factor| factor * power);
    steps.into_iter().find(fits).unwrap_or(power * 10.0)
}

/// The horizontal axis: seconds before now.
#[derive(Clone, Debug)]
pub(super) struct Time {
    /// From the left edge until now.
    pub(super) window: u32,
    /// From one label to the next.
    pub(super) label: u32,
    /// Where each slot begins and ends.
    pub(super) slots: Vec<(f64, f64)>,
}

impl Time {
    fn x(&self, ago: f64) -> f64 {
        WIDTH * (1.0 - ago / f64::from(self.window)).clamp(0.0, 1.0)
    }

    /// What stands below the axis, and how far from the left in percent.
    fn labels(&self) -> Vec<(f64, String)> {
        let step = usize::try_from(self.label).unwrap_or(1).max(1);
        let moments = (0..=self.window).rev().step_by(step);
        moments
            .map(|ago| {
                let percent = 100.0 * (1.0 - f64::from(ago) / f64::from(self.window));
                let minutes = ago / 60;
                let text = match ago {
                    0 => "now".to_owned(),
                    _ if ago == self.window => format!("−{minutes} min"),
                    _ => format!("−{minutes}"),
                };
                (percent, text)
            })
            .collect()
    }
}

/// What is drawn together and named in the legend.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    /// How it looks: a class of the style sheet.
    pub(super) look: &'static str,
    /// One for each slot; none is a gap.
    pub(super) values: Vec<Option<f64>>,
    /// Its figures, in words.
    pub(super) told: String,
}

/// How series are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One on the other, the first at the bottom.
    Stack,
    /// Each by itself.
    Lines,
}

/// A value that is not to be exceeded.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    pub(super) value: f64,
    pub(super) told: String,
}

/// The figures for those who do not look at pictures.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) head: Vec<String>,
    /// When, and a figure for each column of the head.
    pub(super) rows: Vec<(String, Vec<String>)>,
}

/// All that a chart shows.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// Unique on the page.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What the figures are.
    pub(super) about: String,
    /// What the picture shows, in words.
    pub(super) in_words: String,
    /// What stands in the plot when there is nothing to draw.
    pub(super) empty: &'static str,
    pub(super) time: Time,
    pub(super) scale: Scale,
    /// How a mark is written.
    pub(super) mark: fn(f64) -> String,
    pub(super) shape: Shape,
    pub(super) series: Vec<Series>,
    pub(super) limit: Option<Limit>,
    pub(super) table: Table,
}

impl Chart {
    /// Slots without a gap between them, in which there is a value: where the first begins, then the height and the end of each.
    fn runs(&self, values: &[Option<f64>]) -> Vec<(f64, Vec<(f64, f64)>)> {
        let mut runs: Vec<(f64, Vec<(f64, f64)>)> = Vec::new();
        let mut end = None;
        for ((from, to), value) in self.time.slots.iter().zip(values) {
            let Some(value) = value else {
                end = None;
                continue;
            };
            let step = (self.scale.y(*value), self.time.x(*to));
            let follows = end.is_some_and(|end: f64| (end - from).abs() < APART);
            match runs.last_mut().filter(|_| follows) {
                Some((_, steps)) => steps.push(step),
                None => runs.push((self.time.x(*from), vec![step])),
            }
            end = Some(*to);
        }
        runs
    }

    /// A line of steps.
    fn line(&self, values: &[Option<f64>]) -> String {
        let mut path = String::new();
        for (x, steps) in self.runs(values) {
            let _ = write!(path, "M{} {}", number(x), number(steps[0].0));
            path += &flight(&steps);
        }
        path
    }

    /// The area below a line of steps.
    fn area(&self, values: &[Option<f64>]) -> String {
        let mut path = String::new();
        let base = number(HEIGHT);
        for (x, steps) in self.runs(values) {
            let _ = write!(path, "M{} {base}V{}", number(x), number(steps[0].0));
            path += &flight(&steps);
            let _ = write!(path, "V{base}Z");
        }
        path
    }

    /// The shapes with their looks, the hindmost first.
    fn shapes(&self) -> Vec<(&'static str, String)> {
        match self.shape {
            Shape::Lines => self
                .series
                .iter()
                .map(|series| (series.look, self.line(&series.values)))
                .collect(),
            Shape::Stack => {
                let mut sums: Vec<Option<f64>> = vec![None; self.time.slots.len()];
                let mut areas = Vec::new();
                for series in &self.series {
                    for (sum, value) in sums.iter_mut().zip(&series.values) {
                        *sum = value.map(|value| sum.unwrap_or_default() + value).or(*sum);
                    }
                    areas.push((series.look, self.area(&sums)));
                }
                areas.reverse();
                areas
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.series
            .iter()
            .all(|series| series.values.iter().all(Option::is_none))
    }

    /// The whole chart.
    pub(super) fn draw(&self) -> Markup {
        let (title, words) = (format!("{}-title", self.id), format!("{}-words", self.id));
        html! {
            figure.chart {
                figcaption { h3 { (self.title) } p.about { (self.about) } }
                svg.plot role="img" aria-labelledby=(title) aria-describedby=(words) height=(ABOVE + HEIGHT + BELOW) {
                    title id=(title) { (self.title) }
                    desc id=(words) { (self.in_words) }
                    (self.axes())
                    svg.shapes y=(ABOVE) width="100%" height=(HEIGHT) viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" {
                        @for (look, path) in self.shapes() {
                            @if !path.is_empty() { path class={ (self.kind()) " " (look) } d=(path) {} }
                        }
                    }
                    (self.limit_line())
                    @if self.is_empty() { text.empty x="50%" y=(ABOVE + HEIGHT / 2.0) { (self.empty) } }
                }
                (self.legend())
                (self.figures())
            }
        }
    }

    const fn kind(&self) -> &'static str {
        match self.shape {
            Shape::Stack => "area",
            Shape::Lines => "line",
        }
    }

    fn axes(&self) -> Markup {
        html! {
            @for mark in &self.scale.marks {
                @let y = number(ABOVE + self.scale.y(*mark));
                line.grid x1="0" x2="100%" y1=(y) y2=(y) {}
                text.mark x="-6" y=(y) { ((self.mark)(*mark)) }
            }
            @for (percent, label) in self.time.labels() {
                text.moment x={ (number(percent)) "%" } y=(ABOVE + HEIGHT + BELOW - 4.0) { (label) }
            }
        }
    }

    /// Nothing where the limit lies far above all there is: it stands in the legend.
    fn limit_line(&self) -> Markup {
        let seen = self
            .limit
            .as_ref()
            .filter(|limit| limit.value <= self.scale.top);
        html! {
            @if let Some(limit) = seen {
                @let y = ABOVE + self.scale.y(limit.value);
                line.limit x1="0" x2="100%" y1=(number(y)) y2=(number(y)) {}
                text.limit x="100%" y=(number(y - 4.0)) { (limit.told) }
            }
        }
    }

    /// In the order in which a stack lies.
    fn legend(&self) -> Markup {
        let mut series: Vec<&Series> = self.series.iter().collect();
        if self.shape == Shape::Stack {
            series.reverse();
        }
        let above = self
            .limit
            .as_ref()
            .filter(|limit| limit.value > self.scale.top);
        html! {
            ul.legend {
                @for series in series {
                    li {
                        svg.swatch width="24" height="12" aria-hidden="true" {
                            @match self.shape {
                                Shape::Stack => rect class={ "area " (series.look) } width="24" height="12" {},
                                Shape::Lines => path class={ "line " (series.look) } d="M0 6H24" {},
                            }
                        }
                        span { (series.name) } " " span.told { (series.told) }
                    }
                }
                @if let Some(limit) = above { li { span.told { (limit.told) ", above this chart" } } }
            }
        }
    }

    fn figures(&self) -> Markup {
        html! {
            @if !self.table.rows.is_empty() {
                details id={ (self.id) "-figures" } {
                    summary id={ (self.id) "-summary" } { (self.title) ", as a table" }
                    // Wider than a phone it is scrolled, and that has to work with keys.
                    div.wide id={ (self.id) "-table" } role="region" tabindex="0" aria-label={ (self.title) ", as a table" } {
                        table.counts {
                            thead { tr { th scope="col" { "from (UTC)" } @for name in &self.table.head { th scope="col" { (name) } } } }
                            tbody {
                                @for (when, figures) in &self.table.rows {
                                    tr { th scope="row" { (when) } @for figure in figures { td { (figure) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// From the height of the first step through all others to the end of the last.
fn flight(steps: &[(f64, f64)]) -> String {
    let mut path = String::new();
    let mut steps = steps
        .iter()
        .map(|(y, to)| (number(*y), number(*to)))
        .peekable();
    while let Some((y, to)) = steps.next() {
        match steps.peek() {
            // As high as this one: one line for both.
            Some((next, _)) if *next == y => {}
            Some((next, _)) => {
                let _ = write!(path, "H{to}V{next}");
            }
            None => {
                let _ = write!(path, "H{to}");
            }
        }
    }
    path
}

/// A coordinate, no finer than the eye sees.
fn number(value: f64) -> String {
    let rounded = (value * 10.0).round() / 10.0;
    // Not "-0".
    format!("{}", rounded + 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(shape: Shape, slots: &[(f64, f64)], values: &[&[Option<f64>]]) -> Chart {
        let series = |values: &&[Option<f64>]| Series {
            name: "name".to_owned(),
            look: "look",
            values: values.to_vec(),
            told: "told".to_owned(),
        };
        Chart {
            id: "id",
            title: "title",
            about: String::new(),
            in_words: "words".to_owned(),
            empty: "nothing yet",
            time: Time {
                window: 600,
                label: 120,
                slots: slots.to_vec(),
            },
            scale: Scale::linear(120.0, false),
            mark: |mark| mark.to_string(),
            shape,
            series: values.iter().map(series).collect(),
            limit: None,
            table: Table::default(),
        }
    }

    #[test]
    fn a_linear_scale_reaches_from_zero_to_the_highest_value() {
        for (highest, is_whole, top, marks) in [
            (0.0, false, 1.0, &[0.0, 0.5, 1.0][..]),
            (0.0, true, 1.0, &[0.0, 1.0]),
            (1.0, true, 1.0, &[0.0, 1.0]),
            (3.0, true, 3.0, &[0.0, 1.0, 2.0, 3.0]),
            (0.3, false, 0.3, &[0.0, 0.1, 0.2, 0.3]),
            (200.0, false, 200.0, &[0.0, 100.0, 200.0]),
            (200.4, false, 200.4, &[0.0, 100.0, 200.0]),
            (24_000.0, true, 24_000.0, &[0.0, 10_000.0, 20_000.0]),
            (f64::NAN, false, 1.0, &[0.0, 0.5, 1.0]),
            (f64::INFINITY, false, 1.0, &[0.0, 0.5, 1.0]),
            (-5.0, false, 1.0, &[0.0, 0.5, 1.0]),
        ] {
            let scale = Scale::linear(highest, is_whole);
            assert!((scale.top - top).abs() < 1e-9, "{highest}: {scale:?}");
            assert_eq!(scale.marks.len(), marks.len(), "{highest}: {scale:?}");
            for (mark, expect) in scale.marks.iter().zip(marks) {
                assert!((mark - expect).abs() < 1e-9, "{highest}: {scale:?}");
            }
        }
        for highest in [1e-300, 1e-6, 0.7, 9.99, f64::from(u32::MAX), 1e14, f64::MAX] {
            let scale = Scale::linear(highest, false);
            let marks = scale.marks.len();
            assert!((2..=MARKS_MAX).contains(&marks), "{highest}: {scale:?}");
            assert!(scale.marks.iter().all(|mark| mark.is_finite()), "{scale:?}");
        }
    }

    #[test]
    fn a_logarithmic_scale_reaches_from_mark_to_mark() {
        let marks = [0.001, 0.01, 0.1, 1.0, 10.0];
        for (values, reached) in [
            (&[][..], &marks[0..2]),
            (&[0.02], &marks[1..3]),
            (&[0.01, 0.1], &marks[1..3]),
            (&[0.01], &marks[0..2]),
            (&[0.0001, 0.0002], &marks[0..2]),
            (&[0.002, 3.0], &marks),
            (&[100.0], &marks[3..]),
            (&[f64::INFINITY], &marks[3..]),
            (&[0.0], &marks[0..2]),
        ] {
            let scale = Scale::logarithmic(values.iter().copied(), &marks);
            assert_eq!(scale.marks, reached, "{values:?}");
        }
        let many: Vec<f64> = (0..12).map(|power| 10_f64.powi(power)).collect();
        let scale = Scale::logarithmic([1.0, 1e11].into_iter(), &many);
        assert!(scale.marks.len() <= MARKS_MAX, "{scale:?}");
    }

    #[test]
    fn every_value_has_a_place_on_the_scale() {
        let linear = Scale::linear(100.0, true);
        let logarithmic = Scale::logarithmic([0.01, 1.0].into_iter(), &[0.01, 0.1, 1.0]);
        for (value, on_linear, on_logarithmic) in [
            (0.0, 120.0, 120.0),
            (0.1, 119.88, 60.0),
            (50.0, 60.0, 0.0),
            (1000.0, 0.0, 0.0),
            (-1.0, 120.0, 120.0),
            (f64::INFINITY, 0.0, 0.0),
            (f64::NEG_INFINITY, 120.0, 120.0),
            (f64::NAN, 120.0, 120.0),
        ] {
            assert!((linear.y(value) - on_linear).abs() < 1e-9, "{value}");
            let y = logarithmic.y(value);
            assert!((y - on_logarithmic).abs() < 1e-9, "{value}: {y}");
        }
    }

    #[test]
    fn lines_and_areas_are_steps_with_gaps() {
        let whole = [(600.0, 400.0), (400.0, 200.0), (200.0, 0.0)];
        let frozen = [(600.0, 400.0), (200.0, 0.0)];
        let early = [(900.0, 300.0)];
        let (low, high) = (Some(30.0), Some(90.0));
        for (slots, values, line, area) in [
            (&whole[..], &[None, None, None][..], "", ""),
            (&[], &[], "", ""),
            (
                &whole,
                &[low, high, high],
                "M0 90H200V30H600",
                "M0 120V90H200V30H600V120Z",
            ),
            (
                &whole,
                &[low, None, high],
                "M0 90H200M400 30H600",
                "M0 120V90H200V120ZM400 120V30H600V120Z",
            ),
            (
                &whole,
                &[None, low, None],
                "M200 90H400",
                "M200 120V90H400V120Z",
            ),
            (
                &frozen,
                &[low, low],
                "M0 90H200M400 90H600",
                "M0 120V90H200V120ZM400 120V90H600V120Z",
            ),
            (&early, &[high], "M0 30H300", "M0 120V30H300V120Z"),
            (
                &whole,
                &[Some(f64::NAN), Some(f64::INFINITY), Some(-1.0)],
                "M0 120H200V0H400V120H600",
                "M0 120V120H200V0H400V120H600V120Z",
            ),
        ] {
            let chart = chart(Shape::Lines, slots, &[values]);
            assert_eq!(chart.line(values), line, "{slots:?} {values:?}");
            assert_eq!(chart.area(values), area, "{slots:?} {values:?}");
        }
    }

    #[test]
    fn a_stack_lies_one_on_the_other_and_its_top_is_drawn_first() {
        let slots = [(600.0, 300.0), (300.0, 0.0)];
        let values: [&[_]; 2] = [&[Some(30.0), Some(60.0)], &[Some(30.0), None]];
        let shapes = chart(Shape::Stack, &slots, &values).shapes();
        let paths: Vec<&str> = shapes.iter().map(|(_, path)| &**path).collect();
        assert_eq!(
            paths,
            ["M0 120V60H600V120Z", "M0 120V90H300V60H600V120Z"],
            "the sum, and the first before it"
        );
    }

    #[test]
    fn the_time_is_told_from_the_left_edge_until_now() {
        let time = |window, label| Time {
            window,
            label,
            slots: Vec::new(),
        };
        for (window, label, texts) in [
            (300, 60, &["−5 min", "−4", "−3", "−2", "−1", "now"][..]),
            (3600, 900, &["−60 min", "−45", "−30", "−15", "now"]),
        ] {
            let labels = time(window, label).labels();
            let told: Vec<&str> = labels.iter().map(|(_, text)| &**text).collect();
            assert_eq!(told, texts);
            assert_eq!((labels[0].0, labels[texts.len() - 1].0), (0.0, 100.0));
        }
    }

    #[test]
    fn the_limit_is_drawn_or_told() {
        let limited = |value| Chart {
            limit: Some(Limit {
                value,
                told: "limit 7/s".to_owned(),
            }),
            ..chart(Shape::Stack, &[(600.0, 0.0)], &[&[Some(120.0)]])
        };
        let within = limited(60.0).draw().into_string();
        assert!(within.contains("<line class=\"limit\""), "{within}");
        assert!(within.contains(">limit 7/s</text>"), "{within}");
        assert!(!within.contains("above this chart"), "{within}");
        let above = limited(121.0).draw().into_string();
        assert!(!above.contains("<line class=\"limit\""), "{above}");
        assert!(above.contains("limit 7/s, above this chart"), "{above}");
    }

    #[test]
    fn an_empty_chart_says_that_it_is() {
        let gaps = [None];
        for (values, is_empty) in [
            (&[][..], true),
            (&[&gaps[..]], true),
            (&[&[Some(0.0)][..], &gaps], false),
        ] {
            let drawn = chart(Shape::Lines, &[(600.0, 0.0)], values).draw();
            let drawn = drawn.into_string();
            assert_eq!(drawn.contains("nothing yet</text>"), is_empty, "{drawn}");
            assert_eq!(
                drawn.contains("<path class=\"line look\" d=\"M0"),
                !is_empty || !values.is_empty()
            );
        }
    }

    #[test]
    fn coordinates_are_short() {
        for (value, told) in [
            (0.0, "0"),
            (-0.01, "0"),
            (1.0 / 3.0, "0.3"),
            (99.96, "100"),
            (600.0, "600"),
        ] {
            assert_eq!(number(value), told);
        }
    }
}
