//! What the store of tables and trees may take on the disk. When it takes more, the layers that were used least
//! recently leave, each as a whole: table, note and trees. All of it can be had again. What somebody stands on
//! stays, whatever it takes; that is said.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use holdfast_core::digest::DiffId;
use holdfast_core::layer::{TREE_HEADER_BYTES, diff_id_of_tree};
use holdfast_daemon::capped;

use super::{TABLES, TREES, note_name};

/// What one layer has in the store.
#[derive(Debug)]
struct Kept {
    used: SystemTime,
    bytes: u64,
    is_in_use: bool,
    files: Vec<PathBuf>,
}

/// The state of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// What it takes.
    pub(super) bytes: u64,
    /// Layers that had to leave.
    pub(super) forgotten: u64,
    /// Whether what is in use alone takes more than it may.
    pub(super) is_exceeded: bool,
}

/// What the store below `own` takes.
pub(super) fn taken(own: &Path) -> io::Result<u64> {
    let files = files_in(&own.join(TABLES))?.chain(files_in(&own.join(TREES))?);
    files.map(|file| file.map(|(_, _, bytes)| bytes)).sum()
}

/// Lets layers leave the store below `own` until the rest is within `limit`, if it can be. `trees` are the files of
/// trees that somebody holds, and `made` is the layer that is being made.
pub(super) fn forget_oldest(
    own: &Path,
    limit: u64,
    trees: &HashSet<PathBuf>,
    made: DiffId,
) -> io::Result<Room> {
    let mut layers = survey(own, trees)?;
    let mut room = Room {
        bytes: layers.iter().map(|(_, kept)| kept.bytes).sum(),
        ..Room::default()
    };
    layers.sort_by_key(|(_, kept)| kept.used);
    for (diff_id, kept) in layers {
        if room.bytes <= limit {
            break;
        }
        if kept.is_in_use || diff_id == Some(made) {
            continue;
        }
        kept.files.iter().try_for_each(remove)?;
        if let Some(diff_id) = diff_id {
            // Last: a table is never taken for more than it is.
            remove(own.join(note_name(diff_id)))?;
        }
        room.bytes = room.bytes.saturating_sub(kept.bytes);
        room.forgotten = room.forgotten.saturating_add(1);
    }
    room.is_exceeded = room.bytes > limit;
    Ok(room)
}

/// Removes what a process that was killed had half written.
pub(super) fn clear(own: &Path) -> io::Result<()> {
    for folder in [TABLES, TREES] {
        for entry in fs::read_dir(own.join(folder))? {
            let path = entry?.path();
            if is_half_written(&path) {
                remove(path)?;
            }
        }
    }
    Ok(())
}

/// As `write_beside` names them.
fn is_half_written(path: &Path) -> bool {
    let name = path.file_name().map(OsStrExt::as_bytes);
    name.is_some_and(|name| name.starts_with(b".tmp"))
}

/// Whatever is there, by layer; what is set aside is each for itself.
fn survey(own: &Path, trees: &HashSet<PathBuf>) -> io::Result<Vec<(Option<DiffId>, Kept)>> {
    let mut layers: BTreeMap<DiffId, Kept> = BTreeMap::new();
    let mut others = Vec::new();
    for file in files_in(&own.join(TABLES))?.chain(files_in(&own.join(TREES))?) {
        let (path, used, bytes) = file?;
        let is_in_use = trees.contains(&path);
        let diff_id = layer_of(&path);
        let kept = Kept {
            used,
            bytes,
            is_in_use,
            files: vec![path],
        };
        match diff_id {
            Some(diff_id) => layers.entry(diff_id).or_default().join(kept),
            None => others.push((None, kept)),
        }
    }
    let layers = layers.into_iter().map(|(id, kept)| (Some(id), kept));
    Ok(layers.chain(others).collect())
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            used: SystemTime::UNIX_EPOCH,
            bytes: 0,
            is_in_use: false,
            files: Vec::new(),
        }
    }
}

impl Kept {
    fn join(&mut self, other: Self) {
        self.used = self.used.max(other.used);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.is_in_use |= other.is_in_use;
        self.files.extend(other.files);
    }
}

type Listed = io::Result<(PathBuf, SystemTime, u64)>;

fn files_in(folder: &Path) -> io::Result<impl Iterator<Item = Listed> + use<>> {
    Ok(fs::read_dir(folder)?.filter_map(|entry| {
        let listed = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)));
        match listed {
            Ok((path, stat)) if !stat.is_file() || is_half_written(&path) => None,
            Ok((path, stat)) => Some(stat.modified().map(|used| (path, used, stat.len()))),
            // Renamed or removed by another thread since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => Some(Err(error)),
        }
    }))
}

/// The layer of a file: a table says it by its name, a tree in its header.
fn layer_of(path: &Path) -> Option<DiffId> {
    match path.extension()?.to_str()? {
        "table" => {
            let encoded = path.file_stem()?.to_str()?;
            format!("sha256:{encoded}").parse().ok().map(DiffId)
        }
        "tree" => {
            let mut header = [0; TREE_HEADER_BYTES];
            let mut file: File = capped::open_file(path).ok()?;
            file.read_exact(&mut header).ok()?;
            diff_id_of_tree(&header)
        }
        _ => None,
    }
}

fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
