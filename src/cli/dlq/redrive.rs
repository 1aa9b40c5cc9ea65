//! `dlq redrive`: letters back to the main queue, carefully.
//!
//! Works on the letters that were there when it began. The first one is a canary; while few come back dead the batches grow.
//! Each letter is published, confirmed, then removed: stopped or killed at any moment, nothing is lost, and at most one letter is
//! in both places, which costs a call that finds its group gone.
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Desk;
use crate::broker::BrokerError;
use crate::broker::delivery::Delivery;
use crate::broker::letters::{Letters, letter};
use crate::cli::{Exit, Failure, say};
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
    let mut meant = std::mem::take(&mut desk.meant);
    let rest = meant.split_off(total);
    let mut watch = Watch {
        letters: &mut desk.letters,
        run,
        back: 0,
        held: std::mem::take(&mut desk.held),
        settle: plan.settle,
    };
    watch
        .held
        .extend(rest.into_iter().map(|(_, delivery)| delivery));
    let bar = progress(total);
    let pause = Duration::from_secs(1) / plan.rate.max(1);
    let (mut redriven, mut batch, mut in_batch) = (0_u64, 1, 0);
    let mut left = meant.into_iter();
    let end = loop {
        let Some((_, delivery)) = left.next() else {
            break if in_batch == 0 {
                End::All
            } else {
                watch.look(in_batch).await?.unwrap_or(End::All)
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
            if let Some(end) = watch.look(batch).await? {
                break end;
            }
            if let NextBatch::Go(next) = next_batch(batch, 0) {
                batch = next;
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
    held: Vec<Delivery>,
    settle: Duration,
}

impl Watch<'_> {
    /// Waits until a batch is worked off and says whether to stop. `None`: go on.
    async fn look(&mut self, batch: usize) -> Result<Option<End>, BrokerError> {
        let before = self.back;
        let began = Instant::now();
        loop {
            self.collect(LOOK).await?;
            if self.letters.waiting().await? == 0 {
                break;
            }
            if began.elapsed() > WAITING_MAX {
                return Ok(Some(End::NobodyConsumes));
            }
        }
        self.collect(self.settle).await?;
        let stop = next_batch(batch, self.back - before) == NextBatch::Stop;
        Ok(stop.then_some(End::CameBack))
    }

    /// Takes in what arrives in the dead letters for a while. New ones are held; those of this run have come back.
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
            self.held.push(delivery);
        }
    }
}

fn progress(total: usize) -> ProgressBar {
    let visible = total > 1 && std::io::stderr().is_terminal();
    let target = if visible {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style =
        ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len} redriven, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(total as u64), target).with_style(style)
}
