//! The bounded part of a document that lists and alerts show, kept beside each place: a document can be
//! megabytes, and an alert is sent every minute.

use holdfast_core::container::ContainerRef;
use holdfast_core::finding::{Altered, Detail, FileChange, Finding, ImageRef};
use serde::{Deserialize, Serialize};

use super::cut;

/// Lines in an alert; the rest is behind the API.
const MAX_LINES: usize = 10;

/// A path can have 4,096 bytes, and four times as many when escaped.
const MAX_LINE_BYTES: usize = 300;

/// What lists and alerts show of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Brief {
    /// The container.
    pub container: Option<ContainerRef>,
    /// Its image.
    pub image: Option<ImageRef>,
    /// What is wrong, a line each, worst first.
    pub lines: Vec<String>,
    /// How many lines there would be.
    pub lines_total: u64,
}

impl Brief {
    /// The brief of a document.
    pub fn of(finding: &Finding) -> Self {
        let (lines, lines_total) = match &finding.detail {
            Detail::FileDrift(drift) => changes(&drift.changes, drift.changes_total),
            Detail::LayerTampered(drift) | Detail::LayerCorrupt(drift) => {
                changes(&drift.changes, drift.changes_total)
            }
            Detail::ContentAltered(content) => {
                one(&format!("{} hashes to {}", content.digest, content.actual))
            }
            Detail::SnapshotMismatch(disagreement)
            | Detail::TagMoved(disagreement)
            | Detail::MountDrift(disagreement) => one(&format!(
                "{} says {}, found {}",
                disagreement.witness, disagreement.says, disagreement.found
            )),
            Detail::ImageUntrusted(untrusted) => several(&untrusted.refusals),
            Detail::ImageUnsigned(untrusted) | Detail::ImageUncovered(untrusted) => {
                several(&untrusted.policies)
            }
            Detail::Unverifiable(unverifiable) => one(&format!(
                "{}: {}: {}",
                unverifiable.check, unverifiable.reason, unverifiable.message
            )),
            Detail::UnmanagedContainer(unmanaged) => one(&unmanaged.reason),
            Detail::CoverageGap(gap) => one(&match gap.until {
                Some(until) => format!("{} from {} until {until}", gap.cause, gap.from),
                None => format!("{} since {}", gap.cause, gap.from),
            }),
            Detail::AgentSilent(silence) => one(&format!("last heard {}", silence.last_heard)),
            Detail::AgentAltered(altered) => several(&words(altered)),
        };
        Self {
            container: finding.container.clone(),
            image: finding.image.clone(),
            lines,
            lines_total,
        }
    }

    /// As its row keeps it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From its row; what an older collector wrote may lack parts.
    pub fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_default()
    }
}

fn one(line: &str) -> (Vec<String>, u64) {
    (vec![bounded(line)], 1)
}

fn several(lines: &[String]) -> (Vec<String>, u64) {
    let shown = lines.iter().take(MAX_LINES).map(|line| bounded(line));
    (
        shown.collect(),
        u64::try_from(lines.len()).unwrap_or(u64::MAX),
    )
}

/// `sha256:9c2f… on n-1, n-2`
fn words(altered: &Altered) -> Vec<String> {
    let words = altered.words.iter();
    words
        .map(|word| format!("{} on {}", word.digest, word.nodes.join(", ")))
        .collect()
}

fn changes(changes: &[FileChange], total: u64) -> (Vec<String>, u64) {
    let lines = changes
        .iter()
        .take(MAX_LINES)
        .map(|change| bounded(&line(change)));
    (lines.collect(), total)
}

/// `added program /usr/bin/evil (sha256 9c2f…)`
fn line(change: &FileChange) -> String {
    let digest = change
        .actual
        .as_ref()
        .and_then(|actual| actual.sha256.as_deref());
    let digest = digest
        .map(|digest| format!(" (sha256 {digest})"))
        .unwrap_or_default();
    let note = change
        .note
        .as_deref()
        .map(|note| format!(": {note}"))
        .unwrap_or_default();
    let (kind, class) = (change.change.as_str(), change.class.as_str());
    format!("{kind} {class} {}{note}{digest}", change.path)
}

fn bounded(line: &str) -> String {
    let shown = cut(line, MAX_LINE_BYTES);
    if shown.len() < line.len() {
        format!("{shown}…")
    } else {
        shown.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::drift::{ChangeKind, Class};
    use holdfast_core::finding::Severity;

    use super::*;

    fn change(path: &str) -> FileChange {
        FileChange {
            path: path.into(),
            change: ChangeKind::Added,
            class: Class::TrustAnchor,
            severity: Severity::Critical,
            expected: None,
            actual: None,
            note: Some("uid 0 account toor added".into()),
            policy: None,
        }
    }

    #[test]
    fn a_change_is_a_line_for_people() {
        assert_eq!(
            line(&change("/etc/passwd")),
            "added trust-anchor /etc/passwd: uid 0 account toor added"
        );
    }

    #[test]
    fn a_brief_stays_small_whatever_the_document_holds() {
        let (lines, total) = changes(&vec![change(&"ä".repeat(9000)); 1000], 5000);
        assert_eq!((lines.len(), total), (MAX_LINES, 5000));
        assert!(lines.iter().all(|line| line.len() < MAX_LINE_BYTES + 5));
    }
}
