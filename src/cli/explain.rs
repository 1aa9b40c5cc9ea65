//! `explain`: a row of the error table, or all of it.
use crate::config::Settings;
use crate::tool::{Exit, Failure, no_code, say};
use convgroup_domain::code::{CodeTable, Row};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  convgroup-deleter explain 51011\n  convgroup-deleter explain timeout\n  convgroup-deleter explain            the whole table"
)]
pub(super) struct Args {
    /// An `ErrorCode` (51011), an HTTP status (`http_429`), another fault (`timeout`); nothing for the whole table.
    #[arg(allow_negative_numbers = true)]
    code: Option<String>,
    /// The whole table as Markdown, as it stands in docs/error-codes.md.
    #[arg(long, conflicts_with = "code")]
    markdown: bool,
}

pub(super) fn explain(settings: &Settings, args: &Args) -> Result<Exit, Failure> {
    let codes = settings.codes()?;
    match &args.code {
        None if args.markdown => say(&markdown(&codes))?,
        None => say(&table(&codes))?,
        Some(code) => match codes.spelling(code).and_then(|code| codes.explain(&code)) {
            Some(row) => say(&one(&codes, &row))?,
            None => return Err(no_code(&codes, code)),
        },
    }
    Ok(Exit::Done)
}

fn one(codes: &CodeTable, row: &Row) -> String {
    let overridden = row.overridden.map_or(String::new(), |shipped| {
        format!(" (your [policy.overrides]; shipped as {shipped})")
    });
    let unlisted = if codes.lists(&row.code) {
        ""
    } else {
        " (not in the table)"
    };
    format!(
        "code     {}{unlisted}\nlabel    {}\nclass    {}{overridden}\nmeaning  {}\nmessage  {}\nanswer   {}\nadvice   {}\n",
        row.code,
        row.label,
        row.class,
        row.meaning,
        row.class.consequence(),
        row.class.answer(),
        row.advice
    )
}

fn table(codes: &CodeTable) -> String {
    let rows = codes.rows().map(|row| {
        format!(
            "{:<9} {:<10} {}\n",
            row.code,
            row.class.label(),
            row.meaning
        )
    });
    rows.collect()
}

fn markdown(codes: &CodeTable) -> String {
    let head = "| code | class | meaning | advice |\n|---|---|---|---|\n".to_owned();
    let rows = codes.rows().map(|row| {
        format!(
            "| {} | {} | {} | {} |\n",
            row.code, row.class, row.meaning, row.advice
        )
    });
    rows.fold(head, |text, row| text + &row)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The page shows what the program prints, and no row more.
    #[test]
    fn the_page_has_the_table_of_codes() {
        let page = include_str!("../../docs/error-codes.md");
        let table = markdown(&CodeTable::new(&BTreeMap::new()));
        assert!(
            page.contains(&format!("\n\n{table}\n")),
            "docs/error-codes.md lacks the table as `convgroup-deleter explain --markdown` prints it"
        );
    }
}
