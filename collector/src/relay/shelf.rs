//! Files by their digests, bounded in number and bytes: skeletons, and contents. Each begins with a line that
//! says what it is of and who gave it, so that a file and its origin cannot part.
//!
//! Nothing here has to survive: a file that is damaged or too many is removed, and had again. What is handed
//! out was hashed since the program began. The source that fills the shelf most makes room first, so that
//! nobody can crowd out the others.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use holdfast_core::digest::{DiffId, Digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// The longest first line; a node's name has at most 255 characters.
const MAX_CARD_BYTES: u64 = 1024;

/// Files are hashed in pieces of this length.
const PIECE: usize = 128 << 10;

/// Who gave a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The collector itself, from a registry's blob.
    Registry,
    /// This node.
    Node(String),
}

/// What a file is of, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Card {
    /// The layer.
    pub layer: DiffId,
    /// Who gave it.
    pub source: Source,
}

/// What the digest of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// SHA-256 of all of it.
    ByAll,
    /// Its last 32 bytes, which are SHA-256 of the others.
    ByTrailer,
}

/// How much a shelf holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub files: usize,
    pub bytes: u64,
}

#[derive(Debug)]
struct Entry {
    card: Card,
    /// Length of the first line.
    start: u64,
    /// Length of what follows.
    length: u64,
    used: u64,
    is_checked: bool,
}

#[derive(Debug, Default)]
struct Index {
    files: HashMap<Digest, Entry>,
    layers: HashMap<DiffId, Vec<Digest>>,
    bytes: u64,
    clock: u64,
}

/// The shelf.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    named: Named,
    bounds: Bounds,
    index: Mutex<Index>,
}

/// What is on the shelf of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OnShelf {
    pub digest: Digest,
    pub length: u64,
    pub source: Source,
}

impl Shelf {
    /// The shelf in `folder`, with what an earlier run has left.
    pub(super) fn open(folder: PathBuf, named: Named, bounds: Bounds) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut found = Vec::new();
        for file in fs::read_dir(&folder)? {
            let file = file?;
            match known(&file.path()) {
                Some((digest, entry)) => {
                    found.push((file.metadata()?.modified()?, digest, entry));
                }
                // Half of one, or none of ours.
                None => fs::remove_file(file.path())?,
            }
        }
        found.sort_unstable_by_key(|(modified, ..)| *modified);
        let mut index = Index::default();
        for (_, digest, entry) in found {
            index.insert(digest, entry);
        }
        let shelf = Self {
            folder,
            named,
            bounds,
            index: Mutex::new(index),
        };
        shelf.make_room();
        Ok(shelf)
    }

    /// A file under way, which [`Self::put`] takes.
    pub(super) fn begin(&self, card: &Card) -> io::Result<NamedTempFile> {
        let mut file = NamedTempFile::new_in(&self.folder)?;
        let mut line = serde_json::to_vec(card)?;
        line.push(b'\n');
        file.write_all(&line)?;
        Ok(file)
    }

    /// Keeps a file; the caller has checked that it is what its digest says.
    pub(super) fn put(&self, file: NamedTempFile, digest: Digest) -> io::Result<()> {
        let path = self.path(digest);
        // Not made durable: after a crash a file that is not whole is found out when it is first used.
        let file = file.into_temp_path();
        file.persist(&path)?;
        let Some((digest, entry)) = known(&path) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut index = self.index();
        index.remove(digest);
        index.insert(
            digest,
            Entry {
                is_checked: true,
                ..entry
            },
        );
        drop(index);
        self.make_room();
        Ok(())
    }

    /// What there is of a layer.
    pub(super) fn of(&self, layer: DiffId) -> Vec<OnShelf> {
        let index = self.index();
        let digests = index.layers.get(&layer).into_iter().flatten();
        digests
            .filter_map(|digest| {
                let entry = index.files.get(digest)?;
                Some(OnShelf {
                    digest: *digest,
                    length: entry.length,
                    source: entry.card.source.clone(),
                })
            })
            .collect()
    }

    /// Whether a file is there, of this length.
    pub(super) fn has(&self, digest: Digest, length: u64) -> bool {
        let index = self.index();
        let entry = index.files.get(&digest);
        entry.is_some_and(|entry| entry.length == length)
    }

    /// At most `limit` bytes of a file, from `offset` on; `None` when it is not there. Blocks.
    pub(super) fn piece(
        &self,
        digest: Digest,
        offset: u64,
        limit: usize,
    ) -> io::Result<Option<Vec<u8>>> {
        let Some((start, length, is_checked)) = self.index().use_now(digest) else {
            return Ok(None);
        };
        let file = File::open(self.path(digest))?;
        if !is_checked {
            if self.named.digest_of(&file, start)? != Some(digest) {
                tracing::warn!(file = %digest, "Relayed file is damaged and removed.");
                self.remove(digest)?;
                return Ok(None);
            }
            if let Some(entry) = self.index().files.get_mut(&digest) {
                entry.is_checked = true;
            }
        }
        let rest = usize::try_from(length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; rest.min(limit)];
        file.read_exact_at(&mut piece, start.saturating_add(offset))?;
        Ok(Some(piece))
    }

    /// Removes a file, and says who gave it.
    pub(super) fn remove(&self, digest: Digest) -> io::Result<Option<Card>> {
        let removed = self.index().remove(digest);
        match (fs::remove_file(self.path(digest)), removed) {
            (Err(error), _) if error.kind() != io::ErrorKind::NotFound => Err(error),
            (_, removed) => Ok(removed.map(|entry| entry.card)),
        }
    }

    /// How many files, and how many bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        let index = self.index();
        (index.files.len(), index.bytes)
    }

    fn make_room(&self) {
        loop {
            let index = self.index();
            let is_full = index.files.len() > self.bounds.files || index.bytes > self.bounds.bytes;
            let leaves = if is_full { index.leaves() } else { None };
            drop(index);
            let Some(digest) = leaves else { return };
            if let Err(error) = self.remove(digest) {
                tracing::warn!(file = %digest, %error, "Relayed file cannot be removed.");
            }
        }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.encoded())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, digest: Digest, entry: Entry) {
        self.clock = self.clock.saturating_add(1);
        self.bytes = self.bytes.saturating_add(entry.length);
        self.layers
            .entry(entry.card.layer)
            .or_default()
            .push(digest);
        let used = self.clock;
        self.files.insert(digest, Entry { used, ..entry });
    }

    fn remove(&mut self, digest: Digest) -> Option<Entry> {
        let entry = self.files.remove(&digest)?;
        self.bytes = self.bytes.saturating_sub(entry.length);
        if let Some(digests) = self.layers.get_mut(&entry.card.layer) {
            digests.retain(|other| *other != digest);
            if digests.is_empty() {
                self.layers.remove(&entry.card.layer);
            }
        }
        Some(entry)
    }

    fn use_now(&mut self, digest: Digest) -> Option<(u64, u64, bool)> {
        self.clock = self.clock.saturating_add(1);
        let entry = self.files.get_mut(&digest)?;
        entry.used = self.clock;
        Some((entry.start, entry.length, entry.is_checked))
    }

    /// The file that leaves next: the least recently used of the source that has most.
    fn leaves(&self) -> Option<Digest> {
        let mut bytes: HashMap<&Source, u64> = HashMap::new();
        for entry in self.files.values() {
            // Each file counts, however small: it takes a place.
            let share = entry.length.saturating_add(4096);
            let sum = bytes.entry(&entry.card.source).or_default();
            *sum = sum.saturating_add(share);
        }
        let (most, _) = bytes
            .into_iter()
            .max_by(|(a, left), (b, right)| left.cmp(right).then_with(|| a.cmp(b)))?;
        let files = self.files.iter();
        let of_most = files.filter(|(_, entry)| entry.card.source == *most);
        let (digest, _) = of_most.min_by_key(|(_, entry)| entry.used)?;
        Some(*digest)
    }
}

impl Named {
    /// The digest of what follows `start`; `None` when there is too little.
    pub(super) fn digest_of(self, file: &File, start: u64) -> io::Result<Option<Digest>> {
        let length = file.metadata()?.len().saturating_sub(start);
        let hashed = match self {
            Self::ByAll => Some(length),
            Self::ByTrailer => length.checked_sub(32),
        };
        let Some(hashed) = hashed else {
            return Ok(None);
        };
        let (mut sha256, mut at) = (Sha256::new(), 0_u64);
        let mut piece = vec![0; PIECE];
        while at < hashed {
            let rest = usize::try_from(hashed.saturating_sub(at)).unwrap_or(usize::MAX);
            let piece = piece.get_mut(..rest.min(PIECE)).unwrap_or_default();
            file.read_exact_at(piece, start.saturating_add(at))?;
            sha256.update(&*piece);
            at = at.saturating_add(u64::try_from(piece.len()).map_err(io::Error::other)?);
        }
        let actual = Digest::from_sha256(sha256.finalize().into());
        if self == Self::ByTrailer {
            let mut said = [0; 32];
            file.read_exact_at(&mut said, start.saturating_add(hashed))?;
            return Ok((Digest::from_sha256(said) == actual).then_some(actual));
        }
        Ok(Some(actual))
    }
}

/// A file as its name and its first line say; `None` when it is none of ours.
fn known(path: &Path) -> Option<(Digest, Entry)> {
    let name = path.file_name()?.to_str()?;
    let digest = format!("sha256:{name}").parse().ok()?;
    let file = File::open(path).ok()?;
    let whole = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    let mut line = Vec::new();
    let mut head = BufReader::new(file.take(MAX_CARD_BYTES));
    head.read_until(b'\n', &mut line).ok()?;
    let card = serde_json::from_slice(line.strip_suffix(b"\n")?).ok()?;
    let start = u64::try_from(line.len()).ok()?;
    let entry = Entry {
        card,
        start,
        length: whole.saturating_sub(start),
        used: 0,
        is_checked: false,
    };
    Some((digest, entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        files: 4,
        bytes: 1000,
    };

    fn shelf(folder: &Path) -> Shelf {
        Shelf::open(folder.to_owned(), Named::ByAll, BOUNDS).unwrap()
    }

    fn put(shelf: &Shelf, node: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let card = Card {
            layer: DiffId(Digest::of(b"layer")),
            source: Source::Node(node.into()),
        };
        let mut file = shelf.begin(&card).unwrap();
        file.write_all(content).unwrap();
        shelf.put(file, digest).unwrap();
        digest
    }

    fn contents(shelf: &Shelf, all: &[Digest]) -> Vec<bool> {
        let is_there = |digest: &Digest| shelf.piece(*digest, 0, 100).unwrap().is_some();
        all.iter().map(is_there).collect()
    }

    #[test]
    fn what_was_put_is_there_after_a_restart_with_who_gave_it() {
        let folder = tempfile::tempdir().unwrap();
        let digest = put(&shelf(folder.path()), "n-1", b"content");
        let again = shelf(folder.path());
        let due = OnShelf {
            digest,
            length: 7,
            source: Source::Node("n-1".into()),
        };
        assert_eq!(again.of(DiffId(Digest::of(b"layer"))), [due]);
        assert_eq!(again.piece(digest, 3, 100).unwrap().unwrap(), b"tent");
        assert_eq!(again.piece(digest, 0, 3).unwrap().unwrap(), b"con");
        assert_eq!(again.size(), (1, 7));
        assert!(again.remove(digest).unwrap().is_some());
        assert_eq!(shelf(folder.path()).size(), (0, 0));
    }

    #[test]
    fn a_file_that_was_damaged_meanwhile_is_not_handed_out() {
        let folder = tempfile::tempdir().unwrap();
        let digest = put(&shelf(folder.path()), "n-1", b"content");
        let path = folder.path().join(digest.encoded());
        let mut bytes = holdfast_daemon::capped::read_file(&path, 1000).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        fs::write(folder.path().join("half"), "x").unwrap();

        let again = shelf(folder.path());

        assert_eq!(again.piece(digest, 0, 100).unwrap(), None);
        assert_eq!(again.size(), (0, 0));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_least_recently_used_of_who_gave_most_makes_room() {
        let folder = tempfile::tempdir().unwrap();
        let shelf = shelf(folder.path());
        let small = put(&shelf, "small", b"s");
        let large: Vec<Digest> = (0..3).map(|n| put(&shelf, "large", &[n; 10])).collect();
        assert!(shelf.piece(large[0], 0, 1).unwrap().is_some());

        let last = put(&shelf, "large", b"one too many");
        assert_eq!(
            contents(&shelf, &[small, large[0], large[1], large[2], last]),
            [true, true, false, true, true]
        );
        put(&shelf, "large", &[9; 990]);
        assert_eq!(contents(&shelf, &[small]), [true]);
        assert!(shelf.size().1 <= BOUNDS.bytes);
    }

    #[test]
    fn a_skeleton_is_named_by_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let digest = Digest::of(b"body");
        fs::write(&path, [b"body".as_slice(), digest.as_bytes()].concat()).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(Named::ByTrailer.digest_of(&file, 0).unwrap(), Some(digest));
        assert_eq!(Named::ByTrailer.digest_of(&file, 1).unwrap(), None);
        assert_eq!(Named::ByTrailer.digest_of(&file, 9).unwrap(), None);
    }
}
