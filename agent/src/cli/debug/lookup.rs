//! How long it takes to open the trees of an image, and to look a path up in them.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use holdfast_core::digest::ChainId;
use holdfast_core::layer::{MergedTree, Snapshotter};
use tokio::time::Instant;

use super::NamedLayer;
use crate::files::tables::{Asking, Layer, Tables};

/// Times that everything is opened; the median counts.
const OPENINGS: usize = 9;

/// Paths that are looked up, each once, in random order.
const LOOKUPS: usize = 20_000;

/// `layers` are given lowest first.
pub(super) fn table_lookup(layers: &[NamedLayer]) -> io::Result<()> {
    let state = tempfile::tempdir()?;
    let stack = stack_of(layers);
    let open_blob = |digest| {
        let named = layers.iter().find(|layer| layer.blob == digest);
        named.map(|layer| File::open(&layer.file)).transpose()
    };
    let asking = Asking {
        open_blob: &open_blob,
        is_over: &|| false,
    };
    let tables = Tables::new(state.path(), None)?;
    let open = || {
        let trees = tables.stack(Snapshotter::Overlayfs, &stack, asking);
        trees.map(MergedTree::new).map_err(io::Error::other)
    };
    drop(open()?);
    let mut openings = Vec::with_capacity(OPENINGS);
    for _ in 0..OPENINGS {
        let begun = Instant::now();
        // Nobody holds them any more: they are read from the disk again, whole.
        drop(open()?);
        openings.push(begun.elapsed());
    }
    let merged = open()?;
    let (mut lookups, paths, path_bytes) = look_up(&merged)?;
    let entries: u64 = merged.layers().iter().map(|tree| tree.entries()).sum();
    let on_disk = |folder: &str| bytes_in(&state.path().join(folder));
    let (trees, tables) = (on_disk("trees")?, on_disk("tables")?);
    writeln!(
        io::stdout().lock(),
        "open_seconds={:.6} lookup_seconds={:.9} entries={entries} paths={paths} path_bytes={path_bytes} \
         tree_bytes={trees} table_bytes={tables}",
        median(&mut openings).as_secs_f64(),
        median(&mut lookups).as_secs_f64(),
    )
}

fn stack_of(layers: &[NamedLayer]) -> Vec<Layer> {
    let mut stack: Vec<Layer> = Vec::with_capacity(layers.len());
    for layer in layers {
        let chain_id = stack
            .last()
            .map_or(ChainId::bottom(layer.diff_id), |below| {
                below.chain_id.push(layer.diff_id)
            });
        stack.push(Layer {
            diff_id: layer.diff_id,
            chain_id,
            blob: layer.blob,
            lower: None,
        });
    }
    stack
}

/// How long each lookup took, the number of paths seen, and their bytes.
fn look_up(merged: &MergedTree) -> io::Result<(Vec<Duration>, usize, usize)> {
    let random = RandomState::new();
    let mut paths = Vec::new();
    for seen in merged.below(b"").map_err(io::Error::other)? {
        paths.push(seen.map_err(io::Error::other)?.path);
    }
    let bytes = paths.iter().map(Vec::len).sum();
    // In the order of nothing: a scan's own order would find each path beside the last one.
    paths.sort_by_cached_key(|path| random.hash_one(path));
    let mut lookups = Vec::with_capacity(LOOKUPS);
    for path in paths.iter().take(LOOKUPS) {
        let begun = Instant::now();
        let found = merged.lookup(path).map_err(io::Error::other)?;
        lookups.push(begun.elapsed());
        if found.is_none() {
            return Err(io::Error::other("a path that was seen is not found"));
        }
    }
    Ok((lookups, paths.len(), bytes))
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn bytes_in(folder: &Path) -> io::Result<u64> {
    let files = fs::read_dir(folder)?;
    files.map(|file| Ok(file?.metadata()?.len())).sum()
}
