//! `dlq redrive`: letters back to the main queue, carefully.
//!
//! Works on the letters that were there when it began. The first one is a canary; while few fail again the batches grow.
//! Each letter is published, confirmed, then removed: stopped or killed at any moment, nothing is lost. Killed, the last few may
//! be in both places, which costs calls that find their groups gone.
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Selection;
use crate::tool::{Exit, Failure, count, progress, say};
use crate::{shutdown, telemetry};
use convgroup_broker::BrokerError;
use convgroup_broker::dead_letter::letter;
use convgroup_broker::dead_letter_queue::DeadLetterQueue;
use convgroup_broker::refusal::Refusal;
use convgroup_domain::redrive::{NextBatch, next_batch};

/// How long the main queue may stay as long as it is before the redrive gives up.
const STUCK_MAX: Duration = Duration::from_secs(120);
/// How often the queues are looked at.
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Plan {
    pub(super) limit: Option<usize>,
    pub(super) rate: u32,
    pub(super) dry_run: bool,
    pub(super) settle: Duration,
    pub(super) ignore_delays: bool,
}

/// What comes after a batch.
enum Next {
    /// A batch of so many letters.
    Batch(usize),
    /// Nothing more.
    End(End),
}

/// How a redrive ended.
enum End {
    All,
    CameBack,
    Delayed(u32),
    NobodyConsumes,
    Stuck(u32),
    Interrupted,
}

impl End {
    /// What it means for the exit code, and in words; so many letters were not touched.
    fn message(self, untouched: &str) -> (Exit, String) {
        match self {
            Self::All => (Exit::Done, String::new()),
            Self::CameBack => (
                Exit::Other,
                format!(
                    "stopped: too many came back dead, `dlq show` says why; {untouched} not touched\n"
                ),
            ),
            Self::Delayed(delayed) => (
                Exit::Other,
                format!(
                    "stopped: {} more in the delay queues than before: what was redriven fails again and is tried for hours before it \
                 dies, or the daemon's own work does (`--ignore-delays` goes on all the same); {untouched} not touched\n",
                    count(delayed as usize, "message")
                ),
            ),
            Self::NobodyConsumes => (
                Exit::Unavailable,
                format!(
                    "stopped: what was redriven waits in the main queue, nobody consumes it; see /readyz of the daemon; {untouched} not touched\n"
                ),
            ),
            Self::Stuck(waiting) => (
                Exit::Unavailable,
                format!(
                    "stopped: {} wait in the main queue and have not become fewer for {} s; what was redriven is behind them, \
                 {untouched} not touched\n",
                    count(waiting as usize, "message"),
                    STUCK_MAX.as_secs()
                ),
            ),
            Self::Interrupted => (
                Exit::Other,
                format!("interrupted; {untouched} not touched\n"),
            ),
        }
    }
}

pub(super) async fn redrive(selection: &mut Selection, plan: Plan) -> Result<Exit, Failure> {
    let total = selection.meant.len().min(plan.limit.unwrap_or(usize::MAX));
    if plan.dry_run {
        say(&format!("{} would be redriven\n", count(total, "letter")))?;
        return Ok(Exit::Done);
    }
    let stop = shutdown::on_signals()?;
    let mut watch = Watch {
        letters: &mut selection.letters,
        run: format!("{:016x}", rand::random::<u64>()),
        back: 0,
        delays_least: 0,
        refused: None,
        plan: &plan,
        stop: &stop,
    };
    let bar = progress(total, "redriven");
    // A bar is for people who watch; who reads later wants lines.
    let prints_lines = !std::io::stderr().is_terminal();
    let pause = Duration::from_secs(1) / plan.rate;
    // Handled: redriven, or refused by the broker and left where it is.
    let (mut redriven, mut handled, mut batch) = (0, 0, 1);
    let mut left = std::mem::take(&mut selection.meant).into_iter().take(total);
    let end = 'run: loop {
        let in_batch = batch.min(total - handled);
        if in_batch == 0 {
            break End::All;
        }
        watch.begin().await?;
        for (_, delivery) in left.by_ref().take(in_batch) {
            tokio::select! {
                biased;
                () = stop.cancelled() => break 'run End::Interrupted,
                () = tokio::time::sleep(pause) => {}
            }
            let sent = watch.letters.redrive(delivery, &watch.run).await;
            if let Err(BrokerError::Refused(refusal)) = &sent {
                watch.refused.get_or_insert_with(|| refusal.clone());
                handled += 1;
                continue;
            }
            sent.map_err(|err| {
                Failure::from(err).context(format!(
                    "stopped after {redriven} of {}; the last few of these and the next one may be in both places, redriven \
                     again they find their groups gone; the others were not touched",
                    count(total, "letter")
                ))
            })?;
            (redriven, handled) = (redriven + 1, handled + 1);
            bar.set_position(handled as u64);
        }
        let next = watch.observe(in_batch).await?;
        if prints_lines {
            telemetry::say(&format!(
                "{redriven} of {total} redriven, {} came back dead",
                watch.back
            ));
        }
        match next {
            Next::Batch(next) => batch = next,
            Next::End(end) => break end,
        }
    };
    bar.finish_and_clear();
    let (back, refused) = (watch.back, watch.refused.take());
    let twice = selection.letters.make_sure().await?;
    say(&format!(
        "{redriven} of {} redriven, {back} came back dead\n",
        count(total, "letter")
    ))?;
    if twice > 0 {
        say(&format!(
            "{twice} of them could not be removed here and are in both places; redriven again they find their groups gone\n"
        ))?;
    }
    let (exit, words) = end.message(&count(total - handled, "letter"));
    say(&words)?;
    let Some(refusal) = refused else {
        return Ok(exit);
    };
    say(&format!(
        "{} stayed here, the broker does not take them back: {refusal}\n",
        count(handled - redriven, "letter")
    ))?;
    Ok(match exit {
        Exit::Done => Exit::Other,
        exit => exit,
    })
}

/// Looks after what was redriven.
struct Watch<'d> {
    letters: &'d mut DeadLetterQueue,
    run: String,
    /// Letters of this run that came back dead.
    back: usize,
    /// The fewest messages seen in the delay queues since the batch began: what has come on top has failed meanwhile.
    delays_least: u32,
    /// Why the broker did not take the first of those that it refused.
    refused: Option<Refusal>,
    plan: &'d Plan,
    stop: &'d CancellationToken,
}

impl Watch<'_> {
    async fn begin(&mut self) -> Result<(), BrokerError> {
        self.delays_least = u32::MAX;
        self.delays().await.map(drop)
    }

    /// Waits until a batch is worked off and says how large the next one is, or why to stop.
    async fn observe(&mut self, batch: usize) -> Result<Next, BrokerError> {
        let before = self.back;
        let mut least = (u32::MAX, Instant::now());
        loop {
            if !self.collect(LOOK).await? {
                return Ok(Next::End(End::Interrupted));
            }
            let main = self.letters.main().await?;
            self.delays().await?;
            if main.ready == 0 {
                break;
            }
            if main.ready < least.0 {
                least = (main.ready, Instant::now());
            } else if least.1.elapsed() > STUCK_MAX {
                return Ok(Next::End(match main.consumers {
                    0 => End::NobodyConsumes,
                    _ => End::Stuck(main.ready),
                }));
            }
        }
        if !self.collect(self.plan.settle).await? {
            return Ok(Next::End(End::Interrupted));
        }
        let (dead, delayed) = (self.back - before, self.delays().await?);
        Ok(match next_batch(batch, dead + delayed as usize) {
            NextBatch::Go(next) => Next::Batch(next),
            NextBatch::Stop if dead > 0 => Next::End(End::CameBack),
            NextBatch::Stop => Next::End(End::Delayed(delayed)),
        })
    }

    /// How many more messages wait in the delay queues than the fewest that were seen.
    async fn delays(&mut self) -> Result<u32, BrokerError> {
        if self.plan.ignore_delays {
            return Ok(0);
        }
        let delayed = self.letters.delayed().await?;
        self.delays_least = self.delays_least.min(delayed);
        Ok(delayed - self.delays_least)
    }

    /// Takes in what arrives in the dead letters for a while. Those of this run have come back. `false`: it is to stop.
    async fn collect(&mut self, patience: Duration) -> Result<bool, BrokerError> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let arrived = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(false),
                arrived = self.letters.arrived(left) => arrived?,
            };
            let Some(delivery) = arrived else {
                return Ok(true);
            };
            if letter(&delivery.message).redrive_run == self.run {
                self.back += 1;
            }
        }
    }
}
