//! A page of a user's groups, as the API tells it.

use serde::Serialize;

/// One page. An index is the place of a group among all of its user's, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    /// The index of the first group.
    start: u64,
    groups: Vec<String>,
    /// `CompleteFlag`; `None` leaves it out.
    complete_flag: Option<u8>,
    /// `NextStartIndex`.
    next: u64,
}

/// The number of the page that begins at `start`, counted from 0. With a size of 0 all is on one page.
pub(super) fn number(start: u64, size: u32) -> u64 {
    start.checked_div(size.into()).unwrap_or_default()
}

impl Page {
    /// The page of `groups` that begins at `start`; behind the last group it is empty.
    pub(super) fn of(groups: Vec<String>, start: u64, size: u32) -> Self {
        let end = match u64::from(size) {
            0 => u64::MAX,
            size => start.saturating_add(size),
        };
        let index = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let is_last = groups.len() <= index(end);
        let groups = groups.into_iter().take(index(end)).skip(index(start));
        Self {
            start,
            groups: groups.collect(),
            complete_flag: Some(u8::from(is_last)),
            next: if is_last { 0 } else { end },
        }
    }

    /// Whether the list is complete with it.
    pub(super) fn is_last(&self) -> bool {
        self.complete_flag == Some(1)
    }

    /// The page as one that is followed by itself.
    pub(super) fn stuck(self) -> Self {
        Self {
            complete_flag: Some(0),
            next: self.start,
            ..self
        }
    }

    /// The page without its `CompleteFlag`.
    pub(super) fn without_flag(self) -> Self {
        Self {
            complete_flag: None,
            ..self
        }
    }

    /// The API's answer. In each group there is one made-up conversation, one-to-one and group by turns.
    pub(super) fn json(&self) -> String {
        let numbered = || (self.start.saturating_add(1)..).zip(&self.groups);
        let reply = Reply {
            contact_item: numbered()
                .map(|(id, _)| Conversation::made_up(id))
                .collect(),
            group_item: numbered()
                .map(|(group_id, group_name)| GroupItem {
                    group_name,
                    group_id,
                })
                .collect(),
            complete_flag: self.complete_flag,
            next_start_index: self.next,
            action_status: "OK",
            error_code: 0,
            error_info: "",
        };
        serde_json::to_string(&reply).expect("strings and numbers always become JSON")
    }
}

/// The API's answer, in the order of its fields.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Reply<'a> {
    contact_item: Vec<Conversation>,
    group_item: Vec<GroupItem<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete_flag: Option<u8>,
    next_start_index: u64,
    action_status: &'a str,
    error_code: i64,
    error_info: &'a str,
}

/// A group, as deletions and lists tell it.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct GroupItem<'a> {
    pub(super) group_name: &'a str,
    pub(super) group_id: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Conversation {
    /// 1: one-to-one, 2: group.
    r#type: u8,
    #[serde(rename = "To_Account", skip_serializing_if = "Option::is_none")]
    to_account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_group_id: Option<String>,
    standard_mark: &'static str,
    custom_mark: &'static str,
    contact_group_id: [u64; 1],
    timestamp: u64,
}

impl Conversation {
    /// A conversation in the group with this id.
    fn made_up(group_id: u64) -> Self {
        let is_group = group_id.is_multiple_of(2);
        Self {
            r#type: if is_group { 2 } else { 1 },
            to_account: (!is_group).then(|| format!("made-up-user-{group_id}")),
            to_group_id: is_group.then(|| format!("made-up-group-{group_id}")),
            standard_mark: "",
            custom_mark: "",
            contact_group_id: [group_id],
            timestamp: 1_700_000_000 + group_id % 1_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(groups: u64, start: u64, size: u32) -> Page {
        let groups = (0..groups).map(|number| format!("g{number}"));
        Page::of(groups.collect(), start, size)
    }

    #[test]
    fn pages_follow_each_other_to_the_last() {
        #[track_caller]
        fn check(groups: u64, start: u64, size: u32, expect: (&[&str], u8, u64)) {
            let page = page(groups, start, size);
            let (names, flag, next) = expect;
            assert_eq!(page.groups, names);
            assert_eq!((page.complete_flag, page.next), (Some(flag), next));
        }
        check(0, 0, 2, (&[], 1, 0));
        check(1, 0, 2, (&["g0"], 1, 0));
        check(2, 0, 2, (&["g0", "g1"], 1, 0));
        check(3, 0, 2, (&["g0", "g1"], 0, 2));
        check(3, 2, 2, (&["g2"], 1, 0));
        check(3, 1, 1, (&["g1"], 0, 2));
        check(3, 3, 2, (&[], 1, 0));
        check(3, u64::MAX, u32::MAX, (&[], 1, 0));
        check(3, 0, 0, (&["g0", "g1", "g2"], 1, 0));
        check(3, 2, 0, (&["g2"], 1, 0));
    }

    #[test]
    fn a_page_has_the_number_of_its_place() {
        for (start, size, expect) in [(0, 7, 0), (6, 7, 0), (7, 7, 1), (14, 7, 2), (14, 0, 0)] {
            assert_eq!(number(start, size), expect, "{start} of {size}");
        }
    }

    #[test]
    fn answers_look_like_the_service_s_own() {
        assert_eq!(
            page(20, 18, 1).json(),
            concat!(
                r#"{"ContactItem":[{"Type":1,"To_Account":"made-up-user-19","StandardMark":"","CustomMark":"","#,
                r#""ContactGroupId":[19],"Timestamp":1700000019}],"GroupItem":[{"GroupName":"g18","GroupId":19}],"#,
                r#""CompleteFlag":0,"NextStartIndex":19,"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#
            )
        );
        assert_eq!(
            page(0, 0, 1).json(),
            r#"{"ContactItem":[],"GroupItem":[],"CompleteFlag":1,"NextStartIndex":0,"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#
        );
        assert!(page(2, 1, 1).json().starts_with(
            r#"{"ContactItem":[{"Type":2,"ToGroupId":"made-up-group-2","StandardMark""#
        ));
    }

    #[test]
    fn a_faulty_page_has_its_groups_and_one_wrong_field() {
        let honest = page(3, 2, 2);
        let stuck = honest.clone().stuck();
        assert_eq!((stuck.complete_flag, stuck.next), (Some(0), 2));
        assert_eq!(stuck.groups, honest.groups);
        let json = honest.without_flag().json();
        assert!(
            !json.contains("CompleteFlag") && json.contains("g2"),
            "{json}"
        );
    }
}
