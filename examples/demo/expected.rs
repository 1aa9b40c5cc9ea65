//! What has to become of the demo's events, worked out from the files alone.
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::Context;
use convgroup_domain::message::decode;
use serde::Deserialize;

/// Longest group name the API takes, in bytes.
const GROUP_BYTES_MAX: usize = 32;

#[derive(Deserialize)]
struct Seed {
    user: String,
    groups: Vec<String>,
}

/// Expected counts. They do not depend on the order in which the events are worked on.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) events: usize,
    pub(crate) malformed: usize,
    /// Events with a name that the API rejects.
    rejected: usize,
    /// Events of users whose calls always fail.
    exhausted: usize,
    /// Names deleted.
    pub(crate) deleted: usize,
    /// Names that were not there (any more).
    pub(crate) gone: usize,
}

impl Expected {
    pub(crate) fn read(events: &Path, users: &Path) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("{} is needed", path.display()))
        };
        let mut seeded: HashMap<String, HashSet<String>> = HashMap::new();
        for line in read(users)?.lines() {
            let seed: Seed = serde_json::from_str(line)?;
            seeded.entry(seed.user).or_default().extend(seed.groups);
        }
        let mut expected = Self::default();
        for line in read(events)?.lines() {
            expected.events += 1;
            match decode(line.as_bytes()) {
                Err(_) => expected.malformed += 1,
                Ok(event) => match seeded.get_mut(event.user()) {
                    None => expected.rejected += 1,
                    Some(_) if event.user().starts_with("broken") => expected.exhausted += 1,
                    Some(groups) => {
                        let (long, short): (Vec<_>, Vec<_>) = event
                            .names()
                            .iter()
                            .partition(|group| group.len() > GROUP_BYTES_MAX);
                        expected.rejected += usize::from(!long.is_empty());
                        for group in short {
                            if groups.remove(group) {
                                expected.deleted += 1;
                            } else {
                                expected.gone += 1;
                            }
                        }
                    }
                },
            }
        }
        Ok(expected)
    }

    pub(crate) fn dead_letters(&self) -> usize {
        self.malformed + self.rejected + self.exhausted
    }
}
