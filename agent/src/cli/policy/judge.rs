//! `policy test FILE`: every change of the running containers, as it is judged now and as it would be.

use std::io::{self, Write};

use holdfast_core::display;
use holdfast_core::drift::policy::{Decision, DriftPolicies};
use holdfast_core::drift::{Change, ChangeKind, Class};
use holdfast_core::finding::Severity;
use jiff::Timestamp;
use serde::Serialize;

use super::super::check::{self, Looked};
use super::super::selection::{Reach, Selection};
use super::super::table::print_rows;
use super::super::{Exit, Output, complain};
use super::{Test, is_whole, rules_for, tried};
use crate::trust::TrustError;

const HEADING: [&str; 6] = ["CONTAINER", "PATH", "CHANGE", "CLASS", "NOW", "THEN"];

/// Differences that are listed; all are counted.
const MAX_LISTED: usize = 10_000;

/// One change that would be judged otherwise.
#[derive(Debug, Serialize)]
struct Difference {
    namespace: String,
    container: String,
    path: String,
    change: ChangeKind,
    now: Judged,
    then: Judged,
}

#[derive(Debug, Serialize)]
struct Judged {
    class: Class,
    /// `null`: no finding.
    severity: Option<Severity>,
    /// The rule that says so; `null`: none does.
    rule: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    containers: u64,
    incomplete: u64,
    changes: u64,
    /// No findings any more.
    accepted: u64,
    /// Findings that were none.
    new: u64,
    milder: u64,
    stricter: u64,
    /// As bad as before, but of another class.
    reclassed: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    differences: Vec<Difference>,
    summary: Summary,
}

pub(super) fn run(arguments: &Test) -> Result<Exit, TrustError> {
    let present = arguments.present.policies()?;
    let then = tried(&present, &arguments.tried)?;
    let scope = &arguments.present.scope;
    let selection = Selection::unruled(scope, arguments.container.as_deref(), Reach::All);
    let mut report = Report {
        differences: Vec::new(),
        summary: Summary::default(),
    };
    let now = crate::now();
    let output = arguments.output;
    let cell = std::cell::RefCell::new(&mut report);
    Ok(check::looking_at_each(
        &selection,
        |looked| cell.borrow_mut().add(looked, (&present, &then), now),
        async || print(&cell.borrow(), output),
    ))
}

impl Report {
    fn add(&mut self, looked: Looked, sets: (&DriftPolicies, &DriftPolicies), now: Timestamp) {
        let Looked { report, lists } = looked;
        // One at a time: the changes are those of this container.
        let Some(status) = report.containers.first() else {
            return;
        };
        self.summary.containers += 1;
        if !is_whole(status) || lists.container.left_out() > 0 {
            self.summary.incomplete += 1;
        }
        let (present, tried) = (rules_for(sets.0, status), rules_for(sets.1, status));
        for listed in lists.container.into_listed() {
            self.summary.changes += 1;
            let before = present.decide(&listed.change, now);
            let after = tried.decide(&listed.change, now);
            if (before.severity, before.class) == (after.severity, after.class) {
                continue;
            }
            self.summary.count(&before, &after);
            if self.differences.len() < MAX_LISTED {
                let container = &status.container;
                self.differences.push(Difference {
                    namespace: container.namespace.clone(),
                    container: container.id.clone(),
                    ..difference(&listed.change, before, after)
                });
            }
        }
    }
}

fn difference(change: &Change, before: Decision, after: Decision) -> Difference {
    let judged = |decision: Decision| Judged {
        class: decision.class,
        severity: decision.severity,
        rule: decision.ruled.and_then(|ruled| ruled.rule),
    };
    Difference {
        namespace: String::new(),
        container: String::new(),
        path: display::path(&change.path),
        change: change.kind,
        now: judged(before),
        then: judged(after),
    }
}

impl Summary {
    fn count(&mut self, before: &Decision, after: &Decision) {
        let counted = match (before.severity, after.severity) {
            (Some(_), None) => &mut self.accepted,
            (None, Some(_)) => &mut self.new,
            (before, after) if before > after => &mut self.milder,
            (before, after) if before < after => &mut self.stricter,
            _ => &mut self.reclassed,
        };
        *counted += 1;
    }

    const fn differences(&self) -> u64 {
        self.accepted + self.new + self.milder + self.stricter + self.reclassed
    }

    fn sentence(&self) -> String {
        let Self {
            containers,
            incomplete,
            changes,
            accepted,
            new,
            milder,
            stricter,
            reclassed,
        } = self;
        let differences = self.differences();
        format!(
            "{differences} of {changes} changes in {containers} containers would be judged otherwise: \
             {accepted} accepted, {new} new, {milder} milder, {stricter} stricter, {reclassed} of another \
             class; {incomplete} containers not looked at whole."
        )
    }
}

fn print(report: &Report, output: Output) -> Exit {
    match write(report, output, &mut io::stdout().lock()) {
        // Whoever reads only the beginning (`| head`) has what he wants.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&error);
            Exit::Failure
        }
        Ok(()) | Err(_) if report.summary.differences() > 0 => Exit::Findings,
        Ok(()) | Err(_) if report.summary.incomplete > 0 => Exit::Incomplete,
        Ok(()) | Err(_) => Exit::Clean,
    }
}

fn write(report: &Report, output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, report)?;
            writeln!(out)?;
        }
        Output::Jsonl => {
            for difference in &report.differences {
                serde_json::to_writer(&mut *out, difference)?;
                writeln!(out)?;
            }
        }
        Output::Table => {
            if !report.differences.is_empty() {
                print_rows(out, &HEADING, &report.differences, row)?;
                writeln!(out)?;
            }
            let listed = u64::try_from(report.differences.len()).unwrap_or(u64::MAX);
            let more = report.summary.differences().saturating_sub(listed);
            if more > 0 {
                writeln!(out, "and {more} more\n")?;
            }
            writeln!(out, "{}", report.summary.sentence())?;
        }
    }
    out.flush()
}

fn row(difference: &Difference) -> Vec<String> {
    let Difference {
        namespace,
        container,
        path,
        change,
        now,
        then,
    } = difference;
    let class = if now.class == then.class {
        now.class.as_str().to_owned()
    } else {
        format!("{} → {}", now.class.as_str(), then.class.as_str())
    };
    vec![
        format!("{namespace}/{container}"),
        path.clone(),
        change.as_str().to_owned(),
        class,
        shown(now),
        shown(then),
    ]
}

/// `none (shop/plugins)`.
fn shown(judged: &Judged) -> String {
    let severity = judged.severity.map_or("none", Severity::as_str);
    match &judged.rule {
        Some(rule) => format!("{severity} ({rule})"),
        None => severity.to_owned(),
    }
}
