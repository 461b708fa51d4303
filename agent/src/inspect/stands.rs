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
    /// What the scrubs of its layers have to say, where that is not "the same files".
    unlike: BTreeMap<LayerKey, Unlike>,
}

/// Why a container does not see, or may not see, the files of a layer that were hashed.
#[derive(Clone, Debug)]
pub(super) enum Unlike {
    /// It sees another one.
    Mismatch(Box<Condition>),
    /// It could not be asked.
    NotAsked(KernelError),
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
            unlike: BTreeMap::new(),
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

    /// What the scrubs of a container's layers have to say about it; a mismatch first.
    pub(super) fn unlike(&self, container: &ContainerKey) -> Option<Unlike> {
        let stands = self.lock();
        let mut all = stands.get(container)?.unlike.values();
        let is_mismatch = |unlike: &&Unlike| matches!(unlike, Unlike::Mismatch(_));
        all.clone()
            .find(is_mismatch)
            .or_else(|| all.next())
            .cloned()
    }

    /// A file of a layer is not what the container sees, or that could not be asked. The first stays, unless
    /// a mismatch comes after it.
    pub(super) fn differs(&self, container: &ContainerKey, layer: &LayerKey, unlike: Unlike) {
        let mut stands = self.lock();
        let Some(stand) = stands.get_mut(container) else {
            return;
        };
        if matches!(stand.unlike.get(layer), None | Some(Unlike::NotAsked(_))) {
            stand.unlike.insert(layer.clone(), unlike);
        }
    }

    /// A pass over a layer has ended; of all containers only about these there was something to say.
    pub(super) fn end_pass(&self, layer: &LayerKey, but: &BTreeSet<ContainerKey>) {
        for (container, stand) in &mut *self.lock() {
            if !but.contains(container) {
                stand.unlike.remove(layer);
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

    /// Whether the container sees, at each path that this layer shows it, the file that was hashed. One that
    /// has ended sees nothing.
    pub(super) fn bind(&self, layer: &LayerKey, hashed: &[Hashed]) -> Option<Unlike> {
        let (expectation, index) = (self.expectation()?, self.index(layer)?);
        if !expectation.is_of_its_layers() {
            return None;
        }
        // Where the kernel does not show a root, the container's own looks say so.
        let root = self.root?;
        let file = |hashed: &Hashed| FileId::new(hashed.inode, hashed.born);
        let files: Vec<(&[u8], FileId)> = hashed
            .iter()
            .map(|hashed| (hashed.path.as_slice(), file(hashed)))
            .collect();
        let bindings = match kernel::bind_hashed(root, &self.uppers, &files) {
            Ok(bindings) => bindings,
            Err(KernelError::Gone) => return None,
            Err(error) => return Some(Unlike::NotAsked(error)),
        };
        // Asked only where it matters: what a higher layer shows instead says nothing.
        let is_shown = |path: &[u8]| matches!(expectation.tree().lookup(path), Ok(Some((at, _))) if at == index);
        let mut not_asked = None;
        for (hashed, binding) in hashed.iter().zip(bindings) {
            let binding = match binding {
                Ok(Binding::Same | Binding::Hidden | Binding::AbsentBelow) => continue,
                Ok(binding) => binding,
                Err(error) => {
                    not_asked.get_or_insert(error);
                    continue;
                }
            };
            let witness = WitnessFile {
                path: hashed.path.clone(),
                lower: layer.lower.clone(),
            };
            if is_shown(&hashed.path)
                && let Some(mismatch) = bound(&[witness], &[binding])
            {
                return Some(Unlike::Mismatch(Box::new(mismatch)));
            }
        }
        not_asked.map(Unlike::NotAsked)
    }
}

#[cfg(test)]
mod tests {
    use holdfast_core::digest::{ChainId, Digest};

    use super::*;

    fn container() -> ContainerKey {
        ContainerKey {
            namespace: "default".to_owned(),
            id: "one".to_owned(),
        }
    }

    fn layer(name: &str) -> LayerKey {
        LayerKey {
            chain_id: ChainId(Digest::of(name.as_bytes())),
            lower: name.into(),
        }
    }

    /// A container that is watched no more.
    fn stands() -> Stands {
        let stand = Stand {
            root: None,
            uppers: Vec::new(),
            layers: vec![layer("upper"), layer("lower")],
            expectation: Weak::new(),
            unlike: BTreeMap::new(),
        };
        Stands(Mutex::new([(container(), stand)].into()))
    }

    fn mismatch() -> Unlike {
        let witness = WitnessFile {
            path: b"bin/sh".to_vec(),
            lower: "lower".into(),
        };
        Unlike::Mismatch(Box::new(bound(&[witness], &[Binding::Differs]).unwrap()))
    }

    fn said(stands: &Stands) -> &'static str {
        match stands.unlike(&container()) {
            None => "nothing",
            Some(Unlike::Mismatch(_)) => "mismatch",
            Some(Unlike::NotAsked(error)) => error.reason(),
        }
    }

    #[test]
    fn a_mismatch_outweighs_what_could_not_be_asked_until_a_pass_without_it_has_ended() {
        let (stands, both) = (stands(), [container()].into());
        let not_asked = || Unlike::NotAsked(KernelError::RootMoved);
        assert_eq!(said(&stands), "nothing");
        stands.differs(&container(), &layer("lower"), not_asked());
        assert_eq!(said(&stands), "root-moved");
        stands.differs(&container(), &layer("lower"), mismatch());
        stands.differs(&container(), &layer("lower"), not_asked());
        stands.differs(&container(), &layer("upper"), not_asked());
        assert_eq!(said(&stands), "mismatch");

        stands.end_pass(&layer("lower"), &both);
        assert_eq!(said(&stands), "mismatch");
        stands.end_pass(&layer("lower"), &BTreeSet::new());
        assert_eq!(said(&stands), "root-moved");
        stands.end_pass(&layer("upper"), &BTreeSet::new());
        assert_eq!(said(&stands), "nothing");
    }

    #[test]
    fn nobody_stands_on_the_layers_of_a_container_that_is_watched_no_more() {
        let stands = stands();
        assert!(!stands.are_on(&layer("lower")));
        let on: Vec<_> = stands.on(&layer("lower"));
        assert!(
            on.iter()
                .all(|(_, stand)| stand.bind(&layer("lower"), &[]).is_none())
        );
        assert!(stands.on(&layer("another")).is_empty());
    }
}
