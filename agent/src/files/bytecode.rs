//! Caches of Python modules that the image ships: what their headers say, held against the source that the
//! container sees. A cache without such a module is a program like any other.

use holdfast_core::drift::bytecode::{CLASS, Header, Source, is_plain, source_of};
use holdfast_core::drift::class::severity;
use holdfast_core::drift::{Change, ChangeKind, Class};
use holdfast_core::layer::{MergedTree, Node, TreeError};
use rustix::fs::FileType;

use super::genuine::is_content_of;
use super::observe::content;
use super::open::Pinned;
use super::upper::Upper;

/// The longest cache that is read; real ones have some kilobytes, generated ones a few mebibytes.
const MAX_CACHE_BYTES: u64 = 16 << 20;

/// Makes the change of a program that of a cache where it is one. True when it is.
pub(super) fn reclass(tree: &MergedTree, change: &mut Change) -> Result<bool, TreeError> {
    let states = [&change.expected, &change.actual];
    let is_cache = change.class == Class::Program
        && !change.privileged
        && states.into_iter().flatten().all(is_plain);
    let Some(source) = source_of(&change.path).filter(|_| is_cache) else {
        return Ok(false);
    };
    let is_module = |node: &Node| matches!(node, Node::File { .. } | Node::Symlink { .. });
    let shipped = tree.lookup(&source)?;
    if !shipped.is_some_and(|(_, entry)| is_module(&entry.node)) {
        return Ok(false);
    }
    let entry = change.actual.as_ref().or(change.expected.as_ref());
    let due = entry.and_then(|entry| severity(change.kind, CLASS, entry));
    change.class = CLASS;
    change.severity = due.unwrap_or(change.severity);
    Ok(true)
}

/// The same, with what the header of a cache that was written says about it.
pub(super) fn opine(
    upper: &Upper<'_>,
    pinned: &Pinned,
    change: &mut Change,
) -> Result<(), TreeError> {
    if !reclass(upper.tree, change)? || change.kind == ChangeKind::Metadata {
        return Ok(());
    }
    let read = content(pinned, MAX_CACHE_BYTES).unwrap_or_default();
    // Read once for its digest and once for its header: it must have been the same both times.
    let is_same = |cache: &Vec<u8>| {
        let actual = change.actual.as_ref();
        actual.is_some_and(|actual| is_content_of(cache, actual))
    };
    let read = read.filter(is_same);
    let source = source_of(&change.path)
        .map(|path| state_of(upper, &path))
        .transpose()?
        .flatten();
    let (Some(cache), Some(source)) = (read, source) else {
        change.severity = holdfast_core::finding::Severity::Critical;
        change.note = Some("bytecode could not be held against its source".to_owned());
        return Ok(());
    };
    let header = Header::read(&change.path, &cache, source);
    change.severity = header.severity();
    change.note = Some(header.note().to_owned());
    Ok(())
}

/// Time and size of a module as the container sees it: its own copy, else the image's.
fn state_of(upper: &Upper<'_>, path: &[u8]) -> Result<Option<Source>, TreeError> {
    let own = upper.root.pin(path).ok().flatten();
    let layer = upper.tree.lookup(path)?.map(|(layer, _)| layer);
    let shipped = || {
        let lower = upper.lowers.get(layer?)?;
        lower.pin(path).ok().flatten()
    };
    let pinned = own.or_else(shipped);
    let is_file = |pinned: &Pinned| pinned.file_type() == FileType::RegularFile;
    Ok(pinned.filter(is_file).map(|pinned| Source {
        modified: pinned.stat.stx_mtime.tv_sec,
        size: pinned.stat.stx_size,
    }))
}
