//! `dlq redrive`: letters back to the main queue, carefully.
//!
//! Works on the letters that were there when it began. The first one is a canary; while few come back dead the batches grow.
//! Each letter is published, confirmed, then removed: stopped or killed at any moment, nothing is lost, and at most one letter is
//! in both places, which costs a call that finds its group gone.
use std::time::{Duration, Instant};

use super::Desk;
use crate::broker::BrokerError;
use crate::broker::letters::{Letters, letter};
use crate::cli::{Exit, Failure, progress, say};
use crate::domain::letter::{NextBatch, next_batch};

/// How long a batch may wait in the main queue before the redrive gives up: nobody consumes there.
const WAITING_MAX: Duration = Duration::from_secs(120);
/// How often the main queue is looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Plan {
    pub(super) limit: Option<usize>,
    pub(super) rate: u32,
    pub(super) dry_run: bool,
    pub(super) settle: Duration,
}

/// How a redrive ended.
enum End {
    All,
    CameBack,
    NobodyConsumes,
    Interrupted,
}

pub(super) async fn redrive(desk: &mut Desk, plan: Plan) -> Result<Exit, Failure> {
    let total = desk.meant.len().min(plan.limit.unwrap_or(usize::MAX));
    if plan.dry_run {
        say(&format!("{total} letters would be redriven\n"))?;
        return Ok(Exit::Done);
    }
    let run = format!("{:016x}", rand::random::<u64>());
    let mut watch = Watch {
        letters: &mut desk.letters,
        run,
        back: 0,
        settle: plan.settle,
    };
    let bar = progress(total, "redriven");
    let pause = Duration::from_secs(1) / plan.rate.max(1);
    let (mut redriven, mut batch, mut in_batch) = (0_u64, 1, 0);
    let mut left = std::mem::take(&mut desk.meant).into_iter().take(total);
    let end = loop {
        let Some((_, delivery)) = left.next() else {
            break match in_batch {
                0 => End::All,
                rest => watch.look(rest).await?.err().unwrap_or(End::All),
            };
        };
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => break End::Interrupted,
            () = tokio::time::sleep(pause) => {}
        }
        watch.letters.redrive(delivery, &watch.run).await?;
        (redriven, in_batch) = (redriven + 1, in_batch + 1);
        bar.set_position(redriven);
        if in_batch == batch {
            match watch.look(batch).await? {
                Ok(next) => batch = next,
                Err(end) => break end,
            }
            in_batch = 0;
        }
    };
    bar.finish_and_clear();
    let back = watch.back;
    say(&format!(
        "{redriven} of {total} letters redriven, {back} came back dead\n"
    ))?;
    let (exit, words) = match end {
        End::All => (Exit::Done, ""),
        End::CameBack => (
            Exit::Other,
            "stopped: too many came back dead; `dlq show` says why. The others are still here\n",
        ),
        End::NobodyConsumes => (
            Exit::Unavailable,
            "stopped: what was redriven waits in the main queue, nobody consumes it; see /readyz of the daemon\n",
        ),
        End::Interrupted => (Exit::Other, "interrupted; the others are still here\n"),
    };
    say(words)?;
    Ok(exit)
}

/// Looks after what was redriven.
struct Watch<'d> {
    letters: &'d mut Letters,
    run: String,
    back: usize,
    settle: Duration,
}

impl Watch<'_> {
    /// Waits until a batch is worked off and says how large the next one is, or why to stop.
    async fn look(&mut self, batch: usize) -> Result<Result<usize, End>, BrokerError> {
        let before = self.back;
        let began = Instant::now();
        loop {
            self.collect(LOOK).await?;
            if self.letters.waiting().await? == 0 {
                break;
            }
            if began.elapsed() > WAITING_MAX {
                return Ok(Err(End::NobodyConsumes));
            }
        }
        self.collect(self.settle).await?;
        Ok(match next_batch(batch, self.back - before) {
            NextBatch::Go(next) => Ok(next),
            NextBatch::Stop => Err(End::CameBack),
        })
    }

    /// Takes in what arrives in the dead letters for a while. Those of this run have come back.
    async fn collect(&mut self, patience: Duration) -> Result<(), BrokerError> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Some(delivery) = self.letters.arrived(left).await? else {
                return Ok(());
            };
            if letter(&delivery.message).redrive_run == self.run {
                self.back += 1;
            }
        }
    }
}
