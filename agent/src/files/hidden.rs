//! What is hidden from a container: paths below a whiteout, below something that took a directory's place,
//! and below an opaque directory that were not put back. Each is a removed path.

use holdfast_core::drift::class::judge;
use holdfast_core::drift::group::Changes;
use holdfast_core::drift::{Change, ChangeKind};
use holdfast_core::layer::{Entry, MergedTree, Node, TreeError};

use super::expected::{Expected, is_at_or_below};
use super::{ScanError, bytecode, follow};

/// An opaque directory that is being walked, and what the image has below it.
pub(super) struct Hidden<'t> {
    tree: &'t MergedTree,
    directory: Vec<u8>,
    expected: Expected<'t>,
}

impl<'t> Hidden<'t> {
    /// Everything below `directory`, until it is put back.
    pub(super) fn below(tree: &'t MergedTree, directory: &[u8]) -> Result<Self, TreeError> {
        let visible = tree.below(directory)?;
        let entries = visible.map(|below| below.map(|seen| (seen.path, seen.entry)));
        Ok(Self {
            tree,
            directory: directory.to_vec(),
            expected: Expected::new(Box::new(entries)),
        })
    }

    /// Whether `path` is no longer below the directory.
    pub(super) fn is_left_at(&self, path: &[u8]) -> bool {
        !is_at_or_below(path, &self.directory)
    }

    /// The walk is at `path`: what was passed over is removed, and the path itself put back.
    pub(super) fn put_back(&mut self, path: &[u8], changes: &mut Changes) -> Result<(), ScanError> {
        self.pass_to(path, changes).map(|_put_back| ())
    }

    /// The walk is at a whiteout: what was passed over is removed, and the path itself stays so.
    pub(super) fn keep_removed(
        &mut self,
        path: &[u8],
        changes: &mut Changes,
    ) -> Result<(), ScanError> {
        match self.pass_to(path, changes)? {
            Some(entry) => count(self.tree, path, &entry, changes),
            None => Ok(()),
        }
    }

    /// The walk has left the directory: the rest is removed.
    pub(super) fn leave(self, changes: &mut Changes) -> Result<(), ScanError> {
        let tree = self.tree;
        self.expected
            .finish(|path, entry| count(tree, &path, &entry, changes))
    }

    /// What is at and below `path` could not be read: nobody knows whether it was put back.
    pub(super) fn unread(&mut self, path: &[u8]) {
        self.expected.unread(path);
    }

    fn pass_to(&mut self, path: &[u8], changes: &mut Changes) -> Result<Option<Entry>, ScanError> {
        let tree = self.tree;
        self.expected
            .up_to(path, |path, entry| count(tree, &path, &entry, changes))
    }
}

fn count(
    tree: &MergedTree,
    path: &[u8],
    expected: &Entry,
    changes: &mut Changes,
) -> Result<(), ScanError> {
    match removed(tree, path, expected)? {
        Some(change) => changes.push(change),
        None => changes.pass_over(path, ChangeKind::Removed, Some(expected), None),
    }
    Ok(())
}

/// The change of a path that is hidden; none where nobody would want to know.
pub(super) fn removed(
    tree: &MergedTree,
    path: &[u8],
    expected: &Entry,
) -> Result<Option<Change>, TreeError> {
    let lent = match expected.node {
        Node::Symlink { .. } => follow::class_before(tree, path, expected)?,
        _ => None,
    };
    let lent = lent.as_slice();
    let mut change = judge(path, ChangeKind::Removed, Some(expected), None, lent);
    if let Some(change) = &mut change {
        bytecode::reclass(tree, change)?;
    }
    Ok(change)
}
