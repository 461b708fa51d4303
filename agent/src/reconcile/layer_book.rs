//! Which unpacked layers are in use, by which containers, and when each is compared next.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use holdfast_core::container::ContainerKey;
use tokio::time::Instant;

use crate::files::layers::LayerKey;

/// A compare that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Use {
    containers: BTreeSet<ContainerKey>,
    next: Instant,
    is_running: bool,
}

/// The layers in use: each is compared once, whatever the number of containers on it.
#[derive(Debug)]
pub(super) struct LayerBook {
    interval: Duration,
    layers: BTreeMap<LayerKey, Use>,
}

impl LayerBook {
    pub(super) const fn new(interval: Duration) -> Self {
        Self {
            interval,
            layers: BTreeMap::new(),
        }
    }

    /// A container stands on `layers`, and on no others. A layer is due at first sight.
    pub(super) fn use_by(&mut self, container: &ContainerKey, layers: &[LayerKey], now: Instant) {
        for (layer, used) in &mut self.layers {
            if !layers.contains(layer) {
                used.containers.remove(container);
            }
        }
        for layer in layers {
            let new = || Use {
                containers: BTreeSet::new(),
                next: now,
                is_running: false,
            };
            let used = self.layers.entry(layer.clone()).or_insert_with(new);
            if !used.containers.contains(container) {
                used.containers.insert(container.clone());
            }
        }
        self.layers
            .retain(|_, used| used.is_running || !used.containers.is_empty());
    }

    /// A container has ended.
    pub(super) fn forget(&mut self, container: &ContainerKey) {
        self.use_by(container, &[], Instant::now());
    }

    /// The layer that has waited longest. The scrub is handed all that are due: which of them comes first,
    /// it decides, and it compares one at a time.
    pub(super) fn start_due(&mut self, now: Instant) -> Option<LayerKey> {
        let due = self.layers.iter_mut();
        let due = due.filter(|(_, used)| used.next <= now && !used.is_running);
        let (layer, used) = due.min_by_key(|(_, used)| used.next)?;
        used.is_running = true;
        Some(layer.clone())
    }

    /// The containers on a layer.
    pub(super) fn containers(&self, layer: &LayerKey) -> Vec<ContainerKey> {
        let used = self.layers.get(layer);
        used.map(|used| used.containers.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// A layer has been compared.
    pub(super) fn on_compared(&mut self, layer: &LayerKey, next: Instant) {
        self.finish(layer, next);
    }

    pub(super) fn on_compare_failed(&mut self, layer: &LayerKey, now: Instant) {
        self.finish(layer, now + RETRY.min(self.interval));
    }

    fn finish(&mut self, layer: &LayerKey, next: Instant) {
        if let Some(used) = self.layers.get_mut(layer) {
            used.is_running = false;
            used.next = next;
        }
    }
}
