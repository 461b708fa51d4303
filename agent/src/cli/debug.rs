//! Hidden commands for benchmarks: one part of the product alone, timed by itself.

mod lookup;

use std::fs::File;
use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::Subcommand;
use holdfast_core::digest::{ChainId, DiffId, Digest};
use holdfast_core::layer::skeleton::Skeleton;
use holdfast_core::layer::{FileTable, Limits, MergedTree, Snapshotter};
use holdfast_core::overlay::{Stubs, XattrPrefix};
use holdfast_daemon::capped;
use rustix::time::{ClockId, clock_gettime};

use super::{Exit, complain};
use crate::files::skeletons::MAX_SKELETON_BYTES;
use crate::files::tables::{Asking, Layer, Tables};
use crate::files::{
    Extent, MAX_ENTRIES, Observer, Pass, Rehash, Root, Upper, UpperScan, prove_over_nothing,
};

#[derive(Debug, Subcommand)]
pub(super) enum Debug {
    /// Build the file tables of layers, and throw them away
    Table {
        /// Layers that are built at the same time
        #[arg(long, default_value_t = 1)]
        jobs: usize,
        /// FILE=BLOB-DIGEST,DIFF-ID, digests in hex
        #[arg(required = true)]
        layers: Vec<NamedLayer>,
    },
    /// Open the trees of an image, and look paths up in them
    TableLookup {
        /// Its layers, lowest first: FILE=BLOB-DIGEST,DIFF-ID, digests in hex
        #[arg(required = true)]
        layers: Vec<NamedLayer>,
    },
    /// Scan an upper directory once for each line of the standard input
    ScanUpper {
        /// The image's only layer, unpacked
        #[arg(long)]
        lower: PathBuf,
        /// The layer: FILE=BLOB-DIGEST,DIFF-ID, digests in hex
        #[arg(long)]
        layer: NamedLayer,
        /// The upper directory
        upper: PathBuf,
    },
    /// Prove a skeleton once for each line of the standard input, and throw the table away
    Proof {
        /// The layer, unpacked
        #[arg(long)]
        lower: PathBuf,
        /// The skeleton of a lowest layer
        skeleton: PathBuf,
    },
}

/// A layer's blob and what it must hash to.
#[derive(Clone, Debug)]
pub(super) struct NamedLayer {
    file: PathBuf,
    blob: Digest,
    diff_id: DiffId,
}

impl FromStr for NamedLayer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (file, digests) = text.rsplit_once('=')?;
            let (blob, diff_id) = digests.split_once(',')?;
            let digest = |hex: &str| format!("sha256:{hex}").parse().ok();
            Some(Self {
                file: file.into(),
                blob: digest(blob)?,
                diff_id: DiffId(digest(diff_id)?),
            })
        };
        parse().ok_or_else(|| "expected FILE=BLOB-DIGEST,DIFF-ID".to_owned())
    }
}

pub(super) fn run(command: &Debug) -> Exit {
    let done = match command {
        Debug::Table { jobs, layers } => table(*jobs, layers),
        Debug::TableLookup { layers } => lookup::table_lookup(layers),
        Debug::ScanUpper {
            lower,
            layer,
            upper,
        } => scan_upper(lower, layer, upper),
        Debug::Proof { lower, skeleton } => proof(lower, skeleton),
    };
    match done {
        Ok(()) => Exit::Clean,
        Err(error) => {
            complain(&error);
            Exit::Failure
        }
    }
}

fn table(jobs: usize, layers: &[NamedLayer]) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        let (mut files, mut in_bytes) = (0_u64, 0_u64);
        while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let blob = File::open(&layer.file)?;
            in_bytes += blob.metadata()?.len();
            let table = FileTable::build(blob, layer.blob, layer.diff_id, &Limits::default())
                .map_err(io::Error::other)?;
            files += table.entries();
        }
        Ok::<_, io::Error>((files, in_bytes))
    };
    let (files, in_bytes) = thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let mut sums = (0, 0);
        for worker in workers {
            let defect = |_panic| io::Error::other("a build has ended in a defect");
            let (files, in_bytes) = worker.join().map_err(defect)??;
            sums = (sums.0 + files, sums.1 + in_bytes);
        }
        Ok::<_, io::Error>(sums)
    })?;
    let mut out = io::stdout().lock();
    let peak = peak_mib().unwrap_or(0);
    writeln!(
        out,
        "cpu_seconds={:.6} files={files} in_bytes={in_bytes} peak_mib={peak}",
        cpu_seconds()
    )
}

fn scan_upper(lower: &Path, layer: &NamedLayer, upper: &Path) -> io::Result<()> {
    let state = tempfile::tempdir()?;
    let chain_id = ChainId::bottom(layer.diff_id);
    let layers = [Layer {
        diff_id: layer.diff_id,
        chain_id,
        blob: layer.blob,
        lower: None,
    }];
    let open_blob = |_digest| File::open(&layer.file).map(Some);
    let asking = Asking {
        open_blob: &open_blob,
        is_over: &|| false,
    };
    let tables = Tables::new(state.path(), None)?;
    let trees = tables.stack(Snapshotter::Overlayfs, &layers, asking);
    let tree = MergedTree::new(trees.map_err(io::Error::other)?);
    let root = |path: &Path| Root::open(path).map_err(io::Error::other);
    let (upper, lowers) = (root(upper)?, [root(lower)?]);
    let stubs = Stubs::default();
    let upper = Upper {
        root: &upper,
        extent: Extent::Changes,
        tree: &tree,
        lowers: &lowers,
        stubs: &stubs,
        prefix: XattrPrefix::Trusted,
    };
    let (mut scan, mut observer) = (UpperScan::default(), Observer::default());
    for line in io::stdin().lock().lines() {
        line?;
        let before = cpu_seconds();
        let pass = Pass {
            budget: u64::MAX,
            now: crate::now(),
            rehash: Rehash::Due,
            max_entries: MAX_ENTRIES,
            is_over: &|| false,
        };
        let outcome = scan
            .scan(&upper, &mut observer, pass)
            .map_err(io::Error::other)?;
        let (used, changes) = (cpu_seconds() - before, outcome.changes.total());
        let mut out = io::stdout().lock();
        let (hashed, peak) = (outcome.bytes_hashed, peak_mib().unwrap_or(0));
        writeln!(
            out,
            "cpu_seconds={used:.6} entries={} hashed={hashed} changes={changes} peak_mib={peak}",
            outcome.entries
        )?;
    }
    Ok(())
}

fn proof(lower: &Path, skeleton: &Path) -> io::Result<()> {
    let bytes = capped::read_file(skeleton, MAX_SKELETON_BYTES)?;
    let skeleton = Skeleton::decode(bytes).map_err(io::Error::other)?;
    let root = Root::open(lower).map_err(io::Error::other)?;
    for line in io::stdin().lock().lines() {
        line?;
        let before = cpu_seconds();
        let table = prove_over_nothing(&skeleton, &root).map_err(io::Error::other)?;
        let used = cpu_seconds() - before;
        let entries = table.entries();
        writeln!(
            io::stdout().lock(),
            "cpu_seconds={used:.6} entries={entries}"
        )?;
    }
    Ok(())
}

/// CPU time of this process so far.
fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    std::time::Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
    .as_secs_f64()
}

/// The most memory that this process has held.
fn peak_mib() -> Option<u64> {
    let status = capped::read_file("/proc/self/status".as_ref(), 1 << 16).ok()?;
    let status = String::from_utf8(status).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? >> 10)
}
