//! Users and their groups, kept small: a million users with two groups each take about 130 MB.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use super::call::GROUP_NAME_BYTES_MAX;
use super::refusal::Refusal;

/// A name is longer than the API allows, so it could never be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group name is longer than 32 bytes")]
pub struct NameTooLong;

#[derive(Default)]
pub(super) struct Store {
    users: HashMap<Box<str>, Groups>,
    /// Set when every user has every group: the hashes of what was deleted. Two deletions of ten million are mixed up
    /// with a probability of one in a hundred thousand.
    permissive: Option<HashSet<u64>>,
    hasher: RandomState,
    after_lists: Vec<AfterList>,
}

/// Groups that a user gets when its list was told.
struct AfterList {
    user: String,
    groups: Vec<String>,
    times: u64,
}

impl Store {
    pub(super) fn new(permissive: bool) -> Self {
        Self {
            permissive: permissive.then(HashSet::new),
            ..Self::default()
        }
    }

    pub(super) fn add_user(
        &mut self,
        user: &str,
        groups: &[impl AsRef<str>],
    ) -> Result<(), NameTooLong> {
        if groups
            .iter()
            .any(|group| group.as_ref().len() > GROUP_NAME_BYTES_MAX)
        {
            return Err(NameTooLong);
        }
        if !self.users.contains_key(user) {
            self.users.insert(user.into(), Groups::default());
        }
        if let Some(of_user) = self.users.get_mut(user) {
            of_user.extend(groups.iter().map(AsRef::as_ref));
        }
        if let Some(deleted) = &mut self.permissive {
            for group in groups {
                deleted.remove(&self.hasher.hash_one((user, group.as_ref())));
            }
        }
        Ok(())
    }

    /// Gives `user` these groups after each of its next `times` lists.
    pub(super) fn add_after_list(
        &mut self,
        user: &str,
        groups: &[impl AsRef<str>],
        times: u64,
    ) -> Result<(), NameTooLong> {
        let groups = groups.iter().map(|group| group.as_ref().to_owned());
        let groups: Vec<String> = groups.collect();
        if groups
            .iter()
            .any(|group| group.len() > GROUP_NAME_BYTES_MAX)
        {
            return Err(NameTooLong);
        }
        if times > 0 {
            self.after_lists.push(AfterList {
                user: user.to_owned(),
                groups,
                times,
            });
        }
        Ok(())
    }

    /// Does what is to be done after a list of `user` was told to its end.
    pub(super) fn listed(&mut self, user: &str) {
        let of_user = |after: &&mut AfterList| after.user == user;
        let mut come = Vec::new();
        for after in self.after_lists.iter_mut().filter(of_user) {
            after.times -= 1;
            come.extend_from_slice(&after.groups);
        }
        self.after_lists.retain(|after| after.times > 0);
        if !come.is_empty() {
            self.add_user(user, &come)
                .expect("the names were looked at when they came");
        }
    }

    pub(super) fn groups(&self, user: &str) -> Option<Vec<String>> {
        let groups = self.users.get(user)?;
        Some(
            groups
                .iter()
                .map(|name| String::from_utf8_lossy(name).into_owned())
                .collect(),
        )
    }

    /// The groups that a list tells; an admin's account always exists, and everybody's in a permissive store.
    pub(super) fn list(&self, user: &str, user_is_admin: bool) -> Result<Vec<String>, Refusal> {
        match self.groups(user) {
            Some(groups) => Ok(groups),
            None if user_is_admin || self.permissive.is_some() => Ok(Vec::new()),
            None => Err(Refusal::USER_UNKNOWN),
        }
    }

    pub(super) fn clear(&mut self) {
        self.users.clear();
        self.after_lists.clear();
        if let Some(deleted) = &mut self.permissive {
            deleted.clear();
        }
    }

    /// Deletes and returns the id the group had; an admin's account always exists, with the groups it was given.
    pub(super) fn delete(
        &mut self,
        user: &str,
        group: &str,
        user_is_admin: bool,
    ) -> Result<u64, Refusal> {
        if let Some(deleted) = &mut self.permissive
            && !user_is_admin
        {
            // Those it was given are listed until they are deleted.
            if let Some(groups) = self.users.get_mut(user) {
                groups.remove(group);
            }
            return if deleted.insert(self.hasher.hash_one((user, group))) {
                Ok(1)
            } else {
                Err(Refusal::GROUP_UNKNOWN)
            };
        }
        match self.users.get_mut(user) {
            Some(groups) => groups.remove(group).ok_or(Refusal::GROUP_UNKNOWN),
            None if user_is_admin => Err(Refusal::GROUP_UNKNOWN),
            None => Err(Refusal::USER_UNKNOWN),
        }
    }
}

/// Group names in one piece of memory, each after its length in a byte: names have 32 bytes at most.
#[derive(Default)]
struct Groups(Box<[u8]>);

impl Groups {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || {
            let (len, after) = rest.split_first()?;
            let (name, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            Some(name)
        })
    }

    /// Adds the names that are not there yet; each has at most [`GROUP_NAME_BYTES_MAX`] bytes.
    fn extend<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut seen: HashSet<Vec<u8>> = self.iter().map(<[u8]>::to_vec).collect();
        let mut packed = std::mem::take(&mut self.0).into_vec();
        for name in names {
            let len = u8::try_from(name.len()).expect("a name has 32 bytes at most");
            if seen.insert(name.as_bytes().to_vec()) {
                packed.push(len);
                packed.extend_from_slice(name.as_bytes());
            }
        }
        self.0 = packed.into_boxed_slice();
    }

    /// Removes a name and returns its place, counted from 1.
    fn remove(&mut self, name: &str) -> Option<u64> {
        let place = self.iter().position(|other| other == name.as_bytes())?;
        let start: usize = self.iter().take(place).map(|other| 1 + other.len()).sum();
        let end = start + 1 + name.len();
        self.0 = [&self.0[..start], &self.0[end..]]
            .concat()
            .into_boxed_slice();
        Some(place as u64 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_deleted_once_and_the_others_stay() {
        let mut store = Store::new(false);
        store.add_user("u", &["a", "", "群组"]).unwrap();
        store.add_user("u", &["a", "b"]).unwrap();
        assert_eq!(store.groups("u").unwrap(), ["a", "", "群组", "b"]);
        assert_eq!(store.delete("u", "", false), Ok(2));
        assert_eq!(store.delete("u", "", false), Err(Refusal::GROUP_UNKNOWN));
        assert_eq!(store.delete("u", "b", false), Ok(3));
        assert_eq!(store.delete("u", "a", false), Ok(1));
        assert_eq!(store.groups("u").unwrap(), ["群组"]);
        store.add_user("empty", &[] as &[&str]).unwrap();
        assert_eq!(store.groups("empty").unwrap(), Vec::<String>::new());
        assert_eq!(store.delete("v", "a", false), Err(Refusal::USER_UNKNOWN));
        assert_eq!(
            store.delete("admin", "a", true),
            Err(Refusal::GROUP_UNKNOWN)
        );
    }

    #[test]
    fn a_permissive_store_deletes_everything_once() {
        let mut store = Store::new(true);
        assert_eq!(store.delete("u", "a", false), Ok(1));
        assert_eq!(store.delete("u", "b", false), Ok(1));
        assert_eq!(store.delete("u", "a", false), Err(Refusal::GROUP_UNKNOWN));
        assert_eq!(
            store.delete("admin", "a", true),
            Err(Refusal::GROUP_UNKNOWN)
        );
        store.clear();
        assert_eq!(store.delete("u", "a", false), Ok(1));
    }

    #[test]
    fn a_permissive_store_lists_the_groups_that_were_given() {
        let mut store = Store::new(true);
        assert_eq!(store.list("u", false), Ok(vec![]));
        assert_eq!(store.list("admin", true), Ok(vec![]));
        store.add_user("u", &["a", "b"]).unwrap();
        assert_eq!(store.delete("u", "a", false), Ok(1));
        assert_eq!(store.delete("u", "other", false), Ok(1));
        assert_eq!(store.list("u", false), Ok(vec!["b".to_owned()]));
        store.add_user("u", &["a"]).unwrap();
        assert_eq!(store.list("u", false).unwrap(), ["b", "a"]);
        assert_eq!(store.delete("u", "a", false), Ok(1), "it was given again");
        assert_eq!(
            store.delete("u", "other", false),
            Err(Refusal::GROUP_UNKNOWN)
        );
    }

    #[test]
    fn a_list_is_of_somebody() {
        let mut store = Store::new(false);
        store.add_user("u", &["a", "b"]).unwrap();
        store.add_user("empty", &[] as &[&str]).unwrap();
        assert_eq!(store.list("u", false).unwrap(), ["a", "b"]);
        assert_eq!(store.list("empty", false), Ok(vec![]));
        assert_eq!(store.list("admin", true), Ok(vec![]));
        assert_eq!(store.list("v", false), Err(Refusal::USER_UNKNOWN));
    }

    #[test]
    fn groups_come_after_so_many_lists() {
        let mut store = Store::new(false);
        store.add_user("u", &["a"]).unwrap();
        store.add_after_list("u", &["b"], 2).unwrap();
        store.add_after_list("u", &["c", "a"], 1).unwrap();
        store.add_after_list("u", &["d"], 0).unwrap();
        store.add_after_list("u", &[] as &[&str], 1).unwrap();
        store.add_after_list("v", &["e"], 1).unwrap();
        let long = "x".repeat(33);
        assert_eq!(store.add_after_list("u", &[long], 1), Err(NameTooLong));
        store.listed("u");
        assert_eq!(store.groups("u").unwrap(), ["a", "b", "c"]);
        store.delete("u", "b", false).unwrap();
        store.delete("u", "c", false).unwrap();
        store.listed("u");
        assert_eq!(store.groups("u").unwrap(), ["a", "b"]);
        store.delete("u", "b", false).unwrap();
        store.listed("u");
        assert_eq!(store.groups("u").unwrap(), ["a"]);
        assert_eq!(store.groups("v"), None);
        store.clear();
        store.listed("v");
        assert_eq!(store.groups("v"), None);
    }
}
