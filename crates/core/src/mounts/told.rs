//! How a mount reads: the sentence for the person who is woken, and the record in the document. Bounded, in the
//! reversible form, and deciding nothing. Numbers that the kernel gives anew at each start are left out: a
//! finding that says something else on each pod would be news each time.

use std::collections::BTreeMap;

use super::hidden::Hides;
use super::survey::Survey;
use super::table::MountEntry;
use super::{Drift, MAX_TOLD, Namespace};
use crate::display;
use crate::display::shorten;
use crate::drift::Class;
use crate::drift::shown::{MAX_PATH, MAX_WORKLOAD};
use crate::finding::{Check, Condition, Detail, Disagreement, Severity, Subject};

/// The longest source of a mount in a record.
const MAX_SOURCE: usize = 200;

/// The subject of the finding about the mounts that are not told one by one; no path has it, paths begin with
/// a slash.
const MORE: &str = "more-mounts";

/// Who says that something else is due: what the image has there, or what the runtime was asked for.
const IMAGE: &str = "image";
const SPEC: &str = "spec";

const NO_MOUNT: &str = "no mount";

/// The worst first, each on its own up to a bound, the rest as one.
pub(super) fn conditions(drifts: BTreeMap<Vec<u8>, Drift>, workload: &str) -> Vec<Condition> {
    let workload = shorten(workload, MAX_WORKLOAD);
    let mut drifts: Vec<(Vec<u8>, Drift)> = drifts.into_iter().collect();
    // Stable, so paths stay in order within a severity.
    drifts.sort_by_key(|(_, drift)| std::cmp::Reverse(drift.severity));
    let more = drifts.split_off(drifts.len().min(MAX_TOLD));
    let mut told: Vec<Condition> = drifts
        .into_iter()
        .map(|(path, drift)| condition(&path, drift, &workload))
        .collect();
    if let Some(worst) = more.iter().map(|(_, drift)| drift.severity).max() {
        told.push(more_than_told(worst, &workload));
    }
    told
}

fn condition(path: &[u8], drift: Drift, workload: &str) -> Condition {
    let shown = display::path(path);
    let short = shorten(&shown, MAX_PATH);
    let (witness, says, title) = match drift.hides {
        Hides::Class(class) => {
            let noun = noun(class);
            let title = format!("A mount over {short} hides {noun} of the image in {workload}");
            (IMAGE, noun, title)
        }
        Hides::Nothing => (
            SPEC,
            NO_MOUNT,
            format!("A mount at {short} in {workload} that its runtime was not asked for"),
        ),
    };
    Condition {
        check: Check::Mounts,
        subject: Subject::path(path),
        severity: drift.severity,
        title,
        basis: None,
        detail: Detail::MountDrift(Disagreement {
            witness: witness.to_owned(),
            says: says.to_owned(),
            found: drift.found,
            path: Some(shown),
        }),
    }
}

fn more_than_told(severity: Severity, workload: &str) -> Condition {
    Condition {
        check: Check::Mounts,
        subject: Subject::word(MORE),
        severity,
        title: format!(
            "More than {MAX_TOLD} mounts in {workload} that its runtime was not asked for"
        ),
        basis: None,
        detail: Detail::MountDrift(Disagreement {
            witness: SPEC.to_owned(),
            says: NO_MOUNT.to_owned(),
            found: format!("mounts beyond the first {MAX_TOLD}"),
            path: None,
        }),
    }
}

const fn noun(class: Class) -> &'static str {
    match class {
        Class::DeviceNode => "a device node",
        Class::TrustAnchor => "a trust anchor",
        Class::Program => "a program",
        Class::BytecodeCache => "a bytecode cache",
        Class::Volatile => "volatile files",
        Class::Configuration => "configuration",
        Class::Data => "data",
    }
}

/// What is mounted over files of the image, or where nothing was.
pub(super) fn found(survey: &Survey<'_>, position: usize, namespace: Namespace) -> String {
    let Some(entry) = survey.entry(position) else {
        return String::new();
    };
    let source = |path| shorten(&display::escape(path), MAX_SOURCE);
    let what = match survey.own_path(entry) {
        Some(b"") => "the container's own /".to_owned(),
        Some(path) => format!("the container's own {}", source(path)),
        None if entry.root == b"/" => fs_type(entry),
        None => format!("{} of {}", source(&entry.root), fs_type(entry)),
    };
    what + elsewhere(namespace)
}

/// What is mounted into a volume, or another mount that the runtime was asked for.
pub(super) fn found_below(survey: &Survey<'_>, position: usize, namespace: Namespace) -> String {
    let fs_type = survey.entry(position).map(fs_type).unwrap_or_default();
    format!("{fs_type} below it, mounted after the start") + elsewhere(namespace)
}

fn fs_type(entry: &MountEntry) -> String {
    shorten(&display::escape(&entry.fs_type), MAX_SOURCE)
}

const fn elsewhere(namespace: Namespace) -> &'static str {
    match namespace {
        Namespace::Own => "",
        Namespace::Other => ", in a mount namespace of its own",
    }
}
