//! Walks everything that is seen below a directory of a merged tree, all layers side by side, holding one
//! entry of each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::layer::merged::{Directory, Merge, is_below, parent_of};
use crate::layer::tree::{Entries, path_of};
use crate::layer::{Entry, MergedTree, TreeError};

/// One path that is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The path.
    pub path: Vec<u8>,
    /// The layer whose entry counts.
    pub layer: usize,
    /// The entry.
    pub entry: Entry,
}

/// What is seen below a directory. After an error it has ended.
#[derive(Debug)]
pub struct Visible<'a> {
    merged: &'a MergedTree,
    /// The layers' entries; each one's next is in `heads`.
    sources: Vec<(usize, Entries<'a>)>,
    /// The smallest key first, of equal keys the topmost layer: the index goes into `sources`.
    heads: BinaryHeap<Reverse<Head>>,
    /// The directories that are open, outermost first.
    open: Vec<Directory>,
}

/// A layer's next entry. Ordered by key, then layer; both together are unique.
#[derive(Debug)]
struct Head {
    key: Vec<u8>,
    source: usize,
    entry: Entry,
}

impl PartialEq for Head {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (&self.key, self.source).cmp(&(&other.key, other.source))
    }
}

impl<'a> Visible<'a> {
    pub(super) fn new(
        merged: &'a MergedTree,
        directory: &[u8],
        layers: Vec<usize>,
    ) -> Result<Self, TreeError> {
        let of_layer = |layer: &usize| Some((*layer, merged.layers.get(*layer)?.below(directory)));
        let mut visible = Self {
            merged,
            sources: layers.iter().filter_map(of_layer).collect(),
            heads: BinaryHeap::with_capacity(layers.len()),
            open: vec![Directory {
                path: directory.to_vec(),
                layers,
            }],
        };
        for source in 0..visible.sources.len() {
            visible.refill(source)?;
        }
        Ok(visible)
    }

    fn refill(&mut self, source: usize) -> Result<(), TreeError> {
        if let Some((_, entries)) = self.sources.get_mut(source)
            && let Some((key, entry)) = entries.next_keyed()?
        {
            self.heads.push(Reverse(Head { key, source, entry }));
        }
        Ok(())
    }

    fn next_seen(&mut self) -> Result<Option<Seen>, TreeError> {
        while let Some(Reverse(first)) = self.heads.peek() {
            let key = first.key.clone();
            let path = path_of(key.clone());
            let layers = self.open_at(&path);
            let merge = self.merge(&key, &path, &layers)?;
            if merge.is_directory() {
                self.open.push(Directory {
                    path: path.clone(),
                    layers: merge.layers,
                });
            }
            if let Some((layer, entry)) = merge.top {
                return Ok(Some(Seen { path, layer, entry }));
            }
        }
        Ok(None)
    }

    /// The layers that make up the directory of `path`; none when it is not seen.
    fn open_at(&mut self, path: &[u8]) -> Vec<usize> {
        let is_left = |open: &Directory| !is_below(path, &open.path);
        while self.open.last().is_some_and(is_left) {
            self.open.pop();
        }
        // Whatever is below something that is not seen does not find its parent here.
        let parent = self.open.last();
        parent
            .filter(|open| open.path == parent_of(path))
            .map_or_else(Vec::new, |open| open.layers.clone())
    }

    /// Takes every layer's entry for `key`, and joins those of `layers`.
    fn merge(&mut self, key: &[u8], path: &[u8], layers: &[usize]) -> Result<Merge, TreeError> {
        let mut merge = Merge::default();
        while self.heads.peek().is_some_and(|head| head.0.key == key) {
            let Some(Reverse(head)) = self.heads.pop() else {
                break;
            };
            self.refill(head.source)?;
            if let Some((layer, _)) = self.sources.get(head.source)
                && layers.contains(layer)
            {
                merge.add(*layer, self.merged.shifted(path, head.entry));
            }
        }
        Ok(merge)
    }
}

impl Iterator for Visible<'_> {
    type Item = Result<Seen, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_seen().transpose()?;
        if next.is_err() {
            self.heads.clear();
        }
        Some(next)
    }
}
