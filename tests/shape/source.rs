//! Source files as text: what they import, without comments and without the tests at their foot.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// One source file, without comments and without the tests at its foot.
pub(crate) struct Source {
    /// As in `git ls-files`.
    pub(crate) path: String,
    /// `agent`, `crates/core`, …
    pub(crate) krate: String,
    /// The first part of the module's path: `reconcile` for `src/reconcile/list.rs`.
    pub(crate) module: String,
    /// Modules between the file's own and the crate's root, for `super`.
    depth: usize,
    pub(crate) text: String,
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: String) -> Self {
        let (krate, inside) = path.split_once("/src/").unwrap_or(("tests", path));
        let mut parts: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
        if parts.len() > 1 && parts.last() == Some(&"mod") {
            parts.pop();
        }
        Self {
            path: path.to_owned(),
            krate: krate.to_owned(),
            module: (*parts.first().unwrap()).to_owned(),
            depth: parts.len(),
            code: without_comments(without_tests(path, &text)),
            text,
        }
    }

    /// Top-level names of its own crate that it imports, as `crate::NAME`, in a group, or through `super`.
    pub(crate) fn imports(&self) -> BTreeSet<String> {
        let up = "super::".repeat(self.depth);
        let mut found: BTreeSet<String> = ["crate::", &up]
            .iter()
            .flat_map(|prefix| self.code.match_indices(prefix))
            // What ends another word, a longer path or `$crate` is no import of a part.
            .filter(|(at, _)| {
                let before = self.code.get(..*at).unwrap();
                !before.ends_with(['$', ':', '_']) && !before.ends_with(char::is_alphanumeric)
            })
            .flat_map(|(at, prefix)| first_names(self.code.get(at + prefix.len()..).unwrap()))
            .collect();
        found.remove(&self.module);
        found
    }
}

/// `a::b` gives `a`; `{a::{x, y}, b}` gives `a` and `b`.
fn first_names(rest: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![name(rest)];
    };
    let mut names = vec![name(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(name(group.get(at + 1..).unwrap())),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn without_tests<'a>(path: &str, text: &'a str) -> &'a str {
    if path.ends_with("/tests.rs") {
        return "";
    }
    text.find("\n#[cfg(test)]\n")
        .and_then(|at| text.get(..at))
        .unwrap_or(text)
}

/// Line comments go, with what is documentation; text literals stay, which is good enough here.
fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .fold(String::new(), |all, line| all + line + "\n")
}

/// Every Rust file of ours.
pub(crate) fn all() -> Vec<Source> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["crates", "agent", "collector", "tests", "bench", "fuzz"] {
        walk(&top.join(folder), &mut files);
    }
    files.sort();
    files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(top).unwrap().to_str().unwrap();
            Source::new(path, std::fs::read_to_string(file).unwrap())
        })
        .collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
