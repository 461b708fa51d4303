//! Seeds and corpus as ordinary tests: what an input once showed stays shown. The corpus is kept small, and has
//! a folder for each target and no other.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test may panic, reads files, and says which input it checks"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use holdfast_fuzz::{ALL, Target};

/// Bytes of the corpus as a whole.
const MAX_BYTES: usize = 1 << 20;

/// Bytes of one input; larger ones are seeds, made in code.
const MAX_INPUT_BYTES: usize = 4 << 10;

/// Inputs of one target.
const MAX_INPUTS: usize = 300;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    files.sort();
    files
}

fn top(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

fn inputs(target: &Target) -> Vec<PathBuf> {
    files(&top("corpus").join(target.name))
}

fn names(files: &[PathBuf]) -> BTreeSet<&str> {
    files
        .iter()
        .map(|file| file.file_stem().unwrap().to_str().unwrap())
        .collect()
}

#[test]
fn every_target_holds_on_its_seeds() {
    for target in ALL {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            println!("{}: seed {number}", target.name);
            assert!(seed.len() <= target.max_bytes, "is cut by the fuzzer");
            (target.check)(seed);
        }
    }
}

#[test]
fn every_target_holds_on_its_corpus() {
    for target in ALL {
        for input in inputs(target) {
            println!("{}", input.display());
            (target.check)(&fs::read(&input).unwrap());
        }
    }
}

#[test]
fn a_seed_needs_no_repair() {
    for target in ALL {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            let mut repaired = seed.clone();
            (target.repair)(&mut repaired);
            assert!(repaired == *seed, "{}: seed {number}", target.name);
        }
    }
}

#[test]
fn every_target_is_in_the_list_and_the_corpus_belongs_to_them() {
    let listed: BTreeSet<&str> = ALL.iter().map(|target| target.name).collect();
    let sources = files(&top("src/targets"));
    let mut written = names(&sources);
    written.remove("mod");
    assert_eq!(written, listed);
    let folders = files(&top("corpus"));
    assert!(names(&folders).is_subset(&listed));
}

#[test]
fn the_corpus_stays_small() {
    let mut whole = 0;
    for target in ALL {
        let inputs = inputs(target);
        assert!(inputs.len() <= MAX_INPUTS, "{}", target.name);
        for input in inputs {
            let length = fs::read(&input).unwrap().len();
            assert!(length <= MAX_INPUT_BYTES, "{}", input.display());
            whole += length;
        }
    }
    assert!(whole <= MAX_BYTES, "{whole} bytes");
}
