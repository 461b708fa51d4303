//! The genuine content of account files, read from the unpacked layers and believed only when it hashes to
//! what the image says; and what a change of them means.

use holdfast_core::digest::Digest;
use holdfast_core::drift::accounts::{AccountFile, MAX_BYTES, judge};
use holdfast_core::drift::{Change, ChangeKind};
use holdfast_core::layer::{Entry, Node, TreeError};

use super::observe::content;
use super::open::Pinned;
use super::upper::Upper;

/// Replaces severity and note of a changed account file by what its entries say. A file that cannot be read
/// keeps the severity of its class, which is critical.
pub(super) fn opine(
    upper: &Upper<'_>,
    pinned: &Pinned,
    change: &mut Change,
) -> Result<(), TreeError> {
    let Some(file) = AccountFile::at(&change.path) else {
        return Ok(());
    };
    let Some(actual) = change.actual.as_ref() else {
        return Ok(());
    };
    if change.privileged || !matches!(change.kind, ChangeKind::Added | ChangeKind::Modified) {
        return Ok(());
    }
    let before = match &change.expected {
        None => Some(Vec::new()),
        Some(expected) => content_of(upper, &change.path, expected),
    };
    let after = content(pinned, MAX_BYTES).unwrap_or_default();
    // Read once for its digest and once for its entries: it must have been the same both times.
    let after = after.filter(|content| is_content_of(content, actual));
    let (Some(before), Some(after)) = (before, after) else {
        change.note = Some("its entries could not be compared with the image's".to_owned());
        return Ok(());
    };
    let companion = match file.companion() {
        None => None,
        Some(path) => match upper.tree.lookup(path)? {
            None => Some(Vec::new()),
            Some((_, entry)) => content_of(upper, path, &entry),
        },
    };
    let opinion = judge(file, Some(&before), &after, companion.as_deref());
    change.severity = opinion.severity;
    change.note = Some(opinion.note);
    Ok(())
}

/// The image's content of a file, from whichever unpacked layer still has it.
fn content_of(upper: &Upper<'_>, path: &[u8], expected: &Entry) -> Option<Vec<u8>> {
    for lower in upper.lowers {
        if let Ok(Some(pinned)) = lower.pin(path)
            && let Ok(Some(bytes)) = content(&pinned, MAX_BYTES)
            && is_content_of(&bytes, expected)
        {
            return Some(bytes);
        }
    }
    None
}

pub(super) fn is_content_of(content: &[u8], entry: &Entry) -> bool {
    matches!(&entry.node, Node::File { digest, .. } if *digest == Digest::of(content))
}
