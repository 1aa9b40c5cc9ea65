//! The status page: one self-contained HTML document, made of a [`View`] and nothing else.
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use indicatif::{HumanCount, HumanDuration};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::charts::charts;
use super::hour::Hour;
use super::recent::Lately;
use super::role::{Role, Signs};
use super::{Bounds, Identity};
use crate::state::State;
use convgroup_domain::decide::Outcome;

/// So many kinds of answers are told one by one.
const ANSWERS_MAX: usize = 8;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Everything the page tells.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) state: State,
    pub(super) state_for: Duration,
    pub(super) at: SystemTime,
    pub(super) up_for: Duration,
    /// What the three below are worth.
    pub(super) depths: Depths,
    /// Messages ready in the queues, as last asked.
    pub(super) main: u32,
    pub(super) retry: u32,
    pub(super) dead: u32,
    pub(super) in_flight: u32,
    /// Calls per second that may leave now.
    pub(super) pace: f64,
    pub(super) bounds: Bounds,
    pub(super) identity: Identity,
    /// How long ago; nothing before the first.
    pub(super) last_delivery: Option<Duration>,
    pub(super) last_success: Option<Duration>,
    /// Both connections: they come up and go down together.
    pub(super) is_connected: bool,
    pub(super) publish_is_blocked: bool,
    /// Whether requests are answered.
    pub(super) answers: bool,
    /// How long the signature in use is valid yet.
    pub(super) usersig_left: Option<Duration>,
    pub(super) lately: Lately,
    pub(super) hour: Hour,
    pub(super) reload: Reload,
}

/// Whether the page stays up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reload {
    /// Every 5 s.
    Itself,
    /// For who reads slowly, or listens.
    Never,
}

/// How much a person has to care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Good,
    Watch,
    Bad,
}

impl Mood {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Watch => "watch",
            Self::Bad => "bad",
        }
    }

    /// The dot in the browser's tab.
    const fn colour(self) -> &'static str {
        match self {
            Self::Good => "%231a7f37",
            Self::Watch => "%23bf8700",
            Self::Bad => "%23cf222e",
        }
    }
}

/// What the depths of the queues are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depths {
    /// Asked every 5 s.
    Known,
    /// Those of a session that is over.
    LastSeen,
    /// Never asked.
    Unseen,
}

impl Depths {
    /// A session is both connections; they come up and go down together.
    pub(super) const fn of(is_up: bool, had_session: bool) -> Self {
        match (is_up, had_session) {
            (true, _) => Self::Known,
            (false, true) => Self::LastSeen,
            (false, false) => Self::Unseen,
        }
    }
}

impl View {
    /// A figure of messages ready in a queue, and what it is worth.
    fn depth(&self, messages: u32, place: &str) -> (String, String) {
        match self.depths {
            Depths::Known => (count(messages), place.to_owned()),
            Depths::LastSeen => (count(messages), format!("{place}, as last seen")),
            Depths::Unseen => ("?".to_owned(), format!("{place}, not seen yet")),
        }
    }

    fn role(&self) -> Role {
        let consumes = self.state == State::Consuming && self.is_connected;
        Role::of(Signs {
            consumes_for: consumes.then_some(self.state_for),
            last_delivery: self.last_delivery,
            in_hand: self.in_flight,
            waiting: self.main,
        })
    }

    /// The state in a sentence. Whether one consumes or stands by is said by the role.
    fn reason(&self) -> Option<String> {
        let words = self.state.in_words();
        (self.state != State::Consuming).then(|| capitalized(&words) + ".")
    }

    fn mood(&self) -> Mood {
        match self.state {
            State::Consuming if self.role().may_be_deaf() || self.publish_is_blocked => Mood::Watch,
            State::Consuming => Mood::Good,
            State::Draining => Mood::Watch,
            State::Suspended { .. } | State::Unheard { .. } | State::Disconnected { .. } => {
                Mood::Bad
            }
        }
    }

    /// What is odd besides the state, in words.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.role().may_be_deaf() {
            notes.push(
                "If no other replica works, see \"ConvgroupDeafWorker\" in the runbook.".to_owned(),
            );
        }
        if self.publish_is_blocked {
            let waits = if self.answers {
                "what is deleted waits for its answer, and so do delays and dead letters"
            } else {
                "deletions go on, delays and dead letters wait"
            };
            notes.push(format!(
                "The broker has blocked publishing (memory or disk alarm): {waits}. Look at the broker's alarms."
            ));
        }
        if self.state == State::Consuming && self.pace < f64::from(self.bounds.calls_per_second) {
            notes.push(
                "The API throttles: the pace is cut and climbs back by itself. If it lasts, somebody else uses the limit too."
                    .to_owned(),
            );
        }
        if self.dead > 0 && self.depths == Depths::Known {
            notes.push("There are dead letters: convgroup-deleter dlq ls tells why.".to_owned());
        }
        notes
    }

    /// The main queue, and how long it takes at the pace now; nothing is promised of what can't be seen or is not worked on.
    fn waiting(&self) -> (String, String) {
        let (messages, place) = self.depth(self.main, "in the main queue");
        let works = self.state == State::Consuming && self.depths == Depths::Known;
        if self.main == 0 || !works || self.pace <= 0.0 {
            return (messages, place);
        }
        let seconds = (f64::from(self.main) / self.pace).ceil();
        let to_drain = HumanDuration(Duration::from_secs_f64(seconds));
        (
            messages,
            format!("{place}: {to_drain} at this pace, one name each"),
        )
    }

    fn calls_per_second(&self) -> f64 {
        self.lately.calls() as f64 / self.lately.span.as_secs_f64().max(1.0)
    }
}

/// The whole document.
pub(super) fn page(view: &View) -> Markup {
    let mood = view.mood();
    let icon = format!(
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='4' fill='{}'/></svg>",
        mood.colour()
    );
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (view.state.label()) " · convgroup-deleter" }
                link rel="icon" href=(icon);
                style { (PreEscaped(STYLE)) }
                @if view.reload == Reload::Itself { noscript { meta http-equiv="refresh" content="5"; } }
            }
            body {
                p #stale hidden {}
                main { (content(view, mood)) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

fn content(view: &View, mood: Mood) -> Markup {
    let blocked = if view.publish_is_blocked {
        ", blocked"
    } else {
        ""
    };
    html! {
        header class=(mood.class()) {
            p.name { "convgroup-deleter" }
            h1 { (view.state.label()) small { " for " (HumanDuration(view.state_for)) } }
            @if let Some(reason) = view.reason() { p.reason { (reason) } }
            p.role { (view.role().in_words()) }
            @for note in view.notes() { p.note { (note) } }
        }
        section.figures {
            (figure("waiting", view.waiting()))
            (figure("delayed", view.depth(view.retry, "in the delay queues")))
            (figure("dead letters", view.depth(view.dead, "in the dead-letter queue")))
            (figure("in hand", (count(view.in_flight), format!("of {} at most", view.bounds.prefetch))))
            (figure("pace", (
                format!("{:.0}/s", view.pace.floor()),
                format!("of {}/s; used lately: {:.1}/s", view.bounds.calls_per_second, view.calls_per_second())
            )))
            (figure("last success", (ago(view.last_success), "the API said deleted or gone".to_owned())))
        }
        (charts(&view.hour, view.bounds.calls_per_second))
        (answers(&view.lately))
        (messages(&view.lately))
        section {
            h2 { "Process" }
            table.facts {
                (row("main queue", &view.identity.queue))
                (row("API", &view.identity.api))
                (row("SDKAppID", &view.identity.sdk_app_id.to_string()))
                (row("broker", &view.identity.nodes.join(", ")))
                (row("listens on", &view.identity.listen.to_string()))
                (row("last delivery", &ago(view.last_delivery)))
                (row("answers", &view.identity.answers))
                (row("connection that consumes", up(view.is_connected)))
                (row("connection that publishes", &format!("{}{blocked}", up(view.is_connected))))
                (row("UserSig valid for", &view.usersig_left.map_or("not signed yet".to_owned(), |left| HumanDuration(left).to_string())))
                (row("up for", &HumanDuration(view.up_for).to_string()))
                (row("version", env!("CARGO_PKG_VERSION")))
            }
        }
        footer {
            // Relative: a proxy may serve the page under a path of its own. Without a slash at that path's end the script mends them.
            // With ids, by which the script finds the one that had the keyboard.
            p {
                "As of " (format_rfc3339_seconds(view.at)) ". "
                @if view.reload == Reload::Never { "Does not reload itself: " a #reload href="?" { "let it reload" } "." }
                @else { "Reloads itself every 5 seconds: " a #still href="?still" { "hold it still" } "." }
            }
            p { a #metrics href="metrics" { "metrics" } " · " a #readyz href="readyz" { "readyz" } " · " a #livez href="livez" { "livez" } }
        }
    }
}

fn figure(name: &str, (value, about): (String, String)) -> Markup {
    html! { div { p.label { (name) } p.value { (value) } p.about { (about) } } }
}

fn row(name: &str, value: &str) -> Markup {
    html! { tr { th scope="row" { (name) } td { (value) } } }
}

fn answers(lately: &Lately) -> Markup {
    let calls = lately.calls();
    let rest: u64 = lately
        .answers
        .iter()
        .skip(ANSWERS_MAX)
        .map(|(_, count)| count)
        .sum();
    html! {
        section {
            h2 { "Answers of the API, last " (HumanDuration(lately.span)) }
            @if calls == 0 {
                p.none { "No call was answered. Probes are not counted here." }
            } @else {
                table.counts.answers {
                    thead { tr { th scope="col" { "code" } th scope="col" { "means" } th scope="col" { "calls" } th scope="col" { "share" } } }
                    tbody {
                        @for (answer, count) in lately.answers.iter().take(ANSWERS_MAX) {
                            tr {
                                td { code { (answer.label) } }
                                td { (answer.meaning) " " span.class { (answer.class) } }
                                td { (HumanCount(*count)) }
                                td { (share(*count, calls)) }
                            }
                        }
                        @if rest > 0 {
                            tr { td {} td { "all others" } td { (HumanCount(rest)) } td { (share(rest, calls)) } }
                        }
                    }
                }
            }
        }
    }
}

fn messages(lately: &Lately) -> Markup {
    html! {
        section {
            h2 { "Messages settled" }
            table.counts {
                thead { tr { th scope="col" { "outcome" } th scope="col" { "last " (HumanDuration(lately.span)) } th scope="col" { "since the start" } } }
                tbody {
                    @for (outcome, lately, total) in &lately.settled {
                        tr {
                            td { (in_words(*outcome)) }
                            td { (HumanCount(*lately)) }
                            td { (HumanCount(*total)) }
                        }
                    }
                }
            }
        }
    }
}

const fn in_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::DeadLettered => "dead-lettered",
        Outcome::Delayed => "delayed",
        Outcome::Returned => "handed back",
        Outcome::Deleted => "deleted",
        Outcome::Gone => "already gone",
    }
}

fn share(part: u64, whole: u64) -> String {
    format!("{:.1} %", part as f64 / whole as f64 * 100.0)
}

fn count(number: u32) -> String {
    HumanCount(number.into()).to_string()
}

fn ago(since: Option<Duration>) -> String {
    since.map_or("never yet".to_owned(), |ago| {
        format!("{:#} ago", HumanDuration(ago))
    })
}

const fn up(is_up: bool) -> &'static str {
    if is_up { "up" } else { "down" }
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::hour::made_up;
    use super::*;

    pub(in crate::admin) fn view() -> View {
        View {
            state: State::Consuming,
            state_for: Duration::from_hours(2),
            at: SystemTime::UNIX_EPOCH,
            up_for: Duration::from_hours(2),
            depths: Depths::Known,
            main: 0,
            retry: 0,
            dead: 0,
            in_flight: 0,
            pace: 200.0,
            bounds: Bounds {
                prefetch: 256,
                calls_per_second: 200,
            },
            identity: Identity {
                queue: "convgroup.delete".to_owned(),
                api: "console.tim.qq.com".to_owned(),
                sdk_app_id: 1_400_000_000,
                nodes: vec!["amqp://guest:***@127.0.0.1:5672/%2f".to_owned()],
                answers: "convgroup.outcomes, kept in convgroup.outcomes.ledger".to_owned(),
                listen: ([127, 0, 0, 1], 9464).into(),
            },
            last_delivery: Some(Duration::from_secs(3)),
            last_success: Some(Duration::from_secs(3)),
            is_connected: true,
            publish_is_blocked: false,
            answers: false,
            usersig_left: Some(Duration::from_hours(20)),
            lately: Lately {
                span: Duration::from_mins(5),
                answers: Vec::new(),
                settled: Vec::new(),
            },
            hour: made_up::hour(0, |_, sample| sample),
            reload: Reload::Itself,
        }
    }

    #[test]
    fn the_mood_and_the_notes_follow_the_view() {
        let calm = view();
        let silent = View {
            last_delivery: Some(Duration::from_mins(2)),
            ..view()
        };
        let never = View {
            last_delivery: None,
            main: 1,
            ..view()
        };
        let young = View {
            state_for: Duration::from_secs(5),
            ..never.clone()
        };
        let deaf = View {
            main: 1,
            ..silent.clone()
        };
        let blocked = View {
            publish_is_blocked: true,
            ..view()
        };
        let throttled = View {
            pace: 100.0,
            ..view()
        };
        let letters = View { dead: 1, ..view() };
        let suspended = View {
            state: State::Suspended {
                reason: String::new(),
                next_probe: SystemTime::UNIX_EPOCH,
            },
            main: 1,
            pace: 100.0,
            ..silent.clone()
        };
        let draining = View {
            state: State::Draining,
            ..view()
        };
        for (name, view, mood, notes) in [
            ("calm", calm, Mood::Good, &[][..]),
            ("silent, but nothing waits", silent, Mood::Good, &[]),
            ("deaf", deaf, Mood::Watch, &["ConvgroupDeafWorker"]),
            (
                "deaf from the start",
                never,
                Mood::Watch,
                &["ConvgroupDeafWorker"],
            ),
            ("just started", young, Mood::Good, &[]),
            ("blocked", blocked, Mood::Watch, &["blocked publishing"]),
            ("throttled", throttled, Mood::Good, &["throttles"]),
            ("dead letters", letters, Mood::Good, &["dlq ls"]),
            ("suspended", suspended, Mood::Bad, &[]),
            ("draining", draining, Mood::Watch, &[]),
        ] {
            assert_eq!(view.mood(), mood, "{name}");
            let told = view.notes();
            assert_eq!(told.len(), notes.len(), "{name}: {told:?}");
            for (told, note) in told.iter().zip(notes) {
                assert!(told.contains(note), "{name}: {told}");
            }
        }
    }

    /// A broker or a proxy on the way writes what it likes into its refusal.
    #[test]
    fn what_comes_from_elsewhere_is_text() {
        let view = View {
            state: State::Disconnected {
                reason: "<script>alert(1)</script>".to_owned(),
            },
            ..view()
        };
        let page = page(&view).into_string();
        assert!(!page.contains("<script>alert"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    }

    #[test]
    fn the_time_to_drain_is_the_backlog_by_the_pace() {
        for (main, pace, told) in [
            (0, 200.0, "in the main queue"),
            (1, 200.0, "in the main queue: 1 second at"),
            (24_000, 200.0, "in the main queue: 2 minutes at"),
            (24_000, 0.0, "in the main queue"),
        ] {
            let view = View {
                main,
                pace,
                ..view()
            };
            let (_, about) = view.waiting();
            assert!(about.starts_with(told), "{about}");
        }
    }

    #[test]
    fn depths_that_are_not_of_now_are_marked_and_promise_nothing() {
        let disconnected = State::Disconnected {
            reason: String::new(),
        };
        let suspended = State::Suspended {
            reason: String::new(),
            next_probe: SystemTime::UNIX_EPOCH,
        };
        let timed = "in the main queue: 2 minutes at this pace, one name each";
        let plain = "in the main queue";
        let marked = "in the main queue, as last seen";
        let unseen = "in the main queue, not seen yet";
        for (state, is_up, had_session, messages, told) in [
            (State::Consuming, true, true, "24,000", timed),
            // The session is over and the loop does not know yet.
            (State::Consuming, false, true, "24,000", marked),
            (suspended, true, true, "24,000", plain),
            (State::Draining, true, true, "24,000", plain),
            (State::Draining, false, true, "24,000", marked),
            (disconnected.clone(), false, true, "24,000", marked),
            (disconnected, false, false, "?", unseen),
        ] {
            let name = format!("{} {is_up} {had_session}", state.label());
            let view = View {
                state,
                depths: Depths::of(is_up, had_session),
                main: 24_000,
                dead: 1,
                ..view()
            };
            assert_eq!(view.waiting(), (messages.into(), told.into()), "{name}");
            let tells_of_letters = view.notes().iter().any(|note| note.contains("dlq ls"));
            assert_eq!(tells_of_letters, is_up, "{name}");
            let marks = page(&view).into_string().matches("as last seen").count();
            assert_eq!(marks, if told == marked { 3 } else { 0 }, "{name}");
        }
    }

    #[test]
    fn the_page_says_which_daemon_it_is_of() {
        let page = page(&view()).into_string();
        for told in [
            "convgroup.delete",
            "console.tim.qq.com",
            "1400000000",
            "amqp://guest:***@127.0.0.1:5672/%2f",
        ] {
            assert!(
                page.contains(&format!("<td>{told}</td>")),
                "no {told} in {page}"
            );
        }
    }

    #[test]
    fn a_page_that_is_still_does_not_reload_itself() {
        for (reload, is_still) in [(Reload::Itself, false), (Reload::Never, true)] {
            let page = page(&View { reload, ..view() }).into_string();
            assert_eq!(page.contains("http-equiv=\"refresh\""), !is_still);
            assert_eq!(page.contains("href=\"?still\""), !is_still);
            assert_eq!(page.contains("href=\"?\""), is_still);
        }
    }
}
