//! What a scan remembers of the last one, so that an entry that did not change costs one look-up: which
//! state each path had when it was last judged, and what it was judged to be. Compact and bounded: a
//! container decides how many entries there are.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

use holdfast_core::drift::Change;
use holdfast_core::overlay::Meaning;
use jiff::Timestamp;
use rustix::fs::{FileType, Statx};

use super::new::{Before, New};
use super::open::file_type;

/// Entries remembered; others are looked at anew each time. About 70 MiB at most.
const MAX_KNOWN: usize = 900_000;

/// Changes remembered as a whole. Those of files that the image does not have take a tenth, and are not
/// among them.
const MAX_CHANGES: usize = 20_000;

/// A file whose state did not change is hashed again after this: a store through a mapping changes no
/// timestamp.
const REHASH_SECONDS: u64 = 600;

/// Timestamps of files stand still for up to a tick of the kernel's clock: a file that changed this shortly
/// before it was read may have changed after it too, with the same time.
const CLOCK_TICK_NANOSECONDS: i128 = 50_000_000;

/// What was found at a path last time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    /// The hash of its state.
    state: u64,
    /// Seconds since the first scan.
    checked_at: u32,
    /// Whether its state may lie; see [`CLOCK_TICK_NANOSECONDS`].
    is_racy: bool,
    /// What is kept of its changes.
    kept: Kept,
    /// What it means to overlay.
    pub(super) meaning: Meaning,
    /// Which scan saw it last; wraps.
    scan: u8,
}

/// Where the changes of one path are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// There are none.
    Nothing,
    /// One, in the list of new files.
    New(u32),
    /// By the path.
    Listed,
}

impl Kept {
    const fn place(self) -> Option<u32> {
        match self {
            Self::New(at) => Some(at),
            Self::Nothing | Self::Listed => None,
        }
    }
}

/// Where a path and its state are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    path: u64,
    state: u64,
    /// Whether content can change without the state: directories and links have none.
    has_content: bool,
}

/// A path whose key is random already need not be hashed again.
#[derive(Default)]
pub(super) struct Keyed(u64);

impl Hasher for Keyed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        // Keys are u64 alone.
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type ByPath<V> = HashMap<u64, V, BuildHasherDefault<Keyed>>;

/// The memory of one container's scans.
#[derive(Debug)]
pub(super) struct Known {
    /// Random for each container: nobody outside can make two paths collide.
    secret: RandomState,
    judged: ByPath<Judged>,
    changes: ByPath<Vec<Change>>,
    new: Vec<New>,
    /// Places in `new` whose files are another by now, or gone.
    free: Vec<u32>,
    first_scan: Option<Timestamp>,
    now: Timestamp,
    seconds: u32,
    scan: u8,
    seen: usize,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            secret: RandomState::new(),
            judged: HashMap::default(),
            changes: HashMap::default(),
            new: Vec::new(),
            free: Vec::new(),
            first_scan: None,
            now: Timestamp::UNIX_EPOCH,
            seconds: 0,
            scan: 0,
            seen: 0,
        }
    }
}

impl Known {
    /// Begins a scan.
    pub(super) fn begin(&mut self, now: Timestamp) {
        let first = *self.first_scan.get_or_insert(now);
        self.now = now;
        self.seconds =
            u32::try_from(now.as_second().saturating_sub(first.as_second())).unwrap_or(0);
        self.scan = self.scan.wrapping_add(1);
        self.seen = 0;
    }

    /// Ends a scan: forgets what is no longer there, when that is a good part.
    pub(super) fn end(&mut self) {
        let scan = self.scan;
        let (judged, free) = (&mut self.judged, &mut self.free);
        if judged.len() > self.seen.saturating_add(self.seen / 4).saturating_add(64) {
            judged.retain(|_, known| {
                let is_there = known.scan == scan;
                free.extend(known.kept.place().filter(|_| !is_there));
                is_there
            });
        }
        self.changes.retain(|path, _| {
            judged
                .get(path)
                .is_some_and(|known| known.scan == scan && known.kept == Kept::Listed)
        });
    }

    /// The key of a path with its state. `context` is what else a judgement depends on.
    pub(super) fn key(&self, path: &[u8], stat: &Statx, context: u8) -> Key {
        let time = |stamp: rustix::fs::StatxTimestamp| (stamp.tv_sec, stamp.tv_nsec);
        let state = self.secret.hash_one((
            (stat.stx_ino, stat.stx_size, stat.stx_mode, context),
            (stat.stx_uid, stat.stx_gid),
            (stat.stx_rdev_major, stat.stx_rdev_minor),
            (stat.stx_dev_major, stat.stx_dev_minor),
            (time(stat.stx_mtime), time(stat.stx_ctime)),
        ));
        Key {
            path: self.secret.hash_one(path),
            state,
            has_content: file_type(stat) == FileType::RegularFile,
        }
    }

    /// What the path was judged to be, when its state is the same and it is not due.
    pub(super) fn judged(&mut self, key: Key) -> Option<(Judged, Before<'_>)> {
        let known = self.judged.get_mut(&key.path)?;
        let is_due =
            known.is_racy || (key.has_content && is_due(key.path, known.checked_at, self.seconds));
        if known.state != key.state || is_due {
            return None;
        }
        known.scan = self.scan;
        self.seen = self.seen.saturating_add(1);
        let before = match known.kept {
            Kept::Nothing => Before::Listed(&[]),
            Kept::New(at) => Before::New(*self.new.get(usize::try_from(at).ok()?)?),
            Kept::Listed => Before::Listed(self.changes.get(&key.path)?),
        };
        Some((*known, before))
    }

    /// Remembers a judgement about the state in `key`.
    pub(super) fn remember(
        &mut self,
        key: Key,
        stat: &Statx,
        meaning: Meaning,
        changes: &[Change],
    ) {
        let before = self.judged.remove(&key.path);
        self.free
            .extend(before.and_then(|judged| judged.kept.place()));
        self.changes.remove(&key.path);
        if self.judged.len() >= MAX_KNOWN {
            return;
        }
        let Some(kept) = self.keep(key, changes) else {
            return;
        };
        let judged = Judged {
            state: key.state,
            checked_at: self.seconds,
            is_racy: self.is_racy(stat),
            kept,
            meaning,
            scan: self.scan,
        };
        self.seen = self.seen.saturating_add(1);
        self.judged.insert(key.path, judged);
    }

    /// Keeps the changes of a path; `None` when there is no room for them.
    fn keep(&mut self, key: Key, changes: &[Change]) -> Option<Kept> {
        if changes.is_empty() {
            return Some(Kept::Nothing);
        }
        let Some(new) = New::of(changes) else {
            let has_room = self.changes.len() < MAX_CHANGES;
            return has_room.then(|| {
                self.changes.insert(key.path, changes.to_vec());
                Kept::Listed
            });
        };
        let at = match self.free.pop() {
            Some(at) => at,
            None => u32::try_from(self.new.len()).ok()?,
        };
        match self.new.get_mut(usize::try_from(at).ok()?) {
            Some(place) => *place = new,
            None => self.new.push(new),
        }
        Some(Kept::New(at))
    }

    /// Whether a change after this look could leave the file with the state that it has now.
    fn is_racy(&self, stat: &Statx) -> bool {
        let changed = i128::from(stat.stx_ctime.tv_sec)
            .saturating_mul(1_000_000_000)
            .saturating_add(stat.stx_ctime.tv_nsec.into());
        changed.saturating_add(CLOCK_TICK_NANOSECONDS) > self.now.as_nanosecond()
    }
}

/// Each path has its own second in every ten minutes, so that the work spreads over the scans.
fn is_due(path: u64, checked_at: u32, now: u32) -> bool {
    let offset = path % REHASH_SECONDS;
    let turn = |seconds: u32| u64::from(seconds).saturating_add(offset) / REHASH_SECONDS;
    turn(now) != turn(checked_at)
}
