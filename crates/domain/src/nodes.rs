//! Which node of the broker is tried next, after which pause, and what is asked of it first.
//!
//! A session that was of use is followed at once, on the same node. One that was not (its node accepts connections and does no
//! work) is followed by the next node, and so is a node that could not be reached; the pauses grow meanwhile.
use std::collections::HashMap;

/// Which rights are asked for before a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// None: they were there before. During an alarm each question would cost a connection that the broker does not read any more,
    /// not even its end.
    Nothing,
    /// Whether copies may be published: the first session.
    Publish,
    /// That, and whether the queue may be consumed: the previous session met a refusal. When the right is asked for here, the reason
    /// says what it means. When the consumer itself is refused, the connection's watcher may report that first, without its meaning.
    Everything,
}

/// What a session that is over was good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Work was done on it, or it stood by for a while.
    OfUse,
    /// It came to nothing.
    Useless,
}

/// How the pauses between attempts go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pauses {
    /// From the shortest.
    StartAgain,
    /// With the next longer one.
    Grow,
}

/// Whether a failure is the one that was told last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It is told.
    New,
    /// It was told before.
    Same,
}

/// The choice of the next node.
#[derive(Debug)]
pub struct Nodes {
    count: usize,
    next: usize,
    sessions: u64,
    /// Whether the rights were there when they were asked for last.
    granted: bool,
    /// What kept us from each node the last time.
    failures: HashMap<usize, String>,
}

impl Nodes {
    /// Nothing was tried yet, of `count` nodes (at least 1).
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self {
            count: count.max(1),
            next: 0,
            sessions: 0,
            granted: false,
            failures: HashMap::new(),
        }
    }

    /// The place of the node that is tried now.
    #[must_use]
    pub fn current(&self) -> usize {
        self.next % self.count
    }

    /// What is asked of it.
    #[must_use]
    pub fn ask(&self) -> Ask {
        match (self.granted, self.sessions) {
            (true, _) => Ask::Nothing,
            (false, 0) => Ask::Publish,
            (false, _) => Ask::Everything,
        }
    }

    /// A session is over. `refused`: because a copy could not be published, or the queue not be consumed; the rights are asked for
    /// again then.
    pub fn ended(&mut self, session: Ended, refused: bool) -> Pauses {
        self.granted &= !refused;
        match session {
            Ended::OfUse => Pauses::StartAgain,
            Ended::Useless => {
                self.next += 1;
                Pauses::Grow
            }
        }
    }

    /// The node could not be had: the next one's turn.
    pub fn failed(&mut self, error: &str) -> News {
        let node = self.current();
        self.next += 1;
        match self.failures.insert(node, error.to_owned()) {
            Some(before) if before == error => News::Same,
            _ => News::New,
        }
    }

    /// A session began. Says how many there were before.
    pub fn opened(&mut self) -> u64 {
        self.granted = true;
        self.failures.clear();
        self.sessions += 1;
        self.sessions - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_use_is_followed_on_the_same_node_at_once() {
        let mut nodes = Nodes::new(3);
        assert_eq!(nodes.opened(), 0);
        assert_eq!(nodes.ended(Ended::OfUse, false), Pauses::StartAgain);
        assert_eq!(nodes.current(), 0);
        assert_eq!(nodes.opened(), 1);
        assert_eq!(nodes.ended(Ended::Useless, false), Pauses::Grow);
        assert_eq!(nodes.current(), 1);
    }

    #[test]
    fn nodes_that_fail_are_tried_in_turn() {
        let mut nodes = Nodes::new(3);
        let tried: Vec<usize> = (0..7)
            .map(|_| {
                let node = nodes.current();
                nodes.failed("refused");
                node
            })
            .collect();
        assert_eq!(tried, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn each_nodes_failure_is_told_once_until_it_changes() {
        let mut nodes = Nodes::new(2);
        let told = ["a", "b", "a", "c", "a", "c"].map(|error| nodes.failed(error));
        assert_eq!(
            told,
            [
                News::New,
                News::New,
                News::Same,
                News::New,
                News::Same,
                News::Same
            ]
        );
        nodes.opened();
        assert_eq!(nodes.failed("a"), News::New);
    }

    #[test]
    fn rights_are_asked_for_at_first_and_after_a_refusal() {
        let mut nodes = Nodes::new(1);
        assert_eq!(nodes.ask(), Ask::Publish);
        nodes.failed("away");
        assert_eq!(nodes.ask(), Ask::Publish);
        nodes.opened();
        nodes.ended(Ended::OfUse, false);
        assert_eq!(nodes.ask(), Ask::Nothing);
        nodes.opened();
        nodes.ended(Ended::Useless, true);
        assert_eq!(nodes.ask(), Ask::Everything);
        nodes.failed("refused");
        assert_eq!(nodes.ask(), Ask::Everything);
        nodes.opened();
        nodes.ended(Ended::OfUse, false);
        assert_eq!(nodes.ask(), Ask::Nothing);
    }
}
