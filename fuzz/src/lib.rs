//! Fuzz targets: hostile bytes for whatever of ours reads what somebody else wrote. Nothing here is part of
//! a program.
//!
//! A target is one file in `targets/`: a function of bytes that panics when something does not hold, seeds
//! that are made in code so that coverage begins deep, words that a mutation may put in, and, where a
//! checksum would stop every mutation at the door, how it is made right again.
//!
//! `scripts/fuzz` compiles this with the coverage passes that cargo-fuzz uses and links libFuzzer
//! (`--cfg fuzzing`); both work on the stable toolchain, cargo-fuzz itself does not. A random engine without
//! coverage (proptest, bolero on stable) was no choice: two numbers that have to agree are beyond it, and
//! every format here has some. All targets are one program, so that a new one costs no link; `--target=NAME`
//! says which.
//!
//! Without `--cfg fuzzing` no C++ is compiled: `cargo test` replays seeds and corpus as ordinary tests, and
//! `cargo run -p holdfast-fuzz -- TARGET FILE` one input.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target fails by panicking"
)]

use std::fmt::Write as _;

mod archive;
mod parts;
mod targets;

pub use targets::ALL;

/// One reader of hostile bytes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its file and of its folder in `corpus/`.
    pub name: &'static str,
    /// Panics when something does not hold. Must be a function of the bytes alone.
    pub check: fn(&[u8]),
    /// Longer inputs find nothing more, only slower.
    pub max_bytes: usize,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format.
    pub words: &'static [&'static str],
    /// Makes checksums right after a mutation.
    pub repair: fn(&mut [u8]),
}

/// For formats without checksums.
const fn as_it_is(_input: &mut [u8]) {}

/// The target of this name.
pub fn named(name: &str) -> Option<&'static Target> {
    ALL.iter().find(|target| target.name == name)
}

/// The words of a target as libFuzzer reads them: one a line, quoted.
pub fn dictionary(target: &Target) -> String {
    let mut lines = String::new();
    for word in target.words {
        lines.push('"');
        for byte in word.bytes() {
            let _infallible = write!(lines, "\\x{byte:02x}");
        }
        lines.push_str("\"\n");
    }
    lines
}
