//! The whole set of findings against what is due: one more or one less fails.
//!
//! Each finding is one line of text, or one for each file that it lists, so that a test reads as the list
//! of what an on-call engineer would be told:
//!
//! ```text
//! file-drift moved program /usr/bin/evil warning web-1
//! unverifiable signature no-registry - info web-1
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;

use holdfast_core::container::ContainerRef;
use holdfast_core::finding::{Detail, FileChange, Finding, Transition};
use serde::Serialize;

/// What is open after these documents, oldest first: the last word on each place.
pub fn open(documents: impl IntoIterator<Item = Finding>) -> Vec<Finding> {
    let mut last = BTreeMap::new();
    for finding in documents {
        let container = finding.container.as_ref().map(ContainerRef::key);
        last.insert((container, finding.fingerprint), finding);
    }
    last.into_values()
        .filter(|finding| finding.transition != Transition::Resolved)
        .collect()
}

/// Fails unless `found`, as lines, is exactly `due`, in any order. `<container>` at the end of a line is
/// the container's id.
#[track_caller]
pub fn assert_exactly(found: &[Finding], due: &[&str]) {
    let mut found: Vec<String> = found.iter().flat_map(lines).collect();
    let mut due: Vec<String> = due.iter().map(|line| (*line).to_owned()).collect();
    found.sort();
    due.sort();
    if let Some(difference) = difference(&found, &due) {
        panic!("findings are not what is due (- missing, + not due):\n{difference}");
    }
}

/// A finding as lines.
pub fn lines(finding: &Finding) -> Vec<String> {
    let container = finding.container.as_ref().map_or("-", |c| c.id.as_str());
    let (kind, severity) = (finding.kind(), finding.severity);
    match &finding.detail {
        Detail::FileDrift(drift) => of_files(kind.as_str(), &drift.changes, container),
        Detail::LayerTampered(drift) | Detail::LayerCorrupt(drift) => {
            of_files(kind.as_str(), &drift.changes, container)
        }
        Detail::Unverifiable(gap) => {
            vec![format!(
                "{kind} {} {} - {severity} {container}",
                gap.check, gap.reason
            )]
        }
        Detail::UnmanagedContainer(unmanaged) => {
            vec![format!(
                "{kind} {} - {severity} {container}",
                unmanaged.reason
            )]
        }
        Detail::MountDrift(drift) => {
            let path = drift.path.as_deref().unwrap_or("-");
            vec![format!("{kind} {path} {severity} {container}")]
        }
        _ => vec![format!("{kind} - {severity} {container}")],
    }
}

fn of_files(kind: &str, changes: &[FileChange], container: &str) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            let (what, class) = (word(&change.change), word(&change.class));
            format!(
                "{kind} {what} {class} {} {} {container}",
                change.path, change.severity
            )
        })
        .collect()
}

/// A name as documents write it.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap();
    value.as_str().expect("a word").to_owned()
}

/// Both sorted. `None` when they are the same.
fn difference(found: &[String], due: &[String]) -> Option<String> {
    let mut text = String::new();
    let (mut found, mut due) = (found.iter().peekable(), due.iter().peekable());
    let mut differ = false;
    loop {
        let (sign, line) = match (due.peek(), found.peek()) {
            (None, None) => return differ.then_some(text),
            (Some(a), Some(b)) if a == b => {
                found.next();
                (' ', due.next().unwrap())
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => ('-', due.next().unwrap()),
            _ => ('+', found.next().unwrap()),
        };
        differ |= sign != ' ';
        writeln!(text, "{sign} {line}").unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn the_same_lines_have_no_difference() {
        assert_eq!(difference(&owned(&["a", "b"]), &owned(&["a", "b"])), None);
        assert_eq!(difference(&[], &[]), None);
    }

    #[test]
    fn one_more_and_one_less_are_both_shown() {
        let difference = difference(&owned(&["a", "b", "b"]), &owned(&["a", "b", "c"]));
        assert_eq!(difference.unwrap(), "  a\n  b\n+ b\n- c\n");
    }
}
