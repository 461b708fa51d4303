//! Whether the directories that we compare are the ones that the container has: one random file of each
//! layer must be the same inode through the container's root and below the layer's path. Mount options are
//! only hints: a rename or a bind mount while mounting makes them lie.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use holdfast_core::drift::corrupt::Stopped;
use holdfast_core::finding::Condition;
use holdfast_core::layer::{ExpectedTree, MergedTree, Node, Snapshotter, TreeError};
use holdfast_core::overlay::XattrPrefix;

use crate::files::lower::{Lower, look_first};
use crate::files::{Observer, Pass, Root};
use crate::runtime::identify::{Identity, bound};
use crate::runtime::kernel::{self, Binding, KernelError, WitnessFile};

/// Files remembered of each layer, from which each look draws one.
const REMEMBERED: usize = 64;

/// Draws in one layer at one look: a file that a higher layer or the container hides says nothing.
const DRAWS: usize = 8;

/// Regular files of each layer, topmost layer first, chosen at random once.
#[derive(Debug)]
pub(super) struct Witnesses {
    layers: Vec<Vec<Vec<u8>>>,
    random: RandomState,
}

impl Witnesses {
    /// Chooses files of each layer; a container cannot know which.
    pub(super) fn draw(trees: &[Arc<ExpectedTree>]) -> Result<Self, TreeError> {
        let random = RandomState::new();
        let layers = trees
            .iter()
            .map(|tree| choose(tree, &random))
            .collect::<Result<_, _>>()?;
        Ok(Self { layers, random })
    }

    /// Compares one file of each layer, another one at each look. `trees` are those of the layers, topmost first.
    ///
    /// A file that was replaced in its layer is for the comparison of layers to tell: the container may still
    /// see the old one, and the directory is the one that was mounted.
    pub(super) fn bind(
        &self,
        (tree, trees): (&MergedTree, &[Arc<ExpectedTree>]),
        identity: &Identity,
        prefix: XattrPrefix,
        pass: Pass<'_>,
    ) -> Result<Option<Condition>, KernelError> {
        // On `native` no layer is mounted: the container has copies, and all of them are compared.
        let is_stacked = identity.snapshotter == Snapshotter::Overlayfs;
        let Some(root) = identity.root.filter(|_| is_stacked) else {
            return Ok(None);
        };
        let salt = self.random.hash_one(crate::now().as_millisecond());
        let start = usize::try_from(salt % (1 << 16)).unwrap_or_default();
        let layers = self
            .layers
            .iter()
            .zip(identity.layers.iter().rev())
            .enumerate();
        let (of, witnesses): (Vec<usize>, Vec<WitnessFile>) = layers
            .filter_map(|(index, (files, layer))| {
                let path = visible(tree, index, files, start)?.clone();
                let lower = layer.lower.clone();
                Some((index, WitnessFile { path, lower }))
            })
            .unzip();
        let mut bindings = kernel::bind_lowers(root, &identity.uppers(), &witnesses)?;
        for ((binding, witness), index) in bindings.iter_mut().zip(&witnesses).zip(of) {
            let tells = matches!(binding, Binding::Differs | Binding::Missing);
            if let Some(tree) = trees.get(index).filter(|_| tells)
                && was_replaced(tree, witness, prefix, pass)
            {
                *binding = Binding::AbsentBelow;
            }
        }
        Ok(bound(&witnesses, &bindings))
    }
}

/// Whether the file in the layer's directory is not the image's. What cannot be read excuses nothing.
fn was_replaced(
    tree: &ExpectedTree,
    witness: &WitnessFile,
    prefix: XattrPrefix,
    pass: Pass<'_>,
) -> bool {
    let Ok(root) = Root::open(&witness.lower) else {
        return false;
    };
    let lower = Lower {
        root: &root,
        tree,
        prefix,
        stopped: Stopped::InOrder,
    };
    let paths = [witness.path.clone()];
    let looked = look_first(lower, &mut Observer::default(), pass, paths);
    looked.is_ok_and(|(so_far, _)| !so_far.outcome.changes.is_empty())
}

/// A file that the container should see from this layer: one that no higher layer replaces.
fn visible<'f>(
    tree: &MergedTree,
    index: usize,
    files: &'f [Vec<u8>],
    start: usize,
) -> Option<&'f Vec<u8>> {
    let is_seen = |path: &&Vec<u8>| matches!(tree.lookup(path), Ok(Some((at, _))) if at == index);
    (0..DRAWS.min(files.len()))
        .filter_map(|draw| files.get(start.wrapping_add(draw) % files.len()))
        .find(is_seen)
}

/// The files with the smallest keyed hashes: a random choice of fixed size in one pass.
fn choose(tree: &ExpectedTree, random: &RandomState) -> Result<Vec<Vec<u8>>, TreeError> {
    let mut chosen: Vec<(u64, Vec<u8>)> = Vec::with_capacity(REMEMBERED + 1);
    for entry in tree {
        let (path, entry) = entry?;
        let rank = random.hash_one(&path);
        let is_full = chosen.len() == REMEMBERED;
        let is_too_large = is_full && chosen.last().is_some_and(|(worst, _)| *worst <= rank);
        if is_too_large || !matches!(entry.node, Node::File { .. }) {
            continue;
        }
        let at = chosen.partition_point(|(other, _)| *other < rank);
        chosen.insert(at, (rank, path));
        chosen.truncate(REMEMBERED);
    }
    Ok(chosen.into_iter().map(|(_, path)| path).collect())
}
