//! What all tools share: exit codes, failures that know theirs, and what is written on a terminal.
mod exit;
mod interrupt;
mod new_file;

use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::ops::ControlFlow;

use convgroup_domain::code::CodeTable;
use indicatif::{HumanFloatCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

pub use exit::{Exit, Failure};
pub(crate) use interrupt::Interrupt;
pub(crate) use new_file::{NewFile, another};

/// What is wrong with a code, and which ones there are.
pub(crate) fn no_code(codes: &CodeTable, code: &str) -> Failure {
    let known: Vec<&str> = codes
        .rows()
        .map(|row| &*row.code)
        .filter(|code| code.parse::<i64>().is_err())
        .collect();
    let problem = format!(
        "`{code}` is no code: give a number (51011), an HTTP status (http_503), or one of {}",
        known.join(" ")
    );
    Failure::new(Exit::Usage, anyhow::anyhow!(problem))
}

/// Writes a command's result to standard output. A reader that has seen enough (`… | head`) is no error.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    offer(text).map(drop)
}

/// The same for one that has more to say: breaks when its reader has seen enough.
pub(crate) fn offer(text: &str) -> Result<ControlFlow<()>, Failure> {
    let mut out = std::io::stdout().lock();
    enough(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Breaks where nobody reads what is written any more.
pub(crate) fn enough(written: std::io::Result<()>) -> Result<ControlFlow<()>, Failure> {
    match written {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(err) if err.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(err) => Err(err.into()),
    }
}

/// A number of things: `1 letter`, `2 letters`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A progress bar for long work, on a terminal only; `done` says what has happened to those that are counted.
pub(crate) fn progress(total: usize, done: &str) -> ProgressBar {
    let visible = total > 1 && std::io::stderr().is_terminal();
    let target = if visible {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = format!("{{wide_bar}} {{human_pos}}/{{human_len}} {done}, {{eta}} left");
    let style =
        ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = out.write_str(&rate(state.per_sec()));
    });
    ProgressBar::with_draw_target(Some(total as u64), target).with_style(style)
}

/// A rate in whole things per second: `35,103/s`.
fn rate(per_s: f64) -> String {
    format!("{:.0}/s", HumanFloatCount(per_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_no_fractions() {
        let rates = [0.4, 9.6, 999.7, 35_102.760_8].map(rate);
        assert_eq!(rates, ["0/s", "10/s", "1,000/s", "35,103/s"]);
    }
}
