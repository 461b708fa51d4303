//! The unpacked layers in use: what each is compared with, what the last compare of each found, and what of
//! that each container on it reports. A layer is compared once, whatever the number of containers on it.
//!
//! It compares in one go for a person who waits. When the others are compared, and how fast, is the scrub's
//! business (`scrub.rs`).

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use holdfast_core::container::{ContainerKey, Workload};
use holdfast_core::display;
use holdfast_core::drift::group::{self, Changes, TamperedLayer};
use holdfast_core::finding::{Basis, Check, Kind, Severity};
use holdfast_core::layer::ExpectedTree;
use holdfast_core::overlay::XattrPrefix;
use jiff::Timestamp;

use super::content::{unread, worst};
use super::listing::Listing;
use super::memory::layer_keys;
use super::stands::{Stands, Unlike};
use super::verdicts::Verdicts;
use crate::files::history::History;
use crate::files::layers::{Compared, LayerKey, LayerResults};
use crate::files::reading::Source;
use crate::files::{MAX_ENTRIES, Observer, Pass, Rehash, Root, ScanOutcome, lower};
use crate::runtime::identify::Identity;

/// What one unpacked layer must hold.
#[derive(Clone, Debug)]
struct Held {
    tree: Weak<ExpectedTree>,
    prefix: XattrPrefix,
    basis: Basis,
}

/// The same, while somebody stands on it.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub(super) tree: Arc<ExpectedTree>,
    pub(super) prefix: XattrPrefix,
    basis: Basis,
}

/// The layers in use.
#[derive(Debug)]
pub struct Lowers {
    layers: Mutex<HashMap<LayerKey, Held>>,
    results: LayerResults,
    pub(super) stands: Stands,
    /// What earlier runs of the agent have seen.
    pub(super) history: History,
    /// Where a compare in one go reads.
    source: Source,
    not_direct: AtomicU64,
}

impl Lowers {
    /// Knows of no layer yet.
    pub fn new(history: History) -> Self {
        Self {
            layers: Mutex::default(),
            results: LayerResults::default(),
            stands: Stands::default(),
            history,
            source: Source::default(),
            not_direct: AtomicU64::new(0),
        }
    }

    /// Files that were to be read around the page cache, and whose file system refuses that.
    pub fn not_direct(&self) -> u64 {
        self.not_direct.load(Ordering::Relaxed)
    }

    /// The same, which reads there when it compares in one go.
    #[must_use]
    pub fn reading(self, source: Source) -> Self {
        Self { source, ..self }
    }

    /// Remembers what each layer is compared with, and forgets layers that nobody holds a tree of.
    pub(super) fn hold(
        &self,
        identity: &Identity,
        trees: &[Arc<ExpectedTree>],
        prefix: XattrPrefix,
        bases: &[Basis],
    ) {
        let mut layers = self.lock();
        layers.retain(|_, held| held.tree.strong_count() > 0);
        let trees = trees.iter().rev().zip(bases);
        for (key, (tree, basis)) in layer_keys(identity).into_iter().zip(trees) {
            let held = Held {
                tree: Arc::downgrade(tree),
                prefix,
                basis: *basis,
            };
            layers.insert(key, held);
        }
        self.results.retain(|layer| layers.contains_key(layer));
    }

    /// What a layer must hold; `None` when nobody stands on it any more.
    pub(super) fn expected(&self, layer: &LayerKey) -> Option<Expected> {
        let held = self.lock().get(layer).cloned()?;
        Some(Expected {
            tree: held.tree.upgrade()?,
            prefix: held.prefix,
            basis: held.basis,
        })
    }

    /// Compares each layer of an image in one go, unless it was. Blocks.
    pub(super) fn compare_all(
        &self,
        identity: &Identity,
        now: Timestamp,
        is_over: &dyn Fn() -> bool,
    ) {
        for layer in layer_keys(identity) {
            if self.compared_at(&layer).is_none() {
                self.compare(&layer, now, is_over);
            }
        }
    }

    fn compare(&self, layer: &LayerKey, now: Timestamp, is_over: &dyn Fn() -> bool) {
        let Some(expected) = self.expected(layer) else {
            return;
        };
        let pass = Pass {
            budget: u64::MAX,
            now,
            rehash: Rehash::All,
            max_entries: MAX_ENTRIES,
            is_over,
        };
        let mut observer = Observer::default();
        observer.reading.source = self.source;
        let compared = Root::open(&layer.lower)
            .map_err(|error| error.to_string())
            .and_then(|root| {
                let lower = self.lower(layer, &root, &expected);
                lower::compare(lower, &mut observer, pass).map_err(|error| error.to_string())
            });
        self.not_direct
            .fetch_add(observer.reading.not_direct, Ordering::Relaxed);
        if is_over() {
            return;
        }
        match compared {
            Ok(outcome) => self.keep(layer, &expected, now, outcome),
            Err(message) => self.keep_failure(layer, &expected, now, message),
        }
    }

    /// A layer's compare, ready to be made.
    pub(super) fn lower<'a>(
        &self,
        layer: &LayerKey,
        root: &'a Root,
        expected: &'a Expected,
    ) -> lower::Lower<'a> {
        lower::Lower {
            root,
            tree: &expected.tree,
            prefix: expected.prefix,
            stopped: self.history.stopped(layer),
        }
    }

    /// Keeps what a compare to the end has found.
    pub(super) fn keep(
        &self,
        layer: &LayerKey,
        expected: &Expected,
        at: Timestamp,
        outcome: ScanOutcome,
    ) {
        let compared = Compared {
            at,
            unverifiable: unread(&outcome.unverifiable).map(|(_, message)| message),
            tampered: tampered(layer, expected, outcome.changes, outcome.corrupt),
        };
        self.results.put(layer.clone(), compared);
    }

    /// Keeps why nothing could be compared.
    pub(super) fn keep_failure(
        &self,
        layer: &LayerKey,
        expected: &Expected,
        at: Timestamp,
        message: String,
    ) {
        let nothing = tampered(layer, expected, Changes::default(), Changes::default());
        let compared = Compared {
            at,
            unverifiable: Some(message),
            tampered: nothing,
        };
        self.results.put(layer.clone(), compared);
    }

    /// Keeps what a compare has found so far, until it ends.
    pub(super) fn keep_so_far(&self, layer: &LayerKey, expected: &Expected, so_far: &ScanOutcome) {
        let changes = so_far.changes.clone().finished();
        let corrupt = so_far.corrupt.clone().finished();
        let found = tampered(layer, expected, changes, corrupt);
        self.results.put_so_far(layer.clone(), found);
    }

    /// What the last compare of a layer has found, to be looked at first by the next one.
    pub(super) fn found(&self, layer: &LayerKey) -> Vec<Vec<u8>> {
        self.results.paths(layer)
    }

    /// When a layer was last compared, as far as this run of the agent knows.
    pub(super) fn compared_at(&self, layer: &LayerKey) -> Option<Timestamp> {
        let results = self.results.of(std::slice::from_ref(layer))?;
        results.first().map(|compared| compared.at)
    }

    /// When the layer that has waited longest was compared.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.results.oldest()
    }

    /// What the last compares of a container's layers found, and what the compares under way have found.
    /// Done is this check once each was compared to its end.
    pub(super) fn report(
        &self,
        (container, identity): (&ContainerKey, &Identity),
        workload: &Workload,
        listing: Option<&Listing>,
        verdicts: &mut Verdicts,
    ) {
        let workload = workload.as_str();
        // One look can say so already: its own witness is newer.
        if !verdicts.has(Check::Identity, Kind::SnapshotMismatch) {
            match self.stands.unlike(container) {
                None => {}
                Some(Unlike::Mismatch(condition)) => {
                    verdicts.also(Check::Identity, Some(*condition));
                }
                Some(Unlike::NotAsked(error)) => {
                    let (reason, message) = (error.reason(), error.to_string());
                    verdicts.not_done(Check::Identity, Severity::Info, reason, message);
                }
            }
        }
        let keys = layer_keys(identity);
        let Some(results) = self.results.of(&keys) else {
            let found = self.results.so_far(&keys);
            let basis = found.iter().map(|layer| layer.basis).max();
            let conditions = group::layer_conditions(found, workload);
            verdicts.not_yet(Check::Layers, basis, conditions);
            return;
        };
        if let Some(listing) = listing {
            listing.add_layers(&results);
        }
        let oldest = results.iter().map(|compared| compared.at).min();
        let layers = results.iter().rev();
        let tampered: Vec<TamperedLayer> =
            layers.map(|compared| compared.tampered.clone()).collect();
        let basis = Some(worst(tampered.iter().map(|layer| layer.basis)));
        let conditions = group::layer_conditions(tampered, workload);
        match results
            .iter()
            .find_map(|compared| compared.unverifiable.clone())
        {
            None => verdicts.done(Check::Layers, basis, conditions),
            Some(message) => {
                verdicts.partly_done(Check::Layers, basis, conditions);
                verdicts.not_done(Check::Layers, Severity::Warning, "unread", message);
            }
        }
        if let Some(oldest) = oldest {
            verdicts.at(Check::Layers, oldest);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LayerKey, Held>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tampered(
    layer: &LayerKey,
    expected: &Expected,
    changes: Changes,
    corrupt: Changes,
) -> TamperedLayer {
    TamperedLayer {
        chain_id: layer.chain_id,
        diff_id: expected.tree.diff_id(),
        directory: display::escape(layer.lower.as_os_str().as_bytes()),
        changes,
        corrupt,
        basis: expected.basis,
    }
}
