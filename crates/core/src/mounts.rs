//! Mounts: what a container has besides its root, whether the runtime was asked for it, and what of the image
//! it hides (`mount-drift`). Pure: tables, spec and expected trees come as values.
//!
//! A file that is mounted over an image's program is executed although no layer and no upper directory has
//! changed: whoever compares directories only sees nothing. What counts:
//!
//! - A mount that the runtime was asked for (OCI spec, the bundle's own config) or makes by itself (masked
//!   paths, controllers below a cgroup mount, device nodes, the console) is a fact and no finding.
//! - What is mounted *into* such a mount hides nothing of the image. It is told only where it surely came
//!   after the start and the mount takes none from the host.
//! - Everything else is drift, critical where it hides a program or trust anchor of the image.
//! - Hooks of the node mount too, after the spec's mounts and before the first execution. They get a milder
//!   word where they are known or the order of the table shows it, and only for what the container cannot write.
//!
//! The order of the table is the order in which mounts were made. It is believed only in favour of a
//! container that may not mount: who may, can mount again what the runtime had made last.

mod declared;
mod hidden;
mod hooks;
mod survey;
pub mod table;
mod told;

use std::collections::{BTreeMap, HashSet};

use self::declared::Asked;
pub use self::declared::{Declared, DeclaredMount, Origin};
use self::hidden::{Hidden, Hides};
use self::survey::Survey;
use self::table::{Device, MountEntry};
use crate::drift::Class;
use crate::finding::{Condition, Severity};
use crate::layer::{MergedTree, TreeError};

/// Mounts told one by one; the rest of a container that mounts thousands is told as one.
pub const MAX_TOLD: usize = 100;

/// What one mount namespace of a container shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Id of the mount that is the root of its processes.
    pub root: u64,
    /// Superblock of the container's own root.
    pub device: Device,
    /// Where on that superblock its root begins: an overlay is all its own, a bind mount shares it with the node.
    pub top: Vec<u8>,
    /// Where in that root the process stands that showed the table; empty unless it has chrooted.
    pub base: Vec<u8>,
    /// The table, oldest mount first.
    pub entries: Vec<MountEntry>,
}

impl View {
    /// Where in the container's own root a mount begins; `None` when it is of another one.
    fn own_path<'e>(&self, entry: &'e MountEntry) -> Option<&'e [u8]> {
        let is_whole = matches!(self.top.as_slice(), b"" | b"/");
        let top: &[u8] = if is_whole { b"" } else { &self.top };
        let below = entry.root.strip_prefix(top)?;
        let is_below = below.is_empty() || below.starts_with(b"/");
        (entry.device == self.device && is_below).then_some(below)
    }

    fn is_own(&self, entry: &MountEntry) -> bool {
        self.own_path(entry).is_some()
    }
}

/// Whose mounts a view shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    /// That of the container's first process.
    Own,
    /// One that a process of the container has made for itself.
    Other,
}

/// One mount point at which something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Drift {
    severity: Severity,
    hides: Hides,
    /// What is mounted there, in words.
    found: String,
}

/// What is wrong with the mounts of a container. The first view is that of its first process.
///
/// 1. What the runtime was asked for, and makes by itself, explains a mount.
/// 2. What stands on such a mount hides nothing of the image.
/// 3. The rest hides what the image has at its mount point.
/// 4. A mount that the first namespace has too is told once.
/// 5. The worst are told one by one, and all others as one.
pub fn conditions(
    image: &MergedTree,
    declared: &Declared,
    views: &[View],
    workload: &str,
) -> Result<Vec<Condition>, TreeError> {
    let asked = Asked::resolve(declared, image)?;
    let mut judge = Judge {
        declared,
        hidden: Hidden::new(image),
        drifts: BTreeMap::new(),
    };
    let mut known = HashSet::new();
    for (index, view) in views.iter().enumerate() {
        // (1) (2)
        let survey = Survey::of(view, &asked, declared);
        let namespace = if index == 0 {
            Namespace::Own
        } else {
            Namespace::Other
        };
        for position in 0..view.entries.len() {
            // (4) A namespace begins as a copy of another one.
            let is_new = known.insert(survey.identity(position));
            if is_new && survey.is_unexplained(position) {
                // (3)
                judge.mount(&survey, position, namespace)?;
            }
        }
        // (2)
        judge.asked_for_by_the_bundle_alone(&survey, namespace)?;
    }
    // (5)
    Ok(told::conditions(judge.drifts, workload))
}

struct Judge<'a> {
    declared: &'a Declared,
    hidden: Hidden<'a>,
    drifts: BTreeMap<Vec<u8>, Drift>,
}

impl Judge<'_> {
    fn mount(
        &mut self,
        survey: &Survey<'_>,
        position: usize,
        namespace: Namespace,
    ) -> Result<(), TreeError> {
        if let Some(ground) = survey.ground(position) {
            if survey.came_after_start(position, ground)
                && !self.is_a_hook(survey, position, namespace)
            {
                let found = told::found_below(survey, position, namespace);
                let path = survey.path(ground).to_vec();
                self.drift(path, Severity::Warning, Hides::Nothing, found);
            }
            return Ok(());
        }
        let path = survey.path(position).to_vec();
        let hides = if survey.shows_the_same(position) {
            Hides::Nothing
        } else {
            self.hidden.of(&path)?
        };
        let severity = if is_known_hook(survey, position, namespace) {
            hides.is_something().then_some(Severity::Warning)
        } else if self.is_a_hook(survey, position, namespace) {
            Some(if hides.is_something() {
                Severity::Warning
            } else {
                Severity::Info
            })
        } else {
            Some(severity(hides))
        };
        if let Some(severity) = severity {
            let found = told::found(survey, position, namespace);
            self.drift(path, severity, hides, found);
        }
        Ok(())
    }

    /// Mounts that somebody has written into the bundle after containerd had made it: wrappers around the
    /// runtime do that for devices and their libraries. Told only where they hide something.
    fn asked_for_by_the_bundle_alone(
        &mut self,
        survey: &Survey<'_>,
        namespace: Namespace,
    ) -> Result<(), TreeError> {
        if namespace == Namespace::Other {
            return Ok(());
        }
        for position in survey.made_for(Origin::Bundle) {
            let path = survey.path(position).to_vec();
            if survey.ground(position).is_some() {
                continue;
            }
            let hides = self.hidden.of(&path)?;
            if !hides.is_something() {
                continue;
            }
            let severity = if survey.is_writable(position) {
                severity(hides)
            } else {
                Severity::Warning
            };
            let found = told::found(survey, position, namespace);
            self.drift(path, severity, hides, found);
        }
        Ok(())
    }

    /// A known hook's mount, or one that was there before the first execution.
    fn is_a_hook(&self, survey: &Survey<'_>, position: usize, namespace: Namespace) -> bool {
        let is_early = namespace == Namespace::Own
            && !self.declared.may_mount
            && survey.came_before_start(position)
            && !survey.is_writable(position);
        is_early || is_known_hook(survey, position, namespace)
    }

    /// Of several mounts at one path the worst counts; the others are beneath it or elsewhere.
    fn drift(&mut self, path: Vec<u8>, severity: Severity, hides: Hides, found: String) {
        let is_worse = |known: &Drift| known.severity < severity;
        if self.drifts.get(&path).is_none_or(is_worse) {
            let drift = Drift {
                severity,
                hides,
                found,
            };
            self.drifts.insert(path, drift);
        }
    }
}

fn is_known_hook(survey: &Survey<'_>, position: usize, namespace: Namespace) -> bool {
    namespace == Namespace::Own
        && hooks::is_known(survey.path(position))
        && !survey.is_writable(position)
}

/// How bad a mount is that nobody was asked for.
const fn severity(hides: Hides) -> Severity {
    match hides {
        Hides::Class(Class::DeviceNode | Class::TrustAnchor | Class::Program) => Severity::Critical,
        Hides::Class(
            Class::BytecodeCache | Class::Volatile | Class::Configuration | Class::Data,
        )
        | Hides::Nothing => Severity::Warning,
    }
}

#[cfg(test)]
mod tests;
