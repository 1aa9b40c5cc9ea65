//! Every seed keeps every promise. What the fuzzer finds becomes one.
use std::path::Path;

/// Runs a target on all its seeds.
#[track_caller]
fn check(target: &str, run: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
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

macro_rules! targets {
    ($($target:ident)+) => { $(
        #[test]
        fn $target() {
            check(stringify!($target), super::$target);
        }
    )+ };
}

targets!(address config event frames headers letter reply usersig);
