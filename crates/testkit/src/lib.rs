//! What the integration tests stand on: a real broker, a fault proxy, the real daemon, and patience.
//!
//! | module | what it gives |
//! |---|---|
//! | [`node`] | [`Node`], [`Cluster`]: private throw-away `RabbitMQ` nodes; [`shared_node`]: one per test process |
//! | [`broker`] | [`Broker`]: an AMQP client that shares no code with the daemon |
//! | [`proxy`] | [`Proxy`]: a TCP proxy that cuts, freezes and delays, also at a chosen byte or AMQP frame |
//! | [`daemon`] | [`DaemonConfig`], [`Daemon`], [`Metrics`]: the real binary, its output, signals and HTTP surface |
//! | [`raw`] | [`raw::RawPublisher`]: frames written by hand, for messages that no client library would make |
//! | [`eventually`](mod@eventually) | [`eventually()`]: wait for a condition, never for a time |
//! | `ports`, `reaper` | free ports that stay free; nothing outlives the test process, however it dies |
//!
//! A test is written like this:
//!
//! ```text
//! #[tokio::test(flavor = "multi_thread")]
//! async fn an_event_is_deleted() {
//!     let node = convgroup_testkit::shared_node().await;            // one node per test process, started on first use
//!     let queue = convgroup_testkit::unique("convgroup.delete");    // tests share the node, so each has its own names
//!     let broker = convgroup_testkit::Broker::connect(&node.url()).await;
//!     let mut daemon = convgroup_testkit::DaemonConfig::new(&node.url(), &api_url)
//!         .set("CONVGROUP_AMQP__QUEUE", &queue)
//!         .spawn();
//!     daemon.ready(PATIENCE).await;
//!     …
//! }
//! ```
//!
//! Rules: a test that kills, freezes or starves a node starts its own [`Node`], and waits for [`Node::recorded`] before
//! it kills one that has only just declared its queues. A missing broker fails the test, it
//! never skips it. Whatever goes wrong in here panics and says what was missing and what was seen last. Use the
//! multi-threaded runtime: the proxy and the AMQP client run beside the test.
#![allow(
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    reason = "for tests: an error or a result that is not used fails where it is met"
)]

pub mod broker;
pub mod daemon;
pub mod eventually;
pub mod node;
mod ports;
pub mod proxy;
pub mod raw;
pub mod reaper;

pub use broker::{Broker, Message, Settle};
pub use daemon::{Daemon, DaemonConfig, Metrics};
pub use eventually::eventually;
pub use node::{Cluster, Node, SharedNode, shared_node};
pub use ports::free_port;
pub use proxy::{Action, Direction, Proxy, Rule, When};

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a test waits for what should happen within milliseconds, on a machine that may be very busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A name that no other test of this run uses.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}.{}-{number}", std::process::id())
}

/// The path of a program of this workspace, as built for the profile of the test, bench or example that asks. Cargo puts those into
/// `deps` or `examples` beside it.
///
/// # Panics
/// It is not built.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let asks = std::env::current_exe().expect("the system knows what runs");
    let path = asks.with_file_name("..").join(name);
    assert!(
        path.exists(),
        "{} is not built: `cargo build --workspace --bins`, with --release for benches and the demo",
        path.display()
    );
    path
}
