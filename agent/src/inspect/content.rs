//! Steps 4 and 5: the files of one container against its expected trees. The comparing blocks, so it runs on
//! a thread for that, and gives up when nobody waits for it any more.
//!
//! Long because both steps share one job on the blocking thread, and what it gives back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::display;
use holdfast_core::drift::group;
use holdfast_core::finding::{Basis, Check, Condition, Severity};
use holdfast_core::layer::{ExpectedTree, FileTable, MergedTree, Snapshotter, TreeError};
use holdfast_core::overlay::{Stubs, XattrPrefix};
use tokio::time::Instant;

use super::elsewhere::{Asked, Elsewhere};
use super::listing::{Listing, Lists};
use super::lowers::Lowers;
use super::verdicts::Verdicts;
use super::witness::Witnesses;
use super::{Layers, Memory};
use crate::files::asks::Asks;
use crate::files::fetches::Fetches;
use crate::files::tables::{Asking, Layer, Tables, Unavailable, open_blob_file};
use crate::files::{
    Extent, Keeps, MAX_ENTRIES, Observer, Pass, Rehash, Root, RootError, ScanOutcome, Unverified,
    Upper, UpperScan,
};
use crate::runtime::Roots;
use crate::runtime::identify::{ExtraKind, Identity};
use crate::runtime::kernel::KernelError;
use crate::runtime::mounts::Launch;
use crate::worker::{Progress, WorkError, Workers};

/// Paths named in the message about what could not be read.
const MAX_NAMED: usize = 5;

/// A scan that does not get on for so long is stuck. A sound disk answers within a second, a busy one within
/// some; between two steps at most a mebibyte is read.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a container's own files that one look reads, and the rest of the file that it is at: a container
/// with much data is read in several looks.
const BYTES_A_LOOK: u64 = 4 << 30;

/// Tables, trees and the results of compares, shared by all looks.
#[derive(Debug)]
pub struct Content {
    tables: Arc<Tables>,
    workers: Workers,
    /// The unpacked layers in use.
    lowers: Arc<Lowers>,
    /// Whom to ask about layers without blobs.
    elsewhere: Elsewhere,
    /// Where somebody asks for every change.
    listing: Option<Listing>,
}

/// What a container's files are compared with.
#[derive(Debug)]
pub(super) struct Expectation {
    /// The image as the container should see it.
    tree: MergedTree,
    /// What each unpacked layer must hold; kept as long as somebody stands on it.
    layers: Vec<Arc<ExpectedTree>>,
    /// What the runtime makes for its mounts.
    stubs: Stubs,
    witnesses: Witnesses,
    /// The worst of its layers'.
    basis: Basis,
}

impl Expectation {
    /// The image as the container should see it.
    pub(super) const fn tree(&self) -> &MergedTree {
        &self.tree
    }

    /// Whether the container sees the layers' own files; on `native` it has copies.
    pub(super) fn is_of_its_layers(&self) -> bool {
        let mut layers = self.layers.iter();
        layers.all(|layer| layer.snapshotter() == Snapshotter::Overlayfs)
    }
}

/// What the blocking part gave back.
struct Worked {
    expectation: Option<Arc<Expectation>>,
    uppers: Vec<UpperScan>,
    files: Result<Files, Cannot>,
}

impl Worked {
    const fn nothing(cannot: Cannot) -> Self {
        Self {
            expectation: None,
            uppers: Vec::new(),
            files: Err(cannot),
        }
    }
}

/// What the scans of the upper directories found.
struct Files {
    basis: Basis,
    binding: Result<Option<Condition>, KernelError>,
    outcome: ScanOutcome,
}

/// Why files could not be compared.
#[derive(Debug, thiserror::Error)]
enum Cannot {
    #[error(transparent)]
    Table(#[from] Unavailable),
    #[error("{0}; {1}")]
    Asked(Unavailable, Box<Asked>),
    #[error("expected tree: {0}")]
    Tree(#[from] TreeError),
    #[error("{0}: {1}")]
    Directory(PathBuf, #[source] RootError),
    #[error(transparent)]
    Work(#[from] WorkError),
}

impl Cannot {
    fn reason(&self) -> &'static str {
        match self {
            Self::Table(unavailable) | Self::Asked(unavailable, _) => unavailable.reason(),
            Self::Tree(_) => "tree",
            Self::Directory(_, RootError::Foreign(_)) => "foreign-filesystem",
            Self::Directory(_, RootError::Refused(_)) => "directory",
            Self::Work(error) => error.reason(),
        }
    }

    /// What image or container caused is at least a warning; what the node lacks is not theirs.
    fn severity(&self) -> Severity {
        match self {
            Self::Table(unavailable) if !unavailable.is_suspicious() => Severity::Info,
            Self::Asked(unavailable, asked)
                if !unavailable.is_suspicious() && !asked.is_images_fault() =>
            {
                Severity::Info
            }
            Self::Table(_)
            | Self::Asked(..)
            | Self::Tree(_)
            | Self::Directory(..)
            | Self::Work(_) => Severity::Warning,
        }
    }

    /// Neither the container's own files nor the layers below could be compared.
    fn tell(&self, verdicts: &mut Verdicts) {
        for check in [Check::Files, Check::Layers] {
            verdicts.not_done(check, self.severity(), self.reason(), self.to_string());
            verdicts.stand_on(check, self.basis());
        }
    }

    fn basis(&self) -> Basis {
        match self {
            Self::Table(unavailable) | Self::Asked(unavailable, _) => unavailable.basis(),
            Self::Tree(_) | Self::Directory(..) | Self::Work(_) => Basis::None,
        }
    }
}

impl Content {
    /// Compares with what `tables` say.
    pub fn new(tables: Arc<Tables>, workers: Workers, lowers: Arc<Lowers>) -> Self {
        Self {
            tables,
            workers,
            lowers,
            elsewhere: Elsewhere::default(),
            listing: None,
        }
    }

    /// The unpacked layers in use.
    pub fn lowers(&self) -> Arc<Lowers> {
        Arc::clone(&self.lowers)
    }

    /// From now on layers whose blobs are not here are fetched.
    pub fn fetch_with(&self, fetches: Fetches) {
        self.elsewhere.ask_registry(fetches);
    }

    /// From now on the collector is asked about layers whose blobs are not here.
    pub fn ask_with(&self, asks: Asks) {
        self.elsewhere.ask_collector(asks);
    }

    /// Keeps the table of a layer that was fetched.
    pub fn keep_fetched(&self, table: &FileTable) -> std::io::Result<()> {
        self.tables.keep(table, Basis::RegistryBlob)
    }

    /// Lists every change too, until [`Self::listed`] takes them. For one container at a time.
    #[must_use]
    pub fn listing(self) -> Self {
        Self {
            listing: Some(Listing::default()),
            ..self
        }
    }

    /// Every change that was seen since the last call.
    pub fn listed(&self) -> Lists {
        self.listing.as_ref().map(Listing::take).unwrap_or_default()
    }

    /// A scan of an upper directory that was not looked at yet.
    pub(super) fn new_scan(&self) -> UpperScan {
        UpperScan::keeping(if self.listing.is_some() {
            Keeps::Everything
        } else {
            Keeps::Findings
        })
    }

    /// Steps 4 and 5 of a look.
    pub(super) async fn check(
        self: Arc<Self>,
        memory: &mut Memory,
        identity: &Arc<Identity>,
        (roots, layers): (Roots, Layers),
        verdicts: &mut Verdicts,
    ) {
        let started = Instant::now();
        let uppers = std::mem::take(&mut memory.uppers);
        let before = (memory.expectation.take(), uppers);
        let (content, identity_there, now) =
            (Arc::clone(&self), Arc::clone(identity), verdicts.now());
        let (rehash, budget) = effort(layers);
        let launch = identity.root.and_then(|root| memory.launch(root));
        let work = move |progress: &Progress| {
            let is_over = || progress.is_over();
            let pass = Pass {
                budget,
                now,
                rehash,
                max_entries: MAX_ENTRIES,
                is_over: &is_over,
            };
            let (expectation, uppers) = before;
            let expect = || {
                let made =
                    content.expectation(&identity_there, launch.as_deref(), &roots, &is_over);
                made.map(Arc::new)
            };
            let made = expectation.map_or_else(|| progress.unhurried(expect), Ok);
            let worked = Self::work(&identity_there, made, uppers, pass);
            if layers == Layers::CompareNow && worked.expectation.is_some() {
                content.lowers.compare_all(&identity_there, now, &is_over);
            }
            worked
        };
        let key = memory.key();
        let subject = format!("files of {}/{}", key.namespace, key.id);
        let worked = self.workers.run(&subject, PATIENCE, work).await;
        let worked = worked.unwrap_or_else(|error| Worked::nothing(error.into()));
        if let Some(expectation) = &worked.expectation {
            self.lowers.stands.put(memory.key(), identity, expectation);
        }
        memory.expectation = worked.expectation;
        memory.uppers = worked.uppers;
        let workload = memory.about("").workload;
        match worked.files {
            Ok(mut files) => {
                let accepted = files.outcome.changes.take_accepted();
                verdicts.accepted(Check::Files, accepted);
                if let Some(listing) = &self.listing {
                    listing.add(&mut files.outcome.changes);
                }
                report_files(files, workload.as_str(), verdicts);
            }
            Err(cannot) => {
                self.distrust(&cannot, memory, identity);
                return cannot.tell(verdicts);
            }
        }
        verdicts.took(&[Check::Files], started.elapsed());
        let listing = self.listing.as_ref();
        self.lowers
            .report((memory.key(), identity), &workload, listing, verdicts);
    }

    /// A tree that rots while it is open gives no answer: the next look reads it anew, and makes it anew where
    /// it is damaged.
    fn distrust(&self, cannot: &Cannot, memory: &mut Memory, identity: &Identity) {
        if !matches!(cannot, Cannot::Tree(_)) {
            return;
        }
        memory.expectation = None;
        let chains = identity.layers.iter().map(|layer| layer.chain_id);
        self.tables.distrust(identity.snapshotter, chains);
    }

    /// The blocking part, once it is known what to expect: witnesses, the upper directories.
    fn work(
        identity: &Identity,
        made: Result<Arc<Expectation>, Cannot>,
        mut uppers: Vec<UpperScan>,
        pass: Pass<'_>,
    ) -> Worked {
        let expectation = match made {
            Ok(expectation) => expectation,
            Err(cannot) => {
                return Worked {
                    expectation: None,
                    uppers,
                    files: Err(cannot),
                };
            }
        };
        let trees = (&expectation.tree, expectation.layers.as_slice());
        let witnesses = &expectation.witnesses;
        let binding = witnesses.bind(trees, identity, prefix(identity), pass);
        let outcome = scan_uppers(identity, &expectation, &mut uppers, pass);
        let files = outcome.map(|outcome| Files {
            basis: expectation.basis,
            binding,
            outcome,
        });
        Worked {
            expectation: Some(expectation),
            uppers,
            files,
        }
    }

    fn expectation(
        &self,
        identity: &Identity,
        launch: Option<&Launch>,
        roots: &Roots,
        is_over: &dyn Fn() -> bool,
    ) -> Result<Expectation, Cannot> {
        let layer = |layer: &crate::runtime::identify::LayerRef| Layer {
            diff_id: layer.diff_id,
            chain_id: layer.chain_id,
            blob: layer.blob.digest,
            lower: Some(layer.lower.clone()),
        };
        let layers: Vec<Layer> = identity.layers.iter().map(layer).collect();
        let open_blob = |digest| match roots.blob_path(digest) {
            Some(path) => open_blob_file(&path),
            None => Ok(None),
        };
        let asking = Asking {
            open_blob: &open_blob,
            is_over,
        };
        let stack = self.tables.stack(identity.snapshotter, &layers, asking);
        let trees = stack.map_err(|error| self.cannot(error, identity))?;
        let bases: Vec<Basis> = layers
            .iter()
            .map(|layer| self.tables.basis(layer.diff_id))
            .collect();
        self.lowers.hold(identity, &trees, prefix(identity), &bases);
        let witnesses = Witnesses::draw(&trees)?;
        let shift = identity
            .extra_uppers
            .iter()
            .find_map(|extra| match extra.kind {
                ExtraKind::Remap { uid, gid } => Some((uid, gid)),
                ExtraKind::Init | ExtraKind::Other => None,
            });
        let (uid, gid) = shift.unwrap_or_default();
        let tree = MergedTree::new(seen(identity, &trees));
        let tree = tree.with_owners_shifted(uid, gid)?;
        let stubs = stubs(identity, launch, &tree)?;
        Ok(Expectation {
            tree,
            layers: trees,
            stubs,
            witnesses,
            basis: worst(bases),
        })
    }

    /// Why there are no trees; a layer without its blob is asked for, and a later look finds its table.
    fn cannot(&self, unavailable: Unavailable, identity: &Identity) -> Cannot {
        match self.elsewhere.ask(&self.tables, &unavailable, identity) {
            Some(asked) => Cannot::Asked(unavailable, Box::new(asked)),
            None => Cannot::Table(unavailable),
        }
    }
}

/// What a verdict over several layers stands on. An image without layers hides nothing.
pub(super) fn worst(bases: impl IntoIterator<Item = Basis>) -> Basis {
    bases.into_iter().max().unwrap_or(Basis::LocalBlob)
}

/// What the runtime makes for mounts: those of the record, and those that a wrapper around it has added to the
/// bundle. Without the bundle, what is made for the latter is reported as added.
fn stubs(
    identity: &Identity,
    launch: Option<&Launch>,
    tree: &MergedTree,
) -> Result<Stubs, TreeError> {
    let given = launch.into_iter().flat_map(|it| &it.declared.mounts);
    let given = given.map(|mount| &mount.destination);
    let targets = identity.stubs.iter().chain(given).map(Vec::as_slice);
    Stubs::of_mounts(&targets.collect::<Vec<_>>(), tree)
}

/// Scans every directory that can hide what the layers have.
fn scan_uppers(
    identity: &Identity,
    expectation: &Expectation,
    scans: &mut Vec<UpperScan>,
    pass: Pass<'_>,
) -> Result<ScanOutcome, Cannot> {
    let open =
        |path: &PathBuf| Root::open(path).map_err(|error| Cannot::Directory(path.clone(), error));
    let lowers = identity
        .layers
        .iter()
        .rev()
        .map(|layer| open(&layer.lower))
        .collect::<Result<Vec<_>, _>>()?;
    let directories = identity.uppers();
    scans.resize_with(directories.len(), UpperScan::default);
    let mut observer = Observer::default();
    let mut all: Option<ScanOutcome> = None;
    for (directory, scan) in directories.iter().zip(scans) {
        let root = open(directory)?;
        let upper = Upper {
            root: &root,
            extent: extent(identity),
            tree: &expectation.tree,
            lowers: &lowers,
            stubs: &expectation.stubs,
            prefix: prefix(identity),
        };
        let outcome = scan
            .scan(&upper, &mut observer, pass)
            .map_err(|crate::files::ScanError::Tree(error)| error)?;
        all = Some(match all {
            None => outcome,
            Some(before) => before.and(outcome),
        });
    }
    Ok(all.unwrap_or_default())
}

/// The trees that make up what the container sees, of those of all its layers (topmost first): on `native` the
/// topmost has everything.
fn seen(identity: &Identity, trees: &[Arc<ExpectedTree>]) -> Vec<Arc<ExpectedTree>> {
    let seen = match identity.snapshotter {
        Snapshotter::Overlayfs => trees,
        Snapshotter::Native => trees.get(..1).unwrap_or_default(),
    };
    seen.to_vec()
}

/// Whoever asks by hand waits for all of it.
const fn effort(layers: Layers) -> (Rehash, u64) {
    match layers {
        Layers::CompareNow | Layers::NotAsked => (Rehash::All, u64::MAX),
        Layers::AsCompared => (Rehash::Due, BYTES_A_LOOK),
    }
}

const fn extent(identity: &Identity) -> Extent {
    match identity.snapshotter {
        Snapshotter::Overlayfs => Extent::Changes,
        Snapshotter::Native => Extent::Whole,
    }
}

const fn prefix(identity: &Identity) -> XattrPrefix {
    if identity.userxattr {
        XattrPrefix::User
    } else {
        XattrPrefix::Trusted
    }
}

fn report_files(files: Files, workload: &str, verdicts: &mut Verdicts) {
    match files.binding {
        Ok(mismatch) => verdicts.also(Check::Identity, mismatch),
        Err(error) => verdicts.not_done(
            Check::Identity,
            Severity::Info,
            error.reason(),
            error.to_string(),
        ),
    }
    let basis = Some(files.basis);
    let conditions = group::conditions(files.outcome.changes, workload, basis);
    match unread(&files.outcome.unverifiable) {
        None => verdicts.done(Check::Files, basis, conditions),
        // What was seen counts; what was not seen any more may be behind what could not be read.
        Some((reason, message)) => {
            verdicts.partly_done(Check::Files, basis, conditions);
            let severity = files.outcome.unverifiable.worst;
            let severity = severity.unwrap_or(Severity::Warning);
            verdicts.not_done(Check::Files, severity, reason, message);
        }
    }
}

/// What could not be read, in one sentence; `None` when everything was.
pub(super) fn unread(unverified: &Unverified) -> Option<(&'static str, String)> {
    let (_, first) = unverified.listed.first()?;
    let name = |(path, reason): &(Vec<u8>, crate::files::Unread)| {
        format!("{}: {reason}", display::path(path))
    };
    let named: Vec<String> = unverified.listed.iter().take(MAX_NAMED).map(name).collect();
    let more = unverified
        .total
        .saturating_sub(u64::try_from(named.len()).unwrap_or(u64::MAX));
    let more = if more == 0 {
        String::new()
    } else {
        format!(" and {more} more")
    };
    Some((first.as_str(), format!("{}{more}", named.join("; "))))
}
