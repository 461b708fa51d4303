//! `diff CONTAINER`: what `docker diff` should have been.

use std::io::{self, Write};

use holdfast_core::finding::{Check, Detail, FileChange, FileState, Finding};
use serde::Serialize;

use super::check::{self, Selection};
use super::table::Table;
use super::{Diff, Exit, Output, complain};

#[derive(Debug, Serialize)]
struct Line<'a> {
    /// Where the difference is: the container's own layer, or an unpacked layer of the image.
    place: &'static str,
    #[serde(flatten)]
    change: &'a FileChange,
}

pub(super) fn run(arguments: &Diff) -> Exit {
    let selection = Selection::only(&arguments.scope, &arguments.container);
    let report = match check::checked(&selection) {
        Ok(report) => report,
        Err(failure) => return failure.complain(),
    };
    if report.containers.len() != 1 {
        let found = report.containers.len();
        complain(&io::Error::other(format!(
            "{found} running containers begin with {:?}",
            arguments.container
        )));
        return Exit::Usage;
    }
    let lines = lines(&report.findings);
    if let Err(error) = print(&lines, arguments.output, &mut io::stdout().lock()) {
        complain(&error);
        return Exit::Failure;
    }
    for finding in &report.findings {
        if let Detail::Unverifiable(unverifiable) = &finding.detail {
            complain(&io::Error::other(format!(
                "{}: {}",
                unverifiable.check, unverifiable.message
            )));
        }
    }
    let is_incomplete = report.findings.iter().any(|finding| match &finding.detail {
        Detail::Unverifiable(unverifiable) => unverifiable.check != Check::Signature,
        _ => false,
    });
    if is_incomplete {
        Exit::Incomplete
    } else {
        Exit::Clean
    }
}

fn lines(findings: &[Finding]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for finding in findings {
        let (place, changes) = match &finding.detail {
            Detail::FileDrift(drift) => ("container", &drift.changes),
            Detail::LayerTampered(drift) => ("layer", &drift.changes),
            _ => continue,
        };
        lines.extend(changes.iter().map(|change| Line { place, change }));
    }
    lines.sort_by(|a, b| (&a.change.path, a.place).cmp(&(&b.change.path, b.place)));
    lines
}

fn print(lines: &[Line<'_>], output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, lines)?;
            writeln!(out)
        }
        Output::Jsonl => {
            for line in lines {
                serde_json::to_writer(&mut *out, line)?;
                writeln!(out)?;
            }
            Ok(())
        }
        Output::Table => {
            let mut table = Table::new(&["CHANGE", "CLASS", "IN", "PATH", "EXPECTED", "ACTUAL"]);
            for Line { place, change } in lines {
                table.push(vec![
                    change.change.as_str().to_owned(),
                    change.class.as_str().to_owned(),
                    (*place).to_owned(),
                    change.path.clone(),
                    state(change.expected.as_ref()),
                    state(change.actual.as_ref()),
                ]);
            }
            write!(out, "{}", table.render())
        }
    }
}

/// `0755 0:0 12ab34cd56ef`, or what else tells the two sides apart.
fn state(state: Option<&FileState>) -> String {
    let Some(state) = state else {
        return "-".to_owned();
    };
    let owner = format!("{} {}:{}", state.mode, state.uid, state.gid);
    let content = match (&state.sha256, &state.target, &state.device) {
        (Some(sha256), ..) => sha256.chars().take(12).collect(),
        (_, Some(target), _) => format!("→ {target}"),
        (.., Some(device)) => format!("{} {device}", state.node_type),
        _ => state.node_type.clone(),
    };
    let xattrs: Vec<&str> = state.xattrs.keys().map(String::as_str).collect();
    if xattrs.is_empty() {
        format!("{owner} {content}")
    } else {
        format!("{owner} {content} {}", xattrs.join(","))
    }
}
