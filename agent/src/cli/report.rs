//! What `check` prints: a table for people, one object or lines of JSON for programs.

use std::fmt::Write as _;
use std::io::{self, Write};

use holdfast_core::coverage::{CheckStatus, ContainerStatus, Outcome};
use holdfast_core::display;
use holdfast_core::finding::{Check, Detail, FileChange, Finding, Severity};
use serde::Serialize;

use super::table::Table;

/// Longest name in a column; the middle goes first, because both ends tell names apart.
const MAX_CELL: usize = 48;

/// Changes listed below one finding on the terminal; JSON has them all.
const MAX_CHANGES: usize = 5;

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
            write!(out, "{}", table(&self.containers).render())?;
        }
        for finding in &self.findings {
            write!(out, "{}", paragraph(finding))?;
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
        format!(
            "{containers} containers: {clean} clean, {with_findings} with findings ({critical} critical, \
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

fn table(containers: &[ContainerStatus]) -> Table {
    let heading = [
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
    let mut table = Table::new(&heading);
    for status in containers {
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
        table.push(vec![
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
        ]);
    }
    table
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
        ..
    } = done;
    match outcome {
        Outcome::Clean => "clean".to_owned(),
        Outcome::Findings => severity.map_or("findings", Severity::as_str).to_owned(),
        Outcome::Unverifiable => {
            format!("unverifiable: {}", reason.as_deref().unwrap_or("unknown"))
        }
    }
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
        Detail::LayerTampered(drift) => changes(&drift.changes, drift.changes_total),
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

/// `modified  /etc/passwd  sha256 12ab… → 34cd…  mode 0644 → 0666`.
pub(super) fn change_line(change: &FileChange) -> String {
    let name = change.change.as_str();
    let mut line = format!("{name}  {}", change.path);
    let (expected, actual) = (change.expected.as_ref(), change.actual.as_ref());
    let mut differ = |label: &str, before: Option<String>, after: Option<String>| {
        if before != after {
            let show = |side: Option<String>| side.unwrap_or_else(|| "none".to_owned());
            let _infallible = write!(line, "  {label} {} → {}", show(before), show(after));
        }
    };
    let both = expected.is_some() && actual.is_some();
    if both {
        differ(
            "type",
            expected.map(|s| s.node_type.clone()),
            actual.map(|s| s.node_type.clone()),
        );
        differ(
            "mode",
            expected.map(|s| s.mode.clone()),
            actual.map(|s| s.mode.clone()),
        );
        let owner =
            |state: &holdfast_core::finding::FileState| format!("{}:{}", state.uid, state.gid);
        differ("owner", expected.map(owner), actual.map(owner));
    }
    let short = |digest: &String| digest.chars().take(12).collect::<String>();
    let digest = |state: Option<&holdfast_core::finding::FileState>| {
        state.and_then(|s| s.sha256.as_ref().map(short))
    };
    differ("sha256", digest(expected), digest(actual));
    if let Some(note) = &change.note {
        let _infallible = write!(line, "  ({note})");
    }
    line
}
