//! The window of last calls that tells an outage from a single failure.
use std::collections::VecDeque;

use super::code::Class;

/// The classes of the last calls, as far as they tell whether the API is there.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    ratio: f64,
    transient: VecDeque<bool>,
    count: usize,
}

impl Window {
    /// Trips when the last `size` calls are known and at least `ratio` of them were transient.
    #[must_use]
    pub(super) fn new(size: usize, ratio: f64) -> Self {
        Self {
            size,
            ratio,
            transient: VecDeque::with_capacity(size),
            count: 0,
        }
    }

    /// Takes in a call; says whether the window is mostly transient now. It says so once, and begins anew: calls go on while the
    /// probe is out, and need not ask for another.
    pub(super) fn observe(&mut self, class: Class) -> bool {
        if self.transient.len() == self.size && self.transient.pop_front() == Some(true) {
            self.count -= 1;
        }
        let transient = class == Class::Transient;
        self.transient.push_back(transient);
        self.count += usize::from(transient);
        let tripped =
            self.transient.len() == self.size && self.count as f64 >= self.ratio * self.size as f64;
        if tripped {
            self.clear();
        }
        tripped
    }

    /// Forgets everything: the API has been found healthy.
    pub(super) fn clear(&mut self) {
        self.transient.clear();
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(calls: &str, trips: bool) {
        let mut window = Window::new(5, 0.8);
        let last = calls
            .chars()
            .map(|call| {
                window.observe(if call == 't' {
                    Class::Transient
                } else {
                    Class::Deleted
                })
            })
            .last();
        assert_eq!(last, Some(trips), "{calls}");
    }

    #[test]
    fn a_full_window_of_mostly_transient_calls_trips() {
        check("tttt", false);
        check("ttttt", true);
        check("tttttttt", false);
        check("tttttttttt", true);
        check("dtttt", true);
        check("ddttt", false);
        check("tttttdd", false);
        check("ddddddtttt", true);
        check("tddddtt", false);
        check("tddddttt", false);
    }
}
