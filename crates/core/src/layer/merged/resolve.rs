//! Follows symbolic links through a merged tree as the kernel does within a container's root.

use crate::layer::merged::{join, parent_of};
use crate::layer::{Entry, MergedTree, Node, TreeError};

/// Symbolic links followed in one path, as in Linux.
const LINKS_LIMIT: usize = 40;

/// What a path is after all symbolic links on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// There it is; never a symbolic link.
    Found {
        /// Where it really is.
        path: Vec<u8>,
        /// The layer whose entry counts.
        layer: usize,
        /// The entry.
        entry: Entry,
    },
    /// Nothing is at this path, or something on the way to it is no directory.
    Dangling {
        /// The path that would have to be.
        path: Vec<u8>,
    },
    /// More than 40 symbolic links.
    Loop,
}

impl MergedTree {
    /// Follows every symbolic link of `path`, within the root: absolute targets start there and `..`
    /// stops there.
    pub fn resolve(&self, path: &[u8]) -> Result<Resolved, TreeError> {
        let mut ahead: Vec<Vec<u8>> = Vec::new();
        push_components(&mut ahead, path);
        let (mut links, mut at) = (0, Vec::new());
        let mut found = self.root()?;
        while let Some(component) = ahead.pop() {
            if !matches!(&found, Some((_, entry)) if entry.node.is_directory()) {
                return Ok(dangling(at, &component, ahead));
            }
            if component == b".." {
                at = parent_of(&at).to_vec();
                found = self.lookup(&at)?;
                continue;
            }
            let next = join(&at, &component);
            found = self.lookup(&next)?;
            let Some((_, entry)) = &found else {
                return Ok(dangling(at, &component, ahead));
            };
            let Node::Symlink { target } = &entry.node else {
                at = next;
                continue;
            };
            links += 1;
            if links > LINKS_LIMIT {
                return Ok(Resolved::Loop);
            }
            if target.starts_with(b"/") {
                at.clear();
            }
            push_components(&mut ahead, target);
            found = self.lookup(&at)?;
        }
        Ok(match found {
            Some((layer, entry)) => Resolved::Found {
                path: at,
                layer,
                entry,
            },
            None => Resolved::Dangling { path: at },
        })
    }
}

fn dangling(at: Vec<u8>, component: &[u8], ahead: Vec<Vec<u8>>) -> Resolved {
    let rest = std::iter::once(component.to_vec()).chain(ahead.into_iter().rev());
    let path = rest.fold(at, |path, component| {
        if component == b".." {
            parent_of(&path).to_vec()
        } else {
            join(&path, &component)
        }
    });
    Resolved::Dangling { path }
}

/// Puts the components of `path` on the stack, the first one on top.
fn push_components(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    let components = path.split(|byte| *byte == b'/').rev();
    let named = components.filter(|component| !component.is_empty() && *component != b".");
    ahead.extend(named.map(<[u8]>::to_vec));
}
