//! The whole compare of one unpacked layer with its own expected tree: content, metadata, links, devices,
//! whiteouts, opaque directories, what is missing, what is extra, and what was planted for the kernel to
//! follow. Nothing writes there after the unpacking, so any difference is tampering.

use std::collections::HashMap;

use holdfast_core::display;
use holdfast_core::drift::class::judge_in_layer;
use holdfast_core::drift::compare::compare_in_layer;
use holdfast_core::drift::{Change, ChangeKind};
use holdfast_core::layer::{Entry, ExpectedTree, Node};
use holdfast_core::overlay::{Meaning, XattrPrefix, meaning, planted};
use rustix::fs::{FileType, Statx};

use super::expected::Expected;
use super::observe::{Depth, Observed};
use super::open::{self, Pinned, file_type};
use super::walk::{At, Next, Visitor, walk};
use super::{Observer, Pass, Root, ScanError, ScanOutcome, Unread};

/// Groups of hard links that are compared; images have some hundreds.
const MAX_LINKED: usize = 100_000;

/// One unpacked layer.
#[derive(Clone, Copy, Debug)]
pub struct Lower<'a> {
    /// The snapshot's directory.
    pub root: &'a Root,
    /// What must be there.
    pub tree: &'a ExpectedTree,
    /// Which attributes the mounts over it believe.
    pub prefix: XattrPrefix,
}

/// Compares the whole directory once; every file is hashed.
pub fn compare(
    lower: Lower<'_>,
    observer: &mut Observer,
    pass: Pass<'_>,
) -> Result<ScanOutcome, ScanError> {
    observer.bytes_hashed = 0;
    let mut buffers = std::mem::take(&mut observer.walk);
    let mut visit = Visit {
        lower,
        observer,
        pass,
        outcome: ScanOutcome::default(),
        expected: Expected::new(Box::new(lower.tree.iter())),
        linked: HashMap::new(),
        is_given_up: false,
    };
    let begun = visit.root();
    let walked = begun.and_then(|()| walk(lower.root, &mut buffers, pass, &mut visit));
    let Visit {
        mut outcome,
        observer,
        expected,
        is_given_up,
        ..
    } = visit;
    observer.walk = buffers;
    outcome.entries = walked?;
    if !is_given_up {
        let changes = &mut outcome.changes;
        expected.finish(|path, entry| {
            changes.push_of_layer(judge_in_layer(
                &path,
                ChangeKind::Removed,
                Some(&entry),
                None,
            ));
            Ok::<(), ScanError>(())
        })?;
    }
    Ok(ScanOutcome {
        changes: outcome.changes.finished(),
        bytes_hashed: observer.bytes_hashed,
        ..outcome
    })
}

fn removed(path: &[u8], expected: &Entry) -> Change {
    judge_in_layer(path, ChangeKind::Removed, Some(expected), None)
}

struct Visit<'a> {
    lower: Lower<'a>,
    observer: &'a mut Observer,
    pass: Pass<'a>,
    outcome: ScanOutcome,
    expected: Expected<'a>,
    /// The inodes of files that others are hard links to, by path.
    linked: HashMap<Vec<u8>, u64>,
    is_given_up: bool,
}

impl Visitor for Visit<'_> {
    type Error = ScanError;

    fn visit(&mut self, at: &At<'_>) -> Result<Next, ScanError> {
        let changes = &mut self.outcome.changes;
        let expected = self.expected.up_to(at.path, |path, entry| {
            changes.push_of_layer(judge_in_layer(
                &path,
                ChangeKind::Removed,
                Some(&entry),
                None,
            ));
            Ok::<(), ScanError>(())
        })?;
        let name = at.name.to_bytes();
        let pinned = match file_type(at.stat) {
            FileType::RegularFile => open::open_in_layer(at.directory, name),
            _ => open::pin(at.directory, name),
        };
        match pinned {
            Ok(Some(pinned)) => {
                if let Err(reason) = self.look(at.path, expected.as_ref(), &pinned) {
                    self.outcome.unverifiable.push(at.path, reason);
                }
            }
            // Gone since its name was read.
            Ok(None) => {
                if let Some(expected) = &expected {
                    self.push(removed(at.path, expected));
                }
            }
            Err(reason) => self.outcome.unverifiable.push(at.path, reason),
        }
        Ok(match file_type(at.stat) {
            FileType::Directory => Next::Below,
            _ => Next::Past,
        })
    }

    fn unread(&mut self, path: &[u8], reason: Unread) {
        if matches!(reason, Unread::Deadline | Unread::Entries) || path.is_empty() {
            self.is_given_up = true;
        }
        self.expected.unread(path);
        self.outcome.unverifiable.push(path, reason);
    }
}

impl Visit<'_> {
    /// The root's metadata belongs to the snapshotter, but a planted attribute on it counts for all layers.
    fn root(&mut self) -> Result<(), ScanError> {
        self.expected.up_to(b"", |_, _| Ok::<(), ScanError>(()))?;
        // If it cannot be pinned, the walk will not get in either, and says so.
        let Ok(Some(pinned)) = self.lower.root.pin(b"") else {
            return Ok(());
        };
        match self.observe(&pinned) {
            Ok((observed, _)) => {
                if let Some(change) = self.planted(b"", None, &observed) {
                    self.push(change);
                }
            }
            Err(reason) => self.outcome.unverifiable.push(b"", reason),
        }
        Ok(())
    }

    fn observe(&mut self, pinned: &Pinned) -> Result<(Observed, Statx), Unread> {
        let (mut observed, stat) =
            self.observer
                .observe(pinned, Depth::Whole, self.lower.prefix, self.pass.is_over)?;
        let means = meaning(
            &observed.entry.node,
            &observed.overlay_xattrs,
            self.lower.prefix,
        );
        match means {
            Meaning::Whiteout => observed.entry.node = Node::Whiteout,
            Meaning::Opaque => observed.entry.node = Node::Directory { opaque: true },
            Meaning::Ordinary | Meaning::Redirected => {}
        }
        Ok((observed, stat))
    }

    fn look(
        &mut self,
        path: &[u8],
        expected: Option<&Entry>,
        pinned: &Pinned,
    ) -> Result<(), Unread> {
        let (observed, stat) = self.observe(pinned)?;
        let actual = &observed.entry;
        if let Some(change) = self.planted(path, expected, &observed) {
            self.push(change);
        } else if let Some(kind) = compare_in_layer(path, expected, Some(actual)) {
            self.push(judge_in_layer(path, kind, expected, Some(actual)));
        } else if let Some(note) = self.broken_link(path, expected, &stat) {
            let mut change = judge_in_layer(path, ChangeKind::Metadata, expected, Some(actual));
            change.note = Some(note);
            self.push(change);
        }
        Ok(())
    }

    /// The change of an entry that has an attribute which the kernel may follow.
    fn planted(
        &self,
        path: &[u8],
        expected: Option<&Entry>,
        observed: &Observed,
    ) -> Option<Change> {
        let (node, xattrs) = (&observed.entry.node, &observed.overlay_xattrs);
        let name = planted(node, xattrs, self.lower.prefix)?;
        let actual = Some(&observed.entry);
        let mut change = judge_in_layer(path, ChangeKind::Redirected, expected, actual);
        change.note = Some(format!("attribute {} planted", display::escape(name)));
        Some(change)
    }

    /// Whether a hard link has become a file of its own: then a later write to one is not seen in the other.
    fn broken_link(
        &mut self,
        path: &[u8],
        expected: Option<&Entry>,
        stat: &Statx,
    ) -> Option<String> {
        let first = expected?.hard_link.as_ref();
        let Some(first) = first else {
            if stat.stx_nlink > 1 && self.linked.len() < MAX_LINKED {
                self.linked.insert(path.to_vec(), stat.stx_ino);
            }
            return None;
        };
        // The first comes later in the walk or has no second name any more.
        let is_linked = match self.linked.get(first) {
            Some(inode) => *inode == stat.stx_ino,
            None => stat.stx_nlink > 1,
        };
        let shown = display::path(first);
        (!is_linked).then(|| format!("no longer a hard link to {shown}"))
    }

    fn push(&mut self, change: Change) {
        self.outcome.changes.push_of_layer(change);
    }
}
