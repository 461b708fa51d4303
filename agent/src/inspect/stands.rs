//! Which containers stand on which layers, and whether each sees the files that were hashed below it: the
//! binding of every file of a layer, once a scrub pass.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use holdfast_core::container::ContainerKey;
use holdfast_core::finding::Condition;

use super::content::Expectation;
use super::memory::layer_keys;
use crate::files::layers::LayerKey;
use crate::files::lower::Hashed;
use crate::runtime::identify::{Identity, bound};
use crate::runtime::kernel::{self, Binding, FileId, KernelError, RootWitness, WitnessFile};

/// One container, as a layer's scrub sees it.
#[derive(Clone, Debug)]
pub(super) struct Stand {
    /// Where the kernel shows it.
    root: Option<RootWitness>,
    uppers: Vec<PathBuf>,
    /// Topmost first, as in the merged tree.
    layers: Vec<LayerKey>,
    /// Gone with the container's memory.
    expectation: Weak<Expectation>,
    /// What the scrubs of its layers have seen that is not what it sees.
    mismatches: BTreeMap<LayerKey, Condition>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Stands(Mutex<BTreeMap<ContainerKey, Stand>>);

impl Stands {
    /// A container was looked at.
    pub(super) fn put(
        &self,
        container: &ContainerKey,
        identity: &Identity,
        expectation: &Arc<Expectation>,
    ) {
        let stand = Stand {
            root: identity.root,
            uppers: identity.uppers(),
            layers: layer_keys(identity).into_iter().rev().collect(),
            expectation: Arc::downgrade(expectation),
            mismatches: BTreeMap::new(),
        };
        let mut stands = self.lock();
        stands.retain(|_, stand| stand.expectation.strong_count() > 0);
        let is_same = |before: &Stand| before.root == stand.root && before.layers == stand.layers;
        match stands.get_mut(container) {
            Some(before) if is_same(before) => before.expectation = stand.expectation,
            _ => drop(stands.insert(container.clone(), stand)),
        }
    }

    /// Whether a container stands on the layer.
    pub(super) fn are_on(&self, layer: &LayerKey) -> bool {
        let stands = self.lock();
        let is_on =
            |stand: &Stand| stand.expectation.strong_count() > 0 && stand.layers.contains(layer);
        stands.values().any(is_on)
    }

    /// The containers on a layer.
    pub(super) fn on(&self, layer: &LayerKey) -> Vec<(ContainerKey, Stand)> {
        let stands = self.lock();
        let on_it = stands
            .iter()
            .filter(|(_, stand)| stand.layers.contains(layer));
        on_it
            .map(|(container, stand)| (container.clone(), stand.clone()))
            .collect()
    }

    /// What the scrubs have seen of a container's layers that is not what it sees.
    pub(super) fn mismatch(&self, container: &ContainerKey) -> Option<Condition> {
        let stands = self.lock();
        stands.get(container)?.mismatches.values().next().cloned()
    }

    /// A file of a layer is not what the container sees.
    pub(super) fn differs(&self, container: &ContainerKey, layer: &LayerKey, condition: Condition) {
        if let Some(stand) = self.lock().get_mut(container) {
            stand.mismatches.entry(layer.clone()).or_insert(condition);
        }
    }

    /// A pass over a layer has ended; of all containers only these have seen something else.
    pub(super) fn end_pass(&self, layer: &LayerKey, but: &BTreeSet<ContainerKey>) {
        for (container, stand) in &mut *self.lock() {
            if !but.contains(container) {
                stand.mismatches.remove(layer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerKey, Stand>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stand {
    /// The container's first process.
    pub(super) fn pid(&self) -> Option<u32> {
        self.root.map(|root| root.pid)
    }

    /// What it is compared with, while it is watched.
    pub(super) fn expectation(&self) -> Option<Arc<Expectation>> {
        self.expectation.upgrade()
    }

    /// The place of a layer in the merged tree.
    pub(super) fn index(&self, layer: &LayerKey) -> Option<usize> {
        self.layers.iter().position(|own| own == layer)
    }

    /// Whether the container sees, at each path that this layer shows it, the file that was hashed.
    pub(super) fn bind(
        &self,
        layer: &LayerKey,
        hashed: &[Hashed],
    ) -> Result<Option<Condition>, KernelError> {
        let (Some(expectation), Some(index)) = (self.expectation(), self.index(layer)) else {
            return Ok(None);
        };
        // Where the kernel does not show a root, the container's own looks say so.
        let Some(root) = self.root else {
            return Ok(None);
        };
        let file = |hashed: &Hashed| FileId::new(hashed.inode, hashed.born);
        let files: Vec<(&[u8], FileId)> = hashed
            .iter()
            .map(|hashed| (hashed.path.as_slice(), file(hashed)))
            .collect();
        let bindings = kernel::bind_hashed(root, &self.uppers, &files)?;
        // Asked only where it matters: what a higher layer shows instead says nothing.
        let is_shown = |path: &[u8]| matches!(expectation.tree().lookup(path), Ok(Some((at, _))) if at == index);
        let differing = hashed.iter().zip(bindings).find(|(hashed, binding)| {
            matches!(binding, Binding::Differs | Binding::Missing) && is_shown(&hashed.path)
        });
        Ok(differing.and_then(|(hashed, binding)| {
            let witness = WitnessFile {
                path: hashed.path.clone(),
                lower: layer.lower.clone(),
            };
            bound(&[witness], &[binding])
        }))
    }
}
