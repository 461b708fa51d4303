//! The care of the store's files: what is damaged is set aside, what is used is marked, and what there is no room
//! for leaves. A disk that refuses costs the store its order, never a look its answer.

use std::collections::HashSet;
use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use holdfast_core::digest::DiffId;
use holdfast_daemon::capped;

use super::room::{Room, forget_oldest, taken};
use super::{Tables, tree_name};
use crate::files::atomic::touch;

impl Tables {
    /// The lock of a table that is being made.
    pub(super) fn making(&self, diff_id: DiffId) -> Arc<Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = making.get(&diff_id).and_then(Weak::upgrade) {
            return known;
        }
        making.retain(|_, made| made.strong_count() > 0);
        let new = Arc::new(Mutex::new(()));
        making.insert(diff_id, Arc::downgrade(&new));
        new
    }

    /// A file of ours that is not what was written is kept for whoever wants to know why, the last one of each
    /// name; another agent's is left where it is.
    pub(super) fn damaged(&self, path: &Path, error: &dyn Error) {
        self.counts.damaged.inc();
        tracing::warn!(file = %path.display(), %error, "File is damaged, set aside and made anew.");
        if path.starts_with(&self.own) {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".damaged");
            tell("set aside", path, fs::rename(path, PathBuf::from(aside)));
        }
    }

    /// Marks a file of ours as used now. If it cannot be marked it only leaves earlier.
    pub(super) fn used(&self, path: &Path) {
        if path.starts_with(&self.own) {
            let marked = capped::open_file(path).and_then(|file| touch(&file));
            tell("marked as used", path, marked);
        }
    }

    /// Lets the layers leave that were used least recently, if there are too many; not the one that is being made.
    pub(super) fn make_room(&self, made: DiffId) {
        let room = match taken(&self.own) {
            Ok(bytes) if bytes > self.max_bytes => self.forget_oldest(made),
            Ok(bytes) => Ok(Room {
                bytes,
                ..Room::default()
            }),
            Err(error) => Err(error),
        };
        match room {
            Ok(room) => self.count(room),
            Err(error) => tracing::warn!(%error, "No room could be made for tables."),
        }
    }

    /// Nobody opens a tree meanwhile that nobody holds: it would lose the note of how its table was had.
    fn forget_oldest(&self, made: DiffId) -> io::Result<Room> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut held, mut idle) = (HashSet::new(), Vec::new());
        for ((snapshotter, chain_id), slot) in open.iter() {
            match slot.try_lock() {
                Ok(tree) if tree.strong_count() == 0 => idle.push(tree),
                // Held, or being made.
                _ => drop(held.insert(self.own.join(tree_name(*snapshotter, *chain_id)))),
            }
        }
        for path in &held {
            self.used(path);
        }
        let room = forget_oldest(&self.own, self.max_bytes, &held, made);
        drop(idle);
        room
    }

    fn count(&self, room: Room) {
        let bytes = room.bytes;
        self.counts.forgotten.inc_by(room.forgotten);
        self.counts
            .bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
        if room.is_exceeded {
            tracing::warn!(
                bytes,
                "Tables of running containers take more than their bound."
            );
        }
    }
}

fn tell(what: &'static str, path: &Path, done: io::Result<()>) {
    if let Err(error) = done
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "File cannot be {what}.");
    }
}
