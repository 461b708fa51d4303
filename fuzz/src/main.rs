//! The program of the targets: under libFuzzer with `--cfg fuzzing`, else a replay of the inputs that it is
//! given.
//!
//! ```text
//! holdfast-fuzz --target=NAME --prepare=FOLDER -runs=0     (fuzzing) writes FOLDER/{seeds,words,arguments}
//! holdfast-fuzz --target=NAME LIBFUZZER-ARGUMENTS CORPUS   (fuzzing) runs; libFuzzer ignores `--…`
//! holdfast-fuzz NAME INPUT...                              (else) checks these inputs
//! ```

#![cfg_attr(fuzzing, no_main)]
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    reason = "reads files that a developer names, and ends by panicking"
)]
#![cfg_attr(
    not(fuzzing),
    expect(clippy::print_stdout, reason = "says which input it checks")
)]

use holdfast_fuzz::Target;

fn target(name: &str) -> &'static Target {
    holdfast_fuzz::named(name).unwrap_or_else(|| {
        let names: Vec<&str> = holdfast_fuzz::ALL.iter().map(|known| known.name).collect();
        panic!("no target {name:?}; there are: {}", names.join(", "))
    })
}

#[cfg(not(fuzzing))]
fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments
        .next()
        .expect("usage: holdfast-fuzz TARGET INPUT...");
    let target = target(&name);
    for input in arguments {
        println!("{input}");
        (target.check)(&std::fs::read(&input).expect("the input can be read"));
    }
}

#[cfg(fuzzing)]
mod engine {
    use std::fmt::Write as _;
    use std::path::Path;
    use std::sync::OnceLock;

    use holdfast_fuzz::Target;
    use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

    static TARGET: OnceLock<&Target> = OnceLock::new();

    /// One mutation in this many keeps its wrong checksums: refusing them is a path too.
    const LEFT_BROKEN: u32 = 8;

    fn argument(name: &str) -> Option<String> {
        std::env::args().find_map(|argument| argument.strip_prefix(name).map(str::to_owned))
    }

    fn chosen() -> &'static Target {
        TARGET.get_or_init(|| super::target(&argument("--target=").expect("--target=NAME")))
    }

    fn prepare(folder: &Path) {
        let seeds = folder.join("seeds");
        std::fs::create_dir_all(&seeds).expect("a folder for the seeds");
        for (number, seed) in (chosen().seeds)().iter().enumerate() {
            std::fs::write(seeds.join(number.to_string()), seed).expect("a seed");
        }
        let mut arguments = format!("-max_len={}\n", chosen().max_bytes);
        let words = folder.join("words");
        std::fs::write(&words, holdfast_fuzz::dictionary(chosen())).expect("the words");
        // An empty dictionary is an error to libFuzzer.
        if !chosen().words.is_empty() {
            let _infallible = writeln!(arguments, "-dict={}", words.display());
        }
        std::fs::write(folder.join("arguments"), arguments).expect("the arguments");
    }

    fuzz_target!(
        init: if let Some(folder) = argument("--prepare=") {
            prepare(Path::new(&folder));
        },
        |bytes: &[u8]| (chosen().check)(bytes)
    );

    fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
        let size = fuzzer_mutate(data, size, max_size);
        if seed % LEFT_BROKEN != 0 {
            (chosen().repair)(data.get_mut(..size).unwrap_or_default());
        }
        size
    });
}
