//! Files with JSON in each line: manifests, and outcomes that were exported.
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, anyhow};
use convgroup_domain::case::Cases;
use convgroup_domain::line::Looks;
use convgroup_domain::manifest::{Asked, LineError, is_blank};
use convgroup_domain::text::BYTE_ORDER_MARK;

use super::{Read, Skipped};
use crate::tool::{Exit, Failure};

/// Longest line that is read, in bytes. No line of ours is a tenth of it.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Reads a manifest, one request after the other.
///
/// # Errors
/// It can't be read; or a line is no request, or is not taken by `take`: it is named by its number.
pub(crate) fn read_manifest(
    path: &Path,
    mut take: impl FnMut(usize, Asked) -> Result<(), LineError>,
) -> Result<(), Failure> {
    each_line(path, |number, line| {
        let taken = Asked::from_line(line).and_then(|asked| take(number, asked));
        taken.map_err(|err| usage(path, anyhow!("line {number} {err}")))
    })
}

/// Opens the books with what a manifest asks for.
///
/// # Errors
/// As [`read_manifest`]; an id stands in it twice, or it asks for nothing.
pub(crate) fn books(path: &Path) -> Result<Cases, Failure> {
    let mut cases = Cases::new();
    // The number of the line of each request, by its place.
    let mut numbers: Vec<u32> = Vec::new();
    read_manifest(path, |number, asked| {
        let entered = cases.ask(&asked);
        entered.map_err(|before| LineError::Again(numbers[before] as usize))?;
        numbers.push(u32::try_from(number).unwrap_or(u32::MAX));
        Ok(())
    })?;
    if cases.is_empty() {
        return Err(usage(path, anyhow!("it asks for nothing")));
    }
    Ok(cases)
}

/// Reads a file of outcomes, and gives each of them to `take`.
///
/// # Errors
/// It can't be read; or there are lines in it, and none of them is an outcome: then it is another file.
pub(super) fn read_outcomes(path: &Path, mut take: impl FnMut(Read<'_>)) -> Result<(), Failure> {
    let mut skipped = Skipped::default();
    let (mut first, mut outcomes) = (None, 0_usize);
    each_line(path, |number, json| {
        if first.is_none() {
            first = Some((number, Looks::of(json)));
        }
        if let Some(heard) = skipped.read(json) {
            outcomes += 1;
            take(Read { heard, json });
        }
        Ok(())
    })?;
    if let (Some((number, looks)), 0) = (first, outcomes) {
        let problem = anyhow!(
            "no line of it is an outcome; line {number} is {looks}. --outcomes takes what `outcomes export` wrote"
        );
        return Err(usage(path, problem));
    }
    skipped.tell("line", "lines");
    Ok(())
}

fn usage(path: &Path, err: anyhow::Error) -> Failure {
    Failure::new(
        Exit::Usage,
        err.context(format!("{} can't be used", path.display())),
    )
}

/// Each line of a file that is not blank, with its number, from 1; `-` is standard input.
fn each_line(
    path: &Path,
    take: impl FnMut(usize, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    if path == Path::new("-") {
        return lines_of(path, std::io::stdin().lock(), take);
    }
    let file = File::open(path).context("it can't be opened");
    let file = file.map_err(|err| usage(path, err))?;
    lines_of(path, BufReader::with_capacity(1 << 16, file), take)
}

fn lines_of(
    path: &Path,
    mut input: impl BufRead,
    mut take: impl FnMut(usize, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bound = LINE_BYTES_MAX as u64;
        let read = std::io::Read::take(&mut input, bound).read_until(b'\n', &mut line);
        let read = read.with_context(|| format!("line {number} can't be read"));
        if read.map_err(|err| usage(path, err))? == 0 {
            break;
        }
        if line.len() == LINE_BYTES_MAX {
            return Err(usage(path, anyhow!("line {number} is longer than 1 MiB")));
        }
        let mark = BYTE_ORDER_MARK.to_string();
        let text = match line.strip_prefix(mark.as_bytes()) {
            Some(text) if number == 1 => text,
            _ => &line,
        };
        if !is_blank(text) {
            take(number, text.trim_ascii())?;
        }
    }
    Ok(())
}
