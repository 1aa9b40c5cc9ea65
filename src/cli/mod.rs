//! The command line: one file per subcommand (`dlq` is a room of its own). To add one: a file here, a variant of [`Command`], an arm in
//! [`dispatch`].
mod check;
mod completions;
mod config;
mod explain;
mod man;
mod outcomes;
mod publish;
mod reconcile;
mod run;
mod topology;
mod usersig;

use std::ffi::OsString;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::config::Settings;
use convgroup_domain::text;
use convgroup_host::limits;

use crate::tool::{Exit, Failure};
use crate::{dlq, telemetry};

const EXAMPLES: &str = "\
Examples:
  convgroup-deleter check                               is everything ready to run?
  convgroup-deleter run --config /etc/convgroup-deleter.toml
  convgroup-deleter publish --user user15 test0 test1   delete two groups of one user
  convgroup-deleter publish --file events.ndjson        one event per line
  convgroup-deleter explain 51011                       what does this code mean, what happens?

Exit codes: 0 done, 64 usage, 69 a service is unavailable, 78 configuration, 1 anything else.";

/// Deletes users' conversation groups in Tencent Cloud Chat, driven by events from RabbitMQ.
#[derive(Debug, Parser)]
#[command(name = "convgroup-deleter", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    /// Configuration file (TOML), or the variable `CONVGROUP_CONFIG`; beats the defaults, is beaten by the other
    /// `CONVGROUP_…` variables.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or SIGINT.
    Run,
    /// Publish deletion events and wait until the broker has confirmed each.
    Publish(publish::Args),
    /// Check configuration, broker, exchange, queues and API; a line each.
    Check(check::Args),
    /// Say what an error code means and what happens to its message.
    Explain(explain::Args),
    /// Show the configuration in force and where each value comes from; secrets are hidden.
    Config,
    /// Look at dead letters, send them back, keep or remove them.
    Dlq(dlq::Args),
    /// Look at the answers to requests, or keep them in a file.
    Outcomes(outcomes::Args),
    /// Say what became of each request of a manifest.
    Reconcile(reconcile::Args),
    /// Print, apply or verify what the daemon needs at the broker.
    Topology(topology::Args),
    /// Print completions for a shell.
    Completions(completions::Args),
    /// Write man pages.
    Man(man::Args),
    /// Sign or decode a `UserSig`, for debugging.
    Usersig(usersig::Args),
}

/// Parses the arguments, runs the command, says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(err) => {
            let _ = err.print();
            return if err.use_stderr() {
                Exit::Usage.into()
            } else {
                Exit::Done.into()
            };
        }
    };
    // rustls wants to be told which cryptography to use; nobody else in this process chooses.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(problem) => {
            telemetry::say(&format!(
                "convgroup-deleter: the runtime can't start: {problem}"
            ));
            return Exit::Other.into();
        }
    };
    // In a task: a panic in it ends with an exit code of ours.
    let dispatched = runtime.block_on(runtime.spawn(dispatch(cli)));
    let exit = dispatched.map_or(Exit::Other, |done| {
        done.unwrap_or_else(|failure| {
            let problem = limits::explained(format!("{:#}", failure.error));
            telemetry::say(&format!("convgroup-deleter: {problem}"));
            failure.exit
        })
    });
    telemetry::flush();
    // What is left in the background holds nothing that has to be finished.
    runtime.shutdown_background();
    exit.into()
}

/// Starts the runtime. Where a thread or a descriptor is refused it panics, which is no bug.
fn runtime() -> Result<Runtime, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let built = panic::catch_unwind(|| {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
    });
    panic::set_hook(hook);
    match built {
        Ok(built) => built.map_err(|err| limits::explained(err.to_string())),
        Err(panicked) => match limits::limit_in_panic(&*panicked) {
            Some(limit) => Err(limit.advice().to_owned()),
            None => panic::resume_unwind(panicked),
        },
    }
}

async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let named = || named_file(std::env::var_os(CONFIG)?);
    let file = cli.config.or_else(named);
    let settings = Settings::load(file.as_deref(), variables()?);
    match cli.command {
        Command::Run => Box::pin(run::run(&settings)).await,
        Command::Publish(args) => publish::publish(&settings, args).await,
        Command::Check(args) => check::check(&settings, args).await,
        Command::Explain(args) => explain::explain(&settings, &args),
        Command::Config => config::config(&settings),
        Command::Dlq(args) => dlq::dlq(&settings, args).await,
        Command::Outcomes(args) => outcomes::outcomes(&settings, args).await,
        Command::Reconcile(args) => reconcile::reconcile(&settings, args).await,
        Command::Topology(args) => topology::topology(&settings, args).await,
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args),
        Command::Usersig(args) => usersig::usersig(&settings, args),
    }
}

/// Names the configuration file; it is no key.
const CONFIG: &str = "CONVGROUP_CONFIG";

/// The file that the variable names: like every variable it is trimmed, and with nothing in it not set.
fn named_file(name: OsString) -> Option<PathBuf> {
    let name = match name.to_str() {
        Some(text) => text::trimmed(text).into(),
        None => name,
    };
    Some(name)
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
}

/// The environment. A variable of ours that is not UTF-8 is a mistake; others are nobody's business.
fn variables() -> Result<Vec<(String, String)>, Failure> {
    let mut variables = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if name == CONFIG || !name.starts_with("CONVGROUP_") {
            continue;
        }
        match value.into_string() {
            Ok(value) => variables.push((name, value)),
            Err(_) => {
                return Err(Failure::new(
                    Exit::Config,
                    anyhow::anyhow!("environment {name}: is not UTF-8"),
                ));
            }
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
