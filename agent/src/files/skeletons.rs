//! Skeletons on disk, one file a diff ID, and contents by their digests, which a repeated proof needs. Own
//! ones are made from blobs and kept within a bound; others come from folders that somebody filled: the
//! running agent's, or one that was carried to a node without a registry.
//!
//! Nothing here is believed: a skeleton and a content prove themselves, or they do not. Whoever fetches
//! either from elsewhere puts it here, and asks for the table again.

mod relayed;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use holdfast_core::digest::{DiffId, Digest};
use holdfast_core::layer::skeleton::{Skeleton, SkeletonError};
use holdfast_daemon::capped;

pub use self::relayed::Offer;
use super::atomic::{touch, write_beside};
use super::tables::open_blob_file;

/// A skeleton file larger than this was not written by us.
pub const MAX_SKELETON_BYTES: u64 = 256 << 20;

/// Skeletons that are kept; the least recently used ones leave. Two hundred large layers, or thousands.
const MAX_KEPT_BYTES: u64 = 512 << 20;

/// The folders of skeletons, asked in this order.
#[derive(Debug)]
pub struct Skeletons {
    own: PathBuf,
    /// From the collector.
    relayed: PathBuf,
    others: Vec<PathBuf>,
    max_kept_bytes: u64,
}

impl Skeletons {
    /// A store in `own`, which is made; `others` are read only and may be missing.
    pub fn new(own: PathBuf, others: Vec<PathBuf>) -> io::Result<Self> {
        fs::create_dir_all(&own)?;
        let relayed = own.join("relayed");
        relayed::make(&relayed)?;
        Ok(Self {
            own,
            relayed,
            others,
            max_kept_bytes: MAX_KEPT_BYTES,
        })
    }

    /// One more folder that is read.
    pub(super) fn also_in(&mut self, folder: PathBuf) {
        self.others.push(folder);
    }

    /// Keeps a skeleton.
    pub fn put(&self, skeleton: &Skeleton) -> io::Result<()> {
        let path = self.own.join(name(skeleton.diff_id()));
        write_beside(&path, |out| out.write_all(skeleton.encoded()))?;
        forget_oldest(&self.own, self.max_kept_bytes)
    }

    /// The skeletons that are said to be of a layer, each read when it is its turn.
    pub(super) fn of(&self, diff_id: DiffId) -> impl Iterator<Item = Skeleton> {
        self.folders()
            .filter_map(move |folder| self.read(folder, diff_id))
    }

    /// A file's content in the layer, from whoever put it here.
    pub(super) fn content(&self, digest: Digest) -> Option<File> {
        self.folders().find_map(|folder| {
            let path = folder.join("contents").join(digest.encoded());
            open_blob_file(&path).ok().flatten()
        })
    }

    fn folders(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.own, &self.relayed].into_iter().chain(&self.others)
    }

    fn read(&self, folder: &Path, diff_id: DiffId) -> Option<Skeleton> {
        let path = folder.join(name(diff_id));
        let is_own = folder == self.own || folder == self.relayed;
        match read_skeleton(&path, diff_id) {
            Ok(skeleton) => {
                if is_own && skeleton.is_some() {
                    used(&path);
                }
                skeleton
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "Skeleton is not used.");
                if is_own && error.is_ours() {
                    // It is overwritten by the next one anyway.
                    drop(fs::remove_file(&path));
                }
                None
            }
        }
    }
}

/// Removes files of a folder until the rest is within the bound. They can be had again.
fn forget_oldest(folder: &Path, max_bytes: u64) -> io::Result<()> {
    let mut kept: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let stat = file.metadata()?;
        if stat.is_file() {
            kept.push((stat.modified()?, stat.len(), file.path()));
        }
    }
    kept.sort_unstable();
    let mut total: u64 = kept.iter().map(|(_, bytes, _)| bytes).sum();
    // The newest stays, whatever its size.
    kept.pop();
    for (_, bytes, path) in kept {
        if total <= max_bytes {
            break;
        }
        fs::remove_file(path)?;
        total = total.saturating_sub(bytes);
    }
    Ok(())
}

/// Why a skeleton file is not used.
#[derive(Debug, thiserror::Error)]
enum SkeletonFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Skeleton(#[from] SkeletonError),
    #[error("it is the skeleton of another layer")]
    OtherLayer,
}

impl SkeletonFileError {
    /// Whether the file is at fault, not the disk.
    const fn is_ours(&self) -> bool {
        matches!(self, Self::Skeleton(_) | Self::OtherLayer)
    }
}

/// The skeleton in a file; `None` when there is no file.
fn read_skeleton(path: &Path, diff_id: DiffId) -> Result<Option<Skeleton>, SkeletonFileError> {
    let Some(file) = open_blob_file(path)? else {
        return Ok(None);
    };
    let skeleton = Skeleton::decode(capped::read(file, MAX_SKELETON_BYTES)?)?;
    if skeleton.diff_id() == diff_id {
        Ok(Some(skeleton))
    } else {
        Err(SkeletonFileError::OtherLayer)
    }
}

/// The name of a skeleton's file.
pub fn name(diff_id: DiffId) -> String {
    format!("{}.skeleton", diff_id.0.encoded())
}

/// Marks a file as used now. If it cannot be marked it only leaves earlier.
fn used(path: &Path) {
    let marked = capped::open_file(path).and_then(|file| touch(&file));
    if let Err(error) = marked {
        tracing::debug!(%error, "Skeleton cannot be marked as used.");
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::layer::Limits;
    use holdfast_core::layer::skeleton::{Digests, make};

    use super::*;

    /// A skeleton of an archive of noise behind its end, about as long as the noise.
    pub(super) fn skeleton(number: u8, length: usize) -> Skeleton {
        let mut noise: Vec<u8> = Vec::new();
        while noise.len() < length {
            let text = [noise.len().to_le_bytes().as_slice(), &[number]].concat();
            noise.extend_from_slice(Digest::of(&text).as_bytes());
        }
        let archive = [vec![0; 1024], noise].concat();
        let digest = Digest::of(&archive);
        let open = || Ok(archive.as_slice());
        let limits = Limits::default();
        let made = make(open, digest, DiffId(digest), &limits, Digests::Carried).unwrap();
        made.skeleton.unwrap()
    }

    fn store(folder: &Path) -> Skeletons {
        Skeletons::new(folder.join("own"), vec![folder.join("given")]).unwrap()
    }

    #[test]
    fn what_was_put_is_found_and_what_is_damaged_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let skeleton = skeleton(1, 0);
        let diff_id = skeleton.diff_id();
        assert_eq!(store.of(diff_id).count(), 0);

        store.put(&skeleton).unwrap();
        assert_eq!(store.of(diff_id).next().as_ref(), Some(&skeleton));

        let path = folder.path().join("own").join(name(diff_id));
        let mut bytes = skeleton.encoded().to_vec();
        bytes[50] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert_eq!(store.of(diff_id).count(), 0);
        assert!(!path.exists());
    }

    #[test]
    fn a_folder_that_was_given_is_read_after_the_own_one_and_never_changed() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let (skeleton, other) = (skeleton(1, 9), skeleton(2, 9));
        let given = folder.path().join("given");
        fs::create_dir(&given).unwrap();
        fs::write(given.join(name(skeleton.diff_id())), skeleton.encoded()).unwrap();
        let wrong = given.join(name(other.diff_id()));
        fs::write(&wrong, skeleton.encoded()).unwrap();

        assert_eq!(store.of(skeleton.diff_id()).count(), 1);
        assert_eq!(store.of(other.diff_id()).count(), 0);
        assert!(wrong.exists());
    }

    #[test]
    fn the_least_recently_used_leave_when_there_are_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = store(folder.path());
        store.max_kept_bytes = 25_000;
        let skeletons: Vec<Skeleton> = (0..4).map(|number| skeleton(number, 10_000)).collect();
        let day = std::time::Duration::from_hours(24);
        for (age, skeleton) in (1..).zip(&skeletons[..2]) {
            store.put(skeleton).unwrap();
            let file = File::open(folder.path().join("own").join(name(skeleton.diff_id())));
            let old = SystemTime::UNIX_EPOCH + day * age;
            file.unwrap().set_modified(old).unwrap();
        }
        // Used again, so the other one is the oldest.
        assert_eq!(store.of(skeletons[0].diff_id()).count(), 1);

        store.put(&skeletons[2]).unwrap();

        let is_there = |skeleton: &Skeleton| store.of(skeleton.diff_id()).count() == 1;
        let kept: Vec<bool> = skeletons.iter().map(is_there).collect();
        assert_eq!(kept, [true, false, true, false]);
    }
}
