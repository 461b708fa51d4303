//! Where a symbolic link leads, before and after: in the image, and in what a container sees of image and
//! upper directory together. Links are text here; the kernel is never asked to follow one.

use holdfast_core::drift::Class;
use holdfast_core::drift::class::{classify, classify_unseen};
use holdfast_core::layer::{Entry, MergedTree, Node, Resolved, TreeError};
use holdfast_core::overlay::Meaning;
use rustix::fs::FileType;

use super::observe::{Depth, Observed};
use super::upper::{Extent, Upper};
use super::{Observer, Pass};

/// Symbolic links followed in one path, as in Linux.
const MAX_LINKS: usize = 40;

/// Components of one path with all its links: a container may write forty targets of two thousand.
const MAX_STEPS: usize = 1_000;

/// Entries below a directory that are looked at for its worst class.
const MAX_BELOW: usize = 10_000;

/// The class of what the link at `path` led to in the image. For a directory that is the worst class of
/// what is below it: who turns `/bin` elsewhere replaces every program in it.
pub(super) fn class_before(
    tree: &MergedTree,
    path: &[u8],
    link: &Entry,
) -> Result<Option<Class>, TreeError> {
    match tree.resolve(path)? {
        Resolved::Found { path, entry, .. } if entry.node.is_directory() => {
            class_below(tree, &path)
        }
        Resolved::Found { path, entry, .. } => Ok(Some(classify(&path, &entry))),
        Resolved::Dangling { path: target } => Ok(Some(classify_unseen(path, link, &target))),
        Resolved::Loop => Ok(None),
    }
}

/// The worst class of what the image has below a directory.
pub(super) fn class_below(tree: &MergedTree, path: &[u8]) -> Result<Option<Class>, TreeError> {
    let mut worst: Option<Class> = None;
    for below in tree.below(path)?.take(MAX_BELOW) {
        let below = below?;
        let class = classify(&below.path, &below.entry);
        worst = Some(worst.map_or(class, |worst| worst.min(class)));
        if worst <= Some(Class::TrustAnchor) {
            break;
        }
    }
    Ok(worst)
}

/// The class of what the link at `path` leads to now; none for a directory or a loop.
pub(super) fn class_after(
    upper: &Upper<'_>,
    observer: &mut Observer,
    pass: Pass<'_>,
    path: &[u8],
    link: &Entry,
) -> Result<Option<Class>, TreeError> {
    let mut ahead = Vec::new();
    push_components(&mut ahead, path);
    let root = Level::root(upper.extent);
    let mut at = vec![Level::root(upper.extent)];
    let (mut links, mut steps) = (0, 0);
    while let Some(component) = ahead.pop() {
        steps += 1;
        if steps > MAX_STEPS {
            return Ok(None);
        }
        if component == b".." {
            if at.len() > 1 {
                at.pop();
            }
            continue;
        }
        let level = at.last().unwrap_or(&root);
        let next = level.join(&component);
        match look(upper, observer, pass, level, &next)? {
            Seen::Directory(level) => at.push(level),
            Seen::Other(entry) if ahead.is_empty() => return Ok(Some(classify(&next, &entry))),
            Seen::Other(_) => return Ok(None),
            Seen::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(None);
                }
                if target.starts_with(b"/") {
                    at.truncate(1);
                }
                push_components(&mut ahead, &target);
            }
            // Into a volume, or nowhere yet: the name says what it would be.
            Seen::Nothing => {
                let rest = ahead.into_iter().rev().filter(|name| name != b"..");
                let name = rest.fold(next, |path, name| [path, name].join(&b'/'));
                return Ok(Some(classify_unseen(path, link, &name)));
            }
        }
    }
    Ok(None)
}

/// A directory of the container's view, and where its entries come from.
#[derive(Debug)]
struct Level {
    path: Vec<u8>,
    is_in_upper: bool,
    is_in_image: bool,
}

impl Level {
    fn root(extent: Extent) -> Self {
        Self {
            path: Vec::new(),
            is_in_upper: true,
            is_in_image: extent == Extent::Changes,
        }
    }

    fn join(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() {
            name.to_vec()
        } else {
            [&self.path, name].join(&b'/')
        }
    }
}

enum Seen {
    Directory(Level),
    Link(Vec<u8>),
    Other(Entry),
    Nothing,
}

/// What the container sees at `path`, whose parent directory is `level`.
fn look(
    upper: &Upper<'_>,
    observer: &mut Observer,
    pass: Pass<'_>,
    level: &Level,
    path: &[u8],
) -> Result<Seen, TreeError> {
    if level.is_in_upper
        && let Ok(Some(pinned)) = upper.root.pin(path)
    {
        let depth = match pinned.file_type() {
            FileType::RegularFile => Depth::Head,
            _ => Depth::Whole,
        };
        let looked = observer.observe(&pinned, depth, upper.prefix, pass.is_over);
        return Ok(looked.map_or(Seen::Nothing, |(observed, _)| {
            seen_in_upper(upper, level, path, observed)
        }));
    }
    if !level.is_in_image {
        return Ok(Seen::Nothing);
    }
    Ok(match upper.tree.lookup(path)? {
        None => Seen::Nothing,
        Some((_, entry)) => match entry.node {
            Node::Directory { .. } => Seen::Directory(Level {
                path: path.to_vec(),
                is_in_upper: false,
                is_in_image: true,
            }),
            Node::Symlink { target } => Seen::Link(target),
            _ => Seen::Other(entry),
        },
    })
}

fn seen_in_upper(upper: &Upper<'_>, level: &Level, path: &[u8], observed: Observed) -> Seen {
    let meaning = upper.meaning(&observed);
    match observed.entry.node {
        _ if meaning == Meaning::Whiteout => Seen::Nothing,
        Node::Directory { .. } => Seen::Directory(Level {
            path: path.to_vec(),
            is_in_upper: true,
            is_in_image: level.is_in_image && meaning != Meaning::Opaque,
        }),
        Node::Symlink { target } => Seen::Link(target),
        _ => Seen::Other(observed.entry),
    }
}

/// Puts the components of `path` on the stack, the first one on top.
fn push_components(ahead: &mut Vec<Vec<u8>>, path: &[u8]) {
    let components = path.split(|byte| *byte == b'/').rev();
    let named = components.filter(|component| !component.is_empty() && *component != b".");
    ahead.extend(named.map(<[u8]>::to_vec));
}
