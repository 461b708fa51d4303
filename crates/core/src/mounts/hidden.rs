//! What of the image a mount hides: the worst class at and below its mount point.

use std::collections::HashMap;

use crate::drift::Class;
use crate::drift::class::classify;
use crate::layer::{MergedTree, Resolved, TreeError};

/// Entries of the image that are looked at for all mounts of one look. A container may mount something over
/// the largest directory, ten thousand times.
const MAX_LOOKED_AT: u64 = 1_000_000;

/// What a mount hides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hides {
    /// Nothing of the image.
    Nothing,
    /// Files of the image, the worst of which is of this class.
    Class(Class),
}

impl Hides {
    pub(super) const fn is_something(self) -> bool {
        matches!(self, Self::Class(_))
    }
}

/// Looks into the image within one budget.
#[derive(Debug)]
pub(super) struct Hidden<'a> {
    image: &'a MergedTree,
    budget: u64,
    known: HashMap<Vec<u8>, Hides>,
}

impl<'a> Hidden<'a> {
    pub(super) fn new(image: &'a MergedTree) -> Self {
        Self {
            image,
            budget: MAX_LOOKED_AT,
            known: HashMap::new(),
        }
    }

    /// What a mount on `path` hides. Links of the image are followed: who puts a directory in the place of
    /// `/bin` and mounts onto `/bin/sh` still replaces what the image runs by that name.
    pub(super) fn of(&mut self, path: &[u8]) -> Result<Hides, TreeError> {
        if let Some(hides) = self.known.get(path) {
            return Ok(*hides);
        }
        let hides = match self.image.resolve(path)? {
            Resolved::Found { path, entry, .. } => {
                let own = classify(&path, &entry);
                let worst = if entry.node.is_directory() {
                    self.below(&path, own)?
                } else {
                    own
                };
                Hides::Class(worst)
            }
            Resolved::Dangling { .. } | Resolved::Loop => Hides::Nothing,
        };
        self.known.insert(path.to_vec(), hides);
        Ok(hides)
    }

    fn below(&mut self, directory: &[u8], own: Class) -> Result<Class, TreeError> {
        let mut worst = own;
        for below in self.image.below(directory)? {
            let Some(left) = self.budget.checked_sub(1) else {
                // What was not looked at is never milder than what could be there.
                return Ok(worst.min(Class::Program));
            };
            self.budget = left;
            let below = below?;
            worst = worst.min(classify(&below.path, &below.entry));
            if worst <= Class::Program {
                break;
            }
        }
        Ok(worst)
    }
}
