//! What is remembered of a file that the image does not have: most drift looks so, and a container may write
//! a hundred thousand of them. Only what the state of the file does not say is kept, and the change is made
//! again from both.

use holdfast_core::digest::Digest;
use holdfast_core::drift::{Change, ChangeKind, Class};
use holdfast_core::finding::Severity;
use holdfast_core::layer::{Marker, Node};
use rustix::fs::Statx;

use super::open::file_entry;

/// A file that the image does not have, about which its state and this say everything: how most drift looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct New {
    digest: Digest,
    marker: Marker,
    class: Class,
    severity: Severity,
}

impl New {
    /// The one change that says nothing more; `None` for any other.
    pub(super) fn of(changes: &[Change]) -> Option<Self> {
        let [change] = changes else { return None };
        let is_plain = change.kind == ChangeKind::Added
            && !change.privileged
            && change.expected.is_none()
            && change.note.is_none()
            && change.ruled.is_none();
        let actual = change.actual.as_ref().filter(|_| is_plain)?;
        let Node::File { digest, marker, .. } = actual.node else {
            return None;
        };
        (actual.xattrs.is_empty() && actual.hard_link.is_none()).then_some(Self {
            digest,
            marker,
            class: change.class,
            severity: change.severity,
        })
    }

    /// The change again, for a file whose state is the same.
    fn change(self, path: &[u8], stat: &Statx) -> Change {
        Change {
            path: path.to_vec(),
            kind: ChangeKind::Added,
            class: self.class,
            severity: self.severity,
            privileged: false,
            expected: None,
            ruled: None,
            actual: Some(file_entry(stat, self.digest, self.marker)),
            note: None,
        }
    }
}

/// The changes that a path had last time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Before<'a> {
    /// This one.
    New(New),
    /// These, if any.
    Listed(&'a [Change]),
}

impl Before<'_> {
    /// Gives each to `push`.
    pub(super) fn each(self, path: &[u8], stat: &Statx, mut push: impl FnMut(Change)) {
        match self {
            Self::New(new) => push(new.change(path, stat)),
            Self::Listed(changes) => changes.iter().cloned().for_each(push),
        }
    }
}
