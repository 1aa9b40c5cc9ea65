//! How dead letters are redriven: one as a canary, then growing batches.

/// How a redrive goes on after a batch: the first letter is a canary, batches then grow fourfold, and it stops when too many
/// fail again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextBatch {
    /// Redrive this many more, then look again.
    Go(usize),
    /// Too many failed again.
    Stop,
}

/// Largest batch between two looks.
const BATCH_MAX: usize = 256;
/// A redrive stops when at least this share of a batch failed again, in percent.
const FAILED_PERCENT: usize = 20;

/// Decides after a batch of `size`, of which `failed` did not end well: came back dead, or went into a delay queue.
#[must_use]
pub fn next_batch(size: usize, failed: usize) -> NextBatch {
    if failed > 0 && failed * 100 >= size * FAILED_PERCENT {
        return NextBatch::Stop;
    }
    NextBatch::Go((size * 4).min(BATCH_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrive_grows_while_it_goes_well_and_stops_when_it_does_not() {
        assert_eq!(next_batch(1, 0), NextBatch::Go(4));
        assert_eq!(next_batch(1, 1), NextBatch::Stop);
        assert_eq!(next_batch(64, 0), NextBatch::Go(256));
        assert_eq!(next_batch(256, 0), NextBatch::Go(256));
        assert_eq!(next_batch(256, 51), NextBatch::Go(256));
        assert_eq!(next_batch(256, 52), NextBatch::Stop);
        assert_eq!(next_batch(4, 1), NextBatch::Stop);
        assert_eq!(next_batch(5, 1), NextBatch::Stop);
        assert_eq!(next_batch(6, 1), NextBatch::Go(24));
        assert_eq!(next_batch(0, 0), NextBatch::Go(0));
    }
}
