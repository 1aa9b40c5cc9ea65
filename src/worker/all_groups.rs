//! An event that means all groups of a user: carries out what [`Sweep`] says.
use std::collections::HashSet;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::{Work, Worker, is_in_hand_for_long};
use convgroup_chat::page::PageAsked;
use convgroup_domain::all_groups::{NAMES_MAX, Next, Sweep, Swept};
use convgroup_domain::decide::NameEnd;
use convgroup_domain::message::DeleteGroups;

impl Worker {
    /// Lists and deletes. Returns the names found, too. A panic counts as a failure of the list, as it does with names.
    pub(super) async fn delete_all_groups(
        &self,
        event: &DeleteGroups,
        work: Work<'_>,
    ) -> (Vec<String>, Swept) {
        let mut sweep = Sweep::new();
        let swept = AssertUnwindSafe(self.sweep(&mut sweep, event, work));
        let swept = swept.catch_unwind().await;
        let swept = swept.unwrap_or_else(|_| Swept::failed(self.panicked()));
        (sweep.names().to_vec(), swept)
    }

    async fn sweep(&self, sweep: &mut Sweep, event: &DeleteGroups, work: Work<'_>) -> Swept {
        loop {
            let next = if is_in_hand_for_long(work.clock) {
                sweep.not_listed(NameEnd::Interrupted)
            } else {
                match self.list(event, work).await {
                    Ok(names) => sweep.listed(names, &self.codes.groups_recreated()),
                    Err(end) => sweep.not_listed(end),
                }
            };
            let places = match next {
                Next::Over(swept) => return swept,
                Next::Delete(places) => places,
            };
            let mut interrupted = false;
            for place in places {
                let end = if interrupted || is_in_hand_for_long(work.clock) {
                    NameEnd::Interrupted
                } else {
                    self.delete_one(event, sweep.name(place), work).await
                };
                interrupted = end == NameEnd::Interrupted;
                sweep.ended(place, end);
            }
            if let Some(swept) = sweep.after_deleting() {
                return swept;
            }
        }
    }

    /// All names on all pages, each once. A list that is longer than what one delivery deletes is not read to its end.
    async fn list(&self, event: &DeleteGroups, work: Work<'_>) -> Result<Vec<String>, NameEnd> {
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        let mut asked = PageAsked::FIRST;
        loop {
            let page = self.list_page(event, asked, work).await?;
            for name in page.groups {
                if seen.insert(name.clone()) {
                    names.push(name);
                }
            }
            match page.next {
                Some(next) if names.len() <= NAMES_MAX => asked = asked.followed_by(next),
                _ => return Ok(names),
            }
        }
    }
}
