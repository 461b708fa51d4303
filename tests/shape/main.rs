//! The shape of the code as a test: who may import whom, what a file must say, which names are not used.
//!
//! It reads source text, so that it can say "agent/src/reconcile.rs imports report".

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test may panic, and reads the sources"
)]

mod source;
mod table;

use std::collections::BTreeSet;

use source::Source;
use table::{
    ALL, CRATES, FOREIGN, LONG, MAY_IMPORT, NEVER_A_FILE, NEVER_SAY, NOT_IN_CORE, SAYS_WHY,
};

/// What a rule says of one file.
type Rule<'a> = dyn Fn(&Source) -> Vec<String> + 'a;

#[track_caller]
fn hold(sources: &[Source], rule: &Rule<'_>) {
    let broken: Vec<String> = sources
        .iter()
        .flat_map(|source| {
            rule(source)
                .into_iter()
                .map(|what| format!("{} {what}", source.path))
        })
        .collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// Imports of `source` that the table does not allow, among the names that are modules.
fn forbidden_imports(source: &Source, modules: &BTreeSet<String>) -> Vec<String> {
    let imported = source.imports();
    let imported = imported.iter().filter(|name| modules.contains(*name));
    let row = MAY_IMPORT
        .iter()
        .find(|(krate, module, _)| (*krate, *module) == (&source.krate, &source.module));
    match row {
        Some((_, _, allowed)) if *allowed == ALL => Vec::new(),
        Some((_, _, allowed)) => imported
            .filter(|name| !allowed.contains(&name.as_str()))
            .map(|name| format!("imports {name}"))
            .collect(),
        None => vec![format!(
            "is of module {}, which is not in the table",
            source.module
        )],
    }
}

fn modules_of(krate: &str, sources: &[Source]) -> BTreeSet<String> {
    let of_crate = sources.iter().filter(|source| source.krate == krate);
    of_crate.map(|source| source.module.clone()).collect()
}

#[test]
fn parts_import_only_what_their_row_allows() {
    let sources = source::all();
    hold(&sources, &|source| {
        let in_table = MAY_IMPORT.iter().any(|(krate, ..)| *krate == source.krate);
        if !in_table || source.module == "lib" {
            return Vec::new();
        }
        forbidden_imports(source, &modules_of(&source.krate, &sources))
    });
}

#[test]
fn our_crates_are_imported_only_by_those_above_them() {
    hold(&source::all(), &|source| {
        let place = format!("{}/{}", source.krate, source.module);
        CRATES
            .iter()
            .filter(|(krate, _)| source.code.contains(&format!("{krate}::")))
            .filter(|(_, allowed)| {
                !allowed.contains(&source.krate.as_str()) && !allowed.contains(&place.as_str())
            })
            .map(|(krate, _)| format!("imports {krate}"))
            .collect()
    });
}

#[test]
fn the_core_has_no_clock_no_file_and_no_socket() {
    hold(&source::all(), &|source| {
        if source.krate != "crates/core" {
            return Vec::new();
        }
        let words = NOT_IN_CORE
            .iter()
            .filter(|word| source.code.contains(**word));
        words.map(|word| format!("has {word}")).collect()
    });
}

#[test]
fn every_file_says_what_it_is_for_and_a_long_one_why() {
    hold(&source::all(), &|source| {
        let mut broken = Vec::new();
        if !source.text.starts_with("//! ") {
            broken.push("does not begin with //!".to_owned());
        }
        let header = source
            .text
            .lines()
            .take_while(|line| line.starts_with("//!"));
        let lines = source.code.lines().count();
        if lines > LONG
            && !header
                .fold(String::new(), |all, line| all + line)
                .contains(SAYS_WHY)
        {
            broken.push(format!(
                "has {lines} lines and its //! does not say why (\"{SAYS_WHY} …\")"
            ));
        }
        broken
    });
}

#[test]
fn no_type_and_no_file_has_a_name_that_says_nothing() {
    hold(&source::all(), &|source| {
        let mut broken: Vec<String> = type_names(&source.code)
            .filter(|name| !FOREIGN.contains(name))
            .filter(|name| {
                words(name)
                    .iter()
                    .any(|word| NEVER_SAY.contains(&word.as_str()))
            })
            .map(|name| format!("has a type {name}"))
            .collect();
        let file = source.path.rsplit('/').next().unwrap();
        if NEVER_A_FILE.contains(&file) {
            broken.push("has no subject: put its parts where they are used".to_owned());
        }
        broken
    });
}

fn type_names(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let declaration = line.trim_start();
        let declaration = declaration.strip_prefix("pub").map_or(declaration, |rest| {
            rest.split_once(char::is_whitespace)
                .map_or(rest, |(_, rest)| rest)
        });
        let mut words = declaration.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let keyword = words.next()?;
        let name = words.next()?;
        if keyword == "type" && line.starts_with(' ') {
            return None; // what a trait of somebody else's calls it
        }
        ["struct", "enum", "trait", "type", "union"]
            .contains(&keyword)
            .then_some(name)
    })
}

/// `HttpServiceError` is `Http`, `Service`, `Error`.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for c in name.chars() {
        match words.last_mut() {
            Some(word) if !c.is_uppercase() => word.push(c),
            _ => words.push(c.to_string()),
        }
    }
    words
}

#[test]
fn a_wrong_arrow_is_named() {
    let modules: BTreeSet<String> = ["link", "inspect", "reconcile"].map(str::to_owned).into();
    let broken =
        |path: &str, code: &str| forbidden_imports(&Source::new(path, code.to_owned()), &modules);

    assert_eq!(
        broken("agent/src/reconcile.rs", "use crate::link::Sink;"),
        ["imports link"]
    );
    assert_eq!(
        broken("agent/src/reconcile.rs", "use super::link;"),
        ["imports link"]
    );
    assert_eq!(
        broken(
            "agent/src/reconcile/list.rs",
            "fn f() { super::super::link::f() }"
        ),
        ["imports link"]
    );
    assert_eq!(
        broken(
            "agent/src/files/mod.rs",
            "use crate::{config, inspect::{a, b}, telemetry};"
        ),
        ["imports inspect"]
    );
    assert_eq!(
        broken("agent/src/reconcile.rs", "use crate::inspect::look;"),
        [""; 0]
    );
    assert_eq!(
        broken("agent/src/reconcile.rs", "// use crate::link;"),
        [""; 0]
    );
    assert_eq!(
        broken("agent/src/reconcile/list.rs", "use super::link;"),
        [""; 0]
    );
    let tests = "fn f() {}\n#[cfg(test)]\nmod tests { use crate::link; }";
    assert_eq!(broken("agent/src/reconcile.rs", tests), [""; 0]);
    assert_eq!(
        broken("agent/src/novelty.rs", ""),
        ["is of module novelty, which is not in the table"]
    );
}

#[test]
fn names_are_split_into_words() {
    let code = "pub struct HttpService;\npub(crate) enum Info {\ntype Database = u8;\n    type Data = u8;\nlet data = 1;";
    let names: Vec<&str> = type_names(code).collect();
    assert_eq!(names, ["HttpService", "Info", "Database"]);
    assert_eq!(words("HttpService"), ["Http", "Service"]);
    assert_eq!(words("Database"), ["Database"]);
}
