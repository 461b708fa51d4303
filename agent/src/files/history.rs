//! What is remembered of unpacked layers over restarts: when each was last seen right, and how far a compare
//! that takes hours has come.
//!
//! Only what was right is remembered. A compare that has found something is begun again after a restart, so
//! that no finding can be lost between two runs. A file that is damaged is set aside, and everything is
//! compared from its beginning.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_core::digest::Digest;
use holdfast_core::drift::corrupt::Stopped;
use holdfast_daemon::capped;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::atomic::write_beside;
use super::last_run::Run;
use super::layers::LayerKey;

/// Layers that are remembered; those that were seen longest ago are forgotten first.
const MAX_LAYERS: usize = 10_000;

/// A row has some hundred bytes, and at most one path of 4 KiB in hex.
const MAX_BYTES: u64 = 128 << 20;

/// The file, below the state folder.
const FILE: &str = "scrub.json";

/// Where a file goes that is not what was written.
const DAMAGED: &str = "scrub.damaged";

/// A layer at a time when all of it was right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRight {
    /// When the compare began that saw it.
    pub at: Timestamp,
    /// How often the node had gone down abruptly by then.
    abrupt: u64,
}

/// How far a compare has come that found nothing yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The last entry that was looked at, as hex.
    after: String,
    /// When it began.
    pub begun: Timestamp,
    /// Entries looked at.
    pub entries: u64,
    abrupt: u64,
}

impl Progress {
    /// The last entry that was looked at.
    pub fn after(&self) -> Option<Vec<u8>> {
        hex::decode(&self.after)
            .ok()
            .filter(|after| !after.is_empty())
    }
}

/// One layer. The key is chain ID and directory: another directory is another layer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    seen_right: Option<SeenRight>,
    /// The last compare has found something.
    is_wrong: bool,
    progress: Option<Progress>,
    used: Timestamp,
}

type Rows = BTreeMap<String, Row>;

/// Whether the next run of the agent would do something else without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// It must be made durable before it is told.
    Yes,
    /// It can wait.
    No,
}

/// What is remembered of all layers.
#[derive(Debug)]
pub struct History {
    path: PathBuf,
    abrupt: u64,
    rows: Mutex<Rows>,
}

impl History {
    /// What an earlier run has left below `state`.
    pub fn open(state: &Path, run: &Run) -> Self {
        let path = state.join(FILE);
        let rows = read(&path).unwrap_or_else(|| {
            set_aside(&path, &state.join(DAMAGED));
            Rows::new()
        });
        Self {
            path,
            abrupt: run.abrupt(),
            rows: Mutex::new(rows),
        }
    }

    /// The same for somebody who only reads, and leaves a damaged file to the agent.
    pub fn look(state: &Path, run: &Run) -> Self {
        let path = state.join(FILE);
        let rows = Mutex::new(read(&path).unwrap_or_default());
        let abrupt = run.abrupt();
        Self { path, abrupt, rows }
    }

    /// How the node has gone down since the layer was last seen right.
    pub fn stopped(&self, layer: &LayerKey) -> Stopped {
        match self.rows().get(&name(layer)).and_then(|row| row.seen_right) {
            Some(seen) if seen.abrupt < self.abrupt => Stopped::Abruptly,
            Some(_) | None => Stopped::InOrder,
        }
    }

    /// When the layer was last seen right, if it was not seen wrong since.
    pub fn right(&self, layer: &LayerKey) -> Option<Timestamp> {
        let rows = self.rows();
        let row = rows.get(&name(layer)).filter(|row| !row.is_wrong)?;
        row.seen_right.map(|seen| seen.at)
    }

    /// How far a compare had come that is not older than `limit`.
    pub fn progress(
        &self,
        layer: &LayerKey,
        now: Timestamp,
        limit: SignedDuration,
    ) -> Option<Progress> {
        let rows = self.rows();
        let progress = rows.get(&name(layer))?.progress.clone()?;
        let age = now.duration_since(progress.begun);
        (!age.is_negative() && age < limit).then_some(progress)
    }

    /// A compare has come so far and found nothing.
    pub fn reached(&self, layer: &LayerKey, after: &[u8], begun: Timestamp, entries: u64) {
        let abrupt = self.abrupt;
        self.change(layer, |row| {
            // What an earlier run looked at was right as of that run.
            let abrupt = row.progress.as_ref().map_or(abrupt, |before| before.abrupt);
            row.progress = Some(Progress {
                after: hex::encode(after),
                begun,
                entries,
                abrupt,
            });
        });
    }

    /// A compare has ended and found nothing; it began then.
    pub fn is_right(&self, layer: &LayerKey, begun: Timestamp) -> News {
        let abrupt = self.abrupt;
        self.change(layer, |row| {
            let progress = row.progress.take();
            let abrupt = progress.map_or(abrupt, |progress| progress.abrupt);
            let before = row.seen_right.replace(SeenRight { at: begun, abrupt });
            let was_wrong = std::mem::replace(&mut row.is_wrong, false);
            let is_known = before.is_some_and(|before| before.abrupt == abrupt);
            if was_wrong || !is_known {
                News::Yes
            } else {
                News::No
            }
        })
    }

    /// A compare has found something: what it has looked at is looked at again after a restart, and what
    /// earlier ones saw no longer stands.
    pub fn is_wrong(&self, layer: &LayerKey) -> News {
        self.change(layer, |row| {
            row.progress = None;
            if std::mem::replace(&mut row.is_wrong, true) {
                News::No
            } else {
                News::Yes
            }
        })
    }

    /// A compare begins at the beginning.
    pub fn begin(&self, layer: &LayerKey) {
        self.change(layer, |row| row.progress = None);
    }

    /// Makes it durable. A disk that is full costs us the memory, not the compare.
    pub fn save(&self) {
        let written = serde_json::to_vec(&*self.rows())
            .map_err(io::Error::other)
            .and_then(|rows| {
                write_beside(&self.path, |out| {
                    writeln!(out, "{}", Digest::of(&rows))?;
                    out.write_all(&rows)
                })
            });
        if let Err(error) = written {
            tracing::warn!(%error, "What is known of layers could not be kept.");
        }
    }

    fn change<T>(&self, layer: &LayerKey, change: impl FnOnce(&mut Row) -> T) -> T {
        let mut rows = self.rows();
        let row = rows.entry(name(layer)).or_default();
        row.used = crate::now();
        let changed = change(row);
        while rows.len() > MAX_LAYERS
            && let Some(oldest) = rows.iter().min_by_key(|(_, row)| row.used)
        {
            let oldest = oldest.0.clone();
            rows.remove(&oldest);
        }
        changed
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_aside(path: &Path, aside: &Path) {
    let moved = std::fs::rename(path, aside);
    if let Err(error) = &moved
        && error.kind() == io::ErrorKind::NotFound
    {
        return; // the first run
    }
    let moved_to = moved.map(|()| aside.display());
    tracing::warn!(?moved_to, "What was known of layers is damaged.");
}

fn name(layer: &LayerKey) -> String {
    let directory = hex::encode(layer.lower.as_os_str().as_bytes());
    format!("{} {directory}", layer.chain_id)
}

/// The rows, when the file is what was written.
fn read(path: &Path) -> Option<Rows> {
    let bytes = capped::read_file(path, MAX_BYTES).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (digest, rows) = (bytes.get(..end)?, bytes.get(end.saturating_add(1)..)?);
    let digest: Digest = std::str::from_utf8(digest).ok()?.parse().ok()?;
    (Digest::of(rows) == digest).then(|| serde_json::from_slice(rows).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_core::digest::ChainId;

    const DAY: SignedDuration = SignedDuration::from_hours(24);

    fn layer(name: &str) -> LayerKey {
        LayerKey {
            chain_id: ChainId(Digest::of(name.as_bytes())),
            lower: name.into(),
        }
    }

    /// The history of an agent that starts in this boot; each boot before it was left abruptly.
    fn started(state: &Path, boot: &str) -> History {
        History::open(state, &Run::begin(state, boot).unwrap())
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_layer_that_was_right_before_a_power_cut_was_stopped_abruptly() {
        let state = tempfile::tempdir().unwrap();
        let before = started(state.path(), "1");
        before.is_right(&layer("a"), at(1));
        assert_eq!(before.stopped(&layer("a")), Stopped::InOrder);
        before.save();

        let after = started(state.path(), "2");
        assert_eq!(after.stopped(&layer("a")), Stopped::Abruptly);
        assert_eq!(after.right(&layer("a")), Some(at(1)));
        assert_eq!(after.stopped(&layer("never seen right")), Stopped::InOrder);
        // Still so while it is wrong; no more once it was seen right in this boot.
        after.is_wrong(&layer("a"));
        assert_eq!(after.stopped(&layer("a")), Stopped::Abruptly);
        assert_eq!(after.right(&layer("a")), None);
        after.is_right(&layer("a"), at(2));
        assert_eq!(after.stopped(&layer("a")), Stopped::InOrder);
    }

    #[test]
    fn a_compare_is_taken_up_where_it_was_unless_it_is_too_old() {
        let state = tempfile::tempdir().unwrap();
        let before = started(state.path(), "1");
        before.reached(&layer("a"), b"usr/\xff", at(0), 7);
        before.save();
        let after = started(state.path(), "1");
        let progress = after.progress(&layer("a"), at(60), DAY).unwrap();
        assert_eq!(
            (progress.after(), progress.entries),
            (Some(b"usr/\xff".to_vec()), 7)
        );
        assert_eq!(after.progress(&layer("a"), at(24 * 3600), DAY), None);
        assert_eq!(after.progress(&layer("a"), at(-1), DAY), None);
        assert_eq!(after.progress(&layer("b"), at(60), DAY), None);
        after.is_wrong(&layer("a"));
        assert_eq!(after.progress(&layer("a"), at(60), DAY), None);
    }

    #[test]
    fn what_was_looked_at_before_a_power_cut_was_right_before_it() {
        let state = tempfile::tempdir().unwrap();
        let before = started(state.path(), "1");
        before.reached(&layer("a"), b"etc", at(0), 1);
        before.save();
        let after = started(state.path(), "2");
        after.reached(&layer("a"), b"usr", at(0), 2);
        after.is_right(&layer("a"), at(0));
        assert_eq!(after.stopped(&layer("a")), Stopped::Abruptly);
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_everything_begins_anew() {
        let state = tempfile::tempdir().unwrap();
        let before = started(state.path(), "1");
        before.is_right(&layer("a"), at(1));
        before.save();
        let file = state.path().join(FILE);
        let whole = capped::read_file(&file, MAX_BYTES).unwrap();
        for flipped in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 1;
            std::fs::write(&file, &bytes).unwrap();
            let history = started(state.path(), "1");
            assert_eq!(history.right(&layer("a")), None, "byte {flipped}");
            assert!(!file.exists() && state.path().join(DAMAGED).exists());
        }
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(
            History::look(state.path(), &Run::look(state.path(), "1")).right(&layer("a")),
            None
        );
        assert!(file.exists());
    }

    #[test]
    fn layers_that_were_used_longest_ago_are_forgotten_first() {
        let state = tempfile::tempdir().unwrap();
        let history = started(state.path(), "1");
        {
            let mut rows = history.rows();
            for number in 0..MAX_LAYERS {
                let used = at(i64::try_from(number).unwrap());
                let row = Row {
                    used,
                    ..Row::default()
                };
                rows.insert(format!("{number:08}"), row);
            }
        }
        history.is_right(&layer("new"), at(1));
        let rows = history.rows();
        assert_eq!(rows.len(), MAX_LAYERS);
        assert!(!rows.contains_key("00000000") && rows.contains_key("00000001"));
        assert!(rows.contains_key(&name(&layer("new"))));
    }
}
