//! What connections and controls share.
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::api::Api;
use super::config::Config;

/// What connections and controls share.
pub(super) struct Shared {
    api: Mutex<Api>,
    /// Told after every call.
    pub(super) changed: Notify,
    pub(super) idle_close: Option<Duration>,
    pub(super) close_after_requests: Option<u32>,
}

impl Shared {
    pub(super) fn new(config: Config) -> Self {
        let (idle_close, close_after_requests) = (config.idle_close, config.close_after_requests);
        let api = Mutex::new(Api::new(config));
        Self {
            api,
            changed: Notify::new(),
            idle_close,
            close_after_requests,
        }
    }

    /// Never held across an `await`. A panic of a test's thread does not spoil what is behind it.
    pub(super) fn api(&self) -> MutexGuard<'_, Api> {
        self.api.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
