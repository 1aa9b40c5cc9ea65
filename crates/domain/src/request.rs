//! Who asked: the identity of a request, which stays the same on all of its copies.
use std::fmt;

use sha2::{Digest, Sha256};

use super::message::{DeleteGroups, GROUPS_MAX};
use super::text::hex;

/// Longest id of a request, in bytes; of a longer one its hash takes the place (contract).
pub const ID_BYTES_MAX: usize = 200;

/// Header on copies: the id of the request.
pub const REQUEST_ID: &str = "convgroup-request-id";
/// Header on copies: where that id came from.
pub const REQUEST_ID_FROM: &str = "convgroup-request-id-from";
/// Header on copies: the places of their names in the request as it was published, `2,5`.
pub const INDEX: &str = "convgroup-index";
/// Header on copies: how many different names the request had.
pub const GROUPS: &str = "convgroup-groups";
/// Header: how often a dead letter of the request was redriven.
pub const REDRIVES: &str = "convgroup-redrives";

/// Where the id of a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdFrom {
    /// The id of a CloudEvent.
    CloudEvents,
    /// The property `message_id`.
    MessageId,
    /// The property `correlation_id`.
    CorrelationId,
    /// The body: its SHA-256.
    Body,
}

impl IdFrom {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 4] = [
        Self::CloudEvents,
        Self::MessageId,
        Self::CorrelationId,
        Self::Body,
    ];

    /// The name used in headers and outcomes.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::CloudEvents => "cloudevents_id",
            Self::MessageId => "message_id",
            Self::CorrelationId => "correlation_id",
            Self::Body => "body",
        }
    }
}

/// What a message says of its request: written by anybody.
#[derive(Clone, Debug, Default)]
pub struct Clues<'m> {
    /// The header [`REQUEST_ID`].
    pub request_id: Option<&'m str>,
    /// The header [`REQUEST_ID_FROM`].
    pub request_id_from: Option<&'m str>,
    /// The header [`INDEX`].
    pub index: Option<&'m str>,
    /// The header [`GROUPS`].
    pub groups: Option<i64>,
    /// The header [`REDRIVES`].
    pub redrives: Option<i64>,
    /// The id that a CloudEvents envelope gives.
    pub cloudevents_id: Option<&'m str>,
    /// The property `message_id`.
    pub message_id: Option<&'m str>,
    /// The property `correlation_id`.
    pub correlation_id: Option<&'m str>,
    /// The body.
    pub body: &'m [u8],
}

/// The identity of a request, and where the names of the message at hand stand in it.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Its id: at most [`ID_BYTES_MAX`] bytes, not empty.
    pub id: String,
    /// Where that comes from.
    pub id_from: IdFrom,
    /// How often it was redriven.
    pub round: u32,
    /// How many different names it had when it was published; 0 where no event can be read, or all groups are meant.
    pub groups: usize,
    /// The place of each name of the message at hand, in the request as it was published.
    places: Vec<usize>,
}

/// A publisher's id stays out of debug output: it may be anything.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("id_from", &self.id_from)
            .field("round", &self.round)
            .field("places", &self.places)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Reads the clues. What is absurd counts as absent.
    #[must_use]
    pub fn read(clues: &Clues<'_>, event: Option<&DeleteGroups>) -> Self {
        let (id, id_from) = identity(clues);
        let round = clues.redrives.unwrap_or(0).clamp(0, i64::from(i32::MAX));
        let names = event.map_or(0, |event| event.names().len());
        let (places, groups) = kept_places(clues, names).unwrap_or_else(|| {
            let first = |place| event.map_or(place, |event| event.first_place(place));
            ((0..names).map(first).collect(), names)
        });
        Self {
            id,
            id_from,
            round: u32::try_from(round).unwrap_or_default(),
            groups,
            places,
        }
    }

    /// The place in the request as it was published of the name that has this place in the message at hand. Of an event that means
    /// all groups it is the place itself.
    #[must_use]
    pub fn place(&self, at_hand: usize) -> usize {
        self.places.get(at_hand).copied().unwrap_or(at_hand)
    }

    /// The header [`INDEX`] of a copy with the names at these places in the message at hand; nothing where the request has no names.
    #[must_use]
    pub fn index(&self, at_hand: &[usize]) -> Option<String> {
        if self.places.is_empty() || at_hand.is_empty() {
            return None;
        }
        let places: Vec<String> = at_hand
            .iter()
            .map(|&place| self.place(place).to_string())
            .collect();
        Some(places.join(","))
    }
}

fn identity(clues: &Clues<'_>) -> (String, IdFrom) {
    let kept = |label: &str| IdFrom::ALL.into_iter().find(|from| from.label() == label);
    let kept = clues
        .request_id
        .filter(|id| !id.is_empty())
        .zip(clues.request_id_from.and_then(kept));
    if let Some((id, from)) = kept {
        return (bounded(id), from);
    }
    let ids = [
        (clues.cloudevents_id, IdFrom::CloudEvents),
        (clues.message_id, IdFrom::MessageId),
        (clues.correlation_id, IdFrom::CorrelationId),
    ];
    let found = ids
        .into_iter()
        .find_map(|(id, from)| Some((id.filter(|id| !id.is_empty())?, from)));
    match found {
        Some((id, from)) => (bounded(id), from),
        None => (hash(clues.body), IdFrom::Body),
    }
}

/// Whether this can be the id of a request as it is told.
#[must_use]
pub fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
}

/// An id as it is told: of one that is too long the hash.
#[must_use]
pub fn bounded(id: &str) -> String {
    if id.len() > ID_BYTES_MAX {
        return hash(id.as_bytes());
    }
    id.to_owned()
}

/// What takes the place of an id that can't be told: its SHA-256.
#[must_use]
pub fn hash(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// The places that the headers of a copy tell, and the number of names, where they fit so many names at hand.
fn kept_places(clues: &Clues<'_>, names: usize) -> Option<(Vec<usize>, usize)> {
    let groups = usize::try_from(clues.groups?).ok()?;
    let index = clues.index?;
    // No more than that can be right, and what others write may be long.
    if index.len() > 4 * GROUPS_MAX {
        return None;
    }
    let places: Option<Vec<usize>> = index.split(',').map(number).collect();
    let places = places?;
    let fits = places.len() == names
        && places.is_sorted_by(|one, next| one < next)
        && places.last().is_some_and(|&last| last < GROUPS_MAX)
        && (names..=GROUPS_MAX).contains(&groups);
    fits.then_some((places, groups))
}

/// A number as [`Request::index`] writes it.
fn number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::super::message::decode;
    use super::*;

    fn event(names: &str) -> DeleteGroups {
        let names: Vec<String> = names.chars().map(|name| format!("\"{name}\"")).collect();
        let body = format!(
            r#"{{"From_Account":"u","GroupName":[{}]}}"#,
            names.join(",")
        );
        decode(body.as_bytes()).unwrap()
    }

    #[test]
    fn debug_output_names_no_request() {
        let clues = Clues {
            message_id: Some("user15"),
            ..Clues::default()
        };
        let request = Request::read(&clues, Some(&event("ab")));
        assert_eq!(
            format!("{request:?}"),
            "Request { id_from: MessageId, round: 0, places: [0, 1], .. }"
        );
    }

    #[test]
    fn a_request_is_named_by_the_first_id_there_is() {
        let all = Clues {
            request_id: Some("kept"),
            request_id_from: Some("message_id"),
            cloudevents_id: Some("ce"),
            message_id: Some("m"),
            correlation_id: Some("c"),
            body: b"{}",
            ..Clues::default()
        };
        let check = |clues: &Clues<'_>, id: &str, from: &str| {
            let request = Request::read(clues, None);
            assert_eq!((request.id.as_str(), request.id_from.label()), (id, from));
        };
        check(&all, "kept", "message_id");
        for (id, from) in [
            (None, Some("body")),
            (Some("kept"), None),
            (Some("kept"), Some("me")),
            (Some(""), Some("body")),
        ] {
            let absurd = Clues {
                request_id: id,
                request_id_from: from,
                ..all.clone()
            };
            check(&absurd, "ce", "cloudevents_id");
        }
        let clues = Clues {
            request_id: None,
            cloudevents_id: None,
            ..all
        };
        check(&clues, "m", "message_id");
        let clues = Clues {
            message_id: Some(""),
            ..clues
        };
        check(&clues, "c", "correlation_id");
        let clues = Clues {
            correlation_id: None,
            ..clues
        };
        let body = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
        check(&clues, body, "body");
    }

    #[test]
    fn a_long_id_is_told_by_its_hash() {
        let clues = |id| Clues {
            message_id: Some(id),
            ..Clues::default()
        };
        let longest = "m".repeat(ID_BYTES_MAX);
        assert!(is_id(&longest) && !is_id("") && !is_id(&"m".repeat(ID_BYTES_MAX + 1)));
        assert_eq!(Request::read(&clues(&longest), None).id, longest);
        let too_long = "m".repeat(ID_BYTES_MAX + 1);
        let hashed = Request::read(&clues(&too_long), None);
        assert!(hashed.id.starts_with("sha256:") && hashed.id.len() == 71);
        assert_eq!(hashed.id_from, IdFrom::MessageId);
        let again = Clues {
            request_id: Some(&hashed.id),
            request_id_from: Some("message_id"),
            ..Clues::default()
        };
        assert_eq!(Request::read(&again, None).id, hashed.id);
        // A header may be anybody's.
        let strange = Clues {
            request_id: Some(&too_long),
            ..again
        };
        assert_eq!(Request::read(&strange, None).id, hashed.id);
    }

    #[test]
    fn copies_keep_the_places_of_the_request() {
        let first = Request::read(&Clues::default(), Some(&event("bcbda")));
        assert_eq!(
            (first.groups, first.index(&[1, 2]).unwrap()),
            (4, "1,3".to_owned())
        );
        let index = first.index(&[1, 2]).unwrap();
        let clues = Clues {
            index: Some(&index),
            groups: Some(4),
            ..Clues::default()
        };
        let copy = Request::read(&clues, Some(&event("cd")));
        assert_eq!((copy.groups, copy.place(0), copy.place(1)), (4, 1, 3));
        assert_eq!(copy.index(&[1]).unwrap(), "3");
        for (index, groups) in [
            ("1", 4),
            ("1,2,3", 4),
            ("3,1", 4),
            ("1,1", 4),
            ("1,100", 4),
            ("1,x", 4),
            ("1, 3", 4),
            ("01,3", 4),
            ("+1,3", 4),
            ("", 4),
            ("1,3", 1),
            ("1,3", 101),
            ("1,3", -1),
        ] {
            let absurd = Clues {
                index: Some(index),
                groups: Some(groups),
                ..Clues::default()
            };
            let read = Request::read(&absurd, Some(&event("cd")));
            assert_eq!((read.groups, read.place(1)), (2, 1), "{index} {groups}");
        }
        let all = decode(br#"{"From_Account":"u","AllGroups":true}"#).unwrap();
        let all = Request::read(&clues, Some(&all));
        assert_eq!((all.groups, all.index(&[0, 1]), all.place(7)), (0, None, 7));
    }

    #[test]
    fn rounds_are_bounded() {
        for (redrives, round) in [
            (None, 0),
            (Some(-1), 0),
            (Some(3), 3),
            (Some(i64::MAX), 2_147_483_647),
        ] {
            let clues = Clues {
                redrives,
                ..Clues::default()
            };
            assert_eq!(Request::read(&clues, None).round, round);
        }
    }
}
