//! A stand-in for the Chat API: users and groups in memory, real UserSig checks, the limit, every fault on demand.
//!
//! [`Sandbox::start`] runs it inside a test; the binary `im-sandbox` runs it as a process. Both are controlled alike,
//! by methods here or by HTTP under `/sandbox/` (see `control`).
//!
//! A call goes through these files:
//!
//! ```text
//! server   a connection, and the ways to break one
//!   call     what the HTTP request says
//!     api     faults, then the checks in the API's order, then what is asked for
//!       fault · access · limit · store · page · counters
//! ```
//!
//! Two calls are answered: `del_contact_group` deletes a group, `get_contact_group` lists a page of a user's groups. They share
//! the checks, the limit and the faults.
//!
//! It is not a model of the service's capacity or consistency, and keeps nothing on disk.
//!
//! Groups are listed, and one is deleted, with the daemon's own client; then the API is made to fail:
//!
//! ```
//! use std::error::Error;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use convgroup_chat::client::{ChatClient, Via};
//! use convgroup_chat::connects::OnConnect;
//! use convgroup_chat::endpoint::Endpoint;
//! use convgroup_chat::page::PageAsked;
//! use convgroup_chat::signer::Signer;
//! use convgroup_chat::settings::{Im, SecretSource};
//! use convgroup_domain::reply::Reply;
//! use im_sandbox::{Config, DEMO_SECRET_KEY, Fault, Rule, Sandbox};
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn Error>> {
//!     let sandbox = Sandbox::start(Config::default()).await?;
//!     sandbox.add_user("user15", &["work", "family"])?;
//!
//!     let im = Im {
//!         endpoint: Endpoint::from_base_url(&sandbox.base_url())?,
//!         sdk_app_id: 1_400_000_000,
//!         identifier: "administrator".to_owned(),
//!         secret: SecretSource::Value(DEMO_SECRET_KEY.into()),
//!         timeout: Duration::from_secs(10),
//!     };
//!     let signer = Signer::new(&im, Box::new(|_| {}))?;
//!     let on_connect: OnConnect = Arc::new(|_| {});
//!     let client = ChatClient::new(&im, signer, 1, &on_connect)?;
//!
//!     let listed = client.list("user15", PageAsked::FIRST, Via::Pooled).await;
//!     assert_eq!(listed.page.map(|page| page.groups), Some(vec!["work".to_owned(), "family".to_owned()]));
//!
//!     let call = client.delete("user15", "work", Via::Pooled).await;
//!     assert_eq!(call.reply, Reply::Answer { code: 0, info: String::new() });
//!     assert_eq!(sandbox.groups("user15"), Some(vec!["family".to_owned()]));
//!
//!     sandbox.add_fault(Rule::new(Fault::HttpStatus(503)));
//!     let call = client.delete("user15", "family", Via::Pooled).await;
//!     assert_eq!(call.reply, Reply::HttpStatus(503));
//!     Ok(())
//! }
//! ```

mod access;
mod api;
mod call;
mod config;
mod control;
mod counters;
mod fault;
mod limit;
mod page;
mod refusal;
mod seed;
mod server;
mod shared;
mod store;

use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

pub use access::Credentials;
pub use call::CallKind;
pub use config::{Config, DEMO_SECRET_KEY, Latency, LatencyError};
pub use counters::{CallRecord, Counters};
pub use fault::{Effect, Fault, Probes, Raw, Rule, RuleState};
pub use seed::{SeedError, SeedLineError};
pub use store::NameTooLong;

use seed::Seeder;
use shared::Shared;

/// A running sandbox; dropping it closes its port and all its connections.
pub struct Sandbox {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: AbortOnDropHandle<()>,
}

impl Sandbox {
    /// Binds `config.listen` and serves it on the current Tokio runtime.
    ///
    /// # Errors
    /// When the address can't be bound.
    pub async fn start(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared::new(config));
        let server =
            AbortOnDropHandle::new(tokio::spawn(server::serve(listener, Arc::clone(&shared))));
        Ok(Self {
            addr,
            shared,
            server,
        })
    }

    /// The address it listens on, with the port the system chose if port 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://ADDRESS`, without a slash at the end.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Closes the port and all connections; when it returns, the address can be bound again.
    pub async fn stop(self) {
        self.server.abort();
        // The task ends by cancellation, which is what was asked for.
        let _ = self.server.await;
    }

    /// Gives `user` these groups, besides those it has; a user without groups exists all the same.
    ///
    /// # Errors
    /// When a group name is longer than the API's 32 bytes.
    pub fn add_user(&self, user: &str, groups: &[&str]) -> Result<(), NameTooLong> {
        self.shared.api().store.add_user(user, groups)
    }

    /// Gives `user` these groups after each of its next `times` lists: as if somebody made them between the list and the
    /// deletions. A list has taken place when its last page was told; one that is refused is none.
    ///
    /// # Errors
    /// When a group name is longer than the API's 32 bytes.
    pub fn add_after_list(
        &self,
        user: &str,
        groups: &[&str],
        times: u64,
    ) -> Result<(), NameTooLong> {
        self.shared.api().store.add_after_list(user, groups, times)
    }

    /// Reads NDJSON lines `{"user":"user15","groups":["a","b"]}` and returns how many there were.
    ///
    /// # Errors
    /// The number of the first bad line and what is wrong with it; the lines before it are in effect.
    pub fn seed(&self, mut lines: impl BufRead) -> Result<u64, SeedError> {
        let mut seeder = Seeder::default();
        loop {
            let chunk = lines
                .fill_buf()
                .map_err(|error| seeder.error(error.into()))?;
            if chunk.is_empty() {
                return seeder.finish(&mut self.shared.api().store);
            }
            seeder.push(chunk, &mut self.shared.api().store)?;
            let taken = chunk.len();
            lines.consume(taken);
        }
    }

    /// The groups `user` has left, in the order they were added; `None` for an unknown user.
    #[must_use]
    pub fn groups(&self, user: &str) -> Option<Vec<String>> {
        self.shared.api().store.groups(user)
    }

    /// The counters since the start or the last reset.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.api().counters.clone()
    }

    /// Sets all counters to zero and forgets the recorded calls.
    pub fn reset_counters(&self) {
        self.shared.api().reset_counters();
    }

    /// Waits until `condition` holds; it is looked at now and after every call.
    ///
    /// Waits for ever if it never does: wrap it in a timeout.
    pub async fn wait_until(&self, condition: impl Fn(&Counters) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if condition(&self.shared.api().counters) {
                return;
            }
            changed.await;
        }
    }

    /// The calls so far in the order of their arrival; empty unless [`Config::record`] is set.
    #[must_use]
    pub fn calls(&self) -> Vec<CallRecord> {
        self.shared.api().calls.clone()
    }

    /// Sets the limit in calls per sliding second; 0 switches it off.
    pub fn set_limit(&self, calls_per_second: u32) {
        self.shared.api().calls_per_second = calls_per_second;
    }

    /// Sets how many groups a page of a list has; 0 puts all of them on one page.
    pub fn set_list_page_size(&self, list_page_size: u32) {
        self.shared.api().list_page_size = list_page_size;
    }

    /// Sets how long an answer takes, from the next call on.
    pub fn set_latency(&self, latency: Latency) {
        self.shared.api().latency = latency;
    }

    /// Replaces the secret key and the admins; a UserSig of the old key is refused from now on.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.shared.api().access.set_credentials(credentials);
    }

    /// Adds a fault rule behind those there are and returns its id; the first rule that strikes decides.
    #[expect(
        clippy::must_use_candidate,
        reason = "few callers remove a single rule"
    )]
    pub fn add_fault(&self, rule: Rule) -> u64 {
        self.shared.api().faults.add(rule)
    }

    /// The fault rules that are still in effect.
    #[must_use]
    pub fn faults(&self) -> Vec<RuleState> {
        self.shared.api().faults.list()
    }

    /// Removes one fault rule; says whether it was there.
    #[expect(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn remove_fault(&self, id: u64) -> bool {
        self.shared.api().faults.remove(id)
    }

    /// Removes all fault rules.
    pub fn clear_faults(&self) {
        self.shared.api().faults.clear();
    }
}
