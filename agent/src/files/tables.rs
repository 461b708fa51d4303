//! Tables and trees on disk: one file a diff ID, one a chain ID, made once and shared by everything on the
//! node that stands on the layer.
//!
//! Every file is written beside its place and renamed, and checks itself when it is opened, a tree also when
//! it is read: a damaged one is set aside and made again, never believed. A table comes from a blob or is
//! proved by a skeleton; the unpacked tree alone is never the source of one. How a table was had is noted
//! beside it. All of this blocks: call it on a blocking thread.
//!
//! Long because what is asked for, why it cannot be had, and how it is had are one story; the care of the files
//! is in `tables/upkeep.rs`.

mod obtain;
mod room;
mod upkeep;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::finding::Basis;
use holdfast_core::layer::skeleton::ProofError;
use holdfast_core::layer::{
    Damage, ExpectedTree, FileTable, Limits, PlaceError, ReadAt, Snapshotter, TableError,
    TreeError, place,
};
use holdfast_daemon::capped;
use rustix::fs::OFlags;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use self::obtain::note_name;
use super::atomic::write_beside;
use super::open::RootError;
pub use super::proofs::FailedProof;
use super::proofs::Proofs;
use super::refusals::Refusals;
use super::skeletons::Skeletons;

/// One layer of an image, as the content store must hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its uncompressed digest.
    pub diff_id: DiffId,
    /// Its chain with everything below.
    pub chain_id: ChainId,
    /// The digest of its blob.
    pub blob: Digest,
    /// Where it is unpacked, if anywhere.
    pub lower: Option<PathBuf>,
}

/// Why there is no expected tree: the checks of files are `unverifiable` with this reason.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The blob is not in the content store; normal where unpacked layers are discarded.
    #[error("layer blob {0} is not in the content store")]
    BlobAbsent(Digest, DiffId),
    /// The blob is there and cannot be read.
    #[error("layer blob {0} cannot be read: {1}")]
    BlobUnreadable(Digest, #[source] io::Error),
    /// The blob is not what its name says, or no layer that can be modelled.
    #[error("layer blob {0} is refused: {1}")]
    Refused(Digest, #[source] Arc<TableError>),
    /// The blob is not there, and no skeleton and no proof could stand in for it.
    #[error("layer {0}, without its blob: {1}")]
    Unproved(DiffId, #[source] Arc<ProofError>),
    /// The blob is not there, and the unpacked files cannot be looked at.
    #[error("{0}: {1}")]
    Directory(PathBuf, #[source] RootError),
    /// The layer cannot be put over its parents as a snapshotter would.
    #[error("layer {0} cannot be placed: {1}")]
    Unplaceable(DiffId, #[source] PlaceError),
    /// Our own folder fails.
    #[error("tables cannot be kept in {0}: {1}")]
    Store(PathBuf, #[source] io::Error),
    /// A tree cannot be read, though it was made anew.
    #[error("the tree of {0} cannot be read: {1}")]
    Tree(ChainId, #[source] TreeError),
}

impl Unavailable {
    /// The reason's name in findings.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BlobAbsent(..) => "blob-absent",
            Self::BlobUnreadable(..) => "blob-unreadable",
            Self::Refused(..) => "blob-refused",
            Self::Unproved(_, error) => error.reason(),
            Self::Directory(..) => "directory",
            Self::Unplaceable(..) => "layer-unplaceable",
            Self::Store(..) | Self::Tree(..) => "table-store",
        }
    }

    /// Whether it is at least a warning: the image, or what became of its files on the disk, is the cause.
    pub fn is_suspicious(&self) -> bool {
        match self {
            Self::Refused(..) | Self::Unplaceable(..) | Self::Directory(..) => true,
            Self::Unproved(..) => matches!(self.basis(), Basis::Reported),
            Self::BlobAbsent(..) | Self::BlobUnreadable(..) | Self::Store(..) | Self::Tree(..) => {
                false
            }
        }
    }

    /// On which basis the verdict stands that this becomes.
    pub fn basis(&self) -> Basis {
        match self {
            Self::Unproved(_, error) if matches!(**error, ProofError::Failed(_)) => Basis::Reported,
            _ => Basis::None,
        }
    }

    /// The layer whose blob would help, wherever it comes from.
    pub fn without_blob(&self) -> Option<DiffId> {
        match self {
            Self::BlobAbsent(_, diff_id) => Some(*diff_id),
            Self::Unproved(diff_id, error) => {
                (!matches!(**error, ProofError::Stopped)).then_some(*diff_id)
            }
            _ => None,
        }
    }
}

/// Where blobs are opened: `None` when the store does not have it.
pub type OpenBlob<'a> = &'a dyn Fn(Digest) -> io::Result<Option<File>>;

/// What is asked for tables.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    /// Where blobs are opened.
    pub open_blob: OpenBlob<'a>,
    /// True once nobody waits any more.
    pub is_over: &'a dyn Fn() -> bool,
}

impl std::fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking").finish_non_exhaustive()
    }
}

/// Opens the file of a blob; `None` when there is none. A FIFO in its place would block the look for ever.
pub fn open_blob_file(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = match File::options().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_file() {
        Ok(Some(file))
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

/// The store of tables and trees.
#[derive(Debug)]
pub struct Tables {
    own: PathBuf,
    /// The running agent's folder, read only.
    shared: Option<PathBuf>,
    limits: Limits,
    max_bytes: u64,
    counts: Counts,
    open: Mutex<HashMap<(Snapshotter, ChainId), Slot>>,
    /// Tables that are being made: each is made once, whatever the number of chains that have the layer.
    making: Mutex<HashMap<DiffId, Weak<Mutex<()>>>>,
    refused: Refusals,
    proofs: Proofs,
}

/// What is counted about the store.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Tables built from blobs.
    pub built: Counter,
    /// Files of ours that were damaged.
    pub damaged: Counter,
    /// Layers that left because others needed the room.
    pub forgotten: Counter,
    /// Bytes that tables and trees take.
    pub bytes: Gauge,
}

/// The folders of the store.
const TABLES: &str = "tables";
const TREES: &str = "trees";

/// What tables and trees may take where nobody says: those of 500 images of 50,000 files, which is more than a
/// node runs, at 80 bytes an entry in each.
pub const DEFAULT_BYTES: u64 = 4 << 30;

/// One tree: made by one thread while the others that want it wait.
type Slot = Arc<Mutex<Weak<ExpectedTree>>>;

/// Trees are read at any place.
#[derive(Debug)]
struct OnDisk(File);

impl ReadAt for OnDisk {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

impl Tables {
    /// A store below `own`; `shared` is another agent's folder whose tables are used and never written.
    pub fn new(own: &Path, shared: Option<&Path>) -> io::Result<Self> {
        for folder in [TABLES, TREES, "bases"] {
            fs::create_dir_all(own.join(folder))?;
        }
        room::clear(own)?;
        let others = shared.map(|shared| shared.join("skeletons"));
        let others = others
            .into_iter()
            .flat_map(|made| [made.join("relayed"), made]);
        let skeletons = Skeletons::new(own.join("skeletons"), others.collect())?;
        Ok(Self {
            own: own.to_owned(),
            shared: shared.map(Path::to_owned),
            limits: Limits::default(),
            max_bytes: DEFAULT_BYTES,
            counts: Counts::default(),
            open: Mutex::default(),
            making: Mutex::default(),
            refused: Refusals::default(),
            proofs: Proofs::new(skeletons),
        })
    }

    /// With one more folder of skeletons, and of contents below its `contents`.
    #[must_use]
    pub fn with_skeletons(mut self, folder: Option<&Path>) -> Self {
        if let Some(folder) = folder {
            self.proofs.skeletons.also_in(folder.to_owned());
        }
        self
    }

    /// With another bound, counted elsewhere.
    #[must_use]
    pub fn within(self, max_bytes: u64, counts: Counts) -> Self {
        Self {
            max_bytes,
            counts,
            ..self
        }
    }

    /// Trees that gave no answer are read anew by whoever asks next, and made anew where they are damaged.
    pub fn distrust(&self, snapshotter: Snapshotter, chains: impl Iterator<Item = ChainId>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for chain_id in chains {
            open.remove(&(snapshotter, chain_id));
        }
    }

    /// The expected trees of a stack that `snapshotter` unpacked, given lowest layer first; returned topmost
    /// first, as overlays are looked through.
    pub fn stack(
        &self,
        snapshotter: Snapshotter,
        layers: &[Layer],
        asking: Asking<'_>,
    ) -> Result<Vec<Arc<ExpectedTree>>, Unavailable> {
        let mut parents: Vec<Arc<ExpectedTree>> = Vec::with_capacity(layers.len());
        for layer in layers {
            let tree = self.tree((snapshotter, layer), &parents, asking)?;
            parents.insert(0, tree);
        }
        Ok(parents)
    }

    /// The expected tree of one snapshot, over `parents` (topmost first).
    fn tree(
        &self,
        (snapshotter, layer): (Snapshotter, &Layer),
        parents: &[Arc<ExpectedTree>],
        asking: Asking<'_>,
    ) -> Result<Arc<ExpectedTree>, Unavailable> {
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if open.len() > FORGET_ABOVE {
                open.retain(|_, slot| slot.try_lock().map_or(true, |tree| tree.strong_count() > 0));
            }
            Arc::clone(open.entry((snapshotter, layer.chain_id)).or_default())
        };
        let mut tree = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = tree.upgrade() {
            return Ok(tree);
        }
        let made = Arc::new(self.open_or_make((snapshotter, layer), parents, asking)?);
        *tree = Arc::downgrade(&made);
        Ok(made)
    }

    fn open_or_make(
        &self,
        (snapshotter, layer): (Snapshotter, &Layer),
        parents: &[Arc<ExpectedTree>],
        asking: Asking<'_>,
    ) -> Result<ExpectedTree, Unavailable> {
        let name = tree_name(snapshotter, layer.chain_id);
        let is_due = |tree: &ExpectedTree| {
            tree.diff_id() == layer.diff_id && tree.snapshotter() == snapshotter
        };
        for folder in self.folders() {
            let path = folder.join(&name);
            match open_tree(&path, layer.chain_id) {
                Ok(Some(tree)) if is_due(&tree) => {
                    self.used(&path);
                    return Ok(tree);
                }
                Ok(_) => {}
                Err(error) => self.damaged(&path, &error),
            }
        }
        let table = self.table(layer, parents, asking)?;
        let placed = place(&table, snapshotter, parents)
            .map_err(|error| Unavailable::Unplaceable(layer.diff_id, error))?;
        let path = self.own.join(&name);
        write_beside(&path, |out| placed.write(out).map_err(io::Error::other))
            .map_err(|error| Unavailable::Store(self.own.clone(), error))?;
        self.make_room(layer.diff_id);
        let opened = open_tree(&path, layer.chain_id)
            .map_err(|error| Unavailable::Tree(layer.chain_id, error))?;
        opened.ok_or_else(|| Unavailable::Store(self.own.clone(), io::ErrorKind::NotFound.into()))
    }

    /// The table of a layer: the one that is kept, else from its blob, else proved by a skeleton.
    fn table(
        &self,
        layer: &Layer,
        parents: &[Arc<ExpectedTree>],
        asking: Asking<'_>,
    ) -> Result<FileTable, Unavailable> {
        let making = self.making(layer.diff_id);
        let _made_once = making.lock().unwrap_or_else(PoisonError::into_inner);
        let name = obtain::table_name(layer.diff_id);
        for folder in self.folders() {
            let path = folder.join(&name);
            match read_table(&path, layer.diff_id) {
                Ok(Some(table)) => {
                    self.used(&path);
                    return Ok(table);
                }
                Ok(None) => {}
                Err(error) => self.damaged(&path, &error),
            }
        }
        let (table, basis) = match self.build(layer, asking)? {
            Some(table) => (table, Basis::LocalBlob),
            None => (self.proved(layer, parents, asking)?, Basis::Reassembled),
        };
        self.keep(&table, basis)
            .map_err(|error| Unavailable::Store(self.own.clone(), error))?;
        Ok(table)
    }

    /// The layers that something is compared with now.
    pub fn in_use(&self) -> Vec<DiffId> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being made is in use a little later.
        let trees = open
            .values()
            .filter_map(|slot| slot.try_lock().ok()?.upgrade());
        let mut layers: Vec<DiffId> = trees.map(|tree| tree.diff_id()).collect();
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// The digest of a layer's table; `None` when there is none.
    pub fn digest(&self, diff_id: DiffId) -> io::Result<Option<Digest>> {
        let name = obtain::table_name(diff_id);
        for folder in self.folders() {
            let Some(mut file) = open_blob_file(&folder.join(&name))? else {
                continue;
            };
            let mut digest = [0; 32];
            // What is shorter is damaged, and made anew when it is read.
            if file.seek(SeekFrom::End(-32)).is_ok() {
                file.read_exact(&mut digest)?;
                return Ok(Some(Digest::from_sha256(digest)));
            }
        }
        Ok(None)
    }

    /// Skeletons, and contents for proofs.
    pub const fn skeletons(&self) -> &Skeletons {
        &self.proofs.skeletons
    }

    /// The proofs that failed lately of skeletons of a layer.
    pub fn failures(&self, diff_id: DiffId) -> Vec<FailedProof> {
        self.proofs.failures(diff_id)
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.own.as_path()).chain(self.shared.as_deref())
    }
}

/// Slots of trees that nobody holds are dropped from here on.
const FORGET_ABOVE: usize = 4096;

/// A table file larger than this was not written by us: [`Limits`] bound what goes into one.
const MAX_TABLE_BYTES: u64 = 4 << 30;

/// The file of a tree. What two snapshotters make of one chain differs, so each has its own.
fn tree_name(snapshotter: Snapshotter, chain_id: ChainId) -> String {
    let suffix = match snapshotter {
        Snapshotter::Overlayfs => "tree",
        Snapshotter::Native => "native.tree",
    };
    format!("{TREES}/{}.{suffix}", chain_id.0.encoded())
}

/// The tree in a file; `None` when there is no file.
fn open_tree(path: &Path, chain_id: ChainId) -> Result<Option<ExpectedTree>, TreeError> {
    match capped::open_file(path) {
        Ok(file) => ExpectedTree::open(OnDisk(file), chain_id).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Why a table file is not used.
#[derive(Debug, thiserror::Error)]
enum TableFileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Damage(#[from] Damage),
    #[error("it is the table of another layer")]
    OtherLayer,
}

/// The table in a file; `None` when there is no file.
fn read_table(path: &Path, diff_id: DiffId) -> Result<Option<FileTable>, TableFileError> {
    let bytes = match capped::read_file(path, MAX_TABLE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let table = FileTable::decode(bytes)?;
    if table.diff_id() == diff_id {
        Ok(Some(table))
    } else {
        Err(TableFileError::OtherLayer)
    }
}
