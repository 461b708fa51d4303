//! The scan of a container's upper directory: what it changed of its image. It walks the upper directory
//! alone, so its cost grows with the drift and not with the image, and it reads what it finds there as the
//! kernel's overlay does. Where a snapshotter gives each container a whole root of its own, that is scanned
//! as if all of it were opaque: nothing shows through, what the walk does not meet is gone, and nothing in it
//! has a meaning to overlay.
//!
//! An entry whose state is as at the last scan costs one look-up in `known.rs`; all else is observed, compared
//! with the expected tree and judged by content. What whiteouts, opaque directories and files in place of
//! directories hide is counted as removed. Long because the questions about one entry, and
//! their order, are one story.

use std::sync::Arc;

use holdfast_core::drift::class::{
    classify, is_harmless_unless_it_runs, is_volatile_unless_it_runs, judge,
};
use holdfast_core::drift::compare::compare;
use holdfast_core::drift::policy::Rules;
use holdfast_core::drift::{Change, ChangeKind, Class};
use holdfast_core::finding::Severity;
use holdfast_core::layer::{Entry, MergedTree, Node, TreeError};
use holdfast_core::overlay::{Meaning, Stubs, XattrPrefix, meaning};
use rustix::fs::{FileType, Statx};

use super::hidden::{Hidden, removed};
use super::known::{Key, Known};
use super::observe::{Depth, Observed};
use super::open::{self, Pinned, file_type};
use super::origin::Origins;
use super::walk::{At, Next, Visitor, walk};
use super::{
    Keeps, Observer, Pass, Rehash, Root, ScanError, ScanOutcome, Unread, bytecode, follow, genuine,
};

/// Changes of one path that are remembered; a whiteout over a large directory is worked out each time.
const MAX_REMEMBERED: usize = 16;

/// How much of a container's root is in the directory that is scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What the container changed; the rest shows through from the layers.
    Changes,
    /// All of it.
    Whole,
}

/// One container's upper directory and what it lies on.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// The upper directory.
    pub root: &'a Root,
    /// How much of the container's root is in it.
    pub extent: Extent,
    /// What the image shows.
    pub tree: &'a MergedTree,
    /// The unpacked layers, top layer first: only account files are read there, and believed by digest.
    pub lowers: &'a [Root],
    /// What the runtime makes for its mounts.
    pub stubs: &'a Stubs,
    /// Which attributes the mount believes.
    pub prefix: XattrPrefix,
}

impl Upper<'_> {
    /// What an entry of the directory means to overlay.
    pub(super) fn meaning(&self, observed: &Observed) -> Meaning {
        match self.extent {
            Extent::Changes => {
                let (node, xattrs) = (&observed.entry.node, &observed.overlay_xattrs);
                meaning(node, xattrs, self.prefix)
            }
            Extent::Whole => Meaning::Ordinary,
        }
    }
}

/// The scans of one container, with what they remember. A new one for another tree or directory.
#[derive(Debug, Default)]
pub struct UpperScan {
    keeps: Keeps,
    known: Known,
    origins: Origins,
    rules: Arc<Rules>,
}

impl UpperScan {
    /// Scans that keep these changes.
    pub fn keeping(keeps: Keeps) -> Self {
        Self {
            keeps,
            ..Self::default()
        }
    }

    /// From now on these policies decide what is worth a finding. What was judged before is judged again when
    /// they could want to see more of it; else only what they say of it is new.
    pub fn rule_by(&mut self, rules: &Arc<Rules>) {
        if Arc::ptr_eq(&self.rules, rules) {
            return;
        }
        if !rules.sees_as_much_as(&self.rules) {
            self.known = Known::default();
        }
        self.rules = Arc::clone(rules);
    }

    /// Scans once.
    pub fn scan(
        &mut self,
        upper: &Upper<'_>,
        observer: &mut Observer,
        pass: Pass<'_>,
    ) -> Result<ScanOutcome, ScanError> {
        self.known.begin(pass.now);
        observer.bytes_hashed = 0;
        let hidden = match upper.extent {
            Extent::Changes => None,
            Extent::Whole => Some(Hidden::below(upper.tree, b"")?),
        };
        let mut buffers = std::mem::take(&mut observer.walk);
        let mut visit = Visit {
            upper,
            observer,
            pass,
            known: &mut self.known,
            outcome: ScanOutcome {
                changes: self
                    .keeps
                    .changes()
                    .ruled_by(Arc::clone(&self.rules), pass.now),
                ..ScanOutcome::default()
            },
            rules: &self.rules,
            origins: &mut self.origins,
            hidden,
            is_given_up: false,
        };
        visit.root();
        let walked = walk(upper.root, &mut buffers, pass, &mut visit);
        let finished = walked.and_then(|entries| {
            visit.outcome.entries = entries;
            visit.leave_hidden()
        });
        let Visit {
            outcome,
            observer,
            known,
            origins,
            ..
        } = visit;
        observer.walk = buffers;
        origins.end();
        finished?;
        known.end();
        Ok(ScanOutcome {
            changes: outcome.changes.finished(),
            bytes_hashed: observer.bytes_hashed,
            ..outcome
        })
    }
}

struct Visit<'a> {
    upper: &'a Upper<'a>,
    observer: &'a mut Observer,
    pass: Pass<'a>,
    known: &'a mut Known,
    origins: &'a mut Origins,
    rules: &'a Rules,
    outcome: ScanOutcome,
    /// The opaque directory that is being walked, and what the image has below it.
    hidden: Option<Hidden<'a>>,
    is_given_up: bool,
}

/// What a look at one entry gave.
struct Found {
    changes: Vec<Change>,
    meaning: Meaning,
    /// Whether too much would have to be remembered.
    is_large: bool,
}

impl Found {
    const fn of(meaning: Meaning) -> Self {
        Self {
            changes: Vec::new(),
            meaning,
            is_large: false,
        }
    }
}

enum Failure {
    Unread(Unread),
    Tree(TreeError),
}

impl From<Unread> for Failure {
    fn from(reason: Unread) -> Self {
        Self::Unread(reason)
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        Self::Tree(error)
    }
}

impl Visitor for Visit<'_> {
    type Error = ScanError;

    fn visit(&mut self, at: &At<'_>) -> Result<Next, ScanError> {
        self.leave_hidden_before(at.path)?;
        let key = self.known.key(at.path, at.stat, self.context());
        let mut meaning = None;
        if self.pass.rehash == Rehash::Due
            && let Some((judged, before)) = self.known.judged(key)
        {
            meaning = Some(judged.meaning);
            let changes = &mut self.outcome.changes;
            before.each(at.path, at.stat, |change| changes.push(change));
        }
        let meaning = match meaning {
            Some(meaning) => meaning,
            None => self.look_anew(at)?,
        };
        self.account_for_hidden(at.path, meaning)?;
        if file_type(at.stat) != FileType::Directory {
            return Ok(Next::Past);
        }
        if meaning == Meaning::Opaque && self.hidden.is_none() {
            self.hidden = Some(Hidden::below(self.upper.tree, at.path)?);
        }
        Ok(Next::Below)
    }

    fn unread(&mut self, path: &[u8], reason: Unread) {
        if matches!(reason, Unread::Deadline | Unread::Entries) || path.is_empty() {
            self.is_given_up = true;
        }
        if let Some(hidden) = &mut self.hidden {
            hidden.unread(path);
        }
        self.outcome.unverifiable.push(path, reason);
    }
}

impl Visit<'_> {
    /// The root's metadata belongs to the runtime; a redirect planted on it belongs to nobody.
    fn root(&mut self) {
        // If it cannot be looked at, the walk will not get in either, and says so.
        let Ok(Some(pinned)) = self.upper.root.pin(b"") else {
            return;
        };
        if let Ok((observed, _)) = self.observe(&pinned, Depth::Whole)
            && self.upper.meaning(&observed) == Meaning::Redirected
        {
            let actual = Some(&observed.entry);
            if let Some(change) = judge(b"", ChangeKind::Redirected, None, actual, &[]) {
                self.outcome.changes.push(change);
            }
        }
    }

    /// What a judgement depends on besides the entry: its directory may be made opaque from the host
    /// without the entry changing.
    fn context(&self) -> u8 {
        u8::from(self.hidden.is_some())
    }

    /// Observes and judges an entry, and remembers it.
    fn look_anew(&mut self, at: &At<'_>) -> Result<Meaning, ScanError> {
        let pinned = match open::pin(at.directory, at.name.to_bytes()) {
            Ok(Some(pinned)) => pinned,
            Ok(None) => return Ok(Meaning::Ordinary), // gone since its name was read
            Err(reason) => {
                self.unread(at.path, reason);
                return Ok(Meaning::Ordinary);
            }
        };
        match self.look(at, &pinned) {
            Ok((found, stat)) => {
                let key = self.known.key(at.path, &stat, self.context());
                self.remember(key, &stat, &found);
                for change in found.changes {
                    self.outcome.changes.push(change);
                }
                Ok(found.meaning)
            }
            Err(Failure::Unread(reason)) => {
                self.cannot_read(at, &pinned, reason)?;
                Ok(Meaning::Ordinary)
            }
            Err(Failure::Tree(error)) => Err(error.into()),
        }
    }

    /// An entry could not be read: at least a warning, and as bad as it would be had it been read and found
    /// to be another, since whoever writes to it decides whether it can be. Services write to volatile
    /// places all the time; there, only what runs counts.
    fn cannot_read(
        &mut self,
        at: &At<'_>,
        pinned: &Pinned,
        reason: Unread,
    ) -> Result<(), TreeError> {
        let is_own_doing = matches!(
            reason,
            Unread::Changing | Unread::Leased | Unread::Postponed
        );
        if !is_own_doing || pinned.file_type() != FileType::RegularFile {
            self.unread(at.path, reason);
            return Ok(());
        }
        if let Some(hidden) = &mut self.hidden {
            hidden.unread(at.path);
        }
        let expected = self.upper.tree.lookup(at.path)?.map(|(_, entry)| entry);
        let kind = match expected {
            Some(_) => ChangeKind::Modified,
            None => ChangeKind::Added,
        };
        let head = self.observe(pinned, Depth::Head);
        let is_harmless_log = head.is_ok() && reason != Unread::Leased;
        let actual = head.map_or_else(|_| pinned.unread_entry(), |(observed, _)| observed.entry);
        let judged = judge(at.path, kind, expected.as_ref(), Some(&actual), &[]);
        let severity = judged.and_then(|change| self.outcome.changes.severity_of(&change));
        if severity.is_some() || !is_harmless_log || self.outcome.changes.lists_every() {
            // Much data is no reason to wake anybody: it waits its turn.
            let least = if reason == Unread::Postponed {
                Severity::Info
            } else {
                Severity::Warning
            };
            let severity = severity.unwrap_or(Severity::Warning).max(least);
            self.outcome.unverifiable.push_at(at.path, reason, severity);
        }
        Ok(())
    }

    fn remember(&mut self, key: Key, stat: &Statx, found: &Found) {
        if !found.is_large && found.changes.len() <= MAX_REMEMBERED {
            self.known
                .remember(key, stat, found.meaning, &found.changes);
        }
    }

    fn look(&mut self, at: &At<'_>, pinned: &Pinned) -> Result<(Found, Statx), Failure> {
        let path = at.path;
        let expected = self.upper.tree.lookup(path)?.map(|(_, entry)| entry);
        if let Some(stat) = self.is_harmless(at, expected.as_ref(), pinned)? {
            return Ok((Found::of(Meaning::Ordinary), stat));
        }
        if pinned.file_type() == FileType::RegularFile
            && pinned.stat.stx_size > 0
            && self.observer.bytes_hashed >= self.pass.budget
        {
            return Err(Unread::Postponed.into());
        }
        let (observed, stat) = self.observe(pinned, Depth::Whole)?;
        let meaning = self.upper.meaning(&observed);
        let mut found = Found::of(meaning);
        let actual = &observed.entry;
        match meaning {
            // What an opaque directory hides is counted as a whole.
            Meaning::Whiteout if self.hidden.is_some() => {}
            Meaning::Whiteout => self.remove(path, expected, &mut found)?,
            Meaning::Redirected => found.changes.extend(judge(
                path,
                ChangeKind::Redirected,
                expected.as_ref(),
                Some(actual),
                &[],
            )),
            Meaning::Ordinary | Meaning::Opaque => {
                let change = self.compare(path, expected.as_ref(), actual, pinned)?;
                found.changes.extend(change);
                let hides = expected.is_some_and(|expected| expected.node.is_directory())
                    && !actual.node.is_directory();
                if hides && self.hidden.is_none() {
                    self.remove_below(path, &mut found)?;
                }
            }
        }
        Ok((found, stat))
    }

    fn observe(&mut self, pinned: &Pinned, depth: Depth) -> Result<(Observed, Statx), Unread> {
        self.observer
            .observe(pinned, depth, self.upper.prefix, self.pass.is_over)
    }

    /// Whether a file in a volatile place is one that can do nothing, by its first bytes: then its content is
    /// not hashed, however long the log and however fast it grows.
    fn is_harmless(
        &mut self,
        at: &At<'_>,
        expected: Option<&Entry>,
        pinned: &Pinned,
    ) -> Result<Option<Statx>, Unread> {
        // What a policy calls volatile is so to it alone: neither by its path nor by what the image has there
        // may it be more than data.
        let by_policy = !is_volatile_unless_it_runs(at.path);
        let is_volatile = if by_policy {
            is_harmless_unless_it_runs(at.path) && self.rules.is_volatile(at.path)
        } else {
            true
        };
        let is_harmless_class = |class| match class {
            Class::Volatile => true,
            Class::Configuration | Class::Data => by_policy,
            Class::DeviceNode | Class::TrustAnchor | Class::Program | Class::BytecodeCache => false,
        };
        let may_be = !self.outcome.changes.lists_every()
            && pinned.file_type() == FileType::RegularFile
            && pinned.stat.stx_size > 0
            && is_volatile
            && !self.rules.may_raise_volatile(at.path)
            // What took the place of a link or a directory is looked at: that hides what was there.
            && expected.is_none_or(|expected| {
                matches!(expected.node, Node::File { .. })
                    && is_harmless_class(classify(at.path, expected))
            });
        if !may_be {
            return Ok(None);
        }
        let (observed, stat) = self.observe(pinned, Depth::Head)?;
        let actual = Some(&observed.entry);
        let judged = judge(at.path, ChangeKind::Added, None, actual, &[]);
        let is_harmless = self.upper.meaning(&observed) == Meaning::Ordinary
            && judged
                .as_ref()
                .is_none_or(|change| !change.privileged && is_harmless_class(change.class));
        if let Some(change) = judged.filter(|_| is_harmless) {
            self.outcome.changes.pass_over_by_policy(change.class);
        }
        Ok(is_harmless.then_some(stat))
    }

    /// What happened at a path where something is.
    fn compare(
        &mut self,
        path: &[u8],
        expected: Option<&Entry>,
        actual: &Entry,
        pinned: &Pinned,
    ) -> Result<Option<Change>, Failure> {
        let Some(kind) = compare(path, expected, Some(actual)) else {
            return Ok(None);
        };
        if expected.is_none() && self.upper.stubs.is_stub(path, actual) {
            return Ok(None);
        }
        let mut lent = Vec::new();
        if let Some(expected) = expected {
            lent.extend(self.class_before(path, kind, expected)?);
        }
        if matches!(actual.node, Node::Symlink { .. }) && kind != ChangeKind::Metadata {
            let Self {
                upper,
                observer,
                pass,
                ..
            } = self;
            lent.extend(follow::class_after(upper, observer, *pass, path, actual)?);
        }
        let Some(mut change) = judge(path, kind, expected, Some(actual), &lent) else {
            return Ok(self.pass_over(path, kind, expected, Some(actual)));
        };
        genuine::opine(self.upper, pinned, &mut change)?;
        bytecode::opine(self.upper, pinned, &mut change)?;
        self.origins.opine(self.upper.tree, &mut change)?;
        Ok(Some(change))
    }

    /// What a link, or a directory that gave way to something else, lends to the change.
    fn class_before(
        &self,
        path: &[u8],
        kind: ChangeKind,
        expected: &Entry,
    ) -> Result<Option<Class>, TreeError> {
        match expected.node {
            Node::Symlink { .. } => follow::class_before(self.upper.tree, path, expected),
            Node::Directory { .. } if kind == ChangeKind::Modified => {
                follow::class_below(self.upper.tree, path)
            }
            _ => Ok(None),
        }
    }

    /// A whiteout: its path and everything below is gone.
    fn remove(
        &mut self,
        path: &[u8],
        expected: Option<Entry>,
        found: &mut Found,
    ) -> Result<(), Failure> {
        let Some(expected) = expected else {
            return Ok(()); // over nothing
        };
        match removed(self.upper.tree, path, &expected)? {
            Some(change) => found.changes.push(change),
            None => found.changes.extend(self.pass_over(
                path,
                ChangeKind::Removed,
                Some(&expected),
                None,
            )),
        }
        if expected.node.is_directory() {
            self.remove_below(path, found)?;
        }
        Ok(())
    }

    /// Everything that the image has below `path` is gone.
    fn remove_below(&mut self, path: &[u8], found: &mut Found) -> Result<(), Failure> {
        for below in self.upper.tree.below(path)? {
            let below = below?;
            // A whole image may be hidden: counting it is progress. Counting it in part would be a lie.
            (self.pass.is_over)();
            let (path, expected) = (&below.path, &below.entry);
            let change = removed(self.upper.tree, path, expected)?
                .or_else(|| self.pass_over(path, ChangeKind::Removed, Some(expected), None));
            let Some(change) = change else { continue };
            if found.changes.len() < MAX_REMEMBERED {
                found.changes.push(change);
            } else {
                found.is_large = true;
                self.outcome.changes.push(change);
            }
        }
        Ok(())
    }

    /// A difference that is not worth a finding, unless a policy says so: then it is remembered like others.
    fn pass_over(
        &mut self,
        path: &[u8],
        kind: ChangeKind,
        expected: Option<&Entry>,
        actual: Option<&Entry>,
    ) -> Option<Change> {
        if self.rules.may_raise_volatile(path) {
            return Some(Change::of_volatile(path, kind, expected, actual));
        }
        let changes = &mut self.outcome.changes;
        changes.pass_over(path, kind, expected, actual);
        None
    }

    /// An entry below an opaque directory puts its path back, unless it is a whiteout.
    fn account_for_hidden(&mut self, path: &[u8], meaning: Meaning) -> Result<(), ScanError> {
        let changes = &mut self.outcome.changes;
        match &mut self.hidden {
            None => Ok(()),
            Some(hidden) if meaning != Meaning::Whiteout => hidden.put_back(path, changes),
            Some(hidden) => hidden.keep_removed(path, changes),
        }
    }

    fn leave_hidden_before(&mut self, path: &[u8]) -> Result<(), ScanError> {
        match &self.hidden {
            Some(hidden) if hidden.is_left_at(path) => self.leave_hidden(),
            _ => Ok(()),
        }
    }

    /// What an opaque directory hides and nobody put back is removed. Not after a walk that was given up:
    /// then nobody knows what would have come.
    fn leave_hidden(&mut self) -> Result<(), ScanError> {
        match self.hidden.take().filter(|_| !self.is_given_up) {
            Some(hidden) => hidden.leave(&mut self.outcome.changes),
            None => Ok(()),
        }
    }
}
