//! Where the content of a changed file comes from, when the image itself has it: another file (`moved`), or
//! what an older layer had at the same path. It makes a change no milder, it only says so.

use holdfast_core::display;
use holdfast_core::drift::{Change, ChangeKind};
use holdfast_core::layer::{MergedContents, MergedTree, Node, TreeError};

/// The image's files by content, listed when a change asks for them and kept while changes do.
#[derive(Debug, Default)]
pub(super) struct Origins {
    contents: Option<MergedContents>,
    is_used: bool,
}

impl Origins {
    /// Says where the content of an added or modified file comes from.
    pub(super) fn opine(
        &mut self,
        tree: &MergedTree,
        change: &mut Change,
    ) -> Result<(), TreeError> {
        if !matches!(change.kind, ChangeKind::Added | ChangeKind::Modified) {
            return Ok(());
        }
        let Some(Node::File { size, digest, .. }) =
            change.actual.as_ref().map(|actual| &actual.node)
        else {
            return Ok(());
        };
        // Every empty file is equal to every other.
        if *size == 0 {
            return Ok(());
        }
        let digest = *digest;
        if let Some(layer) = tree.older_layer_with(&change.path, digest)?
            && let Some(older) = tree.layers().get(layer)
        {
            let note = format!("older content, of layer {}", older.diff_id());
            change.note.get_or_insert(note);
            return Ok(());
        }
        self.is_used = true;
        if self.contents.is_none() {
            self.contents = Some(tree.contents()?);
        }
        if let Some(contents) = &self.contents
            && let Some(path) = tree.path_of_content(contents, digest)?
        {
            change.kind = ChangeKind::Moved;
            let note = format!("content of {}", display::path(&path));
            change.note.get_or_insert(note);
        }
        Ok(())
    }

    /// A scan has ended: what it had no use for is forgotten.
    pub(super) fn end(&mut self) {
        if !std::mem::take(&mut self.is_used) {
            self.contents = None;
        }
    }
}
