//! An event that means all groups of a user: list, delete each, list again, until a list shows none.
//!
//! The empty list is the proof that the request is done. Nothing is carried from one delivery to the next: a copy is the event byte
//! for byte, and the API's list is the memory.
use super::attempt::Attempt;
use super::code::Verdict;
use super::decide::{Cause, Decided, Destination, NameEnd, RetryLimits, Successor, tier};
use super::message::DeleteGroups;

/// How often the groups are listed in one delivery; the last list is one of them (contract).
pub const LISTS_MAX: u32 = 3;
/// How many groups are deleted in one delivery at most. The API allows a user 20; the others of a longer list wait for a copy.
pub const NAMES_MAX: usize = 500;

/// The groups of one user while they are deleted: what was found, and what became of each.
#[derive(Clone, PartialEq, Eq)]
pub struct Sweep {
    names: Vec<String>,
    ends: Vec<Option<NameEnd>>,
    lists: u32,
    /// Places of the groups that the last list showed.
    present: Vec<usize>,
}

/// Names stay out of debug output.
impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweep")
            .field("names", &self.names.len())
            .field("lists", &self.lists)
            .finish_non_exhaustive()
    }
}

/// What comes next in a sweep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Delete the groups at these places, then list again.
    Delete(Vec<usize>),
    /// The sweep is over.
    Over(Swept),
}

/// How a sweep ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swept {
    /// How each group that was found ended, in the order in which they were found.
    pub ends: Vec<NameEnd>,
    /// What the last list said.
    pub list: List,
}

/// What the last list of a sweep said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// No group is left: the proof.
    Empty,
    /// There were groups, and not all of them could be deleted.
    Groups,
    /// It failed: the end of its call.
    Failed(NameEnd),
}

impl Default for Sweep {
    fn default() -> Self {
        Self::new()
    }
}

impl Sweep {
    /// Nothing was listed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            names: Vec::new(),
            ends: Vec::new(),
            lists: 0,
            present: Vec::new(),
        }
    }

    /// The name of the group at a place.
    ///
    /// # Panics
    /// No group was found for that place.
    #[must_use]
    pub fn name(&self, place: usize) -> &str {
        &self.names[place]
    }

    /// All names found so far, in the order of their places.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Takes in a whole list; repeated names count once. `recreated` is the verdict on groups that come again after each deletion.
    #[must_use]
    pub fn listed(&mut self, found: Vec<String>, recreated: &Verdict) -> Next {
        self.lists += 1;
        self.present = found.into_iter().map(|name| self.place(name)).collect();
        self.present.sort_unstable();
        self.present.dedup();
        if self.present.is_empty() {
            return self.over(List::Empty);
        }
        // What the API rejects once it rejects again.
        let rejected = |place: &usize| matches!(self.ends[*place], Some(NameEnd::Rejected(_)));
        let left: Vec<usize> = self
            .present
            .iter()
            .copied()
            .filter(|it| !rejected(it))
            .collect();
        if left.is_empty() {
            return self.over(List::Groups);
        }
        if self.lists >= LISTS_MAX {
            for place in left {
                self.ends[place] = Some(NameEnd::Failed(recreated.clone()));
            }
            return self.over(List::Groups);
        }
        let (now, later) = left.split_at(left.len().min(NAMES_MAX));
        for &place in later {
            self.ends[place] = Some(NameEnd::Interrupted);
        }
        Next::Delete(now.to_vec())
    }

    /// A list failed, with this end of its call. One that answers that nothing is there counts as empty.
    #[must_use]
    pub fn not_listed(&mut self, end: NameEnd) -> Next {
        match end {
            NameEnd::Deleted(_) | NameEnd::Gone(_) => {
                self.present.clear();
                self.over(List::Empty)
            }
            end => self.over(List::Failed(end)),
        }
    }

    /// Takes in how the group at a place ended.
    ///
    /// # Panics
    /// No group was found for that place.
    pub fn ended(&mut self, place: usize, end: NameEnd) {
        self.ends[place] = Some(end);
    }

    /// After the groups of [`Next::Delete`] ended: the end of the sweep, or nothing where another list makes sense.
    #[must_use]
    pub fn after_deleting(&mut self) -> Option<Swept> {
        let settled = |place: &usize| {
            let end = self.ends[*place].as_ref();
            end.is_some_and(|end| end.is_erased() || matches!(end, NameEnd::Rejected(_)))
        };
        if self.present.iter().all(settled) {
            return None;
        }
        Some(self.swept(List::Groups))
    }

    fn place(&mut self, name: String) -> usize {
        let known = self.names.iter().position(|other| *other == name);
        known.unwrap_or_else(|| {
            self.names.push(name);
            self.ends.push(None);
            self.names.len() - 1
        })
    }

    fn over(&mut self, list: List) -> Next {
        Next::Over(self.swept(list))
    }

    fn swept(&mut self, list: List) -> Swept {
        let ends = std::mem::take(&mut self.ends);
        Swept {
            ends: ends
                .into_iter()
                .map(|end| end.unwrap_or(NameEnd::Interrupted))
                .collect(),
            list,
        }
    }
}

impl Swept {
    /// A sweep that came to nothing, for this reason.
    #[must_use]
    pub const fn failed(end: NameEnd) -> Self {
        Self {
            ends: Vec::new(),
            list: List::Failed(end),
        }
    }

    /// All ends: those of the groups, and that of the list where it failed.
    pub fn all_ends(&self) -> impl Iterator<Item = &NameEnd> {
        let failed = match &self.list {
            List::Failed(end) => Some(end),
            List::Empty | List::Groups => None,
        };
        self.ends.iter().chain(failed)
    }

    /// The same, seen from a daemon that has found the API unreachable meanwhile: see [`NameEnd::excused`].
    #[must_use]
    pub fn excused(self) -> Self {
        Self {
            ends: self.ends.into_iter().map(NameEnd::excused).collect(),
            list: match self.list {
                List::Failed(end) => List::Failed(end.excused()),
                list => list,
            },
        }
    }

    /// Places of the groups that are not known to be gone.
    #[must_use]
    pub fn left(&self) -> Vec<usize> {
        if self.list == List::Empty {
            return Vec::new();
        }
        let left = self
            .ends
            .iter()
            .enumerate()
            .filter(|(_, end)| !end.is_erased());
        left.map(|(place, _)| place).collect()
    }
}

/// Decides on a message from how its sweep ended. It has one successor at most, always the whole event: a delayed copy while
/// anything failed in passing, else a dead letter if the API rejects a group or the list.
#[must_use]
pub fn decide_all(
    event: &DeleteGroups,
    swept: &Swept,
    attempt: Attempt,
    limits: RetryLimits,
) -> Decided {
    let count = |erased: fn(&NameEnd) -> bool| swept.ends.iter().filter(|end| erased(end)).count();
    let deleted = count(|end| matches!(end, NameEnd::Deleted(_)));
    let gone = match swept.list {
        List::Empty => swept.ends.len() - deleted,
        List::Groups | List::Failed(_) => count(|end| matches!(end, NameEnd::Gone(_))),
    };
    if swept.list == List::Empty {
        return Decided::ack(Vec::new(), deleted, gone, attempt);
    }
    if swept.all_ends().all(|end| *end == NameEnd::Interrupted) {
        return Decided::hand_back(attempt);
    }
    let (to, attempt_after, end) = destination(swept, attempt, limits);
    let verdict = end.verdict().cloned();
    let successor = Successor {
        to,
        left: Some(event.all_left()),
        places: swept.left(),
        attempt: attempt_after,
        info: verdict
            .as_ref()
            .map_or_else(String::new, |verdict| verdict.info.clone()),
        verdict,
    };
    Decided::ack(vec![successor], deleted, gone, attempt)
}

/// Where the event goes, with which history, and the end that sends it there.
fn destination(
    swept: &Swept,
    attempt: Attempt,
    limits: RetryLimits,
) -> (Destination, Attempt, &NameEnd) {
    let find = |is: fn(&NameEnd) -> bool| swept.all_ends().find(|end| is(end));
    let expired = find(|end| *end == NameEnd::Expired);
    let failed = find(|end| matches!(end, NameEnd::Failed(_)));
    let throttled = find(|end| matches!(end, NameEnd::Throttled(_)));
    let interrupted = find(|end| *end == NameEnd::Interrupted);
    let rejected = find(|end| matches!(end, NameEnd::Rejected(_)));
    let uncounted = throttled.or(interrupted);
    let failed_again = attempt.failed_again();
    if let Some(end) = expired {
        (Destination::Dead(Cause::Expired), attempt, end)
    } else if let Some(end) = failed.filter(|_| !limits.is_last(attempt)) {
        (
            Destination::Tier(tier(failed_again, limits)),
            failed_again,
            end,
        )
    } else if let Some(end) = uncounted {
        (Destination::Tier(0), attempt, end)
    } else if let Some(end) = failed {
        (Destination::Dead(Cause::Exhausted), failed_again, end)
    } else {
        let end = rejected.unwrap_or(&NameEnd::Interrupted);
        (Destination::Dead(Cause::Rejected), attempt, end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::decide::Decision;
    use super::super::message::{Target, decode};
    use super::super::samples::{LIMITS, attempt, end, recreated};
    use super::*;

    /// Plays a sweep: a list is written `ab`, or `!f` where it fails with that end; deletions end as the words say, in order.
    fn play(lists: &[&str], words: &str) -> (Vec<String>, Swept) {
        let (mut sweep, mut words) = (Sweep::new(), words.chars());
        let mut lists = lists.iter();
        loop {
            let list = lists.next().expect("no list is asked for beyond these");
            let next = match list.strip_prefix('!') {
                Some(word) => sweep.not_listed(end(word.chars().next().unwrap())),
                None => sweep.listed(list.chars().map(String::from).collect(), &recreated()),
            };
            let places = match next {
                Next::Over(swept) => {
                    assert_eq!(lists.next(), None, "another list was expected");
                    assert_eq!(words.next(), None, "more calls were expected");
                    return (sweep.names().to_vec(), swept);
                }
                Next::Delete(places) => places,
            };
            for place in places {
                assert_eq!(sweep.name(place), sweep.names()[place]);
                sweep.ended(
                    place,
                    end(words.next().expect("one call more than expected")),
                );
            }
            if let Some(swept) = sweep.after_deleting() {
                assert_eq!(lists.next(), None, "another list was expected");
                return (sweep.names().to_vec(), swept);
            }
        }
    }

    fn written(swept: &Swept) -> String {
        let end = |end: &NameEnd| match end {
            NameEnd::Deleted(_) => "d".to_owned(),
            NameEnd::Gone(_) => "g".to_owned(),
            NameEnd::Interrupted => "i".to_owned(),
            NameEnd::Expired => "e".to_owned(),
            NameEnd::Rejected(verdict) | NameEnd::Failed(verdict) | NameEnd::Throttled(verdict) => {
                verdict.code.clone()
            }
        };
        let ends: Vec<String> = swept.ends.iter().map(end).collect();
        let list = match &swept.list {
            List::Empty => "empty".to_owned(),
            List::Groups => "groups".to_owned(),
            List::Failed(failed) => format!("failed {}", end(failed)),
        };
        format!("{} {list}", ends.join(","))
    }

    #[track_caller]
    fn check(lists: &[&str], words: &str, failures: u32, expect: (&str, &str)) {
        let (_, swept) = play(lists, words);
        let event = decode(br#"{"From_Account":"u","AllGroups":true}"#).unwrap();
        let decided = decide_all(&event, &swept, attempt(failures), LIMITS);
        let text = match &decided.decision {
            Decision::HandBack => "back".to_owned(),
            Decision::Ack(successors) => {
                let one = |copy: &Successor| {
                    assert_eq!(copy.left.as_ref().unwrap().target(), Target::All);
                    assert_eq!(copy.left.as_ref().unwrap().rewritten(), None);
                    let to = match copy.to {
                        Destination::Tier(tier) => format!("tier{tier}"),
                        Destination::Dead(cause) => cause.label().to_owned(),
                    };
                    format!("{to}{:?}#{}", copy.places, copy.attempt.failures)
                };
                successors.iter().map(one).collect::<Vec<_>>().join(" ")
            }
        };
        let summary = &decided.summary;
        let text = format!("{text} {}+{}", summary.deleted, summary.gone);
        assert_eq!(
            (written(&swept).as_str(), text.as_str()),
            expect,
            "{lists:?} {words}"
        );
    }

    #[test]
    fn groups_are_deleted_until_a_list_shows_none() {
        check(&[""], "", 0, (" empty", " 0+0"));
        check(&["ab", ""], "dg", 0, ("d,g empty", " 1+1"));
        check(&["ab", "bc", ""], "dddd", 0, ("d,d,d empty", " 3+0"));
        check(&["aab", ""], "dd", 0, ("d,d empty", " 2+0"));
        check(&["!g"], "", 0, (" empty", " 0+0"));
        check(&["ab", "!g"], "dd", 0, ("d,d empty", " 2+0"));
    }

    #[test]
    fn groups_that_come_again_end_as_a_passing_failure() {
        let again = "groups_recreated";
        check(
            &["a", "a", "a"],
            "dd",
            0,
            (&format!("{again} groups"), "tier0[0]#1 0+0"),
        );
        check(
            &["a", "b", "c"],
            "dd",
            2,
            (&format!("d,d,{again} groups"), "exhausted[2]#3 2+0"),
        );
    }

    #[test]
    fn a_failure_ends_the_sweep_and_delays_the_event() {
        check(&["abc"], "dfd", 0, ("d,50004,d groups", "tier0[1]#1 2+0"));
        check(
            &["abc"],
            "dfr",
            1,
            ("d,50004,51011 groups", "tier1[1, 2]#2 1+0"),
        );
        check(
            &["abc"],
            "dfr",
            2,
            ("d,50004,51011 groups", "exhausted[1, 2]#3 1+0"),
        );
        check(
            &["ab"],
            "tt",
            2,
            ("60007,60007 groups", "tier0[0, 1]#2 0+0"),
        );
        check(&["ab"], "di", 0, ("d,i groups", "tier0[1]#0 1+0"));
        check(&["ab"], "fi", 2, ("50004,i groups", "tier0[0, 1]#2 0+0"));
        check(&["ab"], "ri", 0, ("51011,i groups", "tier0[0, 1]#0 0+0"));
        check(&["ab"], "ii", 0, ("i,i groups", "back 0+0"));
    }

    #[test]
    fn a_list_that_fails_counts_like_a_call() {
        check(&["!f"], "", 0, (" failed 50004", "tier0[]#1 0+0"));
        check(&["!f"], "", 2, (" failed 50004", "exhausted[]#3 0+0"));
        check(&["!r"], "", 0, (" failed 51011", "rejected[]#0 0+0"));
        check(&["!t"], "", 0, (" failed 60007", "tier0[]#0 0+0"));
        check(&["!i"], "", 0, (" failed i", "back 0+0"));
        check(
            &["ab", "!f"],
            "dd",
            0,
            ("d,d failed 50004", "tier0[]#1 2+0"),
        );
        check(&["ab", "!i"], "dd", 0, ("d,d failed i", "tier0[]#0 2+0"));
        check(
            &["ab", "!f"],
            "dd",
            2,
            ("d,d failed 50004", "exhausted[]#3 2+0"),
        );
    }

    #[test]
    fn what_is_rejected_is_not_called_for_again() {
        check(
            &["ab", "a"],
            "rd",
            0,
            ("51011,d groups", "rejected[0]#0 1+0"),
        );
        check(
            &["ab", "ac", "a"],
            "rdd",
            0,
            ("51011,d,d groups", "rejected[0]#0 2+0"),
        );
        // It is gone all the same: the list is the proof.
        check(&["ab", ""], "rd", 0, ("51011,d empty", " 1+1"));
    }

    #[test]
    fn no_copy_is_made_of_what_has_expired() {
        check(&["!e"], "", 0, (" failed e", "expired[]#0 0+0"));
        check(
            &["abc"],
            "dfe",
            0,
            ("d,50004,e groups", "expired[1, 2]#0 1+0"),
        );
        check(
            &["ab", "!e"],
            "dr",
            1,
            ("d,51011 failed e", "expired[1]#1 1+0"),
        );
    }

    #[test]
    fn a_list_that_is_too_long_waits_in_part() {
        let mut sweep = Sweep::new();
        let many: Vec<String> = (0..=NAMES_MAX).map(|number| number.to_string()).collect();
        let Next::Delete(places) = sweep.listed(many, &recreated()) else {
            panic!("there is something to delete");
        };
        assert_eq!(places.len(), NAMES_MAX);
        for place in places {
            sweep.ended(place, end('d'));
        }
        let swept = sweep.after_deleting().unwrap();
        assert_eq!(swept.left(), [NAMES_MAX]);
    }

    #[test]
    fn debug_output_names_nobody() {
        let mut sweep = Sweep::new();
        let _ = sweep.listed(vec!["secret".to_owned()], &recreated());
        assert_eq!(format!("{sweep:?}"), "Sweep { names: 1, lists: 1, .. }");
    }

    proptest! {
        /// Whatever the API shows and answers: lists are bounded, each group has one end, and none is taken for gone that a list
        /// showed after its deletion.
        #[test]
        fn a_sweep_is_bounded_and_tells_the_truth(lists in proptest::collection::vec("[a-d]{0,4}", 3), words in "[dgrftie]{8}") {
            let (mut sweep, mut words) = (Sweep::new(), words.chars());
            for (number, list) in lists.iter().enumerate() {
                let found: Vec<String> = list.chars().map(String::from).collect();
                let swept = match sweep.listed(found, &recreated()) {
                    Next::Over(swept) => Some(swept),
                    Next::Delete(places) => {
                        prop_assert!(number < 2, "the third list is the last");
                        let different: HashSet<&usize> = places.iter().collect();
                        prop_assert_eq!(different.len(), places.len());
                        for place in places {
                            sweep.ended(place, end(words.next().unwrap()));
                        }
                        sweep.after_deleting()
                    }
                };
                let Some(swept) = swept else { continue };
                prop_assert_eq!(swept.ends.len(), sweep.names.len());
                if swept.list == List::Empty {
                    prop_assert!(list.is_empty());
                }
                return Ok(());
            }
            prop_assert!(false, "the sweep did not end");
        }
    }
}
