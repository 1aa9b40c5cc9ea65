//! The command line: one file per subcommand. To add one: a file here, a variant of [`Command`], an arm in [`dispatch`].
mod check;
mod config;
mod exit;
mod explain;
mod publish;
mod run;
mod usersig;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use exit::{Exit, Failure};

use crate::config::Settings;

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
    /// Configuration file (TOML); beats the defaults, is beaten by `CONVGROUP_…` variables.
    #[arg(long, global = true, value_name = "FILE", env = "CONVGROUP_CONFIG")]
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
    /// Check configuration, broker, queues and API; a line each.
    Check(check::Args),
    /// Say what an error code means and what happens to its message.
    Explain(explain::Args),
    /// Show the configuration in force and where each value comes from; secrets are hidden.
    Config,
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
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => {
            eprintln!("convgroup-deleter: the runtime can't start: {err}");
            return Exit::Other.into();
        }
    };
    let exit = runtime.block_on(dispatch(cli)).unwrap_or_else(|failure| {
        let _ = writeln!(std::io::stderr(), "convgroup-deleter: {:#}", failure.error);
        failure.exit
    });
    // What is left in the background holds nothing that has to be finished.
    runtime.shutdown_background();
    exit.into()
}

async fn dispatch(cli: Cli) -> Result<Exit, Failure> {
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    // CONVGROUP_CONFIG names the file; it is no key.
    let settings = Settings::load(
        cli.config.as_deref(),
        variables.filter(|(name, _)| name != "CONVGROUP_CONFIG"),
    );
    match cli.command {
        Command::Run => run::run(&settings).await,
        Command::Publish(args) => publish::publish(&settings, args).await,
        Command::Check(args) => check::check(&settings, args).await,
        Command::Explain(args) => explain::explain(&settings, &args),
        Command::Config => config::config(&settings),
        Command::Usersig(args) => usersig::usersig(&settings, args),
    }
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
