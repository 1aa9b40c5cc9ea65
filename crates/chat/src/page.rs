//! A page of the list `v4/recentcontact/get_contact_group`: what the body of a reply with `ErrorCode` 0 says of a user's groups.
//!
//! The API pages through conversations. It does not say whether each page repeats all groups, so callers take the union of the
//! names of all pages. What is not known for sure is no page: a list that seems complete and is not would leave groups behind.
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::answer::{Lossy, Text};

/// Most pages of one list (contract). A list that goes on behind them is taken for one without an end.
pub const PAGES_MAX: u32 = 50;

const NO_FLAG: &str = "the CompleteFlag is neither 0 nor 1";
const NO_GROUPS: &str = "no GroupItem, though the list goes on";
const NO_LIST: &str = "the GroupItem is no list of groups with names";
const STUCK: &str = "the NextStartIndex does not lead on";
const ENDLESS: &str = "more than 50 pages";
const TWICE: &str = "a field of the page stands there twice";

/// Which page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageAsked {
    /// `StartIndex`: 0 for the first page, then the [`Page::next`] of the page before.
    pub start_index: u64,
    /// How many pages came before; from 0 to [`PAGES_MAX`] - 1.
    pub number: u32,
}

impl PageAsked {
    /// The first page of a list.
    pub const FIRST: Self = Self {
        start_index: 0,
        number: 0,
    };

    /// The page behind this one, which begins at `next`: see [`Page::next`].
    #[must_use]
    pub const fn followed_by(self, next: u64) -> Self {
        Self {
            start_index: next,
            number: self.number.saturating_add(1),
        }
    }
}

/// A page of the list of a user's groups. `Debug` shows how many there are, and no name.
#[derive(Clone, PartialEq, Eq)]
pub struct Page {
    /// The names in the order of the reply. None is empty; a name may occur twice, and again on other pages.
    pub groups: Vec<String>,
    /// Where the next page begins. `None`: the list is complete.
    pub next: Option<u64>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page")
            .field("groups", &self.groups.len())
            .field("next", &self.next)
            .finish()
    }
}

/// Reads the page that `asked` stands for from the text of a reply with `ErrorCode` 0.
///
/// # Errors
/// Why it is no page, without a word of it.
pub(super) fn read(text: &Text<'_>, asked: PageAsked) -> Result<Page, &'static str> {
    let mut deserializer = serde_json::Deserializer::from_str(&text.json);
    let fields = pick(
        &mut deserializer,
        ["CompleteFlag", "GroupItem", "NextStartIndex"],
    );
    let [flag, groups, next] = fields.map_err(|_| TWICE)?;
    let is_complete = match flag.map(RawValue::get) {
        Some("1") => true,
        Some("0") => false,
        _ => return Err(NO_FLAG),
    };
    let groups = match groups {
        Some(groups) => names(groups, text.is_mended).ok_or(NO_LIST)?,
        None if is_complete => Vec::new(),
        None => return Err(NO_GROUPS),
    };
    if is_complete {
        return Ok(Page { groups, next: None });
    }
    let next = next.and_then(|next| next.get().parse().ok());
    let next = next.filter(|next| *next > asked.start_index).ok_or(STUCK)?;
    if asked.number >= PAGES_MAX - 1 {
        return Err(ENDLESS);
    }
    Ok(Page {
        groups,
        next: Some(next),
    })
}

/// The names in a `GroupItem`, if all of them could be read.
fn names(groups: &RawValue, is_mended: bool) -> Option<Vec<String>> {
    let groups: Vec<Group> = serde_json::from_str(groups.get()).ok()?;
    let names: Vec<String> = groups.into_iter().map(|Group(name)| name).collect();
    let is_whole = |name: &String| !is_mended || !name.contains(char::REPLACEMENT_CHARACTER);
    names.iter().all(is_whole).then_some(names)
}

/// The name in one entry of a `GroupItem`; it is not empty.
struct Group(String);

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let [name] = pick(deserializer, ["GroupName"])?;
        let name: Option<String> = name.and_then(|name| serde_json::from_str(name.get()).ok());
        name.filter(|name| !name.is_empty())
            .map(Self)
            .ok_or_else(|| D::Error::custom("no name"))
    }
}

/// The values of `keys` in an object, as they stand in the text. `null` is a value.
///
/// # Errors
/// It is no object, or one of the keys stands there twice.
fn pick<'de, D: Deserializer<'de>, const N: usize>(
    deserializer: D,
    keys: [&str; N],
) -> Result<[Option<&'de RawValue>; N], D::Error> {
    struct Picking<'k, const N: usize>([&'k str; N]);

    impl<'de, const N: usize> Visitor<'de> for Picking<'_, N> {
        type Value = [Option<&'de RawValue>; N];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut picked = [None; N];
            while let Some(Lossy(key)) = map.next_key()? {
                match self.0.iter().position(|wanted| *wanted == key) {
                    Some(at) if picked[at].is_some() => return Err(A::Error::custom("twice")),
                    Some(at) => picked[at] = Some(map.next_value()?),
                    None => {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
            }
            Ok(picked)
        }
    }

    deserializer.deserialize_map(Picking(keys))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer;

    /// What a body says that is asked for as the third page, from index 20 on.
    fn third(body: &[u8]) -> Result<(Vec<String>, Option<u64>), &'static str> {
        let asked = PageAsked {
            start_index: 20,
            number: 2,
        };
        let (answer, text) = answer::read_with_text(body, true).expect("an answer");
        assert_eq!(answer.code, 0);
        read(&text, asked).map(|page| (page.groups, page.next))
    }

    #[track_caller]
    fn check(fields: impl AsRef<[u8]>, expected: Result<(&[&str], Option<u64>), &'static str>) {
        let body = [b"{", fields.as_ref(), b",\"ErrorCode\":0}"].concat();
        let expected = expected.map(|(groups, next)| {
            let groups = groups.iter().map(|&group| group.to_owned()).collect();
            (groups, next)
        });
        assert_eq!(third(&body), expected, "{}", body.escape_ascii());
    }

    #[test]
    fn the_documented_reply_is_read() {
        let body = br#"{"ContactItem":[{"Type":1,"To_Account":"user_0002","StandardMark":"","CustomMark":"","ContactGroupId":[1],
            "Timestamp":1700000000},{"Type":2,"ToGroupId":"@TGS#1","ContactGroupId":[1,2]}],"GroupItem":[{"GroupName":"group_0001",
            "GroupId":1},{"GroupName":"group_0002","GroupId":2}],"CompleteFlag":1,"NextStartIndex":0,"ActionStatus":"OK",
            "ErrorCode":0,"ErrorInfo":""}"#;
        let names = vec!["group_0001".to_owned(), "group_0002".to_owned()];
        assert_eq!(third(body), Ok((names, None)));
    }

    #[test]
    fn the_flag_is_the_integer_0_or_1() {
        check(r#""GroupItem":[],"CompleteFlag":1"#, Ok((&[], None)));
        check(
            r#""GroupItem":[],"CompleteFlag": 0 ,"NextStartIndex":40"#,
            Ok((&[], Some(40))),
        );
        for flag in [
            "2", "-1", "-0", "1.0", "1e0", "10", "null", "true", r#""1""#, "[1]", "{}",
        ] {
            check(
                format!(r#""GroupItem":[],"CompleteFlag":{flag},"NextStartIndex":40"#),
                Err(NO_FLAG),
            );
        }
        check(r#""GroupItem":[],"NextStartIndex":40"#, Err(NO_FLAG));
        check(
            r#""GroupItem":[],"completeflag":1,"NextStartIndex":40"#,
            Err(NO_FLAG),
        );
    }

    #[test]
    fn groups_may_be_missing_only_where_the_list_is_complete() {
        check(r#""CompleteFlag":1"#, Ok((&[], None)));
        check(r#""CompleteFlag":0,"NextStartIndex":40"#, Err(NO_GROUPS));
        for groups in ["null", "0", r#""""#, "{}", r#"{"GroupName":"a"}"#] {
            for flag in ["1", r#"0,"NextStartIndex":40"#] {
                check(
                    format!(r#""GroupItem":{groups},"CompleteFlag":{flag}"#),
                    Err(NO_LIST),
                );
            }
        }
    }

    #[test]
    fn each_group_has_a_name() {
        let body = |groups: &str| format!(r#""GroupItem":[{groups}],"CompleteFlag":1"#);
        for (groups, names) in [
            (r#"{"GroupName":"a"}"#, &["a"][..]),
            (
                r#"{"GroupId":2,"GroupName":"b"},{"GroupName":"a","GroupId":null}"#,
                &["b", "a"],
            ),
            (
                r#"{"GroupName":"a"},{"GroupName":"a"},{"GroupName":" "}"#,
                &["a", "a", " "],
            ),
            (
                r#"{"GroupName":"\ud83d\ude00\n"},{"Group\u004eame":"群组"}"#,
                &["\u{1f600}\n", "群组"],
            ),
            ("{\"GroupName\":\"\u{fffd}\"}", &["\u{fffd}"]),
            (
                r#"{"\ud83d":"\ud83d","GroupName":"a","X":{"GroupName":""}}"#,
                &["a"],
            ),
        ] {
            check(body(groups), Ok((names, None)));
        }
        for group in [
            "{}",
            "null",
            "1",
            r#""a""#,
            r#"["a"]"#,
            r#"{"GroupId":1}"#,
            r#"{"groupname":"a"}"#,
            r#"{"GroupName":""}"#,
            r#"{"GroupName":null}"#,
            r#"{"GroupName":1}"#,
            r#"{"GroupName":["a"]}"#,
            r#"{"GroupName":"\ud83d"}"#,
            r#"{"GroupName":"a\udc00b"}"#,
            r#"{"GroupName":"a","GroupName":"b"}"#,
        ] {
            check(body(group), Err(NO_LIST));
            check(
                body(&format!(r#"{{"GroupName":"a"}},{group}"#)),
                Err(NO_LIST),
            );
        }
    }

    #[test]
    fn a_text_that_is_broken_spoils_only_the_names_it_is_in() {
        let around = |before: &str, broken: &[u8], after: &str| {
            [before.as_bytes(), broken, after.as_bytes()].concat()
        };
        let marked = r#""ContactItem":[{"CustomMark":""#;
        let after_mark = r#""}],"GroupItem":[{"GroupName":"my 群"}],"CompleteFlag":1"#;
        let named = r#""CompleteFlag":1,"GroupItem":[{"GroupName":"a"#;
        // Half a character, a control character, an escape that does not exist; the mark may also end in half a pair.
        for broken in [&b"\xe7\xbe"[..], b"a\nb", br"\q", br"\ud83d"] {
            check(around(marked, broken, after_mark), Ok((&["my 群"], None)));
            check(around(named, broken, r#""}]"#), Err(NO_LIST));
        }
        // In GBK; the second byte of the last character is a backslash.
        let gbk = b"\xc8\xba\xd7\xe9\xc4\x5c";
        let after_gbk = r#""}],"GroupItem":[{"GroupName":"work"}],"CompleteFlag":1"#;
        check(around(marked, gbk, after_gbk), Ok((&["work"], None)));
        check(around(named, gbk, r#""}]"#), Err(NO_LIST));
    }

    #[test]
    fn the_next_index_grows_while_the_list_goes_on() {
        let more = |next: &str| format!(r#""GroupItem":[],"CompleteFlag":0{next}"#);
        for (next, expected) in [("21", 21), ("18446744073709551615", u64::MAX)] {
            check(
                more(&format!(r#","NextStartIndex":{next}"#)),
                Ok((&[], Some(expected))),
            );
        }
        check(more(""), Err(STUCK));
        for next in [
            "20",
            "19",
            "0",
            "-1",
            "21.0",
            "2.1e1",
            "18446744073709551616",
            "null",
            r#""21""#,
            "[21]",
        ] {
            let next = format!(r#","NextStartIndex":{next}"#);
            check(more(&next), Err(STUCK));
            // Of a complete list nobody asks where it goes on.
            check(
                format!(r#""GroupItem":[],"CompleteFlag":1{next}"#),
                Ok((&[], None)),
            );
        }
    }

    #[test]
    fn a_list_has_fifty_pages_at_most() {
        let at = |number: u32, body: &str| {
            let (_, text) = answer::read_with_text(body.as_bytes(), true).expect("an answer");
            let asked = PageAsked {
                start_index: 0,
                number,
            };
            read(&text, asked).map(|page| page.next)
        };
        let more = r#"{"GroupItem":[],"CompleteFlag":0,"NextStartIndex":1,"ErrorCode":0}"#;
        let last = r#"{"GroupItem":[],"CompleteFlag":1,"ErrorCode":0}"#;
        for (number, body, expected) in [
            (0, more, Ok(Some(1))),
            (48, more, Ok(Some(1))),
            (49, more, Err(ENDLESS)),
            (u32::MAX, more, Err(ENDLESS)),
            (49, last, Ok(None)),
        ] {
            assert_eq!(at(number, body), expected, "page {number}");
        }
    }

    #[test]
    fn a_page_contradicts_itself_by_no_second_field() {
        for fields in [
            r#""GroupItem":[],"CompleteFlag":1,"CompleteFlag":0,"NextStartIndex":40"#,
            r#""GroupItem":[],"CompleteFlag":1,"GroupItem":[{"GroupName":"a"}]"#,
            r#""GroupItem":[],"CompleteFlag":0,"NextStartIndex":40,"NextStartIndex":60"#,
        ] {
            check(fields, Err(TWICE));
        }
    }

    #[test]
    fn the_next_page_is_asked_for_by_its_index() {
        let second = PageAsked::FIRST.followed_by(100);
        assert_eq!((second.start_index, second.number), (100, 1));
        assert_eq!(second.followed_by(200).number, 2);
    }

    #[test]
    fn debug_output_names_no_group() {
        let page = Page {
            groups: vec!["work".to_owned(), "family".to_owned()],
            next: Some(7),
        };
        assert_eq!(format!("{page:?}"), "Page { groups: 2, next: Some(7) }");
    }
}
