//! `make bench`: what the daemon costs and how well it keeps the pace, against a bare loop, on a real RabbitMQ.
//!
//! Daemon and bare loop run in turn in one run, so that what is compared met the same machine. The sandbox is a process of its
//! own in the throughput runs; all events are queued before the clock starts, so no publisher takes part.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stderr,
    reason = "figures are rounded for people, progress goes to stderr"
)]

mod bare;
mod collector;
mod process;
mod scenarios;

use std::path::PathBuf;

use scenarios::Stage;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    if std::env::var_os("BARE_URL").is_some() {
        return bare::run().await;
    }
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stage = Stage::set().await?;
    let mut report = format!("# Benchmarks\n\n{}\n", Stage::machine());
    macro_rules! section {
        ($name:ident) => {
            if wanted(stringify!($name)) {
                eprintln!("{} …", stringify!($name));
                let text = scenarios::$name(&stage).await?;
                println!("{text}");
                report += &format!("{text}\n");
            }
        };
    }
    section!(throughput);
    section!(latency);
    section!(pace);
    section!(answers);
    section!(answers_latency);
    section!(traces);
    section!(memory);
    section!(start);
    section!(growth);
    if only.is_none() {
        std::fs::write(PathBuf::from("docs/benchmarks.md"), report)?;
    }
    Ok(())
}
