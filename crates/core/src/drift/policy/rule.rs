//! A rule: which paths may change, and how bad it is when they do.

use super::PathPattern;
use crate::drift::{Change, ChangeKind, Class};
use crate::finding::Severity;

/// What is said of changes at some paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// `POLICY/NAME`.
    pub(super) name: String,
    pub(super) paths: Vec<PathPattern>,
    pub(super) classes: Vec<Class>,
    /// All, if none is named.
    pub(super) changes: Option<Vec<ChangeKind>>,
    /// `None`: no finding.
    pub(super) level: Option<Severity>,
}

impl Rule {
    /// Whether it speaks of a change, whose class is `class`.
    pub(super) fn fits(&self, change: &Change, class: Class) -> bool {
        let is_kind = |kinds: &Vec<ChangeKind>| kinds.contains(&change.kind);
        self.classes.contains(&class)
            && self.changes.as_ref().is_none_or(is_kind)
            && self.is_at(&change.path)
    }

    /// Whether it makes a finding of what would be none.
    pub(super) fn raises_volatile(&self) -> bool {
        self.level.is_some() && self.classes.contains(&Class::Volatile)
    }

    pub(super) fn is_at(&self, path: &[u8]) -> bool {
        self.paths.iter().any(|pattern| pattern.matches(path))
    }
}
