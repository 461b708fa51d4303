//! The whole compare of one unpacked layer with its own expected tree: content, metadata, links, devices,
//! whiteouts, opaque directories, what is missing, what is extra, and what was planted for the kernel to
//! follow. Nothing writes there after the unpacking, so any difference is tampering, or what a power cut does.
//!
//! In one go for a person who waits; for a scrub in parts, in the order of paths, so that it can pause for
//! hours without holding anything open and go on behind the last path after a restart. It never decides how
//! long to pause.
//!
//! Long because both ways are one visitor.

use std::collections::{BTreeSet, HashMap};

use holdfast_core::display;
use holdfast_core::drift::class::judge_in_layer;
use holdfast_core::drift::compare::compare_in_layer;
use holdfast_core::drift::corrupt::{Stopped, of_power_cut};
use holdfast_core::drift::{Change, ChangeKind};
use holdfast_core::layer::{Entry, ExpectedTree, Node, Snapshotter};
use holdfast_core::overlay::{Meaning, XattrPrefix, meaning, planted};
use rustix::fs::{FileType, Statx, StatxFlags};

use super::expected::{Expected, UnreadPlaces};
use super::observe::{Depth, Observed};
use super::open::{self, Pinned, file_type};
use super::walk::{At, Buffers, Next, Reached, Visitor, walk_behind};
use super::{Observer, Pass, Root, ScanError, ScanOutcome, Unread};

/// Groups of hard links that are compared; images have some hundreds.
const MAX_LINKED: usize = 100_000;

/// Files that one part of a compare in parts hashes, and bytes, before it lets everything go.
const PART_ENTRIES: u64 = 4_096;
const PART_BYTES: u64 = 16 << 20;

/// One unpacked layer.
#[derive(Clone, Copy, Debug)]
pub struct Lower<'a> {
    /// The snapshot's directory.
    pub root: &'a Root,
    /// What must be there.
    pub tree: &'a ExpectedTree,
    /// Which attributes the mounts over it believe.
    pub prefix: XattrPrefix,
    /// How the node has gone down since all of it was last seen right.
    pub stopped: Stopped,
}

/// A file that was hashed and is as expected: which inode it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Where, relative to the layer's root.
    pub path: Vec<u8>,
    /// Its number.
    pub inode: u64,
    /// When it was made, where the file system says so.
    pub born: Option<(i64, u32)>,
}

/// A compare in parts between two of them. Nothing is open then.
#[derive(Debug, Default)]
pub struct SoFar {
    /// The last entry that was looked at; empty at the beginning.
    pub after: Vec<u8>,
    /// Files that were looked at before the walk.
    pub looked_at: BTreeSet<Vec<u8>>,
    /// What was found.
    pub outcome: ScanOutcome,
    linked: HashMap<Vec<u8>, u64>,
    unread: UnreadPlaces,
    is_given_up: bool,
    is_begun: bool,
}

impl SoFar {
    /// A compare that an earlier run of the agent had begun and that found nothing up to here.
    pub fn resumed(after: Vec<u8>, entries: u64) -> Self {
        let outcome = ScanOutcome {
            entries,
            ..ScanOutcome::default()
        };
        Self {
            after,
            outcome,
            ..Self::default()
        }
    }

    /// Whether nothing was found.
    pub fn is_clean(&self) -> bool {
        let outcome = &self.outcome;
        outcome.changes.is_empty() && outcome.corrupt.is_empty() && outcome.unverifiable.is_empty()
    }
}

/// How one part has ended.
#[derive(Debug)]
pub enum Part {
    /// There is more to compare.
    More(Box<SoFar>),
    /// That was the last one.
    Last(Box<ScanOutcome>),
    /// There was no time.
    GivenUp,
}

/// Compares the whole directory once, in one go; every file is hashed.
pub fn compare(
    lower: Lower<'_>,
    observer: &mut Observer,
    pass: Pass<'_>,
) -> Result<ScanOutcome, ScanError> {
    let mut visit = Visit::new(lower, observer, pass, SoFar::default());
    visit.portion = Portion::Unbounded;
    visit.root()?;
    visit.walk_on(b"")?;
    visit.finish()
}

/// Compares one part of it, and gives the regular files that were hashed.
pub fn compare_part(
    lower: Lower<'_>,
    observer: &mut Observer,
    pass: Pass<'_>,
    so_far: SoFar,
) -> Result<(Part, Vec<Hashed>), ScanError> {
    let is_begun = so_far.is_begun;
    let mut visit = Visit::new(lower, observer, pass, so_far);
    if !is_begun {
        visit.root()?;
    }
    // What comes before is neither there nor missing: it was looked at.
    let after = visit.position.clone();
    visit
        .expected
        .up_to(&after, |_, _| Ok::<(), ScanError>(()))?;
    let reached = visit.walk_on(&after)?;
    let hashed = std::mem::take(&mut visit.hashed);
    let part = match reached {
        Reached::Enough => Part::More(Box::new(visit.pause())),
        Reached::End if visit.is_out_of_time => {
            drop(visit.pause());
            Part::GivenUp
        }
        Reached::End => Part::Last(Box::new(visit.finish()?)),
    };
    Ok((part, hashed))
}

/// Looks at some files of a layer before the rest of it. What is not there is left to the walk.
pub fn look_first(
    lower: Lower<'_>,
    observer: &mut Observer,
    pass: Pass<'_>,
    paths: impl IntoIterator<Item = Vec<u8>>,
) -> Result<(SoFar, Vec<Hashed>), ScanError> {
    let mut visit = Visit::new(lower, observer, pass, SoFar::default());
    visit.portion = Portion::Single;
    for path in paths {
        if (pass.is_over)() {
            break;
        }
        let Ok(Some(pinned)) = lower.root.pin(&path) else {
            continue;
        };
        if pinned.file_type() != FileType::RegularFile || visit.looked_at.contains(&path) {
            continue;
        }
        let Some(expected) = lower.tree.lookup(&path)? else {
            continue;
        };
        if visit.look(&path, Some(&expected), &pinned).is_ok() {
            visit.looked_at.insert(path);
        }
    }
    let hashed = std::mem::take(&mut visit.hashed);
    let so_far = SoFar {
        is_begun: false,
        ..visit.pause()
    };
    Ok((so_far, hashed))
}

fn removed(path: &[u8], expected: &Entry) -> Change {
    judge_in_layer(path, ChangeKind::Removed, Some(expected), None)
}

/// How much of a walk is made at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Portion {
    /// None: single files are looked at, and hard links are left to the walk.
    Single,
    /// All of it.
    Unbounded,
    /// Entries and bytes since it began.
    Bounded { entries: u64, bytes: u64 },
}

struct Visit<'a> {
    lower: Lower<'a>,
    observer: &'a mut Observer,
    buffers: Buffers,
    pass: Pass<'a>,
    outcome: ScanOutcome,
    expected: Expected<'a>,
    /// The inodes of files that others are hard links to, by path.
    linked: HashMap<Vec<u8>, u64>,
    /// Regular files that were looked at before the walk.
    looked_at: BTreeSet<Vec<u8>>,
    hashed: Vec<Hashed>,
    position: Vec<u8>,
    portion: Portion,
    is_given_up: bool,
    is_out_of_time: bool,
}

impl<'a> Visit<'a> {
    fn new(lower: Lower<'a>, observer: &'a mut Observer, pass: Pass<'a>, so_far: SoFar) -> Self {
        observer.bytes_hashed = 0;
        let buffers = std::mem::take(&mut observer.walk);
        let rest = Expected::new(Box::new(lower.tree.starting_at(&so_far.after)));
        Self {
            lower,
            observer,
            buffers,
            pass,
            outcome: so_far.outcome,
            expected: rest.knowing(so_far.unread),
            linked: so_far.linked,
            looked_at: so_far.looked_at,
            hashed: Vec::new(),
            position: so_far.after,
            portion: Portion::Bounded {
                entries: 0,
                bytes: 0,
            },
            is_given_up: so_far.is_given_up,
            is_out_of_time: false,
        }
    }

    /// One part of the walk.
    fn walk_on(&mut self, after: &[u8]) -> Result<Reached, ScanError> {
        if let Portion::Bounded { entries, bytes } = &mut self.portion {
            (*entries, *bytes) = (0, self.observer.bytes_hashed);
        }
        let left = self.pass.max_entries.saturating_sub(self.outcome.entries);
        let pass = Pass {
            max_entries: left,
            ..self.pass
        };
        let mut buffers = std::mem::take(&mut self.buffers);
        let walked = walk_behind(self.lower.root, after, &mut buffers, pass, self);
        self.buffers = buffers;
        let (entries, reached) = walked?;
        self.outcome.entries = self.outcome.entries.saturating_add(entries);
        Ok(reached)
    }

    /// Ends this part.
    fn pause(self) -> SoFar {
        let hashed = self.observer.bytes_hashed;
        self.observer.walk = self.buffers;
        let mut outcome = self.outcome;
        outcome.bytes_hashed = outcome.bytes_hashed.saturating_add(hashed);
        SoFar {
            after: self.position,
            looked_at: self.looked_at,
            outcome,
            linked: self.linked,
            unread: self.expected.into_unread(),
            is_given_up: self.is_given_up,
            is_begun: true,
        }
    }

    /// What the walk has not met is missing.
    fn finish(self) -> Result<ScanOutcome, ScanError> {
        let Self {
            mut outcome,
            observer,
            buffers,
            expected,
            is_given_up,
            ..
        } = self;
        observer.walk = buffers;
        if !is_given_up {
            let changes = &mut outcome.changes;
            expected.finish(|path, entry| {
                changes.push_of_layer(removed(&path, &entry));
                Ok::<(), ScanError>(())
            })?;
        }
        Ok(ScanOutcome {
            changes: outcome.changes.finished(),
            corrupt: outcome.corrupt.finished(),
            bytes_hashed: outcome.bytes_hashed.saturating_add(observer.bytes_hashed),
            ..outcome
        })
    }
}

impl Visitor for Visit<'_> {
    type Error = ScanError;

    fn visit(&mut self, at: &At<'_>) -> Result<Next, ScanError> {
        if at.path == self.position {
            return Ok(self.visit_again(at));
        }
        let changes = &mut self.outcome.changes;
        let expected = self.expected.up_to(at.path, |path, entry| {
            changes.push_of_layer(removed(&path, &entry));
            Ok::<(), ScanError>(())
        })?;
        at.path.clone_into(&mut self.position);
        if let Portion::Bounded { entries, .. } = &mut self.portion {
            *entries = entries.saturating_add(1);
        }
        if self.looked_at.contains(at.path) {
            self.compare_links(at.path, expected.as_ref(), at.stat);
            return Ok(Next::Past);
        }
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
        self.is_out_of_time |= reason == Unread::Deadline;
        if matches!(reason, Unread::Deadline | Unread::Entries) || path.is_empty() {
            self.is_given_up = true;
        }
        self.expected.unread(path);
        self.outcome.unverifiable.push(path, reason);
    }

    fn is_enough(&self) -> bool {
        match self.portion {
            Portion::Single | Portion::Unbounded => false,
            Portion::Bounded { entries, bytes } => {
                let read = self.observer.bytes_hashed.saturating_sub(bytes);
                entries >= PART_ENTRIES || (entries > 0 && read >= PART_BYTES)
            }
        }
    }
}

impl Visit<'_> {
    /// A directory that has become something else when it was to be opened, and was looked at before.
    fn visit_again(&mut self, at: &At<'_>) -> Next {
        if file_type(at.stat) == FileType::Directory {
            return Next::Below;
        }
        self.outcome.unverifiable.push(at.path, Unread::Changing);
        Next::Past
    }

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
        // On `native` the kernel stacks nothing: a device is a device, and nothing is opaque.
        if self.lower.tree.snapshotter() == Snapshotter::Native {
            return Ok((observed, stat));
        }
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
        } else if self.portion != Portion::Unbounded && pinned.file_type() == FileType::RegularFile
        {
            // A file put in the place of another is a change of the layer, and a container that still has
            // the old one open or cached would see that: it is no other layer.
            self.hashed.push(Hashed::of(path, &stat));
        }
        Ok(())
    }

    /// What is left to be compared of a file that was looked at before the walk.
    fn compare_links(&mut self, path: &[u8], expected: Option<&Entry>, stat: &Statx) {
        if let Some(note) = self.broken_link(path, expected, stat) {
            let mut change = judge_in_layer(path, ChangeKind::Metadata, expected, expected);
            change.note = Some(note);
            self.push(change);
        }
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
        if self.portion == Portion::Single {
            return None;
        }
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
        match of_power_cut(&change, self.lower.stopped) {
            Some(corrupt) => self.outcome.corrupt.push_of_layer(corrupt),
            None => self.outcome.changes.push_of_layer(change),
        }
    }
}

impl Hashed {
    fn of(path: &[u8], stat: &Statx) -> Self {
        let is_known = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            path: path.to_vec(),
            inode: stat.stx_ino,
            born: is_known.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        }
    }
}
