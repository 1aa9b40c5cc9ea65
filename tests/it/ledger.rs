//! The books of requests, kept from the ledger alone: what the answers say, read as a requester would.
use std::collections::BTreeMap;

use serde_json::Value;

use crate::world::World;
use convgroup_testkit::Message;

/// How a name ended, as far as the requester is told: `erased`, or the cause and code of its dead letter.
pub(crate) type End = String;

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) id: String,
    pub(crate) time: String,
    pub(crate) status: String,
    pub(crate) round: u64,
    pub(crate) groups: usize,
    pub(crate) remaining: u64,
    pub(crate) verified: bool,
    /// By the place of the name.
    pub(crate) ends: BTreeMap<usize, End>,
    /// Why the event is dead, where no name is.
    pub(crate) cause: Option<End>,
}

/// What a requester knows of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    /// In the order of the ledger, each once.
    pub(crate) told: Vec<Told>,
}

impl Case {
    /// How each name ended: the later time counts, and within a round a name that is erased stays so.
    pub(crate) fn ends(&self) -> BTreeMap<usize, End> {
        let mut told: Vec<&Told> = self.told.iter().collect();
        told.sort_by(|one, other| one.time.cmp(&other.time));
        let mut ends: BTreeMap<usize, (u64, End)> = BTreeMap::new();
        for answer in told {
            for (&place, end) in &answer.ends {
                let stays = ends
                    .get(&place)
                    .is_some_and(|(round, end)| *round == answer.round && end == "erased");
                if !stays {
                    ends.insert(place, (answer.round, end.clone()));
                }
            }
        }
        ends.into_iter()
            .map(|(place, (_, end))| (place, end))
            .collect()
    }

    /// Whether all its places are filled, or it could not be read; of all groups, whether an answer says that none is left.
    pub(crate) fn is_closed(&self) -> bool {
        self.told.iter().any(|answer| {
            let all_groups = answer.verified || answer.cause.is_some();
            let filled = self.ends().len() == answer.groups && answer.groups > 0;
            answer.status == "malformed" || all_groups && answer.remaining == 0 || filled
        })
    }

    /// The last answer.
    pub(crate) fn last(&self) -> &Told {
        self.told.last().expect("a case has an answer")
    }
}

/// All requests that were answered, by their ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books(pub(crate) BTreeMap<String, Case>);

impl Books {
    /// Reads the whole ledger.
    pub(crate) async fn of(world: &World) -> Self {
        Self::kept(&world.broker.read_stream(world.config.ledger()).await)
    }

    /// Keeps the books of these answers. One that comes again is dropped.
    pub(crate) fn kept(messages: &[Message]) -> Self {
        let mut books = Self::default();
        for message in messages {
            let (request, told) = read(message);
            let case = books.0.entry(request).or_default();
            if case.told.iter().all(|other| other.id != told.id) {
                case.told.push(told);
            }
        }
        books
    }

    /// What is known of a request.
    #[track_caller]
    pub(crate) fn case(&self, request: &str) -> &Case {
        self.0
            .get(request)
            .unwrap_or_else(|| panic!("{request} was not answered"))
    }

    /// A request is closed, and its names have ended like this, in the order of their places.
    #[track_caller]
    pub(crate) fn check(&self, request: &str, ends: &[&str]) {
        let case = self.case(request);
        let found: Vec<End> = case.ends().into_values().collect();
        assert_eq!(found, ends, "{request}: {case:?}");
        assert!(case.is_closed(), "{request} is open: {case:?}");
    }
}

/// An answer and whose it is. All that the contract says of every answer is looked at here.
pub(crate) fn read(message: &Message) -> (String, Told) {
    let event: Value = serde_json::from_slice(&message.body).expect("an answer is JSON");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (data, request) = (&event["data"], &event["data"]["request"]);
    let properties = &message.properties;
    let shown = |text: &Option<lapin::types::ShortString>| text.as_ref().map(ToString::to_string);
    assert_eq!(event["specversion"], "1.0");
    assert_eq!(event["type"], "convgroup.request.settled.v1");
    assert_eq!(event["source"], "/convgroup-deleter/1400000000");
    assert_eq!(event["datacontenttype"], "application/json");
    assert_eq!(
        shown(properties.content_type()).as_deref(),
        Some("application/cloudevents+json")
    );
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(shown(properties.message_id()), text(&event["id"]));
    assert_eq!(shown(properties.kind()), text(&event["type"]));
    assert_eq!(
        shown(properties.app_id()).as_deref(),
        Some("convgroup-deleter")
    );
    assert!(properties.timestamp().is_some() && properties.correlation_id().is_some());
    let status = text(&data["status"]).expect("an answer has a status");
    assert!(
        message.routing_key.starts_with(&format!("{status}.")),
        "{status} in {}",
        message.routing_key
    );
    let ends = data["results"].as_array().expect("an answer has results");
    let ends: BTreeMap<usize, End> = ends
        .iter()
        .map(|result| {
            let place = result["index"].as_u64().expect("a place is a number");
            (usize::try_from(place).unwrap(), end(result))
        })
        .collect();
    let told = Told {
        id: text(&event["id"]).expect("an answer has an id"),
        time: text(&event["time"]).expect("an answer has a time"),
        round: request["round"].as_u64().expect("a round is a number"),
        groups: usize::try_from(data["groups"].as_u64().expect("groups are counted")).unwrap(),
        remaining: data["remaining"].as_u64().expect("what is left is counted"),
        verified: data["verified_at"].is_string(),
        cause: data["cause"].is_string().then(|| end(data)),
        status,
        ends,
    };
    assert_eq!(told.remaining > 0, told.status == "partial", "{told:?}");
    (text(&request["id"]).expect("a request has an id"), told)
}

fn end(result: &Value) -> End {
    match result["outcome"].as_str() {
        Some("deleted" | "gone") => "erased".to_owned(),
        Some("purged") => "purged".to_owned(),
        _ => {
            let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            format!("{} {}", word(&result["cause"]), word(&result["code"]))
        }
    }
}
