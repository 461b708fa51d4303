//! Roots of the snapshotter `native`: every snapshot is a whole directory, an active one a copy of its
//! parent's. containerd tells where the container's own directory is, and nobody but its database in which
//! directories the committed snapshots below are. Only reads; blocks.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::bolt::{Bolt, BoltError, Bucket};
use super::kernel::shown;
use super::rootfs::bind_source;
use super::{Mount, Snapshot, SnapshotKind};

/// The snapshotter's name.
pub(super) const NAME: &str = "native";

/// Its database, beside the folder of snapshots.
const DATABASE: &str = "metadata.db";

/// Where in the database snapshots are.
const SNAPSHOTS: [&[u8]; 2] = [b"v1", b"snapshots"];

/// Why the directories of a root are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NativeError {
    /// Not one bind mount of a numbered directory.
    #[error("the snapshot's mount is not one bind mount of a snapshot's directory")]
    Form,
    /// The database of the snapshotter gives no answer.
    #[error("{0}")]
    Database(String),
    /// containerd and the database of its snapshotter do not name the same snapshots.
    #[error("the snapshotter's database has {found} where containerd names {says}")]
    Records {
        /// containerd's key.
        says: String,
        /// The database's.
        found: String,
    },
}

impl NativeError {
    /// The name in findings and labels.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Form => "mount-form",
            Self::Database(_) | Self::Records { .. } => "snapshot-records",
        }
    }
}

impl From<BoltError> for NativeError {
    fn from(error: BoltError) -> Self {
        Self::Database(error.to_string())
    }
}

/// The directories of a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directories {
    /// The container's own, unless it only reads its parent's.
    pub(super) own: Option<PathBuf>,
    /// Its parents', topmost first.
    pub(super) parents: Vec<PathBuf>,
}

/// The directories of the root that stands on `snapshots` (its own first) and is mounted by `mounts`.
pub(super) fn directories(
    namespace: &str,
    snapshots: &[Snapshot],
    mounts: &[Mount],
) -> Result<Directories, NativeError> {
    let source = bind_source(mounts).ok_or(NativeError::Form)?;
    let (number, folder) = numbered(&source).ok_or(NativeError::Form)?;
    let database = folder.parent().ok_or(NativeError::Form)?.join(DATABASE);
    let stored = Stored::read(&Bolt::read(&database)?)?;
    let (own, parents) = snapshots.split_first().ok_or(NativeError::Form)?;
    // A view is its parent's directory, mounted read-only.
    let named = match own.kind {
        SnapshotKind::View => parents,
        SnapshotKind::Active | SnapshotKind::Committed => snapshots,
    };
    let chain = stored.chain(number)?;
    agree(namespace, named, &chain)?;
    let mut directories = chain
        .iter()
        .map(|(_, number)| folder.join(number.to_string()));
    let own = match own.kind {
        SnapshotKind::View => None,
        SnapshotKind::Active | SnapshotKind::Committed => directories.next(),
    };
    Ok(Directories {
        own,
        parents: directories.collect(),
    })
}

/// The number of a snapshot's directory, and the folder that it is in.
fn numbered(directory: &Path) -> Option<(u64, &Path)> {
    let number = directory.file_name()?.to_str()?.parse().ok()?;
    Some((number, directory.parent()?))
}

/// A snapshot's key and number.
type Named<'s> = (&'s [u8], u64);

/// The snapshots of a database.
#[derive(Debug)]
struct Stored {
    /// By number: the key, and the parent's key.
    by_number: BTreeMap<u64, (Vec<u8>, Vec<u8>)>,
    numbers: BTreeMap<Vec<u8>, u64>,
}

impl Stored {
    fn read(bolt: &Bolt) -> Result<Self, BoltError> {
        let snapshots = bolt.bucket(&SNAPSHOTS)?.ok_or(BoltError::Form)?;
        let mut stored = Self {
            by_number: BTreeMap::new(),
            numbers: BTreeMap::new(),
        };
        for named in snapshots.buckets() {
            let (key, snapshot) = named?;
            let number = number_of(&snapshot).ok_or(BoltError::Form)?;
            let parent = snapshot.value(b"parent").unwrap_or_default().to_vec();
            stored.numbers.insert(key.to_vec(), number);
            let before = stored.by_number.insert(number, (key.to_vec(), parent));
            if before.is_some() {
                return Err(BoltError::Form);
            }
        }
        Ok(stored)
    }

    /// The snapshot with a number and its parents, downwards.
    fn chain(&self, number: u64) -> Result<Vec<Named<'_>>, NativeError> {
        let missing = || NativeError::Database(format!("snapshot {number} is not in the database"));
        let (mut chain, mut met) = (Vec::new(), HashSet::new());
        let mut next = number;
        loop {
            let (key, parent) = self.by_number.get(&next).ok_or_else(missing)?;
            if !met.insert(next) {
                return Err(BoltError::Form.into());
            }
            chain.push((key.as_slice(), next));
            if parent.is_empty() {
                return Ok(chain);
            }
            next = *self.numbers.get(parent).ok_or_else(missing)?;
        }
    }
}

/// A number of variable length, seven bits a byte.
fn number_of(snapshot: &Bucket<'_>) -> Option<u64> {
    let bytes = snapshot.value(b"id")?;
    let (last, before) = bytes.split_last()?;
    let is_whole = *last < 0x80 && before.iter().all(|byte| *byte >= 0x80) && bytes.len() <= 9;
    let number = bytes
        .iter()
        .rev()
        .fold(0_u64, |number, byte| number << 7 | u64::from(byte & 0x7F));
    is_whole.then_some(number)
}

/// Whether both name the same snapshots. The database's keys are `NAMESPACE/NUMBER/KEY`.
fn agree(namespace: &str, named: &[Snapshot], stored: &[(&[u8], u64)]) -> Result<(), NativeError> {
    let key_of = |key| key_in(namespace, key);
    let pairs = named.len().max(stored.len());
    for at in 0..pairs {
        let says = named.get(at).map(|snapshot| snapshot.key.as_bytes());
        let found = stored.get(at).map(|(key, _)| *key);
        if says.is_none() || found.and_then(key_of) != says {
            let shown = |key: Option<&[u8]>| key.map_or("nothing".to_owned(), shown);
            return Err(NativeError::Records {
                says: shown(says),
                found: shown(found),
            });
        }
    }
    Ok(())
}

fn key_in<'k>(namespace: &str, key: &'k [u8]) -> Option<&'k [u8]> {
    let rest = key.strip_prefix(namespace.as_bytes())?.strip_prefix(b"/")?;
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    let (number, key) = rest.split_at_checked(slash)?;
    let is_number = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
    key.strip_prefix(b"/").filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::bolt::tests::{Put, database};

    const TOP: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    /// A folder like containerd's: an active snapshot 300 over a committed 2 over a committed 1.
    fn root() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let snapshot = |number: &[u8], parent: &str| {
            let mut values = vec![("id", Put::Value(number.to_vec()))];
            if !parent.is_empty() {
                values.push(("parent", Put::Value(parent.as_bytes().to_vec())));
            }
            Put::Bucket(values)
        };
        let snapshots = vec![
            ("ns/1/low", snapshot(&[1], "")),
            ("ns/4/top", snapshot(&[2], "ns/1/low")),
            ("ns/5/own", snapshot(&[0xAC, 0x02], "ns/4/top")),
            ("other/5/own", snapshot(&[4], "")),
        ];
        let bytes = database(&[(
            "v1",
            Put::Bucket(vec![("snapshots", Put::Bucket(snapshots))]),
        )]);
        std::fs::write(root.path().join(DATABASE), bytes).unwrap();
        root
    }

    fn chain(kind: SnapshotKind, keys: &[&str]) -> Vec<Snapshot> {
        let snapshot = |key: &&str| Snapshot {
            key: (*key).to_owned(),
            kind: SnapshotKind::Committed,
        };
        let mut chain: Vec<_> = keys.iter().map(snapshot).collect();
        chain[0].kind = kind;
        chain
    }

    fn asked(
        root: &Path,
        (kind, keys): (SnapshotKind, &[&str]),
        source: &str,
    ) -> Result<Directories, NativeError> {
        let mount = Mount {
            kind: "bind".into(),
            source: root.join("snapshots").join(source).to_str().unwrap().into(),
            options: vec!["rw".into(), "rbind".into()],
        };
        directories("ns", &chain(kind, keys), &[mount])
    }

    #[test]
    fn the_database_tells_the_directories_of_the_parents() {
        let root = root();
        let at = |number: &str| root.path().join("snapshots").join(number);
        let active = (SnapshotKind::Active, &["own", "top", "low"][..]);
        let found = asked(root.path(), active, "300").unwrap();
        assert_eq!(found.own, Some(at("300")));
        assert_eq!(found.parents, [at("2"), at("1")]);
    }

    #[test]
    fn a_view_has_no_directory_of_its_own() {
        let root = root();
        let at = |number: &str| root.path().join("snapshots").join(number);
        let view = (SnapshotKind::View, &["view", "top", "low"][..]);
        let found = asked(root.path(), view, "2").unwrap();
        assert_eq!(found.own, None);
        assert_eq!(found.parents, [at("2"), at("1")]);
    }

    #[test]
    fn records_that_disagree_are_refused() {
        let root = root();
        let refused = |keys: &[&str], source: &str| {
            let asked = asked(root.path(), (SnapshotKind::Active, keys), source);
            asked.unwrap_err().reason()
        };
        assert_eq!(refused(&["own", "top"], "300"), "snapshot-records");
        assert_eq!(
            refused(&["own", "top", "low", "lower"], "300"),
            "snapshot-records"
        );
        assert_eq!(refused(&["own", TOP, "low"], "300"), "snapshot-records");
        // Another namespace's snapshot of the same key, and one that the database does not have.
        assert_eq!(refused(&["own"], "4"), "snapshot-records");
        assert_eq!(refused(&["own", "top", "low"], "301"), "snapshot-records");
        assert_eq!(refused(&["own", "top", "low"], "x"), "mount-form");
    }

    #[test]
    fn a_database_that_is_gone_is_said() {
        let root = root();
        std::fs::remove_file(root.path().join(DATABASE)).unwrap();
        let active = (SnapshotKind::Active, &["own", "top", "low"][..]);
        let error = asked(root.path(), active, "300").unwrap_err();
        assert_eq!(error.reason(), "snapshot-records");
    }
}
