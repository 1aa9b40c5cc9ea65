//! `outcomes export`: the ledger in a file, one outcome per line, as it was published.
use std::io::{BufWriter, Stdout, Write};
use std::ops::ControlFlow;
use std::path::Path;

use convgroup_broker::ledger::Ledger;
use convgroup_broker::settings::Amqp;
use serde_json::value::RawValue;

use super::{outcomes, read_ledger};
use crate::tool::{Exit, Failure, NewFile, enough, say};

/// Writes all outcomes from `since_ms` on to a new file, or to standard output where it is `-`.
pub(crate) async fn export(
    amqp: &Amqp,
    since_ms: Option<i64>,
    file: &Path,
) -> Result<Exit, Failure> {
    let mut sink = Sink::new(file)?;
    let ledger = Ledger::open(amqp).await?;
    let mut written = 0_usize;
    read_ledger(&ledger, since_ms, |read| {
        written += 1;
        sink.write(&one_line(read.json))
    })
    .await?;
    sink.end()?;
    if file != Path::new("-") {
        say(&format!(
            "{} written to {}\n",
            outcomes(written),
            file.display()
        ))?;
    }
    Ok(Exit::Done)
}

/// JSON as one line: as it is, unless somebody wrote it on several.
pub(super) fn one_line(json: &[u8]) -> Vec<u8> {
    let mut line = json.to_vec();
    if json.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        // Between values only white space can be a line's end: inside a text it is an escape.
        line.retain(|byte| !matches!(byte, b'\n' | b'\r'));
        debug_assert!(serde_json::from_slice::<&RawValue>(&line).is_ok());
    }
    line.push(b'\n');
    line
}

/// Where it is written to.
enum Sink {
    File(NewFile),
    Stdout(BufWriter<Stdout>),
}

impl Sink {
    fn new(file: &Path) -> Result<Self, Failure> {
        Ok(if file == Path::new("-") {
            Self::Stdout(BufWriter::new(std::io::stdout()))
        } else {
            Self::File(NewFile::create(file)?)
        })
    }

    /// Breaks when a reader (`… | head`) has seen enough.
    fn write(&mut self, line: &[u8]) -> Result<ControlFlow<()>, Failure> {
        match self {
            Self::File(file) => file.write(line).map(ControlFlow::Continue),
            Self::Stdout(out) => enough(out.write_all(line)),
        }
    }

    fn end(self) -> Result<(), Failure> {
        match self {
            Self::File(file) => file.keep(),
            Self::Stdout(mut out) => enough(out.flush()).map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_one_line() {
        assert_eq!(one_line(b"{\"a\":1}"), b"{\"a\":1}\n");
        assert_eq!(one_line(b"{\r\n \"a\\n\": 1\n}\n"), b"{ \"a\\n\": 1}\n");
    }
}
