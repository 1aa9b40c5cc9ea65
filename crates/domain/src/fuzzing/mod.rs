//! What has to hold of everything that reads what others wrote, whatever they wrote.
//!
//! Each function of the modules `fuzzing` takes arbitrary bytes and panics where a promise is broken. libFuzzer makes up the bytes
//! (`make fuzz`; the targets in `fuzz/` only call these functions), and the tests beside them take them from `fuzz/seeds`. An
//! input that broke a promise is mended and then kept there, so that `cargo test` repeats it.
mod books;
mod event;

pub use books::books;
pub use event::event;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use crate::code::CodeTable;

/// The moment at which everything here happens, unix ms.
pub const NOW_MS: i64 = 1_700_000_000_000;

/// Stands for what must never be repeated. No text of the program holds it.
pub const SECRET: &str = "Qu1ntess3nce";

/// The error table as it is shipped.
pub static CODES: LazyLock<CodeTable> = LazyLock::new(|| CodeTable::new(&BTreeMap::new()));

/// Fails where a text repeats [`SECRET`].
#[track_caller]
pub fn assert_silent(text: &str) {
    assert!(
        !text.contains(SECRET),
        "it repeats what it must not: {text}"
    );
}

/// The input with [`SECRET`] put somewhere into it; the input decides where.
#[must_use]
pub fn with_secret(data: &[u8]) -> Vec<u8> {
    let sum: usize = data.iter().map(|&byte| usize::from(byte)).sum();
    let (before, after) = data.split_at(sum % (data.len() + 1));
    [before, SECRET.as_bytes(), after].concat()
}

/// Runs a target on all its seeds: for tests.
#[track_caller]
pub fn check(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/seeds")
        .join(target);
    let seeds = std::fs::read_dir(&dir).expect("each target has a directory of seeds");
    let mut count = 0;
    for seed in seeds {
        let path = seed.expect("seeds can be listed").path();
        println!("{}", path.display());
        run(&std::fs::read(path).expect("a seed can be read"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", dir.display());
}

#[cfg(test)]
mod tests {
    #[test]
    fn books() {
        super::check("books", super::books);
    }

    #[test]
    fn event() {
        super::check("event", super::event);
    }
}
