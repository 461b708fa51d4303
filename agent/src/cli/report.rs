//! What `check` prints: a table for people, one object or lines of JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use holdfast_core::coverage::{CheckStatus, ContainerStatus, Outcome};
use holdfast_core::display;
use holdfast_core::drift::Ruled;
use holdfast_core::finding::{Check, Detail, FileChange, FileState, Finding, Severity, Word};
use serde::Serialize;

use super::table::print_rows;

/// Longest name in a column; the middle goes first, because both ends tell names apart.
const MAX_CELL: usize = 48;

/// Changes listed below one finding on the terminal; JSON has them all.
const MAX_CHANGES: usize = 5;

const HEADING: [&str; 9] = [
    "NAMESPACE",
    "CONTAINER",
    "IMAGE",
    "MANIFEST",
    "CONFIG",
    "SIGNATURE",
    "FILES",
    "LAYERS",
    "MOUNTS",
];

/// What one check of everything found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) containers: Vec<ContainerStatus>,
    pub(super) findings: Vec<Finding>,
    pub(super) summary: Summary,
}

/// The last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    pub(super) containers: usize,
    pub(super) clean: usize,
    pub(super) with_findings: usize,
    pub(super) incomplete: usize,
    pub(super) critical: usize,
    pub(super) warning: usize,
    pub(super) info: usize,
}

impl Report {
    /// Findings worst first, then as people would look for them.
    pub(super) fn new(mut containers: Vec<ContainerStatus>, mut findings: Vec<Finding>) -> Self {
        containers.sort_by_cached_key(|status| status.container.key());
        findings.sort_by_cached_key(|finding| {
            let container = finding
                .container
                .as_ref()
                .map(holdfast_core::container::ContainerRef::key);
            (
                std::cmp::Reverse(finding.severity),
                container,
                finding.subject.clone(),
            )
        });
        let summary = summarize(&containers, &findings);
        Self {
            containers,
            findings,
            summary,
        }
    }

    pub(super) fn print_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }

    pub(super) fn print_jsonl(&self, out: &mut impl Write) -> io::Result<()> {
        for finding in &self.findings {
            serde_json::to_writer(&mut *out, finding)?;
            writeln!(out)?;
        }
        Ok(())
    }

    pub(super) fn print_table(&self, out: &mut impl Write) -> io::Result<()> {
        if !self.containers.is_empty() {
            print_rows(out, &HEADING, &self.containers, row)?;
        }
        for finding in &self.findings {
            write!(out, "{}", paragraph(finding))?;
        }
        for status in &self.containers {
            write!(out, "{}", accepted(status))?;
        }
        writeln!(out, "\n{}", self.summary.sentence())
    }
}

impl Summary {
    fn sentence(&self) -> String {
        let Self {
            containers,
            clean,
            with_findings,
            incomplete,
            critical,
            warning,
            info,
        } = self;
        if *containers == 0 {
            return "No running containers.".to_owned();
        }
        let noun = if *containers == 1 {
            "container"
        } else {
            "containers"
        };
        format!(
            "{containers} {noun}: {clean} clean, {with_findings} with findings ({critical} critical, \
             {warning} warning, {info} info), {incomplete} not fully checked."
        )
    }
}

fn summarize(containers: &[ContainerStatus], findings: &[Finding]) -> Summary {
    let count = |severity| {
        findings
            .iter()
            .filter(|finding| finding.severity == severity)
            .count()
    };
    let has = |status: &&ContainerStatus, outcome| {
        status.checks.iter().any(|check| check.outcome == outcome)
    };
    let is_clean = |status: &&ContainerStatus| {
        status
            .checks
            .iter()
            .all(|check| check.outcome == Outcome::Clean)
    };
    Summary {
        containers: containers.len(),
        clean: containers.iter().filter(is_clean).count(),
        with_findings: containers
            .iter()
            .filter(|status| has(status, Outcome::Findings))
            .count(),
        incomplete: containers
            .iter()
            .filter(|status| has(status, Outcome::Unverifiable))
            .count(),
        critical: count(Severity::Critical),
        warning: count(Severity::Warning),
        info: count(Severity::Info),
    }
}

fn row(status: &ContainerStatus) -> Vec<String> {
    let container = &status.container;
    let name = match &container.pod {
        Some(pod) => format!("{}/{}/{}", pod.namespace, pod.name, container.name),
        None => container.id.clone(),
    };
    let image = status.image.clone().unwrap_or_default();
    let digest = |digest: Option<holdfast_core::digest::Digest>| {
        digest.map_or_else(
            || "-".to_owned(),
            |digest| digest.encoded().chars().take(12).collect(),
        )
    };
    vec![
        cell(&container.namespace),
        cell(&name),
        cell(image.reference.as_deref().unwrap_or("-")),
        digest(image.manifest_digest),
        digest(image.config_digest),
        status
            .signature
            .map_or("-", |verdict| verdict.as_str())
            .to_owned(),
        outcome(status, Check::Files),
        outcome(status, Check::Layers),
        outcome(status, Check::Mounts),
    ]
}

/// One word about a check: its worst severity, `clean`, or why there is no answer.
fn outcome(status: &ContainerStatus, check: Check) -> String {
    let Some(done) = status.checks.iter().find(|done| done.check == check) else {
        return "-".to_owned();
    };
    let CheckStatus {
        outcome,
        severity,
        reason,
        accepted_by,
        ..
    } = done;
    match outcome {
        Outcome::Clean => match accepted_by.iter().map(|by| by.changes).sum::<u64>() {
            0 => "clean".to_owned(),
            accepted => format!("clean, {accepted} accepted"),
        },
        Outcome::Findings => severity.map_or("findings", Severity::as_str).to_owned(),
        Outcome::Unverifiable => {
            format!("unverifiable: {}", reason.as_deref().unwrap_or("unknown"))
        }
    }
}

/// What policies let pass in a container: nothing is left out without a word.
fn accepted(status: &ContainerStatus) -> String {
    let by = status.checks.iter().flat_map(|check| &check.accepted_by);
    let mut lines: Vec<String> = by
        .map(|by| format!("{} by {}", by.changes, by.rule))
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    let more = lines.len().saturating_sub(MAX_CHANGES);
    lines.truncate(MAX_CHANGES);
    if more > 0 {
        lines.push(format!("and {more} more rules"));
    }
    let lines = lines.join("\n    ");
    format!("\nACCEPTED  {}\n    {lines}\n", cell(&status.container.id))
}

/// `shop/plugins`, `shop/plugins (was critical)`, `shop/hotfix expired 2027-01-31T00:00:00Z`.
pub(super) fn ruled(ruled: &Ruled) -> String {
    let by_rule = ruled.rule.as_ref().map(|rule| match ruled.default {
        Some(default) => format!("{rule} (was {default})"),
        None => rule.clone(),
    });
    let expired = ruled.expired.as_ref();
    let expired = expired.map(|expired| format!("{} expired {}", expired.exception, expired.at));
    let parts: Vec<String> = by_rule.into_iter().chain(expired).collect();
    parts.join("; ")
}

fn cell(text: &str) -> String {
    let shown = display::escape(text.as_bytes());
    let length = shown.chars().count();
    if length <= MAX_CELL {
        return shown;
    }
    let head: String = shown.chars().take(MAX_CELL / 2).collect();
    let tail: String = shown.chars().skip(length - MAX_CELL / 2 + 1).collect();
    format!("{head}…{tail}")
}

fn paragraph(finding: &Finding) -> String {
    let severity = finding.severity.as_str().to_uppercase();
    let container = finding
        .container
        .as_ref()
        .map_or("-", |container| container.id.as_str());
    let container = cell(container);
    let mut text = format!(
        "\n{severity}  {}  {container}  {}\n",
        finding.kind(),
        finding.title
    );
    let lines = match &finding.detail {
        Detail::FileDrift(drift) => changes(&drift.changes, drift.changes_total),
        Detail::LayerTampered(drift) | Detail::LayerCorrupt(drift) => {
            changes(&drift.changes, drift.changes_total)
        }
        Detail::ContentAltered(altered) => {
            vec![format!("{} hashes to {}", altered.digest, altered.actual)]
        }
        Detail::SnapshotMismatch(d) | Detail::TagMoved(d) | Detail::MountDrift(d) => {
            vec![format!("{} says {}, found {}", d.witness, d.says, d.found)]
        }
        Detail::ImageUntrusted(untrusted)
        | Detail::ImageUnsigned(untrusted)
        | Detail::ImageUncovered(untrusted) => untrusted
            .refusals
            .iter()
            .take(MAX_CHANGES)
            .cloned()
            .collect(),
        Detail::Unverifiable(unverifiable) => vec![unverifiable.message.clone()],
        Detail::UnmanagedContainer(unmanaged) => vec![unmanaged.reason.clone()],
        Detail::CoverageGap(gap) => vec![gap.cause.clone()],
        Detail::AgentSilent(silence) => vec![format!("last heard {}", silence.last_heard)],
        Detail::AgentAltered(altered) => {
            let words = altered.words.iter();
            let line = |word: &Word| format!("{} on {}", word.digest, word.nodes.join(", "));
            words.map(line).collect()
        }
    };
    for line in lines {
        let _infallible = writeln!(text, "    {line}");
    }
    text
}

fn changes(changes: &[FileChange], total: u64) -> Vec<String> {
    let mut lines: Vec<String> = changes.iter().take(MAX_CHANGES).map(change_line).collect();
    let shown = u64::try_from(lines.len()).unwrap_or(u64::MAX);
    if total > shown {
        lines.push(format!("and {} more", total - shown));
    }
    lines
}

/// `modified  /etc/passwd  mode 0644 → 0666  sha256 12ab… → 34cd…`.
pub(super) fn change_line(change: &FileChange) -> String {
    let name = change.change.as_str();
    let mut line = format!("{name}  {}", change.path);
    let mut differ = |label: &str, of: fn(&FileState) -> Option<String>| {
        let before = change.expected.as_ref().and_then(of);
        let after = change.actual.as_ref().and_then(of);
        if before != after {
            let show = |side: Option<String>| side.unwrap_or_else(|| "none".to_owned());
            let _infallible = write!(line, "  {label} {} → {}", show(before), show(after));
        }
    };
    if change.expected.is_some() && change.actual.is_some() {
        differ("type", |state| Some(state.node_type.clone()));
        differ("mode", |state| Some(state.mode.clone()));
        differ("owner", |state| {
            Some(format!("{}:{}", state.uid, state.gid))
        });
    } else {
        differ("type", |state| {
            let says_itself =
                state.sha256.is_some() || state.target.is_some() || state.device.is_some();
            (!says_itself).then(|| state.node_type.clone())
        });
    }
    differ("sha256", |state| {
        let sha256 = state.sha256.as_ref()?;
        Some(sha256.chars().take(12).collect())
    });
    differ("target", |state| state.target.clone());
    differ("device", |state| {
        let device = state.device.as_ref()?;
        Some(format!("{} {device}", state.node_type))
    });
    if let Some(note) = &change.note {
        let _infallible = write!(line, "  ({note})");
    }
    if let Some(policy) = &change.policy {
        let _infallible = write!(line, "  [{}]", ruled(policy));
    }
    line
}

#[cfg(test)]
mod tests {
    use holdfast_core::drift::{Change, ChangeKind, Class};
    use holdfast_core::layer::{Entry, Node};

    use super::*;

    fn shown(kind: ChangeKind, expected: Option<Node>, actual: Option<Node>) -> String {
        let entry = |node| Entry {
            node,
            mode: 0o777,
            uid: 0,
            gid: 0,
            xattrs: Vec::new(),
            hard_link: None,
        };
        change_line(&FileChange::from(&Change {
            path: b"x".to_vec(),
            kind,
            class: Class::Data,
            severity: Severity::Info,
            privileged: false,
            expected: expected.map(entry),
            actual: actual.map(entry),
            note: None,
            ruled: None,
        }))
    }

    #[test]
    fn a_link_shows_its_target_a_device_its_numbers_and_what_has_neither_its_type() {
        let link = |target: &str| {
            Some(Node::Symlink {
                target: target.into(),
            })
        };
        let (major, minor) = (8, 1);
        let device = Some(Node::BlockDevice { major, minor });
        for (line, due) in [
            (
                shown(ChangeKind::Added, None, link("/etc/shadow")),
                "added  /x  target none → /etc/shadow",
            ),
            (
                shown(ChangeKind::Modified, link("a"), link("b\n")),
                "modified  /x  target a → b\\x0a",
            ),
            (
                shown(ChangeKind::Added, None, device),
                "added  /x  device none → block-device 8:1",
            ),
            (
                shown(ChangeKind::Added, None, Some(Node::Fifo)),
                "added  /x  type none → fifo",
            ),
            (
                shown(ChangeKind::Removed, link("a"), None),
                "removed  /x  target a → none",
            ),
        ] {
            assert_eq!(line, due);
        }
    }

    #[test]
    fn one_container_is_no_plural() {
        let summary = |containers| Summary {
            containers,
            clean: containers,
            ..Summary::default()
        };
        assert!(summary(1).sentence().starts_with("1 container: 1 clean"));
        assert!(summary(2).sentence().starts_with("2 containers: 2 clean"));
        assert_eq!(summary(0).sentence(), "No running containers.");
    }
}
