//! `diff CONTAINER`: what `docker diff` should have been. Every path is listed, also where a change is worth no
//! finding; what is not listed is counted, and the exit code says so.

use std::io::{self, Write};

use holdfast_core::drift::every::{Every, Listed};
use holdfast_core::drift::{ChangeKind, Class, Ruled};
use holdfast_core::finding::{Check, Detail, FileChange, FileState, Severity};
use serde::Serialize;
use serde::ser::{SerializeSeq as _, Serializer as _};

use super::check::{self, Looked};
use super::report;
use super::selection::Selection;
use super::table::print_rows;
use super::{Diff, Exit, Output, complain};
use crate::inspect::Lists;

const HEADING: [&str; 7] = [
    "CHANGE", "CLASS", "IN", "PATH", "EXPECTED", "ACTUAL", "POLICY",
];

/// A change, and where it is: in the container's own layer, or in an unpacked layer of the image.
type Placed = (&'static str, Listed);

#[derive(Debug, Serialize)]
struct Line {
    place: &'static str,
    path: String,
    change: ChangeKind,
    class: Class,
    /// `null` for a change that is not worth a finding.
    severity: Option<Severity>,
    expected: Option<FileState>,
    actual: Option<FileState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Ruled>,
}

/// Why the list is not whole.
#[derive(Debug, thiserror::Error)]
enum NotListed {
    #[error("{0} more not listed")]
    LeftOut(u64),
    #[error("{0}: {1}")]
    NotDone(Check, String),
}

pub(super) fn run(arguments: &Diff) -> Exit {
    let selection = Selection::only(&arguments.scope, &arguments.container, &arguments.policies);
    let output = arguments.output;
    check::looking(&selection, async |looked| {
        // A reader that does not read must not keep a signal from ending us.
        let printing = tokio::task::spawn_blocking(move || show(looked, output));
        printing.await.unwrap_or(Exit::Failure)
    })
}

fn show(looked: Looked, output: Output) -> Exit {
    let Looked { report, lists } = looked;
    let mut not_listed: Vec<NotListed> = report
        .findings
        .iter()
        .filter_map(|finding| match &finding.detail {
            // Nobody asked whether the image is signed.
            Detail::Unverifiable(undone) if undone.check != Check::Signature => {
                Some(NotListed::NotDone(undone.check, undone.message.clone()))
            }
            _ => None,
        })
        .collect();
    let (placed, left_out) = placed(lists);
    if left_out > 0 {
        not_listed.push(NotListed::LeftOut(left_out));
    }
    match print(&placed, output, &mut io::stdout().lock()) {
        // Whoever reads only the beginning (`| head`) has what he wants.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&error);
            return Exit::Failure;
        }
        Ok(()) | Err(_) => {}
    }
    for reason in &not_listed {
        complain(reason);
    }
    if not_listed.is_empty() {
        Exit::Clean
    } else {
        Exit::Incomplete
    }
}

/// All of them by path, and how many more there are.
fn placed(lists: Lists) -> (Vec<Placed>, u64) {
    let left_out = lists.container.left_out() + lists.layers.left_out();
    let in_place = |place, every: Every| every.into_listed().into_iter().map(move |it| (place, it));
    let mut placed: Vec<Placed> = in_place("container", lists.container)
        .chain(in_place("layer", lists.layers))
        .collect();
    placed.sort_by(|(a_place, a), (b_place, b)| {
        (&a.change.path, a_place).cmp(&(&b.change.path, b_place))
    });
    (placed, left_out)
}

fn line((place, listed): &Placed) -> Line {
    let FileChange {
        path,
        change,
        class,
        severity,
        expected,
        actual,
        note,
        policy,
    } = FileChange::from(&listed.change);
    Line {
        place,
        path,
        change,
        class,
        severity: listed.is_worth_a_finding.then_some(severity),
        expected,
        actual,
        note,
        policy,
    }
}

fn print(placed: &[Placed], output: Output, out: &mut impl Write) -> io::Result<()> {
    match output {
        // One at a time: there may be a million.
        Output::Json => {
            let mut json = serde_json::Serializer::pretty(&mut *out);
            let mut all = json.serialize_seq(Some(placed.len()))?;
            for one in placed {
                all.serialize_element(&line(one))?;
            }
            all.end()?;
            writeln!(out)?;
        }
        Output::Jsonl => {
            for one in placed {
                serde_json::to_writer(&mut *out, &line(one))?;
                writeln!(out)?;
            }
        }
        Output::Table => print_rows(out, heading(placed), placed, |one| {
            let line = line(one);
            let policy = line.policy.as_ref().map(report::ruled);
            vec![
                line.change.as_str().to_owned(),
                line.class.as_str().to_owned(),
                line.place.to_owned(),
                line.path,
                state(line.expected.as_ref()),
                state(line.actual.as_ref()),
                policy.unwrap_or_default(),
            ]
        })?,
    }
    out.flush()
}

/// The last column only where a policy says something.
fn heading(placed: &[Placed]) -> &'static [&'static str] {
    let is_ruled = placed
        .iter()
        .any(|(_, listed)| listed.change.ruled.is_some());
    let columns = HEADING.len() - usize::from(!is_ruled);
    HEADING.get(..columns).unwrap_or(&HEADING)
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
