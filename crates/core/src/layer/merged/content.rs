//! Where else an image has a content: as another file that is seen, or as what an older layer had at the same
//! path. It answers by digest alone, and never for empty files: all of them are equal, and it means nothing.

use std::sync::Arc;

use crate::digest::Digest;
use crate::layer::tree::Contents;
use crate::layer::{MergedTree, Node, TreeError};

/// The files of all layers by content; held by whoever asks more than once.
#[derive(Clone, Debug)]
pub struct MergedContents(Vec<Arc<Contents>>);

impl MergedTree {
    /// Its files by content.
    pub fn contents(&self) -> Result<MergedContents, TreeError> {
        let contents = self.layers.iter().map(|tree| tree.contents());
        Ok(MergedContents(contents.collect::<Result<_, _>>()?))
    }

    /// A path at which a container sees a file of this content.
    pub fn path_of_content(
        &self,
        contents: &MergedContents,
        digest: Digest,
    ) -> Result<Option<Vec<u8>>, TreeError> {
        for (layer, (tree, contents)) in self.layers.iter().zip(&contents.0).enumerate() {
            let is_seen = |path: &[u8]| {
                let seen = self.lookup(path)?;
                Ok(seen.is_some_and(|(at, _)| at == layer))
            };
            let found = tree.find_content(contents, digest, is_seen)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The topmost layer below the one that is seen at `path` which had this content there, whatever took it
    /// away since.
    pub fn older_layer_with(
        &self,
        path: &[u8],
        digest: Digest,
    ) -> Result<Option<usize>, TreeError> {
        let seen = self.lookup(path)?.map(|(layer, _)| layer);
        let older = seen.map_or(0, |layer| layer.saturating_add(1));
        for (layer, tree) in self.layers.iter().enumerate().skip(older) {
            if let Some(entry) = tree.lookup(path)?
                && matches!(&entry.node, Node::File { digest: own, size, .. } if *own == digest && *size > 0)
            {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }
}
