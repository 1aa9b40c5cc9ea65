//! Makes calls wait in line until the [`Spacing`] lets them leave.
use std::sync::{Arc, Mutex as StdMutex, MutexGuard};
use std::time::{Duration, Instant};

use convgroup_chat::connects::ConnectEvent;
use convgroup_domain::spacing::Spacing;
use tokio::sync::Mutex;

use crate::status::Status;

/// Where a call waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind those that came before.
    Line,
    /// Past the line, at the same pace: a call with a new signature says whether the others may leave with it at all.
    Head,
}

/// Makes calls wait for their turn, in line.
#[derive(Debug)]
pub struct Limiter {
    /// Who holds it is at the head of the line. Tokio's mutex is fair: first come, first served.
    line: Mutex<()>,
    spacing: StdMutex<Spacing>,
    status: Arc<Status>,
}

impl Limiter {
    /// At most `limit` calls in any sliding second.
    #[must_use]
    pub fn new(limit: u32, status: Arc<Status>) -> Self {
        status.paced(f64::from(limit));
        Self {
            line: Mutex::new(()),
            spacing: StdMutex::new(Spacing::new(limit)),
            status,
        }
    }

    /// Takes a slot if there is one now and nobody stands in line.
    pub fn try_take(&self) -> bool {
        let Ok(_head) = self.line.try_lock() else {
            return false;
        };
        self.take().is_ok()
    }

    /// Waits until a call may leave and takes its slot, unless `may_go` says no at the last moment: then nothing is taken and
    /// `false` returned. Safe to drop at any await: a slot is taken only when this completes.
    pub async fn wait_in_line(&self, may_go: impl Fn() -> bool) -> bool {
        let _head = self.line.lock().await;
        self.wait_at_head(may_go).await
    }

    /// The same, past the line: for what must be known before those in line leave.
    pub async fn wait_at_head(&self, may_go: impl Fn() -> bool) -> bool {
        loop {
            if !may_go() {
                return false;
            }
            match self.take() {
                Ok(()) => return true,
                Err(next) => tokio::time::sleep_until(next.into()).await,
            }
        }
    }

    /// Takes a slot, or says when there may be one.
    fn take(&self) -> Result<(), Instant> {
        let now = Instant::now();
        let mut spacing = self.spacing();
        let next = spacing.next(now);
        if next > now {
            return Err(next);
        }
        spacing.release(now);
        self.show(&spacing, now);
        Ok(())
    }

    /// Brings the pace that is shown up to date: it climbs while no call leaves, too.
    pub fn show_pace(&self) {
        self.show(&self.spacing(), Instant::now());
    }

    fn show(&self, spacing: &Spacing, now: Instant) {
        self.status.paced(spacing.pace(now));
    }

    /// Halves the pace for everybody at once, because the API said "too often".
    pub fn slow_down(&self) {
        let now = Instant::now();
        let mut spacing = self.spacing();
        if spacing.cut(now) {
            self.show(&spacing, now);
            tracing::info!(
                pace = spacing.pace(now),
                "the API says that calls come too often; the pace is halved and climbs back in steps"
            );
        }
    }

    /// Takes note of a call that has to connect before it leaves.
    pub fn connects(&self, connect: ConnectEvent) {
        let mut spacing = self.spacing();
        match connect {
            ConnectEvent::Started(now) => spacing.connect_started(now),
            ConnectEvent::Ended(now) => spacing.connect_ended(now),
        }
    }

    /// Lets nobody leave for a while.
    pub fn hold(&self, pause: Duration) {
        self.spacing().hold_until(Instant::now() + pause);
    }

    fn spacing(&self) -> MutexGuard<'_, Spacing> {
        self.spacing.lock().expect("no panic while held")
    }
}
