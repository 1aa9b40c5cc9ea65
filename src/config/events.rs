//! `[events]`: what requests may ask for.
use super::key::{Key, keys};
use super::reader::Reader;
use super::value::flag;
use convgroup_domain::message::AllGroups;

keys! {
    ALL_GROUPS: Key<bool> = Key::shown("events.all_groups", flag);
}

pub(super) fn all_groups(reader: &mut Reader<'_>) -> AllGroups {
    if reader.value(&ALL_GROUPS) {
        AllGroups::Accepted
    } else {
        AllGroups::Refused
    }
}
