//! What the last whole compare of each unpacked layer found. A layer is compared once, whatever the
//! number of containers that stand on it; each of them reports the result.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_core::digest::ChainId;
use holdfast_core::drift::group::TamperedLayer;
use jiff::Timestamp;

/// One snapshot directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKey {
    /// The chain that it must hold the topmost layer of.
    pub chain_id: ChainId,
    /// Where it is.
    pub lower: PathBuf,
}

/// How a compare ended.
#[derive(Clone, Debug)]
pub struct Compared {
    /// When.
    pub at: Timestamp,
    /// What differs; why it could not be compared to the end.
    pub tampered: TamperedLayer,
    /// Files that could not be read, or the reason why nothing could.
    pub unverifiable: Option<String>,
}

/// The results, shared between looks.
#[derive(Debug, Default)]
pub struct LayerResults {
    results: Mutex<HashMap<LayerKey, Arc<Compared>>>,
}

impl LayerResults {
    /// Keeps a result in place of an older one.
    pub fn put(&self, layer: LayerKey, compared: Compared) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.insert(layer, Arc::new(compared));
    }

    /// The results of `layers`; `None` while one of them was never compared.
    pub fn of(&self, layers: &[LayerKey]) -> Option<Vec<Arc<Compared>>> {
        let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        layers
            .iter()
            .map(|layer| results.get(layer).cloned())
            .collect()
    }

    /// Forgets what nobody stands on.
    pub fn retain(&self, is_used: impl Fn(&LayerKey) -> bool) {
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        results.retain(|layer, _| is_used(layer));
    }
}
