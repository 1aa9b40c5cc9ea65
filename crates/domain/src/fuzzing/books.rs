//! Manifests and outcomes: lines of files, and entries of a stream to which others may write.
use crate::case::{Cases, Heard, ReportLine, Taken};
use crate::manifest::{Asked, is_blank};

/// Most outcomes of one input that are tried in both orders.
const OUTCOMES_MAX: usize = 64;

/// `data` is a manifest and the answers to it: each line that is a request is asked for, each that is an outcome is taken in.
///
/// # Panics
/// A promise is broken: see the checks.
pub fn books(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    let mut cases = Cases::new();
    for line in lines.iter().filter(|line| !is_blank(line)) {
        if let Ok(asked) = Asked::from_line(line) {
            let again = Asked::from_line(asked.to_line().as_bytes());
            assert_eq!(again.as_ref(), Ok(&asked), "what is written reads back");
            let _ = cases.ask(&asked);
        }
    }
    let heard = lines.iter().filter_map(|line| Heard::read(line));
    let heard: Vec<Heard> = heard.take(OUTCOMES_MAX).collect();
    let (mut forwards, mut backwards) = (cases.clone(), cases);
    for outcome in &heard {
        forwards.take_in(outcome);
    }
    for outcome in heard.iter().chain(&heard).rev() {
        backwards.take_in(outcome);
    }
    let report: Vec<ReportLine> = forwards.lines().collect();
    let other: Vec<ReportLine> = backwards.lines().collect();
    assert_eq!(report, other, "order and repetition make no difference");
    let sums = forwards.sums();
    let parts = sums.erased() + sums.failed() + sums.mixed() + sums.open();
    assert!(sums.verified() <= sums.erased());
    assert_eq!((sums.requested(), parts), (forwards.len(), forwards.len()));
    for (place, line) in report.iter().enumerate() {
        assert_eq!(forwards.status(place), line.status);
        assert_eq!(line.closed_at.is_some(), line.status.is_closed());
        let again = serde_json::from_str(&line.to_line());
        assert_eq!(again.ok().as_ref(), Some(line), "a report reads back");
    }
    for outcome in &heard {
        let known = forwards.place(&outcome.event.data.request.id);
        let taken = forwards.take_in(outcome);
        assert_eq!(taken, known.map_or(Taken::Foreign, Taken::Of));
    }
}
