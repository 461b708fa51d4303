//! What the last whole compare of each unpacked layer found, and what a compare that is under way has found
//! so far. A layer is compared once, whatever the number of containers that stand on it; each of them reports
//! the result.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use holdfast_core::digest::ChainId;
use holdfast_core::drift::group::{Changes, TamperedLayer};
use jiff::Timestamp;

/// Changes of a last result that are joined with newer ones.
const MAX_JOINED: u64 = 1_000;

/// One snapshot directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerKey {
    /// The chain that it must hold the topmost layer of.
    pub chain_id: ChainId,
    /// Where it is.
    pub lower: PathBuf,
}

impl std::fmt::Display for LayerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "layer {}", self.lower.display())
    }
}

/// How a compare ended.
#[derive(Clone, Debug)]
pub struct Compared {
    /// When it began.
    pub at: Timestamp,
    /// What differs; why it could not be compared to the end.
    pub tampered: TamperedLayer,
    /// Files that could not be read, or the reason why nothing could.
    pub unverifiable: Option<String>,
}

/// One layer.
#[derive(Debug, Default)]
struct OneLayer {
    compared: Option<Arc<Compared>>,
    so_far: Option<TamperedLayer>,
}

/// The results, shared between looks.
#[derive(Debug, Default)]
pub struct LayerResults {
    results: Mutex<HashMap<LayerKey, OneLayer>>,
}

impl LayerResults {
    /// Keeps a result in place of an older one, and of what its compare had found so far.
    pub fn put(&self, layer: LayerKey, compared: Compared) {
        let compared = Some(Arc::new(compared));
        let so_far = None;
        self.lock().insert(layer, OneLayer { compared, so_far });
    }

    /// Keeps what a compare under way has found beside the last result: days may pass until it ends.
    pub fn put_so_far(&self, layer: LayerKey, found: TamperedLayer) {
        self.lock().entry(layer).or_default().so_far = Some(found);
    }

    /// The results of `layers`, with what was found since; `None` while one of them was never compared.
    pub fn of(&self, layers: &[LayerKey]) -> Option<Vec<Arc<Compared>>> {
        let results = self.lock();
        let both = |layer| results.get(layer).and_then(OneLayer::both);
        layers.iter().map(both).collect()
    }

    /// What the compares under way have found, topmost layer first.
    pub fn so_far(&self, layers: &[LayerKey]) -> Vec<TamperedLayer> {
        let results = self.lock();
        let mut found = Vec::new();
        for layer in layers.iter().rev() {
            let Some(result) = results.get(layer) else {
                continue;
            };
            let both = result.both().map(|both| both.tampered.clone());
            found.extend(both.or_else(|| result.so_far.clone()));
        }
        found
    }

    /// Where something was found in a layer.
    pub fn paths(&self, layer: &LayerKey) -> Vec<Vec<u8>> {
        let results = self.lock();
        let Some(both) = results.get(layer).and_then(OneLayer::both) else {
            return Vec::new();
        };
        let changes = both.tampered.changes.iter();
        let all = changes.chain(both.tampered.corrupt.iter());
        all.map(|change| change.path.clone()).collect()
    }

    /// When the layer that has waited longest was compared.
    pub fn oldest(&self) -> Option<Timestamp> {
        let results = self.lock();
        let compared = results
            .values()
            .filter_map(|result| result.compared.as_ref());
        compared.map(|compared| compared.at).min()
    }

    /// Forgets what nobody stands on.
    pub fn retain(&self, is_used: impl Fn(&LayerKey) -> bool) {
        self.lock().retain(|layer, _| is_used(layer));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LayerKey, OneLayer>> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OneLayer {
    /// The last result, and what was found since: of a path that both name, the newer.
    fn both(&self) -> Option<Arc<Compared>> {
        let compared = self.compared.as_ref()?;
        let Some(so_far) = &self.so_far else {
            return Some(Arc::clone(compared));
        };
        // So many are one finding already, and a list that is cut cannot be joined.
        if compared.tampered.changes.total() > MAX_JOINED {
            return Some(Arc::clone(compared));
        }
        let all = so_far.changes.iter().chain(so_far.corrupt.iter());
        let newer: BTreeSet<&[u8]> = all.map(|change| change.path.as_slice()).collect();
        let join = |old: &Changes, new: &Changes| {
            let mut joined = Changes::default();
            let kept = old
                .iter()
                .filter(|change| !newer.contains(change.path.as_slice()));
            for change in kept.chain(new.iter()) {
                joined.push_of_layer(change.clone());
            }
            joined.finished()
        };
        let tampered = TamperedLayer {
            changes: join(&compared.tampered.changes, &so_far.changes),
            corrupt: join(&compared.tampered.corrupt, &so_far.corrupt),
            ..compared.tampered.clone()
        };
        Some(Arc::new(Compared {
            tampered,
            ..Compared::clone(compared)
        }))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::digest::{DiffId, Digest};
    use holdfast_core::drift::ChangeKind;
    use holdfast_core::drift::class::judge_in_layer;
    use holdfast_core::finding::Basis;

    use super::*;

    fn key(name: &str) -> LayerKey {
        LayerKey {
            chain_id: ChainId(Digest::of(name.as_bytes())),
            lower: name.into(),
        }
    }

    fn found(changes: &[(&str, ChangeKind)]) -> TamperedLayer {
        let mut all = Changes::default();
        for (path, kind) in changes {
            all.push_of_layer(judge_in_layer(path.as_bytes(), *kind, None, None));
        }
        TamperedLayer {
            chain_id: ChainId(Digest::of(b"c")),
            diff_id: DiffId(Digest::of(b"d")),
            directory: "/d".to_owned(),
            changes: all.finished(),
            corrupt: Changes::default(),
            basis: Basis::LocalBlob,
        }
    }

    fn compared(second: i64, changes: &[(&str, ChangeKind)]) -> Compared {
        Compared {
            at: Timestamp::from_second(second).unwrap(),
            tampered: found(changes),
            unverifiable: None,
        }
    }

    fn shown(changes: &Changes) -> Vec<(String, ChangeKind)> {
        let path = |path: &[u8]| String::from_utf8(path.to_vec()).unwrap();
        let changes = changes.iter();
        changes
            .map(|change| (path(&change.path), change.kind))
            .collect()
    }

    #[test]
    fn a_container_has_no_result_before_each_of_its_layers_has() {
        let (results, layers) = (LayerResults::default(), [key("a"), key("b")]);
        results.put(key("a"), compared(7, &[]));
        results.put_so_far(key("b"), found(&[("etc/x", ChangeKind::Modified)]));
        assert!(results.of(&layers).is_none());
        let so_far = results.so_far(&layers);
        assert_eq!(
            shown(&so_far[0].changes),
            [("etc/x".to_owned(), ChangeKind::Modified)]
        );
        assert!(so_far[1].changes.is_empty());
        results.put(key("b"), compared(5, &[]));
        assert_eq!(results.of(&layers).unwrap().len(), 2);
        assert_eq!(results.oldest(), Timestamp::from_second(5).ok());
    }

    #[test]
    fn what_is_found_on_the_way_is_told_at_once_and_nothing_is_gone_before_the_end() {
        let (results, layer) = (LayerResults::default(), key("a"));
        let (modified, removed) = (ChangeKind::Modified, ChangeKind::Removed);
        results.put(
            layer.clone(),
            compared(1, &[("etc/a", modified), ("etc/b", modified)]),
        );
        results.put_so_far(
            layer.clone(),
            found(&[("etc/b", removed), ("etc/c", modified)]),
        );
        let [both] = &results.of(std::slice::from_ref(&layer)).unwrap()[..] else {
            panic!("one layer");
        };
        let mut now = shown(&both.tampered.changes);
        now.sort();
        let due = [("etc/a", modified), ("etc/b", removed), ("etc/c", modified)];
        assert_eq!(now, due.map(|(path, kind)| (path.to_owned(), kind)));
        assert_eq!(results.paths(&layer).len(), 3);

        results.put(layer.clone(), compared(2, &[("etc/c", modified)]));
        assert_eq!(results.paths(&layer), [b"etc/c"]);
    }

    #[test]
    fn what_nobody_stands_on_is_forgotten() {
        let results = LayerResults::default();
        results.put(key("a"), compared(1, &[]));
        results.put(key("b"), compared(1, &[]));
        results.retain(|layer| *layer == key("b"));
        assert!(results.of(&[key("a")]).is_none());
        assert!(results.of(&[key("b")]).is_some());
    }
}
