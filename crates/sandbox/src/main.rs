//! `im-sandbox`: a stand-in for the Chat API as a process; all it does is in [`im_sandbox`].

use std::fs::File;
use std::io::{BufReader, Write, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser};
use humantime::Duration;
use im_sandbox::{Config, DEMO_SECRET_KEY, Latency, Sandbox};
use secrecy::{ExposeSecret, SecretString};
use tokio::signal::unix::{SignalKind, signal};

const EXAMPLES: &str = r#"Examples:
  A sandbox with one user:
    echo '{"user":"user15","groups":["test0","test1"]}' > users.ndjson
    im-sandbox --seed users.ndjson

  For load tests, every user has every group and there is no limit:
    im-sandbox --permissive --calls-per-second 0 --latency 5ms..40ms

  While it runs:
    curl localhost:8700/sandbox/counters
    curl localhost:8700/sandbox/users/user15
    curl localhost:8700/sandbox/users --data-binary @users.ndjson
    curl localhost:8700/sandbox/limit -X PUT -d '{"calls_per_second":50}'
    curl localhost:8700/sandbox/list-page-size -X PUT -d '{"list_page_size":7}'
    curl localhost:8700/sandbox/latency -X PUT -d '{"min_ms":0,"max_ms":500}'
    curl localhost:8700/sandbox/credentials -X PUT -d '{"secret_key":"rotated"}'
    curl localhost:8700/sandbox/after-list -d '{"user":"user15","groups":["test0"],"times":3}'

  Faults, the first rule that strikes decides:
    curl localhost:8700/sandbox/faults -d '{"what":{"code":50004,"info":"busy"},"times":3}'
    curl localhost:8700/sandbox/faults -d '{"what":{"http_status":502},"probability":0.1,"seed":7}'
    curl localhost:8700/sandbox/faults -d '{"what":"reset","user":"user15","effect":"after"}'
    curl localhost:8700/sandbox/faults -d '{"what":"hang","probes":"only"}'
    curl localhost:8700/sandbox/faults -d '{"what":"stuck_index","page":1}'
    curl localhost:8700/sandbox/faults -d '{"what":{"code":50004},"call":"delete"}'
    curl localhost:8700/sandbox/faults
    curl localhost:8700/sandbox/faults -X DELETE
  Others: "close", "garbage", "huge", "truncated", {"echo":50004}, {"raw":{"body":"{}"}}, and for lists "no_complete_flag".
  "skip":N lets N calls pass first; "call":"delete" or "list" picks the call, "page":N the page of a list, from 0."#;

/// A stand-in for the Tencent Cloud Chat server API that lists and deletes conversation groups.
///
/// Users and groups are kept in memory, the UserSig and the limit are checked as by the service, and
/// every fault can be had on demand.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(
        long,
        env = "IM_SANDBOX_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8700"
    )]
    listen: SocketAddr,

    /// The app the sandbox knows
    #[arg(
        long,
        env = "IM_SANDBOX_SDK_APP_ID",
        value_name = "ID",
        default_value_t = 1_400_000_000
    )]
    sdk_app_id: u64,

    /// The key a UserSig must be signed with; better given by the environment
    #[arg(long, env = "IM_SANDBOX_SECRET_KEY", value_name = "KEY", hide_env_values = true, default_value = DEMO_SECRET_KEY)]
    secret_key: SecretString,

    /// An account that may call; several by commas
    #[arg(
        long,
        env = "IM_SANDBOX_ADMIN",
        value_name = "ACCOUNT",
        value_delimiter = ',',
        default_value = "administrator"
    )]
    admin: Vec<String>,

    /// The limit in calls per sliding second, 0 for none
    #[arg(
        long,
        env = "IM_SANDBOX_CALLS_PER_SECOND",
        value_name = "N",
        default_value_t = 200
    )]
    calls_per_second: u32,

    /// How many groups a page of a list has, 0 for all of them
    #[arg(
        long,
        env = "IM_SANDBOX_LIST_PAGE_SIZE",
        value_name = "N",
        default_value_t = 100
    )]
    list_page_size: u32,

    /// How long an answer takes, like 20ms or 0ms..50ms
    #[arg(
        long,
        env = "IM_SANDBOX_LATENCY",
        value_name = "TIME",
        default_value = "0ms"
    )]
    latency: Latency,

    /// Users and groups to begin with, as NDJSON
    #[arg(long, env = "IM_SANDBOX_SEED", value_name = "FILE")]
    seed: Option<PathBuf>,

    /// Every user exists and has every group until it is deleted; a list names those it was given
    #[arg(long, env = "IM_SANDBOX_PERMISSIVE")]
    permissive: bool,

    /// Close a connection that was idle for so long, without a word
    #[arg(long, env = "IM_SANDBOX_IDLE_CLOSE", value_name = "TIME")]
    idle_close: Option<Duration>,

    /// Close a connection after so many answers, without a word
    #[arg(long, env = "IM_SANDBOX_CLOSE_AFTER_REQUESTS", value_name = "N")]
    close_after_requests: Option<u32>,
}

impl From<Args> for Config {
    fn from(args: Args) -> Self {
        Self {
            listen: args.listen,
            sdk_app_id: args.sdk_app_id,
            secret_key: args.secret_key,
            admins: args.admin,
            calls_per_second: args.calls_per_second,
            list_page_size: args.list_page_size,
            latency: args.latency,
            permissive: args.permissive,
            record: false,
            idle_close: args.idle_close.map(Into::into),
            close_after_requests: args.close_after_requests,
        }
    }
}

/// The arguments. An environment variable that is empty counts as not set: charts and compose files pass empty ones.
fn args() -> Args {
    let command = Args::command().mut_args(|arg| {
        let is_empty = |name| std::env::var_os(name).is_some_and(|value| value.is_empty());
        // Without its key the sandbox would take the one that everybody knows.
        let is_secret = arg.is_hide_env_values_set();
        if !is_secret && arg.get_env().is_some_and(is_empty) {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    });
    let args = Args::from_arg_matches(&command.get_matches()).unwrap_or_else(|err| err.exit());
    if args.secret_key.expose_secret().is_empty() {
        let problem = "--secret-key (IM_SANDBOX_SECRET_KEY) is empty: set it, or leave it out for the key of the demo\n";
        Args::command()
            .error(ErrorKind::InvalidValue, problem)
            .exit();
    }
    args
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut args = args();
    let seed = args.seed.take();
    let listen = args.listen;
    // Before the sandbox is announced: whoever reads the line may end it at once.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let sandbox = Sandbox::start(args.into())
        .await
        .with_context(|| format!("can't listen on {listen}"))?;
    if let Some(path) = seed {
        let file = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        sandbox
            .seed(BufReader::new(file))
            .with_context(|| format!("can't seed from {}", path.display()))?;
    }
    let mut stdout = stdout().lock();
    writeln!(stdout, "im-sandbox listening on {}", sandbox.base_url())?;
    stdout.flush()?;
    drop(stdout);

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    sandbox.stop().await;
    Ok(())
}
