//! `convgroup-deleter`: the daemon and its tools. All it does is in [`convgroup_deleter::cli`].
use std::process::ExitCode;

fn main() -> ExitCode {
    convgroup_deleter::cli::main()
}
